//! The engine's status as JSON and metrics show it.

use serde::Serialize;

use super::ModelStats;
use crate::types::{Division, EngineState, EngineStatus};

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
