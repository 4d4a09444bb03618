#!/bin/bash
# Prepares what a build for aarch64 and its test under emulation need, below ${OCELLI_CACHE:-~/.cache/ocelli}/cross.
# Nothing is installed on this machine, and root is not needed: packages are resolved by a private apt state and only
# unpacked. Usage: deploy/cross/env.sh [PART…]; without a part, all of them:
#
#   rust      a compiler with the aarch64 standard library; empty when rustup already has that target
#   zig       zig and cargo-zigbuild: a linker to which the oldest glibc can be told
#   root      an arm64 Debian with GStreamer, both to link against and to run in
#   emulator  qemu-aarch64
#   ort       ONNX Runtime for aarch64, for the tests
#
# A part is made again when the lines of this script that make it have changed, and when files of it are gone. Where
# packages come from is read from this machine's own apt and pip configuration; on a system that is not Debian name a
# mirror: OCELLI_DEBIAN_MIRROR=URL and OCELLI_DEBIAN_SECURITY=URL.
set -euo pipefail
export LC_ALL=C

here=$(cd "$(dirname "$0")" && pwd)
cache=${OCELLI_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/ocelli}
cross=$cache/cross
keyring=${OCELLI_DEBIAN_KEYRING:-/usr/share/keyrings/debian-archive-keyring.gpg}
triple=aarch64-unknown-linux-gnu

say() { echo "cross: $*" >&2; }
fail() { say "$@"; exit 1; }

# The base address of a Debian archive as this machine's apt knows it. $1: debian or debian-security
archive() {
  local named
  [ "$1" = debian ] && named=${OCELLI_DEBIAN_MIRROR:-} || named=${OCELLI_DEBIAN_SECURITY:-}
  [ -n "$named" ] || named=$(apt-get update --print-uris 2>/dev/null | sed -n "s#^'\([^']*/$1\)/*/dists/.*#\1#p" | head -n 1)
  [ -n "$named" ] || fail "no archive '$1' among the sources of apt; set OCELLI_DEBIAN_MIRROR and OCELLI_DEBIAN_SECURITY to the addresses of Debian's archives"
  echo "$named"
}

# Makes an apt state of its own in folder $1 for architecture $2 and suite $3. Of the machine's configuration only the way
# to the network is taken over: hooks of other people must not run on it.
apt_state() {
  local dir=$1 arch=$2 suite=$3 main security
  [ -r "$keyring" ] || fail "$keyring is missing; install the package debian-archive-keyring"
  main=$(archive debian) security=$(archive debian-security)
  mkdir -p "$dir"/etc/{apt.conf,preferences}.d "$dir"/lists/partial "$dir"/cache/archives/partial
  : > "$dir/status"
  cat > "$dir/etc/sources.list" <<LIST
deb [signed-by=$keyring] $main $suite main
deb [signed-by=$keyring] $security $suite-security main
LIST
  {
    apt-config dump Acquire | grep -iE '^Acquire::(http|https|ftp|Check|Retries)' || true
    cat <<CONF
Dir::Etc "$dir/etc";
Dir::Etc::netrc "/etc/apt/auth.conf";
Dir::Etc::netrcparts "/etc/apt/auth.conf.d";
Dir::State "$dir";
Dir::State::lists "$dir/lists";
Dir::State::status "$dir/status";
Dir::Cache "$dir/cache";
APT::Architecture "$arch";
APT::Architectures { "$arch"; };
APT::Install-Recommends "false";
APT::Sandbox::User "";
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::Retries "3";
Debug::NoLocking "true";
CONF
  } > "$dir/conf"
  APT_CONFIG=$dir/conf apt-get update -qq
}

# Unpacks package files $2… into $1, without what only people read. Links of merged /usr folders are kept.
unpack() {
  local into=$1 file
  shift
  for file in "$@"; do
    dpkg-deb --fsys-tarfile "$file" | tar -x -C "$into" --no-same-owner --keep-directory-symlink --exclude='./dev' \
      --exclude='./usr/share/doc' --exclude='./usr/share/man' --exclude='./usr/share/locale' --exclude='./usr/share/icons' \
      --exclude='./usr/share/gir-1.0' --exclude='./usr/share/gtk-doc' --exclude='./usr/share/fonts' --exclude='./usr/share/perl'
  done
}

# Unpacks exactly the packages $3… of apt state $1 into $2.
take() {
  local state=$1 into=$2
  shift 2
  mkdir -p "$state/debs"
  (cd "$state/debs" && rm -f ./*.deb && APT_CONFIG=$state/conf apt-get download -qq "$@")
  unpack "$into" "$state"/debs/*.deb
}

# The release whose programs run here.
debian_suite() {
  local suite
  suite=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
  case $suite in bookworm | trixie) echo "$suite" ;; *) echo bookworm ;; esac
}

has_rustup_target() {
  local dir
  dir=$(rustc --print target-libdir --target "$triple" 2>/dev/null) && compgen -G "$dir/libstd-*.rlib" >/dev/null
}

# Debian builds its browsers with a current compiler, rustc-web, and has its standard library for both architectures
# from the very same build: only that fits together. Its version moves with security updates, so the candidate is taken.
make_rust() {
  local out=$1 work=$2 suite version std llvm
  suite=$(debian_suite)
  apt_state "$work/amd64" amd64 "$suite"
  apt_state "$work/arm64" arm64 "$suite"
  version=$(APT_CONFIG=$work/amd64/conf apt-cache policy rustc-web | sed -n 's/ *Candidate: //p')
  [ -n "$version" ] && [ "$version" != "(none)" ] || fail "Debian $suite has no rustc-web; install the target with rustup: rustup target add $triple"
  std=$(APT_CONFIG=$work/amd64/conf apt-cache show "libstd-rust-web-dev=$version" | sed -n 's/^Depends:.*\(libstd-rust-web-[0-9.]*[0-9]\).*/\1/p')
  llvm=$(APT_CONFIG=$work/amd64/conf apt-cache show "$std=$version" | grep -o 'libllvm[0-9]*' | head -n 1)
  take "$work/amd64" "$out" "rustc-web=$version" "libstd-rust-web-dev=$version" "$std=$version" "$llvm"
  take "$work/arm64" "$out" "libstd-rust-web-dev=$version"
  cat > "$out/rustc" <<'WRAPPER'
#!/bin/bash
here=$(dirname "$(readlink -f "$0")")
LD_LIBRARY_PATH=$here/usr/lib/x86_64-linux-gnu exec "$here/usr/bin/rustc" "$@"
WRAPPER
  chmod +x "$out/rustc"
  "$out/rustc" --version >&2 || fail "Debian's rustc does not start here; install the target with rustup: rustup target add $triple"
}

# A plain Debian has Python without pip: then pip is unpacked too, into folder $1.
need_pip() {
  local work=$1
  ! python3 -m pip --version >/dev/null 2>&1 || return 0
  apt_state "$work/pip" "$(dpkg --print-architecture)" "$(debian_suite)"
  mkdir -p "$work/python"
  take "$work/pip" "$work/python" python3-pip
  export PYTHONPATH=$work/python/usr/lib/python3/dist-packages
}

# Both come as Python packages, zig as a whole program.
make_zig() {
  local out=$1 work=$2
  need_pip "$work"
  PIP_ROOT_USER_ACTION=ignore python3 -m pip install --quiet --disable-pip-version-check --no-cache-dir --no-compile \
    --target "$out" ziglang==0.17.1 cargo-zigbuild==0.24.0
  "$out/ziglang/zig" version >&2
}

# Debian 12, because it is whole and current; how old the systems may be that the program runs on is not decided by it,
# but by the linker (glibc) and by the features of the bindings (GStreamer), and tests/check-elf.py holds both.
make_root() {
  local out=$1 state=$2/root library
  apt_state "$state" arm64 bookworm
  APT_CONFIG=$state/conf apt-get install -y -qq --download-only \
    libc6-dev libgstreamer1.0-dev libgstreamer-plugins-base1.0-dev libgstrtspserver-1.0-dev libstdc++6 \
    gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly >/dev/null
  mkdir -p "$out"/usr/{bin,sbin,lib}
  local dir
  for dir in bin sbin lib; do ln -s "usr/$dir" "$out/$dir"; done
  unpack "$out" "$state"/cache/archives/*.deb
  # An absolute link would lead out of the root.
  find "$out" -type l -lname '/*' -printf '%p\t%l\n' | while IFS=$'\t' read -r path link; do
    ln -sfn "$(realpath -ms --relative-to="$(dirname "$path")" "$out$link")" "$path"
  done
  # Bindings need names, not headers; programs of this root are never run, and there is no display to draw on.
  rm -rf "$out"/usr/include "$out"/usr/lib/python3 "$out"/usr/lib/gcc "$out"/usr/bin/* "$out"/usr/sbin/* \
    "$out"/usr/lib/aarch64-linux-gnu/{dri,perl,perl-base,systemd} "$out"/usr/lib/aarch64-linux-gnu/lib{LLVM-*,z3}.so*
  find "$out/usr/lib" \( -name '*.a' -o -name '*.typelib' -o -name '*.o' ! -name '*crt*.o' \) -delete
  # In which version each symbol appeared: what the table of tests/check-elf.py is made of.
  for library in libglib2.0-0 libgstreamer1.0-0 libgstreamer-plugins-base1.0-0 libgstrtspserver-1.0-0; do
    mkdir -p "$out/symbols"
    dpkg-deb --ctrl-tarfile "$state/cache/archives/${library}"_*.deb | tar -x -O ./symbols > "$out/symbols/$library"
  done
}

# Older than 10 does not do: ONNX Runtime reads /proc/cpuinfo, which it would not show as an Arm's. The program is static.
make_emulator() {
  local out=$1 work=$2
  apt_state "$work/emu" amd64 trixie
  mkdir -p "$work/all"
  take "$work/emu" "$work/all" qemu-user
  mv "$work/all/usr/bin/qemu-aarch64" "$out/"
  "$out/qemu-aarch64" --version | head -n 1 >&2
}

make_ort() {
  local out=$1 work=$2
  need_pip "$work"
  "$here/../../tests/fetch-ort.sh" "$out" 1.24.4 manylinux_2_28_aarch64 >/dev/null
}

# How many files folder $1 holds, but for the note: a cache that came back in part is not taken for whole.
files() { find "$cross/$1" ! -name .made-by ! -name __pycache__ ! -name '*.pyc' | wc -l; }

# Makes part $1 unless it is there, whole, and made by the same lines.
part() {
  local name=$1 key at=$SECONDS work
  declare -F "make_$name" >/dev/null || fail "no part '$name'; there are rust, zig, root, emulator, ort"
  key=$(declare -f "make_$name" need_pip debian_suite apt_state archive unpack take | sha256sum | cut -c1-32)
  if [ "$name" = rust ] && has_rustup_target; then rm -rf "$cross/rust"; return 0; fi
  [ "$(cat "$cross/$name/.made-by" 2>/dev/null)" != "$key $(files "$name")" ] || return 0
  say "making $name"
  rm -rf "${cross:?}/$name" "$cross/$name.new"
  work=$(mktemp -d "$cross/work.XXXXXX")
  mkdir "$cross/$name.new"
  "make_$name" "$cross/$name.new" "$work"
  echo "$key $(files "$name.new")" > "$cross/$name.new/.made-by"
  # The rename is last: a folder of that name is a whole one.
  mv "$cross/$name.new" "$cross/$name"
  rm -rf "$work"
  say "$name: $(du -sh "$cross/$name" | cut -f1), $((SECONDS - at)) s"
}

[ "$(uname -m)" = x86_64 ] || fail "this prepares a cross build on x86-64; on an $(uname -m) machine use: make build"
command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || fail "apt-get and dpkg-deb are needed; elsewhere use the cross tool with cross.toml"
mkdir -p "$cross"
exec 9> "$cross/.lock"
flock 9
rm -rf "$cross"/work.* "$cross"/*.new
[ $# -gt 0 ] || set -- rust zig root emulator ort
for name in "$@"; do part "$name"; done
