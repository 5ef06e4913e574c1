#!/usr/bin/env bash
# Godwit in one command: four edge sites on this machine, one container that moves twice. As root on Debian or Ubuntu:
#
#   deploy/demo.sh          installs what is missing, builds, shows two handoffs and their audit, leaves nothing running
#   deploy/demo.sh --keep   leaves the sites running afterwards, and says how to look around
set -euo pipefail
cd "$(dirname "$0")/.."

keep=no
for argument in "$@"; do
  case $argument in
    --keep) keep=yes ;;
    -h | --help)
      sed -n '2,5s/^# \{0,1\}//p' "$0"
      exit 0
      ;;
    *)
      echo "demo.sh: unknown argument $argument (try --help)" >&2
      exit 2
      ;;
  esac
done

export GODWIT_LAB_NAME=demo
lab=deploy/lab/lab
logs=$(mktemp -d /tmp/godwit-demo.XXXXXX)
sites=(s1 s2 s3 s4)
finished=no

step() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
die() {
  printf 'demo.sh: %s\n' "$*" >&2
  exit 1
}

# in_site SITE ARGUMENTS...: godwit's command line at that site.
in_site() { "$lab" exec "$1" godwit "${@:2}"; }

# until_true SECONDS WHAT COMMAND...: waits for a condition, and says which one it waited for in vain.
until_true() {
  local until=$((SECONDS + $1)) what=$2
  shift 2
  until "$@"; do
    ((SECONDS < until)) || die "waited in vain: $what"
    sleep 0.2
  done
}

cleanup() {
  local code=$?
  if ((code != 0)); then
    for site in "${sites[@]}"; do
      printf '\n-- the end of %s/%s.log:\n' "$logs" "$site" >&2
      tail -n 15 "$logs/$site.log" 2>/dev/null >&2 || true
    done
  fi
  if [[ $keep == no || $finished == no ]]; then
    "$lab" down || true
    ((code != 0)) || rm -rf -- "$logs"
  fi
}

main() {
  ((EUID == 0)) || die "run it as root: namespaces, mounts and engines need it"
  step "install what is missing"
  tests/setup.sh

  step "build (the first time takes a while: RocksDB is compiled from source)"
  # The whole workspace, as the tests build it: another selection of crates would be built again for them.
  cargo build --workspace --bins
  image=$logs/workload.tar
  tests/workload/image.sh "$image"
  target=$(realpath "${CARGO_TARGET_DIR:-target}")
  godwit=$target/debug/godwit
  workload=$target/$(rustc -vV | sed -n 's/^host: //p')/release/workload

  trap cleanup EXIT
  step "four sites, each with its own network, disk and Docker engine"
  "$lab" up 4 --memory 2g --rate 1gbit --bin "$godwit"
  found_mesh
  start_sites
  deploy_workload
  by_memory_pressure
  by_signal_reports
  verdict
  beside_the_usual_way
  finished=yes
  look_further
}

found_mesh() {
  step "a key for each site, and one genesis from their member lines"
  local site members=()
  for site in "${sites[@]}"; do
    members+=("$(in_site "$site" init --name "$site" --address "10.99.0.${site#s}" --network lab 2>/dev/null)")
  done
  in_site s1 genesis create --name demo "${members[@]}" >"$logs/genesis.toml"
  for site in "${sites[@]}"; do
    "$lab" exec "$site" sh -c 'cat >/etc/godwit/genesis.toml' <"$logs/genesis.toml"
  done
  in_site s1 genesis show
}

start_sites() {
  step "godwit run, on each site"
  local site
  for site in "${sites[@]}"; do
    # Four sites share this machine's processors: only memory is to make one of them red, and soon.
    setsid "$lab" exec "$site" godwit run --set cpu_threshold=1000 --set overload_ms=1000 --set dwell_ms=3000 \
      --set gossip_ms=1000 </dev/null >"$logs/$site.log" 2>&1 &
    disown
  done
  until_true 60 "all sites see each other" all_connected
  in_site s1 sites
}

all_connected() {
  local site
  for site in "${sites[@]}"; do
    in_site "$site" status --json 2>/dev/null | jq -e '.peers == 3' >/dev/null || return 1
  done
}

deploy_workload() {
  step "deploy a container that counts, holds memory, writes a file and keeps TCP connections"
  client=$(in_client client init --key "$logs/client.key" 2>/dev/null | grep -oE '[0-9a-f]{64}')
  "$lab" exec s1 docker load --quiet <"$image"
  in_site s1 deploy --name counter --cpus 0.2 --memory 96m --client "$client" godwit-workload:latest -- --memory-mb 64
  address=$(in_site s1 ps --json | jq -r '.[] | select(.name == "counter") | .address')
  container=$(in_site s1 ps --json | jq -r '.[] | select(.name == "counter") | .container')
  # Clients reach it over s1, which routes by what the ledger says, wherever it is.
  "$lab" backbone ip route replace "$address" via 10.99.0.1
  until_true 60 "the container answers" counter
  first=$(counter)
  echo "it answers: $first"
}

# The client's side: on the network between the sites.
in_client() { "$lab" backbone "$godwit" "$@"; }
counter() { "$lab" backbone "$workload" http "$address:8080" / --seconds 5 2>/dev/null; }
owner() { in_site s1 ps --json | jq -r '.[] | select(.name == "counter") | .owner_name'; }

# done_offers COUNT: whether so many handoffs are complete.
done_offers() { in_site s1 offers --json | jq -e --argjson n "$1" '[.[] | select(.state == "done")] | length >= $n' >/dev/null; }

by_memory_pressure() {
  step "something else on s1 takes 1.1 GB of its 2: more than half of its memory is in use"
  "$lab" exec s1 sh -c 'cat >/tmp/ballast; chmod +x /tmp/ballast' <"$workload"
  setsid "$lab" exec s1 /tmp/ballast --memory-mb 1100 --port 9000 --file /tmp/ballast.journal </dev/null >/dev/null 2>&1 &
  disown
  until_true 120 "s1 hands the container over" done_offers 1
  second=$(owner)
  show_handoff s1 overload "$second"
}

by_signal_reports() {
  local third
  for third in s4 s3 s2; do [[ $third == "$second" ]] || break; done
  step "the container's client drives away from $second, towards $third"
  local signals=(--signal "s1=-120" --signal "$second=-104" --signal "$third=-62")
  drive() {
    in_client client report --key "$logs/client.key" --genesis "$logs/genesis.toml" "${signals[@]}" >/dev/null 2>&1 || true
    done_offers 2
  }
  until_true 120 "the container follows its client" drive
  show_handoff "$second" mobility "$(owner)"
}

# show_handoff SOURCE WHY TARGET
show_handoff() {
  local offer
  offer=$(in_site "$1" offers --json | jq -r --arg why "$2" '[.[] | select(.why == $why and .state == "done")][0].offer')
  in_site "$1" timeline "$offer"
  echo "from $1 to $3. It answers: $(counter)"
}

verdict() {
  step "the same instance goes on counting"
  local last third
  last=$(counter)
  third=$(owner)
  jq -ne --argjson first "$first" --argjson last "$last" '$first.instance == $last.instance and $first.ticks < $last.ticks' \
    >/dev/null || die "the counter was broken: $first, then $last"
  [[ $third != s1 && $third != "$second" ]] || die "it is at $third: that is no third site"
  jq -nr --argjson first "$first" --argjson last "$last" --arg third "$third" --arg second "$second" \
    '"s1 -> \($second) -> \($third), instance \($last.instance), ticks \($first.ticks) -> \($last.ticks)"'

  step "the receipts, as all sites hold them"
  in_site s1 log --json --most 256 | jq -r --arg container "$container" \
    '[.[] | {height} + (.records[] | select(.kind == "receipt"))][] | "block \(.height)  receipt by \(.author_name)  \(.summary)"' |
    tee "$logs/receipts"
  (($(wc -l <"$logs/receipts") == 2)) || die "two receipts were expected"

  step "audit: hash chain, certificates and replay of the state, offline"
  in_site s1 audit /var/lib/godwit | tee "$logs/audit"
  grep -q 'audit: OK' "$logs/audit" || die "the audit found something"
}

# The longest time for which it counted nothing, as it knows itself, in ms.
longest_gap() { jq -r '.max_gap_ms | floor'; }

# The method that scripts use, from s1 to s2, over the same link, with as much memory.
beside_the_usual_way() {
  step "how long it stood still, and how long it would have, moved by docker checkpoint, tar, scp, create and start"
  local ours theirs upper="\$(docker inspect -f '{{.GraphDriver.Data.UpperDir}}' peer)"
  ours=$("$lab" backbone "$workload" http "$address:8080" /gaps --seconds 5 | longest_gap)
  for site in s1 s2; do "$lab" exec "$site" docker load --quiet <"$image" >/dev/null; done
  "$lab" exec s1 sh -c "ssh-keygen -q -t ed25519 -N '' -f ~/.ssh/id_ed25519; cat ~/.ssh/id_ed25519.pub" |
    "$lab" exec s2 sh -c 'mkdir -p -m 700 ~/.ssh /run/sshd; cat >~/.ssh/authorized_keys; /usr/sbin/sshd'
  "$lab" exec s1 sh -ec "
    docker run -d --name peer godwit-workload:latest --memory-mb 64 >/dev/null; sleep 2
    docker checkpoint create --checkpoint-dir /tmp/peer peer cp >/dev/null
    tar -c -C /tmp/peer -f /tmp/peer.tar cp -C $upper .
    scp -q -o StrictHostKeyChecking=accept-new /tmp/peer.tar 10.99.0.2:/tmp/peer.tar"
  "$lab" exec s2 sh -ec "
    id=\$(docker create --name peer godwit-workload:latest --memory-mb 64); mkdir /tmp/peer
    tar -x -C /tmp/peer -f /tmp/peer.tar
    mv /tmp/peer/cp /var/lib/docker/containers/\$id/checkpoints/
    cp -a /tmp/peer/. $upper/
    docker start --checkpoint cp peer >/dev/null"
  theirs=$("$lab" exec s2 sh -c "nsenter -t \$(docker inspect -f '{{.State.Pid}}' peer) -n -- \
    curl -sf --retry 5 --retry-connrefused http://127.0.0.1:8080/gaps" | longest_gap)
  echo "Godwit, the longer of two moves: $ours ms. The usual way: $theirs ms."
}

look_further() {
  local prefix="GODWIT_LAB_NAME=demo $lab"
  if [[ $keep == no ]]; then
    echo
    echo "To look around: deploy/demo.sh --keep"
    return
  fi
  step "look further (logs are in $logs)"
  cat <<TEXT
$prefix exec s1 godwit sites
$prefix exec s2 godwit ps
$prefix exec s3 godwit log --follow
$prefix exec $(owner) godwit migrate counter --wait
$prefix exec $(owner) docker ps
$prefix backbone $workload http $address:8080 /
$prefix cut s2          # a partition; heal ends it
$prefix down            # ends all of it
TEXT
}

main
