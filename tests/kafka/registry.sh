#!/usr/bin/env bash
# A real schema registry for tests: Apicurio Registry, which speaks the HTTP API of Confluent's and
# compares Avro schemas itself. Confluent's own is not on Maven Central. Memory only, on loopback,
# on a port that the system chooses.
#
#   registry.sh start --dir DIR   prints REGISTRY=http://127.0.0.1:PORT/… once it answers
#   registry.sh stop --dir DIR    ends it and removes what start made
#
# It is known by a pid file; a pid is believed only while its command line names DIR.
set -euo pipefail

readonly VERSION=2.6.13.Final
readonly READY_S_MAX=180
cache=${HEALWRIGHT_REGISTRY_CACHE:-$HOME/.cache/healwright/registry}/$VERSION

refuse() {
  echo "registry.sh: $*" >&2
  exit 2
}

resolve() {
  command -v java >/dev/null ||
    refuse "java is missing: apt-get install default-jre-headless (Java 17 or later)"
  [ ! -e "$cache/complete" ] || return 0
  mkdir -p "$cache"
  exec 9>"$cache/lock"
  flock 9
  if [ ! -e "$cache/complete" ]; then
    command -v mvn >/dev/null || refuse "mvn is missing: apt-get install maven"
    echo "fetching Apicurio Registry from Maven Central into $cache (142 MB, once)" >&2
    mvn -B -q -Dstyle.color=never dependency:copy -DoutputDirectory="$cache" \
      -Dartifact="io.apicurio:apicurio-registry-app:$VERSION:tar.gz:all" >&2 ||
      refuse "Maven could not fetch the registry: see its words above"
    rm -rf "$cache/app"
    mkdir "$cache/app"
    tar -xzf "$cache"/*.tar.gz -C "$cache/app"
    rm -f "$cache"/*.tar.gz
    touch "$cache/complete"
  fi
  exec 9>&-
}

is_running() {
  local pid
  pid=$(cat "$dir/pid" 2>/dev/null) || return 1
  { tr '\0' ' ' <"/proc/$pid/cmdline"; } 2>/dev/null | grep -qF -- "-Dhealwright.dir=$dir "
}

start() {
  [ ! -e "$dir/pid" ] || refuse "$dir has a registry: registry.sh stop --dir $dir"
  resolve
  mkdir -p "$dir"
  dir=$(cd "$dir" && pwd)
  local deadline=$((SECONDS + READY_S_MAX)) url
  setsid java -Xmx256m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 "-Dhealwright.dir=$dir" \
    -Dquarkus.http.host=127.0.0.1 -Dquarkus.http.port=0 \
    -jar "$cache"/app/*-runner.jar >"$dir/log" 2>&1 </dev/null &
  echo $! >"$dir/pid"
  until url=$(grep -om1 'Listening on: http://127.0.0.1:[0-9]*' "$dir/log"); do
    if ! kill -0 "$(<"$dir/pid")" 2>/dev/null || ((SECONDS > deadline)); then
      tail -n 15 "$dir/log" >&2
      stop
      refuse "the registry did not become ready; the end of its log is above"
    fi
    sleep 0.05
  done
  echo "REGISTRY=${url#Listening on: }/apis/ccompat/v7"
}

stop() {
  [ -d "$dir" ] || return 0
  dir=$(cd "$dir" && pwd)
  if is_running; then
    kill -KILL "$(<"$dir/pid")"
    while is_running; do sleep 0.02; done
  fi
  rm -f "$dir/pid" "$dir/log"
  rmdir --ignore-fail-on-non-empty "$dir"
}

command=${1:-}
[ "${2:-}" = --dir ] && [ -n "${3:-}" ] || refuse "usage: registry.sh start|stop --dir DIR"
dir=$3
case $command in
  start) start ;;
  stop) stop ;;
  *) refuse "usage: registry.sh start|stop --dir DIR" ;;
esac
