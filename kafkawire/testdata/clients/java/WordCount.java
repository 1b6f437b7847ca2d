import java.util.*;
import java.util.concurrent.CountDownLatch;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.utils.AppInfoParser;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.*;
import org.apache.kafka.streams.kstream.*;
import org.apache.kafka.streams.state.*;

/**
 * Counts words exactly once (v2): WordCount BOOTSTRAP APPLICATION IN OUT STATE. Runs until its input ends. The text goes through a repartition topic, and
 * the counts through a changelog; killed and started again it goes on with neither a word lost nor one counted twice.
 */
public class WordCount {
  public static void main(String[] args) throws Exception {
    Properties config = new Properties();
    config.put("bootstrap.servers", args[0]);
    config.put("application.id", args[1]);
    config.put("state.dir", args[4]);
    config.put("processing.guarantee", "exactly_once_v2");
    config.put("commit.interval.ms", 200);
    config.put("statestore.cache.max.bytes", 0);
    config.put("session.timeout.ms", 10000); // a killed one's partitions are free then
    config.put("auto.offset.reset", "earliest");
    StreamsBuilder builder = new StreamsBuilder();
    Materialized<String, Long, KeyValueStore<Bytes, byte[]>> counts = Materialized.as(Stores.inMemoryKeyValueStore("counts"));
    builder.stream(args[2], Consumed.with(Serdes.String(), Serdes.String()))
        .flatMapValues(line -> Arrays.asList(line.split(" ")))
        .groupBy((key, word) -> word, Grouped.with(Serdes.String(), Serdes.String()))
        .count(counts.withKeySerde(Serdes.String()).withValueSerde(Serdes.Long()))
        .toStream()
        .mapValues(count -> Long.toString(count))
        .to(args[3], Produced.with(Serdes.String(), Serdes.String()));
    System.out.println("version " + AppInfoParser.getVersion());
    KafkaStreams streams = new KafkaStreams(builder.build(), config);
    CountDownLatch failed = new CountDownLatch(1);
    streams.setUncaughtExceptionHandler(e -> {
      e.printStackTrace();
      failed.countDown();
      return org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
    });
    streams.start();
    new Thread(() -> {
      try {
        while (System.in.read() >= 0) { }
      } catch (java.io.IOException e) {
        e.printStackTrace();
      }
      streams.close(java.time.Duration.ofSeconds(30));
      System.exit(0);
    }).start();
    failed.await();
    System.exit(1);
  }
}
