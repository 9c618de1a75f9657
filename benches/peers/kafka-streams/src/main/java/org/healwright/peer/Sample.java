package org.healwright.peer;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;

/** One sample a record: series u32, t_ms i64, value f64, little-endian. The key is the series. */
record Sample(int series, long timeMs, double value) {
  static final int BYTES = 20;

  byte[] encode() {
    ByteBuffer bytes = ByteBuffer.allocate(BYTES).order(ByteOrder.LITTLE_ENDIAN);
    return bytes.putInt(series).putLong(timeMs).putDouble(value).array();
  }

  byte[] key() {
    return ByteBuffer.allocate(4).order(ByteOrder.LITTLE_ENDIAN).putInt(series).array();
  }

  static Sample decode(byte[] encoded) {
    ByteBuffer bytes = ByteBuffer.wrap(encoded).order(ByteOrder.LITTLE_ENDIAN);
    return new Sample(bytes.getInt(), bytes.getLong(), bytes.getDouble());
  }
}
