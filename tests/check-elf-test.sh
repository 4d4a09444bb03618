#!/bin/bash
# Proves that check-elf.py can fail: each rule is broken once, in small programs made by this machine's own compiler.
# With a BINARY for aarch64 also on that: it must pass, and fail under limits that are one step lower.
set -euo pipefail
cd "$(dirname "$0")"
check=$PWD/check-elf.py
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0

case $(uname -m) in
  x86_64) here='Advanced Micro Devices X86-64' ;;
  aarch64) here=AArch64 ;;
  *) echo "SKIPPED: check-elf-test: no name for the machine $(uname -m)" >&2; exit 0 ;;
esac

expect() { # $1: a pattern of the complaint, or "pass"; the rest: arguments of check-elf
  local pattern=$1 out rc=0
  shift
  out=$("$check" "$@" 2>&1) || rc=$?
  if [ "$pattern" = pass ]; then
    [ $rc -eq 0 ] || { echo "check-elf-test: $* must pass, but: $out" >&2; failed=1; }
  elif [ $rc -eq 0 ] || ! grep -qE "$pattern" <<< "$out"; then
    echo "check-elf-test: $* must be refused with '$pattern', but (rc $rc): $out" >&2
    failed=1
  fi
}

# A library of any name and content to link against; the program asks for one function of it.
program() { # name, function, library, further arguments of the linker
  local name=$1 function=$2 library=$3
  shift 3
  echo "void $function(void) {}" | gcc -x c -shared -Wl,-soname,"$library" -o "$work/$library" -
  echo "void $function(void); int main(void) { $function(); return 0; }" |
    gcc -x c -o "$work/$name" - -x none -Wl,--no-as-needed "$work/$library" "$@"
}
now=(--machine "$here" --glibc 2.99)

program good gst_init libgstreamer-1.0.so.0
expect pass "${now[@]}" "$work/good"
expect 'not for AArch65' --machine AArch65 --glibc 2.99 "$work/good"
expect 'GLIBC_2\.[0-9]+, newer than 2\.3' --machine "$here" --glibc 2.3 "$work/good"
expect 'more than 0.001' "${now[@]}" --max-mb 0.001 "$work/good"
expect 'gst_init of gst 1.0, newer than 0.10' "${now[@]}" --gst 0.10 "$work/good"
program new-gst gst_caps_id_str_is_strictly_equal libgstreamer-1.0.so.0
expect 'the table does not know' "${now[@]}" "$work/new-gst"
program new-glib g_string_free_and_steal libglib-2.0.so.0
expect 'glib 2.76|the table does not know' "${now[@]}" "$work/new-glib"
program gst-1.18 gst_buffer_new_memdup libgstreamer-1.0.so.0
expect 'gst_buffer_new_memdup of gst 1.20, newer than 1.16' "${now[@]}" "$work/gst-1.18"
program glib-2.68 g_string_replace libglib-2.0.so.0
expect 'g_string_replace of glib 2.68, newer than 2.64' "${now[@]}" "$work/glib-2.68"
for library in libonnxruntime.so.1 libnvinfer.so.8 libcudart.so.12 libnvbufsurface.so; do
  program linked gst_init $library
  expect "needs $library, which is not on every box" "${now[@]}" "$work/linked"
done
program rpath gst_init libgstreamer-1.0.so.0 -Wl,-rpath,/opt/lib
expect 'RUNPATH|RPATH' "${now[@]}" "$work/rpath"
echo 'int main(void) { return 0; }' | gcc -x c -static -o "$work/static" - 2>/dev/null && expect 'no library at all' "${now[@]}" "$work/static"
echo text > "$work/text"
expect 'not an ELF file' "$work/text"
head -c 2000 "$work/good" > "$work/cut"
expect '.' "${now[@]}" "$work/cut"

if [ $# -gt 0 ]; then
  expect pass "$1"
  expect 'GLIBC_2\.[0-9]+, newer' --glibc 2.27 "$1"
  expect 'of gst 1\.[0-9]+, newer than 1.0' --gst 1.0 "$1"
  expect 'of glib 2\.[0-9]+, newer than 2.28' --glib 2.28 "$1"
  expect 'it is for AArch64' --machine "$here" "$1"
fi
[ $failed -eq 0 ] || exit 1
echo "check-elf-test: each rule was broken once, and each time it was said"
