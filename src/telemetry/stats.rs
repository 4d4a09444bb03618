//! The parts of the statistics and of health, as JSON shows them. Comments on fields are the descriptions in the schema.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::types::{BackendInfo, CameraState, Division, EngineState, EngineStatus, ModelId};

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

/// One camera's state.
#[derive(Debug, Clone, Serialize, schemars::JsonSchema)]
pub struct CameraHealth {
    /// State now.
    pub state: CameraState,
    /// RFC 3339 time of the last change of state.
    pub since: String,
    /// Why.
    pub reason: Option<String>,
    /// Failed attempts since it was last online.
    pub retries: u32,
}

/// How the last reload of the configuration went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct Reload {
    /// Whether it was taken over; `false`: the old configuration is in force.
    pub success: bool,
    /// RFC 3339 time of it.
    pub at: String,
}

/// A GPU engine that is being built while something else serves, or nothing does.
#[derive(Debug, Clone, PartialEq, Serialize, schemars::JsonSchema)]
pub struct BuildStats {
    /// For which backend: `tensorrt`.
    pub backend: String,
    /// What the builder does now.
    pub phase: String,
    /// Seconds since its start.
    pub elapsed_s: u64,
    /// Seconds that the same build took the last time.
    pub expected_s: Option<u64>,
}

/// A way to divide the cores between inferences.
#[derive(Debug, Clone, PartialEq, Serialize, schemars::JsonSchema)]
pub struct DivisionStats {
    /// Sessions side by side, each on its own frames.
    pub sessions: usize,
    /// Threads of each.
    pub threads: usize,
    /// Rate on this machine, measured when the model was loaded; `null`: not measured.
    pub frames_per_s: Option<f64>,
}

impl DivisionStats {
    fn new(division: &Division) -> Self {
        let rate = division.per_frame.map(|time| (10.0 / time.as_secs_f64().max(1e-9)).round() / 10.0);
        Self { sessions: division.sessions, threads: division.threads, frames_per_s: rate }
    }
}

/// One of the models, and what its engine does.
#[derive(Debug, Clone, Serialize, schemars::JsonSchema)]
pub struct EngineReport {
    /// The model, once it has run.
    pub model: Option<ModelStats>,
    /// What its engine does.
    pub engine: EngineStats,
}

/// What the inference engine does.
#[derive(Debug, Clone, PartialEq, Serialize, schemars::JsonSchema)]
pub struct EngineStats {
    /// `loading`, `building`, `serving`, `degraded` or `failed`.
    pub state: EngineState,
    /// Why it is degraded or has failed.
    pub reason: Option<String>,
    /// The build that goes on meanwhile.
    pub build: Option<BuildStats>,
    /// How the cores are divided between inferences; `null` before anything runs.
    pub division: Option<DivisionStats>,
    /// The other way, where both were measured.
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
        let mut divisions = status.divisions.iter().map(DivisionStats::new);
        let (division, division_not_taken) = (divisions.next(), divisions.next());
        Self { state: status.state, reason: status.reason.clone(), build, division, division_not_taken }
    }

    /// Whether frames are inferred.
    pub(super) fn serves(&self) -> bool {
        self.state == EngineState::Serving
    }

    /// What is not as it should be, as a sentence, and whether that is a fault and not only a beginning.
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
