import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Properties;

/** What all Java peers share: the connection's properties, and the protocol of bench/measure.py. */
final class Peer {
    /** One load of a topic with so many events. Returns the fields of its report, as JSON without braces. */
    interface Load {
        String run(int number, String topic, long events) throws Exception;
    }

    private Peer() {}

    /** Runs the loads that stdin names, TOPIC EVENTS a line, and writes a report after each one. */
    static void serve(Load load) throws Exception {
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        int number = 0;
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            String[] words = line.split(" ");
            number++;
            System.out.println("{" + load.run(number, words[0], Long.parseLong(words[1])) + "}");
            System.out.flush();
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
