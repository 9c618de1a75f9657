package org.healwright.peer;

import java.util.HashMap;
import java.util.Map;

/** {@code --name value} and {@code --flag}, each known by name. */
final class Options {
  private final Map<String, String> given = new HashMap<>();

  static Options parse(String[] args, int from) {
    Options options = new Options();
    for (int i = from; i < args.length; i++) {
      if (!args[i].startsWith("--")) {
        throw new IllegalArgumentException("expected --name, found " + args[i]);
      }
      boolean hasValue = i + 1 < args.length && !args[i + 1].startsWith("--");
      options.given.put(args[i].substring(2), hasValue ? args[++i] : "true");
    }
    return options;
  }

  String text(String name, String otherwise) {
    return given.getOrDefault(name, otherwise);
  }

  String text(String name) {
    if (!given.containsKey(name)) {
      throw new IllegalArgumentException("--" + name + " is missing");
    }
    return given.get(name);
  }

  long number(String name, long otherwise) {
    return given.containsKey(name) ? Long.parseLong(given.get(name)) : otherwise;
  }

  boolean flag(String name) {
    return Boolean.parseBoolean(text(name, "false"));
  }
}
