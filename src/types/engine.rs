//! What the inference engine says of itself.

use std::time::Duration;

use super::{BackendInfo, BackendKind};

/// What the engine does now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EngineState {
    /// A backend is being loaded; frames wait.
    #[default]
    Loading,
    /// The GPU engine that was asked for by name is being built; frames wait.
    Building,
    /// Frames are inferred.
    Serving,
    /// Frames are tried, but inference fails, and there is no other backend to go to.
    Degraded,
    /// Nothing is inferred any more, and this process cannot change that.
    Failed,
}

impl EngineState {
    /// In one word, as JSON and metrics show it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Loading => "loading",
            Self::Building => "building",
            Self::Serving => "serving",
            Self::Degraded => "degraded",
            Self::Failed => "failed",
        }
    }
}

/// A GPU engine that is being built in another process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildProgress {
    /// For which backend.
    pub backend: BackendKind,
    /// What the builder does now, for people.
    pub phase: String,
    /// Since the start of the build.
    pub elapsed: Duration,
    /// How long the same build took the last time.
    pub expected: Option<Duration>,
}

/// The engine's state with its reasons.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EngineStatus {
    /// In one word.
    pub state: EngineState,
    /// Why it is degraded or has failed.
    pub reason: Option<String>,
    /// What runs the model now; the last one that did when the engine has failed.
    pub backend: Option<BackendInfo>,
    /// The build that goes on meanwhile.
    pub build: Option<BuildProgress>,
    /// The process must end, because only a new one can infer again: the GPU is lost to this one.
    pub fatal: bool,
}
