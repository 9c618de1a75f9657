#!/usr/bin/env bash
# secrets.sh DIR: what a broker with TLS and SASL needs, and what its clients need. An authority,
# a broker's certificate for 127.0.0.1, a client's with an encrypted key, and two passwords. They
# are made anew for each cluster and worth nothing elsewhere.
set -euo pipefail

dir=$1
command -v openssl >/dev/null || {
  echo "kafka.sh: openssl is missing: apt-get install openssl" >&2
  exit 2
}
umask 077
mkdir -p "$dir"
cd "$dir"
head -c 12 /dev/urandom | base64 | tr '+/' 'ab' >password
head -c 12 /dev/urandom | base64 | tr '+/' 'ab' >key-password

authority() { # NAME
  openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj "/CN=$1" -keyout "$1.key" -out "$1.pem"
}
signed() { # NAME EXTENSION
  openssl x509 -req -in "$1.csr" -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -out "$1.pem" \
    -extfile <(echo "$2")
}
{
  authority ca
  authority stranger
  openssl req -newkey rsa:2048 -nodes -subj /CN=broker -keyout broker.key -out broker.csr
  signed broker "subjectAltName=IP:127.0.0.1"
  openssl req -newkey rsa:2048 -passout file:key-password -subj /CN=node -keyout client.key \
    -out client.csr
  signed client "extendedKeyUsage=clientAuth"
} 2>/dev/null
# Kafka reads key and certificate from one file.
cat broker.key broker.pem >broker-store.pem
