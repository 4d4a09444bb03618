//! Each test is a configuration and the answer to it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod golden;
mod hostile;
mod table;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::{ConfigErrors, Problem};
use super::load::{Environment, Loaded, assemble};
use super::rules::PathKind;
use super::{
    BackendChoice, Broker, Capture, Config, DetectConfig, ReconnectConfig, SourceConfig, Transport, UsbFormat,
};
use crate::types::{Priority, Size};

/// A machine with these variables, on which every path is a file, but `gone…` is nothing and a path without a dot in its
/// last part is a folder.
fn load_with(files: &[(&str, &str)], sets: &[&str], variables: &[(&str, &str)]) -> Result<Loaded, ConfigErrors> {
    let files: Vec<(PathBuf, String)> = files.iter().map(|(name, text)| (name.into(), (*text).to_owned())).collect();
    let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
    let variables: BTreeMap<String, String> =
        variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let environment =
        Environment { variables, credentials: None, host: "box-1.lan".into(), unknown: None, state_dir: None };
    let path_kind = |path: &Path| match path.file_name().and_then(|name| name.to_str()) {
        Some(name) if name.starts_with("gone") => PathKind::Nothing,
        Some(name) if name.contains('.') && name != "." => PathKind::File,
        _ => PathKind::Folder,
    };
    let (config, warnings, root) = assemble(&files, &sets, &environment, &path_kind)?;
    Ok(Loaded { config, warnings, files: Vec::new(), root })
}

fn load(text: &str) -> Result<Loaded, ConfigErrors> {
    load_with(&[("t.yaml", text)], &[], &[])
}

fn config(text: &str) -> Config {
    load(text).unwrap_or_else(|errors| panic!("{errors}")).config
}

/// `line:column: message` of each problem, then ` = hint`.
fn brief(problems: &[Problem]) -> Vec<String> {
    problems
        .iter()
        .map(|problem| {
            let text = problem.to_string();
            let first = text.lines().next().unwrap_or_default().trim_start_matches("t.yaml:");
            match text.lines().last().and_then(|line| line.trim_start().strip_prefix("= ")) {
                Some(hint) => format!("{first} = {hint}"),
                None => first.to_owned(),
            }
        })
        .collect()
}

/// Each expected text must be the start of the problem at its place, in order, and there are no others.
#[track_caller]
fn check(text: &str, expected: &[&str]) {
    let found = match load(text) {
        Ok(_) => Vec::new(),
        Err(errors) => brief(errors.problems()),
    };
    let same =
        found.len() == expected.len() && found.iter().zip(expected).all(|(found, expected)| matches(found, expected));
    assert!(same, "\n{text}\nfound    {found:#?}\nexpected {expected:#?}");
}

/// `*` in `expected` stands for anything; the end may be left out.
fn matches(found: &str, expected: &str) -> bool {
    let mut rest = found;
    for (index, part) in expected.split('*').enumerate() {
        match rest.find(part) {
            Some(at) if index > 0 || at == 0 => rest = &rest[at + part.len()..],
            _ => return false,
        }
    }
    true
}

const CAMERA: &str = "cameras: {gate: rtsp://h/1}\n";

/// `text` above a valid camera.
#[track_caller]
fn check_top(text: &str, expected: &[&str]) {
    check(&format!("{text}\n{CAMERA}"), expected);
}

#[track_caller]
fn warnings(text: &str, expected: &[&str]) {
    let found = brief(&load(text).unwrap_or_else(|errors| panic!("{errors}")).warnings);
    let same =
        found.len() == expected.len() && found.iter().zip(expected).all(|(found, expected)| matches(found, expected));
    assert!(same, "\n{text}\nfound    {found:#?}\nexpected {expected:#?}");
}

#[test]
fn the_short_form_is_a_complete_file_with_all_defaults() {
    let config = config("cameras: {gate: rtsp://10.0.0.5/stream1}");
    assert_eq!(config.node, "box-1");
    assert_eq!((config.mqtt, config.http, config.jsonl), (None, None, None));
    let rtsp = config.rtsp.unwrap();
    assert_eq!(rtsp.listen.to_string(), "127.0.0.1:8554");
    assert_eq!(config.stats_interval, Duration::from_secs(10));
    assert_eq!((config.model.file, config.model.backend), (None, BackendChoice::Auto));
    let [camera] = &config.cameras[..] else { panic!() };
    assert_eq!((&*camera.name, camera.enabled), ("gate", true));
    assert_eq!(camera.detect, DetectConfig::default());
    assert_eq!(camera.reconnect, ReconnectConfig::default());
    let expected = SourceConfig::Rtsp {
        url: "rtsp://10.0.0.5/stream1".into(),
        username: None,
        password: None,
        transport: Transport::Tcp,
        latency: Duration::from_millis(200),
    };
    assert_eq!(camera.source, expected);
}

#[test]
fn every_key_arrives() {
    let config = config(
        "version: 1\nnode: n1\n\
         model: {file: m/yolo.onnx, sha256: 0123456789ABCDEF0123456789abcdef0123456789abcdef0123456789abcdef, backend: cpu, ort_library: /x/ort.so, threads: 2, input_size: 640x384}\n\
         mqtt: {url: mqtts://b, username: 007, password: \"p: #\", ca_file: ca.pem, prefix: site/a, frames: false, queue: 5}\n\
         rtsp: {listen: '[::1]:9', bitrate_kbps: 900, max_delay: 1s}\nhttp: {listen: localhost:8081}\njsonl: {file: '-'}\nstats_interval: 1m 30s\n\
         defaults: {detect: {fps: 12.5, threshold: 0.4, labels: [person]}, reconnect: {max: 30s}}\n\
         cameras:\n  b: {file: v.mp4, loop: true, realtime: false, detect: {iou: 0.5, max_detections: 7, priority: high}}\n  \
         a: {url: rtsps://h:322/x, username: u, password: p, transport: udp, latency: 0, enabled: false, reconnect: {no_frame: 2s, first: 500ms, jitter: 0}}\n",
    );
    assert_eq!((config.node.as_str(), config.stats_interval), ("n1", Duration::from_secs(90)));
    assert_eq!(config.model.file, Some("m/yolo.onnx".into()));
    assert_eq!(
        config.model.sha256.as_deref(),
        Some("0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef")
    );
    assert_eq!((config.model.backend, config.model.threads), (BackendChoice::Cpu, Some(2)));
    assert_eq!(
        (config.model.ort_library, config.model.input_size),
        (Some("/x/ort.so".into()), Some(Size::new(640, 384)))
    );
    let mqtt = config.mqtt.unwrap();
    assert_eq!(mqtt.url, Broker { host: "b".into(), port: 8883, tls: true });
    assert_eq!(mqtt.prefix, "site/a");
    assert_eq!((mqtt.username.as_deref(), mqtt.password.as_deref()), (Some("007"), Some("p: #")));
    assert_eq!((mqtt.ca_file, mqtt.frames, mqtt.queue), (Some("ca.pem".into()), false, 5));
    let rtsp = config.rtsp.unwrap();
    assert_eq!(
        (rtsp.listen.to_string().as_str(), rtsp.bitrate_kbps, rtsp.max_delay),
        ("[::1]:9", 900, Duration::from_secs(1))
    );
    assert_eq!(config.http.unwrap().listen.to_string(), "127.0.0.1:8081");
    assert_eq!(config.jsonl.unwrap().file, Path::new("-"));
    let [a, b] = &config.cameras[..] else { panic!("sorted by name") };
    assert_eq!((&*a.name, a.enabled, &*b.name, b.enabled), ("a", false, "b", true));
    let labels = Some(vec!["person".to_owned()]);
    assert_eq!(
        a.detect,
        DetectConfig { fps: Some(12.5), threshold: 0.4, labels: labels.clone(), ..Default::default() }
    );
    assert_eq!(
        b.detect,
        DetectConfig {
            fps: Some(12.5),
            threshold: 0.4,
            labels,
            iou: 0.5,
            max_detections: 7,
            priority: Priority::High,
            model: "default".into()
        }
    );
    let milliseconds = Duration::from_millis;
    let reconnect = ReconnectConfig {
        no_frame: milliseconds(2000),
        first: milliseconds(500),
        max: milliseconds(30_000),
        jitter: 0.0,
    };
    assert_eq!(a.reconnect, reconnect);
    assert_eq!(b.source, SourceConfig::File { path: "v.mp4".into(), looped: true, realtime: false });
}

#[test]
fn cameras_on_the_box_are_read() {
    let config = config(
        "cameras:\n  a: {usb: /dev/video7, format: mjpeg, size: 1280x720, framerate: 30}\n  b: {csi: 0, reconnect: {no_frame: 2s}}\n",
    );
    let capture = Capture { size: Some(Size::new(1280, 720)), framerate: Some(30) };
    let usb = SourceConfig::Usb { device: "/dev/video7".into(), format: UsbFormat::Mjpeg, capture };
    assert_eq!(config.cameras[0].source, usb);
    assert_eq!(config.cameras[1].source, SourceConfig::Csi { sensor: 0, capture: Capture::default() });
    assert_eq!(config.cameras[1].reconnect.no_frame, Duration::from_secs(2));
    assert!(config.cameras.iter().all(|camera| camera.source.is_live()));
}

#[test]
fn all_errors_come_together_in_the_order_of_the_file() {
    check(
        "mqtt:\n  url: mqtt://h\n  frames: yes\nrtsp: {listen: 127.0.0.1:1, bitrat_kbps: 5}\ndefaults:\n  detect: {treshold: 0.4, iou: 1.5}\n\
         cameras:\n  Gate: rtsp://h/1\n  yard: {transport: tpc, latency: 5}\n",
        &[
            "3:11: `mqtt.frames` must be `true` or `false`, not `yes` = write `true`",
            "4:29: unknown key `bitrat_kbps` in `rtsp` = did you mean `bitrate_kbps`?",
            "6:12: unknown key `treshold` in `defaults.detect` = did you mean `threshold`?",
            "6:32: `defaults.detect.iou` must be a number from 0 to 1, not `1.5`",
            "8:3: `Gate` cannot be a camera's name",
            "9:9: `cameras.yard` has neither `url` nor `file`",
            "9:21: `cameras.yard.transport` must be `tcp` or `udp`, not `tpc` = did you mean `tcp`?",
            "9:35: `cameras.yard.latency` must be a duration from 0s to 10s, not `5` = write the unit: `5s` or `5ms`",
        ],
    );
}

#[test]
fn structure_is_checked() {
    check("", &["1:1: there is no camera"]);
    check("# only a comment", &["1:1: there is no camera"]);
    check("cameras:", &["1:1: there is no camera"]);
    check("cameras: {}", &["1:1: there is no camera"]);
    check("5", &["1:1: the configuration must be keys with values, not a single value", "1:1: there is no camera"]);
    check("- a", &["1:1: the configuration must be keys with values, not a list", "1:1: there is no camera"]);
    check("cameras: [a]", &["1:10: `cameras` must be names with settings, not a list"]);
    check("cameras: rtsp://h", &["1:10: `cameras` must be names with settings, not a single value"]);
    check("cameras: {gate: [rtsp://h]}", &["1:17: `cameras.gate` must be keys with values, not a list"]);
    check("cameras: {gate: }", &["*`cameras.gate` has neither `url` nor `file`"]);
    check(
        "cameras: {gate: {url: {}}}",
        &["1:23: `cameras.gate.url` must be a `rtsp://` or `rtsps://` address, not keys with values"],
    );
    check(
        "cameras: {gate: rtsp://h}\ncameras: {x: rtsp://i}",
        &["2:1: `cameras` stands twice = the first one is at t.yaml:1:1"],
    );
    check("cameras:\n  gate: rtsp://h\n  gate: rtsp://i", &["3:3: `cameras.gate` stands twice"]);
    check_top("mqtt: {}", &["1:7: `mqtt` has no `url` = add `url: mqtt://127.0.0.1:1883`"]);
    check_top("mqtt: [1]", &["1:7: `mqtt` must be keys with values, not a list"]);
    check_top("defaults: 5", &["1:11: `defaults` must be keys with values, not a single value"]);
    check_top(
        "threshold: 0.5",
        &["1:1: unknown key `threshold` = `threshold` belongs in `detect`; is the indentation right?"],
    );
    check_top("zzzzzz: 0.5", &["1:1: unknown key `zzzzzz` = the keys here are version, node, model"]);
    check_top("mqtt:\nurl: mqtt://h", &["2:1: unknown key `url` = `url` belongs in `mqtt` or in `cameras.<name>`"]);
    check_top("treshold: 1", &["1:1: unknown key `treshold` = did you mean `threshold` in `detect`?"]);
    check_top("Mqtt: mqtt://h", &["1:1: unknown key `Mqtt` = did you mean `mqtt`?"]);
    check_top("mqtt: ~\nhttp:\nnode: null", &[]);
    check("cameras: {gate: rtsp://h\n", &["*not valid YAML: "]);
}

#[test]
fn values_are_checked() {
    for (text, expected) in [
        ("version: 2", "1:10: `version` must be `1`, not `2`"),
        ("node: a/b", "1:7: `node` must be a name of letters"),
        ("node: ''", "1:7: `node` must be a name"),
        ("node: [a]", "1:7: `node` must be a name of letters, digits, `_`, `-` and `.`, not a list"),
        ("model: ''", "1:8: `model.file` must be a path, not `` = it may not be empty"),
        (
            "model: {backend: tensort}",
            "*must be `auto`, `tensorrt`, `cuda`, `openvino`, `cpu` or `tract`, not `tensort` = did you mean `tensorrt`?",
        ),
        ("model: {threads: 0}", "1:18: `model.threads` must be a whole number from 1 to 256, not `0`"),
        ("model: {threads: 1.5}", "1:18: `model.threads` must be a whole number"),
        (
            "model: {input_size: 31}",
            "1:21: `model.input_size` must be a size from 32 to 4096, as `640` or `640x384`, not `31`",
        ),
        ("model: {input_size: 640x}", "1:21: `model.input_size` must be a size"),
        (
            "model: {tensorrt: {profile: {min: 1, opt: 9, max: 8}}}",
            "*`model.tensorrt.profile` does not ascend = `min` ≤",
        ),
        ("model: {tensorrt: {profile: {max: 65}}}", "*must be a whole number from 1 to 64, not `65`"),
        ("model: {file: a.onnx, sha256: abc}", "1:31: `model.sha256` must be 64 hexadecimal digits, not `abc`"),
        (
            "mqtt: localhost:1883",
            "1:7: `mqtt.url` must be a `mqtt://` or `mqtts://` address, not `localhost:1883` = write the scheme too",
        ),
        ("mqtt: mqt://h", "*not `mqt://h` = did you mean `mqtt`?"),
        ("mqtt: http://h", "*not `http://h` = for example `mqtt://"),
        ("mqtt: mqtt://h:99999", "* = the port is not a number from 1 to 65535"),
        ("mqtt: mqtt://", "* = it has no host"),
        ("mqtt: mqtt://h/topic", "1:7: `mqtt.url` has something behind the host"),
        ("mqtt: {url: mqtt://h, prefix: a/#}", "1:31: `mqtt.prefix` must be a topic"),
        ("mqtt: {url: mqtt://h, prefix: /a}", "1:31: `mqtt.prefix` must be a topic"),
        ("mqtt: {url: mqtt://h, ca_file: ca.pem}", "1:32: `mqtt.ca_file` has no effect without TLS"),
        ("mqtt: {url: mqtts://h, ca_file: gone.pem}", "1:33: the CA certificates does not exist: gone.pem"),
        ("mqtt: {url: mqtt://h, password: x}", "1:33: `mqtt.password` without `mqtt.username`"),
        ("mqtt: {url: 'mqtt://u:p@h', username: x}", "1:13: `mqtt` has a user or password both in its URL and as keys"),
        (
            "rtsp: 8554",
            "1:7: `rtsp.listen` must be an address with a port, not `8554` = `127.0.0.1:8554` for this machine only; for the network `0.0.0.0:8554` with `anonymous: true`",
        ),
        ("rtsp: :8554", "* = `127.0.0.1:8554` for this machine only"),
        ("rtsp: here:8554", "* = for example `127.0.0.1:8554`"),
        ("rtsp: {max_delay: 11s}", "1:19: `rtsp.max_delay` must be a duration from 0s to 10s, not `11s`"),
        ("rtsp: {max_delay: -1s}", "* = write a number with its unit"),
        (
            "stats_interval: 10",
            "1:17: `stats_interval` must be a duration from 1s to 1h, not `10` = write the unit: `10s` or `10ms`",
        ),
        ("http: 127.0.0.1:8554", "1:7: `http.listen` takes the port 8554 of `rtsp.listen`"),
        (
            "http: {listen: 0.0.0.0:9, anonymous: true}\nrtsp: 127.0.0.1:9",
            "2:7: `rtsp.listen` takes the port 9 of `http.listen` = `http` listens on 0.0.0.0:9",
        ),
        (
            "rtsp: 0.0.0.0:8554",
            "1:7: `rtsp.listen` is an address that others can reach*= listen on `127.0.0.1:8554`, or let anybody who reaches it watch: `rtsp: {listen: \"0.0.0.0:8554\", anonymous: true}`",
        ),
        ("http: {listen: 10.0.0.2:80}", "1:16: `http.listen` is an address that others can reach"),
        ("http: '[::]:80'", "1:7: `http.listen` is an address that others can reach"),
        ("jsonl: {}", "1:8: `jsonl` has no `file`"),
        ("jsonl: folder", "1:8: `jsonl.file` is a folder"),
        ("jsonl: gone/x.jsonl", "1:8: the folder of `jsonl.file` does not exist: gone"),
        ("model: gone.onnx", "1:8: the model does not exist: gone.onnx"),
        ("model: {ort_library: lib}", "1:22: ONNX Runtime's library is a folder, not a file: lib"),
        (
            "defaults: {detect: {labels: person}}",
            "1:29: `defaults.detect.labels` must be a list, not a single value = for example",
        ),
        ("defaults: {detect: {labels: []}}", "1:29: `defaults.detect.labels` is an empty list"),
        ("defaults: {detect: {labels: [a, b, a]}}", "1:36: `defaults.detect.labels` has `a` twice"),
        ("defaults: {detect: {labels: [a, '']}}", "1:33: `defaults.detect.labels` has an empty entry"),
        ("defaults: {detect: {labels: [a, [b]]}}", "1:33: `defaults.detect.labels` must be a list of texts"),
        ("defaults: {detect: {threshold: .nan}}", "1:32: `defaults.detect.threshold` must be a number"),
        (
            "defaults: {detect: {threshold: high}}",
            "1:32: `defaults.detect.threshold` must be a number from 0 to 1, not `high`",
        ),
        ("defaults: {reconnect: {first: 2m}}", "1:31: `reconnect.first` (2m) is longer than `reconnect.max` (1m)"),
        ("defaults: {reconnect: {max: 500ms}}", "1:29: `reconnect.first` (1s) is longer than `reconnect.max` (500ms)"),
    ] {
        check_top(text, &[expected]);
    }
    // What is at the edge of a range belongs to it.
    check_top("defaults: {detect: {threshold: 0, iou: 1}}\nmodel: {threads: 256, input_size: 4096}", &[]);
    check_top("http: 127.0.0.1:0\nrtsp: 127.0.0.1:0", &[]);
    check_top("rtsp: {enabled: false}\nhttp: 127.0.0.1:8554", &[]);
    check_top("jsonl: x.jsonl", &[]);
    // An address that others reach must be asked for; a server that is off listens nowhere.
    check_top("rtsp: {listen: 0.0.0.0:1, anonymous: true}\nhttp: {listen: '[::]:2', anonymous: true}", &[]);
    check_top("rtsp: {listen: 0.0.0.0:1, enabled: false}\nhttp: '[::1]:2'", &[]);
}

#[test]
fn cameras_are_checked() {
    for (text, expected) in [
        ("{url: rtsp://h, file: v.mp4}", "*`cameras.gate` has both `url` and `file`"),
        ("{url: rtsp://h, loop: true}", "1:33: `cameras.gate.loop` has no effect on an RTSP camera"),
        ("{url: rtsp://h, realtime: true}", "1:37: `cameras.gate.realtime` has no effect"),
        ("{file: v.mp4, transport: udp}", "*`cameras.gate.transport` has no effect on a file"),
        ("{file: v.mp4, reconnect: {first: 1s}}", "*`cameras.gate.reconnect` has no effect on a file"),
        ("{usb: /dev/video0, csi: 0}", "*`cameras.gate` has both `usb` and `csi`"),
        ("{usb: /dev/video0, username: u}", "*`cameras.gate.username` has no effect on a USB camera"),
        ("{csi: 0, format: mjpeg}", "*`cameras.gate.format` has no effect on a CSI camera"),
        ("{csi: 16}", "*`cameras.gate.csi` must be"),
        ("{url: rtsp://h, framerate: 5}", "*`cameras.gate.framerate` has no effect on an RTSP camera"),
        ("{file: v.mp4, size: 640x480}", "*`cameras.gate.size` has no effect on a file"),
        ("{file: gone.mp4}", "1:18: the video of `cameras.gate` does not exist: gone.mp4"),
        ("gone.mp4", "1:11: the video of `cameras.gate` does not exist: gone.mp4"),
        ("{file: folder}", "1:18: the video of `cameras.gate` is a folder"),
        ("{url: file:///v.mp4}", "* = for a video file use the key `file`"),
        ("http://h/video.mjpg", "1:11: `cameras.gate.url` must be a `rtsp://` or `rtsps://` address"),
        ("{url: rtsp://h, password: p}", "*`cameras.gate.password` without `cameras.gate.username`"),
        (
            "{url: rtsp://h, reconnect: {first: 2h}}",
            "*`cameras.gate.reconnect.first` must be a duration from 10ms to 1h, not `2h`",
        ),
        ("{url: rtsp://h, reconnect: {first: 61s}}", "*`reconnect.first` (1m 1s) is longer than `reconnect.max` (1m)"),
        ("rtsp://127.0.0.1:8554/gate", "1:1: `cameras.gate` reads from the port of Ocelli's own RTSP server"),
    ] {
        check(
            &format!("cameras: {{gate: {text}}}"),
            &[expected
                .replace("1:11", "1:17")
                .replace("1:18", "1:24")
                .replace("1:33", "1:39")
                .replace("1:37", "1:43")
                .replace("1:1:", "1:11:")
                .as_str()],
        );
    }
    check("jsonl: v.mp4\ncameras: {a: v.mp4}", &["2:11: `jsonl.file` would overwrite the video of `cameras.a`"]);
    check("cameras: {a: {file: gone.mp4, enabled: false}}", &[]);
    for name in ["gate", "g", "0", "a-b_c", &"x".repeat(63)] {
        check(&format!("cameras: {{{name}: rtsp://h}}"), &[]);
    }
    for name in ["Gate", "-a", "_a", "a.b", "a b", "ä", "a/b", &"x".repeat(64)] {
        check(&format!("cameras: {{'{name}': rtsp://h}}"), &["1:11: `*` cannot be a camera's name"]);
    }
}

#[test]
fn doubtful_things_are_warnings() {
    warnings(
        "cameras: {gate: 'rtsp://u:p@h/1'}",
        &["1:17: `cameras.gate.url` holds a user or password = use `username:`"],
    );
    warnings("cameras: {a-b: rtsp://h/1, a_b: rtsp://h/2}", &["1:28: the cameras `a-b` and `a_b` differ only in"]);
    warnings("cameras: {a: rtsp://h/1, b: rtsp://h/1}", &["1:26: the cameras `a` and `b` have the same address"]);
    warnings(
        &format!("mqtt: {{url: mqtt://far, username: u, password: p}}\n{CAMERA}"),
        &["1:13: the password travels unencrypted"],
    );
    warnings(&format!("mqtt: {{url: mqtt://127.0.0.1, username: u, password: p}}\n{CAMERA}"), &[]);
}

#[test]
fn references_are_resolved() {
    let variables = [("URL", "rtsp://u:p%40@h/1"), ("EMPTY", ""), ("N", "7"), ("IN", "x")];
    let text = "model: {threads: \"${N}\"}\nmqtt: {url: mqtt://h, username: '${NOPE:-a b}', password: '$${${IN}}', prefix: '${EMPTY:-p}/${IN}'}\n\
                cameras: {gate: '${URL}'}";
    let loaded = load_with(&[("t.yaml", text)], &[], &variables).unwrap_or_else(|errors| panic!("{errors}"));
    let mqtt = loaded.config.mqtt.unwrap();
    assert_eq!((mqtt.username.as_deref(), mqtt.password.as_deref()), (Some("a b"), Some("${x}")));
    assert_eq!((mqtt.prefix.as_str(), loaded.config.model.threads), ("p/x", Some(7)));
    let SourceConfig::Rtsp { url, username, password, .. } = &loaded.config.cameras[0].source else { panic!() };
    assert_eq!((url.as_str(), username.as_deref(), password.as_deref()), ("rtsp://h/1", Some("u"), Some("p@")));
    // The secret is not in the file, so there is nothing to warn of in the camera.
    assert_eq!(brief(&loaded.warnings).len(), 1, "{:?}", loaded.warnings);
    check(
        "node: ${NODE}\nmqtt: {url: 'mqtt://${HOST}:1${PORT}', password: \"${}\"}\ncameras: {gate: '${open'}",
        &[
            "1:7: `${NODE}` is not defined = set the environment variable NODE",
            "2:21: `${HOST}` is not defined",
            "2:30: `${PORT}` is not defined",
            "*the name in `${…}` is not a variable's name",
            "3:18: `${` is not closed",
        ],
    );
}

#[test]
fn credentials_of_systemd_come_before_variables() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("pw"), "from-file\n").unwrap();
    let variables = BTreeMap::from([("pw".to_owned(), "from-variable".to_owned())]);
    let environment = |credentials| Environment {
        variables: variables.clone(),
        credentials,
        host: String::new(),
        unknown: None,
        state_dir: None,
    };
    let text = "mqtt: {url: mqtt://127.0.0.1, username: u, password: '${pw}'}\ncameras: {gate: rtsp://h}".to_owned();
    for (credentials, expected) in [(Some(folder.path().to_owned()), "from-file"), (None, "from-variable")] {
        let files = [("t.yaml".into(), text.clone())];
        let (config, _, _) = assemble(&files, &[], &environment(credentials), &|_| PathKind::File).unwrap();
        assert_eq!(config.mqtt.unwrap().password.as_deref(), Some(expected));
        assert_eq!(config.node, "ocelli");
    }
}

#[test]
fn without_secrets_only_the_form_is_checked() {
    let environment = Environment {
        variables: BTreeMap::new(),
        credentials: None,
        host: String::new(),
        unknown: Some("u"),
        state_dir: None,
    };
    let parse = |text: &str| {
        assemble(&[("t.yaml".into(), text.to_owned())], &[], &environment, &|_| PathKind::File)
            .map(|(config, ..)| config)
    };
    let text = "mqtt: {url: mqtt://127.0.0.1, username: '${name:-me}', password: '${pw}'}\ncameras: {gate: rtsp://h}";
    assert_eq!(parse(text).unwrap().mqtt.unwrap().username.as_deref(), Some("me"), "a default is a default");
    assert!(parse(&text.replace("rtsp://h", "ftp://h")).is_err(), "everything else is checked");
}

#[test]
fn later_files_variables_and_arguments_win() {
    let files = [
        ("/a/base.yaml", "mqtt: mqtt://one\nmodel: m/x.onnx\ncameras: {gate: rtsp://h/1, old: rtsp://h/2}"),
        (
            "b/site.yaml",
            "mqtt: {prefix: site}\njsonl: out.jsonl\ncameras: {gate: {latency: 1s}, old: {enabled: false}}",
        ),
    ];
    let sets = [
        "mqtt.username=u=v",
        "defaults.detect.labels=[person, 'a b']",
        "cameras.gate.transport=udp",
        "model.threads=3",
    ];
    let variables = [("OCELLI__MQTT__PREFIX", "env"), ("OCELLI__MODEL__THREADS", "2"), ("OCELLI_OTHER", "x")];
    let config = load_with(&files, &sets, &variables).unwrap_or_else(|errors| panic!("{errors}")).config;
    let mqtt = config.mqtt.unwrap();
    assert_eq!((mqtt.url.host.as_str(), mqtt.prefix.as_str(), mqtt.username.as_deref()), ("one", "env", Some("u=v")));
    assert_eq!((config.model.file, config.model.threads), (Some("/a/m/x.onnx".into()), Some(3)));
    assert_eq!(config.jsonl.unwrap().file, Path::new("b/out.jsonl"));
    assert_eq!(config.cameras[0].detect.labels, Some(vec!["person".into(), "a b".into()]));
    assert!(
        matches!(config.cameras[0].source, SourceConfig::Rtsp { transport: Transport::Udp, latency, .. } if latency.as_secs() == 1)
    );
    assert!(!config.cameras[1].enabled);
    // `null` takes away what came before.
    let config = load_with(&files, &["mqtt=null", "cameras.old=null", "cameras.old.file=v.mp4"], &[]).unwrap().config;
    assert_eq!(config.mqtt, None);
    assert!(matches!(config.cameras[1].source, SourceConfig::File { .. }));
}

#[test]
fn errors_name_the_file_or_argument_that_they_come_from() {
    let files = [("a.yaml", "node: a b\ncameras: {gate: rtsp://h}"), ("b.yaml", "\nmodel: {thread: 1}")];
    let errors = load_with(&files, &["mqtt.frame=true", "rtsp.listen=[1", "nonsense", "x..y=1"], &[]).err().unwrap();
    let brief_errors = brief(errors.problems());
    let expected =
        ["--set nonsense: there is no `=`", "--set rtsp.listen:1:*not valid YAML", "--set x..y:1:3: an empty key"];
    assert!(
        brief_errors.len() == 3 && brief_errors.iter().zip(expected).all(|(a, b)| matches(a, b)),
        "{brief_errors:#?}"
    );
    let errors = load_with(&files, &["mqtt.frame=true"], &[("OCELLI__RTSP__LISTN", "1")]).err().unwrap();
    let expected = [
        "a.yaml:1:7: `node` must be",
        "b.yaml:2:9: unknown key `thread` in `model` = did you mean `threads`?",
        "environment OCELLI__RTSP__LISTN:1:15: unknown key `listn` in `rtsp` = did you mean `listen`?",
        "--set mqtt.frame:1:6: unknown key `frame` in `mqtt` = did you mean `frames`?",
        "--set mqtt.frame:1:6: `mqtt` has no `url`",
    ];
    let found = brief(errors.problems());
    assert!(found.len() == expected.len() && found.iter().zip(expected).all(|(a, b)| matches(a, b)), "{found:#?}");
}

#[test]
fn a_problem_is_shown_with_its_line_and_a_caret() {
    let errors = load("cameras:\n  gate:\n    url: rtsp://h\n    detect: {treshold: 0.4}\n").err().unwrap();
    assert_eq!(
        errors.to_string(),
        "1 error in the configuration\n\
         t.yaml:4:14: unknown key `treshold` in `cameras.gate.detect`\n    \
            4 |     detect: {treshold: 0.4}\n      \
              |              ^^^^^^^^\n      \
              = did you mean `threshold`?"
    );
}

#[test]
fn a_masked_secret_does_not_move_the_caret_away() {
    let errors = load("mqtt: {url: 'mqtt://u:S3CRETS3CRET@h', password: S3CRETS3CRET, x: y}\ncameras: {a: rtsp://h}")
        .err()
        .unwrap();
    let shown = errors.problems().last().unwrap().to_string();
    assert!(
        shown.contains(
            "    1 | mqtt: {url: 'mqtt://***@h', password: ***, x: y}\n      \
                 |                                            ^\n"
        ),
        "{shown}"
    );
}

#[test]
fn secrets_are_never_shown() {
    let secret = "S3CRET";
    let texts = [
        "mqtt: {url: 'mqtt://u:S3CRET@h', passwrd: S3CRET, password: [S3CRET]}\ncameras: {gate: 'rtsp://u:S3CRET@h:x/'}",
        "mqtt:\n  password: S3CRET\n  url: rtsp://u:S3CRET@h\n  queue: ${SECRET}\n  prefix: '${SECRET}#'",
        "mqtt: {url: mqtt://h, username: [1], password: S3CRET, x: y}",
        "mqtt:\n  password: |\n    S3CRET\n   : x",
        "mqtt:\n  password: \"S3CRET\n  x: y",
        "mqtt: {password: S3CRET: x}",
        "mqtt:\n  password:\n    S3CRET: x",
        "cameras: {gate: {url: 'rtsp://admin:S3CRET@h', file: x, transport: a}}",
        "cameras: {gate: {url: '${URL}x y'}}\nhttp: '${SECRET}'\nmodel: 'gone${SECRET}'\njsonl: 'gone${SECRET}/x'",
        "cameras: {gate: {url: 'rtsp://admin:S3CRET@h'}, b: rtsp://h}\nmqtt: {url: 'mqtt://far', username: u, password: S3CRET}",
    ];
    for text in texts {
        let variables = [("SECRET", secret), ("URL", "rtsp://u:S3CRET@h"), ("OCELLI__MQTT__PASSWORD", "S3CRET")];
        let sets = ["cameras.x.password=S3CRET", "cameras.x.pasword=S3CRET"];
        for shown in
            [load_with(&[("t.yaml", text)], &[], &variables[..2]), load_with(&[("t.yaml", text)], &sets, &variables)]
        {
            let shown = match shown {
                Ok(loaded) => {
                    format!("{:?}{:?}{}{}", loaded.config, loaded.warnings, loaded.show(true), loaded.show(false))
                }
                Err(errors) => format!("{errors}{errors:?}{:?}", errors.warnings()),
            };
            assert!(!shown.contains(secret), "{text}\n{shown}");
        }
    }
}

#[test]
fn what_is_shown_as_effective_means_the_same() {
    let text = "node: n\nmodel: {input_size: 320, backend: tract}\nmqtt: {url: mqtt://h:99, prefix: 'true', queue: 3}\nrtsp: {max_delay: 1500ms}\n\
                defaults: {detect: {labels: ['1', 'a, b', \"q\\\"\", '${X}']}, reconnect: {max: 20s}}\n\
                cameras: {a: {file: 'my video.mp4', loop: true}, b: {url: 'rtsp://h/x?y=1#z', detect: {threshold: 0.125}}}";
    let loaded = load_with(&[("dir/t.yaml", text)], &[], &[("X", "${Y}")]).unwrap_or_else(|errors| panic!("{errors}"));
    let again = load_with(&[("u.yaml", &loaded.show(true))], &[], &[]).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(again.config, loaded.config, "{}", loaded.show(true));
    assert_eq!(again.show(true), loaded.show(true));
    assert!(loaded.show(true).contains("    detect:\n      threshold: 0.125\n"), "{}", loaded.show(true));
}

#[test]
fn secrets_in_the_query_of_a_url_are_hidden_when_shown() {
    let names = ["password", "pwd", "psw", "pass", "passphrase", "token", "secret", "auth", "key"];
    for name in names {
        let text = format!("cameras: {{gate: 'rtsp://h/x?{name}=S3CRET&channel=1'}}");
        let loaded = load(&text).unwrap_or_else(|errors| panic!("{errors}"));
        for shown in [loaded.show(true), loaded.show(false), format!("{:?}", loaded.config)] {
            assert!(!shown.contains("S3CRET"), "{name}: {shown}");
        }
    }
}

#[test]
fn a_value_of_a_megabyte_is_not_echoed() {
    let long = format!("{}gone", "a/".repeat(400_000));
    for text in [
        format!("node: {long}\n{CAMERA}"),
        format!("{long}: 1\n{CAMERA}"),
        format!("cameras: {{'{long}': rtsp://h}}"),
        format!("mqtt: {{{long}: 1}}\n{CAMERA}"),
        format!("model: {long}\n{CAMERA}"),
        format!("jsonl: {long}/x.jsonl\n{CAMERA}"),
        format!("cameras: {{gate: {{url: rtsp://h, detect: {{labels: [{long}, {long}], model: '{long}'}}}}}}"),
        format!("{CAMERA}a: {long}: x"),
    ] {
        let shown = load(&text).err().unwrap().to_string();
        assert!(shown.len() < 4_000, "{} bytes: {}", shown.len(), &shown[..500]);
    }
    let shown = load_with(&[("t.yaml", CAMERA)], &[&long, &format!("{long}=1")], &[]).err().unwrap().to_string();
    assert!(shown.len() < 4_000, "{} bytes: {}", shown.len(), &shown[..500]);
}
