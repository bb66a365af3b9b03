import java.io.IOException;
import java.io.InputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Properties;

/** What all Java peers share: the connection's properties, and the protocol of bench/measure.py. */
final class Peer {
    /** One load, from the first record to the last. Returns the fields of its report, as JSON without braces. */
    interface Load {
        String run(int number) throws Exception;
    }

    private Peer() {}

    /** Runs load after load: a report on stdout, then a line on stdin asks for the next one. */
    static void serve(Load load) throws Exception {
        for (int number = 1; ; number++) {
            System.out.println("{\"load\":" + number + "," + load.run(number) + "}");
            System.out.flush();
            int read;
            do {
                read = System.in.read();
            } while (read >= 0 && read != '\n');
            if (read < 0) {
                return;
            }
        }
    }

    /** Reads the properties file of a Kafka client (servers and login; no secret is in the arguments). */
    static Properties connection(String file) throws IOException {
        Properties values = new Properties();
        try (InputStream in = Files.newInputStream(Path.of(file))) {
            values.load(in);
        }
        return values;
    }
}
