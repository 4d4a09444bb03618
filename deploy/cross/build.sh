#!/bin/bash
# Builds a release `ocelli` that runs on systems from Ubuntu 20.04 (JetPack 5) on: TARGET/TRIPLE/release/ocelli.
# ARCH=aarch64 (the default) or x86_64. Arguments go to cargo. Without Docker; env.sh prepares what it needs.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../.."
export OCELLI_CACHE=${OCELLI_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/ocelli}
cross=$OCELLI_CACHE/cross
arch=${ARCH:-aarch64}
triple=$arch-unknown-linux-gnu
# zig links against the symbols of exactly this glibc, whatever libraries lie beside it.
floor=2.31

# Build scripts and macros run here, so this machine's own compiler is needed too.
for program in cargo cc pkg-config; do
  command -v "$program" >/dev/null || { "$here/../setup.sh"; break; }
done

case $arch in
  aarch64)
    "$here/env.sh" rust zig root
    # Without a compiler of its own the user's has the target.
    [ ! -x "$cross/rust/rustc" ] || export RUSTC=$cross/rust/rustc
    # The names carry the target: build scripts that run here find this machine's own libraries.
    export PKG_CONFIG_ALLOW_CROSS=1
    export PKG_CONFIG_SYSROOT_DIR_aarch64_unknown_linux_gnu=$cross/root
    export PKG_CONFIG_LIBDIR_aarch64_unknown_linux_gnu=$cross/root/usr/lib/aarch64-linux-gnu/pkgconfig:$cross/root/usr/share/pkgconfig
    ;;
  x86_64)
    # This machine's own GStreamer is linked against, and only the functions that 1.16 has.
    "$here/../setup.sh"
    "$here/env.sh" zig
    ;;
  *) echo "cross: ARCH is $arch; there are aarch64 and x86_64" >&2; exit 2 ;;
esac

export PATH=$cross/zig/bin:$PATH
export CARGO_ZIGBUILD_ZIG_PATH=$cross/zig/ziglang/zig
export CARGO_ZIGBUILD_CACHE_DIR=$cross/zig-cache ZIG_GLOBAL_CACHE_DIR=$cross/zig-cache
# What is shipped is stripped, and built once: nothing to gain from increments.
export CARGO_PROFILE_RELEASE_STRIP=symbols CARGO_PROFILE_RELEASE_DEBUG=none CARGO_PROFILE_RELEASE_INCREMENTAL=false
cargo-zigbuild zigbuild --release --locked --target "$triple.$floor" --bin ocelli "$@"

case $arch in x86_64) machine='Advanced Micro Devices X86-64' ;; *) machine=AArch64 ;; esac
tests/check-elf.py --machine "$machine" "${CARGO_TARGET_DIR:-target}/$triple/release/ocelli"
