# shellcheck shell=bash
# A cgroup per site, in every hierarchy: DIR/godwit-NAME/SITE. The site sees it as the root of its own cgroup namespace.

CGROUP=godwit-$LAB_NAME

cgroup_version() { if [ "$(stat -f -c %T /sys/fs/cgroup)" = cgroup2fs ]; then echo 2; else echo 1; fi; }

# The mounted hierarchies, one directory a line. On a hybrid machine the bare cgroup2 tree holds no controllers: left out.
cgroup_trees() {
  if [ "$(cgroup_version)" = 2 ]; then
    echo /sys/fs/cgroup
  else
    awk '$3 == "cgroup" && $2 ~ "^/sys/fs/cgroup/" { print $2 }' /proc/mounts
  fi
}

cgroup_make() {
  local tree part
  for tree in $(cgroup_trees); do
    for part in "$CGROUP" "$CGROUP/$1"; do
      mkdir -p "$tree/$part"
      if [ -e "$tree/$part/cpuset.mems" ] && [ "$(cgroup_version)" = 1 ]; then
        cat "$tree/$part/../cpuset.cpus" >"$tree/$part/cpuset.cpus"
        cat "$tree/$part/../cpuset.mems" >"$tree/$part/cpuset.mems"
        echo 1 >"$tree/$part/cgroup.clone_children"
      fi
    done
    # Processes may only sit in leaves of a cgroup2 tree that hands controllers down: the site's own sit in `init`.
    if [ "$(cgroup_version)" = 2 ]; then
      mkdir -p "$tree/$CGROUP/$1/init"
      cgroup_delegate "$tree"
      cgroup_delegate "$tree/$CGROUP"
    fi
  done
}

# cgroup_delegate DIR: what Docker wants of the controllers that DIR has is handed down to DIR's children.
cgroup_delegate() {
  local controller
  for controller in cpu cpuset hugetlb io memory pids; do
    grep -qw "$controller" "$1/cgroup.controllers" || continue
    grep -qw "$controller" "$1/cgroup.subtree_control" || echo "+$controller" >"$1/cgroup.subtree_control"
  done
}

# cgroup_enter SITE: puts the calling shell into the site's cgroup, gives it a cgroup namespace rooted there, and runs
# the rest of the arguments.
cgroup_enter() {
  local tree
  for tree in $(cgroup_trees); do echo $BASHPID >"$tree/$CGROUP/$1/cgroup.procs"; done
  export -f cgroup_join cgroup_delegate cgroup_trees cgroup_version
  export CGROUP
  exec unshare --cgroup -- bash -euc '
    cgroup_join "$1"
    if [ "$(cgroup_version)" = 2 ]; then cgroup_delegate "/sys/fs/cgroup/$CGROUP/$1"; fi
    exec "${@:2}"' - "$@"
}

# cgroup_join SITE: moves the calling shell.
cgroup_join() {
  local tree
  for tree in $(cgroup_trees); do
    tree=$tree/$CGROUP/$1
    if [ -d "$tree/init" ] && [ "$(cgroup_version)" = 2 ]; then tree=$tree/init; fi
    echo $BASHPID >"$tree/cgroup.procs"
  done
}

cgroup_limit() {
  local memory=${MEMORY:-} quota=-1 dir
  [ -z "$CPUS" ] || quota=$(awk -v c="$CPUS" 'BEGIN { printf "%d", c * 100000 }')
  if [ "$(cgroup_version)" = 2 ]; then
    dir=/sys/fs/cgroup/$CGROUP/$1
    cgroup_set "$dir/memory.max" "$memory" max
    [ -z "$memory" ] || [ ! -e "$dir/memory.swap.max" ] || echo 0 >"$dir/memory.swap.max"
    cgroup_set "$dir/cpu.max" "${CPUS:+$quota 100000}" max
  else
    dir=/sys/fs/cgroup/memory/$CGROUP/$1
    # Order matters when both exist: memory + swap may never be below memory.
    [ ! -e "$dir/memory.memsw.limit_in_bytes" ] || echo -1 >"$dir/memory.memsw.limit_in_bytes"
    cgroup_set "$dir/memory.limit_in_bytes" "$memory" -1
    [ ! -e "$dir/memory.memsw.limit_in_bytes" ] || echo "${memory:--1}" >"$dir/memory.memsw.limit_in_bytes"
    cgroup_set "/sys/fs/cgroup/cpu/$CGROUP/$1/cpu.cfs_quota_us" "${CPUS:+$quota}" -1
  fi
}

# cgroup_set FILE VALUE NONE: a limit, or no limit. Without the controller only "no limit" can be had.
cgroup_set() {
  if [ -e "$1" ]; then
    echo "${2:-$3}" >"$1" || die "the kernel refuses $2 for $1 (is more in use already?)"
  else
    [ -z "$2" ] || die "this machine cannot limit a site: no $1"
  fi
}

cgroup_memory_used() {
  local dir=/sys/fs/cgroup/memory/$CGROUP/$1/memory.usage_in_bytes
  [ "$(cgroup_version)" = 1 ] || dir=/sys/fs/cgroup/$CGROUP/$1/memory.current
  cat "$dir" 2>/dev/null || echo 0
}

# cgroup_kill SITE: SIGKILL for every process of the site. A task that the v1 freezer holds (a paused container, a dump
# under way) does not even die of that: it is thawed once the signal is there, so that it runs no instruction more.
cgroup_kill() {
  local freezer=/sys/fs/cgroup/freezer/$CGROUP/$1 pids
  if [ "$(cgroup_version)" = 2 ]; then
    echo 1 >"/sys/fs/cgroup/$CGROUP/$1/cgroup.kill"
    return
  fi
  [ -d "$freezer" ] || return 0
  mapfile -t pids < <(find "$freezer" -name cgroup.procs -exec cat {} +)
  kill -KILL "${pids[@]}" 2>/dev/null || true
  find "$freezer" -name freezer.state -exec sh -c 'for f; do echo THAWED >"$f"; done' - {} + 2>/dev/null || true
}

cgroup_remove() {
  local tree try
  for tree in $(cgroup_trees); do
    [ -d "$tree/$CGROUP/$1" ] || continue
    # The kernel lets go of the last dead task a little after its death.
    for ((try = 0; try < 100; try++)); do
      find "$tree/$CGROUP/$1" -depth -type d -exec rmdir {} + 2>/dev/null || true
      [ -d "$tree/$CGROUP/$1" ] || break
      sleep 0.05
    done
    [ ! -d "$tree/$CGROUP/$1" ] || say "cgroup $tree/$CGROUP/$1 does not go away: $(wc -l <"$tree/$CGROUP/$1/cgroup.procs") processes"
  done
}

cgroup_remove_lab() {
  local tree
  for tree in $(cgroup_trees); do
    [ ! -d "$tree/$CGROUP" ] || rmdir "$tree/$CGROUP" || say "cgroup $tree/$CGROUP is not empty"
  done
}
