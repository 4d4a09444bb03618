//! The Prometheus page: base units, `_total` for counters, no series without a value.

use std::fmt::Write;

use crate::telemetry::StatsSnapshot;
use crate::types::{CameraState, EngineState};

const STATES: [CameraState; 7] = [
    CameraState::Connecting,
    CameraState::Online,
    CameraState::Stalled,
    CameraState::Offline,
    CameraState::AuthFailed,
    CameraState::Disabled,
    CameraState::Ended,
];

const ENGINE_STATES: [EngineState; 5] =
    [EngineState::Loading, EngineState::Building, EngineState::Serving, EngineState::Degraded, EngineState::Failed];

/// Counters of the registry that have a name and a reason of their own; all others become `ocelli_<name>_total`.
const DROP_COUNTERS: [(&str, &str); 2] = [("mqtt_dropped", "queue"), ("mqtt_oversize", "oversize")];

/// What the operating system knows of this process; what cannot be read is absent.
#[derive(Debug, Default)]
pub(super) struct Process {
    resident_bytes: Option<u64>,
    open_fds: Option<u64>,
    threads: Option<u64>,
}

impl Process {
    /// Reads `/proc/self`.
    pub(super) fn read() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        Self {
            resident_bytes: field(&status, "VmRSS:").map(|kib| kib * 1024),
            open_fds: std::fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count() as u64),
            threads: field(&status, "Threads:"),
        }
    }
}

fn field(status: &str, name: &str) -> Option<u64> {
    status.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

/// The page. `HELP` and `TYPE` stand once per metric, before its series.
pub(super) fn render(stats: &StatsSnapshot, process: &Process) -> String {
    let mut page = Page(String::with_capacity(4096));
    page.metric("ocelli_build_info", "gauge", "Version of Ocelli.");
    page.series("ocelli_build_info", &[("version", &stats.version), ("node", &stats.node)], 1.0);
    page.metric("ocelli_uptime_seconds", "gauge", "Time since the start.");
    page.series("ocelli_uptime_seconds", &[], stats.uptime_s as f64);
    if let Some(reload) = &stats.reload {
        page.metric(
            "ocelli_config_reload_success",
            "gauge",
            "Whether the last reload of the configuration was taken over.",
        );
        page.series("ocelli_config_reload_success", &[], f64::from(u8::from(reload.success)));
    }
    models(&mut page, stats);
    engines(&mut page, stats);
    cameras(&mut page, stats);
    counters(&mut page, stats);
    for (name, help, value) in [
        ("process_resident_memory_bytes", "Resident memory.", process.resident_bytes),
        ("process_open_fds", "Open file descriptors.", process.open_fds),
        ("process_threads", "Threads.", process.threads),
    ] {
        if let Some(value) = value {
            page.metric(name, "gauge", help);
            page.series(name, &[], value as f64);
        }
    }
    page.0
}

fn models(page: &mut Page, stats: &StatsSnapshot) {
    let models = || stats.models.iter().filter_map(|(key, report)| Some((key.as_str(), report.model.as_ref()?)));
    let info = models().map(|(key, model)| {
        let labels = [
            ("model", key),
            ("name", &model.name),
            ("sha256", &model.sha256),
            ("backend", &model.backend),
            ("backend_version", &model.backend_version),
        ];
        (labels, 1.0)
    });
    page.gauge("ocelli_model_info", "A model and the backend that really runs it.", info);
    let fallbacks = models().map(|(key, model)| ([("model", key)], model.fallbacks.len() as f64));
    page.gauge("ocelli_backend_fallbacks", "Better backends that were tried and did not work.", fallbacks);
    let nodes = models().flat_map(|(key, model)| {
        model.nodes.iter().map(move |(provider, count)| ([("model", key), ("provider", provider)], *count as f64))
    });
    page.gauge("ocelli_model_nodes", "Nodes of a model by the provider that ran them.", nodes);
}

fn engines(page: &mut Page, stats: &StatsSnapshot) {
    let engines = || stats.models.iter().map(|(key, report)| (key.as_str(), &report.engine));
    let states = engines().flat_map(|(key, engine)| {
        let value = |state| f64::from(u8::from(engine.state == state));
        ENGINE_STATES.map(|state| ([("model", key), ("state", state.as_str())], value(state)))
    });
    page.gauge("ocelli_engine_state", "1 for the state that a model's inference engine is in.", states);
    let divisions = || engines().filter_map(|(key, engine)| Some(([("model", key)], engine.division.as_ref()?)));
    let sessions = divisions().map(|(labels, division)| (labels, division.sessions as f64));
    page.gauge("ocelli_engine_sessions", "Sessions side by side at most.", sessions);
    let threads = divisions().map(|(labels, division)| (labels, division.threads as f64));
    page.gauge("ocelli_engine_threads", "Threads of each session.", threads);
    let builds = engines().filter_map(|(key, engine)| {
        let build = engine.build.as_ref()?;
        Some(([("model", key), ("backend", &build.backend)], build.elapsed_s as f64))
    });
    page.gauge("ocelli_engine_build_seconds", "Time since the build of the GPU engine began.", builds);
}

fn cameras(page: &mut Page, stats: &StatsSnapshot) {
    if stats.cameras.is_empty() {
        return;
    }
    page.metric("ocelli_camera_state", "gauge", "1 for the state that the camera is in.");
    for (name, camera) in &stats.cameras {
        for state in STATES {
            let labels = [("camera", name.as_str()), ("state", state.as_str())];
            page.series("ocelli_camera_state", &labels, f64::from(u8::from(camera.state == state)));
        }
    }
    type Value = fn(&crate::telemetry::CameraStats) -> Option<f64>;
    let metrics: [(&str, &str, &str, Value); 10] = [
        ("ocelli_camera_up", "gauge", "1 while frames arrive.", |c| {
            Some(f64::from(u8::from(c.state == CameraState::Online)))
        }),
        ("ocelli_camera_frames_total", "counter", "Frames decoded.", |c| Some(c.frames as f64)),
        ("ocelli_camera_results_total", "counter", "Frames detected.", |c| Some(c.results as f64)),
        ("ocelli_camera_reconnects_total", "counter", "Times that the camera was lost.", |c| Some(c.reconnects as f64)),
        ("ocelli_detections_total", "counter", "Objects found.", |c| Some(c.detections as f64)),
        ("ocelli_camera_frames_per_second", "gauge", "Frames decoded per second, lately.", |c| Some(c.fps)),
        ("ocelli_camera_results_per_second", "gauge", "Frames detected per second, lately.", |c| Some(c.detect_fps)),
        ("ocelli_infer_seconds_p50", "gauge", "Median time in the session, lately.", |c| {
            c.infer_ms_p50.map(|ms| ms / 1e3)
        }),
        ("ocelli_infer_batch_p50", "gauge", "Median number of frames that ran together, lately.", |c| c.batch_p50),
        ("ocelli_latency_seconds_p99", "gauge", "99th percentile from decoded frame to result, lately.", |c| {
            c.latency_ms_p99.map(|ms| ms / 1e3)
        }),
    ];
    for (name, kind, help, value) in metrics {
        page.metric(name, kind, help);
        for (camera, numbers) in &stats.cameras {
            if let Some(value) = value(numbers) {
                page.series(name, &[("camera", camera)], value);
            }
        }
    }
    page.metric("ocelli_frames_dropped_total", "counter", "Frames that went by without detection.");
    for (name, camera) in &stats.cameras {
        let labels = [("camera", name.as_str()), ("reason", "newer_frame")];
        page.series("ocelli_frames_dropped_total", &labels, camera.frames_dropped as f64);
    }
}

fn counters(page: &mut Page, stats: &StatsSnapshot) {
    if let Some(connected) = stats.mqtt_connected {
        page.metric("ocelli_mqtt_connected", "gauge", "1 while the MQTT session is up.");
        page.series("ocelli_mqtt_connected", &[], f64::from(u8::from(connected)));
        page.metric("ocelli_mqtt_dropped_total", "counter", "MQTT messages dropped.");
        for (counter, reason) in DROP_COUNTERS {
            let count = stats.counters.get(counter).copied().unwrap_or_default();
            page.series("ocelli_mqtt_dropped_total", &[("reason", reason)], count as f64);
        }
    }
    for (name, count) in &stats.counters {
        if DROP_COUNTERS.iter().all(|(known, _)| known != name) {
            let metric = format!("ocelli_{name}_total");
            page.metric(&metric, "counter", "See the name.");
            page.series(&metric, &[], *count as f64);
        }
    }
}

struct Page(String);

impl Page {
    fn metric(&mut self, name: &str, kind: &str, help: &str) {
        // Writing into a String cannot fail, here and below.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// A gauge with all its series; nothing without any.
    fn gauge<'a, const LABELS: usize>(
        &mut self,
        name: &str,
        help: &str,
        series: impl Iterator<Item = ([(&'a str, &'a str); LABELS], f64)>,
    ) {
        for (n, (labels, value)) in series.enumerate() {
            if n == 0 {
                self.metric(name, "gauge", help);
            }
            self.series(name, &labels, value);
        }
    }

    fn series(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.0.push_str(name);
        for (n, (label, text)) in labels.iter().enumerate() {
            let _ = write!(self.0, "{}{label}=\"", if n == 0 { '{' } else { ',' });
            for c in text.chars() {
                match c {
                    '\\' => self.0.push_str("\\\\"),
                    '"' => self.0.push_str("\\\""),
                    '\n' => self.0.push_str("\\n"),
                    c => self.0.push(c),
                }
            }
            self.0.push('"');
        }
        let _ = writeln!(self.0, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeSet;
    use std::sync::Arc;
    use std::time::SystemTime;

    use super::*;
    use crate::telemetry::Registry;
    use crate::types::{BackendInfo, BackendKind, CameraStatus, ModelId};

    fn page() -> String {
        let registry = Registry::new("node1");
        let model = ModelId { name: "my \"best\"\nmodel\\".into(), sha256: "ab".into(), labels: vec![] };
        let backend = BackendInfo {
            kind: BackendKind::Cpu,
            version: "ONNX Runtime 1.24".into(),
            fallbacks: vec![],
            nodes: Default::default(),
        };
        registry.model_ready(Arc::new(model), backend);
        for camera in ["gate", "dock"] {
            let (state, since) = (CameraState::Online, SystemTime::now());
            registry.camera_status(&CameraStatus { camera: camera.into(), state, since, reason: None, retries: 0 });
        }
        registry.frame(&"gate".into());
        registry.mqtt_connected(true);
        registry.count("mqtt_dropped", 7);
        registry.count("jsonl_dropped", 2);
        render(&registry.snapshot(), &Process::read())
    }

    #[test]
    fn the_agreed_names_are_there() {
        let page = page();
        for line in [
            r#"ocelli_camera_up{camera="gate"} 1"#,
            r#"ocelli_camera_state{camera="gate",state="online"} 1"#,
            r#"ocelli_camera_state{camera="gate",state="offline"} 0"#,
            r#"ocelli_camera_frames_total{camera="gate"} 1"#,
            r#"ocelli_camera_frames_total{camera="dock"} 0"#,
            r#"ocelli_frames_dropped_total{camera="gate",reason="newer_frame"} 0"#,
            "ocelli_mqtt_connected 1",
            r#"ocelli_mqtt_dropped_total{reason="queue"} 7"#,
            r#"ocelli_mqtt_dropped_total{reason="oversize"} 0"#,
            "ocelli_jsonl_dropped_total 2",
            r#"ocelli_model_info{model="default",name="my \"best\"\nmodel\\",sha256="ab",backend="cpu",backend_version="ONNX Runtime 1.24"} 1"#,
        ] {
            assert!(page.lines().any(|have| have == line), "{line} is missing in\n{page}");
        }
    }

    #[test]
    fn each_series_belongs_to_the_metric_announced_above_it() {
        let page = page();
        let mut announced = BTreeSet::new();
        let mut current = "";
        for line in page.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                current = rest.split(' ').next().unwrap();
                assert!(announced.insert(current), "{current} is announced twice");
            } else if !line.starts_with('#') {
                assert_eq!(line.split(['{', ' ']).next().unwrap(), current);
                assert!(line.rsplit(' ').next().unwrap().parse::<f64>().is_ok(), "{line}");
            }
        }
    }

    #[test]
    fn what_is_not_known_has_no_series() {
        let page = render(&Registry::new("n").snapshot(), &Process::default());
        for absent in ["ocelli_model_info", "ocelli_camera_up", "ocelli_mqtt_connected", "process_", "latency"] {
            assert!(!page.contains(absent), "{page}");
        }
    }
}
