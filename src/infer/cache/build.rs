//! Building a GPU engine, and proving a backend, in a process of its own: a build takes minutes and memory, and the
//! runtimes that do it are known to die of it.

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
/// Longest proof that a backend works, with no engine to build.
const PROOF_LIMIT: Duration = Duration::from_secs(180);
/// How often the child is looked at.
const POLL: Duration = Duration::from_millis(20);
/// Longest line that is read of the child.
const LONGEST_LINE: usize = 64 * 1024;

/// What a child process is asked to do, as one line of JSON on its standard input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BuildRequest {
    /// The backend to build for, or to prove.
    pub backend: BackendKind,
    /// The model and its options; `file` is set.
    pub config: ModelConfig,
}

/// What the child says meanwhile, one line of JSON each on its standard output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum BuildEvent {
    /// It begins with something.
    Phase {
        /// With what, for people.
        phase: String,
        /// Since its start.
        elapsed_s: f64,
    },
    /// It worked.
    Done {
        /// The whole time.
        elapsed_s: f64,
    },
    /// It did not work.
    Failed {
        /// Why.
        error: String,
    },
}

/// Makes a GPU engine, elsewhere.
pub(in crate::infer) trait Builder: Send + Sync {
    /// How long it took the last time.
    fn expected(&self) -> Option<Duration>;

    /// Builds, tells each phase, and gives up soon after `cancel` is set.
    fn build(&self, phase: &dyn Fn(&str), cancel: &AtomicBool) -> Result<(), InferError>;
}

/// Builds in a child process, and keeps account of it in the cache.
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
        // A child that died could not clean up.
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

/// Sees in a child process whether a backend loads the model and runs it.
pub(in crate::infer) fn prove(request: &BuildRequest, cancel: &AtomicBool) -> Result<(), InferError> {
    let (_, outcome) = run_child(request, PROOF_LIMIT, &|_| {}, cancel);
    outcome.map_err(|reason| {
        // The child's own error says which one, as ours does.
        let reason = reason.strip_prefix(&format!("{}: ", request.backend)).map(str::to_owned).unwrap_or(reason);
        InferError::Provider { backend: request.backend, reason }
    })
}

/// Runs `ocelli models build --here`. Gives the child's process id, when there was one, and what came of it.
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
    // Open until the end: a child whose standard input closes has lost its parent, and ends.
    let stdin = child.stdin.take();
    let heard = Arc::new(Mutex::new(Heard::default()));
    let reader = child.stdout.take().map(|stdout| {
        let heard = heard.clone();
        std::thread::Builder::new().name("infer-build-out".into()).spawn(move || listen(stdout, &heard))
    });
    let ended = watch(&mut child, limit, &heard, phase, cancel);
    drop(stdin);
    if let Some(Ok(reader)) = reader {
        // It ends with the child, which holds the other end of the pipe.
        let _ = reader.join();
    }
    let heard = std::mem::take(&mut *heard.lock().unwrap_or_else(PoisonError::into_inner));
    let outcome = ended.and_then(|status| {
        let during = heard.during();
        match (heard.verdict, status.signal().map(child::signal_name)) {
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

/// What the child has said so far.
#[derive(Default)]
struct Heard {
    phase: String,
    verdict: Option<BuildEvent>,
}

impl Heard {
    fn during(&self) -> String {
        if self.phase.is_empty() { String::new() } else { format!(" ({})", self.phase) }
    }
}

/// Reads the child's lines; what is no event is a runtime's own chatter.
fn listen(stdout: ChildStdout, heard: &Mutex<Heard>) {
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
        let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            BuildEvent::Phase { phase, .. } => heard.phase = phase,
            verdict => heard.verdict = Some(verdict),
        }
    }
}

/// Waits for the child's end.
fn watch(
    child: &mut Child,
    limit: Duration,
    heard: &Mutex<Heard>,
    tell: &dyn Fn(&str),
    cancel: &AtomicBool,
) -> Result<std::process::ExitStatus, String> {
    let deadline = Instant::now() + limit;
    let mut told = String::new();
    loop {
        let phase = heard.lock().unwrap_or_else(PoisonError::into_inner).phase.clone();
        if phase != told {
            tell(&phase);
            told = phase;
        }
        let why = match child.try_wait() {
            Ok(Some(status)) => return Ok(status),
            Err(error) => return Err(format!("the process that did it was lost ({error})")),
            Ok(None) if cancel.load(Ordering::Relaxed) => "it was called off".to_owned(),
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

/// The request for `backend` with the options of `config` and the model at `model`, which is held to its checksum.
pub(in crate::infer) fn request(
    backend: BackendKind,
    config: &ModelConfig,
    model: PathBuf,
    sha256: String,
) -> BuildRequest {
    let config = ModelConfig { file: Some(model), sha256: Some(sha256), ..config.clone() };
    BuildRequest { backend, config }
}
