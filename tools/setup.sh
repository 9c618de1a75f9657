#!/usr/bin/env bash
# Installs what the build and the demo need on Debian and Ubuntu, and says so; elsewhere says
# what to install. Runs nothing when nothing is missing. `setup.sh test` adds what tests alone need.
set -euo pipefail

missing=() bare=()
need() { # COMMAND-OR-TEST PACKAGE
  eval "$1" >/dev/null 2>&1 || missing+=("$2")
}
need_bare() { # The same, without what the package recommends.
  eval "$1" >/dev/null 2>&1 || bare+=("$2")
}
need "command -v c++" g++
need "command -v make" make
# libclang-cpp is another library, and often there without this one.
need "find /usr/lib/ -maxdepth 3 -name 'libclang.so*' -o -maxdepth 3 -name 'libclang-[0-9]*.so*' | grep ." libclang-dev
# librdkafka speaks TLS and SASL with the system's OpenSSL.
need "command -v pkg-config" pkg-config
need "ls /usr/include/openssl/ssl.h" libssl-dev
need "command -v bwrap" bubblewrap
need "python3 -I -c 'import venv'" python3-venv
need "python3 -c 'import cryptography' || /usr/bin/python3 -c 'import cryptography'" python3-cryptography
need "command -v curl" curl
# Debian from 13 on and Ubuntu from 24.04 on have it, and its cargo lies on the path at once.
if ! command -v cargo >/dev/null && apt-cache show rustup >/dev/null 2>&1; then
  missing+=(rustup)
fi
if [ "${1:-}" = test ]; then
  # Tests against Kafka run the real broker, which Maven fetches, and compile a Java client.
  need "command -v javac" default-jdk-headless
  need "command -v mvn" maven
  # Certificates of a broker that speaks TLS.
  need "command -v openssl" openssl
  # Reads docker-compose.yml; it recommends an engine, which nothing here runs.
  need_bare "docker compose version || command -v docker-compose" docker-compose
  # One of the clients that must be able to read what is published.
  need "command -v kcat" kcat
  # Azurite, an emulator of Azure's storage, is fetched by npm: some 400 packages on Debian, so only
  # where a test that does not run counts as a failure.
  [ -z "${CI:-}" ] || need_bare "command -v npm" npm
  # Another client; Debian's from 13 on is new enough, and its test tells an older one.
  [ -z "${CI:-}" ] || need_bare "command -v go" golang-go
fi

if [ $((${#missing[@]} + ${#bare[@]})) -gt 0 ]; then
  if ! command -v apt-get >/dev/null; then
    echo "missing here: ${missing[*]} ${bare[*]} (these are Debian's names)." >&2
    echo "Install them with this system's package manager and run the command again." >&2
    exit 2
  fi
  sudo=()
  [ "$(id -u)" = 0 ] || sudo=(sudo)
  echo "installing ${missing[*]} ${bare[*]}"
  export DEBIAN_FRONTEND=noninteractive
  "${sudo[@]}" apt-get update -qq
  "${sudo[@]}" apt-get install -y -qq "${missing[@]}" >/dev/null
  "${sudo[@]}" apt-get install -y -qq --no-install-recommends "${bare[@]}" >/dev/null
fi

# A python3 that is not the system's does not see the system's packages.
if ! python3 -c 'import cryptography' >/dev/null 2>&1; then
  echo "installing cryptography for $(command -v python3), for the independent verifier"
  python3 -m pip install --quiet cryptography || {
    echo "python3 lacks the package cryptography: the independent verifier cannot be run" >&2
  }
fi

if ! command -v cargo >/dev/null; then
  echo "missing here: Rust 1.95 or later, and this system has no package rustup. Install it as" >&2
  echo "https://rustup.rs says, open a new shell, and run the command again." >&2
  exit 2
fi
# Packaged rustup comes without a compiler.
if command -v rustup >/dev/null && ! cargo --version >/dev/null 2>&1; then
  echo "installing the stable Rust compiler with rustup"
  rustup toolchain install stable --profile minimal --component clippy,rustfmt
  rustup default stable
fi

if [ ! -e "${CARGO_TARGET_DIR:-target}/debug/healwright" ]; then
  echo "first build: RocksDB, librdkafka and about 330 crates are compiled; 10 to 25 minutes on two cores"
fi
