//! The service as the service manager sees it: reload, readiness, watchdog, one instance per state folder.

use std::collections::BTreeMap;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::{Guard, Lines, free_port, http_get, ocelli, signal, skip, wait_exit, wait_for_port};
use crate::e2e::write_clip;

/// A folder with a clip, a configuration and the service's output.
struct Place {
    folder: tempfile::TempDir,
    http: u16,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        write_clip(&folder.path().join("clip.mp4"));
        Self { folder, http: free_port() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes the configuration: what all tests share, and `lines`.
    fn configure(&self, lines: &str) {
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/marker.onnx");
        let text = format!(
            "node: testbox\nmodel: {{file: {}, backend: tract}}\nrtsp: {{enabled: false}}\n\
             http: \"127.0.0.1:{}\"\njsonl: out.jsonl\nstats_interval: 1s\n{lines}",
            model.display(),
            self.http
        );
        std::fs::write(self.path("ocelli.yaml"), text).unwrap();
    }

    fn run(&self, environment: &[(&str, &str)]) -> Running {
        let mut child = ocelli()
            .arg("run")
            .arg("-c")
            .arg(self.path("ocelli.yaml"))
            .envs(environment.iter().copied())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Lines::of(child.stderr.take().unwrap());
        Running { child: Guard(child), log }
    }

    /// Numbers of the frames in the JSON Lines file, by camera, and how many objects each frame had.
    fn results(&self) -> BTreeMap<String, Vec<(u64, usize)>> {
        let mut all: BTreeMap<String, Vec<_>> = BTreeMap::new();
        let text = std::fs::read_to_string(self.path("out.jsonl")).unwrap_or_default();
        // The last line may be half written.
        for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            let json: serde_json::Value = serde_json::from_str(line).unwrap();
            let frame = (json["seq"].as_u64().unwrap(), json["objects"].as_array().unwrap().len());
            all.entry(json["camera"].as_str().unwrap().to_owned()).or_default().push(frame);
        }
        all
    }

    fn wait_for(&self, what: &str, condition: impl Fn(&BTreeMap<String, Vec<(u64, usize)>>) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !condition(&self.results()) {
            assert!(Instant::now() < deadline, "never came: {what}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

struct Running {
    child: Guard,
    log: Lines,
}

impl Running {
    fn signal(&self, name: &str) {
        signal(self.child.0.id(), name);
    }

    /// Sends SIGHUP and waits for a new line of the log that contains `word`.
    fn reload(&self, word: &str) -> String {
        let before = self.log.all().len();
        self.signal("HUP");
        self.log.wait_after(before, word, 60, |line| line.contains(word))
    }

    fn stop(mut self) {
        self.signal("TERM");
        assert_eq!(wait_exit(&mut self.child.0, 20), Some(0), "{:#?}", self.log.all());
    }
}

const LOOPED: &str = "{file: clip.mp4, loop: true, realtime: false";

#[test]
fn a_ca_file_that_is_missing_or_holds_no_certificate_is_a_configuration_error() {
    let place = Place::new();
    place.configure("mqtt: {url: \"mqtts://127.0.0.1\", ca_file: ca.pem}\ncameras: {gate: {file: clip.mp4}}\n");
    for content in [None, Some("no certificate")] {
        if let Some(content) = content {
            std::fs::write(place.path("ca.pem"), content).unwrap();
        }
        let mut service = place.run(&[]);
        assert_eq!(wait_exit(&mut service.child.0, 30), Some(78), "{content:?}: {:#?}", service.log.all());
        assert!(service.log.all().iter().any(|line| line.contains("ca.pem")), "{:#?}", service.log.all());
    }
}

#[test]
fn a_reload_changes_only_what_differs_and_loses_no_frame_of_other_cameras() {
    let place = Place::new();
    place.configure(&format!("cameras:\n  stays: {LOOPED}}}\n  goes: {LOOPED}}}\n  changes: {LOOPED}}}\n"));
    let service = place.run(&[]);
    let busy = |names: &'static [&'static str], frames: usize| {
        move |results: &BTreeMap<String, Vec<_>>| {
            names.iter().all(|name| results.get(*name).is_some_and(|all| all.len() >= frames))
        }
    };
    place.wait_for("frames of all three", busy(&["stays", "goes", "changes"], 50));

    place.configure(&format!(
        "cameras:\n  stays: {LOOPED}}}\n  comes: {LOOPED}}}\n  changes: {LOOPED}, detect: {{labels: [nothing-of-ours]}}}}\n"
    ));
    let line = service.reload("refused");
    assert!(line.contains("nothing-of-ours"), "a label that the model does not have: {line}");
    let health = http_get(place.http, "/api/v1/health");
    assert!(health.contains("\"degraded\"") && health.contains("the old one is in force"), "{health}");
    assert!(http_get(place.http, "/metrics").contains("ocelli_config_reload_success 0"));

    place.configure(&format!(
        "cameras:\n  stays: {LOOPED}}}\n  comes: {LOOPED}}}\n  changes: {LOOPED}, detect: {{threshold: 1}}}}\n"
    ));
    let line = service.reload("configuration reloaded");
    for change in ["camera goes (removed)", "camera comes (added)", "camera changes (detection)"] {
        assert!(line.contains(change), "{line}");
    }
    assert!(!line.contains("stays") && !line.contains("model"), "{line}");
    let before = place.results()["stays"].len();
    place.wait_for("frames after the reload", move |results| {
        busy(&["comes"], 50)(results) && results["stays"].len() > before + 50
    });
    let health = http_get(place.http, "/api/v1/health");
    assert!(health.contains("\"ok\"") && !health.contains("goes"), "{health}");
    assert!(http_get(place.http, "/metrics").contains("ocelli_config_reload_success 1"));

    std::fs::write(place.path("ocelli.yaml"), "cameras: [").unwrap();
    service.reload("refused");
    let health = http_get(place.http, "/api/v1/health");
    assert!(health.contains("ocelli.yaml:1:"), "the place of the fault: {health}");
    let before = place.results()["stays"].len();
    place.wait_for("frames after a bad file", |results| results["stays"].len() > before + 50);
    service.stop();

    let results = place.results();
    for name in ["stays", "changes", "comes"] {
        let seqs: Vec<u64> = results[name].iter().map(|(seq, _)| *seq).collect();
        let whole: Vec<u64> = (0..seqs.len() as u64).collect();
        assert_eq!(seqs, whole, "camera {name} lost frames");
    }
    let objects: Vec<usize> = results["changes"].iter().map(|(_, objects)| *objects).collect();
    let cut = objects.iter().position(|count| *count == 0).expect("the new threshold took effect");
    assert!(cut > 40 && objects[cut..].iter().all(|count| *count == 0), "one cut, at frame {cut}");
}

#[test]
fn a_broker_can_be_added_and_changed_and_forgets_a_removed_camera() {
    let place = Place::new();
    let Some(first) = Mosquitto::start() else { return };
    let Some(second) = Mosquitto::start() else { return };
    let cameras = "cameras:\n  gate: {file: clip.mp4, loop: true}\n";
    place.configure(cameras);
    let service = place.run(&[]);
    place.wait_for("frames", |results| results.contains_key("gate"));

    place.configure(&format!(
        "{cameras}  dock: {{file: clip.mp4, loop: true}}\nmqtt: mqtt://127.0.0.1:{}\n",
        first.port
    ));
    service.reload("configuration reloaded");
    first.lines.wait("the state of a camera that was there before", 20, |line| {
        line.starts_with("ocelli/testbox/gate/status ") && line.contains("online")
    });
    first.lines.wait("the new camera's frames", 20, |line| line.starts_with("ocelli/testbox/dock/frame "));

    place.configure(&format!("{cameras}mqtt: mqtt://127.0.0.1:{}\n", first.port));
    assert!(!service.reload("configuration reloaded").contains("mqtt"), "the session was not touched");
    first.lines.wait("the end of the retained state", 20, |line| line == "ocelli/testbox/dock/status (null)");
    assert!(!first.lines.all().iter().any(|line| line.ends_with("/available stopped")));

    place.configure(&format!("{cameras}mqtt: mqtt://127.0.0.1:{}\n", second.port));
    service.reload("configuration reloaded");
    first.lines.wait("the goodbye", 20, |line| line == "ocelli/testbox/available stopped");
    second.lines.wait("the other broker's first frame", 20, |line| line.starts_with("ocelli/testbox/gate/frame "));
    second.lines.wait("the camera's state", 20, |line| line.starts_with("ocelli/testbox/gate/status "));
    service.stop();
}

/// A broker, and everything that it receives.
pub struct Mosquitto {
    pub port: u16,
    pub lines: Lines,
    broker: Guard,
    _subscriber: Guard,
    _folder: tempfile::TempDir,
}

impl Mosquitto {
    pub fn start() -> Option<Self> {
        let program = ["/usr/sbin/mosquitto", "/usr/bin/mosquitto"].into_iter().find(|path| Path::new(path).exists());
        let Some(program) = program else {
            skip("mosquitto is not installed");
            return None;
        };
        let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
        let conf = folder.path().join("mosquitto.conf");
        std::fs::write(&conf, format!("listener {port} 127.0.0.1\nallow_anonymous true\n")).unwrap();
        let broker = Guard(Command::new(program).arg("-c").arg(&conf).stderr(Stdio::null()).spawn().unwrap());
        wait_for_port(port);
        let mut subscriber = Command::new("mosquitto_sub")
            .args(["-h", "127.0.0.1", "-p", &port.to_string(), "-v", "-t", "ocelli/#"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = Lines::of(subscriber.stdout.take().unwrap());
        Some(Self { port, lines, broker, _subscriber: Guard(subscriber), _folder: folder })
    }

    /// Suspends the broker: connections stay open, nothing is answered.
    pub fn freeze(&self) {
        signal(self.broker.0.id(), "STOP");
    }
}

#[test]
fn a_file_moved_by_logrotate_is_opened_again() {
    let place = Place::new();
    place.configure("cameras: {gate: {file: clip.mp4, loop: true}}\n");
    let service = place.run(&[]);
    place.wait_for("frames", |results| results.contains_key("gate"));
    std::fs::rename(place.path("out.jsonl"), place.path("out.jsonl.1")).unwrap();
    assert!(service.reload("configuration reloaded").contains("jsonl"));
    place.wait_for("frames in the new file", |results| results.contains_key("gate"));
    let first = place.results()["gate"][0].0;
    let old = std::fs::read_to_string(place.path("out.jsonl.1")).unwrap();
    let last: serde_json::Value = serde_json::from_str(old.lines().last().unwrap()).unwrap();
    assert!(last["seq"].as_u64().unwrap() < first, "each frame is in one file");
    service.stop();
}

#[test]
fn a_second_instance_on_the_same_state_folder_names_the_first() {
    let place = Place::new();
    place.configure("state_dir: state\ncameras: {gate: {file: clip.mp4, loop: true}}\n");
    let service = place.run(&[]);
    service.log.wait("the start", 30, |line| line.contains("model ready"));
    let second = ocelli()
        .args(["run", "--set", "http=null", "-c"])
        .arg(place.path("ocelli.yaml"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(69), "{error}");
    assert!(error.contains(&format!("process {}", service.child.0.id())) && error.contains("state_dir"), "{error}");
    service.stop();
}

#[test]
fn an_unwritable_state_folder_is_reported_and_detection_goes_on() {
    let place = Place::new();
    place.configure("cameras: {gate: {file: clip.mp4, loop: true}}\n");
    // A file is in the way: not even root can create a folder there.
    let state = place.path("clip.mp4/state").display().to_string();
    let service = place.run(&[("STATE_DIRECTORY", &state)]);
    place.wait_for("frames", |results| results.contains_key("gate"));
    let health = http_get(place.http, "/api/v1/health");
    assert!(health.contains("\"degraded\"") && health.contains("clip.mp4/state cannot be used"), "{health}");
    service.stop();
}

/// The notifications that a service manager receives, message by message.
struct Manager(UnixDatagram);

impl Manager {
    /// The first message from now on that `test` accepts.
    fn wait(&self, what: &str, test: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + Duration::from_secs(30);
        let mut buffer = [0; 4096];
        loop {
            assert!(Instant::now() < deadline, "the service manager never received {what}");
            let Ok(length) = self.0.recv(&mut buffer) else { continue };
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if test(&text) {
                return text;
            }
        }
    }
}

#[test]
fn the_service_manager_is_notified_of_ready_status_watchdog_reload_and_stop() {
    let place = Place::new();
    place.configure("cameras: {gate: {file: clip.mp4, loop: true}}\n");
    let socket = place.path("notify");
    let manager = UnixDatagram::bind(&socket).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let manager = Manager(manager);
    let service = place.run(&[("NOTIFY_SOCKET", &*socket.to_string_lossy()), ("WATCHDOG_USEC", "2000000")]);
    let first = manager.wait("anything", |_| true);
    assert!(!first.contains("READY"), "ready before the model has run: {first}");
    manager.wait("READY=1", |text| text.contains("READY=1"));
    manager.wait("WATCHDOG=1", |text| text.contains("WATCHDOG=1"));
    let status = manager.wait("the status", |text| text.starts_with("STATUS=tract"));
    assert!(status.contains("1 of 1 cameras online"), "{status}");
    service.signal("HUP");
    let reloading = manager.wait("RELOADING=1", |text| text.contains("RELOADING=1"));
    assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
    manager.wait("READY=1 after the reload", |text| text.contains("READY=1"));
    service.signal("TERM");
    manager.wait("STOPPING=1", |text| text.contains("STOPPING=1"));
}

#[test]
fn cameras_choose_among_models_and_a_reload_changes_the_choice() {
    let place = Place::new();
    let marker = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/marker.onnx");
    std::fs::copy(marker, place.path("other.onnx")).unwrap();
    let models = "models: {other: {file: other.onnx, backend: tract}}\n";
    let cameras = |model: &str| {
        format!("{models}cameras:\n  a: {LOOPED}}}\n  b: {LOOPED}, detect: {{model: {model}, priority: high}}}}\n")
    };
    place.configure(&cameras("other"));
    let service = place.run(&[]);
    let many = |results: &BTreeMap<String, Vec<_>>| {
        ["a", "b"].iter().all(|name| results.get(*name).is_some_and(|all| all.len() >= 20))
    };
    place.wait_for("results of both", many);
    let health = || -> serde_json::Value {
        serde_json::from_str(http_get(place.http, "/api/v1/health").split("\r\n\r\n").nth(1).unwrap()).unwrap()
    };
    let shown = health();
    assert_eq!((&shown["status"], &shown["ready"]), (&"ok".into(), &true.into()), "{shown:#}");
    assert_eq!(shown["models"].as_object().unwrap().len(), 2, "{shown:#}");
    assert_eq!(shown["models"]["default"]["model"]["name"], "marker");
    assert_eq!(shown["models"]["other"]["model"]["name"], "other");
    assert_eq!(shown["models"]["other"]["engine"]["state"], "serving");
    assert_eq!(shown["model"]["name"], "marker", "clients of a single model see the default one");
    let metrics = http_get(place.http, "/metrics");
    assert!(metrics.contains("ocelli_engine_state{model=\"other\",state=\"serving\"} 1"), "{metrics}");
    let models_of = |camera: &str| -> Vec<String> {
        let text = std::fs::read_to_string(place.path("out.jsonl")).unwrap();
        let lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        let json = lines.map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let own = json.filter(|json| json["camera"] == camera);
        own.map(|json| json["model"]["name"].as_str().unwrap().to_owned()).collect()
    };
    assert!(models_of("a").iter().all(|name| name == "marker"));
    assert!(models_of("b").iter().all(|name| name == "other"));
    assert!(place.results()["b"].iter().any(|(_, objects)| *objects > 0), "it finds something");

    // The other model is not used any more, so it is unloaded; camera a loses no frame.
    place.configure(&cameras("default"));
    let line = service.reload("configuration reloaded");
    assert!(line.contains("model other") && line.contains("camera b (detection)"), "{line}");
    let before = models_of("b").len();
    place.wait_for("results of the default model", |results| results["b"].len() > before + 20);
    assert_eq!(models_of("b").last().unwrap(), "marker");
    assert_eq!(health()["models"].as_object().unwrap().keys().collect::<Vec<_>>(), ["default"]);
    let numbers: Vec<u64> = place.results()["a"].iter().map(|(number, _)| *number).collect();
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "camera a lost a frame");

    // An unknown model changes nothing.
    place.configure(&cameras("plates"));
    service.reload("refused");
    let reasons = health()["reasons"].to_string();
    assert!(reasons.contains("asks for the model `plates`, which is not among `models`"), "{reasons}");
    service.stop();
}

#[test]
fn the_session_layout_is_measured_and_reported() {
    let Some(library) = crate::runtime::ort_library() else { return };
    let place = Place::new();
    place.configure(&format!("cameras: {{a: {LOOPED}}}}}\n"));
    let text = std::fs::read_to_string(place.path("ocelli.yaml")).unwrap();
    let library = format!("backend: cpu, ort_library: {}", library.display());
    std::fs::write(place.path("ocelli.yaml"), text.replace("backend: tract", &library)).unwrap();
    let service = place.run(&[]);
    place.wait_for("results", |results| results.get("a").is_some_and(|all| all.len() >= 10));
    let health = http_get(place.http, "/api/v1/health");
    let health: serde_json::Value = serde_json::from_str(health.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    let cores = std::thread::available_parallelism().map_or(1, usize::from).min(4) as u64;
    let division = &health["engine"]["division"];
    let product =
        |division: &serde_json::Value| division["sessions"].as_u64().unwrap() * division["threads"].as_u64().unwrap();
    assert_eq!(product(division), cores, "{health:#}");
    if cores > 1 {
        let other = &health["engine"]["division_not_taken"];
        assert_eq!(product(other), cores, "{health:#}");
        assert_ne!(division["sessions"], other["sessions"]);
        for division in [division, other] {
            assert!(division["frames_per_s"].as_f64().is_some_and(|rate| rate > 0.0), "{health:#}");
        }
        service.log.wait("the measurement", 5, |line| line.contains("rather than") && line.contains("frames/s"));
    }
    service.stop();
}
