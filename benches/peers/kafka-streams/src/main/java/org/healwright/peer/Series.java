package org.healwright.peer;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;

/**
 * What the peer remembers of a series, and the rule that it applies.
 *
 * <p>The reference of README.md in code: the filler folds it over a map and the peer over RocksDB,
 * so that the peer's anomalies can be counted against the filler's. Only + - * / and sqrt, which
 * IEEE 754 defines to the last bit, so another language finds the same anomalies.
 */
final class Series {
  static final int BYTES = 32;
  static final double ALPHA = 0.05;
  static final double SIGMAS = 6.0;
  static final long WARM_UP = 30;
  static final long COOL_DOWN = 50;

  long n;
  double mean;
  double var;
  /** Which sample of the series alerted last, counted from one; 0 is none. */
  long lastAlertSeq;

  /** Takes a sample and says whether it is an anomaly. The sample is judged by what was before. */
  boolean take(double value) {
    n += 1;
    double from = value - mean;
    boolean anomaly = n > WARM_UP
        && Math.abs(from) > SIGMAS * Math.sqrt(var)
        && (lastAlertSeq == 0 || n - lastAlertSeq >= COOL_DOWN);
    if (anomaly) {
      lastAlertSeq = n;
    }
    if (n == 1) {
      mean = value;
    } else {
      double step = ALPHA * from;
      mean = mean + step;
      var = (1.0 - ALPHA) * (var + from * step);
    }
    return anomaly;
  }

  byte[] encode() {
    ByteBuffer bytes = ByteBuffer.allocate(BYTES).order(ByteOrder.LITTLE_ENDIAN);
    return bytes.putLong(n).putDouble(mean).putDouble(var).putLong(lastAlertSeq).array();
  }

  static Series decode(byte[] encoded) {
    Series series = new Series();
    if (encoded == null) {
      return series;
    }
    ByteBuffer bytes = ByteBuffer.wrap(encoded).order(ByteOrder.LITTLE_ENDIAN);
    series.n = bytes.getLong();
    series.mean = bytes.getDouble();
    series.var = bytes.getDouble();
    series.lastAlertSeq = bytes.getLong();
    return series;
  }
}
