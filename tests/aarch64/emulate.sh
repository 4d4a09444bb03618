#!/bin/bash
# Runs an aarch64 program on this machine: emulate.sh PROGRAM ARG… (what it needs is prepared by deploy/cross/env.sh).
#
# OCELLI_EMULATION=namespace (the default) mounts a binfmt_misc of its own in a user namespace (Linux 6.7 or newer), in
# which this machine can simply start aarch64 programs: also the program itself can start itself as a child, as
# `ocelli probe-runtime` needs it. Nothing outside of the namespace is touched. OCELLI_EMULATION=direct calls qemu, and
# whoever wants children gives OCELLI_EXE a script that calls this one.
set -euo pipefail
cross=${OCELLI_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/ocelli}/cross
export QEMU=$cross/emulator/qemu-aarch64
# Where the program looks for files of its system first; else it sees this machine's.
export QEMU_LD_PREFIX=$cross/root
# Nearer to Orin's cores than qemu's default, and cheaper: without SVE.
export QEMU_CPU=${QEMU_CPU:-neoverse-n1}
# The scanner of plugins is a program of its own, which could not be started without binfmt_misc.
export GST_REGISTRY_FORK=no GST_REGISTRY=${GST_REGISTRY:-$cross/gstreamer-registry.bin}

if [ "${OCELLI_EMULATION:-namespace}" = direct ]; then
  exec "$QEMU" "$@"
fi
# The magic: the head of a 64-bit little-endian ELF program for machine 183. F opens the emulator now, P keeps argv[0].
exec unshare --user --map-root-user --mount bash -euc '
  mount -t binfmt_misc none /proc/sys/fs/binfmt_misc
  head="\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
  mask="\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"
  printf ":ocelli:M::%s:%s:%s:FP" "$head" "$mask" "$QEMU" > /proc/sys/fs/binfmt_misc/register
  exec "$@"' -- "$@"
