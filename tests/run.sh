#!/usr/bin/env bash
# Everything that must hold, in the order of what is cheapest to find out. As root on Debian or Ubuntu:
#
#   tests/run.sh              all of it
#   tests/run.sh --no-lab     without the tests that need real sites with container engines
set -euo pipefail
cd "$(dirname "$0")/.."

lab=yes
for argument in "$@"; do
  case $argument in
    --no-lab) lab=no ;;
    -h | --help) sed -n '2,5s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "run.sh: unknown argument $argument (try --help)" >&2; exit 2 ;;
  esac
done

step() { printf '\n== %s\n' "$*"; }

step "install what is missing"
tests/setup.sh

step "format"
cargo fmt --all --check

step "lints"
cargo clippy --workspace --all-targets --quiet -- -D warnings

step "tests"
cargo build --workspace --quiet
cargo nextest run --workspace --no-fail-fast

if [[ $lab == yes ]]; then
  step "tests with real sites"
  tests/lab.sh
fi
