#!/usr/bin/env bash
# Installs what building and testing need on Debian or Ubuntu, as root. Safe to run again; says what it installs.
set -euo pipefail

say() { printf '%s\n' "$*" >&2; }
die() { say "setup: $*"; exit 1; }

# libclang: bindgen reads RocksDB's C API with it. debootstrap, iproute2, iptables: the lab. strace: the order of
# fdatasync and send. jq: the scripts' reading of JSON.
packages=(build-essential libclang-dev debootstrap debian-archive-keyring iproute2 iptables nftables procps curl jq strace shellcheck ca-certificates)

missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
done
if ((${#missing[@]})); then
  command -v apt-get >/dev/null || die "this machine has no apt-get; install by hand: ${missing[*]}"
  ((EUID == 0)) || die "run as root, or install by hand: apt-get install ${missing[*]}"
  say "setup: installing ${missing[*]}"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2
fi

command -v cargo >/dev/null || die "cargo is missing: install Rust 1.89 or newer from https://rustup.rs"
cargo nextest --version >/dev/null 2>&1 || {
  say "setup: installing cargo-nextest"
  cargo install --locked cargo-nextest >&2
}
