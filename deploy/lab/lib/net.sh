# shellcheck shell=bash
# The backbone: a network namespace with a bridge. Each site has a veth to it; clients live on the bridge's own address.

BACKBONE_IP=10.99.0.254

site_ip() { echo "10.99.0.${1#s}"; }

backbone_make() {
  [ ! -e "/run/netns/$NETNS" ] || return 0
  # iproute2 makes (and mounts) its directory on first use and leaves it there: remember to clear it away.
  [ -d /run/netns ] || : >"$LAB_DIR/.made-run-netns"
  ip netns add "$NETNS"
  # No multicast snooping: mDNS reaches every site without a querier.
  ip -n "$NETNS" link set lo up
  ip -n "$NETNS" link add mesh type bridge stp_state 0 forward_delay 0 mcast_snooping 0
  ip -n "$NETNS" addr add "$BACKBONE_IP/24" dev mesh
  ip -n "$NETNS" link set mesh up
  nsenter --net="/run/netns/$NETNS" sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.mesh.rp_filter=0
  nsenter --net="/run/netns/$NETNS" nft -f - <<'NFT'
table bridge cuts {
  set pairs { type ifname . ifname; }
  set apart { type ifname; }
  set off_backbone { type ifname; }
  chain between { type filter hook forward priority 0; iifname . oifname @pairs drop; iifname @apart drop; oifname @apart drop; }
  chain in { type filter hook input priority 0; iifname @apart drop; iifname @off_backbone drop; }
  chain out { type filter hook output priority 0; oifname @apart drop; oifname @off_backbone drop; }
}
NFT
}

backbone_remove() {
  [ ! -e "/run/netns/$NETNS" ] || ip netns del "$NETNS"
  if [ -e "$LAB_DIR/.made-run-netns" ] && [ -z "$(ls -A /run/netns)" ]; then
    ! mountpoint -q /run/netns || umount /run/netns
    rmdir /run/netns
    rm "$LAB_DIR/.made-run-netns"
  fi
}

# site_plug SITE PID: a cable from the site to the bridge.
site_plug() {
  local site=$1 pid=$2 number=${1#s} mac
  mac=$(printf '02:67:00:00:00:%02x' "$number")
  ip -n "$NETNS" link add "$site" type veth peer name eth0 address "$mac" netns "$pid"
  ip -n "$NETNS" link set "$site" master mesh up
  nsenter --target "$pid" --net -- bash -euc '
    sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0 net.ipv4.conf.eth0.rp_filter=0
    ip link set lo up
    ip addr add "$1/24" dev eth0
    ip link set eth0 up' - "$(site_ip "$site")"
  site_rate "$site" "$pid"
}

site_unplug() { ip -n "$NETNS" link del "$1" 2>/dev/null || true; }

# site_rate SITE PID: a token bucket on both ends of the cable. The burst holds several 64 KB segments, so that a gigabit
# link can be filled; the queue holds 50 ms.
site_rate() {
  local shaped=(tbf rate "$RATE" burst 512kb latency 50ms)
  if [ -z "$RATE" ]; then
    tc -n "$NETNS" qdisc del dev "$1" root 2>/dev/null || true
    nsenter --target "$2" --net -- tc qdisc del dev eth0 root 2>/dev/null || true
    return 0
  fi
  tc -n "$NETNS" qdisc replace dev "$1" root "${shaped[@]}"
  nsenter --target "$2" --net -- tc qdisc replace dev eth0 root "${shaped[@]}"
}

in_backbone() { nsenter --net="/run/netns/$NETNS" -- "$@"; }

# cut_elements A [B]: the nft set and elements that a cut stands for.
cut_elements() {
  local a=$1 b=${2:-}
  [ "$a" != backbone ] || { a=$b b=backbone; }
  check_site "$a"
  case $b in
    '') echo "apart { $a }" ;;
    backbone) echo "off_backbone { $a }" ;;
    *)
      check_site "$b"
      [ "$a" != "$b" ] || die "cut: '$a' from itself?"
      echo "pairs { $a . $b, $b . $a }"
      ;;
  esac
}

cut_command() {
  [ $# -ge 1 ] && [ $# -le 2 ] || die "cut: one or two of: sites, backbone"
  check_root
  local elements
  elements=$(cut_elements "$@")
  in_backbone nft "add element bridge cuts $elements"
}

heal_command() {
  [ $# -le 2 ] || die "heal: nothing, a site, or two"
  check_root
  [ -e "/run/netns/$NETNS" ] || die "lab '$LAB_NAME' is not up"
  local elements site
  case $# in
    0) in_backbone nft 'flush set bridge cuts pairs; flush set bridge cuts apart; flush set bridge cuts off_backbone' ;;
    2)
      elements=$(cut_elements "$@")
      in_backbone nft "add element bridge cuts $elements; delete element bridge cuts $elements"
      ;;
    1)
      check_site "$1"
      for site in '' backbone $(sites); do
        [ "$site" != "$1" ] || continue
        elements=$(cut_elements "$1" "$site")
        in_backbone nft "add element bridge cuts $elements; delete element bridge cuts $elements"
      done
      ;;
  esac
}

# The cuts in force, for people: "s1|s2", "s3|all", "s1|backbone".
cuts() {
  local set
  for set in pairs apart off_backbone; do
    in_backbone nft list set bridge cuts "$set" 2>/dev/null | tr -d '\n\t"' | sed -n 's/.*elements = {\(.*\)}.*}.*/\1/p' | tr ',' '\n' |
      awk -v set="$set" 'NF { if (set == "pairs") { if ($1 < $3) print $1 "|" $3 } else print $1 "|" (set == "apart" ? "all" : "backbone") }'
  done | sort -u | tr '\n' ' '
}
