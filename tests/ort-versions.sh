#!/bin/sh
# Runs the shipped model with several versions of ONNX Runtime and compares what it finds.
# Usage: tests/ort-versions.sh OCELLI [VERSION...]    ("newest" is the newest on PyPI)
#
# Libraries go to ${OCELLI_CACHE:-~/.cache/ocelli}/onnxruntime-<version>; about 25 MB each, 100 MB for 1.16 … 1.18. A version
# that cannot be had is skipped loudly; REQUIRE_ORT=1 makes that an error.
set -u

if [ $# -lt 1 ]; then
    echo "usage: $0 OCELLI [VERSION...]" >&2
    exit 2
fi
ocelli=$1
shift
root=$(cd "$(dirname "$0")/.." && pwd)
cache=${OCELLI_CACHE:-$HOME/.cache/ocelli}
[ $# -gt 0 ] || set -- 1.16.3 1.17.3 1.18.0 1.20.1 1.22.1 1.24.4 newest
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM
failed=0
ran=0

# Objects of the picture, without the names and times that may differ.
objects() {
    python3 - "$1" <<'EOF'
import json, sys
with open(sys.argv[1]) as lines:
    for line in lines:
        for found in json.loads(line)["objects"]:
            print(found["label"], round(found["score"], 2), [round(edge, 3) for edge in found["box"]])
EOF
}

fail() {
    echo "FAILED: $1" >&2
    failed=1
}

for version in "$@"; do
    if ! library=$("$root/tests/fetch-ort.sh" "$cache/onnxruntime-$version" "$version" 2>"$work/fetch"); then
        echo "SKIPPED: ONNX Runtime $version could not be fetched: $(tail -n 1 "$work/fetch")" >&2
        [ -z "${REQUIRE_ORT:-}" ] || failed=1
        continue
    fi
    if "$ocelli" detect "$root/models/yolov5s-efficientnetv2/detected.jpg" --model "$root/models/yolov5s-efficientnetv2" \
        --backend cpu --ort-library "$library" --json "$work/$version.json" --out "$work/$version" \
        >"$work/out" 2>"$work/err"; then
        objects "$work/$version.json" >"$work/$version.txt"
        nodes=$("$ocelli" models show "$root/models/yolov5s-efficientnetv2" --backend cpu --ort-library "$library" |
            sed -n 's/^\(backend\|nodes\) *//p' | tr '\n' ' ')
        echo "ONNX Runtime $version: $(wc -l <"$work/$version.txt") objects; $nodes"
        [ -n "${first:-}" ] || first=$version
        cmp -s "$work/$first.txt" "$work/$version.txt" || fail "$version finds other objects than $first"
        case $version in 1.1[0-6].*) fail "$version is too old and must be refused" ;; esac
        ran=$((ran + 1))
    elif case $version in 1.1[0-6].*) true ;; *) false ;; esac; then
        # Too old: one plain sentence, no crash.
        grep -q 'too old' "$work/err" || fail "$version is refused without saying that it is too old: $(cat "$work/err")"
        echo "ONNX Runtime $version: refused, it is too old"
    else
        fail "ONNX Runtime $version: $(tail -n 1 "$work/err")"
    fi
done
[ "$ran" -gt 0 ] || fail "no version ran"
exit $failed
