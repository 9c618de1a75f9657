#!/usr/bin/env bash
# A real Apache Kafka for tests and for trying things: one or three brokers on loopback, each
# broker and controller at once (KRaft), in a directory of their own.
#
# Brokers are killed and paused by tests, so each runs in a session of its own and is known by a
# pid file; a pid is believed only while its command line names this directory, for a pid may have
# gone to another process since.
#
# What it deliberately does not do: secure what brokers say to each other, or leave anything that
# outlives `stop`.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
self=$here/kafka.sh
cache_root=${HEALWRIGHT_KAFKA_CACHE:-$HOME/.cache/healwright/kafka}
# A loaded machine takes long; a broker that has died is noticed at once, whatever this says.
readonly READY_S_MAX=180
readonly END_S_MAX=15
# Below the ports that Linux gives to outgoing connections, so a broker that is restarted finds
# its port free.
readonly PORT_MIN=12000 PORT_MAX=32000
readonly READY='Kafka Server started'

usage() {
  cat <<'TEXT'
usage: kafka.sh start [--brokers 1|3] [--secure] --dir DIR [-o KEY=VALUE]…
       kafka.sh kill|end|restart|pause|resume N… --dir DIR
       kafka.sh stop --dir DIR
       kafka.sh try [--brokers 1|3] [-o KEY=VALUE]…
       kafka.sh tool CLASS [ARG]…
       kafka.sh libs

start    prints BOOTSTRAP=127.0.0.1:PORT[,…] once every broker is ready, and returns.
         DIR is absent or empty; broker N keeps pid, log and data in DIR/N.
         -o sets a broker's configuration; {N} in the value becomes the broker's number, and
         -o N:KEY=VALUE is for broker N alone.
         --secure opens three more doors and prints them as SASL_PLAINTEXT=, SASL_SSL= (PLAIN,
         SCRAM-SHA-256 and SCRAM-SHA-512 for the user `node`) and SSL= (for who has a
         certificate). Certificates and passwords are in DIR/secrets.
kill     SIGKILL; end is SIGTERM, and waits.
restart  the same id, port and data; those that still run are ended and restarted in turn.
pause    SIGSTOP; resume is SIGCONT.
stop     ends all of them and removes what start made.
try      one broker in the foreground, until Ctrl-C.
tool     runs a class of Kafka's shell tools, such as org.apache.kafka.tools.TopicCommand.
libs     prints the folder of the libraries, and fetches them if need be.

HEALWRIGHT_KAFKA_CACHE      where libraries are kept (~/.cache/healwright/kafka)
HEALWRIGHT_KAFKA_JAVA_OPTS  options for the brokers' JVM, after the script's own
TEXT
}

refuse() {
  echo "kafka.sh: $*" >&2
  exit 2
}

# --- Libraries -------------------------------------------------------------------------------

need_java() {
  command -v java >/dev/null ||
    refuse "java is missing: apt-get install default-jre-headless (Java 17 or later)"
}

# Sets `cache` to the folder that holds libs/, template/ and classes.jsa; fills it once, under a
# lock, for several tests start brokers at the same time.
resolve() {
  need_java
  cache=$cache_root/$(sha256sum "$here/pom.xml" | cut -c1-16)
  [ ! -e "$cache/complete" ] || return 0
  mkdir -p "$cache"
  exec 9>"$cache/lock"
  flock 9
  if [ ! -e "$cache/complete" ]; then
    fetch_libraries >&2
    format_template >&2
    touch "$cache/complete"
    archive_classes
  fi
  exec 9>&-
}

fetch_libraries() {
  command -v mvn >/dev/null ||
    refuse "mvn is missing: apt-get install maven (once, to fetch Kafka's libraries)"
  echo "fetching Apache Kafka from Maven Central into $cache (55 MB, once)"
  rm -rf "$cache/libs"
  mvn -B -q -Dstyle.color=never -f "$here/pom.xml" \
    dependency:copy-dependencies "-DoutputDirectory=$cache/libs" ||
    refuse "Maven could not fetch Kafka: see its words above; HTTPS_PROXY and ~/.m2/settings.xml" \
      "say which way it goes"
}

# Formatting is a JVM of its own and takes a second. It writes two small files which do not
# depend on the cluster but for ids in plain text, so it is done once and copied.
format_template() {
  rm -rf "$cache/template"
  mkdir "$cache/template"
  cat >"$cache/template.properties" <<TEXT
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:1
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:2,CONTROLLER://127.0.0.1:1
log.dirs=$cache/template
TEXT
  java -Dorg.slf4j.simpleLogger.defaultLogLevel=error -cp "$cache/libs/*" \
    kafka.tools.StorageTool format --ignore-formatted -t "$(random_id)" \
    -c "$cache/template.properties" >/dev/null
}

# The classes of a running broker, parsed: with them a broker takes 1.4 s of CPU until it is
# ready, without them 2.2 s. The JVM goes on without the archive where it does not fit.
archive_classes() {
  local folder
  folder=$(mktemp -d "$cache/archive.XXXXXX")
  HEALWRIGHT_KAFKA_JAVA_OPTS="-XX:ArchiveClassesAtExit=$folder/classes.jsa -Xlog:disable" \
    "$self" start --dir "$folder/bed" >/dev/null
  "$self" end 1 --dir "$folder/bed"
  "$self" stop --dir "$folder/bed"
  [ ! -s "$folder/classes.jsa" ] || mv "$folder/classes.jsa" "$cache/"
  rm -rf "$folder"
}

# A Kafka UUID: 16 random bytes in URL-safe base64. A leading dash would read as an option.
random_id() {
  echo "A$(head -c 15 /dev/urandom | base64 | tr '+/' '-_' | cut -c1-20)A"
}

# --- Starting --------------------------------------------------------------------------------

start() {
  [ "$brokers" = 1 ] || [ "$brokers" = 3 ] || refuse "--brokers is 1 or 3, not $brokers"
  if [ -e "$dir" ] && [ -n "$(ls -A "$dir")" ]; then
    refuse "$dir is not empty: name another --dir, or end what runs there with" \
      "kafka.sh stop --dir $dir"
  fi
  resolve
  mkdir -p "$dir"
  dir=$(cd "$dir" && pwd)
  [ -z "$secure" ] || "$here/secrets.sh" "$dir/secrets"
  cluster=$(random_id)
  local n attempt all
  mapfile -t all < <(seq "$brokers")
  for attempt in 1 2 3; do
    choose_ports
    for n in "${all[@]}"; do prepare "$n"; done
    for n in "${all[@]}"; do launch "$n"; done
    if await_ready "${all[@]}"; then
      echo "$bootstrap" >"$dir/bootstrap"
      echo "BOOTSTRAP=$bootstrap"
      [ -z "$secure" ] || admit_user
      return 0
    fi
    # Somebody else took a port between the look and the bind: only then is it worth another try.
    if ! grep -qs 'Address already in use' "$dir"/*/log || [ "$attempt" = 3 ]; then
      complain "${all[@]}"
      stop
      exit 1
    fi
    stop
    mkdir -p "$dir"
  done
}

# The doors that want TLS or a password, in the order of their ports.
readonly DOORS=(SASL_PLAINTEXT SASL_SSL SSL)

# Free ports for each broker: one for clients, one for controllers, one for each secured door.
choose_ports() {
  local port n taken=" " wanted=$((2 * brokers))
  client_ports=() controller_ports=() door_ports=()
  [ -z "$secure" ] || wanted=$(((2 + ${#DOORS[@]}) * brokers))
  for ((n = 0; n < wanted; )); do
    port=$((PORT_MIN + (RANDOM * 32768 + RANDOM) % (PORT_MAX - PORT_MIN)))
    [[ $taken != *" $port "* ]] || continue
    # A connection that succeeds means that somebody listens.
    ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || continue
    taken+="$port "
    if ((n < brokers)); then client_ports+=("$port")
    elif ((n < 2 * brokers)); then controller_ports+=("$port")
    else door_ports+=("$port"); fi
    n=$((n + 1))
  done
  local at voters_list=()
  for ((n = 1; n <= brokers; n++)); do
    voters_list+=("$n@127.0.0.1:${controller_ports[n - 1]}")
  done
  at=("${client_ports[@]/#/127.0.0.1:}")
  bootstrap=$(IFS=,; echo "${at[*]}")
  voters=$(IFS=,; echo "${voters_list[*]}")
}

# Writes DIR/N: configuration and formatted storage.
prepare() {
  local n=$1 folder
  mkdir -p "$dir/$n"
  configuration "$n" >"$dir/$n/server.properties"
  for folder in $(storage "$n"); do
    if [ -e "$folder" ] && [ -n "$(ls -A "$folder")" ]; then
      refuse "$folder is not empty: it would be mixed with another broker's data"
    fi
    mkdir -p "$folder"
    cp "$cache/template/bootstrap.checkpoint" "$folder/"
    sed -e "s/^cluster.id=.*/cluster.id=$cluster/" -e "s/^node.id=.*/node.id=$n/" \
      -e "s/^directory.id=.*/directory.id=$(random_id)/" \
      "$cache/template/meta.properties" >"$folder/meta.properties"
    echo "$folder" >>"$dir/$n/made"
  done
}

# The folders of a broker's data, as its configuration names them.
storage() {
  sed -n -e 's/^log.dirs=//p' -e 's/^metadata.log.dir=//p' "$dir/$1/server.properties" |
    tr ',' '\n' | sort -u
}

configuration() {
  local n=$1 copies=1 in_sync=1 it
  if [ "$brokers" = 3 ]; then copies=3 in_sync=2; fi
  { defaults "$n" "$copies" "$in_sync"
    [ -z "$secure" ] || secured "$n"
    for it in "${overrides[@]}"; do
      if [[ $it =~ ^([0-9]+):(.*)$ ]]; then
        [ "${BASH_REMATCH[1]}" = "$n" ] || continue
        it=${BASH_REMATCH[2]}
      fi
      echo "${it//\{N\}/$n}"
    done
  } | last_of_each_key
}

last_of_each_key() {
  awk -F= '!($1 in at) { order[++count] = $1; at[$1] = 1 }
    { line[$1] = $0 }
    END { for (i = 1; i <= count; i++) print line[order[i]] }'
}

# Quorum and replication as an operator would have them; the rest so that a broker is small and
# what a test waits for happens in seconds. The two socket timeouts count when a broker is paused:
# with Kafka's 30 s the others hold a request to it for that long, and acks=all with them.
defaults() {
  local n=$1 copies=$2 in_sync=$3
  local client=PLAINTEXT://127.0.0.1:${client_ports[n - 1]}
  cat <<TEXT
process.roles=broker,controller
node.id=$n
controller.quorum.voters=$voters
controller.listener.names=CONTROLLER
listeners=$client,CONTROLLER://127.0.0.1:${controller_ports[n - 1]}
advertised.listeners=$client
log.dirs=$dir/$n/data
metadata.log.dir=$dir/$n/metadata
auto.create.topics.enable=false
default.replication.factor=$copies
min.insync.replicas=$in_sync
unclean.leader.election.enable=false
offsets.topic.replication.factor=$copies
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=$copies
transaction.state.log.min.isr=$in_sync
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=$copies
share.coordinator.state.topic.min.isr=$in_sync
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=100
group.consumer.min.session.timeout.ms=1000
group.consumer.session.timeout.ms=6000
group.consumer.min.heartbeat.interval.ms=100
group.consumer.heartbeat.interval.ms=500
group.streams.min.session.timeout.ms=1000
group.streams.min.heartbeat.interval.ms=100
broker.session.timeout.ms=4000
broker.heartbeat.interval.ms=500
controller.socket.timeout.ms=3000
replica.socket.timeout.ms=3000
num.network.threads=2
num.io.threads=4
log.cleaner.dedupe.buffer.size=8388608
TEXT
}

# Brokers and controllers go on speaking in clear; on the door for TLS alone a client must show a
# certificate.
secured() {
  local n=$1 secrets=$dir/secrets map="PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT"
  local listeners=PLAINTEXT://127.0.0.1:${client_ports[n - 1]} idx door name module password
  local packaged=org.apache.kafka.common.security
  password=$(<"$secrets/password")
  for idx in "${!DOORS[@]}"; do
    door=${DOORS[idx]} name=${DOORS[idx],,}
    listeners+=,$door://127.0.0.1:${door_ports[(n - 1) * ${#DOORS[@]} + idx]}
    map+=,$door:$door
    [[ $door == SASL_* ]] || continue
    module="$packaged.plain.PlainLoginModule required user_node=\"$password\";"
    echo "listener.name.$name.plain.sasl.jaas.config=$module"
    module="$packaged.scram.ScramLoginModule required;"
    echo "listener.name.$name.scram-sha-256.sasl.jaas.config=$module"
    echo "listener.name.$name.scram-sha-512.sasl.jaas.config=$module"
  done
  cat <<TEXT
listeners=$listeners,CONTROLLER://127.0.0.1:${controller_ports[n - 1]}
advertised.listeners=$listeners
listener.security.protocol.map=$map
inter.broker.listener.name=PLAINTEXT
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
ssl.keystore.type=PEM
ssl.keystore.location=$secrets/broker-store.pem
ssl.truststore.type=PEM
ssl.truststore.location=$secrets/ca.pem
listener.name.ssl.ssl.client.auth=required
TEXT
}

# SCRAM's users are kept by the brokers themselves; PLAIN's stand in their configuration.
admit_user() {
  local password idx n at it pids=()
  password=$(<"$dir/secrets/password")
  # One request names a user once, so each mechanism has a request of its own.
  for it in SCRAM-SHA-256 SCRAM-SHA-512; do
    (tool kafka.admin.ConfigCommand --bootstrap-server "$bootstrap" --alter --entity-type users \
      --entity-name node --add-config "$it=[password=$password]") >/dev/null &
    pids+=("$!")
  done
  for it in "${pids[@]}"; do wait "$it" || { stop; refuse "the user was not admitted"; }; done
  for idx in "${!DOORS[@]}"; do
    at=()
    for ((n = 0; n < brokers; n++)); do
      at+=("127.0.0.1:${door_ports[n * ${#DOORS[@]} + idx]}")
    done
    echo "${DOORS[idx]}=$(IFS=,; echo "${at[*]}")"
  done
}

launch() {
  local n=$1 log=$dir/$1/log opts
  # Ready is read from here on; what an earlier run of this broker wrote does not count.
  touch "$log"
  stat -c %s "$log" >"$dir/$n/log.from"
  read -ra opts <<<"${HEALWRIGHT_KAFKA_JAVA_OPTS:-}"
  [ ! -e "$cache/classes.jsa" ] ||
    opts=("-XX:SharedArchiveFile=$cache/classes.jsa" -Xlog:cds=off "${opts[@]}")
  # Level 1 of the compiler, the serial collector: a broker is ready sooner and takes less of a
  # machine that runs tests beside it.
  setsid java -Xmx384m -Xms128m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 "${opts[@]}" \
    -Dorg.slf4j.simpleLogger.defaultLogLevel=warn \
    -Dorg.slf4j.simpleLogger.showDateTime=true \
    -Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS \
    -Dorg.slf4j.simpleLogger.log.kafka.server.KafkaRaftServer=info \
    -cp "$cache/libs/*" kafka.Kafka "$dir/$n/server.properties" \
    </dev/null >>"$log" 2>&1 9>&- &
  echo $! >"$dir/$n/pid"
  # Its end is no news to the shell that `try` waits in.
  disown
}

# Returns 1 when a broker that this shell has launched has ended before it was ready. Its command
# line is not asked for: until it has become java, which takes a while on a busy machine, that is
# this script's own.
await_ready() {
  local n deadline=$((SECONDS + READY_S_MAX))
  for n in "$@"; do
    until said_since_launch "$n" "$READY"; do
      kill -0 "$(<"$dir/$n/pid")" 2>/dev/null || return 1
      if ((SECONDS > deadline)); then
        echo "kafka.sh: broker $n is not ready after $READY_S_MAX s" >&2
        return 1
      fi
      sleep 0.05
    done
  done
}

said_since_launch() {
  tail -c +"$(($(<"$dir/$1/log.from") + 1))" "$dir/$1/log" | grep -q "$2"
}

complain() {
  local n
  for n in "$@"; do
    echo "kafka.sh: broker $n did not become ready; the end of its log:" >&2
    tail -n 15 "$dir/$n/log" >&2
  done
}

# --- One broker ------------------------------------------------------------------------------

# A broker that has ended may stay as a zombie where nobody reaps it; its command line is empty.
is_running() {
  local pid
  pid=$(cat "$dir/$1/pid" 2>/dev/null) || return 1
  { tr '\0' ' ' <"/proc/$pid/cmdline"; } 2>/dev/null | grep -qF " $dir/$1/server.properties "
}

pid_of() {
  is_running "$1" || refuse "broker $1 of $dir does not run"
  cat "$dir/$1/pid"
}

await_end() {
  while is_running "$1"; do sleep 0.02; done
}

kill_broker() {
  local pid
  pid=$(pid_of "$1")
  kill -KILL "$pid"
  await_end "$1"
}

pause_broker() {
  local pid
  pid=$(pid_of "$1")
  kill -STOP "$pid"
}

resume_broker() {
  local pid
  pid=$(pid_of "$1")
  kill -CONT "$pid"
}

# The end that a broker is asked for: it hands its partitions over first. That needs a majority of
# controllers, and without one Kafka waits five minutes; so it gets END_S_MAX and is then killed.
end_broker() {
  local pid deadline=$((SECONDS + END_S_MAX))
  pid=$(pid_of "$1")
  kill -TERM "$pid"
  kill -CONT "$pid"
  while is_running "$1"; do
    ((SECONDS <= deadline)) || kill -KILL "$pid"
    sleep 0.02
  done
}

# Those that are down are launched before any is waited for, because after the loss of a majority
# none is ready alone. Those that run are restarted one after the other, as an operator would.
restart_brokers() {
  local n down=() up=()
  resolve
  for n in "$@"; do
    if is_running "$n"; then up+=("$n"); else down+=("$n"); fi
  done
  for n in "${down[@]}"; do launch "$n"; done
  await_ready "${down[@]}" || { complain "${down[@]}"; exit 1; }
  for n in "${up[@]}"; do
    end_broker "$n"
    launch "$n"
    await_ready "$n" || { complain "$n"; exit 1; }
  done
}

# SIGKILL, for nothing of what they hold is kept. Storage outside DIR is emptied and not removed:
# it may be a mount.
stop() {
  local n folder
  [ -d "$dir" ] || return 0
  for folder in "$dir"/[0-9]*/; do
    [ -d "$folder" ] || continue
    n=$(basename "$folder")
    if is_running "$n"; then
      kill -KILL "$(<"$dir/$n/pid")"
      await_end "$n"
    fi
    while read -r made; do
      [ ! -d "$made" ] || find "$made" -mindepth 1 -delete
    done < <(cat "$dir/$n/made" 2>/dev/null)
    rm -rf "${dir:?}/$n"
  done
  rm -rf "${dir:?}/bootstrap" "${dir:?}/secrets"
  rmdir --ignore-fail-on-non-empty "$dir"
}

# --- For people ------------------------------------------------------------------------------

try_it() {
  dir=$(mktemp -d "${TMPDIR:-/tmp}/healwright-kafka.XXXXXX")
  waiter=""
  trap 'echo "stopping" >&2; stop; [ -z "$waiter" ] || kill "$waiter"' EXIT
  trap 'exit 0' INT TERM
  start >/dev/null
  cat <<TEXT
Apache Kafka answers at $bootstrap; its files are in $dir.

  healwright up --data ./data --log kafka://$bootstrap
  kcat -b $bootstrap -L
  $self tool org.apache.kafka.tools.TopicCommand --bootstrap-server $bootstrap --create --topic try

Ctrl-C stops it and removes its files.
TEXT
  # `wait` is interrupted by a signal at once; a sleep alone would finish first.
  sleep infinity &
  waiter=$!
  wait "$waiter"
}

tool() {
  resolve
  exec java -XX:+UseSerialGC -XX:TieredStopAtLevel=1 \
    -Dorg.slf4j.simpleLogger.defaultLogLevel=error -cp "$cache/libs/*" "$@"
}

# --- Arguments -------------------------------------------------------------------------------

command=${1:-}
[ $# -eq 0 ] || shift
case $command in
  start | kill | end | restart | pause | resume | stop | try) ;;
  tool) [ $# -gt 0 ] || refuse "tool needs a class"; tool "$@" ;;
  libs) resolve; echo "$cache/libs"; exit 0 ;;
  -h | --help) usage; exit 0 ;;
  *) usage >&2; exit 2 ;;
esac

brokers=1 dir="" secure="" overrides=() numbers=()
while [ $# -gt 0 ]; do
  case $1 in
    --brokers) brokers=${2:?--brokers needs 1 or 3}; shift 2 ;;
    --secure) secure=yes; shift ;;
    --dir) dir=${2:?--dir needs a folder}; shift 2 ;;
    -o) [[ ${2:-} == *=* ]] || refuse "-o needs KEY=VALUE"; overrides+=("$2"); shift 2 ;;
    [0-9]*) numbers+=("$1"); shift ;;
    *) refuse "unknown argument $1; see kafka.sh --help" ;;
  esac
done
[ -n "$dir" ] || [ "$command" = try ] || refuse "$command needs --dir DIR"

case $command in
  start) start; exit 0 ;;
  stop) if [ -d "$dir" ]; then dir=$(cd "$dir" && pwd); fi; stop; exit 0 ;;
  try) try_it; exit 0 ;;
esac

[ ${#numbers[@]} -gt 0 ] || refuse "$command needs the number of a broker"
[ -d "$dir" ] || refuse "$dir does not exist: no cluster was started there"
dir=$(cd "$dir" && pwd)
for n in "${numbers[@]}"; do
  [ -e "$dir/$n/server.properties" ] || refuse "$dir has no broker $n"
done
case $command in
  kill) for n in "${numbers[@]}"; do kill_broker "$n"; done ;;
  end) for n in "${numbers[@]}"; do end_broker "$n"; done ;;
  pause) for n in "${numbers[@]}"; do pause_broker "$n"; done ;;
  resume) for n in "${numbers[@]}"; do resume_broker "$n"; done ;;
  restart) restart_brokers "${numbers[@]}" ;;
esac
