package org.healwright.peer;

import java.util.Locale;

/** {@code fill} fills a topic, {@code run} reads it to its end; README.md has the flags. */
public final class Peer {
  private Peer() {}

  /** Exit codes as Healwright's: 0 done, 2 usage or error. */
  public static void main(String[] args) {
    Locale.setDefault(Locale.ROOT);
    try {
      switch (args.length == 0 ? "" : args[0]) {
        case "fill" -> Filler.run(Options.parse(args, 1));
        case "run" -> new Pass(Options.parse(args, 1)).run();
        default -> throw new IllegalArgumentException("first argument: fill or run");
      }
    } catch (Exception error) {
      System.err.println("peer: " + error.getMessage());
      System.exit(2);
    }
  }
}
