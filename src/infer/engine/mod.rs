//! The engine: one model for all cameras. Cameras submit jobs to their queues, workers take them in turn, and the engine
//! falls back to another backend when one fails.
//!
//! ```text
//! CameraQueue ──submit──▶ Scheduler ──take──▶ Worker: Session::run, decode ──finish──▶ CameraQueue::wait
//!                            (one short lock: `shared`)      │ failures, served frames
//!                                                            ▼
//!  infer-load, infer-build ──Message──▶ Run (thread "engine") ◀─Event─ / ─Effect─▶ Machine (pure)
//! ```
//!
//! | file | holds |
//! |---|---|
//! | `machine`, `event` | all decisions: fallback order, loading, building, hangs, failures, retries; pure |
//! | `run` | the thread `engine`: turns messages and thread states into events, carries out effects |
//! | `shared` | the state behind the lock, and its two condition variables |
//! | `scheduler`, `camera_queue`, `job` | which job runs next; a camera's handle; a job's buffers |
//! | `threads`, `worker` | the register of threads and which of them hang; a thread with a session |
//! | `crashes`, `limits`, `status` | the crash counter, timeouts, the published status |
//!
//! Buffers: a job with its tensor moves camera → scheduler → worker → scheduler → camera. A session belongs to its worker.
//! Between a load and its service the session is in the message to `run`; a result that came too late is dropped by
//! the thread that made it, without the lock.
//!
//! Waiting: a camera waits on its queue's condition variable, a worker on `work`, the thread `engine`, `Engine::serve` and
//! `Engine::drop` on `watch`. No thread waits for a loader or for a build.

pub(in crate::infer) mod camera_queue;
pub(in crate::infer) mod crashes;
mod event;
pub(in crate::infer) mod job;
pub(in crate::infer) mod limits;
mod machine;
#[cfg(test)]
mod machine_tests;
mod run;
mod scheduler;
mod shared;
pub(in crate::infer) mod status;
#[cfg(test)]
mod tests;
pub(in crate::infer) mod threads;
mod worker;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::cancel::{Cancel, HookGuard};
use crate::config::{BackendChoice, ModelConfig};
use crate::infer::backend::factory::{Factory, Purpose};
use crate::infer::backend::load::{Backends, Found, LoadReason, Loaded};
use crate::infer::engine::camera_queue::CameraQueue;
use crate::infer::engine::crashes::CrashCounter;
use crate::infer::engine::limits::Limits;
use crate::infer::engine::run::Run;
use crate::infer::engine::shared::Shared;
use crate::infer::engine::status::{Observer, StatusCell};
use crate::infer::engine::threads::Phase;
use crate::infer::{InferError, Session};
use crate::model::ModelSpec;
use crate::types::{BackendInfo, BackendKind, Ended, EngineStatus, Priority, SessionLayout};

/// Shortest time that the engine's end allows its threads, so that idle ones can end after a deadline that has passed.
const SHORTEST_STOP: Duration = Duration::from_millis(100);
/// Longest time between two checks whether the deadline has moved.
const LONGEST_WAIT: Duration = Duration::from_millis(500);

/// Runs one model for all cameras on the threads `infer-0` … Dropping it finishes the inferences that run, gives the other
/// jobs back unfinished, and joins the threads: a process must not end during an inference. A thread that hangs is
/// abandoned; see [`hung_threads`](crate::infer::hung_threads()).
pub struct Engine {
    shared: Arc<Shared>,
    spec: Arc<ModelSpec>,
    status: Arc<StatusCell>,
    /// Longest wait for the threads at the end.
    stop: Duration,
    cancel: Cancel,
    asked: BackendKind,
    most_workers: usize,
    thread: Option<JoinHandle<()>>,
    _hook: HookGuard,
}

impl Engine {
    /// Loads the model with the configured backend ([`load`](crate::infer::load())) and starts the workers. For a program
    /// that ends soon: no engine is built for later runs.
    ///
    /// Without `threads` there is a worker with a one-thread session for each core (four at most) on a CPU backend: on two
    /// cores that gives a third more frames than one session with two threads. A further session is made only when more
    /// frames wait than sessions are free, so one live camera costs the memory of one session.
    ///
    /// # Errors
    /// Those of [`load`](crate::infer::load()), [`InferError::Hung`], [`InferError::Thread`], and [`InferError::Stopped`]
    /// soon after `cancel` is cancelled.
    pub fn start(spec: Arc<ModelSpec>, config: &ModelConfig, cancel: &Cancel) -> Result<Self, InferError> {
        let purpose = if config.backend == BackendChoice::Tensorrt { Purpose::Build } else { Purpose::Short };
        let backends = Arc::new(Factory::new(spec.clone(), config, purpose));
        Self::with_backends(spec, backends, Limits::default(), CrashCounter::none(), true, cancel)
    }

    /// The same for a service: a missing TensorRT engine is built while the next backend serves (while frames wait when
    /// TensorRT was asked for by name, with the state [`Building`](crate::types::EngineState::Building)), and starts that
    /// crash are counted in `state_folder`, so that a backend which crashes the process is left out in the end.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn serve(
        spec: Arc<ModelSpec>,
        config: &ModelConfig,
        state_folder: Option<&Path>,
        cancel: &Cancel,
    ) -> Result<Self, InferError> {
        let crashes = match state_folder {
            Some(folder) if config.backend == BackendChoice::Auto => {
                CrashCounter::open(folder, identity(&spec, config))
            }
            _ => CrashCounter::none(),
        };
        let backends = Arc::new(Factory::new(spec.clone(), config, Purpose::Service));
        Self::with_backends(spec, backends, Limits::default(), crashes, false, cancel)
    }

    /// An engine on a session that is already loaded, with `workers` (≥ 1) threads and no backend to fall back to.
    pub fn with_session(
        spec: Arc<ModelSpec>,
        session: Box<dyn Session>,
        info: BackendInfo,
        workers: usize,
    ) -> Result<Self, InferError> {
        let limits = Limits::default();
        let sessions = workers.max(1);
        let loaded = Loaded {
            session,
            kind: info.kind,
            version: info.version,
            // So that the timeout of an inference is that of a load.
            warm_up: limits.load / limits.factor.max(1),
            nodes: info.nodes,
            layouts: vec![SessionLayout { sessions, threads: 1, per_frame: None }],
        };
        let backends = Arc::new(OneSession { kinds: [info.kind], sessions, loaded: Mutex::new(Some(loaded)) });
        Self::with_backends(spec, backends, limits, CrashCounter::none(), false, &Cancel::new())
    }

    fn with_backends(
        spec: Arc<ModelSpec>,
        backends: Arc<dyn Backends>,
        limits: Limits,
        crashes: CrashCounter,
        waits_for_build: bool,
        cancel: &Cancel,
    ) -> Result<Self, InferError> {
        let shared = Shared::new();
        let status = Arc::new(StatusCell::default());
        let cancelled = shared.clone();
        // The hook runs while the token is locked, so nothing here asks the token while it holds `shared`.
        let hook = cancel.on_cancel(move |_| {
            cancelled.lock().cancelled = true;
            cancelled.watch.notify_all();
        });
        // From here on dropping `engine` stops what was started.
        let mut engine = Self {
            shared: shared.clone(),
            spec: spec.clone(),
            status: status.clone(),
            stop: limits.stop,
            cancel: cancel.clone(),
            asked: backends.order().first().copied().unwrap_or(BackendKind::Tract),
            most_workers: backends.most_sessions(),
            thread: None,
            _hook: hook,
        };
        let run = Run::new(shared.clone(), spec, status, backends, limits, crashes, waits_for_build);
        let name = "engine".to_owned();
        let thread = std::thread::Builder::new().name(name.clone()).spawn(move || run.run());
        engine.thread = Some(thread.map_err(|error| InferError::Thread { name, reason: error.to_string() })?);
        let mut state = shared.lock();
        loop {
            match &state.begun {
                Some(begun) => {
                    let begun = begun.clone();
                    drop(state);
                    return begun.map(|()| engine);
                }
                None => state = Shared::wait(&shared.watch, state),
            }
        }
    }

    /// The backend that runs the model. Before any does, the one that was asked for, with an empty version.
    pub fn info(&self) -> BackendInfo {
        let nothing =
            || BackendInfo { kind: self.asked, version: String::new(), fallbacks: Vec::new(), nodes: BTreeMap::new() };
        self.status.get().backend.unwrap_or_else(nothing)
    }

    pub fn status(&self) -> EngineStatus {
        self.status.get()
    }

    /// From now on `observer` is called with each change of the status, and with the present one at once.
    pub fn observe(&self, observer: Option<Observer>) {
        self.status.observe(observer);
    }

    /// Why this engine will never infer again in this process, once that is so.
    pub fn fatal(&self) -> Option<(Ended, String)> {
        let status = self.status.get();
        Some((status.ended?, status.reason.unwrap_or_default()))
    }

    pub fn spec(&self) -> &Arc<ModelSpec> {
        &self.spec
    }

    /// Inferences that can run at the same time now: a camera that keeps as many jobs in flight uses them all.
    pub fn workers(&self) -> usize {
        self.shared.workers.load(Ordering::Relaxed)
    }

    /// The same on the backend that has the most of them.
    pub fn most_workers(&self) -> usize {
        self.most_workers
    }

    /// A queue for a camera, with at most `depth` (≥ 1) jobs in flight.
    pub fn camera_queue(&self, name: &str, depth: usize, priority: Priority) -> CameraQueue {
        CameraQueue::new(&self.shared, name, depth, priority)
    }

    /// Waits for the threads until the deadline of `cancel`, `stop` at most, and abandons those that have not ended then.
    fn end_threads(&self) {
        let begun = Instant::now();
        loop {
            let left = self.cancel.remaining(self.stop).min(self.stop.saturating_sub(begun.elapsed()));
            let left = left.max(SHORTEST_STOP.saturating_sub(begun.elapsed()));
            let mut state = self.shared.lock();
            if state.threads.alive() == 0 {
                let ended = state.threads.take_ended();
                drop(state);
                for thread in ended {
                    // A worker catches what a session throws; nothing else in it can panic.
                    let _ = thread.join();
                }
                return;
            }
            let (late, cancelled) = (left.is_zero(), state.cancelled);
            // Loading can take minutes, and nothing is lost with it.
            let abandoned =
                state.threads.abandon(|phase| late || (cancelled && matches!(phase, Phase::Loading { .. })));
            if abandoned.is_empty() {
                drop(Shared::wait_for(&self.shared.watch, state, left.min(LONGEST_WAIT)));
                continue;
            }
            tracing::warn!("{} inference threads do not end in time and are abandoned", abandoned.len());
            let tickets = abandoned.into_iter().flat_map(|thread| thread.tickets);
            let notified: Vec<_> =
                tickets.filter_map(|ticket| state.scheduler.lose(ticket, InferError::Stopped)).collect();
            drop(state);
            notified.iter().for_each(|notify| notify());
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let notified = self.shared.lock().close();
        self.shared.work.notify_all();
        self.shared.watch.notify_all();
        notified.iter().for_each(|notify| notify());
        if let Some(thread) = self.thread.take() {
            // Nothing in it can panic, and it never waits for a runtime.
            let _ = thread.join();
        }
        // A session that was loaded and never served.
        let mut state = self.shared.lock();
        state.attempt = None;
        let unwanted = std::mem::take(&mut state.inbox);
        drop(state);
        drop(unwanted);
        self.end_threads();
    }
}

/// One session that is already loaded, and nothing to fall back to.
struct OneSession {
    kinds: [BackendKind; 1],
    sessions: usize,
    loaded: Mutex<Option<Loaded>>,
}

impl Backends for OneSession {
    fn order(&self) -> &[BackendKind] {
        &self.kinds
    }

    fn load(&self, kind: BackendKind, _reason: LoadReason) -> Result<Found, InferError> {
        let loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner).take();
        loaded.map(Found::Session).ok_or(InferError::NotBuilt(kind))
    }

    fn most_sessions(&self) -> usize {
        self.sessions
    }
}

/// What the crash counter is about: another model, library or choice may well work.
fn identity(spec: &ModelSpec, config: &ModelConfig) -> String {
    let library = crate::infer::ONNX_RUNTIME.candidates(config.ort_library.as_deref()).1.into_iter().next();
    let library = library.map(|path| {
        let meta = std::fs::metadata(&path).ok();
        let modified = meta.as_ref().and_then(|meta| meta.modified().ok());
        format!("{} {:?} {modified:?}", path.display(), meta.map(|meta| meta.len()))
    });
    format!("{} {:?} {} {}", spec.id.sha256, config.backend, spec.input.size, library.unwrap_or_default())
}
