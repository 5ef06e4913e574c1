# shellcheck shell=bash
# The root file system that all sites share: Debian 13 with a Docker engine, and CRIU from sid, because 4.2 is the first
# version that can dump sockets on kernels from 6.16.

BASE_RECIPE=2 # raise when the recipe changes: an older cache is then rebuilt
BASE_ROOT=$LAB_DIR/base/$BASE_RECIPE
BASE_PACKAGES=ca-certificates,curl,iproute2,iptables,iputils-ping,nftables,openssh-client,openssh-server,procps,strace
CRIU_PACKAGES=(criu libcompel1 libnet9 libnl-3-200)
CRIU_AT_LEAST=4.2

base_command() {
  case ${1:-} in
    '') if [ -d "$BASE_ROOT" ]; then say "base is at $BASE_ROOT"; else base_build; fi ;;
    --rebuild) base_build again ;;
    --remove)
      check_root
      mkdir -p "$LAB_DIR/labs"
      take_lock
      base_unused
      rm -rf --one-file-system "$LAB_DIR/base"
      rmdir "$LAB_DIR/labs" "$LAB_DIR" 2>/dev/null || true # the directory may hold more than ours
      ;;
    *) die "base: unknown option '$1'" ;;
  esac
}

# The base is the lower layer of every site of every lab: nobody may be using it when it goes.
base_unused() {
  local labs
  labs=$(ls -A "$LAB_DIR/labs" 2>/dev/null || true)
  [ -z "$labs" ] || die "labs use the base, take them down first: $labs"
}

# base_build [again]: builds it if it is not there, or in any case.
base_build() {
  check_machine
  command -v debootstrap >/dev/null || die "missing command; install it: apt-get install debootstrap debian-archive-keyring"
  local script
  for script in trixie sid; do
    script=/usr/share/debootstrap/scripts/$script
    [ ! -e "$script" ] || break
  done
  [ -e "$script" ] || die "debootstrap knows neither trixie nor sid: update the package debootstrap"
  local keyring=/usr/share/keyrings/debian-archive-keyring.gpg
  [ -e "$keyring" ] || die "missing Debian's archive keys; install them: apt-get install debian-archive-keyring"
  mkdir -p "$LAB_DIR/base" "$LAB_DIR/labs"
  take_lock
  if [ "${1:-}" = again ]; then
    base_unused
  elif [ -d "$BASE_ROOT" ]; then # another command has built it while this one waited
    exec 9<&-
    return 0
  fi
  local root=$LAB_DIR/base/.build mirror log=$LAB_DIR/base/build.log proxy
  mirror=$(debian_mirror)
  proxy=$(apt-config shell P Acquire::http::Proxy 2>/dev/null | sed "s/^P='\(.*\)'$/\1/")
  [ -z "$proxy" ] || export http_proxy=$proxy
  say "building the sites' root file system in $LAB_DIR/base (about a minute; log: $log)"
  rm -rf --one-file-system "$root"
  debootstrap --variant=minbase --keyring="$keyring" --include="$BASE_PACKAGES" trixie "$root" \
    ${mirror:+"$mirror"} "$script" >"$log" 2>&1 || die "debootstrap failed: $(tail -n 3 "$log")"
  base_sources "$root"
  # A mount namespace of its own: whatever happens, no mount is left in the machine's table.
  unshare --mount -- bash -euc '
    mount -t proc proc "$1/proc"
    export DEBIAN_FRONTEND=noninteractive LC_ALL=C
    chroot "$1" apt-get -q -o Acquire::Check-Valid-Until=false -o Acquire::Languages=none update
    chroot "$1" apt-get -q -y --no-install-recommends install "${@:2}" runc docker.io docker-cli
    chroot "$1" apt-get clean' - "$root" "${CRIU_PACKAGES[@]}" >>"$log" 2>&1 ||
    die "installing the engine failed: $(grep -E '^(E:|Err:)' "$log" | tail -n 3)"
  local criu
  criu=$(chroot "$root" criu --version | awk '/^Version:/ { print $2 }')
  printf '%s\n%s\n' "$CRIU_AT_LEAST" "$criu" | sort -CV || die "the mirror gave CRIU ${criu:-(none)}; $CRIU_AT_LEAST or newer is needed"
  : >"$root/etc/resolv.conf"
  rm -rf "${root:?}"/var/lib/apt/lists/* "$root"/var/lib/docker "$root"/etc/hostname
  rm -rf --one-file-system "$BASE_ROOT"
  mv "$root" "$BASE_ROOT"
  exec 9<&-
  say "base ready: Debian $(cat "$BASE_ROOT/etc/debian_version"), CRIU $criu, $(chroot "$BASE_ROOT" dockerd --version)"
}

# The mirror that this machine's own sources name for Debian. Where they name none (Ubuntu), the answer is empty and
# debootstrap takes the default it ships with.
debian_mirror() {
  if [ -n "${GODWIT_LAB_MIRROR:-}" ]; then
    echo "$GODWIT_LAB_MIRROR"
    return
  fi
  local files=()
  mapfile -t files < <(find /etc/apt -name '*.list' -o -name '*.sources' 2>/dev/null)
  [ ${#files[@]} -gt 0 ] || return 0
  # Both formats name the archive by an URL whose path ends in /debian.
  sed -n '/^[[:space:]]*\(deb\|URIs:\)[[:space:]]/s#.*[[:space:]]\(https\?://[^[:space:]]*/debian\)/\?\([[:space:]].*\)\?$#\1#p' "${files[@]}" | head -n 1
}

# Only CRIU and its libraries come from sid; no daemon starts during installation.
base_sources() {
  local root=$1 mirror
  mirror=$(awk '$1 == "deb" { print $2; exit }' "$root/etc/apt/sources.list")
  echo "deb $mirror sid main" >"$root/etc/apt/sources.list.d/sid.list"
  printf 'Package: *\nPin: release n=sid\nPin-Priority: -1\n\nPackage: %s\nPin: release n=sid\nPin-Priority: 990\n' \
    "${CRIU_PACKAGES[*]}" >"$root/etc/apt/preferences.d/criu-from-sid"
  printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
  chmod 755 "$root/usr/sbin/policy-rc.d"
}
