#!/usr/bin/env bash
# Measures Godwit in the lab at 1 Gbit/s, beside the method that it replaces. As root on Debian or Ubuntu:
#
#   tests/bench.sh [handoff|ledger] [--quick] [--json FILE]
#
# handoff: downtime, stall, total time and bytes for 1, 64 and 256 MB, one, two and four containers at once
# ledger:  from an offer to its award
# Without a name: both. --quick: fewer sizes and runs, to see that it works. Prints tables; asserts nothing.
set -euo pipefail
case ${1:-} in
  -h | --help)
    sed -n '2,8s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
esac
cd "$(dirname "$0")/.."
tests/setup.sh
cargo build --workspace --quiet
exec "${CARGO_TARGET_DIR:-target}/debug/godwit-bench" "$@"
