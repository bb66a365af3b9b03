import java.math.BigDecimal;
import java.math.BigInteger;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.time.Instant;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.KeyValue;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.kstream.Repartitioned;
import org.apache.kafka.streams.kstream.TimeWindows;
import org.apache.kafka.streams.kstream.Windowed;

/**
 * Kafka Streams: Windows PROPERTIES OUTPUT FOLDER. Sums of each product in windows of 5 minutes.
 *
 * <p>The topic's key does not choose the partition, so the sum needs a repartition. State is in RocksDB, commits come
 * every 5 seconds, at least once. The grace is a day: in a drain the partitions advance at different speeds, and the
 * records of a slow one would be dropped as late.
 */
public final class Windows {
    private static final Duration SIZE = Duration.ofMinutes(5);
    private static final Duration GRACE = Duration.ofDays(1);

    /** A sum of money and how many sales it has. */
    private record Total(BigDecimal amount, long sales) {}

    private Windows() {}

    public static void main(String[] args) throws Exception {
        Properties connection = Peer.connection(args[0]);
        Peer.serve((number, topic, events) -> load(number, connection, topic, args[1], events, args[2]));
    }

    private static String load(int number, Properties connection, String topic, String output, long wanted, String folder)
            throws InterruptedException {
        AtomicLong summed = new AtomicLong();
        CountDownLatch done = new CountDownLatch(1);
        try (KafkaStreams streams =
                new KafkaStreams(topology(topic, output, wanted, summed, done), settings(connection, number, folder))) {
            streams.setUncaughtExceptionHandler(
                    error -> {
                        error.printStackTrace();
                        Runtime.getRuntime().halt(1);
                        return StreamThreadExceptionResponse.SHUTDOWN_APPLICATION;
                    });
            streams.start();
            done.await();
            if (!streams.close(Duration.ofMinutes(2))) {
                throw new IllegalStateException("Kafka Streams does not end: its last commit is missing.");
            }
        }
        return "\"events\":" + summed.get();
    }

    private static Topology topology(String topic, String output, long wanted, AtomicLong summed, CountDownLatch done) {
        StreamsBuilder builder = new StreamsBuilder();
        builder.stream(
                        topic,
                        Consumed.with(Serdes.ByteArray(), sales())
                                .withTimestampExtractor((record, before) -> ((Sale) record.value()).seconds() * 1_000))
                .map((key, sale) -> KeyValue.pair(sale.product(), sale.amount()))
                .repartition(Repartitioned.with(Serdes.String(), amounts()))
                .groupByKey(Grouped.with(Serdes.String(), amounts()))
                .windowedBy(TimeWindows.ofSizeAndGrace(SIZE, GRACE))
                .aggregate(
                        () -> new Total(BigDecimal.ZERO, 0),
                        (product, amount, total) -> {
                            if (summed.incrementAndGet() >= wanted) {
                                done.countDown();
                            }
                            return new Total(total.amount().add(amount), total.sales() + 1);
                        },
                        Materialized.with(Serdes.String(), totals()))
                .toStream()
                .map(Windows::row)
                .to(output, Produced.with(Serdes.String(), Serdes.ByteArray()));
        return builder.build();
    }

    private static KeyValue<String, byte[]> row(Windowed<String> group, Total total) {
        Instant start = group.window().startTime();
        String json = "{\"window_start\":\"" + start + "\",\"window_end\":\"" + start.plus(SIZE) + "\",\"product_id\":\""
                + group.key() + "\",\"total_amount\":" + total.amount().toPlainString() + ",\"sales\":" + total.sales() + "}";
        return KeyValue.pair(group.key(), json.getBytes(StandardCharsets.UTF_8));
    }

    private static Serde<Sale> sales() {
        return Serdes.serdeFrom(
                (topic, sale) -> {
                    throw new UnsupportedOperationException("A sale is only read.");
                },
                (topic, bytes) -> Sale.parse(bytes));
    }

    private static Serde<BigDecimal> amounts() {
        return Serdes.serdeFrom(
                (topic, amount) -> amount == null ? null : decimal(amount, 0).array(),
                (topic, bytes) -> bytes == null ? null : decimal(ByteBuffer.wrap(bytes)));
    }

    private static Serde<Total> totals() {
        return Serdes.serdeFrom(
                (topic, total) -> {
                    if (total == null) {
                        return null;
                    }
                    ByteBuffer buffer = decimal(total.amount(), Long.BYTES);
                    return buffer.putLong(buffer.capacity() - Long.BYTES, total.sales()).array();
                },
                (topic, bytes) -> {
                    if (bytes == null) {
                        return null;
                    }
                    long count = ByteBuffer.wrap(bytes).getLong(bytes.length - Long.BYTES);
                    return new Total(decimal(ByteBuffer.wrap(bytes, 0, bytes.length - Long.BYTES)), count);
                });
    }

    private static ByteBuffer decimal(BigDecimal value, int more) {
        byte[] digits = value.unscaledValue().toByteArray();
        return ByteBuffer.allocate(1 + digits.length + more).put((byte) value.scale()).put(digits);
    }

    private static BigDecimal decimal(ByteBuffer bytes) {
        int scale = bytes.get();
        byte[] digits = new byte[bytes.remaining()];
        bytes.get(digits);
        return new BigDecimal(new BigInteger(digits), scale);
    }

    private static Properties settings(Properties connection, int number, String folder) {
        Properties values = new Properties();
        values.putAll(connection);
        values.put("application.id", "bench-" + ProcessHandle.current().pid() + "-" + number);
        values.put("state.dir", folder + "/state" + number);
        values.put("num.stream.threads", "2");
        values.put("commit.interval.ms", "5000");
        values.put("processing.guarantee", "at_least_once");
        values.put("statestore.cache.max.bytes", "67108864");
        values.put("replication.factor", "1");
        values.put("auto.offset.reset", "earliest");
        values.put("consumer.max.poll.records", "5000");
        values.put("producer.compression.type", "lz4");
        values.put("producer.batch.size", "262144");
        values.put("producer.linger.ms", "100");
        return values;
    }
}
