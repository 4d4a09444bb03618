//! Every kind of error and warning with its place, caret and hint, as a person reads it.

use super::load_with;

type Pairs = &'static [(&'static str, &'static str)];

/// Files, `--set` arguments and environment variables.
struct Case {
    files: Pairs,
    sets: &'static [&'static str],
    variables: Pairs,
}

const fn merged(files: Pairs, sets: &'static [&'static str], variables: Pairs) -> Case {
    Case { files, sets, variables }
}

/// One file each.
const TEXTS: &[&str] = &[
    // Several errors at once, in the order of the file.
    "mqtt:\n  url: mqtt://h\n  frames: yes\nrtsp: {listen: 127.0.0.1:1, bitrat_kbps: 5}\ndefaults:\n  detect: {treshold: 0.4, iou: 1.5}\ncameras:\n  Gate: rtsp://h/1\n  yard: {transport: tpc, latency: 5}\n",
    // Structure.
    "",
    "cameras:",
    "5",
    "- a",
    "cameras: [a]",
    "cameras: rtsp://h",
    "cameras: {gate: [rtsp://h]}",
    "cameras: {gate: }",
    "cameras: {gate: {url: {}}}",
    "cameras: {gate: rtsp://h}\ncameras: {x: rtsp://i}",
    "cameras:\n  gate: rtsp://h\n  gate: rtsp://i",
    "mqtt: {}\ncameras: {gate: rtsp://h}",
    "mqtt: [1]\ncameras: {gate: rtsp://h}",
    "defaults: 5\ncameras: {gate: rtsp://h}",
    // Unknown keys.
    "Mqtt: mqtt://h\ncameras: {gate: rtsp://h}",
    "threshold: 0.5\ncameras: {gate: rtsp://h}",
    "treshold: 0.5\ncameras: {gate: rtsp://h}",
    "mqtt:\nurl: mqtt://h\ncameras: {gate: rtsp://h}",
    "zzzzzz: 0.5\ncameras: {gate: {url: rtsp://h, detect: {zzzzzz: 1}}}",
    "profile: {min: 1}\nmodel: {threshold: 1, tensorrt: {fp61: true, qqqqqq: 1}, cuda: {tf23: true}}\ncameras: {gate: rtsp://h}",
    "cameras:\n  gate:\n    url: rtsp://h\n    detect: {treshold: 0.4}\n",
    // YAML.
    "cameras: {gate: rtsp://h\n",
    "a: 1\nb: \"x",
    "a: b: c",
    "<<: {a: 1}",
    "a: *nope",
    "--- 1\n--- 2",
    // Values.
    "version: 2\nnode: a/b\nstats_interval: 10\nmodel: {backend: tensort, threads: 0, input_size: 31, sha256: abc, file: a.onnx}\ncameras: {gate: rtsp://h}",
    "node: ''\nmodel: ''\nstate_dir: [a]\nstats_interval: 2h\ncameras: {gate: rtsp://h}",
    "node: [a]\nmodel: {threads: 1.5, input_size: 640x, batch: 65, spinning: on, device: -1, min_agreement: 2}\ncameras: {gate: rtsp://h}",
    "model: {tensorrt: {profile: {min: 1, opt: 9, max: 8}, fp16: of, builder_level: 6}, cuda: {arena: powers_of_two, cudnn_search: zzz}, openvino: {precision: f61}}\ncameras: {gate: rtsp://h}",
    "model: {tensorrt: {profile: {max: 65}}}\ncameras: {gate: rtsp://h}",
    "mqtt: localhost:1883\ncameras: {gate: rtsp://h}",
    "mqtt: mqt://h\ncameras: {gate: rtsp://h}",
    "mqtt: http://h\ncameras: {gate: rtsp://h}",
    "mqtt: mqtt://h:99999\ncameras: {gate: rtsp://h}",
    "mqtt: mqtt://\ncameras: {gate: rtsp://h}",
    "mqtt: {url: mqtt://h, prefix: a/#}\ncameras: {gate: rtsp://h}",
    "mqtt: {url: mqtt://h, queue: 0, frames: 1, username: ''}\ncameras: {gate: rtsp://h}",
    "rtsp: 8554\ncameras: {gate: rtsp://h}",
    "rtsp: here:8554\nhttp: :80\ncameras: {gate: rtsp://h}",
    "rtsp: {max_delay: 11s, bitrate_kbps: 1}\ncameras: {gate: rtsp://h}",
    "rtsp: {max_delay: -1s}\ncameras: {gate: rtsp://h}",
    "defaults: {detect: {labels: person, threshold: .nan, iou: high, fps: 0, max_detections: 0, priority: hi, model: ''}}\ncameras: {gate: rtsp://h}",
    "defaults: {detect: {labels: []}}\ncameras: {gate: rtsp://h}",
    "defaults: {detect: {labels: [a, b, a, '', [c]]}}\ncameras: {gate: rtsp://h}",
    // What no key can check alone.
    "mqtt: mqtt://h/topic\ncameras: {gate: rtsp://h}",
    "mqtt: {url: mqtt://h, ca_file: ca.pem, password: x}\ncameras: {gate: rtsp://h}",
    "mqtt: {url: mqtts://h, ca_file: gone.pem}\ncameras: {gate: rtsp://h}",
    "mqtt: {url: 'mqtt://u:p@h', username: x}\ncameras: {gate: rtsp://h}",
    "http: 127.0.0.1:8554\ncameras: {gate: rtsp://h}",
    "http: 127.0.0.1:9\nrtsp: 127.0.0.1:9\ncameras: {gate: rtsp://h}",
    "rtsp: 127.0.0.1:8080\nhttp: {}\ncameras: {gate: rtsp://h}",
    "rtsp: 0.0.0.0:8554\nhttp: {listen: '[::]:80'}\ncameras: {gate: rtsp://h}",
    "jsonl: {}\ncameras: {gate: rtsp://h}",
    "jsonl: folder\ncameras: {gate: rtsp://h}",
    "jsonl: gone/x.jsonl\ncameras: {gate: rtsp://h}",
    "model: gone.onnx\ncameras: {gate: rtsp://h}",
    "model: {ort_library: lib, sha256: 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef, tensorrt: {calibration: gone.table}, openvino: {library: gone.so}}\ncameras: {gate: rtsp://h}",
    "models: {default: a.onnx, plates: {threads: 2}, faces: {file: gone.onnx}}\ncameras: {gate: {url: rtsp://h, detect: {model: plate}}, yard: {url: rtsp://i, detect: {model: zzzz}}}",
    "models: {Plates: a.onnx}\ncameras: {'a b': rtsp://h}",
    "defaults: {reconnect: {first: 2m}}\ncameras: {gate: rtsp://h}",
    "defaults: {reconnect: {max: 500ms}}\ncameras: {gate: rtsp://h, yard: {url: rtsp://i, reconnect: {first: 400ms}}}",
    // Cameras.
    "cameras: {gate: {url: rtsp://h, file: v.mp4}}",
    "cameras: {gate: {url: rtsp://h, loop: true, realtime: true, framerate: 5}}",
    "cameras: {gate: {file: v.mp4, transport: udp, reconnect: {first: 1s}, size: 640x480}}",
    "cameras: {gate: {usb: /dev/video0, csi: 0}}",
    "cameras: {gate: {usb: /dev/video0, username: u, loop: true, format: jpeg}}",
    "cameras: {gate: {csi: 0, format: mjpeg, latency: 1s}}",
    "cameras: {gate: {csi: 16}}",
    "cameras: {gate: {file: gone.mp4}}",
    "cameras: {gate: gone.mp4}",
    "cameras: {gate: {file: folder}}",
    "cameras: {gate: {url: file:///v.mp4}}",
    "cameras: {gate: http://h/video.mjpg}",
    "cameras: {gate: {url: rtsp://h, password: p}}",
    "cameras: {gate: {url: rtsp://h, reconnect: {first: 2h, no_frame: 1ms, jitter: 2}}}",
    "cameras: {gate: {url: rtsp://h, reconnect: {first: 61s}}}",
    "cameras: {gate: rtsp://127.0.0.1:8554/gate}",
    "jsonl: v.mp4\ncameras: {a: v.mp4}",
    // Warnings.
    "cameras: {gate: 'rtsp://u:p@h/1', a-b: rtsp://h/1, a_b: rtsp://h/2, c: rtsp://h/1}",
    "mqtt: {url: mqtt://far, username: u, password: p}\ncameras: {gate: rtsp://h}",
    // References.
    "node: ${NODE}\nmqtt: {url: 'mqtt://${HOST}:1${PORT}', password: \"${}\"}\ncameras: {gate: '${open'}",
    "node: '${EMPTY:-a b}'\nmqtt: {url: mqtt://h, prefix: '${N}#'}\nmodel: 'gone${N}.onnx'\ncameras: {gate: rtsp://h}",
    // Secrets.
    "mqtt: {url: 'mqtt://u:S3CRET@h', passwrd: S3CRET, password: [S3CRET]}\ncameras: {gate: 'rtsp://u:S3CRET@h:x/'}",
    "mqtt: {url: mqtt://h, username: [1], password: S3CRET, x: y}\ncameras: {a: rtsp://h}",
    "mqtt:\n  password: |\n    S3CRET\n   : x",
    "mqtt:\n  password: \"S3CRET\n  x: y",
    "mqtt:\n  password:\n    S3CRET: x\ncameras: {a: rtsp://h}",
    "mqtt: {url: 'mqtt://u:S3CRETS3CRET@h', password: S3CRETS3CRET, x: y}\ncameras: {a: rtsp://h}",
    // Long lines are cut around the caret; control characters are made visible.
    "cameras: {gate: rtsp://h}\ndefaults: {detect: {labels: [aaaaaaaaaaaaaaaaaaaaaaaaaaaa, bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb, cccccccccccccccccccccccccccccc, dddddddddddddddddddddd], thresholt: 1, iou: 0.4}}",
    "\"no\\u001bde\": 1\ncameras: {gate: rtsp://h}",
];

/// Several files, arguments, variables.
const MERGED: &[Case] = &[
    merged(
        &[("a.yaml", "node: a b\ncameras: {gate: rtsp://h}"), ("b.yaml", "\nmodel: {thread: 1}")],
        &["mqtt.frame=true"],
        &[("OCELLI__RTSP__LISTN", "1"), ("OCELLI__HTTP", "x")],
    ),
    merged(
        &[("a.yaml", "cameras: {gate: rtsp://h}")],
        &["mqtt.frame=true", "rtsp.listen=[1", "nonsense", "x..y=1"],
        &[],
    ),
    merged(
        &[("a.yaml", "cameras: {gate: rtsp://h}"), ("b.yaml", "cameras: {gate: {file: v.mp4}}")],
        &["cameras.gate.detect.labels=[a, a]", "mqtt.url=mqtt://h", "mqtt.password=S3CRET", "mqtt.pasword=S3CRET"],
        &[("OCELLI__MQTT__QUEUE", "many")],
    ),
    merged(&[], &["cameras.gate=rtsp://u:S3CRET@h:x"], &[]),
];

#[test]
fn error_texts_are_as_committed() {
    let mut page = String::new();
    for text in TEXTS {
        page.push_str(&answer(&[("t.yaml", text)], &[], &[("EMPTY", ""), ("N", "S3CRET")]));
    }
    for case in MERGED {
        page.push_str(&answer(case.files, case.sets, case.variables));
    }
    let mut shown = page.split("-----\n").skip(1).map(|rest| rest.split("=====\n").next().unwrap());
    assert!(!shown.any(|answer| answer.contains("S3CRET")), "{page}");
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/config-errors.txt");
    if std::env::var_os("OCELLI_BLESS").is_some() {
        std::fs::write(path, &page).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(committed == page, "look at the difference, then run the test with OCELLI_BLESS=1\n{page}");
}

/// What was written, then the warnings and errors.
fn answer(files: &[(&str, &str)], sets: &[&str], variables: &[(&str, &str)]) -> String {
    let mut out = String::from("=====\n");
    for (name, text) in files {
        out.push_str(&format!("[{name}]\n{}\n", text.trim_end()));
    }
    sets.iter().for_each(|set| out.push_str(&format!("[--set {set}]\n")));
    let given = variables.iter().filter(|(name, _)| name.starts_with("OCELLI"));
    given.for_each(|(name, value)| out.push_str(&format!("[{name}={value}]\n")));
    out.push_str("-----\n");
    match load_with(files, sets, variables) {
        Ok(loaded) => loaded.warnings.iter().for_each(|warning| out.push_str(&format!("warning: {warning}\n"))),
        Err(errors) => out.push_str(&format!("{errors}\n")),
    }
    out
}
