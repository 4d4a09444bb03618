//! Building a GPU engine, and trying a backend, in a child process: a build takes minutes and memory, and the runtimes
//! that do it are known to crash.

use std::ffi::OsStr;
use std::io::Write;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::ModelConfig;
use crate::infer::InferError;
use crate::infer::cache::{EngineCache, EngineKey};
use crate::infer::runtime::child;
use crate::types::BackendKind;

/// Longest build. Large models with int8 take more than half an hour on a small Jetson.
const BUILD_LIMIT: Duration = Duration::from_secs(2 * 3600);
/// Longest time in which a backend that needs no engine must load and run.
const PROOF_LIMIT: Duration = Duration::from_secs(180);

/// What the child does, as one line of JSON on its standard input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BuildRequest {
    /// The backend to build for, or to try.
    pub backend: BackendKind,
    /// The model and its options; `file` is set.
    pub config: ModelConfig,
}

/// What the child reports, as lines of JSON on its standard output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum BuildEvent {
    /// It begins with a phase.
    Phase {
        phase: String,
        elapsed_s: f64,
    },
    Done {
        elapsed_s: f64,
    },
    Failed {
        error: String,
    },
}

/// Builds a GPU engine outside of this process.
pub(in crate::infer) trait Builder: Send + Sync {
    /// How long the last build took.
    fn expected(&self) -> Option<Duration>;

    /// Builds, reports each phase, and gives up soon after `cancel` is set.
    fn build(&self, phase: &dyn Fn(&str), cancel: &AtomicBool) -> Result<(), InferError>;
}

/// Builds in a child process, and records the outcome in the cache.
pub(in crate::infer) struct ChildBuilder {
    pub(in crate::infer) request: BuildRequest,
    pub(in crate::infer) cache: EngineCache,
    pub(in crate::infer) key: EngineKey,
}

impl Builder for ChildBuilder {
    fn expected(&self) -> Option<Duration> {
        self.cache.record(&self.key).seconds.map(Duration::from_secs)
    }

    fn build(&self, phase: &dyn Fn(&str), cancel: &AtomicBool) -> Result<(), InferError> {
        let (id, outcome) = run_child(&self.request, BUILD_LIMIT, phase, cancel);
        // A child that crashed could not clean up.
        self.cache.sweep(id);
        outcome.map_err(|reason| {
            if !cancel.load(Ordering::Relaxed)
                && let Err(error) = self.cache.failed(&self.key, &reason)
            {
                tracing::warn!("{error}");
            }
            InferError::Build { backend: self.request.backend, reason }
        })
    }
}

/// Tries in a child process whether a backend loads the model and runs it.
pub(in crate::infer) fn prove(request: &BuildRequest, cancel: &AtomicBool) -> Result<(), InferError> {
    let (_, outcome) = run_child(request, PROOF_LIMIT, &|_| {}, cancel);
    outcome.map_err(|reason| {
        // The child's error begins with the backend's name, as this one does.
        let reason = reason.strip_prefix(&format!("{}: ", request.backend)).map(str::to_owned).unwrap_or(reason);
        InferError::Provider { backend: request.backend, reason }
    })
}

/// Runs `ocelli models build --here`. Returns the child's process id, if there was a child, and the outcome.
fn run_child(
    request: &BuildRequest,
    limit: Duration,
    report: &dyn Fn(&str),
    cancel: &AtomicBool,
) -> (Option<u32>, Result<(), String>) {
    let (mut child, _temporary) = match start_child(request) {
        Ok(started) => started,
        Err(reason) => return (None, Err(reason)),
    };
    let id = child.id();
    // Open until the end: a child whose standard input is closed has lost its parent, and ends.
    let stdin = child.stdin.take();
    let mut during = String::new();
    let ended = child::wait(child, limit, |output| {
        if let Some(BuildEvent::Phase { phase, .. }) = child::last_report(output)
            && phase != during
        {
            report(&phase);
            during = phase;
        }
        !cancel.load(Ordering::Relaxed)
    });
    drop(stdin);
    if !during.is_empty() {
        during = format!(" ({during})");
    }
    let outcome =
        ended.map_err(|error| format!("it {error}")).and_then(|answer| match (answer.report(), answer.crash()) {
            (Some(BuildEvent::Failed { error }), _) => Err(error),
            (Some(BuildEvent::Done { .. }), None) if answer.status.success() => Ok(()),
            (_, Some(signal)) => Err(format!("the process that did it crashed with {signal}{during}")),
            _ => Err(format!("the process that did it ended with {} and gave no report{during}", answer.status)),
        });
    (Some(id), outcome)
}

fn start_child(request: &BuildRequest) -> Result<(Child, Option<tempfile::TempDir>), String> {
    let mut line = serde_json::to_string(request).map_err(|error| error.to_string())?;
    line.push('\n');
    let args = ["models", "build", "--here"].map(OsStr::new);
    let (mut child, temporary) = child::start(&args, Stdio::piped(), Stdio::inherit())?;
    if let Some(stdin) = &mut child.stdin
        && let Err(error) = stdin.write_all(line.as_bytes())
    {
        tracing::debug!("the child does not read its request: {error}");
    }
    Ok((child, temporary))
}
