package org.healwright.peer;

import static org.healwright.peer.Series.mix;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.ExecutionException;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * Fills a topic from a seed, in rounds: each round is one sample of every series, a second after
 * the round before. Series s goes to partition s mod P. It folds the reference as it goes, and
 * says how many anomalies a correct reader finds.
 */
final class Filler {
  private static final long START_MS = 1_700_000_000_000L;
  /** One sample in so many begins a run of three far outside the noise. */
  private static final long PLANT_EACH = 20_000;
  /** None is planted before this round: the series have not settled yet. */
  private static final long PLANT_FROM = 40;

  private final long seed;
  private final int nSeries;
  private final int nPartitions;
  private final int batch;
  private final String topic;
  private final KafkaProducer<byte[], byte[]> producer;
  private final Series[] reference;
  private byte[][] entries;
  private byte[][] keys;
  private long nRecords;
  private long nBytes;
  private long nAnomalies;

  private Filler(Options options) {
    seed = options.number("seed", 1);
    nSeries = (int) options.number("series", 10_000);
    nPartitions = (int) options.number("partitions", 4);
    batch = (int) options.number("batch", 1);
    topic = options.text("topic");
    reference = new Series[nSeries];
    for (int s = 0; s < nSeries; s++) {
      reference[s] = new Series();
    }
    Properties config = new Properties();
    config.put(ProducerConfig.BOOTSTRAP_SERVERS_CONFIG, options.text("bootstrap"));
    config.put(ProducerConfig.LINGER_MS_CONFIG, 50);
    config.put(ProducerConfig.BATCH_SIZE_CONFIG, 512 * 1024);
    config.put(ProducerConfig.BUFFER_MEMORY_CONFIG, 64 * 1024 * 1024);
    ByteArraySerializer bytes = new ByteArraySerializer();
    producer = new KafkaProducer<>(config, bytes, bytes);
  }

  static void run(Options options) throws Exception {
    createTopic(options);
    Filler filler = new Filler(options);
    long nSamples = filler.fill(options.number("samples", 1_000_000));
    filler.producer.close();
    System.out.printf(
        "{\"topic\":\"%s\",\"samples\":%d,\"records\":%d,\"value_bytes\":%d,\"series\":%d,"
            + "\"partitions\":%d,\"batch\":%d,\"seed\":%d,\"expected_anomalies\":%d,"
            + "\"expected_state\":\"%016x\"}%n",
        filler.topic, nSamples, filler.nRecords, filler.nBytes, filler.nSeries,
        filler.nPartitions, filler.batch, filler.seed, filler.nAnomalies, filler.digest());
  }

  private static void createTopic(Options options) throws Exception {
    Map<String, Object> config = new HashMap<>();
    config.put("bootstrap.servers", options.text("bootstrap"));
    try (Admin admin = Admin.create(config)) {
      int partitions = (int) options.number("partitions", 4);
      // Retention goes by the records' own time, which lies years back.
      NewTopic topic = new NewTopic(options.text("topic"), partitions, (short) -1)
          .configs(Map.of("retention.ms", "-1"));
      admin.createTopics(List.of(topic)).all().get();
    } catch (ExecutionException error) {
      throw new IllegalStateException("cannot create the topic: " + error.getCause().getMessage());
    }
  }

  /** Whole rounds, the last one cut where the count is reached. Returns the count. */
  private long fill(long nSamples) {
    entries = new byte[nSeries][];
    keys = new byte[nSeries][];
    for (int s = 0; s < nSeries; s++) {
      entries[s] = Columns.seriesEntry("bench", "host", "series." + s);
      keys[s] = ByteBuffer.allocate(4).order(ByteOrder.LITTLE_ENDIAN).putInt(s).array();
    }
    for (long left = nSamples, round = 0; left > 0; left -= nSeries, round++) {
      int nThisRound = (int) Math.min(left, nSeries);
      for (int partition = 0; partition < nPartitions; partition++) {
        if (batch == 1) {
          fillSingles(partition, round, nThisRound);
        } else {
          fillBatches(partition, round, nThisRound);
        }
      }
    }
    return nSamples;
  }

  private void fillSingles(int partition, long round, int nThisRound) {
    long timeMs = START_MS + 1000 * round;
    for (int s = partition; s < nThisRound; s += nPartitions) {
      Columns columns = new Columns(new byte[][] {entries[s]}, new int[] {0},
          new long[] {timeMs * 1_000_000}, new double[] {sample(s, round)});
      send(partition, timeMs, keys[s], columns.encode("filler"));
    }
  }

  private void fillBatches(int partition, long round, int nThisRound) {
    int each = batch * nPartitions;
    for (int first = partition; first < nThisRound; first += each) {
      int past = Math.min(nThisRound, first + each);
      int count = (past - first + nPartitions - 1) / nPartitions;
      Columns columns =
          new Columns(new byte[count][], new int[count], new long[count], new double[count]);
      for (int i = 0; i < count; i++) {
        int s = first + i * nPartitions;
        columns.series[i] = entries[s];
        columns.seriesIdx[i] = i;
        columns.timeNs[i] = (START_MS + 1000 * round) * 1_000_000;
        columns.value[i] = sample(s, round);
      }
      send(partition, START_MS + 1000 * round, null, columns.encode("filler"));
    }
  }

  private void send(int partition, long timeMs, byte[] key, byte[] value) {
    producer.send(new ProducerRecord<>(topic, partition, timeMs, key, value));
    nRecords += 1;
    nBytes += value.length;
  }

  /** The value of a series in a round, told to the reference too. */
  private double sample(int s, long round) {
    long chance = chance(s, round);
    double noise = unit(chance) + unit(mix(chance + 1)) + unit(mix(chance + 2)) - 1.5;
    double value = 100.0 + s % 50 + 4.0 * noise;
    if (begins(s, round) || begins(s, round - 1) || begins(s, round - 2)) {
      value += 100.0;
    }
    if (reference[s].take(value)) {
      nAnomalies += 1;
    }
    return value;
  }

  private boolean begins(int s, long round) {
    return round >= PLANT_FROM
        && Long.remainderUnsigned(mix(chance(s, round) + 3), PLANT_EACH) == 0;
  }

  private long chance(int s, long round) {
    return mix(seed ^ mix(s + 1L) ^ mix(~round));
  }

  /** A sum over all series that a reader with the same state comes to. */
  private long digest() {
    long digest = 0;
    for (int s = 0; s < nSeries; s++) {
      digest += mix(reference[s].digest() ^ s);
    }
    return digest;
  }

  /** 53 bits as a number in [0, 1). */
  private static double unit(long bits) {
    return (bits >>> 11) * 0x1.0p-53;
  }
}
