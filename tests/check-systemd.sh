#!/bin/bash
# Runs deploy/systemd under a real systemd: exposure, readiness, status, journal, credential, reload, watchdog, start limit,
# exit 78, template, CPU-only drop-in, broken boxes, stop.
#   tests/check-systemd.sh [OCELLI]     default: the release binary of this checkout
# Exits with 77, loudly, where namespaces or systemd are not to be had.
set -euo pipefail
if [ "${1:-}" != --inside ]; then
  root=$(cd "$(dirname "$0")/.." && pwd)
  ocelli=$(realpath "${1:-${CARGO_TARGET_DIR:-$root/target}/release/ocelli}")
  [ -x "$ocelli" ] || { echo "check-systemd: no program at $ocelli; build it first: make build" >&2; exit 2; }
  [ "$("$root/deploy/systemd/template.sh")" = "$(cat "$root/deploy/systemd/ocelli@.service")" ] ||
    { echo "check-systemd: ocelli@.service is not what template.sh makes of ocelli.service" >&2; exit 1; }
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  mkdir "$work/src"
  strip -o "$work/src/ocelli" "$ocelli"
  cp -r "$root/deploy/systemd" "$work/src/units"
  cp "$root/tests/data/marker.onnx" "$root/models/yolov5s-efficientnetv2/detected.jpg" "$work/src/"
  # A clip that anything can decode: a still picture, three minutes long.
  gst-launch-1.0 -q videotestsrc num-buffers=1500 ! video/x-raw,width=320,height=240,framerate=25/1 ! \
    x264enc tune=zerolatency ! mp4mux ! filesink location="$work/src/clip.mp4"
  printf '#!/bin/bash\nexec bash /opt/check/check.sh --inside\n' > "$work/script.sh"
  cp "$0" "$work/src/check.sh"
  status=0
  BINDS="$work/src:/opt/check" NS_TIMEOUT=400 "$root/tests/systemd-ns.sh" "$work/ns" "$work/script.sh" || status=$?
  exit $status
fi

# ---- inside, as root under the new systemd
set +e
failed=0
ok() { echo "ok       $*"; }
bad() {
  echo "FAILED   $*"
  failed=$((failed + 1))
  journalctl --sync
  journalctl -u 'ocelli*' -n 6 --no-pager -o cat | sed 's/^/         | /'
}
check() { # WHAT COMMAND...
  local what=$1
  shift
  if "$@" > /tmp/said 2>&1; then ok "$what"; else bad "$what"; sed 's/^/         > /' /tmp/said | tail -5; fi
}
eventually() { # SECONDS COMMAND...
  local until=$((SECONDS + $1))
  shift
  while ! "$@" > /dev/null 2>&1; do
    [ $SECONDS -lt $until ] || return 1
    sleep 0.2
  done
}
property() { systemctl show -P "$2" "$1"; }
is() { [ "$(property "$1" "$2")" = "$3" ]; }
drop_in() { # UNIT NAME LINES
  mkdir -p "/etc/systemd/system/$1.d"
  printf '[Service]\n%b\n' "$3" > "/etc/systemd/system/$1.d/$2.conf"
  systemctl daemon-reload
}
drop_out() { rm -f "/etc/systemd/system/$1.d/$2.conf"; systemctl daemon-reload; }
config() { # NAME LINES
  printf 'node: box\nmodel: {file: /opt/check/marker.onnx, backend: tract}\n%b\n' "$2" > "/etc/ocelli/$1.yaml"
}
logged() { journalctl --sync; journalctl -u "$1" --no-pager -o cat "${@:3}" | grep -q -- "$2"; }
health() { exec 3<> /dev/tcp/127.0.0.1/8080 && printf 'GET /api/v1/health HTTP/1.0\r\n\r\n' >&3 && cat <&3; }

install -m 755 /opt/check/ocelli /usr/bin/ocelli
getent passwd ocelli > /dev/null || useradd --system --home-dir /var/lib/ocelli --shell /usr/sbin/nologin ocelli
getent group render > /dev/null || groupadd --system render
install -m 644 /opt/check/units/ocelli.service /opt/check/units/ocelli@.service /etc/systemd/system/
mkdir -p /etc/ocelli/secrets
install -m 600 /dev/stdin /etc/ocelli/secrets/mqtt_password <<< 'correct horse'
systemctl daemon-reload
gate='{file: /opt/check/clip.mp4, loop: true}'
base="http: 127.0.0.1:8080\nstats_interval: 1s"

check "units are valid" systemd-analyze verify --man=no --recursive-errors=yes /etc/systemd/system/ocelli.service
check "exposure of ocelli.service at most 2.0" systemd-analyze security --offline=true --threshold=20 /etc/systemd/system/ocelli.service
check "exposure of ocelli@.service at most 2.0" systemd-analyze security --offline=true --threshold=20 /etc/systemd/system/ocelli@.service
systemd-analyze security --offline=true /etc/systemd/system/ocelli.service 2> /dev/null | tail -1

# --- a broker with a password, which comes as a credential
mkdir -p /tmp/broker
mosquitto_passwd -b -c /tmp/broker/passwords ocelli 'correct horse'
printf 'user root\nlistener 1883 127.0.0.1\nallow_anonymous false\npassword_file /tmp/broker/passwords\n' > /tmp/broker/mosquitto.conf
PATH=$PATH:/usr/sbin mosquitto -c /tmp/broker/mosquitto.conf > /tmp/broker/log 2>&1 &
listen() { mosquitto_sub -h 127.0.0.1 -u ocelli -P 'correct horse' -W "${2:-10}" -C 1 -t "$1"; }
mqtt='mqtt: {url: mqtt://127.0.0.1, username: ocelli, password: "${mqtt_password}"}'
drop_in ocelli.service credential 'LoadCredential=mqtt_password:/etc/ocelli/secrets/mqtt_password'

config ocelli "$base\n$mqtt\ncameras:\n  gate: $gate"
check "start returns" timeout 60 systemctl start ocelli
check "start returned after the first inference" logged ocelli 'model ready'
check "active" is ocelli ActiveState active
check "runs as its own user" is ocelli User ocelli
check "frames reach a broker whose password is a credential" listen 'ocelli/box/gate/frame'
check "the status line names backend and cameras" eventually 15 bash -c 'systemctl show -P StatusText ocelli | grep -q "^tract .*1 of 1 cameras online, [1-9]"'
systemctl show -P StatusText ocelli
check "journal entries have fields" eventually 5 bash -c 'journalctl --sync; journalctl -u ocelli CAMERA=gate STATE=online -o cat | grep -q fps'

# --- reload
pid=$(property ocelli MainPID)
config ocelli "$base\n$mqtt\ncameras:\n  gate: $gate\n  dock: $gate"
check "reload" systemctl reload ocelli
check "the new camera's frames" listen 'ocelli/box/dock/frame'
check "reload kept the process" is ocelli MainPID "$pid"
config ocelli "$base\n$mqtt\ncameras: [oops"
check "a bad file is refused by reload" bash -c '! systemctl reload ocelli'
check "and changes nothing" listen 'ocelli/box/dock/frame'
check "still the same process" is ocelli MainPID "$pid"
config ocelli "$base\n$mqtt\ncameras:\n  gate: $gate"
systemctl reload ocelli
check "a removed camera leaves the reload's line" eventually 10 logged ocelli 'dock (removed)'

# --- watchdog
drop_in ocelli.service fast 'WatchdogSec=3\nRestartSec=3'
systemctl restart ocelli
pid=$(property ocelli MainPID)
kill -STOP "$pid"
check "a frozen process is killed by the watchdog" eventually 20 is ocelli Result watchdog
check "and comes back" eventually 20 bash -c "[ \$(systemctl show -P NRestarts ocelli) -ge 1 ] && systemctl is-active ocelli"
check "with another process" bash -c "[ \$(systemctl show -P MainPID ocelli) != $pid ]"

# --- stop
(listen 'ocelli/box/available' 20; mosquitto_sub -h 127.0.0.1 -u ocelli -P 'correct horse' -W 15 -C 2 -t 'ocelli/box/available') > /tmp/available 2>&1 &
subscriber=$!
sleep 1
at=$(date +%s%N)
check "stop" timeout 10 systemctl stop ocelli
took=$((($(date +%s%N) - at) / 1000000))
check "stop took $took ms, at most 5000" [ $took -le 5000 ]
check "ended by itself" is ocelli Result success
wait $subscriber
check "the broker heard stopped" grep -qx stopped /tmp/available

# --- configuration errors are not tried again, other failures are, up to the limit
config ocelli "cameras: {gate: {url: nonsense}}"
systemctl reset-failed ocelli
systemctl start ocelli 2> /dev/null
sleep 2
check "exit 78 is not tried again" bash -c '[ $(systemctl show -P NRestarts ocelli) = 0 ] && systemctl is-failed ocelli && [ $(systemctl show -P ExecMainStatus ocelli) = 78 ]'
drop_in ocelli.service fast 'RestartSec=200ms'
python3 -m http.server --bind 127.0.0.1 8080 > /dev/null 2>&1 &
taken=$!
eventually 5 bash -c 'exec 3<> /dev/tcp/127.0.0.1/8080'
config ocelli "$base\ncameras:\n  gate: $gate"
systemctl reset-failed ocelli
systemctl start --no-block ocelli
check "a port that is taken is reported" eventually 10 logged ocelli '127.0.0.1:8080 is in use'
check "and tried again up to the limit" eventually 90 bash -c 'systemctl is-failed ocelli && [ $(systemctl show -P NRestarts ocelli) = 10 ]'
kill $taken
systemctl reset-failed ocelli
check "once it is free it starts" timeout 60 systemctl start ocelli
systemctl stop ocelli

# --- broken boxes
config ocelli "$base\ncameras:\n  away: rtsp://10.255.255.1/stream\n  gate: $gate"
check "no network: starts nevertheless" timeout 60 systemctl start ocelli
check "no network: the status line names the camera" eventually 30 bash -c 'systemctl show -P StatusText ocelli | grep -q "1 of 2 cameras online.*; away is "'
systemctl show -P StatusText ocelli
systemctl stop ocelli
rm -rf /var/lib/ocelli; mkdir /var/lib/ocelli; mount -t tmpfs -o size=4k tmpfs /var/lib/ocelli; chown ocelli: /var/lib/ocelli
head -c 4096 /dev/zero > /var/lib/ocelli/full 2> /dev/null
check "full state folder: starts nevertheless" timeout 60 systemctl start ocelli
check "full state folder: detects" eventually 40 bash -c 'systemctl show -P StatusText ocelli | grep -q "1 of 2 cameras online, [1-9]"'
systemctl stop ocelli
umount /var/lib/ocelli
drop_in ocelli.service readonly 'StateDirectory=\nEnvironment=STATE_DIRECTORY=/var/lib/elsewhere'
check "read-only state folder: starts nevertheless" timeout 60 systemctl start ocelli
check "read-only state folder: health reports it" eventually 10 bash -c 'exec 3<> /dev/tcp/127.0.0.1/8080; printf "GET /api/v1/health HTTP/1.0\r\n\r\n" >&3; grep -q "degraded.*/var/lib/elsewhere cannot be used" <&3'
systemctl stop ocelli
drop_out ocelli.service readonly

# --- the CPU-only drop-in: detection and an annotated stream without a device and without writable code
mkdir -p /etc/systemd/system/ocelli.service.d
cp /opt/check/units/cpu-only.conf /etc/systemd/system/ocelli.service.d/
systemctl daemon-reload
check "exposure with cpu-only.conf at most 1.6" systemd-analyze security --threshold=16 ocelli.service
systemd-analyze security ocelli.service 2> /dev/null | tail -1
config ocelli "$base\nrtsp: 127.0.0.1:8554\ncameras:\n  gate: $gate"
check "CPU-only: starts" timeout 60 systemctl start ocelli
check "CPU-only: a viewer gets pictures" timeout 40 gst-launch-1.0 -q rtspsrc location=rtsp://127.0.0.1:8554/gate protocols=tcp ! \
  rtph264depay ! avdec_h264 ! fakesink num-buffers=10
check "a second instance on the same state folder exits with 69 and says why" bash -c '
  STATE_DIRECTORY=/var/lib/ocelli ocelli run -c /etc/ocelli/ocelli.yaml --set http=null --set rtsp.listen=127.0.0.1:0; [ $? = 69 ]'

# --- several instances
config east "cameras:\n  gate: $gate\nrtsp: {enabled: false}"
config west "cameras:\n  gate: $gate\nrtsp: {enabled: false}"
check "two instances of the template start" timeout 60 systemctl start ocelli@east ocelli@west
check "each with a state folder of its own" test -e /var/lib/ocelli/east/ocelli.lock -a -e /var/lib/ocelli/west/ocelli.lock
systemctl stop 'ocelli@*' ocelli

echo "$failed failed"
[ $failed = 0 ]
