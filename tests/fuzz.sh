#!/usr/bin/env bash
# Looks for bytes that break a promise of what reads them, and remembers for how long it looked:
#
#   tests/fuzz.sh MINUTES [TARGET...]   so long at each target, all of them by default, one after the other
#   tests/fuzz.sh --as-built MINUTES [TARGET...]   the same, with the programs of the last time
#   tests/fuzz.sh --totals              for how long each was fuzzed so far
#
# Needs `cargo install cargo-fuzz` and a nightly toolchain. Begins with the samples of tests/decoders and what was found
# earlier. What it learns stays in target/fuzz/corpus/TARGET. Each run adds a line of JSON to tests/fuzz/runs.jsonl.
# Bytes that break a promise are printed with the command that shows it: mend it, and keep them in
# tests/decoders/corpus/TARGET, which the tests read ever after. Exit code 1 if there are any.
set -euo pipefail
cd "$(dirname "$0")/.."

record=tests/fuzz/runs.jsonl
# Longer inputs are slower and hardly reach other code; a time-out is a promise broken, too: reading is bounded.
limits=(-max_len=16384 -timeout=25 -rss_limit_mb=4096 -print_final_stats=1)

usage() {
  sed -n '2,12s/^# \{0,1\}//p' "$0"
}

targets() {
  sed -n 's/^name = "\(.*\)"$/\1/p' tests/fuzz/Cargo.toml | grep -v '^godwit-'
}

totals() {
  for target in $(targets); do
    seconds=$({ grep -s "\"target\":\"$target\"" "$record" || true; } | sed -n 's/.*"seconds":\([0-9]*\).*/\1/p' |
      awk '{ sum += $1 } END { print sum + 0 }')
    printf '%-16s %6d s\n' "$target" "$seconds"
  done
}

build=true
if [[ ${1:-} == --as-built ]]; then
  build=false
  shift
fi
case ${1:-} in
  -h | --help)
    usage
    exit 0
    ;;
  --totals)
    totals
    exit 0
    ;;
  *[!0-9]* | "")
    usage >&2
    exit 2
    ;;
esac
minutes=$1
shift
chosen=("$@")
if ((${#chosen[@]} == 0)); then
  mapfile -t chosen < <(targets)
fi
for target in "${chosen[@]}"; do
  if ! targets | grep -qx "$target"; then
    echo "fuzz.sh: there is no target $target; there are: $(targets | tr '\n' ' ')" >&2
    exit 2
  fi
done
work=$PWD/target/fuzz
mkdir -p "$work/seeds" "$work/bin"
if [[ $build == true ]]; then
  if ! cargo +nightly fuzz --version >/dev/null 2>&1; then
    echo "fuzz.sh: cargo-fuzz or a nightly toolchain is missing: rustup toolchain install nightly; cargo install cargo-fuzz" >&2
    exit 2
  fi
  GODWIT_WRITE_SEEDS=$work/seeds cargo nextest run --workspace --status-level none --final-status-level fail \
    -E 'package(godwit-decoders) & test(what_fuzzing_found)' >/dev/null
  cargo +nightly fuzz build --fuzz-dir tests/fuzz --target-dir "$work/build"
  host=$(rustc -vV | sed -n 's/^host: //p')
  for target in $(targets); do
    # Copies: what is fuzzed for hours is not exchanged by the next build.
    cp "$work/build/$host/release/$target" "$work/bin/$target.new"
    mv "$work/bin/$target.new" "$work/bin/$target"
  done
  git rev-parse --short HEAD >"$work/bin/commit"
fi
if [[ ! -s $work/bin/commit ]]; then
  echo "fuzz.sh: nothing is built yet: run it once without --as-built" >&2
  exit 2
fi

status=0
for target in "${chosen[@]}"; do
  corpus=$work/corpus/$target
  artifacts=$work/artifacts/$target
  found=tests/decoders/corpus/$target
  mkdir -p "$corpus" "$artifacts"
  folders=("$corpus" "$work/seeds/$target")
  if [[ -d $found ]]; then folders+=("$found"); fi
  began=$SECONDS
  log=$work/$target.log
  clean=true
  echo "== $target, $minutes min"
  # As cargo-fuzz runs it.
  ASAN_OPTIONS=detect_odr_violation=0 "$work/bin/$target" "${folders[@]}" "${limits[@]}" \
    -max_total_time=$((minutes * 60)) -artifact_prefix="$artifacts/" >"$log" 2>&1 || clean=false
  runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log" | tail -n 1)
  printf '{"target":"%s","seconds":%d,"runs":%d,"clean":%s,"commit":"%s"}\n' \
    "$target" $((SECONDS - began)) "${runs:-0}" "$clean" "$(cat "$work/bin/commit")" | tee -a "$record"
  if [[ $clean == false ]]; then
    status=1
    grep -E 'panicked|SUMMARY|ERROR|Test unit written' "$log" | head -n 8 || tail -n 20 "$log"
    echo "it is in $artifacts; see $log"
  fi
done
totals
exit "$status"
