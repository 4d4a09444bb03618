//! What the inference engine reports about itself.

use std::time::Duration;

use super::named::named;
use super::result::{BackendInfo, BackendKind};

named! {
    /// What the engine does now.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, schemars::JsonSchema)]
    pub enum EngineState {
        /// A backend is being loaded; frames wait.
        #[default]
        Loading = "loading",
        /// The GPU engine that was asked for by name is being built; frames wait.
        Building = "building",
        /// Frames are inferred.
        Serving = "serving",
        /// Frames are tried, but inference fails, and there is no other backend to go to.
        Degraded = "degraded",
        /// Nothing is inferred any more, and this process cannot change that.
        Failed = "failed",
    }
}

/// Why an engine has ended for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The GPU does not work any more in this process; a new process can have it again.
    DeviceLost,
    /// No backend can run the model.
    NoBackend,
}

/// A GPU engine that is being built in another process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildProgress {
    pub backend: BackendKind,
    /// What the builder does now, for people.
    pub phase: String,
    /// Since the start of the build.
    pub elapsed: Duration,
    /// How long the same build took the last time.
    pub expected: Option<Duration>,
}

/// How sessions share the cores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionLayout {
    /// Sessions side by side, each on its own frames.
    pub sessions: usize,
    /// Threads of each.
    pub threads: usize,
    /// Time per frame, where it was measured.
    pub per_frame: Option<Duration>,
}

impl std::fmt::Display for SessionLayout {
    /// `2 sessions of 1 thread (52.1 frames/s)`
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let s = |n: usize| if n == 1 { "" } else { "s" };
        let (sessions, threads) = (self.sessions, self.threads);
        write!(f, "{sessions} session{} of {threads} thread{}", s(sessions), s(threads))?;
        match self.per_frame {
            Some(time) => write!(f, " ({:.1} frames/s)", 1.0 / time.as_secs_f64().max(1e-9)),
            None => Ok(()),
        }
    }
}

/// The engine's state with its reasons.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EngineStatus {
    pub state: EngineState,
    /// Why it is degraded or has failed.
    pub reason: Option<String>,
    /// What runs the model now; the last one that did when the engine has failed.
    pub backend: Option<BackendInfo>,
    /// The layout in use, and after it the one that was measured to be no faster; empty before anything runs.
    pub layouts: Vec<SessionLayout>,
    /// The build that goes on meanwhile.
    pub build: Option<BuildProgress>,
    /// Why nothing will be inferred in this process any more, once that is so.
    pub ended: Option<Ended>,
}

/// How large a camera's share of a busy engine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// A quarter of the frames of a normal one.
    Low,
    /// As many frames as any other.
    #[default]
    Normal,
    /// Four times the frames of a normal one.
    High,
}

impl Priority {
    /// Its share, relative to the others'.
    pub const fn weight(self) -> u64 {
        match self {
            Self::Low => 1,
            Self::Normal => 4,
            Self::High => 16,
        }
    }
}

/// Name of the model that cameras use when they name no other: that of `model:`.
pub const DEFAULT_MODEL: &str = "default";
