"""The script of kafkawire's TestForeignClients by kafka-python: kafkapython.py BOOTSTRAP TOPIC CODEC,…"""
import sys

import kafka
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.structs import OffsetAndMetadata

at, topic, codecs = sys.argv[1], sys.argv[2], sys.argv[3].split(",")
padding = " " + "x" * 100


def produce(values, codec="none"):
    p = KafkaProducer(bootstrap_servers=at, acks="all", linger_ms=20, compression_type=None if codec == "none" else codec)
    for sent in [p.send(topic, key=v.encode(), value=(v + padding).encode()) for v in values]:
        sent.get(60)
    p.close()


def consume(word, count, group, of=topic, **more):
    c = KafkaConsumer(of, bootstrap_servers=at, group_id=group, auto_offset_reset="earliest", enable_auto_commit=False,
                      consumer_timeout_ms=90_000, **more)
    got = 0
    for m in c:
        print(word, m.value.decode().split(" ")[0], flush=True)
        got += 1
        if got == count:
            break
    c.commit()
    c.close()


print("version", kafka.__version__, flush=True)
for codec in codecs:
    produce([f"{codec}-{i}" for i in range(20)], codec)
consume("read", 20 * len(codecs), topic)
produce(["again-0"])
consume("again", 1, topic)

p = KafkaProducer(bootstrap_servers=at, transactional_id=topic)
p.init_transactions()
for word in "aborted", "committed":
    p.begin_transaction()
    for i in range(5):
        p.send(topic + "-out", value=f"{word}-{i}".encode(), partition=0)
    p.flush(60)
    if word == "aborted":
        p.abort_transaction()
        continue
    p.send_offsets_to_transaction({TopicPartition(topic, 0): OffsetAndMetadata(7, "", -1)}, topic + "-moved")
    p.commit_transaction()
p.close()
consume("committed", 5, topic + "-reader", topic + "-out", isolation_level="read_committed")
