#!/usr/bin/env bash
# The first process of a lab of one machine: an overlay over the lab's base system as the real root, with a process, network
# and mount namespace of its own. Started by mod.rs; not for use by hand.
#   lab.sh BASE SCRATCH PROGRAM ARGUMENT...   all paths absolute; SCRATCH is an empty folder
set -euo pipefail
base=$1 scratch=$2 program=$3
shift 3

# What a caller has left open would be dumped with the rest.
for fd in "/proc/$BASHPID/fd/"*; do
  fd=${fd##*/}
  [ "$fd" -le 2 ] || [ "$fd" = 255 ] || eval "exec $fd>&-"
done

mount --make-rprivate /
mount -t tmpfs -o mode=755 lab "$scratch"
mkdir "$scratch"/{upper,work,root}
mount -t overlay overlay -o "lowerdir=$base,upperdir=$scratch/upper,workdir=$scratch/work" "$scratch/root"
root=$scratch/root
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
cp "$program" "$root/program"

cd "$root"
pivot_root . .
umount -l .
cd /
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 GODWIT_INSIDE_LAB=1
# CRIU wants the root of what it restores to be a mount.
mkdir /box
mount --bind / /box
ip link set lo up
exec /program "$@"
