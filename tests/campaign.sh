#!/usr/bin/env bash
# Kills validators at random moments, again and again, and checks that the ledger is none the worse:
#
#   tests/campaign.sh [--rounds N] [--seed N] [--json FILE]
#
# Four real `godwit` processes on loopback, without engines or privileges, under a steady load of records. A round kills one
# of them, or several, or all, by SIGKILL, starts them again, and checks: no fork, no lost record, no equivocation. At the
# end each ledger is audited. A round takes some 5 s; the last line says how it went. See docs/crash-campaign.md.
set -euo pipefail
case ${1:-} in
  -h | --help)
    sed -n '2,8s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
esac
cd "$(dirname "$0")/.."
cargo build --workspace --quiet
exec "${CARGO_TARGET_DIR:-target}/debug/godwit-campaign" "$@"
