#!/bin/bash
# The whole of Ocelli on one machine: a simulated camera plays a real clip, Ocelli detects, a real broker carries the
# messages, and the annotated stream can be watched. With a terminal it runs until Ctrl-C, else for DEMO_SECONDS (30).
set -euo pipefail
cd "$(dirname "$0")/.."

ocelli=${OCELLI:-target/release/ocelli}
cache=${OCELLI_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/ocelli}
out=${DEMO_OUT:-out}
seconds=${DEMO_SECONDS:-30}
mkdir -p "$cache" "$out"
work=$(mktemp -d)
pids=()

# Each background job gets a process group of its own, so that a whole pipeline of commands can be ended.
set -m
finish() {
  trap - EXIT INT TERM
  exec 2>/dev/null # the shell would report each job that it ends
  for pid in "${pids[@]}"; do kill -- "-$pid" 2>/dev/null || true; done
  for _ in 1 2 3 4 5 6 7 8 9 10; do jobs -r | grep -q . || break; sleep 0.3; done
  for pid in "${pids[@]}"; do kill -KILL -- "-$pid" 2>/dev/null || true; done
  rm -rf "$work"
}
trap finish EXIT
trap 'finish; exit 130' INT TERM

fail() { echo "demo: $*" >&2; for log in "$work"/*.log; do [ -s "$log" ] && { echo "--- ${log##*/}"; tail -n 20 "$log"; } >&2; done; exit 1; }

clip() { # the clip of the Debian package opencv-doc: 79 s of pedestrians and cars
  local file=$cache/vtest.avi
  if [ ! -s "$file" ]; then
    echo "demo: fetching the clip (package opencv-doc, 96 MB, once)" >&2
    local box
    box=$(mktemp -d)
    if ! (cd "$box" && apt-get download -qq opencv-doc >&2); then
      # no package lists yet
      local root=()
      [ "$(id -u)" -eq 0 ] || root=(sudo)
      "${root[@]}" apt-get update -qq >&2
      (cd "$box" && apt-get download -qq opencv-doc >&2)
    fi
    dpkg-deb --fsys-tarfile "$box"/opencv-doc_*.deb | tar -x -C "$box" ./usr/share/doc/opencv-doc/examples/data/vtest.avi ||
      dpkg-deb -x "$box"/opencv-doc_*.deb "$box"
    mv "$box"/usr/share/doc/opencv-doc/examples/data/vtest.avi "$file.part"
    mv "$file.part" "$file"
    rm -rf "$box"
  fi
  echo "$file"
}

port() { # the first free TCP port from $1 on
  local p=$1
  while (exec 3<>"/dev/tcp/127.0.0.1/$p") 2>/dev/null; do p=$((p + 1)); done
  echo "$p"
}

wait_for() { # $1 seconds, the rest a command
  local end=$((SECONDS + $1))
  shift
  until "$@"; do
    [ $SECONDS -lt $end ] || return 1
    sleep 0.2
  done
}

listens() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

[ -x "$ocelli" ] || fail "$ocelli is not built; run: make build"
video=${DEMO_CLIP:-$(clip)}
# Until the shipped model is trained (its manifest then has measured numbers), a trained one from the test data shows more.
stand_in=../shared/data/models/yolov5n_coco_640.onnx
if [ -z "${OCELLI_MODEL:-}" ] && [ -e "$stand_in" ] && ! grep -q '^accuracy:' models/yolov5s-efficientnetv2/model.yaml 2>/dev/null; then
  export OCELLI_MODEL=$stand_in
  echo "demo: the shipped model is not trained to the end yet; using $OCELLI_MODEL"
fi
mqtt_port=$(port 1883)
camera_port=$(port 8555)
rtsp_port=$(port 8554)
http_port=$(port 8080)

printf 'listener %s 127.0.0.1\nallow_anonymous true\npersistence false\n' "$mqtt_port" > "$work/mosquitto.conf"
PATH=$PATH:/usr/sbin mosquitto -c "$work/mosquitto.conf" > "$work/mosquitto.log" 2>&1 & pids+=($!)
# The model was trained on the first 60 % of this clip: the demo shows the rest.
"$ocelli" simulate "$video" --listen "127.0.0.1:$camera_port" --path demo --start "${DEMO_START:-48s}" > "$work/camera.log" 2>&1 & pids+=($!)
wait_for 20 listens "$mqtt_port" || fail "mosquitto does not listen on port $mqtt_port"
wait_for 20 listens "$camera_port" || fail "the simulated camera does not listen on port $camera_port"

started=$(date +%s%N)
"$ocelli" run -c configs/demo.yaml \
  --set "cameras.demo.url=rtsp://127.0.0.1:$camera_port/demo" --set "mqtt.url=mqtt://127.0.0.1:$mqtt_port" \
  --set "rtsp.listen=127.0.0.1:$rtsp_port" --set "http.listen=127.0.0.1:$http_port" ${DEMO_ARGS:-} \
  > "$work/ocelli.log" 2>&1 & service=$!; pids+=($service)
url=rtsp://127.0.0.1:$rtsp_port/demo

subscribe() { mosquitto_sub -h 127.0.0.1 -p "$mqtt_port" "$@"; }
subscribe -t 'ocelli/+/+/frame' > "$work/frames.jsonl" 2>/dev/null & pids+=($!)
wait_for 60 test -s "$work/frames.jsonl" || fail "no detection arrived within 60 s"
first=$(( ($(date +%s%N) - started) / 1000000 ))

cat <<TEXT

  watch the stream     ffplay -rtsp_transport tcp $url        (or VLC)
  follow the messages  mosquitto_sub -p $mqtt_port -t 'ocelli/#' -v
  health and metrics   http://127.0.0.1:$http_port/api/v1/health   http://127.0.0.1:$http_port/metrics

TEXT
echo "demo: first detection ${first} ms after the start"

# The picture and the clip are what any RTSP client sees.
record() {
  timeout -k 5 -s INT $(( seconds < 12 ? seconds : 12 )) gst-launch-1.0 -q -e rtspsrc location="$url" protocols=tcp latency=100 ! \
    rtph264depay ! h264parse ! mp4mux ! filesink location="$out/demo.mp4" > "$work/record.log" 2>&1 || true
  gst-launch-1.0 -q filesrc location="$out/demo.mp4" ! qtdemux ! h264parse ! avdec_h264 ! videoconvert ! pngenc ! \
    multifilesink location="$work/demo-%05d.png" max-files=1 >> "$work/record.log" 2>&1 || true
  local last
  last=$(find "$work" -name 'demo-*.png' | sort | tail -n 1)
  [ -z "$last" ] || mv "$last" "$out/demo.png"
}
record & recorder=$!

live() { # one line per second: what was found, what ran, how fast
  subscribe -t 'ocelli/+/+/frame' | awk '
    { line = $0; n = 0; delete count; delete order
      while (match(line, /"label":"[^"]*"/)) {
        label = substr(line, RSTART + 9, RLENGTH - 10); line = substr(line, RSTART + RLENGTH)
        if (!(label in count)) order[n++] = label
        count[label]++ }
      text = ""
      for (i = 0; i < n; i++) text = text (i ? ", " : "") count[order[i]] " " order[i]
      match($0, /"backend":"[^"]*"/); backend = substr($0, RSTART + 11, RLENGTH - 12)
      match($0, /"total":[0-9.]*/); total = substr($0, RSTART + 8, RLENGTH - 8)
      match($0, /"ts":"[^"]*"/); ts = substr($0, RSTART + 6, RLENGTH - 7)
      second = substr(ts, 1, 19)
      if (second != last) { printf "  %s  %-44s %s, %s ms\n", substr(ts, 12, 12), text == "" ? "nothing" : text, backend, total; fflush(); last = second } }'
}
live & pids+=($!)

if [ -t 0 ] && [ -t 1 ] && [ -z "${DEMO_SECONDS:-}" ]; then
  echo "demo: running until Ctrl-C"
  trap 'echo' INT
  wait "$service" || true
  trap 'finish; exit 130' INT TERM
else
  end=$((SECONDS + seconds))
  while [ $SECONDS -lt $end ]; do kill -0 "$service" 2>/dev/null || fail "ocelli ended by itself"; sleep 0.5; done
fi
wait "$recorder" 2>/dev/null || true
stats=$(subscribe -t 'ocelli/+/stats' -C 1 -W 15 || true)
cp "$work/frames.jsonl" "$out/demo.jsonl"
cp "$work/ocelli.log" "$out/demo.log"
[ -n "$stats" ] && printf '%s\n' "$stats" > "$out/demo-stats.json"
[ -s "$out/demo.png" ] || fail "no picture came from $url"

field() { printf '%s' "$stats" | grep -oE "\"$1\":(\"[^\"]*\"|[0-9.]+|null)" | head -n 1 | cut -d: -f2- | tr -d '"'; }
echo
echo "demo: measured backend $(field backend) ($(field backend_version)), $(field fps) frames/s in, $(field detect_fps) detected/s,"
echo "      $(field infer_ms_p50) ms in the session, $(field latency_ms_p50) ms from decoded frame to result (median)"
echo "demo: $(wc -l < "$out/demo.jsonl") detection messages; $out/demo.png  $out/demo.mp4  $out/demo.jsonl  $out/demo-stats.json"
