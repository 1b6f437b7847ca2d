// Writes two records with one key in two transactions, with Apache's own client: the first is aborted, the second committed.
// Arguments: brokers, topic, key, the value that is aborted, the one that is committed.
import java.util.Map;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.StringSerializer;

public class Transactions {
    public static void main(String[] args) throws Exception {
        Map<String, Object> config = Map.of("bootstrap.servers", args[0], "transactional.id", args[1] + "-java");
        try (var producer = new KafkaProducer<>(config, new StringSerializer(), new StringSerializer())) {
            producer.initTransactions();
            producer.beginTransaction();
            producer.send(new ProducerRecord<>(args[1], args[2], args[3])).get();
            producer.abortTransaction();
            producer.beginTransaction();
            producer.send(new ProducerRecord<>(args[1], args[2], args[4])).get();
            producer.commitTransaction();
        }
    }
}
