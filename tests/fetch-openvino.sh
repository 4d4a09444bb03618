#!/bin/sh
# Puts an OpenVINO for tests into DIR and prints the path of its libopenvino_c.so. Usage: tests/fetch-openvino.sh DIR
#
# The libraries come out of the PyPI wheel, TBB among them; nothing is installed. x86-64 only: that is what the backend is for.
# OpenVINO is licensed under Apache-2.0; its licences are unpacked beside it.
set -eu

version=2026.4.1
# Of the wheel for CPython 3.11; the libraries are the same in each.
sha256=2d22b1da03f7caf74df30e9f6417d0ab2f637e4a38e08e1dcd294d2c37407aaf

if [ $# -ne 1 ]; then
    echo "usage: $0 DIR" >&2
    exit 2
fi
dir=$1
library=$dir/openvino/libs/libopenvino_c.so.2641

if [ -s "$library" ]; then
    echo "$library"
    exit 0
fi
if [ "$(uname -m)" != x86_64 ]; then
    echo "$0: this machine is no x86-64" >&2
    exit 1
fi
if python3 -m pip --version >/dev/null 2>&1; then
    pip='python3 -m pip'
elif command -v pip3 >/dev/null 2>&1; then
    pip=pip3
else
    echo "$0: no pip: install python3-pip, or set OPENVINO_INSTALL_DIR to an OpenVINO" >&2
    exit 1
fi

mkdir -p "$dir"
tmp=$(mktemp -d "$dir/fetch.XXXXXX")
trap 'rm -rf "$tmp"' EXIT INT TERM
$pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --implementation cp --python-version 3.11 \
    --platform manylinux_2_28_x86_64 --dest "$tmp" "openvino==$version" >&2
if ! echo "$sha256  $(echo "$tmp"/*.whl)" | sha256sum --check --quiet >&2; then
    echo "$0: the wheel of openvino $version is not the one that was pinned" >&2
    exit 1
fi

# Only what a detector on the CPU needs: a quarter of the wheel. The rename makes half-written files impossible.
python3 - "$tmp" "$dir" <<'EOF'
import glob, os, shutil, sys, zipfile

folder, target = sys.argv[1:]
wheel = zipfile.ZipFile(glob.glob(os.path.join(folder, "*.whl"))[0])
wanted = ("libopenvino.so", "libopenvino_c.so", "libopenvino_onnx_frontend.so", "libopenvino_ir_frontend.so",
          "libopenvino_intel_cpu_plugin.so", "libtbb", "libhwloc")
members = [name for name in wheel.namelist()
           if "/licenses/" in name or name.startswith("openvino/libs/") and os.path.basename(name).startswith(wanted)]
unpacked = os.path.join(folder, "unpacked")
wheel.extractall(unpacked, members)
for name in os.listdir(unpacked):
    shutil.rmtree(os.path.join(target, name), ignore_errors=True)
    os.replace(os.path.join(unpacked, name), os.path.join(target, name))
EOF
echo "$library"
