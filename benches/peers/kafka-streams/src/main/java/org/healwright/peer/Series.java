package org.healwright.peer;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;

/**
 * What the peer remembers of a series, and the rule that it applies: Healwright's own baseline,
 * operation by operation.
 *
 * <p>The reference of README.md in code: the filler folds it over a map and the peer over RocksDB,
 * so that the peer's anomalies can be counted against the filler's. Only + - * / and sqrt, which
 * IEEE 754 defines to the last bit, so another language comes to the same state.
 */
final class Series {
  static final int BYTES = 32;
  static final double WEIGHT = 0.01;
  static final double BOUND = 3.0;
  static final double UNUSUAL = 6.0;
  static final long SETTLED = 32;
  static final long RUN = 3;

  long n;
  double mean;
  double variance;
  /** Samples in a row that lay far out. */
  long run;

  /** Takes a sample and says whether the series turns unusual with it. */
  boolean take(double value) {
    double residual = value - mean;
    double sigma = Math.sqrt(variance);
    double distance = Math.abs(residual);
    boolean far = n >= SETTLED && distance != 0.0 && distance / sigma > UNUSUAL;
    double weight;
    if (n < SETTLED) {
      weight = 1.0 / (n + 1);
    } else {
      weight = WEIGHT;
      double bound = BOUND * sigma;
      double widest = bound > 0.0 ? bound : distance / 32.0;
      residual = Math.max(-widest, Math.min(widest, residual));
    }
    mean += weight * residual;
    variance = (1.0 - weight) * (variance + weight * residual * residual);
    n += 1;
    run = far ? Math.min(run + 1, 255) : 0;
    return run == RUN;
  }

  /** A word that depends on every bit of the state, to compare one state with another by. */
  long digest() {
    long bits = mix(mix(Double.doubleToRawLongBits(mean)) ^ Double.doubleToRawLongBits(variance));
    return mix(bits ^ mix(n * 256 + run));
  }

  /** The finalizer of SplitMix64. */
  static long mix(long it) {
    long z = it + 0x9E3779B97F4A7C15L;
    z = (z ^ (z >>> 30)) * 0xBF58476D1CE4E5B9L;
    z = (z ^ (z >>> 27)) * 0x94D049BB133111EBL;
    return z ^ (z >>> 31);
  }

  byte[] encode() {
    ByteBuffer bytes = ByteBuffer.allocate(BYTES).order(ByteOrder.LITTLE_ENDIAN);
    return bytes.putLong(n).putDouble(mean).putDouble(variance).putLong(run).array();
  }

  static Series decode(byte[] encoded) {
    Series series = new Series();
    if (encoded == null) {
      return series;
    }
    ByteBuffer bytes = ByteBuffer.wrap(encoded).order(ByteOrder.LITTLE_ENDIAN);
    series.n = bytes.getLong();
    series.mean = bytes.getDouble();
    series.variance = bytes.getDouble();
    series.run = bytes.getLong();
    return series;
  }
}
