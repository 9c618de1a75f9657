#!/usr/bin/env bash
# What a sample costs as series and partitions grow: runs Healwright alone over each combination,
# prints one JSON document, and with --docs DIR writes the table and the plot that stand there.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
series=10000,100000,1000000 partitions=1,4,16 rounds=12 samples_min=4000000 docs=

usage="usage: scale.sh [--series N,…] [--partitions N,…] [--rounds N] [--samples-min N] [--docs DIR]
       rounds: samples of each series, at least; samples-min: samples in all, at least"
while [ $# -gt 0 ]; do
  case $1 in
    --help) echo "$usage"; exit 0 ;;
    --series | --partitions | --rounds | --samples-min | --docs)
      name=${1#--}
      declare "${name//-/_}=${2:?$1 needs a value}"
      shift 2 ;;
    *) echo "$usage" >&2; exit 2 ;;
  esac
done

work=$(mktemp -d "${TMPDIR:-/tmp}/healwright-scale.XXXXXX")
trap 'rm -rf "$work"' EXIT
for s in ${series//,/ }; do
  for p in ${partitions//,/ }; do
    samples=$((s * rounds > samples_min ? s * rounds : samples_min))
    "$here/run.sh" --contenders healwright --series "$s" --partitions "$p" \
      --samples "$samples" >"$work/$s-$p.json"
  done
done

python3 "$here/scale.py" "$docs" "$work"/*.json
