#!/bin/bash
# The second half of check-deb.sh: runs as root under a systemd that may be broken. /opt/debs has first.deb and next.deb.
set -uo pipefail
export DEBIAN_FRONTEND=noninteractive
step() { echo "--- $*"; }
fail() {
  echo "FAILED: $*"
  systemctl status --no-pager 'ocelli*' 2>&1 | tail -n 30
  journalctl --sync 2>/dev/null
  journalctl --no-pager -n 40 -u ocelli.service 2>/dev/null
  exit 1
}
property() { systemctl show -P "$1" "${2:-ocelli.service}"; }
active() {
  for _ in $(seq 60); do
    [ "$(property ActiveState "$@")" = active ] && return 0
    sleep 0.5
  done
  fail "${1:-ocelli.service} did not become active"
}
ready() { # PORT
  for _ in $(seq 60); do
    (exec 3<>"/dev/tcp/127.0.0.1/$1" && printf 'GET /readyz HTTP/1.0\r\n\r\n' >&3 && head -n 1 <&3) 2>/dev/null |
      grep ' 200 ' && return 0
    sleep 0.5
  done
  return 1
}
install() { dpkg --force-confdef --force-confold -i "$1" > /tmp/dpkg.log 2>&1 || { cat /tmp/dpkg.log; fail "dpkg -i $1"; }; }

[ ! -e /usr/bin/ocelli ] || fail "this root has an ocelli already"

step "the dependencies can be had"
apt-get install -s --no-install-recommends /opt/debs/first.deb > /tmp/apt.log 2>&1 || { cat /tmp/apt.log; fail "apt-get install -s"; }
grep -q '^Inst ocelli ' /tmp/apt.log || fail "apt-get would not install it: $(tail -n 3 /tmp/apt.log)"

step "installed, the service runs"
install /opt/debs/first.deb
active
[ "$(systemctl is-enabled ocelli.service)" = enabled ] || fail "the service is not enabled"
systemctl show -p ActiveState,SubState,Type,User,StatusText,NRestarts,Result ocelli.service
[ "$(property Type)" != notify ] || [ -n "$(property StatusText)" ] || fail "it has no status text"
[ "$(property NRestarts)" = 0 ] || fail "it had to be restarted"
main=$(property MainPID)
[ "$(readlink "/proc/$main/exe")" = /usr/bin/ocelli ] || fail "process $main is not ocelli"
[ "$(stat -c %U "/proc/$main")" != root ] || fail "it runs as root"
systemd-analyze verify --man=no /lib/systemd/system/ocelli.service /lib/systemd/system/ocelli@.service ||
  fail "systemd-analyze verify"
[ "$(stat -c '%U:%G %a' /etc/ocelli/ocelli.yaml)" = "root:ocelli 640" ] || fail "rights of the configuration"
[ "$(stat -c %U:%G /var/lib/ocelli)" = ocelli:ocelli ] || fail "owner of the state folder"

step "what it brings works"
ocelli config check || fail "config check"
(cd / && ocelli models list) | grep -q yolov5s-efficientnetv2 || fail "the model is not found"
for example in /usr/share/doc/ocelli/examples/*.yaml; do
  ocelli config check -c "$example" || fail "$example"
done
ocelli doctor --json > /tmp/doctor.json || { cat /tmp/doctor.json; fail "doctor finds a fault in a fresh installation"; }
bash -c '. /usr/share/bash-completion/completions/ocelli && complete -p ocelli' || fail "completions of bash"

step "an upgrade restarts it and keeps the configuration"
printf '%s\n' 'http: 127.0.0.1:18080' 'cameras: {mine: {url: "rtsp://192.0.2.1/x", enabled: false}}' > /etc/ocelli/ocelli.yaml
sum=$(sha256sum < /etc/ocelli/ocelli.yaml)
touch /var/lib/ocelli/keep
install /opt/debs/next.deb
active
[ "$(property MainPID)" != "$main" ] || fail "the old program still runs"
[ "$(sha256sum < /etc/ocelli/ocelli.yaml)" = "$sum" ] || fail "the edited configuration was replaced"
[ -e /etc/ocelli/ocelli.yaml.dpkg-dist ] || fail "the new example configuration is not beside it"
[ "$(stat -c '%U:%G %a' /etc/ocelli/ocelli.yaml)" = "root:ocelli 640" ] || fail "rights of the configuration after the upgrade"
ready 18080 || fail "the edited configuration is not in use"

step "a reload takes a right configuration and refuses a wrong one"
systemctl reload ocelli.service || fail "reload"
echo 'nonsense: 1' >> /etc/ocelli/ocelli.yaml
systemctl reload ocelli.service 2>/dev/null && fail "a wrong configuration was accepted"
sed -i '/^nonsense/d' /etc/ocelli/ocelli.yaml
active

step "a second instance"
printf '%s\n' 'rtsp: {enabled: false}' 'cameras: {other: {url: "rtsp://192.0.2.2/x", enabled: false}}' > /etc/ocelli/second.yaml
chgrp ocelli /etc/ocelli/second.yaml
systemctl enable -q --now ocelli@second.service || fail "the instance does not start"
active ocelli@second.service

step "a service that is switched off stays off"
systemctl disable -q --now ocelli.service
install /opt/debs/next.deb
[ "$(property ActiveState)" = inactive ] || fail "the upgrade started a service that was switched off"
[ "$(systemctl is-enabled ocelli.service)" = disabled ] || fail "the upgrade enabled it"
systemctl enable -q --now ocelli.service
active

step "removed: nothing runs, configuration and state stay"
dpkg -r ocelli > /tmp/dpkg.log 2>&1 || { cat /tmp/dpkg.log; fail "dpkg -r"; }
pgrep -x ocelli && fail "a process is left"
[ ! -e /usr/bin/ocelli ] && [ ! -e /usr/share/ocelli ] || fail "files are left"
[ ! -e /lib/systemd/system/ocelli.service ] && [ ! -e /lib/systemd/system/ocelli@.service ] || fail "units are left"
[ "$(sha256sum < /etc/ocelli/ocelli.yaml)" = "$sum" ] && [ -e /var/lib/ocelli/keep ] || fail "configuration or state is gone"

step "installed again: the old configuration is in use"
install /opt/debs/first.deb
active
[ "$(sha256sum < /etc/ocelli/ocelli.yaml)" = "$sum" ] || fail "the configuration was replaced"

step "purged: nothing is left"
dpkg -P ocelli > /tmp/dpkg.log 2>&1 || { cat /tmp/dpkg.log; fail "dpkg -P"; }
pgrep -x ocelli && fail "a process is left"
systemctl list-unit-files --no-legend 'ocelli*' | grep . && fail "units are left"
systemctl list-units --all --no-legend 'ocelli*' | grep . && fail "units are loaded"
find /etc /lib/systemd /usr/lib /usr/bin /usr/share /var /run -xdev -iname '*ocelli*' -not -path '/var/lib/dpkg/*' \
  -not -path '/run/share/*' > /tmp/left
[ -s /tmp/left ] && { cat /tmp/left; fail "files are left"; }
dpkg-query -W -f '${Status}\n' ocelli 2>/dev/null | grep -v not-installed && fail "dpkg still knows it"
step "ok"
