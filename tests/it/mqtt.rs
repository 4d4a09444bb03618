//! The MQTT sink against a real broker and real subscribers: mosquitto, mosquitto_sub.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant, SystemTime};

use ocelli::config::MqttConfig;
use ocelli::sink::Sink;
use ocelli::sink::message::{FrameMessage, Run};
use ocelli::sink::mqtt::MqttSink;
use ocelli::telemetry::{Count, Registry};
use ocelli::types::{
    BackendKind, CameraState, CameraStatus, Detection, FrameMeta, FrameResult, Latency, ModelId, PixelBox, Size,
};

use crate::common::{Guard, free_port};

/// Longest wait for one event; far more than any needs.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Whether `tools` are installed. Prints SKIPPED when not, and fails when `REQUIRE_TOOLS` is set.
fn have(tools: &[&str]) -> bool {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/usr/local/sbin";
    let absent: Vec<_> =
        tools.iter().filter(|tool| !path.split(':').any(|folder| Path::new(folder).join(tool).is_file())).collect();
    if absent.is_empty() {
        return true;
    }
    assert!(std::env::var_os("REQUIRE_TOOLS").is_none(), "REQUIRE_TOOLS is set, but {absent:?} are not installed");
    crate::common::skip(&format!(
        "{absent:?} are not installed; on Debian: apt-get install mosquitto mosquitto-clients openssl"
    ));
    false
}

/// Runs `test` with the port of a broker without access control; prints SKIPPED where mosquitto is not installed.
pub fn with_broker(test: impl FnOnce(u16)) {
    if have(&["mosquitto"]) {
        let broker = Broker::open();
        test(broker.port);
    }
}

fn tool(name: &str) -> Command {
    let mut command = Command::new("env");
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/usr/local/sbin";
    command.env("PATH", path).arg(name).stdin(Stdio::null());
    command
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + TIMEOUT;
    while !condition() {
        assert!(Instant::now() < deadline, "never came: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A mosquitto process with its folder.
struct Broker {
    port: u16,
    folder: tempfile::TempDir,
    child: Option<Guard>,
}

impl Broker {
    /// Not started yet. `lines` follow the listener in its configuration; `{}` is replaced by its folder.
    fn new(lines: &str) -> Self {
        let broker = Self { port: free_port(), folder: tempfile::tempdir().unwrap(), child: None };
        let folder = broker.folder.path().display().to_string();
        // As root, mosquitto would change to a user that cannot read our folder.
        let config = format!("user root\npersistence false\nlistener {} 127.0.0.1\n{lines}\n", broker.port);
        std::fs::write(broker.path("mosquitto.conf"), config.replace("{}", &folder)).unwrap();
        broker
    }

    fn open() -> Self {
        let mut broker = Self::new("allow_anonymous true");
        broker.start();
        broker
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn start(&mut self) {
        let child = tool("mosquitto").arg("-c").arg(self.path("mosquitto.conf")).stderr(Stdio::null()).spawn().unwrap();
        self.child = Some(Guard(child));
        eventually("the broker's port", || TcpStream::connect(("127.0.0.1", self.port)).is_ok());
    }

    fn kill(&mut self) {
        self.child = None;
    }

    fn signal(&self, name: &str) {
        let id = self.child.as_ref().unwrap().0.id().to_string();
        run(Command::new("kill").args([name, &id]));
    }

    fn config(&self) -> MqttConfig {
        MqttConfig {
            url: ocelli::config::Broker { host: "127.0.0.1".into(), port: self.port, tls: false },
            queue: 100,
            ..MqttConfig::default()
        }
    }

    /// A subscriber to everything; returns when it is subscribed.
    fn subscribe(&self, options: &[&str]) -> Subscriber {
        let port = self.port.to_string();
        let mut child = Guard(
            tool("mosquitto_sub")
                .args(["-h", "localhost", "-p", &port, "-t", "#", "-q", "1", "-F", "%r %q %t %p"])
                .args(options)
                .stdout(Stdio::piped())
                .spawn()
                .unwrap(),
        );
        let (sender, lines) = mpsc::channel();
        let output = BufReader::new(stdout(&mut child.0));
        std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let id = child.0.id();
        let mut subscriber = Subscriber { early: RefCell::default(), lines, _child: child };
        // Our own message comes back once the subscription is active. Messages before it are kept.
        let mark = format!("test/{id} mark");
        let (topic, payload) = mark.split_once(' ').unwrap();
        run(tool("mosquitto_pub")
            .args(["-h", "localhost", "-p", &port, "-r", "-t", topic, "-m", payload])
            .args(options));
        let mut early = VecDeque::new();
        subscriber.wait(|line| {
            let marked = line.ends_with(&mark);
            if !marked {
                early.push_back(line.to_owned());
            }
            marked
        });
        subscriber.early = early.into();
        subscriber
    }
}

fn stdout(child: &mut Child) -> std::process::ChildStdout {
    child.stdout.take().unwrap()
}

struct Subscriber {
    /// Received before the subscription was known to be active.
    early: RefCell<VecDeque<String>>,
    lines: mpsc::Receiver<String>,
    _child: Guard,
}

impl Subscriber {
    /// The first line that `fits` accepts; the lines before it are skipped.
    fn wait(&self, mut fits: impl FnMut(&str) -> bool) -> String {
        let deadline = Instant::now() + TIMEOUT;
        let mut passed = Vec::new();
        loop {
            let early = self.early.borrow_mut().pop_front();
            let left = deadline.saturating_duration_since(Instant::now());
            match early.map_or_else(|| self.lines.recv_timeout(left), Ok) {
                Ok(line) if fits(&line) => return line,
                Ok(line) => passed.push(line),
                Err(error) => panic!("no such message ({error}); there were {passed:#?}"),
            }
        }
    }

    fn wait_for(&self, line: &str) {
        self.wait(|have| have == line);
    }
}

/// `retain qos topic payload` of the message that is retained on `topic`.
fn retained(broker: &Broker, topic: &str) -> String {
    let subscriber = broker.subscribe(&[]);
    subscriber.wait(|line| line.starts_with("1 ") && line.split(' ').nth(2) == Some(topic))
}

fn start(config: &MqttConfig) -> (MqttSink, Registry) {
    let registry = Registry::new("node1");
    let sink = MqttSink::start(config, "node1", Duration::from_secs(3600), registry.clone()).unwrap();
    (sink, registry)
}

fn connected(registry: &Registry) -> bool {
    registry.snapshot().mqtt_connected == Some(true)
}

/// Waits until the sink reports why it has no connection.
fn trouble(registry: &Registry) -> String {
    let mut reason = None;
    eventually("a reason", || {
        reason = registry.health().mqtt.unwrap().reason;
        reason.is_some()
    });
    reason.unwrap()
}

fn result(seq: u64, objects: usize) -> Arc<FrameResult> {
    Arc::new(FrameResult {
        meta: FrameMeta {
            camera: "gate".into(),
            seq,
            pts_ns: seq * 40_000_000,
            captured_at: SystemTime::now(),
            captured: Instant::now(),
            size: Size::new(1920, 1080),
        },
        model: Arc::new(ModelId { name: "m".into(), sha256: "ab".repeat(32), labels: vec!["person".into()] }),
        backend: BackendKind::Tract,
        batch: 1,
        detections: vec![
            Detection { class_id: 0, score: 0.875, bbox: PixelBox::new(10.5, 20.25, 400.0, 1080.0) };
            objects
        ],
        latency: Latency::default(),
    })
}

fn status(sink: &MqttSink, camera: &str, state: CameraState) {
    let (camera, since) = (camera.into(), SystemTime::now());
    sink.status(&CameraStatus { camera, state, since, reason: None, retries: 0 });
}

fn frame_line(result: &FrameResult) -> String {
    let mut json = Vec::new();
    FrameMessage::new(result, Run::of_process()).write(&mut json);
    format!("0 0 ocelli/node1/gate/frame {}", String::from_utf8(json).unwrap())
}

#[test]
fn availability_states_frames_and_stats_are_published() {
    if !have(&["mosquitto", "mosquitto_sub"]) {
        return;
    }
    let broker = Broker::open();
    let subscriber = broker.subscribe(&[]);
    let registry = Registry::new("node1");
    let sink = MqttSink::start(&broker.config(), "node1", Duration::from_millis(200), registry).unwrap();
    subscriber.wait_for("0 1 ocelli/node1/available online");
    status(&sink, "gate", CameraState::Online);
    subscriber.wait(|line| line.starts_with(r#"0 1 ocelli/node1/gate/status {"v":1,"state":"online","since":"#));
    let result = result(7, 3);
    sink.result(&result);
    subscriber.wait_for(&frame_line(&result));
    let stats = subscriber.wait(|line| line.starts_with("0 0 ocelli/node1/stats "));
    let stats: serde_json::Value = serde_json::from_str(stats.splitn(4, ' ').nth(3).unwrap()).unwrap();
    assert_eq!((&stats["node"], &stats["mqtt_connected"]), (&"node1".into(), &true.into()));
    assert_eq!(retained(&broker, "ocelli/node1/available"), "1 1 ocelli/node1/available online");
    assert!(retained(&broker, "ocelli/node1/gate/status").contains("online"));

    // The queue is published before `stopped`, and no last will follows.
    status(&sink, "gate", CameraState::Ended);
    sink.stop(TIMEOUT);
    subscriber.wait(|line| line.contains(r#"gate/status {"v":1,"state":"ended""#));
    subscriber.wait(|line| line.contains("available"));
    assert_eq!(retained(&broker, "ocelli/node1/available"), "1 1 ocelli/node1/available stopped");

    // Without a disconnect the broker publishes the last will.
    let (sink, registry) = start(&broker.config());
    subscriber.wait_for("0 1 ocelli/node1/available online");
    drop(sink);
    subscriber.wait_for("0 1 ocelli/node1/available offline");
    assert!(!connected(&registry));
}

#[test]
fn the_sink_reconnects_after_an_absent_and_a_killed_broker() {
    if !have(&["mosquitto", "mosquitto_sub"]) {
        return;
    }
    let mut broker = Broker::new("allow_anonymous true");
    let (sink, registry) = start(&broker.config());
    for camera in ["gate", "dock"] {
        status(&sink, camera, CameraState::Online);
    }
    let reason = trouble(&registry);
    assert!(reason.contains("cannot be reached") && reason.contains("mqtt.url"), "{reason}");
    // Only the newest messages are queued; the others are counted as dropped.
    for seq in 0..150 {
        sink.result(&result(seq, 1));
    }
    assert_eq!(registry.counter(Count::MqttDropped), 50);

    for round in 0..2 {
        broker.start();
        eventually("the connection", || connected(&registry));
        assert_eq!(registry.health().mqtt.unwrap().reason, None);
        for topic in ["available", "gate/status", "dock/status"] {
            assert!(retained(&broker, &format!("ocelli/node1/{topic}")).contains("online"));
        }
        let subscriber = broker.subscribe(&[]);
        let result = result(1000 + round, 1);
        sink.result(&result);
        subscriber.wait_for(&frame_line(&result));
        broker.kill();
        eventually("the loss of the connection", || !connected(&registry));
    }
    sink.stop(TIMEOUT);
}

#[test]
fn the_newest_queued_frames_arrive_in_order() {
    if !have(&["mosquitto", "mosquitto_sub"]) {
        return;
    }
    let mut broker = Broker::new("allow_anonymous true");
    let (sink, registry) = start(&broker.config());
    trouble(&registry);
    for seq in 0..120 {
        sink.result(&result(seq, 1));
    }
    broker.start();
    let subscriber = broker.subscribe(&[]);
    eventually("the connection", || connected(&registry));
    sink.stop(TIMEOUT);
    let mut seqs = Vec::new();
    loop {
        let line = subscriber.wait(|line| line.contains("/frame ") || line.contains("available stopped"));
        let Some((_, json)) = line.split_once("/frame ") else { break };
        seqs.push(serde_json::from_str::<FrameMessage<'static>>(json).unwrap().seq);
    }
    // The first of them may have been published before the subscription.
    assert!(seqs.windows(2).all(|pair| pair[0] < pair[1]), "{seqs:?}");
    assert!(seqs.iter().all(|seq| *seq >= 20), "{seqs:?}");
    assert_eq!(registry.counter(Count::MqttDropped), 20);
}

#[test]
fn a_frozen_broker_is_detected_and_blocks_neither_results_nor_the_stop() {
    if !have(&["mosquitto", "mosquitto_sub"]) {
        return;
    }
    let broker = Broker::open();
    let (sink, registry) = start(&broker.config());
    status(&sink, "gate", CameraState::Online);
    eventually("the connection", || connected(&registry));
    broker.signal("-STOP");
    // 100 MB: more than the buffers of sockets hold.
    let large = result(0, 100);
    for _ in 0..10_000 {
        sink.result(&large);
    }
    assert!(registry.counter(Count::MqttDropped) > 0);
    eventually("the sink's notice of the freeze", || !connected(&registry));
    broker.signal("-CONT");
    eventually("the connection", || connected(&registry));
    assert!(retained(&broker, "ocelli/node1/gate/status").contains("online"));

    // A stop keeps its deadline with a frozen broker too.
    broker.signal("-STOP");
    sink.result(&large);
    let (done, stopped) = mpsc::channel();
    std::thread::spawn(move || {
        sink.stop(Duration::from_millis(300));
        done.send(()).unwrap();
    });
    stopped.recv_timeout(TIMEOUT).expect("the stop hangs on a frozen broker");
}

#[test]
fn a_message_that_is_too_large_is_dropped_without_ending_the_connection() {
    if !have(&["mosquitto", "mosquitto_sub"]) {
        return;
    }
    let broker = Broker::open();
    let subscriber = broker.subscribe(&[]);
    let (sink, registry) = start(&broker.config());
    subscriber.wait_for("0 1 ocelli/node1/available online");
    // 100 objects exceed the client's default limit of 10 kB.
    for result in [result(0, 100), result(1, 20_000), result(2, 1)] {
        sink.result(&result);
    }
    subscriber.wait(|line| line.contains(r#""seq":0,"#));
    let next = subscriber.wait(|line| line.contains("/frame "));
    assert!(next.contains(r#""seq":2,"#));
    assert_eq!(registry.counter(Count::MqttOversize), 1);
    // Still the first connection.
    sink.stop(TIMEOUT);
    let availability = subscriber.wait(|line| line.contains("/available "));
    assert_eq!(availability, "0 1 ocelli/node1/available stopped");
}

#[test]
fn a_wrong_password_is_reported_as_such() {
    if !have(&["mosquitto", "mosquitto_sub", "mosquitto_passwd"]) {
        return;
    }
    let mut broker = Broker::new("allow_anonymous false\npassword_file {}/passwords");
    run(tool("mosquitto_passwd").args(["-b", "-c"]).arg(broker.path("passwords")).args(["ocelli", "right"]));
    broker.start();
    let with = |username: Option<&str>, password: Option<&str>| {
        let (username, password) = (username.map(str::to_owned), password.map(str::to_owned));
        start(&MqttConfig { username, password, ..broker.config() })
    };
    let (_wrong, registry) = with(Some("ocelli"), Some("wrong"));
    let reason = trouble(&registry);
    assert!(reason.contains("refused the password of user `ocelli`") && !reason.contains("wrong"), "{reason}");
    let (_none, registry) = with(None, None);
    let reason = trouble(&registry);
    assert!(reason.contains("refused a client without user name"), "{reason}");
    let (_right, registry) = with(Some("ocelli"), Some("right"));
    eventually("the connection", || connected(&registry));
}

/// A CA and, signed by it, a certificate for `localhost`: `ca.pem`, `broker.pem`, `broker.key` in `folder`.
fn certificates(folder: &Path) {
    let openssl = |args: &str| {
        run(tool("openssl").args(args.split(' ')).current_dir(folder));
    };
    std::fs::write(folder.join("names"), "subjectAltName=DNS:localhost\n").unwrap();
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    openssl(&format!("req -x509 {key} -keyout ca.key -out ca.pem -days 2 -subj /CN=test-ca"));
    openssl(&format!("req -new {key} -keyout broker.key -out broker.csr -subj /CN=localhost"));
    openssl("x509 -req -in broker.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out broker.pem -days 2 -extfile names");
}

#[test]
fn tls_trusts_the_configured_ca_and_no_other() {
    if !have(&["mosquitto", "mosquitto_sub", "openssl"]) {
        return;
    }
    let mut broker = Broker::new("allow_anonymous true\ncertfile {}/broker.pem\nkeyfile {}/broker.key");
    certificates(broker.folder.path());
    broker.start();
    let ca = broker.path("ca.pem");
    let tls = |host: &str, ca: &Path| {
        let url = ocelli::config::Broker { host: host.into(), port: broker.port, tls: true };
        start(&MqttConfig { url, ca_file: Some(ca.into()), ..broker.config() })
    };
    let (sink, registry) = tls("localhost", &ca);
    eventually("the connection", || connected(&registry));
    let subscriber = broker.subscribe(&["--cafile", ca.to_str().unwrap()]);
    subscriber.wait_for("1 1 ocelli/node1/available online");
    sink.stop(TIMEOUT);

    let other = tempfile::tempdir().unwrap();
    certificates(other.path());
    let (_stranger, registry) = tls("localhost", &other.path().join("ca.pem"));
    let reason = trouble(&registry);
    assert!(reason.contains("TLS") && reason.contains("mqtt.ca_file"), "{reason}");
    let (_other_name, registry) = tls("127.0.0.1", &ca);
    let reason = trouble(&registry);
    assert!(reason.contains("TLS") && reason.contains("names this very host"), "{reason}");
    let (_plain, registry) = start(&broker.config());
    let reason = trouble(&registry);
    assert!(reason.contains("mqtts://"), "{reason}");
    let open = Broker::open();
    let url = ocelli::config::Broker { tls: true, ..open.config().url };
    let (_no_tls_there, registry) = start(&MqttConfig { url, ca_file: Some(ca), ..open.config() });
    let reason = trouble(&registry);
    assert!(reason.contains("TLS") && reason.contains("port speaks TLS"), "{reason}");
}
