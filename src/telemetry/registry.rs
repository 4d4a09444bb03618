//! What the process knows about itself. Clones of [`Registry`] share it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use super::camera::{CameraMetrics, Progress};
use super::health::{self, Health, MqttHealth};
use super::stats::{EngineReport, EngineStats, ModelStats, Reload, StatsSnapshot};
use crate::types::{BackendInfo, CameraName, CameraStatus, DEFAULT_MODEL, EngineState, EngineStatus, ModelId};

/// Counters of the whole process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    DetectErrors,
    JsonlDropped,
    MqttDropped,
    MqttOversize,
}

impl Count {
    pub(super) const ALL: [Self; 4] = [Self::DetectErrors, Self::JsonlDropped, Self::MqttDropped, Self::MqttOversize];

    /// The name in the statistics.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::DetectErrors => "detect_errors",
            Self::JsonlDropped => "jsonl_dropped",
            Self::MqttDropped => "mqtt_dropped",
            Self::MqttOversize => "mqtt_oversize",
        }
    }
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

    fn waits(&self) -> bool {
        matches!(self.status.state, EngineState::Loading | EngineState::Building)
    }
}

#[derive(Default)]
struct Inner {
    /// By the model's name in the configuration.
    engines: BTreeMap<String, Engine>,
    cameras: BTreeMap<CameraName, Arc<CameraMetrics>>,
    /// `None` where no broker is configured.
    mqtt: Option<MqttHealth>,
    node: String,
    /// What is wrong besides models, cameras and broker: one sentence by topic.
    faults: BTreeMap<&'static str, String>,
    reload: Option<Reload>,
}

impl Inner {
    fn reports(&self) -> BTreeMap<String, EngineReport> {
        self.engines.iter().map(|(name, engine)| (name.clone(), engine.report())).collect()
    }

    /// A model that is not known is not loaded yet.
    fn engine_waits(&self, model: &str) -> bool {
        self.engines.get(model).is_none_or(Engine::waits)
    }
}

#[derive(Clone)]
pub struct Registry {
    inner: Arc<Mutex<Inner>>,
    counts: Arc<[AtomicU64; Count::ALL.len()]>,
    started: Instant,
}

impl Registry {
    /// An empty registry for the box `node`.
    pub fn new(node: &str) -> Self {
        let inner = Inner { node: node.to_owned(), ..Inner::default() };
        Self { inner: Arc::new(Mutex::new(inner)), counts: Arc::default(), started: Instant::now() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The counters of a camera, made when it is new. Its threads keep the handle: nothing is looked up per frame.
    pub fn camera(&self, name: &CameraName) -> Arc<CameraMetrics> {
        self.lock().cameras.entry(name.clone()).or_insert_with(|| Arc::new(CameraMetrics::new())).clone()
    }

    /// A camera is no longer configured. Handles that are still held count into nothing.
    pub fn forget(&self, camera: &CameraName) {
        self.lock().cameras.remove(camera);
    }

    pub fn camera_status(&self, status: &CameraStatus) {
        self.camera(&status.camera).status(status);
    }

    /// How far the threads of all cameras have come; cameras without a thread are left out.
    pub fn progress(&self) -> Vec<(CameraName, Progress)> {
        let inner = self.lock();
        let progress = |camera: &CameraMetrics| camera.read_progress(|model| inner.engine_waits(model));
        inner.cameras.iter().filter_map(|(name, camera)| Some((name.clone(), progress(camera)?))).collect()
    }

    /// True while no frame can be inferred by `model` for a reason that is known and ends: its engine is being loaded or
    /// built.
    pub fn engine_waits(&self, model: &str) -> bool {
        self.lock().engine_waits(model)
    }

    /// Whether every model that is used has run at least one inference.
    pub fn all_models_have_run(&self) -> bool {
        self.lock().engines.values().all(|engine| engine.model.is_some())
    }

    /// The default model is loaded and `backend` has run it.
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

    /// The engine that runs `model`, which the configuration calls `name`, has changed its state.
    pub fn engine_status(&self, name: &str, model: &Arc<ModelId>, status: &EngineStatus) {
        let mut inner = self.lock();
        let engine = inner.engines.entry(name.to_owned()).or_default();
        if let Some(backend) = &status.backend {
            engine.model = Some((model.clone(), backend.clone()));
        }
        engine.status.clone_from(status);
    }

    pub fn set_node(&self, node: &str) {
        self.lock().node = node.to_owned();
    }

    /// Reports a fault that is neither a model's, a camera's nor the broker's; `None` when it is over. `sentence` is shown
    /// in health.
    pub fn fault(&self, topic: &'static str, sentence: Option<String>) {
        let mut inner = self.lock();
        match sentence {
            Some(sentence) => inner.faults.insert(topic, sentence),
            None => inner.faults.remove(topic),
        };
    }

    /// A reload of the configuration succeeded or was refused.
    pub fn reloaded(&self, success: bool) {
        let at = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        self.lock().reload = Some(Reload { success, at });
    }

    pub fn count(&self, which: Count, add: u64) {
        self.counts[which as usize].fetch_add(add, Ordering::Relaxed);
    }

    pub fn counter(&self, which: Count) -> u64 {
        self.counts[which as usize].load(Ordering::Relaxed)
    }

    /// The MQTT session is up or down. The reason of an earlier failure stays until it is up again.
    pub fn mqtt_connected(&self, connected: bool) {
        let mqtt = &mut self.lock().mqtt;
        let reason = mqtt.take().and_then(|mqtt| mqtt.reason).filter(|_| !connected);
        *mqtt = Some(MqttHealth { connected, reason });
    }

    /// The MQTT session is down for `reason`.
    pub fn mqtt_failed(&self, reason: String) {
        self.lock().mqtt = Some(MqttHealth { connected: false, reason: Some(reason) });
    }

    /// No broker is configured any more.
    pub fn no_mqtt(&self) {
        self.lock().mqtt = None;
    }

    /// Whether everything works, and if not, why.
    pub fn health(&self) -> Health {
        let inner = self.lock();
        let cameras = inner.cameras.iter().map(|(name, camera)| (name.to_string(), camera.health())).collect();
        Health::new(inner.reports(), cameras, inner.mqtt.clone(), inner.faults.values().cloned().collect())
    }

    /// Everything at once.
    pub fn snapshot(&self) -> StatsSnapshot {
        let inner = self.lock();
        let models = inner.reports();
        let (model, engine) = health::first(&models);
        let counts = Count::ALL.iter().map(|count| (count.name().to_owned(), self.counter(*count)));
        StatsSnapshot {
            v: 1,
            node: inner.node.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            uptime_s: self.started.elapsed().as_secs(),
            model,
            engine,
            models,
            cameras: inner.cameras.iter().map(|(name, camera)| (name.to_string(), camera.stats())).collect(),
            mqtt_connected: inner.mqtt.as_ref().map(|mqtt| mqtt.connected),
            reload: inner.reload.clone(),
            counters: counts.filter(|(_, count)| *count > 0).collect(),
        }
    }

    pub(super) fn cameras(&self) -> Vec<(CameraName, Arc<CameraMetrics>)> {
        self.lock().cameras.iter().map(|(name, camera)| (name.clone(), camera.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::telemetry::HealthStatus;
    use crate::types::{BackendKind, Detection, FrameMeta, FrameResult, Latency, PixelBox, Size};

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

    fn result(model: &Arc<ModelId>) -> FrameResult {
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
            latency: Latency::default(),
        }
    }

    #[test]
    fn what_was_counted_is_shown() {
        let registry = Registry::new("node1");
        let model = model(&registry);
        let gate = registry.camera(&"gate".into());
        gate.frame();
        gate.frames_dropped(3);
        gate.result(&result(&model));
        registry.count(Count::MqttDropped, 2);
        registry.count(Count::MqttDropped, 3);
        let stats = registry.snapshot();
        let camera = &stats.cameras["gate"];
        assert_eq!((camera.frames, camera.frames_dropped, camera.results, camera.detections), (1, 3, 1, 2));
        assert_eq!(stats.counters, [("mqtt_dropped".to_owned(), 5)].into());
        assert_eq!((registry.counter(Count::MqttDropped), registry.counter(Count::DetectErrors)), (5, 0));
        assert_eq!(stats.model.unwrap().backend, "tract");
        assert_eq!((stats.node.as_str(), stats.mqtt_connected), ("node1", None));
    }

    #[test]
    fn a_camera_waits_for_the_engine_of_its_own_model_only() {
        let registry = Registry::new("node1");
        let id = model(&registry);
        registry.use_models(&["default".into(), "plates".into()]);
        assert!(!registry.all_models_have_run());
        let camera = |name: &str, model| registry.camera(&name.into()).detects_with(model);
        camera("gate", Some("default"));
        camera("dock", Some("plates"));
        camera("yard", None);
        registry.camera(&"gate".into()).progress(Progress { turns: 3, taken: 2, finished: 1, engine_waits: false });
        let waits = |registry: &Registry| {
            let progress = registry.progress().into_iter();
            progress.map(|(name, progress)| (name.to_string(), progress.engine_waits)).collect::<Vec<_>>()
        };
        assert_eq!(waits(&registry), [("dock".to_owned(), true), ("gate".to_owned(), false)]);
        let gate = registry.progress()[1].1;
        assert_eq!((gate.turns, gate.taken, gate.finished), (3, 2, 1));
        let building = EngineStatus { state: EngineState::Building, ..EngineStatus::default() };
        registry.engine_status("default", &id, &building);
        let (state, backend) = (EngineState::Serving, registry.lock().engines["default"].model.clone().unwrap().1);
        registry.engine_status(
            "plates",
            &id,
            &EngineStatus { state, backend: Some(backend), ..EngineStatus::default() },
        );
        assert_eq!(waits(&registry), [("dock".to_owned(), false), ("gate".to_owned(), true)]);
        assert!(registry.all_models_have_run() && registry.engine_waits("none"));
    }

    #[test]
    fn a_thread_that_outlives_its_camera_does_not_bring_it_back() {
        let registry = Registry::new("node1");
        let gate = registry.camera(&"gate".into());
        registry.forget(&"gate".into());
        gate.frame();
        gate.detects_with(None);
        assert!(registry.snapshot().cameras.is_empty());
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
