#!/bin/bash
# Checks the files under deploy/containers without Docker: lints them, tries the broker's configuration with a real broker,
# and carries out both Dockerfiles on a clean Debian root (the one for JetPack with this machine's package instead of the
# Jetson's: NVIDIA's base image cannot be had here).
#
#   tests/check-containers.sh
#
# Needs `make deb` first. Says loudly what it leaves out; status 77 when that is the Dockerfiles' commands.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
cache=${OCELLI_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/ocelli}
fail() { echo "check-containers: FAILED: $*" >&2; exit 1; }
loud() { printf '!!! SKIPPED: %s\n' "$*" >&2; }
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
files=(deploy/containers/Dockerfile.*)
ocelli=$target/release/ocelli

lint() {
  tests/dockerfile.py lint "${files[@]}" || fail "lint"
  # The lint itself must be able to fail.
  printf '%s\n' 'FROM debian' 'RUN if true' 'COPY nowhere /' 'COPY out/x /' 'COPY --from=other /x /x' 'NONSENSE x' > "$scratch/Dockerfile"
  local problems
  problems=$(tests/dockerfile.py lint "$scratch/Dockerfile" | wc -l) || true
  [ "$problems" -ge 9 ] || fail "the lint finds only $problems problems in a Dockerfile that is all wrong"
  # Not pinned: a rebuild is there to bring security updates. The user's number is the package's choice.
  if command -v hadolint >/dev/null; then
    hadolint --ignore DL3008 --ignore DL3066 "${files[@]}" || fail "hadolint"
  else
    loud "hadolint (not installed)"
  fi
}

compose() {
  local file=deploy/containers/compose.yaml
  if docker compose version >/dev/null 2>&1; then
    docker compose -f "$file" config -q || fail "$file"
  elif command -v docker-compose >/dev/null; then
    # Version 1 knows no `name`, and is enough to read the rest.
    sed '/^name:/d' "$file" | docker-compose -p ocelli --project-directory "$(dirname "$file")" -f - config -q || fail "$file"
  else
    loud "$file by docker compose (not installed)"
  fi
  "$ocelli" config check -c deploy/containers/ocelli.yaml || fail "deploy/containers/ocelli.yaml"
}

broker() {
  local conf=$scratch/mosquitto.conf pid got
  PATH=$PATH:/usr/sbin
  command -v mosquitto >/dev/null && command -v mosquitto_sub >/dev/null || { loud "mosquitto.conf (no mosquitto)"; return 0; }
  local port=$((20000 + RANDOM % 20000))
  mkdir "$scratch/data"
  chmod 777 "$scratch" "$scratch/data" # mosquitto leaves root for a user of its own
  sed "s#^listener 1883#listener $port 127.0.0.1#; s#/mosquitto/data/#$scratch/data/#" deploy/containers/mosquitto.conf > "$conf"
  mosquitto -c "$conf" > "$scratch/broker.log" 2>&1 &
  pid=$!
  for _ in $(seq 50); do mosquitto_pub -p "$port" -t a -m kept -r 2>/dev/null && break; sleep 0.1; done
  got=$(mosquitto_sub -p "$port" -t a -C 1 -W 5) || true
  kill "$pid"
  wait "$pid" || true
  [ "$got" = kept ] || { cat "$scratch/broker.log"; fail "the broker with mosquitto.conf does not answer"; }
  [ -s "$scratch/data/mosquitto.db" ] || fail "the broker with mosquitto.conf keeps nothing over a restart"
}

# A clean root of Debian 12, kept for the next time.
base() {
  local root=$cache/bookworm-minbase
  if [ ! -e "$root/etc/debian_version" ]; then
    command -v debootstrap >/dev/null || return 1
    rm -rf "$root.part"
    timeout 600 debootstrap --variant=minbase bookworm "$root.part" > "$scratch/debootstrap.log" 2>&1 ||
      { tail -n 3 "$scratch/debootstrap.log" >&2; rm -rf "$root.part"; return 1; }
    rm -rf "$root.part"/var/cache/apt/archives/*.deb
    mv "$root.part" "$root"
  fi
  echo "$root"
}

# DOCKERFILE and arguments of dockerfile.py, in an overlay over the base that is gone afterwards.
try() {
  echo "--- $1"
  mkdir -p "$scratch/root"
  BASE=$root ROOT=$scratch/root WHEEL=${wheel:-} timeout -k 5 900 unshare --mount --pid --fork --kill-child bash -euc '
    mount --make-rprivate /
    mount -t tmpfs -o size=3g tmpfs "$ROOT"
    mkdir "$ROOT"/{upper,work,root}
    mount -t overlay overlay -o "lowerdir=$BASE,upperdir=$ROOT/upper,workdir=$ROOT/work" "$ROOT/root"
    mount -t proc proc "$ROOT/root/proc"
    mount --rbind /dev "$ROOT/root/dev"
    cp --remove-destination /etc/resolv.conf "$ROOT/root/etc/resolv.conf"
    [ -z "$WHEEL" ] || cp "$WHEEL" "$ROOT/root/tmp/wheel.whl"
    file=$1
    shift
    exec python3 tests/dockerfile.py try "$file" "$ROOT/root" "$@"
  ' try "$@" || fail "$1"
}

lint
compose
broker
debs=("$target"/debian/ocelli_*_"$(dpkg --print-architecture)".deb)
[ -e "${debs[0]}" ] || fail "no package in $target/debian: run \`make deb\` first"
deb=${debs[-1]}
if [ "$(id -u)" -ne 0 ] || ! unshare --mount --pid --net --fork true 2>/dev/null; then
  loud "the commands of ${files[*]} (namespaces are not allowed here)"
  exit 77
fi
root=$(base) || { loud "the commands of ${files[*]} (no root of Debian 12: apt-get install debootstrap, and the network)"; exit 77; }

# The context holds the package outside of the ignored target folder of this machine.
dpkg-deb -x "$deb" "$scratch/package"
try deploy/containers/Dockerfile.cpu --built "/ocelli=$scratch/package/usr/bin/ocelli"

# A wheel is an archive with the library and its providers; the one of the tests does as well as NVIDIA's.
library=$(find "$cache"/onnxruntime-*/ -name 'libonnxruntime.so*' -type f 2>/dev/null | head -n 1) || true
arguments=(--arg "DEB=$deb")
if [ -n "$library" ]; then
  mkdir -p "$scratch/onnxruntime/capi"
  cp "$library" "$scratch/onnxruntime/capi/libonnxruntime.so.1"
  (cd "$scratch" && python3 -m zipfile -c wheel.whl onnxruntime/)
  wheel=$scratch/wheel.whl arguments+=(--arg ORT_WHEEL=file:///tmp/wheel.whl)
else
  loud "ORT_WHEEL of Dockerfile.jetpack6 (no ONNX Runtime in $cache: make test fetches it)"
fi
try deploy/containers/Dockerfile.jetpack6 "${arguments[@]}"
echo "check-containers: ok"
