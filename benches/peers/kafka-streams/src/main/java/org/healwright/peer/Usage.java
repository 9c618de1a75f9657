package org.healwright.peer;

import com.sun.management.OperatingSystemMXBean;
import java.io.IOException;
import java.lang.management.ManagementFactory;
import java.nio.file.Files;
import java.nio.file.Path;

/** What this process and the brokers have used so far. */
final class Usage {
  private Usage() {}

  /** CPU seconds of this process, all threads. */
  static double ownCpuS() {
    var os = ManagementFactory.getPlatformMXBean(OperatingSystemMXBean.class);
    return os.getProcessCpuTime() / 1e9;
  }

  /** CPU seconds of the processes of {@code pids}, comma-separated; Linux counts in 10 ms. */
  static double cpuS(String pids) throws IOException {
    double total = 0;
    for (String pid : pids.split(",")) {
      if (!pid.isBlank()) {
        String stat = Files.readString(Path.of("/proc", pid.strip(), "stat"));
        // The name in parentheses may hold anything; fields are counted behind it.
        String[] fields = stat.substring(stat.lastIndexOf(')') + 2).split(" ");
        total += (Long.parseLong(fields[11]) + Long.parseLong(fields[12])) / 100.0;
      }
    }
    return total;
  }

  static double peakRssMb() throws IOException {
    for (String line : Files.readAllLines(Path.of("/proc/self/status"))) {
      if (line.startsWith("VmHWM:")) {
        return Long.parseLong(line.replaceAll("[^0-9]", "")) / 1024.0;
      }
    }
    return 0;
  }
}
