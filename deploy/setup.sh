#!/bin/bash
# Installs the system packages that building, testing and the demo need; does nothing when they are there.
set -euo pipefail

if ! command -v cargo >/dev/null; then
  echo "ocelli: Rust is missing; get it with: curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y && . \"\$HOME/.cargo/env\"" >&2
  exit 1
fi

packages=(
  gcc libc6-dev pkg-config
  libgstreamer1.0-dev libgstreamer-plugins-base1.0-dev libgstrtspserver-1.0-dev
  gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly
  gstreamer1.0-libav gstreamer1.0-tools mosquitto mosquitto-clients faketime
)

missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q '^install ok installed$' || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0

if ! command -v apt-get >/dev/null; then
  echo "ocelli: these packages are missing and there is no apt-get to install them: ${missing[*]}" >&2
  exit 1
fi
if [ "$(id -u)" -eq 0 ]; then
  root=()
elif command -v sudo >/dev/null; then
  root=(sudo)
else
  echo "ocelli: these packages are missing; install them as root: apt-get install --no-install-recommends ${missing[*]}" >&2
  exit 1
fi
echo "ocelli: installing ${missing[*]}"
apt=("${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300)
"${apt[@]}" update -qq
"${apt[@]}" install -y -qq --no-install-recommends "${missing[@]}"
# A broker for everybody is not what was asked for: the demo and the tests start their own.
if [ ${#root[@]} -eq 0 ] || [ -d /run/systemd/system ]; then
  "${root[@]}" systemctl disable --now mosquitto >/dev/null 2>&1 || true
fi
