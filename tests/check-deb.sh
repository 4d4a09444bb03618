#!/bin/bash
# Checks the Debian packages of `make deb`: what is in them, and what they do to a system with a real systemd.
#
#   tests/check-deb.sh [PACKAGE ...]
#
# Without arguments: all in TARGET/debian. The one of this machine's architecture is installed, upgraded, removed and
# purged in a root of its own (tests/systemd-ns.sh); where namespaces are not allowed this is said loudly, status 77.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
[ $# -gt 0 ] || set -- "$target"/debian/*.deb
fail() { echo "check-deb: FAILED: $*" >&2; exit 1; }
loud() { printf '!!! SKIPPED: %s\n' "$*" >&2; }

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# Every path that a package must have; a change of the list must be made here.
cat > "$scratch/expected" <<'LIST'
/etc/ocelli/ocelli.yaml
/lib/systemd/system/ocelli.service
/lib/systemd/system/ocelli@.service
/usr/bin/ocelli
/usr/lib/sysusers.d/ocelli.conf
/usr/lib/tmpfiles.d/ocelli.conf
/usr/share/bash-completion/completions/ocelli
/usr/share/doc/ocelli/README.md
/usr/share/doc/ocelli/changelog.Debian.gz
/usr/share/doc/ocelli/changelog.gz
/usr/share/doc/ocelli/configuration.md.gz
/usr/share/doc/ocelli/copyright
/usr/share/doc/ocelli/model-yolov5s-efficientnetv2.md.gz
/usr/share/doc/ocelli/third-party-licences.txt.gz
/usr/share/fish/vendor_completions.d/ocelli.fish
/usr/share/man/man1/ocelli.1.gz
/usr/share/ocelli/doctor.schema.json
/usr/share/ocelli/messages.schema.json
/usr/share/ocelli/models/yolov5s-efficientnetv2/model.onnx
/usr/share/ocelli/models/yolov5s-efficientnetv2/model.yaml
/usr/share/ocelli/schema.json
/usr/share/ocelli/systemd/cpu-only.conf
/usr/share/zsh/vendor-completions/_ocelli
LIST

contents() {
  local deb=$1 root=$2 arch path file name
  dpkg-deb -x "$deb" "$root"
  arch=$(dpkg-deb -f "$deb" Architecture)
  while read -r path; do [ -s "$root$path" ] || fail "$deb has no $path"; done < "$scratch/expected"
  for file in configs/*.yaml; do
    name=$root/usr/share/doc/ocelli/examples/$(basename "$file")
    [ -s "$name" ] || fail "$deb has no example $file"
    head -n 1 "$name" | grep -q '\$schema=/usr/share/ocelli/schema.json$' || fail "$name does not name the schema"
  done
  for file in "$root"/usr/share/man/man1/*.gz "$root"/usr/share/doc/ocelli/*.gz; do gzip -t "$file"; done
  [ "$(find "$root/usr/share/man/man1" -name 'ocelli-*.1.gz' | wc -l)" -ge 8 ] || fail "$deb has too few manual pages"
  find "$root" -type f -perm /022 -o -type d -perm /022 | grep . && fail "$deb has files that others may write"
  dpkg-deb -c "$deb" | awk '$2 != "root/root"' | grep . && fail "$deb has files that are not root's"
  [ "$(stat -c %s "$root/usr/bin/ocelli")" -le 40000000 ] || fail "the binary of $deb is larger than 40 MB"
  readelf -S --wide "$root/usr/bin/ocelli" | grep -q ' \.symtab ' && fail "the binary of $deb is not stripped"
  case $arch:$(readelf -h "$root/usr/bin/ocelli" | sed -n 's/^ *Machine: *//p') in
    amd64:*X86-64 | arm64:AArch64) ;;
    *) fail "$deb is for $arch, its binary is not" ;;
  esac
  # Licences: a stanza for each crate that is linked, and its texts.
  [ "$(grep -c '^Files: crates/' "$root/usr/share/doc/ocelli/copyright")" -ge 150 ] || fail "$deb names too few crates"
  gzip -dc "$root/usr/share/doc/ocelli/third-party-licences.txt.gz" | grep -c 'Permission is hereby granted' >/dev/null ||
    fail "$deb lacks licence texts"
  depends "$deb" "$root"
  echo "check-deb: $deb: contents ok, $(stat -c %s "$deb") bytes, binary $(stat -c %s "$root/usr/bin/ocelli") bytes"
}

# The oldest systems that the binary really runs on, against what the package claims.
depends() {
  local deb=$1 root=$2 newest claimed
  newest=$(readelf -V "$root/usr/bin/ocelli" | grep -oE 'GLIBC_[0-9.]+' | sed 's/GLIBC_//' | sort -Vu | tail -n 1)
  claimed=$(dpkg-deb -f "$deb" Depends | sed -n 's/.*libc6 (>= \([0-9.]*\)).*/\1/p')
  [ "$newest" = "$claimed" ] || fail "$deb asks for glibc $claimed, its binary for $newest"
  dpkg --compare-versions "$claimed" le 2.36 || fail "$deb does not fit Debian 12 (glibc 2.36)"
  dpkg --compare-versions "$claimed" le 2.31 ||
    loud "$deb needs glibc $claimed: it fits Debian 12 and 13 and Ubuntu 22.04 and newer, not 20.04; one from \`make cross ARCH=x86_64\` does"
}

lint() {
  command -v lintian >/dev/null || { loud "lintian (apt-get install lintian)"; return 0; }
  # There is no bug number without an upload to Debian, and deb-systemd-invoke of Ubuntu 20.04 knows no pattern for the
  # instances ocelli@*.
  lintian --fail-on error --suppress-tags initial-upload-closes-no-bugs,maintainer-script-calls-systemctl \
    "$1" || fail "lintian refuses $1"
}

for deb; do
  [ -f "$deb" ] || fail "$deb does not exist: run \`make deb\` first"
  contents "$deb" "$scratch/$(basename "$deb" .deb)"
  lint "$deb"
done

ours=
for deb; do [ "$(dpkg-deb -f "$deb" Architecture)" != "$(dpkg --print-architecture)" ] || ours=$deb; done
[ -n "$ours" ] || { loud "installing: no package for $(dpkg --print-architecture) among $*"; exit 77; }

# The next revision, whose own configuration file differs: the case where dpkg would ask.
mkdir "$scratch/debs"
cp "$ours" "$scratch/debs/first.deb"
dpkg-deb -R "$ours" "$scratch/next"
sed -i 's/^Version: .*/&+next/' "$scratch/next/DEBIAN/control"
echo '# This line is new in the next revision.' >> "$scratch/next/etc/ocelli/ocelli.yaml"
dpkg-deb --root-owner-group -Znone --build "$scratch/next" "$scratch/debs/next.deb" >/dev/null

status=0
NS_TIMEOUT=540 BINDS="$scratch/debs:/opt/debs" tests/systemd-ns.sh "$scratch/ns" tests/check-deb-inside.sh || status=$?
case $status in
  0) echo "check-deb: $ours: install, upgrade, remove and purge ok" ;;
  77) loud "installing $ours (see above)"; exit 77 ;;
  *) fail "$ours in a real systemd (status $status)" ;;
esac
