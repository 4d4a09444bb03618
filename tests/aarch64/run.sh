#!/bin/bash
# The smoke suite of the cross-built `ocelli`, under emulation. `make cross` and `make build` come first.
# Arguments go to the suite, for example: Detect.test_tract_finds_the_square_where_x86_finds_it
set -euo pipefail
cd "$(dirname "$0")/../.."
cache=${OCELLI_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/ocelli}
export OCELLI_CACHE=$cache
target=${CARGO_TARGET_DIR:-target}
export OCELLI_NATIVE=${OCELLI_NATIVE:-$target/release/ocelli}
export OCELLI_AARCH64=${OCELLI_AARCH64:-$target/aarch64-unknown-linux-gnu/release/ocelli}
for program in "$OCELLI_NATIVE" "$OCELLI_AARCH64"; do
  [ -x "$program" ] || { echo "test-aarch64: $program is not built; run: make build cross" >&2; exit 1; }
done
OCELLI_NATIVE=$(realpath "$OCELLI_NATIVE") OCELLI_AARCH64=$(realpath "$OCELLI_AARCH64")

deploy/cross/env.sh root emulator ort
ORT_AARCH64=$(find "$cache/cross/ort" -name 'libonnxruntime.so.*')
ORT_NATIVE=$(tests/fetch-ort.sh "$cache/onnxruntime-1.24.4" 1.24.4) ||
  { ORT_NATIVE=; echo "!!! SKIPPED: comparison with ONNX Runtime on this machine (no library could be fetched)" >&2; }
export ORT_AARCH64 ORT_NATIVE
exec python3 tests/aarch64/smoke.py "$@"
