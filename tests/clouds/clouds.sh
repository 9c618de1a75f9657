#!/usr/bin/env bash
# Servers on loopback that speak what the clouds speak, for tests of checkpoints: emulators, not
# the clouds. Everything is in memory, secrets are made anew, ports are chosen by the system.
#
#   clouds.sh start s3|azure|google --dir DIR   prints PLACE=URL of an empty bucket, then the
#                                               environment under which it is reached
#   clouds.sh stop --dir DIR                    ends it and removes what start made
#
# s3      S3Proxy, which checks signatures and the hash of what is sent; over TLS at the address in
#         DIR/secrets/endpoint, too, with the authority DIR/secrets/ca.pem.
# azure   Azurite, Microsoft's emulator, which checks shared keys.
# google  a door that checks the service account's token, before an S3Proxy that checks nothing:
#         Google's XML API shares S3's requests and answers, and no emulator that bears Google's
#         name lists, writes and deletes by it.
#
# A server is known by a pid file; a pid is believed only while its command line names DIR.
# HEALWRIGHT_CLOUDS_CACHE is where programs are kept (~/.cache/healwright/clouds).
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${HEALWRIGHT_CLOUDS_CACHE:-$HOME/.cache/healwright/clouds}
readonly READY_S_MAX=120
readonly BUCKET=checkpoints
readonly ACCOUNT=node@healwright.example

refuse() {
  echo "clouds.sh: $*" >&2
  exit 2
}
need() { command -v "$1" >/dev/null || refuse "$1 is missing: $2"; }

# --- Programs --------------------------------------------------------------------------------

source "$here/../folder.sh"

s3proxy() {
  need javac "apt-get install default-jdk-headless (Java 17 or later)"
  folder_for s3proxy "$here"/pom.xml "$here"/Door.java
  if [ ! -e "$folder/complete" ]; then
    need mvn "apt-get install maven"
    echo "fetching S3Proxy from Maven Central into $folder (28 MB, once)" >&2
    mvn -B -q -Dstyle.color=never -f "$here/pom.xml" dependency:copy-dependencies \
      -DincludeScope=runtime "-DoutputDirectory=$folder/libs" >&2 ||
      refuse "Maven could not fetch S3Proxy: see its words above"
    javac -d "$folder" "$here/Door.java"
    touch "$folder/complete"
  fi
  exec 9>&-
}

azurite() {
  need npm "install Node.js 18 or later, with npm"
  folder_for azurite "$here"/azurite/*
  if [ ! -e "$folder/complete" ]; then
    echo "fetching Azurite from npm into $folder (190 MB, once)" >&2
    cp "$here"/azurite/* "$folder/"
    (cd "$folder" && npm ci --silent --ignore-scripts --no-audit --no-fund) >&2 ||
      refuse "npm could not fetch Azurite: see its words above"
    touch "$folder/complete"
  fi
  exec 9>&-
}

# --- Servers ---------------------------------------------------------------------------------

# Starts a server and returns once its log says that it is ready.
launch() { # NAME READY COMMAND…
  local name=$1 ready=$2 deadline=$((SECONDS + READY_S_MAX))
  shift 2
  setsid "$@" >"$dir/$name.log" 2>&1 </dev/null &
  echo $! >"$dir/$name.pid"
  until grep -qs "$ready" "$dir/$name.log"; do
    if ! kill -0 "$(<"$dir/$name.pid")" 2>/dev/null || ((SECONDS > deadline)); then
      tail -n 15 "$dir/$name.log" >&2
      stop
      refuse "$name did not become ready; the end of its log is above"
    fi
    sleep 0.05
  done
}

# The port on a line of a server's log.
port_of() { # NAME LINE
  grep -om1 "$2[0-9]*" "$dir/$1.log" | grep -o '[0-9]*$'
}

launch_java() { # NAME READY ARG…
  launch "$1" "$2" java -Xmx512m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 \
    "-Dhealwright.dir=$dir" -Dsun.net.httpserver.nodelay=true "-Dlogback.configurationFile=$here/logback.xml" \
    -cp "$folder/libs/*:$folder" "${@:3}"
}

launch_s3proxy() { # WORDS-OF-WHO-MAY-ENTER…
  s3proxy
  printf '%s\n' "$@" s3proxy.endpoint=http://127.0.0.1:0 jclouds.provider=transient-nio2 \
    jclouds.identity=none jclouds.credential=none >"$dir/s3proxy.conf"
  launch_java s3proxy 'Started .*Server@' org.gaul.s3proxy.Main --properties "$dir/s3proxy.conf"
  port=$(port_of s3proxy 'Started .*{HTTP/1.1, .*{127.0.0.1:')
}

# Makes the bucket, by a request as its owner would send it.
make_bucket() { # URL CURL-ARG…
  curl -sS --fail-with-body -o "$dir/made" -X PUT -H 'content-length: 0' "$@" || {
    cat "$dir/made" >&2
    stop
    refuse "no bucket could be made: see the answer above"
  }
}

secret() { # BYTES
  head -c "$1" /dev/urandom | base64 -w 0
}

start_s3() {
  local id=node key
  key=$(secret 24)
  "$here/../kafka/secrets.sh" "$dir/secrets"
  openssl pkcs12 -export -in "$dir/secrets/broker.pem" -inkey "$dir/secrets/broker.key" \
    -passout pass:changeit -out "$dir/secrets/store.p12"
  launch_s3proxy s3proxy.authorization=aws-v4 "s3proxy.identity=$id" "s3proxy.credential=$key" \
    s3proxy.secure-endpoint=https://127.0.0.1:0 s3proxy.keystore-password=changeit \
    "s3proxy.keystore-path=$dir/secrets/store.p12"
  make_bucket "http://127.0.0.1:$port/$BUCKET" --aws-sigv4 aws:amz:us-east-1:s3 \
    --user "$id:$key" -H 'x-amz-content-sha256: UNSIGNED-PAYLOAD'
  cat <<TEXT
PLACE=s3://$BUCKET
AWS_ENDPOINT_URL=http://127.0.0.1:$port
AWS_ACCESS_KEY_ID=$id
AWS_SECRET_ACCESS_KEY=$key
TEXT
  # The same over TLS, under an authority that nobody knows.
  port=$(port_of s3proxy 'Started .*{SSL, .*{127.0.0.1:')
  echo "https://127.0.0.1:$port" >"$dir/secrets/endpoint"
}

start_azure() {
  local account=healwright key hex date path signature
  key=$(secret 32)
  azurite
  AZURITE_ACCOUNTS="$account:$key" launch azurite 'successfully listens on' \
    node "--report-directory=$dir" "$folder/node_modules/azurite/dist/src/blob/main.js" \
    --blobHost 127.0.0.1 --blobPort 0 --inMemoryPersistence --disableTelemetry --silent
  port=$(port_of azurite 'listens on http://127.0.0.1:')
  hex=$(base64 -d <<<"$key" | od -An -v -tx1 | tr -d ' \n')
  date=$(LC_ALL=C date -u '+%a, %d %b %Y %H:%M:%S GMT')
  path=/$account/$BUCKET
  signature=$(printf 'PUT\n\n\n\n\n\n\n\n\n\n\n\n%s\n%s\n%s\n%s' "x-ms-date:$date" \
    x-ms-version:2021-08-06 "/$account$path" restype:container |
    openssl dgst -sha256 -mac HMAC -macopt "hexkey:$hex" -binary | base64 -w 0)
  make_bucket "http://127.0.0.1:$port$path?restype=container" -H "x-ms-date: $date" \
    -H 'x-ms-version: 2021-08-06' -H "authorization: SharedKey $account:$signature"
  cat <<TEXT
PLACE=az://$BUCKET
AZURE_STORAGE_ENDPOINT=http://127.0.0.1:$port/$account
AZURE_STORAGE_ACCOUNT_NAME=$account
AZURE_STORAGE_ACCOUNT_KEY=$key
TEXT
}

account() { # NAME
  openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out "$dir/$1.key" 2>/dev/null
}
account_file() { # NAME
  cat >"$dir/$1.json" <<TEXT
{
  "type": "service_account",
  "client_email": "$ACCOUNT",
  "private_key_id": "1",
  "private_key": "$(sed ':a;N;$!ba;s/\n/\\n/g' "$dir/$1.key")\n",
  "gcs_base_url": "http://127.0.0.1:$port"
}
TEXT
}

# Beside the account's file lies a stranger's, who says the same and has another key.
start_google() {
  local upstream
  launch_s3proxy s3proxy.authorization=none
  upstream=http://127.0.0.1:$port
  make_bucket "$upstream/$BUCKET"
  account account
  openssl pkey -in "$dir/account.key" -pubout -outform DER -out "$dir/account.pub"
  launch_java door '^PORT ' Door "$dir/account.pub" "$ACCOUNT" "$upstream"
  port=$(port_of door '^PORT ')
  account_file account
  account stranger
  account_file stranger
  cat <<TEXT
PLACE=gs://$BUCKET
GOOGLE_SERVICE_ACCOUNT=$dir/account.json
TEXT
}

is_running() { # PID-FILE
  local pid
  pid=$(cat "$1" 2>/dev/null) || return 1
  { tr '\0' ' ' <"/proc/$pid/cmdline"; } 2>/dev/null | grep -qF -- "=$dir "
}

stop() {
  local file
  [ -d "$dir" ] || return 0
  for file in "$dir"/*.pid; do
    if is_running "$file"; then
      kill -KILL "$(<"$file")"
      while is_running "$file"; do sleep 0.02; done
    fi
  done
  rm -f "$dir"/*.pid "$dir"/*.log "$dir"/s3proxy.conf "$dir"/made "$dir"/account.* "$dir"/stranger.*
  rm -rf "${dir:?}/secrets"
  rmdir --ignore-fail-on-non-empty "$dir"
}

usage="usage: clouds.sh start s3|azure|google --dir DIR
       clouds.sh stop --dir DIR"
command=${1:-}
kind=""
if [ "$command" = start ] && [ $# -ge 2 ]; then
  kind=$2
  shift
fi
[ "${2:-}" = --dir ] && [ -n "${3:-}" ] || refuse "$usage"
dir=$3
case $command:$kind in
  start:s3 | start:azure | start:google)
    need curl "apt-get install curl"
    need openssl "apt-get install openssl"
    umask 077
    mkdir -p "$dir"
    dir=$(cd "$dir" && pwd)
    ! ls "$dir"/*.pid >/dev/null 2>&1 || refuse "$dir has a server: clouds.sh stop --dir $dir"
    "start_$kind"
    ;;
  stop:)
    if [ -d "$dir" ]; then dir=$(cd "$dir" && pwd); fi
    stop
    ;;
  *) refuse "$usage" ;;
esac
