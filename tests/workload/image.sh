#!/usr/bin/env bash
# Builds the test workload as a static program and packs it, and nothing else, as an image for `docker load`:
#
#     tests/workload/image.sh OUT.tar
#
# Needs cargo, GNU tar and sha256sum; no engine. The same program gives the same bytes, hence the same image ID, which
# is printed. The image is godwit-workload:latest.
set -euo pipefail
export LC_ALL=C # one order of names everywhere

[ $# -eq 1 ] || { echo "usage: $0 OUT.tar" >&2; exit 2; }
out=$(realpath -m -- "$1")
root=$(realpath -- "$(dirname -- "$0")/../..")
target=$(rustc -vV | sed -n 's/^host: //p')
case $target in
    x86_64-*) architecture=amd64 ;;
    aarch64-*) architecture=arm64 ;;
    *) echo "$0: no image architecture known for $target" >&2; exit 1 ;;
esac

work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT

# Where source lies on this machine must not change the program. \x1f separates flags, so paths may hold spaces.
flags=(-Ctarget-feature=+crt-static -Cstrip=symbols
    "--remap-path-prefix=$root=/godwit" "--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo")
CARGO_ENCODED_RUSTFLAGS=$(IFS=$'\x1f'; echo "${flags[*]}")
export CARGO_ENCODED_RUSTFLAGS CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$root/target}"
cargo build --manifest-path "$root/Cargo.toml" --package godwit-workload --release --locked --target "$target" >&2

# The root of the container. Engines mount over the empty directories.
umask 022
mkdir -p "$work"/root/{data,dev,etc,proc,run,sys,tmp}
chmod 1777 "$work/root/tmp"
install -m 755 "$CARGO_TARGET_DIR/$target/release/workload" "$work/root/workload"

pack() { # DIRECTORY OUT: the same content gives the same bytes
    find "$1" -mindepth 1 -maxdepth 1 -printf '%P\n' | sort |
        tar --create --file "$2" --directory "$1" --format=ustar --sort=name --mtime=@0 --owner=0 --group=0 \
            --numeric-owner --verbatim-files-from --files-from=-
}
digest() { sha256sum "$1" | cut -d' ' -f1; }

mkdir "$work/image"
pack "$work/root" "$work/image/layer.tar"
cat > "$work/config.json" <<JSON
{"architecture":"$architecture","os":"linux","created":"1970-01-01T00:00:00Z","config":{"Entrypoint":["/workload"],"Env":["PATH=/"],"WorkingDir":"/","StopSignal":"SIGTERM","ExposedPorts":{"8080/tcp":{},"8081/tcp":{}}},"rootfs":{"type":"layers","diff_ids":["sha256:$(digest "$work/image/layer.tar")"]},"history":[{"created":"1970-01-01T00:00:00Z","created_by":"tests/workload/image.sh"}]}
JSON
id=$(digest "$work/config.json")
mv "$work/config.json" "$work/image/$id.json"
cat > "$work/image/manifest.json" <<JSON
[{"Config":"$id.json","RepoTags":["godwit-workload:latest"],"Layers":["layer.tar"]}]
JSON
chmod 644 "$work"/image/*

mkdir -p "$(dirname -- "$out")"
pack "$work/image" "$work/image.tar"
mv -- "$work/image.tar" "$out"
echo "sha256:$id"
