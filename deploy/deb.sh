#!/bin/bash
# Makes Debian packages from release binaries.
#
#   deploy/deb.sh [BINARY ...]
#
# Without arguments: for this machine and for arm64. Binaries of `make cross` run on older systems, so they are taken unless
# they are older than the machine's own release binary. The architecture and the oldest glibc are read from the binary. The
# packages lie in TARGET/debian, TARGET being CARGO_TARGET_DIR or `target`.
#   DEB_REVISION   revision of the package (default 1)
#   DEB_MAINTAINER name and address in the package
#   OCELLI_HOST    an `ocelli` of the same version that runs here; it writes manual pages and completions
#
# `dpkg-deb` does it: cargo-deb would be another build of two CPU-minutes, and what is special here (sysusers, two
# architectures from one run, licences) would be scripts anyway.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
native=$target/release/ocelli
crossed() { echo "$target/$1-unknown-linux-gnu/release/ocelli"; }
host=${OCELLI_HOST:-$native}
largest=$((40 * 1000 * 1000))
fail() { echo "deb.sh: $*" >&2; exit 1; }

for tool in dpkg-deb python3 readelf strip gzip; do
  command -v "$tool" >/dev/null || fail "$tool is missing: apt-get install dpkg python3 binutils gzip"
done
[ -x "$host" ] || fail "$host does not exist: run \`make build\` first"
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
[ "$("$host" --version)" = "ocelli $version" ] || fail "$host is not version $version: run \`make build\` first"
# Two runs over one commit give the same package, byte for byte.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}
export SOURCE_DATE_EPOCH
# 1.0.0-rc.1 comes before 1.0.0 only when written with a tilde.
package_version=${version//-/\~}-${DEB_REVISION:-1}
maintainer=${DEB_MAINTAINER:-The Ocelli authors <ocelli@example.org>}

# BINARY -> Debian's name of its architecture and Rust's of its target.
architecture() {
  case $(readelf -h "$1" 2>/dev/null | sed -n 's/^ *Machine: *//p') in
    AArch64) echo arm64 aarch64-unknown-linux-gnu ;;
    *X86-64) echo amd64 x86_64-unknown-linux-gnu ;;
    *) fail "$1 is no program for x86-64 or aarch64" ;;
  esac
}

# The newest version of glibc that a symbol of BINARY asks for.
glibc() {
  local newest
  newest=$(readelf -V "$1" | grep -oE 'GLIBC_[0-9.]+' | sed 's/GLIBC_//' | sort -Vu | tail -n 1)
  [ -n "$newest" ] || fail "$1 asks for no glibc: is it linked statically?"
  echo "$newest"
}

stripped() {
  local from=$1 to=$2 arch=$3 tool=strip
  if ! readelf -S --wide "$from" | grep -q ' \.symtab '; then
    cp "$from" "$to"
    return
  fi
  if [ "$arch" != "$(dpkg --print-architecture)" ]; then
    tool=$(command -v aarch64-linux-gnu-strip || command -v x86_64-linux-gnu-strip || command -v llvm-strip || true)
    [ -n "$tool" ] || fail "$from has symbols and nothing here can strip it: apt-get install binutils-aarch64-linux-gnu"
  fi
  "$tool" -o "$to" "$from"
}

put() { install -D -m "$1" "$2" "$3"; } # MODE FROM TO
packed() { mkdir -p "$(dirname "$2")"; gzip -9nc "$1" > "$2.gz"; } # FROM TO, without .gz

# ROOT ARCH TRIPLE BINARY
fill() {
  local root=$1 doc=$1/usr/share/doc/ocelli work=$1.work file
  mkdir -p "$root/usr/bin" "$work"
  stripped "$4" "$root/usr/bin/ocelli" "$2"
  chmod 755 "$root/usr/bin/ocelli"
  [ "$(stat -c %s "$root/usr/bin/ocelli")" -le "$largest" ] || fail "$4 has more than $largest bytes without symbols"

  for file in deploy/systemd/*.service; do put 644 "$file" "$root/lib/systemd/system/$(basename "$file")"; done
  for file in deploy/systemd/*.conf; do
    [ ! -e "$file" ] || put 644 "$file" "$root/usr/share/ocelli/systemd/$(basename "$file")"
  done
  put 644 deploy/systemd/ocelli.sysusers "$root/usr/lib/sysusers.d/ocelli.conf"
  put 644 deploy/systemd/ocelli.tmpfiles "$root/usr/lib/tmpfiles.d/ocelli.conf"
  put 644 deploy/deb/ocelli.yaml "$root/etc/ocelli/ocelli.yaml"

  for file in model.onnx model.yaml; do
    put 644 "models/yolov5s-efficientnetv2/$file" "$root/usr/share/ocelli/models/yolov5s-efficientnetv2/$file"
  done
  for file in configs/*schema.json; do put 644 "$file" "$root/usr/share/ocelli/$(basename "$file")"; done
  mkdir -p "$doc/examples"
  for file in configs/*.yaml; do
    sed '1s#\$schema=schema.json#$schema=/usr/share/ocelli/schema.json#' "$file" > "$doc/examples/$(basename "$file")"
  done

  "$host" man "$work/man"
  for file in "$work"/man/*.1; do packed "$file" "$root/usr/share/man/man1/$(basename "$file")"; done
  mkdir -p "$root/usr/share/bash-completion/completions" "$root/usr/share/zsh/vendor-completions" \
    "$root/usr/share/fish/vendor_completions.d"
  "$host" completions bash > "$root/usr/share/bash-completion/completions/ocelli"
  "$host" completions zsh > "$root/usr/share/zsh/vendor-completions/_ocelli"
  "$host" completions fish > "$root/usr/share/fish/vendor_completions.d/ocelli.fish"

  python3 deploy/deb/licences.py "$3" "$doc/copyright" "$work/licences"
  packed "$work/licences" "$doc/third-party-licences.txt"
  packed configs/README.md "$doc/configuration.md"
  put 644 deploy/README.md "$doc/README.md"
  packed models/yolov5s-efficientnetv2/README.md "$doc/model-yolov5s-efficientnetv2.md"
  packed CHANGELOG.md "$doc/changelog"
  printf 'ocelli (%s) unstable; urgency=medium\n\n  * Release %s; see changelog.gz.\n\n -- %s  %s\n' "$package_version" \
    "$version" "$maintainer" "$(date -u -R -d "@$SOURCE_DATE_EPOCH")" > "$work/changelog"
  packed "$work/changelog" "$doc/changelog.Debian"
  rm -rf "$work"
}

# ROOT ARCH BINARY
control() {
  local root=$1
  mkdir -p "$root/DEBIAN"
  install -m 755 deploy/deb/{postinst,prerm,postrm} "$root/DEBIAN/"
  echo /etc/ocelli/ocelli.yaml > "$root/DEBIAN/conffiles"
  # plugins-bad has the parsers without which no H.264 reaches any decoder, and a decoder and an encoder of last resort
  # (OpenH264). Better ones are recommended: avdec_* of libav, x264enc of ugly. GLib comes with GStreamer; its package has
  # different names in different releases.
  cat > "$root/DEBIAN/control" <<CONTROL
Package: ocelli
Version: $package_version
Architecture: $2
Maintainer: $maintainer
Installed-Size: $(find "$root" -path "$root/DEBIAN" -prune -o -type f -printf '%s\n' | awk '{ kib += int(($1 + 1023) / 1024) } END { print kib }')
Depends: libc6 (>= $(glibc "$3")), libgcc-s1, libgstreamer1.0-0 (>= 1.16), libgstreamer-plugins-base1.0-0 (>= 1.16), libgstrtspserver-1.0-0 (>= 1.16), gstreamer1.0-plugins-base, gstreamer1.0-plugins-good, gstreamer1.0-plugins-bad, init-system-helpers (>= 1.54), systemd
Recommends: gstreamer1.0-libav, gstreamer1.0-plugins-ugly, ca-certificates
Suggests: mosquitto, nvidia-l4t-gstreamer
Section: video
Priority: optional
Description: edge runtime for object detection in camera streams
 Ocelli runs a trained YOLO model (ONNX) on the frames of RTSP cameras and
 video files. Detections leave as MQTT messages and as RTSP streams with the
 boxes drawn in.
 .
 It is made for NVIDIA Jetson (TensorRT, CUDA) and runs on any Linux machine.
 This package holds the program, a service of systemd, and a small model to
 begin with.
CONTROL
  (cd "$root" && find . -path ./DEBIAN -prune -o -type f -printf '%P\0' | sort -z | xargs -0 md5sum) > "$root/DEBIAN/md5sums"
}

package() {
  local binary=$1 arch triple root deb
  read -r arch triple <<< "$(architecture "$binary")"
  [ -n "$arch" ] || exit 1
  root=$scratch/$arch
  fill "$root" "$arch" "$triple" "$binary"
  control "$root" "$arch" "$binary"
  find "$root" -type d -exec chmod 755 {} +
  find "$root" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
  mkdir -p "$target/debian"
  deb=$target/debian/ocelli_${package_version}_$arch.deb
  # xz is what dpkg of Ubuntu 20.04 reads; newer ones would take zstd by default.
  dpkg-deb --root-owner-group -Zxz --build "$root" "$deb" >/dev/null
  printf '%s: %s bytes; %s\n' "$deb" "$(stat -c %s "$deb")" "$(dpkg-deb -f "$deb" Depends | cut -d, -f 1)"
}

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
if [ $# -eq 0 ]; then
  machine=$(uname -m)
  if [ "$(crossed "$machine")" -nt "$native" ]; then set -- "$(crossed "$machine")"; else set -- "$native"; fi
  if [ "$machine" = aarch64 ]; then
    :
  elif [ "$(crossed aarch64)" -nt "$native" ]; then
    set -- "$@" "$(crossed aarch64)"
  else
    echo "deb.sh: no package for arm64: run \`make cross\` first (an older binary would be another program)" >&2
  fi
fi
for binary; do package "$binary"; done
