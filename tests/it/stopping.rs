//! Stopping the service: by a signal during the start, and while cameras, viewers, the broker and the engine hang.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::common::{Guard, Lines, free_port, ocelli, signal, wait_exit};
use crate::e2e::write_clip;
use crate::engine_build::{Fake, clip, health, until};
use crate::service::Mosquitto;

/// `TimeoutStopSec` of the systemd unit: after that the process is killed.
const TIMEOUT_STOP: u64 = 10;

fn state_is(port: u16, state: &str) -> Option<serde_json::Value> {
    health(port).filter(|page| page["engine"]["state"] == state)
}

fn spawn(command: &mut Command) -> (Guard, Lines) {
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let log = Lines::of(child.stderr.take().unwrap());
    (Guard(child), log)
}

fn exit_code(child: &mut Child, log: &Lines) -> i32 {
    let code = wait_exit(child, TIMEOUT_STOP);
    code.unwrap_or_else(|| panic!("the process does not end before systemd kills it: {:#?}", log.all()))
}

#[test]
fn a_stop_while_a_model_loads_is_orderly_and_not_counted_as_a_crash() {
    let Some(pretence) = Fake::new("load-wait") else { return };
    let state = pretence.path("state");
    // Two starts in a row that end by a crash leave a backend out.
    for round in 0..3 {
        let port = free_port();
        let mut command = pretence.run_with(port, "auto", &clip());
        let (mut service, log) = spawn(command.env("STATE_DIRECTORY", &state));
        until("the load", || state_is(port, "loading"));
        until("a session that is being created", || pretence.path("control.loads").exists().then_some(()));
        signal(service.0.id(), "TERM");
        assert_eq!(exit_code(&mut service.0, &log), 0, "round {round}: {:#?}", log.all());
        std::fs::remove_file(pretence.path("control.loads")).unwrap();
    }
    pretence.control("ok");
    let port = free_port();
    let mut command = pretence.run_with(port, "auto", &clip());
    let (_service, log) = spawn(command.env("STATE_DIRECTORY", &state));
    let page = until("service", || state_is(port, "serving"));
    assert_eq!(page["model"]["backend"], "cpu", "{:#?}", log.all());
    assert_eq!(page["model"]["fallbacks"].as_array().unwrap().len(), 0, "{page:#}");
}

#[test]
fn a_second_signal_ends_a_stop_that_waits_for_an_inference() {
    let Some(pretence) = Fake::new("ok") else { return };
    let port = free_port();
    let (mut service, log) = spawn(&mut pretence.run_with(port, "auto", &clip()));
    until("service", || state_is(port, "serving"));
    pretence.control("run-wait");
    until("an inference that hangs", || pretence.path("control.runs").exists().then_some(()));
    signal(service.0.id(), "TERM");
    log.wait("the first signal", 10, |line| line.contains("stopping"));
    signal(service.0.id(), "TERM");
    assert_eq!(exit_code(&mut service.0, &log), 143);
}

#[test]
fn the_goodbye_reaches_the_broker_while_an_inference_hangs() {
    let (Some(pretence), Some(broker)) = (Fake::new("ok"), Mosquitto::start()) else { return };
    let port = free_port();
    let mut command = pretence.run_with(port, "auto", &clip());
    let (mut service, log) =
        spawn(command.args(["--set", "node=testbox", "--set", &format!("mqtt=mqtt://127.0.0.1:{}", broker.port)]));
    until("service", || state_is(port, "serving"));
    broker.lines.wait("frames", 20, |line| line.starts_with("ocelli/testbox/gate/frame "));
    pretence.control("run-wait");
    until("an inference that hangs", || pretence.path("control.runs").exists().then_some(()));
    signal(service.0.id(), "TERM");
    assert_eq!(exit_code(&mut service.0, &log), 0, "{:#?}", log.all());
    broker.lines.wait("the goodbye", 5, |line| line == "ocelli/testbox/available stopped");
}

#[test]
fn a_stop_ends_in_time_with_frozen_cameras_a_stuck_viewer_and_a_frozen_broker() {
    let Some(broker) = Mosquitto::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    write_clip(&folder.path().join("clip.mp4"));
    let mut camera = ocelli();
    camera.arg("simulate").arg(folder.path().join("clip.mp4")).args(["--listen", "127.0.0.1:0", "--path", "cam"]);
    let mut camera = camera.stdout(Stdio::piped()).spawn().unwrap();
    let url = Lines::of(camera.stdout.take().unwrap()).wait("the camera", 20, |line| line.starts_with("rtsp://"));
    let camera = Guard(camera);
    let (http, rtsp) = (free_port(), free_port());
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/marker.onnx");
    let names = ["a", "b", "c", "d", "e", "f"];
    let cameras: String = names.iter().map(|name| format!("  {name}: {url}\n")).collect();
    std::fs::write(
        folder.path().join("ocelli.yaml"),
        format!(
            "node: testbox\nmodel: {{file: {}, backend: tract}}\nmqtt: mqtt://127.0.0.1:{}\nhttp: \"127.0.0.1:{http}\"\n\
             rtsp: {{listen: \"127.0.0.1:{rtsp}\", bitrate_kbps: 8000}}\njsonl: out.jsonl\ncameras:\n{cameras}",
            model.display(),
            broker.port
        ),
    )
    .unwrap();
    let (mut service, log) = spawn(ocelli().arg("run").arg("-c").arg(folder.path().join("ocelli.yaml")));
    for name in names {
        broker
            .lines
            .wait("frames of each camera", 60, |line| line.starts_with(&format!("ocelli/testbox/{name}/frame ")));
    }
    let _viewer = stuck_viewer(rtsp);
    signal(camera.0.id(), "STOP");
    broker.freeze();
    signal(service.0.id(), "TERM");
    assert_eq!(exit_code(&mut service.0, &log), 0, "{:#?}", log.all());
    signal(camera.0.id(), "CONT");
}

/// A viewer of camera `a` over TCP that reads nothing after PLAY.
fn stuck_viewer(port: u16) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let url = format!("rtsp://127.0.0.1:{port}/a");
    let mut ask = |request: String| -> String {
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        let mut buffer = [0; 4096];
        while !answer.contains("\r\n\r\n") {
            let length = stream.read(&mut buffer).unwrap();
            assert!(length > 0, "the server hung up after: {request}");
            answer.push_str(&String::from_utf8_lossy(&buffer[..length]));
        }
        assert!(answer.starts_with("RTSP/1.0 200"), "{answer}");
        answer
    };
    ask(format!("DESCRIBE {url} RTSP/1.0\r\nCSeq: 1\r\nAccept: application/sdp\r\n\r\n"));
    let setup =
        format!("SETUP {url}/stream=0 RTSP/1.0\r\nCSeq: 2\r\nTransport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n\r\n");
    let answer = ask(setup);
    let session = answer.lines().find_map(|line| line.strip_prefix("Session: ")).unwrap();
    let session = session.split(';').next().unwrap().to_owned();
    ask(format!("PLAY {url} RTSP/1.0\r\nCSeq: 3\r\nSession: {session}\r\n\r\n"));
    stream
}

#[test]
fn the_service_is_ready_only_after_a_built_engine_has_run() {
    let Some(pretence) = Fake::new("wait") else { return };
    let socket = pretence.path("notify");
    let manager = UnixDatagram::bind(&socket).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let port = free_port();
    let mut command = pretence.run(port);
    let (_service, _log) = spawn(command.env("NOTIFY_SOCKET", &socket).env("WATCHDOG_USEC", "2000000"));
    let message = || {
        let mut buffer = [0; 4096];
        let length = manager.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    let mut status = String::new();
    // While the engine is built, the start is extended and the status shows the reason.
    while !status.contains("tensorrt engine being built") {
        status = message();
        assert!(!status.contains("READY=1"), "ready before the model has run: {status}");
    }
    while !message().contains("EXTEND_TIMEOUT_USEC=") {}
    assert_eq!(health(port).unwrap()["engine"]["state"], "building");
    pretence.control("ok");
    while !message().contains("READY=1") {}
    assert_eq!(health(port).unwrap()["engine"]["state"], "serving");
    while !message().contains("WATCHDOG=1") {}
}
