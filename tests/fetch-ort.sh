#!/bin/sh
# Puts an ONNX Runtime library for tests into DIR and prints its path. Usage: tests/fetch-ort.sh DIR [VERSION [PLATFORM]]
#
# PLATFORM is a wheel's tag, for another machine's library: manylinux_2_28_aarch64.
# The library comes out of the PyPI wheel; nothing is installed. Wheels carry a loadable library from 1.19 on; older ones come
# out of the npm package onnxruntime-node. VERSION may be "newest".
set -eu

if [ $# -lt 1 ]; then
    echo "usage: $0 DIR [VERSION [PLATFORM]]" >&2
    exit 2
fi
dir=$1
version=${2:-1.24.4}
platform=${3:+--platform $3}
library=$dir/libonnxruntime.so.$version

if [ -s "$library" ]; then
    echo "$library"
    exit 0
fi
case $version in
    1.1[0-8].*)
        if ! command -v npm >/dev/null 2>&1; then
            echo "$0: no npm, which has the libraries before 1.19: install npm, or take a newer version" >&2
            exit 1
        fi
        mkdir -p "$dir"
        tmp=$(mktemp -d "$dir/fetch.XXXXXX")
        trap 'rm -rf "$tmp"' EXIT INT TERM
        (cd "$tmp" && npm pack --silent "onnxruntime-node@$version" >&2)
        case $(uname -m) in x86_64) arch=x64 ;; *) arch=arm64 ;; esac
        member=$(tar -tzf "$tmp"/*.tgz | grep "/linux/$arch/libonnxruntime\.so\.$version\$" | head -n 1)
        if [ -z "$member" ]; then
            echo "$0: onnxruntime-node $version has no libonnxruntime.so.$version for $arch" >&2
            exit 1
        fi
        tar -xzf "$tmp"/*.tgz -O "$member" >"$tmp/library"
        mv "$tmp/library" "$library"
        echo "$library"
        exit 0
        ;;
esac

if python3 -m pip --version >/dev/null 2>&1; then
    pip='python3 -m pip'
elif command -v pip3 >/dev/null 2>&1; then
    pip=pip3
else
    echo "$0: no pip: install python3-pip, or set ORT_DYLIB_PATH to a libonnxruntime.so" >&2
    exit 1
fi

mkdir -p "$dir"
tmp=$(mktemp -d "$dir/fetch.XXXXXX")
trap 'rm -rf "$tmp"' EXIT INT TERM
wanted="onnxruntime==$version"
[ "$version" != newest ] || wanted=onnxruntime
$pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: $platform --dest "$tmp" "$wanted" >&2 ||
    # This interpreter may be too old or too new for that version's wheels; the library inside is the same in each.
    $pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --python-version 3.11 \
        $platform --dest "$tmp" "$wanted" >&2

# Python unpacks, because it is there anyway and unzip may not be. The rename makes a half-written file impossible.
python3 - "$tmp" "$library" <<'EOF'
import glob, os, sys, zipfile

folder, library = sys.argv[1:]
wheel = zipfile.ZipFile(glob.glob(os.path.join(folder, "*.whl"))[0])
member = [name for name in wheel.namelist() if name.startswith("onnxruntime/capi/libonnxruntime.so")]
if not member:
    sys.exit("this wheel has no libonnxruntime.so; take version 1.19 or newer")
part = os.path.join(folder, "library")
with open(part, "wb") as out:
    out.write(wheel.read(member[0]))
os.replace(part, library)
EOF
echo "$library"
