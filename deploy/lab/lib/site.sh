# shellcheck shell=bash
# A site's life: power on, power off, its engine.

# site_pid SITE: the pid of the site's first process, if that process still lives. The start time tells it from a
# stranger who was given the same pid later.
site_pid() {
  local pid start stat
  read -r pid start 2>/dev/null <"$RUN/sites/$1/init" || return 1
  stat=$(cat "/proc/$pid/stat" 2>/dev/null) || return 1
  read -r -a stat <<<"${stat##*) }"
  [ "${stat[19]}" = "$start" ] && [ "${stat[0]}" != Z ] || return 1
  echo "$pid"
}

site_dead() { ! site_pid "$1" >/dev/null; }

running() {
  check_site "$1"
  site_pid "$1" || die "site $1 is off (lab start $1)"
}

site_start() {
  local site=$1 dir=$RUN/sites/$1 pid
  site_kill "$site" # whatever an unexpected death has left
  mkdir -p "$dir/root" "$dir/disk"
  site_disk "$dir"
  cgroup_make "$site"
  cgroup_limit "$site"
  rm -f "$dir/init" "$dir/ready"
  (
    detach "$dir/boot.log"
    cgroup_enter "$site" setsid unshare --mount --uts --ipc --net --pid --fork -- \
      bash "$LAB_HOME/site-init" "$site" "$dir" "$BASE_ROOT" "$RUN/bin" "$ENGINE"
  ) &
  disown
  wait_for 10 test -s "$dir/init" || die "site $site does not start: $(tail -n 3 "$dir/boot.log")"
  read -r pid _ <"$dir/init"
  site_plug "$site" "$pid"
  wait_for 20 test -s "$dir/ready" || die "site $site does not start: $(tail -n 3 "$dir/boot.log")"
}

# Its root's upper layer and the engine's data need a file system that overlayfs can write on.
site_disk() {
  local disk=$1/disk
  if [ "$(stat -f -c %T "$disk")" = overlayfs ] || [ "$DISK" = tmpfs ]; then
    mountpoint -q "$disk" || mount -t tmpfs -o mode=755 godwit-lab "$disk"
  fi
  mkdir -p "$disk/upper" "$disk/work" "$disk/docker" "$disk/godwit"
}

site_adjust() {
  cgroup_limit "$1"
  site_rate "$1" "$(site_pid "$1")"
}

# The death of a pid namespace's first process is the death of all in it.
site_kill() {
  local pid
  if pid=$(site_pid "$1"); then
    kill -KILL "$pid" # with it dies all of its pid namespace, but for what is frozen
    cgroup_kill "$1"
    wait_for 20 site_dead "$1" || say "site $1: process $pid does not end"
  fi
  site_unplug "$1"
  cgroup_remove "$1"
  rm -f "$RUN/sites/$1/init" "$RUN/sites/$1/ready"
}

site_remove() {
  local dir=$RUN/sites/$1
  ! mountpoint -q "$dir/disk" || umount "$dir/disk"
  rm -rf --one-file-system "$dir"
}

engine_answers() {
  local pid
  pid=$(site_pid "$1") &&
    nsenter --target "$pid" --mount -- curl -sf -m 2 -o /dev/null --unix-socket /run/docker.sock http://engine/_ping
}

engine_wait() {
  [ "$ENGINE" != yes ] || wait_for 60 engine_answers "$1" || die "site $1: the engine does not answer: $(engine_log "$1")"
}

engine_log() { tail -n 3 "$RUN/sites/$1/disk/upper/var/log/dockerd.log"; }

# engine_revive SITE: true once the engine answers; starts one if there is none.
engine_revive() {
  local pid
  ! engine_answers "$1" || return 0
  pid=$(running "$1")
  (
    detach "$RUN/sites/$1/boot.log"
    cgroup_join "$1"
    exec nsenter --target "$pid" --all -- env -i HOME=/root PATH="$SITE_PATH" sh -c \
      'pgrep -x dockerd >/dev/null || { rm -f /run/docker.pid; setsid dockerd </dev/null >>/var/log/dockerd.log 2>&1 & }'
  )
  sleep 0.2
  return 1
}

# wait_for SECONDS CMD...: until CMD succeeds.
wait_for() {
  local until=$((SECONDS + $1))
  shift
  until "$@"; do
    [ "$SECONDS" -le "$until" ] || return 1
    sleep 0.05
  done
}

status_command() {
  check_root
  if [ ! -d "$RUN" ]; then
    echo "lab '$LAB_NAME': down"
    return
  fi
  settings_load
  echo "lab '$LAB_NAME': backbone $BACKBONE_IP, rate ${RATE:-unlimited}, memory ${MEMORY:-unlimited}, cuts: $(cuts)"
  local site pid engine
  for site in $(sites); do
    if pid=$(site_pid "$site"); then
      engine=off
      ! engine_answers "$site" || engine=on
      printf '%-5s %-12s pid %-8s engine %-4s memory %s MiB\n' "$site" "$(site_ip "$site")" "$pid" "$engine" \
        "$(($(cgroup_memory_used "$site") / 1048576))"
    else
      printf '%-5s %-12s off\n' "$site" "$(site_ip "$site")"
    fi
  done
}
