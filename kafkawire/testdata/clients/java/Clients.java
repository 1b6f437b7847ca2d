import java.time.Duration;
import java.util.*;
import java.util.concurrent.ExecutionException;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.*;
import org.apache.kafka.common.utils.AppInfoParser;

/** The script of kafkawire's TestForeignClients by Apache Kafka's own client: Clients BOOTSTRAP TOPIC CODEC,… */
public class Clients {
  static String at, topic;

  static Map<String, Object> with(Object... more) {
    Map<String, Object> config = new HashMap<>(Map.of("bootstrap.servers", at));
    for (int i = 0; i < more.length; i += 2) config.put((String) more[i], more[i + 1]);
    return config;
  }

  static KafkaProducer<String, String> producer(Object... more) {
    return new KafkaProducer<>(with(more), new StringSerializer(), new StringSerializer());
  }

  static void produce(String codec, String... values) throws ExecutionException, InterruptedException {
    try (KafkaProducer<String, String> p = producer("compression.type", codec, "linger.ms", 20, "acks", "all")) {
      List<java.util.concurrent.Future<RecordMetadata>> sent = new ArrayList<>();
      for (String v : values) sent.add(p.send(new ProducerRecord<>(topic, v, v + " " + "x".repeat(100))));
      for (var s : sent) s.get();
    }
  }

  static void consume(String word, int count, String group, String of, Object... more) {
    Map<String, Object> config = with(more);
    config.putAll(Map.of("group.id", group, "auto.offset.reset", "earliest", "enable.auto.commit", false));
    try (KafkaConsumer<String, String> c = new KafkaConsumer<>(config, new StringDeserializer(), new StringDeserializer())) {
      c.subscribe(List.of(of));
      long deadline = System.nanoTime() + Duration.ofSeconds(90).toNanos();
      for (int got = 0; got < count; ) {
        if (System.nanoTime() > deadline) throw new IllegalStateException(word + ": only " + got + " came");
        for (ConsumerRecord<String, String> r : c.poll(Duration.ofSeconds(1))) {
          System.out.println(word + " " + r.value().split(" ")[0]);
          got++;
        }
      }
      c.commitSync();
    }
  }

  static void transact() {
    try (KafkaProducer<String, String> p = producer("transactional.id", topic)) {
      p.initTransactions();
      for (String word : List.of("aborted", "committed")) {
        p.beginTransaction();
        for (int i = 0; i < 5; i++) p.send(new ProducerRecord<>(topic + "-out", word + "-" + i));
        p.flush();
        if (word.equals("aborted")) {
          p.abortTransaction();
          continue;
        }
        p.sendOffsetsToTransaction(Map.of(new TopicPartition(topic, 0), new OffsetAndMetadata(7)), new ConsumerGroupMetadata(topic + "-moved"));
        p.commitTransaction();
      }
    }
  }

  public static void main(String[] args) throws Exception {
    at = args[0];
    topic = args[1];
    String[] codecs = args[2].split(",");
    System.out.println("version " + AppInfoParser.getVersion());
    for (String codec : codecs) {
      String[] values = new String[20];
      for (int i = 0; i < values.length; i++) values[i] = codec + "-" + i;
      produce(codec, values);
    }
    consume("read", 20 * codecs.length, topic, topic);
    produce("none", "again-0");
    consume("again", 1, topic, topic);
    consume("consumer", 20 * codecs.length + 1, topic + "-848", topic, "group.protocol", "consumer");
    transact();
    consume("committed", 5, topic + "-reader", topic + "-out", "isolation.level", "read_committed");
  }
}
