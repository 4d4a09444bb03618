//! Building a GPU engine, and trying a backend, in a child process: a build takes minutes and memory, and the runtimes
//! that do it are known to crash.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

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
/// How often the parent looks at the child.
const POLL: Duration = Duration::from_millis(20);
/// Longest line of a child that is read.
const LONGEST_LINE: usize = 64 * 1024;

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
    phase: &dyn Fn(&str),
    cancel: &AtomicBool,
) -> (Option<u32>, Result<(), String>) {
    let (mut child, _temporary) = match start_child(request) {
        Ok(started) => started,
        Err(reason) => return (None, Err(reason)),
    };
    let id = child.id();
    // Open until the end: a child whose standard input is closed has lost its parent, and ends.
    let stdin = child.stdin.take();
    let reports = Arc::new(Mutex::new(Reports::default()));
    let reader = child.stdout.take().map(|stdout| {
        let reports = reports.clone();
        std::thread::Builder::new().name("infer-build-out".into()).spawn(move || read(stdout, &reports))
    });
    let ended = watch(&mut child, limit, &reports, phase, cancel);
    drop(stdin);
    if let Some(Ok(reader)) = reader {
        // It ends with the child, which holds the other end of the pipe.
        let _ = reader.join();
    }
    let reports = std::mem::take(&mut *reports.lock().unwrap_or_else(PoisonError::into_inner));
    let outcome = ended.and_then(|status| {
        let during = reports.during();
        match (reports.end, status.signal().map(child::signal_name)) {
            (Some(BuildEvent::Failed { error }), _) => Err(error),
            (Some(BuildEvent::Done { .. }), None) if status.success() => Ok(()),
            (_, Some(signal)) => Err(format!("the process that did it crashed with {signal}{during}")),
            _ => Err(format!("the process that did it ended with {status} and gave no report{during}")),
        }
    });
    (Some(id), outcome)
}

fn start_child(request: &BuildRequest) -> Result<(Child, Option<tempfile::TempDir>), String> {
    let (mut command, temporary) = child::command()?;
    let mut line = serde_json::to_string(request).map_err(|error| error.to_string())?;
    line.push('\n');
    command.args(["models", "build", "--here"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = child::spawn(&mut command)?;
    if let Some(stdin) = &mut child.stdin
        && let Err(error) = stdin.write_all(line.as_bytes())
    {
        tracing::debug!("the child does not read its request: {error}");
    }
    Ok((child, temporary))
}

/// What the child has reported so far.
#[derive(Default)]
struct Reports {
    phase: String,
    end: Option<BuildEvent>,
}

impl Reports {
    fn during(&self) -> String {
        if self.phase.is_empty() { String::new() } else { format!(" ({})", self.phase) }
    }
}

/// Reads the child's lines. A line that is no event was printed by a runtime.
fn read(stdout: ChildStdout, reports: &Mutex<Reports>) {
    let mut lines = BufReader::new(stdout);
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut part = std::io::Read::take(&mut lines, LONGEST_LINE as u64);
        match part.read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let Ok(event) = serde_json::from_slice::<BuildEvent>(&line) else { continue };
        let mut reports = reports.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            BuildEvent::Phase { phase, .. } => reports.phase = phase,
            end => reports.end = Some(end),
        }
    }
}

/// Waits for the child's end.
fn watch(
    child: &mut Child,
    limit: Duration,
    reports: &Mutex<Reports>,
    report: &dyn Fn(&str),
    cancel: &AtomicBool,
) -> Result<std::process::ExitStatus, String> {
    let deadline = Instant::now() + limit;
    let mut reported = String::new();
    loop {
        let phase = reports.lock().unwrap_or_else(PoisonError::into_inner).phase.clone();
        if phase != reported {
            report(&phase);
            reported = phase;
        }
        let why = match child.try_wait() {
            Ok(Some(status)) => return Ok(status),
            Err(error) => return Err(format!("the process that did it was lost ({error})")),
            Ok(None) if cancel.load(Ordering::Relaxed) => "it was cancelled".to_owned(),
            Ok(None) if Instant::now() >= deadline => format!("it did not end within {} s", limit.as_secs()),
            Ok(None) => {
                std::thread::sleep(POLL);
                continue;
            }
        };
        let _ = child.kill();
        let _ = child.wait();
        return Err(why);
    }
}

/// The request for `backend` with the options of `config` and the model at `model`, which must have this checksum.
pub(in crate::infer) fn request(
    backend: BackendKind,
    config: &ModelConfig,
    model: PathBuf,
    sha256: String,
) -> BuildRequest {
    let config = ModelConfig { file: Some(model), sha256: Some(sha256), ..config.clone() };
    BuildRequest { backend, config }
}
