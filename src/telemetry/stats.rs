//! The parts of the statistics and of health, as JSON shows them. Comments on fields are the descriptions in the schema.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::types::{BackendInfo, CameraState, EngineState, EngineStatus, ModelId, SessionLayout};

/// A model and the backend that runs it.
#[derive(Debug, Clone, Serialize, schemars::JsonSchema)]
pub struct ModelStats {
    /// Name of the model.
    pub name: String,
    /// SHA-256 of the file.
    pub sha256: String,
    /// `tensorrt`, `cuda`, `openvino`, `cpu` or `tract`: the one that runs, not the one in the configuration.
    pub backend: String,
    /// Version of the backend.
    pub backend_version: String,
    /// Why each backend before it in the fallback order is not used; empty when the first one runs.
    pub fallbacks: Vec<String>,
    /// Nodes of the graph by execution provider, as found in the warm-up; empty where there is only one provider.
    pub nodes: BTreeMap<String, usize>,
}

impl ModelStats {
    pub(super) fn new(model: &ModelId, backend: &BackendInfo) -> Self {
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

/// One camera's state and counters since the start.
#[derive(Debug, Clone, Serialize, schemars::JsonSchema)]
pub struct CameraStats {
    /// Current state.
    pub state: CameraState,
    /// RFC 3339 time of the last change of state.
    pub since: String,
    /// Why it is in that state; `null` when there is nothing to say.
    pub reason: Option<String>,
    /// Failed attempts since it was last online.
    pub retries: u32,
    /// Times that it was lost after having been online.
    pub reconnects: u64,
    /// Frames decoded.
    pub frames: u64,
    /// Frames with a result.
    pub results: u64,
    /// Frames decoded but not given to the detector.
    pub frames_dropped: u64,
    /// Objects found.
    pub detections: u64,
    /// Frames decoded per second, over the last 10 s.
    pub fps: f64,
    /// Results per second, over the last 10 s.
    pub detect_fps: f64,
    /// Median time in the session over the last 256 results, ms.
    pub infer_ms_p50: Option<f64>,
    /// Median batch over the same results, in frames.
    pub batch_p50: Option<f64>,
    /// Median time from decoded frame to result over the same results, ms.
    pub latency_ms_p50: Option<f64>,
    /// 99th percentile of the same, ms.
    pub latency_ms_p99: Option<f64>,
}

/// What `…/stats` and `/api/v1/stats` show.
#[derive(Debug, Clone, Serialize, schemars::JsonSchema)]
pub struct StatsSnapshot {
    /// Version of this format.
    pub v: u32,
    /// Name of this box.
    pub node: String,
    /// Version of Ocelli.
    pub version: String,
    /// Seconds since the start.
    pub uptime_s: u64,
    /// The default model, or the first one by name; `null` until it has run. All of them: `models`.
    pub model: Option<ModelStats>,
    /// The inference engine of that model.
    pub engine: EngineStats,
    /// All models in use, by their names in the configuration; `default` is that of `model:`.
    pub models: BTreeMap<String, EngineReport>,
    /// Cameras by name.
    pub cameras: BTreeMap<String, CameraStats>,
    /// `null` when no broker is configured.
    pub mqtt_connected: Option<bool>,
    /// The last reload of the configuration; `null` before the first.
    pub reload: Option<Reload>,
    /// Counters of the whole process that are not 0, for example `mqtt_dropped`.
    pub counters: BTreeMap<String, u64>,
}

/// One camera's state.
#[derive(Debug, Clone, Serialize, schemars::JsonSchema)]
pub struct CameraHealth {
    /// Current state.
    pub state: CameraState,
    /// RFC 3339 time of the last change of state.
    pub since: String,
    /// Why it is in that state; `null` when there is nothing to say.
    pub reason: Option<String>,
    /// Failed attempts since it was last online.
    pub retries: u32,
}

/// The last reload of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct Reload {
    /// `false`: it was refused, and the old configuration is in force.
    pub success: bool,
    /// RFC 3339 time.
    pub at: String,
}

/// A GPU engine that is being built.
#[derive(Debug, Clone, PartialEq, Serialize, schemars::JsonSchema)]
pub struct BuildStats {
    /// The backend that it is for: `tensorrt`.
    pub backend: String,
    /// Current phase of the build.
    pub phase: String,
    /// Seconds since the start of the build.
    pub elapsed_s: u64,
    /// Seconds that the same build took before; `null`: not known.
    pub expected_s: Option<u64>,
}

/// A session layout: sessions × threads.
#[derive(Debug, Clone, PartialEq, Serialize, schemars::JsonSchema)]
pub struct DivisionStats {
    /// Sessions that run side by side, each on its own frames.
    pub sessions: usize,
    /// Threads of each session.
    pub threads: usize,
    /// Frames per second, measured when the model was loaded; `null`: not measured.
    pub frames_per_s: Option<f64>,
}

impl DivisionStats {
    fn new(division: &SessionLayout) -> Self {
        let rate = division.per_frame.map(|time| (10.0 / time.as_secs_f64().max(1e-9)).round() / 10.0);
        Self { sessions: division.sessions, threads: division.threads, frames_per_s: rate }
    }
}

/// A model and its inference engine.
#[derive(Debug, Clone, Serialize, schemars::JsonSchema)]
pub struct EngineReport {
    /// The model; `null` until it has run.
    pub model: Option<ModelStats>,
    /// Its inference engine.
    pub engine: EngineStats,
}

/// State of an inference engine.
#[derive(Debug, Clone, PartialEq, Serialize, schemars::JsonSchema)]
pub struct EngineStats {
    /// `loading`, `building`, `serving`, `degraded` or `failed`.
    pub state: EngineState,
    /// Why it is degraded or has failed.
    pub reason: Option<String>,
    /// The build of a GPU engine, while there is one.
    pub build: Option<BuildStats>,
    /// The session layout in use; `null` before anything runs.
    pub division: Option<DivisionStats>,
    /// The slower session layout, where two were measured.
    pub division_not_taken: Option<DivisionStats>,
}

impl EngineStats {
    pub(super) fn new(status: &EngineStatus) -> Self {
        let build = status.build.as_ref().map(|build| BuildStats {
            backend: build.backend.to_string(),
            phase: build.phase.clone(),
            elapsed_s: build.elapsed.as_secs(),
            expected_s: build.expected.map(|expected| expected.as_secs()),
        });
        let mut layouts = status.layouts.iter().map(DivisionStats::new);
        let (division, division_not_taken) = (layouts.next(), layouts.next());
        Self { state: status.state, reason: status.reason.clone(), build, division, division_not_taken }
    }

    /// Whether frames are inferred.
    pub(super) fn serves(&self) -> bool {
        self.state == EngineState::Serving
    }

    /// Why frames are not inferred normally, as a sentence; `true`: a fault, `false`: part of a normal start.
    pub(super) fn trouble(&self) -> Option<(String, bool)> {
        let because = self.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        match self.state {
            EngineState::Serving => None,
            EngineState::Loading if self.reason.is_none() => Some(("the model is not loaded yet".into(), false)),
            EngineState::Loading => Some((format!("frames wait for the next backend{because}"), true)),
            EngineState::Building => Some((self.building(), false)),
            EngineState::Degraded => Some((format!("inference fails{because}"), true)),
            EngineState::Failed => Some((format!("inference has ended{because}"), true)),
        }
    }

    fn building(&self) -> String {
        match &self.build {
            None => "the GPU engine is being built".into(),
            Some(BuildStats { backend, phase, elapsed_s, expected_s }) => {
                let expected = expected_s.map(|expected| format!(" of about {expected} s")).unwrap_or_default();
                format!("the {backend} engine is being built ({phase}, {elapsed_s} s{expected})")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::types::{BackendKind, BuildProgress};

    #[test]
    fn each_state_has_its_words() {
        let status = |state, reason: Option<&str>| EngineStatus {
            state,
            reason: reason.map(Into::into),
            ..EngineStatus::default()
        };
        let trouble = |status: &EngineStatus| EngineStats::new(status).trouble();
        assert_eq!(trouble(&status(EngineState::Serving, None)), None);
        assert_eq!(trouble(&status(EngineState::Loading, None)), Some(("the model is not loaded yet".into(), false)));
        assert!(trouble(&status(EngineState::Loading, Some("cuda failed"))).is_some_and(|(_, fault)| fault));
        let (words, fault) = trouble(&status(EngineState::Degraded, Some("cpu: no memory"))).unwrap_or_default();
        assert_eq!((words.as_str(), fault), ("inference fails: cpu: no memory", true));
        let build = BuildProgress {
            backend: BackendKind::Tensorrt,
            phase: "optimising".into(),
            elapsed: Duration::from_secs(37),
            expected: Some(Duration::from_secs(240)),
        };
        let building = EngineStatus { build: Some(build), ..status(EngineState::Building, None) };
        let words = "the tensorrt engine is being built (optimising, 37 s of about 240 s)";
        assert_eq!(trouble(&building), Some((words.into(), false)));
    }
}
