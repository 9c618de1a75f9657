package org.healwright.peer;

import java.io.ByteArrayOutputStream;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;

/**
 * Many samples a record: the single-object Avro encoding of {@code telemetry.sample.v1}, read and
 * written by hand, because a generic Avro reader would cost the peer more than its computation.
 *
 * <p>The encoded bytes of a dictionary entry are the identity of a series.
 */
final class Columns {
  /** Mark and CRC-64-AVRO fingerprint of schemas/telemetry.sample.v1.avsc. */
  private static final byte[] PREFIX = {
      (byte) 0xC3, 0x01, (byte) 0xAD, 0x52, 0x3D, 0x25, (byte) 0xD4, 0x11, 0x50, (byte) 0xDF};

  final byte[][] series;
  final int[] seriesIdx;
  final long[] timeNs;
  final double[] value;

  Columns(byte[][] series, int[] seriesIdx, long[] timeNs, double[] value) {
    this.series = series;
    this.seriesIdx = seriesIdx;
    this.timeNs = timeNs;
    this.value = value;
  }

  static Columns decode(byte[] record) {
    if (!Arrays.equals(record, 0, PREFIX.length, PREFIX, 0, PREFIX.length)) {
      throw new IllegalArgumentException("not a telemetry.sample.v1");
    }
    Reader in = new Reader(record, PREFIX.length);
    in.skipText();
    in.skipText();
    byte[][] series = new byte[0][];
    for (int count = in.block(); count != 0; count = in.block()) {
      int at = series.length;
      series = Arrays.copyOf(series, at + count);
      for (int i = 0; i < count; i++) {
        series[at + i] = in.series();
      }
    }
    long[] indexes = in.longs();
    int[] seriesIdx = new int[indexes.length];
    for (int i = 0; i < indexes.length; i++) {
      seriesIdx[i] = Math.toIntExact(indexes[i]);
    }
    return new Columns(series, seriesIdx, in.longs(), in.doubles());
  }

  byte[] encode(String source) {
    Writer out = new Writer();
    out.writeBytes(PREFIX);
    out.text(source);
    out.text("");
    out.putLong(series.length);
    for (byte[] it : series) {
      out.writeBytes(it);
    }
    out.putLong(0);
    out.putLong(seriesIdx.length);
    for (int it : seriesIdx) {
      out.putLong(it);
    }
    out.putLong(0);
    out.putLong(timeNs.length);
    for (long it : timeNs) {
      out.putLong(it);
    }
    out.putLong(0);
    out.putLong(value.length);
    ByteBuffer eight = ByteBuffer.allocate(8).order(ByteOrder.LITTLE_ENDIAN);
    for (double it : value) {
      out.writeBytes(eight.putDouble(0, it).array());
    }
    out.putLong(0);
    // The snapshot is absent.
    out.putLong(0);
    return out.toByteArray();
  }

  /** A dictionary entry: service, host, key, no labels. */
  static byte[] seriesEntry(String service, String host, String key) {
    Writer out = new Writer();
    out.text(service);
    out.text(host);
    out.text(key);
    out.putLong(0);
    return out.toByteArray();
  }

  private static final class Writer extends ByteArrayOutputStream {
    /** Zigzag, then seven bits a byte. */
    void putLong(long value) {
      long left = (value << 1) ^ (value >> 63);
      while ((left & ~0x7FL) != 0) {
        write((int) (left & 0x7F) | 0x80);
        left >>>= 7;
      }
      write((int) left);
    }

    void text(String text) {
      byte[] bytes = text.getBytes(StandardCharsets.UTF_8);
      putLong(bytes.length);
      writeBytes(bytes);
    }
  }

  private static final class Reader {
    private final byte[] bytes;
    private final ByteBuffer buffer;
    private int at;

    Reader(byte[] bytes, int at) {
      this.bytes = bytes;
      this.buffer = ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN);
      this.at = at;
    }

    long takeLong() {
      long value = 0;
      int shift = 0;
      byte next;
      do {
        next = bytes[at++];
        value |= (next & 0x7FL) << shift;
        shift += 7;
      } while (next < 0);
      return (value >>> 1) ^ -(value & 1);
    }

    void skipText() {
      // Two statements: in one, Java would take `at` as it was before the length was read.
      int length = Math.toIntExact(takeLong());
      at += length;
    }

    /** The item count of the next block; a negative one is followed by the block's size. */
    int block() {
      long count = takeLong();
      if (count < 0) {
        takeLong();
        count = -count;
      }
      return Math.toIntExact(count);
    }

    byte[] series() {
      int from = at;
      skipText();
      skipText();
      skipText();
      for (int count = block(); count != 0; count = block()) {
        for (int i = 0; i < 2 * count; i++) {
          skipText();
        }
      }
      return Arrays.copyOfRange(bytes, from, at);
    }

    long[] longs() {
      long[] all = new long[0];
      for (int count = block(); count != 0; count = block()) {
        int from = all.length;
        all = Arrays.copyOf(all, from + count);
        for (int i = from; i < all.length; i++) {
          all[i] = takeLong();
        }
      }
      return all;
    }

    double[] doubles() {
      double[] all = new double[0];
      for (int count = block(); count != 0; count = block()) {
        int from = all.length;
        all = Arrays.copyOf(all, from + count);
        for (int i = from; i < all.length; i++) {
          all[i] = buffer.getDouble(at);
          at += 8;
        }
      }
      return all;
    }
  }
}
