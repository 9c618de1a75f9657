#!/usr/bin/env bash
# Holds what kafka.sh promises: three brokers that replicate, that survive the loss of one with
# acks=all, that come back on the same port with the same data, and that leave nothing behind.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
kafka() { "$here/kafka.sh" "$@"; }
topics() { kafka tool org.apache.kafka.tools.TopicCommand --bootstrap-server "$bootstrap" "$@"; }
work=$(mktemp -d "${TMPDIR:-/tmp}/healwright-kafka-selftest.XXXXXX")
bed=$work/bed
trap 'kafka stop --dir "$bed"; rm -rf "$work"' EXIT

fail() {
  echo "kafka.sh is broken: $*" >&2
  tail -n 20 "$work/kcat" "$bed"/*/log >&2 || true
  exit 1
}
said() { printf '%5d ms  %s\n' $((($(date +%s%N) - began) / 1000000)) "$1"; }
# A client meets brokers that are down; what it says about them is only of interest in a failure.
# A request that a paused broker holds must time out well before the message does.
cat_topic() {
  kcat -b "$bootstrap" -t t -X api.version.request.timeout.ms=2000 -X socket.timeout.ms=4000 "$@" \
    2>>"$work/kcat"
}
produce() {
  printf '%s\n' "$@" |
    cat_topic -P -X acks=all -X request.timeout.ms=3000 -X message.timeout.ms=60000 ||
    fail "$* was not acknowledged"
}
# What a reader sees of the topic from its beginning, as one line.
read_all() { cat_topic -C -o beginning -e -q -X isolation.level=read_committed | xargs; }

command -v kcat >/dev/null || { echo "kcat is missing: apt-get install kcat" >&2; exit 2; }
kafka libs >/dev/null
began=$(date +%s%N)

eval "$(kafka start --brokers 3 --dir "$bed" -o 2:num.io.threads=3 -o log.roll.hours=4)"
bootstrap=${BOOTSTRAP:?start prints it}
said "three brokers are ready at $bootstrap"
grep -qx num.io.threads=3 "$bed/2/server.properties" || fail "-o 2:KEY=VALUE did not reach broker 2"
grep -qx num.io.threads=4 "$bed/3/server.properties" || fail "-o 2:KEY=VALUE reached broker 3"
grep -qx log.roll.hours=4 "$bed/3/server.properties" || fail "-o KEY=VALUE did not reach broker 3"
! kafka start --dir "$bed" 2>/dev/null || fail "a second cluster started in the same folder"

topics --create --topic t --partitions 1 >/dev/null
topics --describe --topic t | grep -q 'ReplicationFactor: 3.*min.insync.replicas=2' ||
  fail "a topic has not three copies of which two must be in sync"
produce one
[ "$(read_all)" = one ] || fail "what was produced is not read"
said "produced and consumed"

leader=$(topics --describe --topic t | sed -n 's/.*Leader: \([0-9]\).*/\1/p')
kafka kill "$leader" --dir "$bed"
produce two
[ "$(read_all)" = "one two" ] || fail "two of three brokers do not serve acks=all"
said "killed the leader, broker $leader; acks=all goes on"

kafka restart "$leader" --dir "$bed"
said "broker $leader is ready again"
other=$((leader % 3 + 1))
kafka pause "$other" --dir "$bed"
produce three
kafka resume "$other" --dir "$bed"
[ "$(read_all)" = "one two three" ] || fail "with broker $other paused acks=all did not go on"
said "paused and resumed broker $other"

kafka restart 1 2 3 --dir "$bed"
[ "$(read_all)" = "one two three" ] || fail "data did not survive a restart of one after the other"
said "restarted one after the other; the data is there"

kafka kill 1 2 3 --dir "$bed"
kafka restart 1 2 3 --dir "$bed"
[ "$(read_all)" = "one two three" ] || fail "data did not survive the kill of all brokers"
said "killed and restarted all; the data is there"

mapfile -t pids < <(cat "$bed"/*/pid)
kafka stop --dir "$bed"
[ ! -e "$bed" ] || fail "stop left $(find "$bed")"
for pid in "${pids[@]}"; do
  ! grep -qs "$bed" "/proc/$pid/cmdline" || fail "stop left process $pid"
done
said "stopped; nothing is left"
