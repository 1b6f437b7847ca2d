import java.time.Duration;
import java.util.*;
import java.util.concurrent.*;
import org.apache.kafka.clients.admin.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.RebalanceInProgressException;
import org.apache.kafka.common.serialization.*;

/** Three consumers of a group go from the classic protocol to the consumer protocol and back, one at a time: Rolling BOOTSTRAP TOPIC ASSIGNOR */
public class Rolling {
  static String at, topic, assignor;
  static final Map<TopicPartition, String> owner = new ConcurrentHashMap<>();
  static final Set<String> got = ConcurrentHashMap.newKeySet();
  static int sent;

  static class Member implements ConsumerRebalanceListener {
    final String name;
    final Thread thread;
    volatile boolean stop;

    Member(String name, String protocol) {
      this.name = name;
      Map<String, Object> config = new HashMap<>(Map.of("bootstrap.servers", at, "group.id", "rolling", "auto.offset.reset", "earliest",
          "group.protocol", protocol, "client.id", name, "enable.auto.commit", false));
      if (protocol.equals("classic")) {
        config.putAll(Map.of("heartbeat.interval.ms", 300, "session.timeout.ms", 20000, "partition.assignment.strategy", "org.apache.kafka.clients.consumer." + assignor));
      }
      thread = new Thread(() -> {
        try (KafkaConsumer<String, String> c = new KafkaConsumer<>(config, new StringDeserializer(), new StringDeserializer())) {
          c.subscribe(List.of(topic), this);
          while (!stop) {
            ConsumerRecords<String, String> records = c.poll(Duration.ofMillis(100));
            for (ConsumerRecord<String, String> r : records) {
              String o = owner.get(new TopicPartition(r.topic(), r.partition()));
              if (!name.equals(o)) System.out.println("wrong " + name + " reads partition " + r.partition() + ", which is " + o + "'s");
              got.add(r.value());
            }
            if (!records.isEmpty()) {
              try {
                c.commitSync();
              } catch (CommitFailedException | RebalanceInProgressException e) { // it says so at the next poll, and commits later
                System.out.println("again " + name + " could not commit: " + e.getMessage());
              }
            }
          }
        } catch (Throwable e) {
          System.out.println("wrong " + name + ": " + e);
        }
      });
      thread.start();
    }

    public void onPartitionsAssigned(Collection<TopicPartition> parts) {
      for (TopicPartition p : parts) {
        String o = owner.putIfAbsent(p, name);
        if (o != null) System.out.println("wrong " + name + " is given " + p + ", which " + o + " has");
      }
    }

    public void onPartitionsRevoked(Collection<TopicPartition> parts) {
      for (TopicPartition p : parts) owner.remove(p, name);
    }

    void close() throws InterruptedException {
      stop = true;
      thread.join();
    }
  }

  /** Writes records and waits until all are read. */
  static void arrive(KafkaProducer<String, String> producer) throws Exception {
    int from = sent;
    for (; sent < from + 60; sent++) producer.send(new ProducerRecord<>(topic, sent % 6, null, "" + sent));
    producer.flush();
    long deadline = System.nanoTime() + Duration.ofSeconds(60).toNanos();
    while (got.size() < sent) {
      if (System.nanoTime() > deadline) throw new IllegalStateException(got.size() + " of " + sent + " records came; owners are " + owner);
      Thread.sleep(20);
    }
  }

  public static void main(String[] args) throws Exception {
    at = args[0];
    topic = args[1];
    assignor = args[2];
    try (KafkaProducer<String, String> producer = new KafkaProducer<>(Map.of("bootstrap.servers", at), new StringSerializer(), new StringSerializer());
        Admin admin = Admin.create(Map.of("bootstrap.servers", at))) {
      Member[] members = new Member[3];
      for (int i = 0; i < 3; i++) members[i] = new Member("classic-" + i, "classic");
      arrive(producer);
      for (String protocol : List.of("consumer", "classic")) {
        for (int i = 0; i < 3; i++) {
          members[i].close();
          members[i] = new Member(protocol + "-" + i, protocol);
          arrive(producer);
        }
        for (GroupListing g : admin.listGroups().all().get()) System.out.println("type " + g.type().get());
      }
      for (Member m : members) m.close();
      System.out.println("read " + got.size());
    }
  }
}
