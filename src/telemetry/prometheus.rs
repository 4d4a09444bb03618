//! The page for Prometheus: base units, `_total` for counters, no series without a value.

use std::fmt::Result;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeGaugeValue, EncodeMetric as _, MetricEncoder, prometheus_text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry as Page;

use super::registry::{Count, Registry};
use super::stats::{CameraStats, StatsSnapshot};
use crate::types::{CameraState, EngineState};

pub use prometheus_text::CONTENT_TYPE;

const CAMERA_STATES: [CameraState; 7] = [
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

impl Registry {
    /// The page in Prometheus' text format.
    pub fn prometheus(&self) -> String {
        let mut page = Page::default();
        page.register_collector(Box::new(self.clone()));
        let mut text = String::with_capacity(16 * 1024);
        // Writing to a string cannot fail.
        let _ = prometheus_text::encode(&mut text, &page);
        text
    }
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> Result {
        f.write_str("Registry")
    }
}

impl Collector for Registry {
    fn encode(&self, encoder: DescriptorEncoder) -> Result {
        let stats = self.snapshot();
        let mut out = Metrics(encoder);
        let build = [("version", stats.version.as_str()), ("node", stats.node.as_str())];
        out.gauge("ocelli_build_info", "Version of Ocelli and name of this box; always 1.", [(build, 1)])?;
        out.gauge("ocelli_uptime_seconds", "Time since Ocelli was started.", [(ALONE, stats.uptime_s)])?;
        let reload = stats.reload.iter().map(|reload| (ALONE, u64::from(reload.success)));
        let help = "1 if the last reload of the configuration was accepted, 0 if the old one is still in force.";
        out.gauge("ocelli_config_reload_success", help, reload)?;
        models(&mut out, &stats)?;
        engines(&mut out, &stats)?;
        cameras(&mut out, &stats)?;
        histograms(&mut out, self)?;
        counts(&mut out, self, stats.mqtt_connected)?;
        process(&mut out)
    }
}

/// The labels of a metric that has one series.
const ALONE: [(&str, &str); 0] = [];

struct Metrics<'a>(DescriptorEncoder<'a>);

impl Metrics<'_> {
    /// One metric with all its series; nothing when there is no series.
    fn metric<'a, const LABELS: usize, V>(
        &mut self,
        (name, help, kind): (&str, &str, MetricType),
        series: impl IntoIterator<Item = ([(&'a str, &'a str); LABELS], V)>,
        encode: impl Fn(MetricEncoder<'_>, V) -> Result,
    ) -> Result {
        let mut series = series.into_iter().peekable();
        if series.peek().is_none() {
            return Ok(());
        }
        let mut metric = self.0.encode_descriptor(name, help, None, kind)?;
        series.try_for_each(|(labels, value)| encode(metric.encode_family(&labels)?, value))
    }

    fn gauge<'a, const LABELS: usize, V: EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = ([(&'a str, &'a str); LABELS], V)>,
    ) -> Result {
        self.metric((name, help, MetricType::Gauge), series, |mut metric, value| metric.encode_gauge(&value))
    }

    /// `name` without its `_total`.
    fn counter<'a, const LABELS: usize>(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = ([(&'a str, &'a str); LABELS], u64)>,
    ) -> Result {
        self.metric((name, help, MetricType::Counter), series, |metric, value| ConstCounter::new(value).encode(metric))
    }

    fn histogram<'a, const LABELS: usize>(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = ([(&'a str, &'a str); LABELS], &'a Histogram)>,
    ) -> Result {
        self.metric((name, help, MetricType::Histogram), series, |metric, histogram| histogram.encode(metric))
    }
}

fn models(out: &mut Metrics<'_>, stats: &StatsSnapshot) -> Result {
    let models = || stats.models.iter().filter_map(|(key, report)| Some((key.as_str(), report.model.as_ref()?)));
    let info = models().map(|(key, model)| {
        let labels = [
            ("model", key),
            ("name", &model.name),
            ("sha256", &model.sha256),
            ("backend", &model.backend),
            ("backend_version", &model.backend_version),
        ];
        (labels, 1)
    });
    out.gauge("ocelli_model_info", "A model and the backend that runs it; always 1.", info)?;
    let fallbacks = models().map(|(key, model)| ([("model", key)], model.fallbacks.len()));
    let help = "Backends that were preferred to the one that runs the model, and did not work.";
    out.gauge("ocelli_backend_fallbacks", help, fallbacks)?;
    let nodes = models().flat_map(|(key, model)| {
        model.nodes.iter().map(move |(provider, count)| ([("model", key), ("provider", provider.as_str())], *count))
    });
    out.gauge("ocelli_model_nodes", "Nodes of the model's graph by the execution provider that runs them.", nodes)
}

fn engines(out: &mut Metrics<'_>, stats: &StatsSnapshot) -> Result {
    let engines = || stats.models.iter().map(|(key, report)| (key.as_str(), &report.engine));
    let states = engines().flat_map(|(key, engine)| {
        ENGINE_STATES.map(|state| ([("model", key), ("state", state.as_str())], u64::from(engine.state == state)))
    });
    out.gauge("ocelli_engine_state", "1 for the state of the model's inference engine, 0 for all others.", states)?;
    let layouts = || engines().filter_map(|(key, engine)| Some(([("model", key)], engine.division.as_ref()?)));
    let sessions = layouts().map(|(labels, layout)| (labels, layout.sessions));
    out.gauge("ocelli_engine_sessions", "Sessions that run side by side at most.", sessions)?;
    let threads = layouts().map(|(labels, layout)| (labels, layout.threads));
    out.gauge("ocelli_engine_threads", "Threads of each session.", threads)?;
    let builds = engines().filter_map(|(key, engine)| {
        let build = engine.build.as_ref()?;
        Some(([("model", key), ("backend", build.backend.as_str())], build.elapsed_s))
    });
    let help = "Time since the build of a GPU engine began; absent while none is built.";
    out.gauge("ocelli_engine_build_seconds", help, builds)
}

fn cameras(out: &mut Metrics<'_>, stats: &StatsSnapshot) -> Result {
    let cameras = || stats.cameras.iter().map(|(name, camera)| ([("camera", name.as_str())], camera));
    let states = cameras().flat_map(|([camera], stats)| {
        CAMERA_STATES.map(|state| ([camera, ("state", state.as_str())], u64::from(stats.state == state)))
    });
    out.gauge("ocelli_camera_state", "1 for the state of the camera, 0 for all others.", states)?;
    let up = cameras().map(|(labels, stats)| (labels, u64::from(stats.state == CameraState::Online)));
    out.gauge("ocelli_camera_up", "1 while frames arrive from the camera.", up)?;
    type Field<T> = fn(&CameraStats) -> T;
    let counters: [(&str, &str, Field<u64>); 4] = [
        ("ocelli_camera_frames", "Frames decoded.", |c| c.frames),
        ("ocelli_camera_results", "Frames that objects were looked for in.", |c| c.results),
        ("ocelli_camera_reconnects", "Times that the camera was lost after having been online.", |c| c.reconnects),
        ("ocelli_detections", "Objects found.", |c| c.detections),
    ];
    for (name, help, value) in counters {
        out.counter(name, help, cameras().map(|(labels, stats)| (labels, value(stats))))?;
    }
    let dropped = cameras().map(|([camera], stats)| ([camera, ("reason", "newer_frame")], stats.frames_dropped));
    out.counter("ocelli_frames_dropped", "Frames decoded but not given to the detector.", dropped)?;
    let gauges: [(&str, &str, Field<Option<f64>>); 5] = [
        ("ocelli_camera_frames_per_second", "Frames decoded per second, over the last 10 s.", |c| Some(c.fps)),
        ("ocelli_camera_results_per_second", "Results per second, over the last 10 s.", |c| Some(c.detect_fps)),
        ("ocelli_infer_seconds_p50", "Median time of the last 256 frames in the session.", |c| {
            c.infer_ms_p50.map(|ms| ms / 1e3)
        }),
        ("ocelli_infer_batch_p50", "Median batch, in frames, of the last 256 frames.", |c| c.batch_p50),
        ("ocelli_latency_seconds_p99", "99th percentile from decoded frame to result, of the last 256 frames.", |c| {
            c.latency_ms_p99.map(|ms| ms / 1e3)
        }),
    ];
    for (name, help, value) in gauges {
        out.gauge(name, help, cameras().filter_map(|(labels, stats)| Some((labels, value(stats)?))))?;
    }
    Ok(())
}

fn histograms(out: &mut Metrics<'_>, registry: &Registry) -> Result {
    let cameras = registry.cameras();
    let cameras = || cameras.iter().map(|(name, camera)| (("camera", &**name), &**camera));
    let latency = cameras().map(|(label, camera)| ([label], camera.latency()));
    out.histogram("ocelli_latency_seconds", "Time from decoded frame to result.", latency)?;
    let stages = cameras().flat_map(|(label, camera)| {
        camera.stages().map(move |(stage, histogram)| ([label, ("stage", stage)], histogram))
    });
    let help = "Time of one frame in one stage: wait for the detector, preprocess, infer in the session, postprocess.";
    out.histogram("ocelli_stage_duration_seconds", help, stages)
}

fn counts(out: &mut Metrics<'_>, registry: &Registry, mqtt_connected: Option<bool>) -> Result {
    let errors = registry.counter(Count::DetectErrors);
    out.counter("ocelli_detect_errors", "Frames that the detector failed on.", [(ALONE, errors)])?;
    let jsonl = registry.counter(Count::JsonlDropped);
    let help = "Lines not written to the JSON Lines file: the disk was too slow or full.";
    out.counter("ocelli_jsonl_dropped", help, [(ALONE, jsonl)])?;
    let Some(connected) = mqtt_connected else { return Ok(()) };
    out.gauge("ocelli_mqtt_connected", "1 while the MQTT session is up.", [(ALONE, u64::from(connected))])?;
    let reasons = [("queue", Count::MqttDropped), ("oversize", Count::MqttOversize)];
    let dropped = reasons.map(|(reason, count)| ([("reason", reason)], registry.counter(count)));
    let help = "MQTT messages not sent: the queue was full or the broker away (queue), or too large (oversize).";
    out.counter("ocelli_mqtt_dropped", help, dropped)
}

/// What the operating system knows of this process; what cannot be read is left out.
fn process(out: &mut Metrics<'_>) -> Result {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name| -> Option<u64> {
        status.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
    };
    let memory = field("VmRSS:").map(|kib| (ALONE, kib * 1024));
    out.gauge("process_resident_memory_bytes", "Resident memory.", memory)?;
    let files = std::fs::read_dir("/proc/self/fd").ok().map(|entries| (ALONE, entries.count()));
    out.gauge("process_open_fds", "Open file descriptors.", files)?;
    out.gauge("process_threads", "Threads.", field("Threads:").map(|count| (ALONE, count)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::print_stderr)]

    use std::collections::BTreeSet;
    use std::io::Write as _;
    use std::process::{Command, Stdio};
    use std::sync::Arc;
    use std::time::{Duration, Instant, SystemTime};

    use super::*;
    use crate::types::{BackendInfo, BackendKind, CameraStatus, FrameMeta, FrameResult, Latency, ModelId, Size};

    fn page() -> String {
        let registry = Registry::new("node1");
        let model = ModelId { name: "my \"best\"\nmodel\\".into(), sha256: "ab".into(), labels: vec![] };
        let model = Arc::new(model);
        let backend = BackendInfo {
            kind: BackendKind::Cpu,
            version: "ONNX Runtime 1.24".into(),
            fallbacks: vec![],
            nodes: Default::default(),
        };
        registry.model_ready(model.clone(), backend);
        for camera in ["gate", "dock"] {
            let (state, since) = (CameraState::Online, SystemTime::now());
            registry.camera_status(&CameraStatus { camera: camera.into(), state, since, reason: None, retries: 0 });
        }
        let gate = registry.camera(&"gate".into());
        gate.frame();
        gate.result(&FrameResult {
            meta: FrameMeta {
                camera: "gate".into(),
                seq: 0,
                pts_ns: 0,
                captured_at: SystemTime::now(),
                captured: Instant::now(),
                size: Size::new(4, 4),
            },
            model,
            backend: BackendKind::Cpu,
            batch: 2,
            detections: vec![],
            latency: Latency {
                infer: Duration::from_millis(40),
                total: Duration::from_millis(60),
                ..Latency::default()
            },
        });
        registry.mqtt_connected(true);
        registry.count(Count::MqttDropped, 7);
        registry.count(Count::JsonlDropped, 2);
        registry.prometheus()
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
            r#"ocelli_latency_seconds_bucket{camera="gate",le="0.05"} 0"#,
            r#"ocelli_latency_seconds_bucket{camera="gate",le="0.1"} 1"#,
            r#"ocelli_latency_seconds_sum{camera="gate"} 0.06"#,
            r#"ocelli_latency_seconds_count{camera="dock"} 0"#,
            r#"ocelli_stage_duration_seconds_bucket{camera="gate",stage="infer",le="0.025"} 0"#,
            r#"ocelli_stage_duration_seconds_bucket{camera="gate",stage="infer",le="+Inf"} 1"#,
        ] {
            assert!(page.lines().any(|have| have == line), "{line} is missing in\n{page}");
        }
    }

    #[test]
    fn each_series_belongs_to_the_metric_announced_above_it() {
        let page = page();
        let mut announced = BTreeSet::new();
        let (mut current, mut histogram) = ("", false);
        for line in page.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                (current, histogram) = (name, kind == "histogram");
                assert!(announced.insert(current), "{current} is announced twice");
            } else if !line.starts_with('#') {
                let name = line.split(['{', ' ']).next().unwrap();
                let suffix = name.strip_prefix(current).unwrap();
                assert!(suffix.is_empty() || (histogram && ["_bucket", "_sum", "_count"].contains(&suffix)), "{line}");
                assert!(line.rsplit(' ').next().unwrap().parse::<f64>().is_ok(), "{line}");
            }
        }
    }

    #[test]
    fn what_is_not_known_has_no_series() {
        let page = Registry::new("n").prometheus();
        for absent in ["ocelli_model_info", "ocelli_camera_up", "ocelli_mqtt_connected", "latency"] {
            assert!(!page.contains(absent), "{page}");
        }
    }

    /// Prometheus' own check of names, types and help texts.
    #[test]
    fn promtool_has_no_complaint() {
        let promtool = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let Ok(mut promtool) = promtool else {
            eprintln!("SKIPPED: promtool is not installed (package prometheus)");
            return;
        };
        promtool.stdin.take().unwrap().write_all(page().as_bytes()).unwrap();
        let output = promtool.wait_with_output().unwrap();
        let complaints = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && complaints.trim().is_empty(), "{complaints}");
    }
}
