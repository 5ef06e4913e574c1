# shellcheck shell=bash
# Names, settings and checks that the other parts share.

LAB_DIR=${GODWIT_LAB_DIR:-/var/lib/godwit-lab}
LAB_NAME=${GODWIT_LAB_NAME:-lab}
RUN=$LAB_DIR/labs/$LAB_NAME
NETNS=godwit-$LAB_NAME
# One /24 holds them all; .254 is the backbone itself.
SITES_MAX=250
SITE_PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

say() { printf 'lab: %s\n' "$*" >&2; }

die() {
  printf 'lab: %s\n' "$*" >&2
  exit 1
}

[[ $LAB_NAME =~ ^[a-z][a-z0-9]{0,8}$ ]] || die "GODWIT_LAB_NAME '$LAB_NAME': a letter and up to 8 letters or digits, lower case"
[[ $LAB_DIR =~ ^/[A-Za-z0-9/._-]+$ ]] || die "GODWIT_LAB_DIR '$LAB_DIR': an absolute path of letters, digits and / . _ -"

check_root() { [ "$(id -u)" = 0 ] || die "must run as root (namespaces, mounts and cgroups)"; }

# need COMMAND PACKAGE: collects what is missing, so that one message names all of it.
need() { command -v "$1" >/dev/null || missing+=("$2"); }

check_machine() {
  check_root
  [ "$(uname -s)" = Linux ] || die "needs Linux"
  local missing=()
  need ip iproute2
  need tc iproute2
  need nft nftables
  need unshare util-linux
  need nsenter util-linux
  need flock util-linux
  need mkfifo coreutils
  need ps procps
  [ ${#missing[@]} -eq 0 ] ||
    die "missing commands; install them: apt-get install $(printf '%s\n' "${missing[@]}" | sort -u | tr '\n' ' ')"
  local module
  for module in overlay bridge veth sch_tbf tun br_netfilter nf_tables nft_chain_nat xt_conntrack xt_MASQUERADE xt_addrtype; do
    modprobe -q "$module" 2>/dev/null || true # built in, or not needed here: what is really missing fails by name later
  done
  grep -qw overlay /proc/filesystems || die "the kernel has no overlayfs (modprobe overlay)"
}

# One lab command at a time. The descriptor is closed in whatever outlives the command.
take_lock() {
  [ -d "$LAB_DIR/labs" ] || die "lab '$LAB_NAME' is not up"
  exec 9<"$LAB_DIR/labs"
  flock -w 300 9 || die "another lab command has held $LAB_DIR/labs for five minutes"
}

# For what outlives this command: gives up the lock and every other descriptor, such as a caller's pipe, which would
# otherwise not see its end. (255 is bash's own.)
detach() {
  exec </dev/null >>"$1" 2>&1
  local fd
  for fd in "/proc/$BASHPID/fd/"*; do
    fd=${fd##*/}
    [ "$fd" -le 2 ] || [ "$fd" -eq 255 ] || eval "exec $fd>&-"
  done
}

# The sites that exist, running or not, in numeric order.
sites() {
  [ -d "$RUN/sites" ] || return 0
  find "$RUN/sites" -mindepth 1 -maxdepth 1 -type d -printf '%f\n' | sort -V
}

check_site() { [[ $1 =~ ^s[0-9]+$ ]] && [ -d "$RUN/sites/$1" ] || die "no site '$1' in lab '$LAB_NAME' (there are: $(sites | tr '\n' ' '))"; }
check_rate() { [[ $1 =~ ^[0-9]+(\.[0-9]+)?[kmg]?bit$ ]] || die "rate '$1': for example 1gbit or 200mbit"; }
check_size() { [[ $1 =~ ^[1-9][0-9]*[kmgKMG]?$ ]] || die "memory '$1': for example 2g or 512m"; }
check_cpus() { [[ $1 =~ ^[0-9]+(\.[0-9]{1,2})?$ ]] || die "cpus '$1': for example 1.5"; }

# Options stay in force for later `up` and `start`.
settings_load() {
  RATE='' MEMORY='' CPUS='' DISK=directory ENGINE=yes
  # shellcheck source=/dev/null
  [ ! -f "$RUN/settings" ] || . "$RUN/settings"
}

settings_save() {
  printf 'RATE=%q MEMORY=%q CPUS=%q DISK=%q ENGINE=%q\n' "$RATE" "$MEMORY" "$CPUS" "$DISK" "$ENGINE" >"$RUN/settings"
}

# A new binary replaces the old one by rename: sites see it at once, processes that run the old one keep it.
install_binary() {
  [ -n "$1" ] || return 0
  [ -f "$1" ] && [ -x "$1" ] || die "godwit binary '$1': no such executable file"
  local beside
  beside=$(dirname -- "$1")/godwit-runtime
  # The engines' OCI runtime is built beside it; a running binary cannot be written to.
  for program in "$1:godwit" "$beside:godwit-runtime"; do
    [ -e "${program%:*}" ] || continue
    cp -- "${program%:*}" "$RUN/bin/.${program##*:}.new"
    mv -f -- "$RUN/bin/.${program##*:}.new" "$RUN/bin/${program##*:}"
  done
}
