package org.healwright.peer;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.concurrent.atomic.LongAdder;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.StoreBuilder;
import org.apache.kafka.streams.state.Stores;

/**
 * The topology: samples in, per-series state in RocksDB, anomalies out.
 *
 * <p>The processor API and not the DSL, as a user who counts CPU would write it: one store, one
 * read and one write a sample, and nothing between them. A batched record holds series of one
 * partition only, so it needs no repartition topic.
 */
final class Detector {
  private static final String STORE = "series";

  private Detector() {}

  static Topology topology(String input, String output, boolean batched, boolean cached,
      LongAdder nSamples) {
    StoreBuilder<KeyValueStore<byte[], byte[]>> store = Stores.keyValueStoreBuilder(
        Stores.persistentKeyValueStore(STORE), Serdes.ByteArray(), Serdes.ByteArray());
    store = cached ? store.withCachingEnabled() : store.withCachingDisabled();
    Topology topology = new Topology();
    topology.addSource("samples", input);
    topology.addProcessor(
        "detect", () -> batched ? new Batched(nSamples) : new Single(nSamples), "samples");
    topology.addStateStore(store, "detect");
    topology.addSink("anomalies", output, "detect");
    return topology;
  }

  private abstract static class Fold implements Processor<byte[], byte[], byte[], byte[]> {
    private final LongAdder nSamples;
    private ProcessorContext<byte[], byte[]> context;
    private KeyValueStore<byte[], byte[]> store;

    Fold(LongAdder nSamples) {
      this.nSamples = nSamples;
    }

    @Override
    public void init(ProcessorContext<byte[], byte[]> context) {
      this.context = context;
      store = context.getStateStore(STORE);
    }

    void fold(byte[] key, long timeMs, double value) {
      Series series = Series.decode(store.get(key));
      double mean = series.mean;
      double variance = series.variance;
      if (series.take(value)) {
        byte[] anomaly = anomaly(value, mean, Math.sqrt(variance), series.n);
        context.forward(new Record<>(key, anomaly, timeMs));
      }
      store.put(key, series.encode());
      nSamples.increment();
    }

    private static byte[] anomaly(double value, double mean, double sigma, long seq) {
      ByteBuffer bytes = ByteBuffer.allocate(32).order(ByteOrder.LITTLE_ENDIAN);
      return bytes.putDouble(value).putDouble(mean).putDouble(sigma).putLong(seq).array();
    }
  }

  private static final class Single extends Fold {
    Single(LongAdder nSamples) {
      super(nSamples);
    }

    @Override
    public void process(Record<byte[], byte[]> record) {
      Columns columns = Columns.decode(record.value());
      fold(record.key(), columns.timeNs[0] / 1_000_000, columns.value[0]);
    }
  }

  private static final class Batched extends Fold {
    Batched(LongAdder nSamples) {
      super(nSamples);
    }

    @Override
    public void process(Record<byte[], byte[]> record) {
      Columns columns = Columns.decode(record.value());
      for (int i = 0; i < columns.value.length; i++) {
        byte[] key = columns.series[columns.seriesIdx[i]];
        fold(key, columns.timeNs[i] / 1_000_000, columns.value[i]);
      }
    }
  }
}
