package org.healwright.peer;

import static java.util.stream.Collectors.toMap;

import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.atomic.LongAdder;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.common.Metric;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.processor.StateRestoreListener;

/** Reads a filled topic to its end, exactly once, and tells what that cost. */
final class Pass {
  private static final long POLL_MS = 20;

  private final Options options;
  private final String bootstrap;
  private final String input;
  private final boolean batched;
  private final boolean cached;
  private final String brokers;
  private final Admin admin;
  private final Map<TopicPartition, Long> ends;

  Pass(Options options) throws Exception {
    this.options = options;
    bootstrap = options.text("bootstrap");
    input = options.text("topic");
    batched = options.flag("batched");
    cached = options.flag("cache");
    brokers = options.text("broker-pids", "");
    admin = Admin.create(Map.of("bootstrap.servers", bootstrap));
    ends = ends();
  }

  void run() throws Exception {
    String id = options.text("id", "peer-" + ProcessHandle.current().pid());
    long nWarmUp = options.number("warmup", 0);
    if (nWarmUp > 0) {
      warmUp(id + "-warmup", nWarmUp);
    }
    measured(id);
    admin.close();
  }

  /** Another application over the same topic, so that the compiler has seen all of the code. */
  private void warmUp(String id, long nWarmUp) throws Exception {
    LongAdder nSamples = new LongAdder();
    createOutput(id);
    KafkaStreams streams = streams(id, nSamples, new Commits());
    streams.start();
    while (nSamples.sum() < nWarmUp && !isCommitted(id)) {
      Thread.sleep(POLL_MS);
    }
    streams.close();
    streams.cleanUp();
  }

  private void measured(String id) throws Exception {
    LongAdder nSamples = new LongAdder();
    Commits commits = new Commits();
    createOutput(id);
    KafkaStreams streams = streams(id, nSamples, commits);
    double ownCpuS = Usage.ownCpuS();
    double brokerCpuS = Usage.cpuS(brokers);
    long beganNs = System.nanoTime();
    streams.start();
    while (!isCommitted(id)) {
      Thread.sleep(POLL_MS);
    }
    double wallS = (System.nanoTime() - beganNs) / 1e9;
    ownCpuS = Usage.ownCpuS() - ownCpuS;
    brokerCpuS = Usage.cpuS(brokers) - brokerCpuS;
    // Before the restore, which a run without --wipe-state does not do either.
    double peakRssMb = Usage.peakRssMb();
    double commitMsMax = metric(streams, "stream-thread-metrics", "commit-latency-max");
    streams.close();
    String restored = options.flag("wipe-state") ? restored(id, streams) : "";
    long samples = nSamples.sum();
    System.out.printf(
        "{\"contender\":\"kafka-streams\",\"batched\":%b,\"cache\":%b,\"commit_interval_ms\":%d,"
            + "\"samples\":%d,\"anomalies\":%d,\"wall_s\":%.3f,\"cpu_s\":%.3f,"
            + "\"cpu_s_per_million\":%.4f,\"broker_cpu_s\":%.3f,"
            + "\"broker_cpu_s_per_million\":%.4f,\"peak_rss_mb\":%.0f,\"commits\":%d,"
            + "\"commit_p50_ms\":%.2f,\"commit_p99_ms\":%.2f,\"commit_latency_max_ms\":%.1f%s}%n",
        batched, cached, commitIntervalMs(), samples, anomalies(id), wallS, ownCpuS,
        ownCpuS * 1e6 / samples, brokerCpuS, brokerCpuS * 1e6 / samples, peakRssMb,
        commits.count(), commits.percentileMs(0.5), commits.percentileMs(0.99), commitMsMax,
        restored);
  }

  /**
   * The same application once more with an empty directory. Restoring is from the first store's
   * start to the last one's end, bytes are what the restore consumers took from the changelog.
   * Until it serves again takes longer, for Streams does not leave its group when it is closed,
   * and the group waits out the former member's session.
   */
  private String restored(String id, KafkaStreams former) throws Exception {
    former.cleanUp();
    Restores restores = new Restores();
    CountDownLatch running = new CountDownLatch(1);
    KafkaStreams streams = streams(id, new LongAdder(), new Commits());
    streams.setGlobalStateRestoreListener(restores);
    streams.setStateListener((now, before) -> {
      if (now == KafkaStreams.State.RUNNING) {
        running.countDown();
      }
    });
    double cpuS = Usage.ownCpuS();
    long beganNs = System.nanoTime();
    streams.start();
    running.await();
    double wallS = (System.nanoTime() - beganNs) / 1e9;
    cpuS = Usage.ownCpuS() - cpuS;
    double megabytes = 0;
    for (Metric it : streams.metrics().values()) {
      if (it.metricName().name().equals("bytes-consumed-total")
          && it.metricName().tags().size() == 1
          && it.metricName().tags().getOrDefault("client-id", "").contains("restore-consumer")) {
        megabytes += (Double) it.metricValue() / 1e6;
      }
    }
    streams.close();
    return String.format(
        ",\"serves_again_s\":%.3f,\"restore_s\":%.3f,\"restore_cpu_s\":%.3f,"
            + "\"restore_records\":%d,\"restore_mb\":%.1f,\"restore_mb_per_s\":%.1f",
        wallS, restores.seconds(), cpuS, restores.nRecords.sum(), megabytes,
        megabytes / restores.seconds());
  }

  /** Told by several threads at once. */
  private static final class Restores implements StateRestoreListener {
    final LongAdder nRecords = new LongAdder();
    private final AtomicLong beganNs = new AtomicLong(Long.MAX_VALUE);
    private final AtomicLong endedNs = new AtomicLong(Long.MIN_VALUE);

    double seconds() {
      return nRecords.sum() == 0 ? 0 : (endedNs.get() - beganNs.get()) / 1e9;
    }

    @Override
    public void onRestoreStart(TopicPartition it, String store, long from, long to) {
      beganNs.accumulateAndGet(System.nanoTime(), Math::min);
    }

    @Override
    public void onBatchRestored(TopicPartition it, String store, long to, long count) {
      nRecords.add(count);
    }

    @Override
    public void onRestoreEnd(TopicPartition it, String store, long total) {
      endedNs.accumulateAndGet(System.nanoTime(), Math::max);
    }
  }

  private long commitIntervalMs() {
    return options.number("commit-ms", cached ? 1000 : 100);
  }

  private KafkaStreams streams(String id, LongAdder nSamples, Commits commits) {
    Properties config = new Properties();
    config.put(StreamsConfig.APPLICATION_ID_CONFIG, id);
    config.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, bootstrap);
    config.put(StreamsConfig.STATE_DIR_CONFIG, options.text("state-dir"));
    config.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
    config.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, (int) options.number("threads", 2));
    config.put(StreamsConfig.DEFAULT_KEY_SERDE_CLASS_CONFIG, Serdes.ByteArraySerde.class);
    config.put(StreamsConfig.DEFAULT_VALUE_SERDE_CLASS_CONFIG, Serdes.ByteArraySerde.class);
    config.put(StreamsConfig.REPLICATION_FACTOR_CONFIG, -1);
    config.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, commitIntervalMs());
    config.put(StreamsConfig.consumerPrefix(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG), "earliest");
    config.put(StreamsConfig.mainConsumerPrefix(ConsumerConfig.SESSION_TIMEOUT_MS_CONFIG),
        (int) options.number("session-ms", 45_000));
    if (cached) {
      // What its users raise first when throughput counts.
      config.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG,
          options.number("cache-mb", 128) * 1024 * 1024);
      config.put(StreamsConfig.BUFFERED_RECORDS_PER_PARTITION_CONFIG, 10_000);
      config.put(StreamsConfig.mainConsumerPrefix(ConsumerConfig.MAX_POLL_RECORDS_CONFIG), 10_000);
      config.put(StreamsConfig.producerPrefix(ProducerConfig.BATCH_SIZE_CONFIG), 256 * 1024);
      config.put(StreamsConfig.producerPrefix(ProducerConfig.LINGER_MS_CONFIG), 100);
    }
    KafkaStreams streams = new KafkaStreams(
        Detector.topology(input, output(id), batched, cached, nSamples), config, commits);
    streams.setUncaughtExceptionHandler(error -> {
      System.err.println("peer: " + error);
      Runtime.getRuntime().halt(2);
      return null;
    });
    return streams;
  }

  private static String output(String id) {
    return id + "-anomalies";
  }

  private void createOutput(String id) throws Exception {
    NewTopic output = new NewTopic(output(id), ends.size(), (short) -1)
        .configs(Map.of("retention.ms", "-1"));
    admin.createTopics(List.of(output)).all().get();
  }

  /** Where the input ends; it is not written to any more. */
  private Map<TopicPartition, Long> ends() throws Exception {
    var description = admin.describeTopics(List.of(input)).allTopicNames().get().get(input);
    Map<TopicPartition, OffsetSpec> asked = description.partitions().stream()
        .collect(toMap(it -> new TopicPartition(input, it.partition()), it -> OffsetSpec.latest()));
    Map<TopicPartition, Long> ends = new HashMap<>();
    admin.listOffsets(asked).all().get().forEach((it, end) -> ends.put(it, end.offset()));
    return ends;
  }

  /** Done is what is committed: processed and not committed would be processed again. */
  private boolean isCommitted(String id) throws Exception {
    var committed = admin.listConsumerGroupOffsets(id).partitionsToOffsetAndMetadata(id).get();
    return ends.entrySet().stream().allMatch(end -> {
      var at = committed.get(end.getKey());
      return at != null && at.offset() >= end.getValue();
    });
  }

  /** Anomalies as a reader of committed records counts them. */
  private long anomalies(String id) {
    Map<String, Object> config = Map.of(
        "bootstrap.servers", bootstrap, "isolation.level", "read_committed",
        "auto.offset.reset", "earliest");
    ByteArrayDeserializer bytes = new ByteArrayDeserializer();
    try (KafkaConsumer<byte[], byte[]> consumer = new KafkaConsumer<>(config, bytes, bytes)) {
      List<TopicPartition> partitions = ends.keySet().stream()
          .map(it -> new TopicPartition(output(id), it.partition())).toList();
      consumer.assign(partitions);
      Map<TopicPartition, Long> last = consumer.endOffsets(partitions);
      long count = 0;
      while (partitions.stream().anyMatch(it -> consumer.position(it) < last.get(it))) {
        count += consumer.poll(Duration.ofMillis(POLL_MS)).count();
      }
      return count;
    }
  }

  private static double metric(KafkaStreams streams, String group, String name) {
    return streams.metrics().values().stream()
        .filter(it -> it.metricName().group().equals(group) && it.metricName().name().equals(name))
        .mapToDouble(it -> (Double) it.metricValue())
        .filter(it -> !Double.isNaN(it)).max().orElse(0);
  }
}
