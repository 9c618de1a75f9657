package org.healwright.peer;

import java.util.Map;
import java.util.concurrent.ConcurrentLinkedQueue;
import org.apache.kafka.clients.consumer.ConsumerGroupMetadata;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.Producer;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.streams.processor.internals.DefaultKafkaClientSupplier;

/**
 * How long commits take, from sending the offsets to the end of the transaction. Streams itself
 * publishes an average and a maximum, and a percentile needs each one.
 */
final class Commits extends DefaultKafkaClientSupplier {
  private final ConcurrentLinkedQueue<Long> tookNs = new ConcurrentLinkedQueue<>();

  @Override
  public Producer<byte[], byte[]> getProducer(Map<String, Object> config) {
    return new Timed(config);
  }

  int count() {
    return tookNs.size();
  }

  /** Milliseconds within which this share of the commits was done. */
  double percentileMs(double share) {
    long[] all = tookNs.stream().mapToLong(Long::longValue).sorted().toArray();
    return all.length == 0 ? 0 : all[(int) Math.min(all.length - 1, all.length * share)] / 1e6;
  }

  private final class Timed extends KafkaProducer<byte[], byte[]> {
    private long beganNs;

    Timed(Map<String, Object> config) {
      super(config, new ByteArraySerializer(), new ByteArraySerializer());
    }

    @Override
    public void sendOffsetsToTransaction(
        Map<TopicPartition, OffsetAndMetadata> offsets, ConsumerGroupMetadata group) {
      beganNs = System.nanoTime();
      super.sendOffsetsToTransaction(offsets, group);
    }

    @Override
    public void commitTransaction() {
      super.commitTransaction();
      tookNs.add(System.nanoTime() - beganNs);
    }
  }
}
