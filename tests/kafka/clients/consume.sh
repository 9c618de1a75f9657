#!/usr/bin/env bash
# Reads a topic with a client that nobody here wrote, one JSON line a record:
# {topic, partition, offset, key, headers, value_base64}, and with --registry the decoded value.
# Ends after --count records with 0, or after --seconds with 1 when fewer came. Versions are pinned;
# what a client needs is fetched once into the cache, so that the working tree stays as it was.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${HEALWRIGHT_CLIENTS_CACHE:-$HOME/.cache/healwright/kafka-clients}

refuse() {
  echo "consume.sh: $*" >&2
  exit 2
}
need() { command -v "$1" >/dev/null || refuse "$1 is missing: apt-get install $2"; }

usage="usage: consume.sh java|kafkajs|franz-go --bootstrap HOST:PORT[,…] --topic TOPIC
                  [--count N] [--seconds S] [--group GROUP] [--registry URL]"
client=${1:-}
[ $# -eq 0 ] || shift
bootstrap="" topic="" count=1000000000 seconds=30 group=reader-$$-$RANDOM registry=""
while [ $# -gt 0 ]; do
  [ $# -ge 2 ] || refuse "$1 needs a value"
  case $1 in
    --bootstrap) bootstrap=$2 ;;
    --topic) topic=$2 ;;
    --count) count=$2 ;;
    --seconds) seconds=$2 ;;
    --group) group=$2 ;;
    --registry) registry=$2 ;;
    *) refuse "unknown argument $1
$usage" ;;
  esac
  shift 2
done
if [ -z "$bootstrap" ] || [ -z "$topic" ]; then
  echo "$usage" >&2
  exit 2
fi
args=("$bootstrap" "$topic" "$count" "$seconds" "$group" "$registry")

source "$here/../../folder.sh"

case $client in
  java)
    need javac default-jdk-headless
    libs=$("$here/../kafka.sh" libs)
    folder_for java "$here"/java/* "$here/../pom.xml"
    if [ ! -e "$folder/Consume.class" ]; then
      need mvn maven
      mvn -B -q -Dstyle.color=never -f "$here/java/pom.xml" \
        dependency:copy-dependencies "-DoutputDirectory=$folder/avro" >&2 ||
        refuse "Maven could not fetch Avro: see its words above"
      javac -cp "$libs/*:$folder/avro/*" -d "$folder" "$here/java/Consume.java"
    fi
    exec 9>&-
    exec java -XX:+UseSerialGC -XX:TieredStopAtLevel=1 \
      -Dorg.slf4j.simpleLogger.defaultLogLevel=error -cp "$libs/*:$folder/avro/*:$folder" Consume "${args[@]}"
    ;;
  kafkajs)
    need npm npm
    folder_for kafkajs "$here"/kafkajs/*
    if [ ! -e "$folder/complete" ]; then
      cp "$here"/kafkajs/* "$folder/"
      (cd "$folder" && npm ci --silent --no-audit --no-fund) >&2
      touch "$folder/complete"
    fi
    exec 9>&-
    exec env KAFKAJS_NO_PARTITIONER_WARNING=1 node "$folder/consume.js" "${args[@]}"
    ;;
  franz-go)
    need go "golang (1.24 or later; https://go.dev/dl where it is older)"
    folder_for franz-go "$here"/franz-go/*
    [ -e "$folder/consume" ] || (cd "$here/franz-go" && go build -o "$folder/consume" .) >&2
    exec 9>&-
    exec "$folder/consume" "${args[@]}"
    ;;
  *) echo "$usage" >&2; exit 2 ;;
esac
