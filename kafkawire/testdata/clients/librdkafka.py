"""The script of kafkawire's TestForeignClients by librdkafka's Python binding: librdkafka.py BOOTSTRAP TOPIC CODEC,…"""
import sys

from confluent_kafka import Consumer, Producer, TopicPartition, version

at, topic, codecs = sys.argv[1], sys.argv[2], sys.argv[3].split(",")
padding = " " + "x" * 100


def failed(err, _):
    if err is not None:
        sys.exit(f"not delivered: {err}")


def produce(values, codec="none", to=topic):
    p = Producer({"bootstrap.servers": at, "compression.type": codec, "enable.idempotence": True, "linger.ms": 20})
    for v in values:
        p.produce(to, value=v + padding, key=v, on_delivery=failed)
    if p.flush(60) != 0:
        sys.exit("not all was delivered")


def consume(word, count, group, of=topic, **more):
    config = {"bootstrap.servers": at, "group.id": group, "auto.offset.reset": "earliest", "enable.auto.commit": False}
    c = Consumer(config | {k.replace("_", "."): v for k, v in more.items()})
    c.subscribe([of])
    for _ in range(count):
        m = c.poll(90)
        if m is None or m.error():
            sys.exit(f"{word}: {'nothing came' if m is None else m.error()}")
        print(word, m.value().decode().split(" ")[0], flush=True)
    c.commit(asynchronous=False)
    c.close()


print("version", version(), flush=True)
for codec in codecs:
    produce([f"{codec}-{i}" for i in range(20)], codec)
consume("read", 20 * len(codecs), topic)
produce(["again-0"])
consume("again", 1, topic)
consume("consumer", 20 * len(codecs) + 1, topic + "-848", group_protocol="consumer")

p = Producer({"bootstrap.servers": at, "transactional.id": topic})
p.init_transactions(60)
for word in "aborted", "committed":
    p.begin_transaction()
    for i in range(5):
        p.produce(topic + "-out", value=f"{word}-{i}", partition=0, on_delivery=failed if word == "committed" else None)
    if word == "aborted":
        p.flush(60)
        p.abort_transaction(60)
        continue
    c = Consumer({"bootstrap.servers": at, "group.id": topic + "-moved"})
    p.send_offsets_to_transaction([TopicPartition(topic, 0, 7)], c.consumer_group_metadata(), 60)
    p.commit_transaction(60)
    c.close()
consume("committed", 5, topic + "-reader", topic + "-out", isolation_level="read_committed")
