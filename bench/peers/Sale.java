import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonToken;
import java.io.IOException;
import java.math.BigDecimal;

/** One event of the topic: {"product_id":"p00001","amount":1.25,"create_date":"2026-01-05 08:00:00"}. */
record Sale(String product, BigDecimal amount, long seconds) {
    private static final JsonFactory JSON = new JsonFactory();

    /** Parses the three fields in any order; others are passed over. */
    static Sale parse(byte[] value) {
        String product = null;
        BigDecimal amount = null;
        long seconds = 0;
        try (JsonParser parser = JSON.createParser(value)) {
            parser.nextToken();
            while (parser.nextToken() == JsonToken.FIELD_NAME) {
                String name = parser.currentName();
                parser.nextToken();
                switch (name) {
                    case "product_id" -> product = parser.getText();
                    case "amount" -> amount = parser.getDecimalValue();
                    case "create_date" ->
                        seconds = seconds(parser.getTextCharacters(), parser.getTextOffset());
                    default -> parser.skipChildren();
                }
            }
        } catch (IOException error) {
            throw new IllegalArgumentException("The value is not a sale.", error);
        }
        return new Sale(product, amount, seconds);
    }

    /** Returns the amount in cents. Throws ArithmeticException for a part of a cent. */
    long cents() {
        return amount.movePointRight(2).longValueExact();
    }

    /** Returns seconds since 1970 of yyyy-MM-dd HH:mm:ss in UTC. */
    private static long seconds(char[] text, int at) {
        long year = number(text, at, 4);
        long month = number(text, at + 5, 2);
        long day = number(text, at + 8, 2);
        // Days since 1970 in the proleptic Gregorian calendar, years counted from March.
        long y = month <= 2 ? year - 1 : year;
        long era = Math.floorDiv(y, 400);
        long yearOfEra = y - era * 400;
        long dayOfYear = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
        long days = era * 146_097 + yearOfEra * 365 + yearOfEra / 4 - yearOfEra / 100 + dayOfYear - 719_468;
        return days * 86_400 + number(text, at + 11, 2) * 3_600 + number(text, at + 14, 2) * 60 + number(text, at + 17, 2);
    }

    private static long number(char[] text, int at, int digits) {
        long value = 0;
        for (int i = at; i < at + digits; i++) {
            value = value * 10 + (text[i] - '0');
        }
        return value;
    }
}
