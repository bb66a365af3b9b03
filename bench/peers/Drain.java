import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.List;
import java.util.Properties;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * A plain consumer: Drain PROPERTIES bare|parse|project OUTPUT.
 *
 * <p>bare counts records, parse reads each by Jackson, project also writes product and amount to another topic.
 */
public final class Drain {
    private final String mode;
    private final String output;
    private KafkaProducer<byte[], byte[]> producer;
    private long events;
    private long cents;
    private long seconds;

    private Drain(String mode, String output) {
        this.mode = mode;
        this.output = output;
    }

    public static void main(String[] args) throws Exception {
        Properties connection = Peer.connection(args[0]);
        Drain drain = new Drain(args[1], args[2]);
        if (drain.mode.equals("project")) {
            drain.producer = new KafkaProducer<>(producing(connection), new ByteArraySerializer(), new ByteArraySerializer());
        }
        try (KafkaConsumer<byte[], byte[]> consumer =
                new KafkaConsumer<>(consuming(connection), new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
            Peer.serve((number, topic, events) -> drain.load(consumer, topic, events));
        }
    }

    private String load(KafkaConsumer<byte[], byte[]> consumer, String topic, long wanted) {
        List<TopicPartition> partitions =
                consumer.partitionsFor(topic).stream().map(p -> new TopicPartition(p.topic(), p.partition())).toList();
        consumer.assign(partitions);
        events = cents = seconds = 0;
        consumer.seekToBeginning(partitions);
        while (events < wanted) {
            for (ConsumerRecord<byte[], byte[]> record : consumer.poll(Duration.ofSeconds(1))) {
                events++;
                if (!mode.equals("bare")) {
                    take(Sale.parse(record.value()));
                }
            }
        }
        if (producer != null) {
            producer.flush();
        }
        String count = "\"events\":" + events;
        return mode.equals("bare") ? count : count + ",\"cents\":" + cents + ",\"seconds\":" + seconds;
    }

    private void take(Sale sale) {
        cents += sale.cents();
        seconds += sale.seconds();
        if (producer != null) {
            String json = "{\"product_id\":\"" + sale.product() + "\",\"amount\":" + sale.amount().toPlainString() + "}";
            producer.send(
                    new ProducerRecord<>(
                            output,
                            sale.product().getBytes(StandardCharsets.UTF_8),
                            json.getBytes(StandardCharsets.UTF_8)),
                    (metadata, error) -> {
                        if (error != null) {
                            error.printStackTrace();
                            Runtime.getRuntime().halt(1);
                        }
                    });
        }
    }

    private static Properties consuming(Properties connection) {
        Properties values = new Properties();
        values.putAll(connection);
        values.put("enable.auto.commit", "false");
        values.put("max.poll.records", "5000");
        values.put("isolation.level", "read_committed");
        return values;
    }

    private static Properties producing(Properties connection) {
        Properties values = new Properties();
        values.putAll(connection);
        values.put("acks", "all");
        values.put("compression.type", "lz4");
        values.put("batch.size", "262144");
        values.put("linger.ms", "20");
        return values;
    }
}
