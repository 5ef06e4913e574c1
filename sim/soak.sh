#!/usr/bin/env bash
# Runs the simulator on new seeds for a time, and remembers how far it came:
#
#   sim/soak.sh MINUTES              goes on where the last soak ended
#   sim/soak.sh MINUTES --from SEED  from a seed
#   sim/soak.sh MINUTES --threads N  on so many cores, instead of all
#
# Signatures are a keyed hash in these runs, which costs a hundredth; the seeds in the tests use real keys. Each soak adds a
# line of JSON to sim/soaks.jsonl, with a hash of the code that ran: what a mend has changed is to be shown anew. Exit code 1
# if a promise was broken; the plans that broke it are printed.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
  sed -n '2,11s/^# \{0,1\}//p' "$0"
}

from=""
minutes=""
threads=()
while (($# > 0)); do
  case $1 in
    -h | --help)
      usage
      exit 0
      ;;
    --from)
      from=${2:?"--from lacks its seed"}
      shift
      ;;
    --threads)
      threads=(--threads "${2:?"--threads lacks its number"}")
      shift
      ;;
    *[!0-9]* | "")
      echo "soak.sh: unknown argument $1 (try --help)" >&2
      exit 2
      ;;
    *) minutes=$1 ;;
  esac
  shift
done
if [[ -z $minutes ]]; then
  usage >&2
  exit 2
fi

record=sim/soaks.jsonl
if [[ -z $from ]]; then
  if [[ -s $record ]]; then
    from=$(tail -n 1 "$record" | sed -n 's/.*"next":\([0-9]*\).*/\1/p')
  fi
  from=${from:-1000000}
fi

cargo build --quiet --workspace --features godwit-sim/keyed-hash --bin godwit-sim
code=$(git ls-tree HEAD protocol ledger sim/src Cargo.lock | sha256sum | cut -c1-12)
git diff --quiet HEAD -- protocol ledger sim/src Cargo.lock || code=$code-changed
status=0
line=$(target/debug/godwit-sim --seed "$from" --minutes "$minutes" "${threads[@]}" --json) || status=$?
line="{\"code\":\"$code\",${line#\{}"
printf '%s\n' "$line" >>"$record"
printf '%s\n' "$line"
runs() {
  sed -n 's/.*"full":\([0-9]*\).*/\1/p' | awk '{ sum += $1 } END { print sum + 0 }'
}
echo "clean runs with 5 handoffs or more: $(grep -F "\"code\":\"$code\"" "$record" | runs) of this code, $(runs <"$record") in all"
echo "go on with: sim/soak.sh $minutes"
exit "$status"
