#!/usr/bin/env bash
# What a sample costs as series and partitions grow: runs Healwright alone over each combination,
# prints one JSON document of medians, and with --docs DIR writes the tables and the plot that
# stand there. All combinations are run once before any is run again: a machine that grows slower
# on the way slows all of them.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
series=10000,100000,1000000 partitions=1,4,16 rounds=12 samples_min=4000000 runs=3 docs=

usage="usage: scale.sh [--series N,…] [--partitions N,…] [--rounds N] [--samples-min N] [--runs N]
                [--docs DIR]
       rounds: samples of each series, at least; samples-min: samples in all, at least;
       runs: of each combination; its median counts"
while [ $# -gt 0 ]; do
  case $1 in
    --help) echo "$usage"; exit 0 ;;
    --series | --partitions | --rounds | --samples-min | --runs | --docs)
      name=${1#--}
      declare "${name//-/_}=${2:?$1 needs a value}"
      shift 2 ;;
    *) echo "$usage" >&2; exit 2 ;;
  esac
done

work=$(mktemp -d "${TMPDIR:-/tmp}/healwright-scale.XXXXXX")
trap 'rm -rf "$work"' EXIT
for run in $(seq "$runs"); do
  for s in ${series//,/ }; do
    for p in ${partitions//,/ }; do
      samples=$((s * rounds > samples_min ? s * rounds : samples_min))
      echo "run $run of $runs: $s series, $p partitions" >&2
      "$here/run.sh" --contenders healwright --series "$s" --partitions "$p" \
        --samples "$samples" >"$work/$s-$p-$run.json"
    done
  done
done

python3 "$here/scale.py" "$docs" "$work"/*.json
