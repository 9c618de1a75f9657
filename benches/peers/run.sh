#!/usr/bin/env bash
# Runs the contenders over the same filled topics on one broker, one after the other, and prints
# one JSON document; with --table a table of it on stderr too.
#
# The figure that counts is CPU seconds per million samples: wall time says how busy the machine
# was. A contender is a function that gets topic and shape and prints one JSON line.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
cache=${HEALWRIGHT_PEERS_CACHE:-$HOME/.cache/healwright/peers}
samples=4000000 series=10000 partitions=4 batch=100 warmup=1000000 seed=1 session_ms=45000 table=no
contenders=raw_poll,raw_batches,raw_produce,healwright,streams_cached,streams_default
shapes=single,batched

usage="usage: run.sh [--samples N] [--series N] [--partitions N] [--batch N] [--warmup N] [--seed N]
              [--session-ms N] [--contenders NAME,…] [--shapes single,batched] [--table]"
while [ $# -gt 0 ]; do
  case $1 in
    --table) table=yes; shift; continue ;;
    --help) echo "$usage"; exit 0 ;;
    --samples | --series | --partitions | --batch | --warmup | --seed | --session-ms | \
      --contenders | --shapes)
      name=${1#--}
      declare "${name//-/_}=${2:?$1 needs a value}"
      shift 2 ;;
    *) echo "$usage" >&2; exit 2 ;;
  esac
done

# --- Contenders: `contender_NAME TOPIC SHAPE` prints one JSON line -----------------------------

contender_raw_poll() { raw "$1" poll; }
contender_raw_batches() { raw "$1" batches; }
contender_raw_produce() { raw "$1" produce; }

raw() { "$target/debug/examples/raw" "$bootstrap" "$1" "$2"; }

# The topic is PREFIXtelemetry; the journal and all else of the system lie beside it.
contender_healwright() {
  "$target/debug/healwright" bench kafka --log "kafka://$bootstrap" -o json \
    --topic-prefix "${1%telemetry}" --partitions "$partitions" --series "$series" \
    --broker-pids "$broker_pids" --warmup "$warmup"
}

contender_streams_cached() { streams "$@" --cache; }
contender_streams_default() { streams "$@"; }

streams() {
  local topic=$1 shape=$2 flags=()
  shift 2
  if [ "$shape" = batched ]; then flags+=(--batched); fi
  peer run --bootstrap "$bootstrap" --topic "$topic" --state-dir "$work/state" \
    --broker-pids "$broker_pids" --warmup "$warmup" --wipe-state \
    --session-ms "$session_ms" "${flags[@]}" "$@"
}

# --- What they run on --------------------------------------------------------------------------

# The heap and collector that a user would give it on two cores: throughput before pauses.
peer() {
  java -Xmx512m -XX:+UseParallelGC -Dorg.slf4j.simpleLogger.defaultLogLevel=error \
    -cp "$jars/*" org.healwright.peer.Peer "$@"
}

# Outside the working tree, under a name that changes with the sources.
build_peer() {
  local sources=$here/kafka-streams
  if ! command -v javac >/dev/null || ! command -v mvn >/dev/null; then
    echo "javac or mvn is missing: apt-get install default-jdk-headless maven" >&2
    exit 2
  fi
  jars=$cache/$(find "$sources/pom.xml" "$sources/src" -type f -print0 | sort -z |
    xargs -0 cat | sha256sum | cut -c1-16)
  [ ! -e "$jars/complete" ] || return 0
  mkdir -p "$jars"
  cp -r "$sources/pom.xml" "$sources/src" "$work/"
  mvn -B -q -Dstyle.color=never -f "$work/pom.xml" package \
    dependency:copy-dependencies "-DoutputDirectory=$jars" >&2
  cp "$work/target/peer.jar" "$jars/"
  touch "$jars/complete"
}

fill() { # SHAPE
  local n=1
  if [ "$1" = batched ]; then n=$batch; fi
  peer fill --bootstrap "$bootstrap" --topic "bench.$1.telemetry" --samples "$samples" --series "$series" \
    --partitions "$partitions" --batch "$n" --seed "$seed"
}

target=${CARGO_TARGET_DIR:-$root/target}
work=$(mktemp -d "${TMPDIR:-/tmp}/healwright-peers.XXXXXX")
trap '"$root/tests/kafka/kafka.sh" stop --dir "$work/bed"; rm -rf "$work"' EXIT
build_peer
for program in "$target/debug/healwright" "$target/debug/examples/raw"; do
  [ -x "$program" ] || { echo "$program is missing: \`make bench-kafka\` builds it" >&2; exit 2; }
done
# A broker as it would run in production: the whole compiler, a heap that holds its indexes.
eval "$(HEALWRIGHT_KAFKA_JAVA_OPTS="-Xmx1g -XX:TieredStopAtLevel=4" \
  "$root/tests/kafka/kafka.sh" start --dir "$work/bed")"
bootstrap=${BOOTSTRAP:?start prints it}
broker_pids=$(cat "$work"/bed/*/pid | paste -sd,)

for shape in ${shapes//,/ }; do
  echo "filling bench.$shape with $samples samples" >&2
  fill "$shape" >>"$work/filled"
  for name in ${contenders//,/ }; do
    echo "running $name on bench.$shape" >&2
    line=$("contender_$name" "bench.$shape.telemetry" "$shape")
    echo "{\"name\":\"$name\",\"shape\":\"$shape\",\"result\":$line}" >>"$work/results"
  done
done

python3 - "$work/filled" "$work/results" "$table" <<'PYTHON'
import json, os, sys

filled = {it["topic"]: it for it in map(json.loads, open(sys.argv[1]))}
results = [json.loads(it) for it in open(sys.argv[2])]
for it in results:
    figures, topic = it["result"], filled["bench." + it["shape"] + ".telemetry"]
    millions = topic["samples"] / 1e6
    figures.setdefault("cpu_s_per_million", round(figures["cpu_s"] / millions, 4))
    # Each is compared by what it can be asked for: every bit of its state, or its anomalies; a
    # reader that computes nothing has read every record.
    known = {"state": "expected_state", "anomalies": "expected_anomalies", "records": "records"}
    it["agrees_with_reference"] = any(name in figures for name in known) and all(
        figures[name] == topic[expected] for name, expected in known.items() if name in figures
    )
document = {
    "cores": os.cpu_count(), "load_average": os.getloadavg(),
    "filled": list(filled.values()), "results": results,
}
print(json.dumps(document, indent=2))
if sys.argv[3] == "yes":
    columns = ["cpu_s_per_million", "broker_cpu_s_per_million", "wall_s", "peak_rss_mb",
               "commit_p50_ms", "commit_p99_ms", "decided_p50_ms", "decided_p99_ms",
               "restore_s", "restore_mb_per_s", "serves_again_s"]
    rows = [["contender", "shape", "agrees", *columns]]
    for it in results:
        figures = [str(it["result"].get(name, "-")) for name in columns]
        rows.append([it["name"], it["shape"], str(it["agrees_with_reference"]), *figures])
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)), file=sys.stderr)
# A contender that finds other anomalies computed something else, and its figures say nothing.
sys.exit(0 if all(it["agrees_with_reference"] for it in results) else 1)
PYTHON
