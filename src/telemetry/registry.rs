//! One registry per process. Cheap to update from every thread: one short lock per frame and camera.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;

use super::health::{self, CameraHealth, Health, MqttHealth};
use super::{EngineReport, EngineStats};
use crate::types::{
    BackendInfo, CameraName, CameraState, CameraStatus, DEFAULT_MODEL, EngineState, EngineStatus, FrameResult, ModelId,
};

/// Latency samples kept per camera for the percentiles.
const WINDOW: usize = 256;

struct Camera {
    state: CameraState,
    since: SystemTime,
    reason: Option<String>,
    retries: u32,
    reconnects: u64,
    frames: u64,
    results: u64,
    dropped: u64,
    detections: u64,
    last_frame: Option<Instant>,
    /// Results counted at the previous snapshot, and when it was taken: gives the rate.
    rate_base: (Instant, u64, u64),
    fps: (f64, f64),
    total_ms: Vec<f32>,
    infer_ms: Vec<f32>,
    /// Frames that ran together with each of the same frames.
    batches: Vec<f32>,
    cursor: usize,
    /// `None` while no thread detects for this camera.
    beat: Option<Beat>,
}

/// A model and its engine.
#[derive(Default)]
struct Engine {
    model: Option<(Arc<ModelId>, BackendInfo)>,
    status: EngineStatus,
}

impl Engine {
    fn report(&self) -> EngineReport {
        let model = self.model.as_ref().map(|(model, backend)| ModelStats::new(model, backend));
        EngineReport { model, engine: EngineStats::new(&self.status) }
    }
}

struct Inner {
    /// By the model's name in the configuration.
    engines: BTreeMap<String, Engine>,
    cameras: BTreeMap<CameraName, Camera>,
    counters: BTreeMap<&'static str, u64>,
    mqtt_connected: Option<bool>,
    mqtt_error: Option<String>,
    node: Arc<str>,
    /// What is wrong besides model, cameras and broker: by topic, one sentence for people.
    faults: BTreeMap<&'static str, String>,
    reload: Option<Reload>,
}

/// How the last reload of the configuration went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct Reload {
    /// Whether it was taken over; `false`: the old configuration is in force.
    pub success: bool,
    /// RFC 3339 time of it.
    pub at: String,
}

/// How far a camera's thread has come. Counters only grow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beat {
    /// The name of its model in the configuration.
    pub model: Arc<str>,
    /// Rounds of its loop; one takes a quarter of a second at most.
    pub turns: u64,
    /// Frames given to the detector.
    pub taken: u64,
    /// Frames that came back from it, with a result or an error.
    pub finished: u64,
}

/// The registry; clones share it.
#[derive(Clone)]
pub struct Registry {
    inner: Arc<Mutex<Inner>>,
    started: Instant,
}

impl Registry {
    /// An empty registry for the box `node`.
    pub fn new(node: &str) -> Self {
        Self {
            inner: Arc::new(Mutex::new(Inner {
                engines: BTreeMap::new(),
                cameras: BTreeMap::new(),
                counters: BTreeMap::new(),
                mqtt_connected: None,
                mqtt_error: None,
                node: node.into(),
                faults: BTreeMap::new(),
                reload: None,
            })),
            started: Instant::now(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The model is loaded and `backend` has run it.
    pub fn model_ready(&self, model: Arc<ModelId>, backend: BackendInfo) {
        let state = EngineState::Serving;
        let status = EngineStatus { state, backend: Some(backend), ..EngineStatus::default() };
        self.engine_status(DEFAULT_MODEL, &model, &status);
    }

    /// These models are used from now on, and no others.
    pub fn use_models(&self, names: &[String]) {
        let mut inner = self.lock();
        inner.engines.retain(|name, _| names.contains(name));
        for name in names {
            inner.engines.entry(name.clone()).or_default();
        }
    }

    /// The state of the engine has changed that runs `model`, which the configuration calls `name`.
    pub fn engine_status(&self, name: &str, model: &Arc<ModelId>, status: &EngineStatus) {
        let mut inner = self.lock();
        let engine = inner.engines.entry(name.to_owned()).or_default();
        if let Some(backend) = &status.backend {
            engine.model = Some((model.clone(), backend.clone()));
        }
        engine.status.clone_from(status);
    }

    /// From now on this box is called `node`.
    pub fn set_node(&self, node: &str) {
        self.lock().node = node.into();
    }

    /// Something is wrong that is neither model, camera nor broker: `topic` names it, `sentence` tells people; `None` when
    /// it is well again.
    pub fn fault(&self, topic: &'static str, sentence: Option<String>) {
        let mut inner = self.lock();
        match sentence {
            Some(sentence) => inner.faults.insert(topic, sentence),
            None => inner.faults.remove(topic),
        };
    }

    /// A reload of the configuration went well, or was refused.
    pub fn reloaded(&self, success: bool) {
        let at = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        self.lock().reload = Some(Reload { success, at });
    }

    /// A camera is no longer configured.
    pub fn forget(&self, camera: &CameraName) {
        self.lock().cameras.remove(camera);
    }

    /// How far the camera's thread has come; `None` when it has ended.
    pub fn beat(&self, camera: &CameraName, beat: Option<Beat>) {
        let mut inner = self.lock();
        // A thread that ends after its camera was forgotten does not bring it back.
        if beat.is_some() || inner.cameras.contains_key(camera) {
            inner.camera(camera).beat = beat;
        }
    }

    /// True while the engine of `model` cannot finish a frame for a known reason that ends: its backend is being loaded or
    /// built.
    pub fn engine_waits(&self, model: &str) -> bool {
        let state = self.lock().engines.get(model).map(|engine| engine.status.state);
        matches!(state, None | Some(EngineState::Loading | EngineState::Building))
    }

    /// True once each model that is used has run at least once.
    pub fn all_models_have_run(&self) -> bool {
        self.lock().engines.values().all(|engine| engine.model.is_some())
    }

    /// How far the threads of all cameras have come; those without a thread are left out.
    pub fn beats(&self) -> Vec<(CameraName, Beat)> {
        self.lock().cameras.iter().filter_map(|(name, camera)| Some((name.clone(), camera.beat.clone()?))).collect()
    }

    /// A camera's state changed.
    pub fn camera_status(&self, status: &CameraStatus) {
        let mut inner = self.lock();
        let camera = inner.camera(&status.camera);
        if camera.state == CameraState::Online && status.state != CameraState::Online {
            camera.reconnects += u64::from(!matches!(status.state, CameraState::Ended | CameraState::Disabled));
        }
        camera.state = status.state;
        camera.since = status.since;
        camera.reason.clone_from(&status.reason);
        camera.retries = status.retries;
    }

    /// A frame came from the decoder.
    pub fn frame(&self, camera: &CameraName) {
        let mut inner = self.lock();
        let camera = inner.camera(camera);
        camera.frames += 1;
        camera.last_frame = Some(Instant::now());
    }

    /// `count` frames went by without detection because a newer one was there.
    pub fn frames_dropped(&self, camera: &CameraName, count: u64) {
        self.lock().camera(camera).dropped += count;
    }

    /// A frame's result is ready.
    pub fn result(&self, result: &FrameResult) {
        let mut inner = self.lock();
        let camera = inner.camera(&result.meta.camera);
        camera.results += 1;
        camera.detections += result.detections.len() as u64;
        let (total, infer) = (ms(result.latency.total), ms(result.latency.infer));
        let batch = result.batch as f32;
        if camera.total_ms.len() < WINDOW {
            camera.total_ms.push(total);
            camera.infer_ms.push(infer);
            camera.batches.push(batch);
        } else {
            let at = camera.cursor % WINDOW;
            camera.total_ms[at] = total;
            camera.infer_ms[at] = infer;
            camera.batches[at] = batch;
        }
        camera.cursor = camera.cursor.wrapping_add(1);
    }

    /// Adds to a process-wide counter such as `mqtt_dropped`.
    pub fn count(&self, name: &'static str, add: u64) {
        *self.lock().counters.entry(name).or_default() += add;
    }

    /// A process-wide counter; 0 when nothing was ever added.
    pub fn counter(&self, name: &str) -> u64 {
        self.lock().counters.get(name).copied().unwrap_or_default()
    }

    /// The MQTT session is up or down.
    pub fn mqtt_connected(&self, connected: bool) {
        let mut inner = self.lock();
        inner.mqtt_connected = Some(connected);
        if connected {
            inner.mqtt_error = None;
        }
    }

    /// There is no broker any more.
    pub fn no_mqtt(&self) {
        let mut inner = self.lock();
        inner.mqtt_connected = None;
        inner.mqtt_error = None;
    }

    /// The MQTT session is down, and why, for people; stays until it is up again.
    pub fn mqtt_failed(&self, reason: String) {
        let mut inner = self.lock();
        inner.mqtt_connected = Some(false);
        inner.mqtt_error = Some(reason);
    }

    /// Time since the last decoded frame of `camera`.
    pub fn since_last_frame(&self, camera: &CameraName) -> Option<Duration> {
        self.lock().cameras.get(camera).and_then(|c| c.last_frame).map(|at| at.elapsed())
    }

    /// Whether all is well, and if not, why. Unlike a snapshot it leaves the rates alone, so it may be asked at any pace.
    pub fn health(&self) -> Health {
        let inner = self.lock();
        Health::new(
            inner.reports(),
            inner.cameras.iter().map(|(name, camera)| (name.to_string(), camera.health())).collect(),
            inner.mqtt_connected.map(|connected| MqttHealth { connected, reason: inner.mqtt_error.clone() }),
            inner.faults.values().cloned().collect(),
        )
    }

    /// Everything at once. Rates are those since the previous snapshot that is at least a second old.
    pub fn snapshot(&self) -> StatsSnapshot {
        let mut inner = self.lock();
        let now = Instant::now();
        let cameras = inner.cameras.iter_mut().map(|(name, camera)| (name.to_string(), camera.stats(now))).collect();
        let models = inner.reports();
        let (model, engine) = health::first(&models);
        StatsSnapshot {
            v: 1,
            node: inner.node.to_string(),
            version: env!("CARGO_PKG_VERSION").into(),
            uptime_s: self.started.elapsed().as_secs(),
            model,
            engine,
            models,
            cameras,
            mqtt_connected: inner.mqtt_connected,
            reload: inner.reload.clone(),
            counters: inner.counters.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect(),
        }
    }
}

impl Inner {
    fn reports(&self) -> BTreeMap<String, EngineReport> {
        self.engines.iter().map(|(name, engine)| (name.clone(), engine.report())).collect()
    }

    fn camera(&mut self, name: &CameraName) -> &mut Camera {
        self.cameras.entry(name.clone()).or_insert_with(Camera::new)
    }
}

impl Camera {
    fn new() -> Self {
        Self {
            state: CameraState::Connecting,
            since: SystemTime::now(),
            reason: None,
            retries: 0,
            reconnects: 0,
            frames: 0,
            results: 0,
            dropped: 0,
            detections: 0,
            last_frame: None,
            rate_base: (Instant::now(), 0, 0),
            fps: (0.0, 0.0),
            total_ms: Vec::with_capacity(WINDOW),
            infer_ms: Vec::with_capacity(WINDOW),
            batches: Vec::with_capacity(WINDOW),
            cursor: 0,
            beat: None,
        }
    }

    fn health(&self) -> CameraHealth {
        CameraHealth {
            state: self.state,
            since: humantime::format_rfc3339_millis(self.since).to_string(),
            reason: self.reason.clone(),
            retries: self.retries,
        }
    }

    fn stats(&mut self, now: Instant) -> CameraStats {
        let (since, frames, results) = self.rate_base;
        let seconds = now.duration_since(since).as_secs_f64();
        if seconds >= 1.0 {
            self.fps = ((self.frames - frames) as f64 / seconds, (self.results - results) as f64 / seconds);
            self.rate_base = (now, self.frames, self.results);
        }
        CameraStats {
            state: self.state,
            since: humantime::format_rfc3339_millis(self.since).to_string(),
            reason: self.reason.clone(),
            retries: self.retries,
            reconnects: self.reconnects,
            frames: self.frames,
            results: self.results,
            frames_dropped: self.dropped,
            detections: self.detections,
            fps: round2(self.fps.0),
            detect_fps: round2(self.fps.1),
            infer_ms_p50: percentile(&self.infer_ms, 0.50),
            batch_p50: percentile(&self.batches, 0.50),
            latency_ms_p50: percentile(&self.total_ms, 0.50),
            latency_ms_p99: percentile(&self.total_ms, 0.99),
        }
    }
}

fn ms(duration: Duration) -> f32 {
    duration.as_secs_f32() * 1e3
}

fn round2(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

fn percentile(samples: &[f32], share: f64) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f32::total_cmp);
    let at = (sorted.len().checked_sub(1)? as f64 * share).round() as usize;
    sorted.get(at).map(|v| round2(f64::from(*v)))
}

/// The model that runs, and what really runs it.
#[derive(Debug, Clone, Serialize, schemars::JsonSchema)]
pub struct ModelStats {
    /// Name.
    pub name: String,
    /// SHA-256 of the file.
    pub sha256: String,
    /// `tensorrt`, `cuda`, `openvino`, `cpu` or `tract`: the one that ran, not the one asked for.
    pub backend: String,
    /// Its version.
    pub backend_version: String,
    /// Why a better backend was not taken; empty when the best one runs.
    pub fallbacks: Vec<String>,
    /// Nodes of the graph by the provider that ran them, read back from the warm-up; empty where there is only one.
    pub nodes: BTreeMap<String, usize>,
}

impl ModelStats {
    fn new(model: &ModelId, backend: &BackendInfo) -> Self {
        Self {
            name: model.name.clone(),
            sha256: model.sha256.clone(),
            backend: backend.kind.to_string(),
            backend_version: backend.version.clone(),
            fallbacks: backend.fallbacks.clone(),
            nodes: backend.nodes.clone(),
        }
    }
}

/// One camera's numbers since the start.
#[derive(Debug, Clone, Serialize, schemars::JsonSchema)]
pub struct CameraStats {
    /// State now.
    pub state: CameraState,
    /// RFC 3339 time of the last change of state.
    pub since: String,
    /// Why.
    pub reason: Option<String>,
    /// Failed attempts since it was last online.
    pub retries: u32,
    /// Times that it was lost after having been online.
    pub reconnects: u64,
    /// Frames decoded.
    pub frames: u64,
    /// Frames detected.
    pub results: u64,
    /// Frames that went by without detection.
    pub frames_dropped: u64,
    /// Objects found.
    pub detections: u64,
    /// Frames decoded per second, since the last snapshot.
    pub fps: f64,
    /// Frames detected per second, since the last snapshot.
    pub detect_fps: f64,
    /// Median time in the session, ms.
    pub infer_ms_p50: Option<f64>,
    /// Median number of frames that ran together.
    pub batch_p50: Option<f64>,
    /// Median time from decoded frame to result, ms.
    pub latency_ms_p50: Option<f64>,
    /// 99th percentile of the same, ms.
    pub latency_ms_p99: Option<f64>,
}

/// What `…/stats` and `/api/v1/stats` show.
#[derive(Debug, Clone, Serialize, schemars::JsonSchema)]
pub struct StatsSnapshot {
    /// Version of this format.
    pub v: u32,
    /// This box.
    pub node: String,
    /// Version of Ocelli.
    pub version: String,
    /// Seconds since the start.
    pub uptime_s: u64,
    /// The model, once it has run. Of several the first one, see `models`.
    pub model: Option<ModelStats>,
    /// What its inference engine does.
    pub engine: EngineStats,
    /// All models that cameras use, by the name that the configuration gives them; `default` is that of `model:`.
    pub models: BTreeMap<String, EngineReport>,
    /// Cameras by name.
    pub cameras: BTreeMap<String, CameraStats>,
    /// `null` when no broker is configured.
    pub mqtt_connected: Option<bool>,
    /// The last reload of the configuration; `null` before the first.
    pub reload: Option<Reload>,
    /// Process-wide counters, for example `mqtt_dropped`.
    pub counters: BTreeMap<String, u64>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::telemetry::HealthStatus;
    use crate::types::{BackendKind, Detection, FrameMeta, Latency, PixelBox, Size};

    fn model(registry: &Registry) -> Arc<ModelId> {
        let model = Arc::new(ModelId { name: "m".into(), sha256: "ab".repeat(32), labels: vec!["person".into()] });
        let backend = BackendInfo {
            kind: BackendKind::Tract,
            version: "tract 0.23".into(),
            fallbacks: vec![],
            nodes: Default::default(),
        };
        registry.model_ready(model.clone(), backend);
        model
    }

    fn status(state: CameraState) -> CameraStatus {
        CameraStatus { camera: "gate".into(), state, since: SystemTime::now(), reason: None, retries: 0 }
    }

    fn result(model: &Arc<ModelId>, total_ms: u64) -> FrameResult {
        FrameResult {
            meta: FrameMeta {
                camera: "gate".into(),
                seq: 0,
                pts_ns: 0,
                captured_at: SystemTime::now(),
                captured: Instant::now(),
                size: Size::new(4, 4),
            },
            model: model.clone(),
            backend: BackendKind::Tract,
            batch: 1,
            detections: vec![Detection { class_id: 0, score: 0.5, bbox: PixelBox::default() }; 2],
            latency: Latency { total: Duration::from_millis(total_ms), ..Latency::default() },
        }
    }

    #[test]
    fn what_was_counted_is_shown() {
        let registry = Registry::new("node1");
        let model = model(&registry);
        let gate: CameraName = "gate".into();
        assert_eq!(registry.since_last_frame(&gate), None);
        registry.frame(&gate);
        registry.frames_dropped(&gate, 3);
        registry.result(&result(&model, 10));
        registry.count("mqtt_dropped", 2);
        registry.count("mqtt_dropped", 3);
        let stats = registry.snapshot();
        let camera = &stats.cameras["gate"];
        assert_eq!((camera.frames, camera.frames_dropped, camera.results, camera.detections), (1, 3, 1, 2));
        assert_eq!(stats.counters["mqtt_dropped"], 5);
        assert_eq!((registry.counter("mqtt_dropped"), registry.counter("none")), (5, 0));
        assert_eq!(stats.model.unwrap().backend, "tract");
        assert_eq!((stats.node.as_str(), stats.mqtt_connected), ("node1", None));
        assert!(registry.since_last_frame(&gate).is_some());
    }

    #[test]
    fn percentiles_come_from_the_newest_samples() {
        let registry = Registry::new("node1");
        let model = model(&registry);
        for _ in 0..WINDOW {
            registry.result(&result(&model, 500));
        }
        for ms in 1..=WINDOW as u64 {
            registry.result(&result(&model, ms));
        }
        let camera = registry.snapshot().cameras["gate"].clone();
        assert_eq!(camera.latency_ms_p50, Some(129.0));
        assert_eq!(camera.latency_ms_p99, Some(253.0));
    }

    #[test]
    fn a_reconnect_is_a_loss_after_having_been_online() {
        let registry = Registry::new("node1");
        for state in [CameraState::Connecting, CameraState::Offline, CameraState::Online, CameraState::Stalled] {
            registry.camera_status(&status(state));
        }
        registry.camera_status(&status(CameraState::Online));
        assert_eq!(registry.snapshot().cameras["gate"].reconnects, 1);
        registry.camera_status(&status(CameraState::Ended));
        assert_eq!(registry.snapshot().cameras["gate"].reconnects, 1, "the end of a file is no loss");
    }

    #[test]
    fn health_knows_why_the_broker_is_away() {
        let registry = Registry::new("node1");
        model(&registry);
        registry.mqtt_connected(false);
        registry.mqtt_failed("cannot be reached".into());
        let health = registry.health();
        assert_eq!(health.status, HealthStatus::Degraded);
        assert!(health.reasons.iter().any(|reason| reason.contains("cannot be reached")));
        registry.mqtt_connected(true);
        assert_eq!(registry.health().status, HealthStatus::Ok);
    }
}
