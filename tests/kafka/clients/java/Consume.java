import com.fasterxml.jackson.databind.ObjectMapper;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Base64;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.apache.avro.Schema;
import org.apache.avro.generic.GenericData;
import org.apache.avro.generic.GenericDatumReader;
import org.apache.avro.io.BinaryDecoder;
import org.apache.avro.io.DecoderFactory;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/**
 * Apache's own client as anybody would use it: a group, from the beginning, committed only. With
 * the address of a schema registry it decodes each value by it, too, with Apache's own Avro.
 */
final class Consume {
  private static final HttpClient HTTP = HttpClient.newHttpClient();
  private static final Map<Integer, Schema> SCHEMAS = new HashMap<>();

  public static void main(String[] args) throws Exception {
    String topic = args[1];
    String registry = args.length > 5 ? args[5] : "";
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
            System.out.println(line(record, registry));
            count += 1;
          }
        }
      }
    }
    System.exit(count < countMax ? 1 : 0);
  }

  private static String line(ConsumerRecord<byte[], byte[]> record, String registry)
      throws Exception {
    StringBuilder headers = new StringBuilder();
    for (Header it : record.headers()) {
      headers.append(headers.length() == 0 ? "" : ",");
      headers.append(quoted(it.key())).append(':').append(text(it.value()));
    }
    String value = record.value() == null
        ? "null" : quoted(Base64.getEncoder().encodeToString(record.value()));
    return "{\"topic\":" + quoted(record.topic()) + ",\"partition\":" + record.partition()
        + ",\"offset\":" + record.offset() + ",\"key\":" + text(record.key())
        + ",\"headers\":{" + headers + "},\"value_base64\":" + value
        + (registry.isEmpty() ? "" : ",\"value\":" + decoded(record.value(), registry)) + "}";
  }

  /** A value in Confluent's wire format: a zero byte, the schema's id, the datum. */
  private static String decoded(byte[] value, String registry) throws Exception {
    ByteBuffer bytes = ByteBuffer.wrap(value);
    if (bytes.get() != 0) {
      throw new IllegalArgumentException("not in Confluent's wire format");
    }
    int id = bytes.getInt();
    if (!SCHEMAS.containsKey(id)) {
      URI at = URI.create(registry + "/schemas/ids/" + id);
      HttpResponse<String> answer =
          HTTP.send(HttpRequest.newBuilder(at).build(), BodyHandlers.ofString());
      String schema = new ObjectMapper().readTree(answer.body()).get("schema").asText();
      SCHEMAS.put(id, new Schema.Parser().parse(schema));
    }
    BinaryDecoder datum = DecoderFactory.get().binaryDecoder(
        value, bytes.position(), bytes.remaining(), null);
    Object record = new GenericDatumReader<>(SCHEMAS.get(id)).read(null, datum);
    if (!datum.isEnd()) {
      throw new IllegalArgumentException("bytes follow the datum");
    }
    return GenericData.get().toString(record);
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
