#!/usr/bin/env bash
# Measures Godwit in the lab at 1 Gbit/s, beside the method that it replaces, and its ledger on loopback, beside what
# limits it. As root on Debian or Ubuntu:
#
#   tests/bench.sh [handoff|ledger] [--quick] [--no-lab] [--json FILE]
#
# handoff: downtime, stall, total time and bytes for 1 to 1024 MB, idle and writing, one, two and four containers at once
# ledger:  records per second and time to commit with 4, 7 and 16 validators, from an offer to its award, catching up,
#          audit, memory and disk; in the lab from an operator's wish to the award. By the release build: a cold one takes
#          a quarter of an hour, the measuring some five minutes
# Without a name: both. --quick: fewer sizes and runs, to see that it works. --no-lab: on loopback only, without privileges.
# Prints tables; asserts nothing.
set -euo pipefail
profile=(--profile dev) folder=debug lab=yes
for argument in "$@"; do
  case $argument in
    -h | --help)
      sed -n '2,13s/^# \{0,1\}//p' "$0"
      exit 0
      ;;
    ledger) profile=(--release) folder=release ;;
    --no-lab) lab=no ;;
  esac
done
cd "$(dirname "$0")/.."
[[ $lab == no ]] || tests/setup.sh
cargo build --workspace --quiet "${profile[@]}"
exec "${CARGO_TARGET_DIR:-target}/$folder/godwit-bench" "$@"
