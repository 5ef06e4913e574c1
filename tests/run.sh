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
    -h | --help)
      sed -n '2,5s/^# \{0,1\}//p' "$0"
      exit 0
      ;;
    *)
      echo "run.sh: unknown argument $argument (try --help)" >&2
      exit 2
      ;;
  esac
done

step() { printf '\n== %s (%d min %d s so far)\n' "$*" $((SECONDS / 60)) $((SECONDS % 60)); }

step "install what is missing"
tests/setup.sh

step "scripts"
git ls-files -z '*.sh' .ci/run deploy/lab/lab deploy/lab/site-init deploy/lab/test | xargs -0 shellcheck --external-sources

step "format"
cargo fmt --all --check

step "lints"
cargo clippy --workspace --all-targets --quiet -- -D warnings

# Always the whole workspace: another selection of crates would have other features, and be built again.
step "build"
cargo build --workspace --all-targets --quiet

step "tests"
cargo nextest run --workspace -E 'not binary(/^lab_/)'

step "deliberate bugs, which the simulator must catch"
cargo nextest run --workspace --features godwit-sim/planted,godwit-sim/keyed-hash --test planted

if [[ $lab == yes ]]; then
  step "tests with real sites"
  deploy/lab/lab base
  deploy/lab/test
  cargo nextest run --workspace -E 'binary(/^lab_/)'
else
  step "LEFT OUT: the tests with real sites (lab_*)"
fi
step "all of it passed"
