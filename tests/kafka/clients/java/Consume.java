import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Base64;
import java.util.List;
import java.util.Map;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/** Apache's own client as anybody would use it: a group, from the beginning, committed only. */
final class Consume {
  public static void main(String[] args) {
    String topic = args[1];
    long countMax = Long.parseLong(args[2]);
    long endNs = System.nanoTime() + Long.parseLong(args[3]) * 1_000_000_000L;
    Map<String, Object> config = Map.of(
        "bootstrap.servers", args[0], "group.id", args[4], "isolation.level", "read_committed",
        "auto.offset.reset", "earliest");
    ByteArrayDeserializer bytes = new ByteArrayDeserializer();
    long count = 0;
    try (KafkaConsumer<byte[], byte[]> consumer = new KafkaConsumer<>(config, bytes, bytes)) {
      consumer.subscribe(List.of(topic));
      while (count < countMax && System.nanoTime() < endNs) {
        for (ConsumerRecord<byte[], byte[]> record : consumer.poll(Duration.ofMillis(200))) {
          if (count < countMax) {
            System.out.println(line(record));
            count += 1;
          }
        }
      }
    }
    System.exit(count < countMax ? 1 : 0);
  }

  private static String line(ConsumerRecord<byte[], byte[]> record) {
    StringBuilder headers = new StringBuilder();
    for (Header it : record.headers()) {
      headers.append(headers.length() == 0 ? "" : ",");
      headers.append(quoted(it.key())).append(':').append(text(it.value()));
    }
    String value = record.value() == null
        ? "null" : quoted(Base64.getEncoder().encodeToString(record.value()));
    return "{\"topic\":" + quoted(record.topic()) + ",\"partition\":" + record.partition()
        + ",\"offset\":" + record.offset() + ",\"key\":" + text(record.key())
        + ",\"headers\":{" + headers + "},\"value_base64\":" + value + "}";
  }

  private static String text(byte[] bytes) {
    return bytes == null ? "null" : quoted(new String(bytes, StandardCharsets.UTF_8));
  }

  private static String quoted(String text) {
    StringBuilder out = new StringBuilder("\"");
    for (char it : text.toCharArray()) {
      if (it == '"' || it == '\\') {
        out.append('\\').append(it);
      } else if (it < ' ') {
        out.append(String.format("\\u%04x", (int) it));
      } else {
        out.append(it);
      }
    }
    return out.append('"').toString();
  }
}
