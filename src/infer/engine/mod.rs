//! The engine: one model, all cameras. Cameras hand in jobs through lanes, workers take them in turn, and a supervisor
//! goes to another backend when one fails.

#[cfg(test)]
mod building_tests;
pub(in crate::infer) mod crew;
pub(in crate::infer) mod factory;
#[cfg(test)]
mod failover_tests;
pub(in crate::infer) mod ladder;
pub(in crate::infer) mod lanes;
pub(in crate::infer) mod parallel;
pub(in crate::infer) mod policy;
#[cfg(test)]
mod stage;
pub(in crate::infer) mod starts;
pub(in crate::infer) mod status;
mod supervisor;
#[cfg(test)]
mod tests;
pub(in crate::infer) mod worker;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Instant;

use crate::config::{BackendChoice, ModelConfig};
use crate::infer::engine::crew::Patience;
use crate::infer::engine::factory::{Factory, Purpose};
use crate::infer::engine::ladder::{Loaded, Rungs};
use crate::infer::engine::lanes::{Lane, Shared};
use crate::infer::engine::policy::Limits;
use crate::infer::engine::starts::Starts;
use crate::infer::engine::status::{Observer, StatusCell};
use crate::infer::engine::supervisor::Supervisor;
use crate::infer::{InferError, Session};
use crate::model::ModelSpec;
use crate::types::{BackendInfo, BackendKind, EngineStatus, Priority};

/// Runs one model for all cameras on the threads `infer-0` … Dropping it finishes the inferences that run, gives the
/// others back unfinished, and joins the threads: a process must not end during an inference. A thread that hangs is not
/// waited for; see [`hung_threads`](crate::infer::hung_threads()).
pub struct Engine {
    shared: Arc<Shared>,
    spec: Arc<ModelSpec>,
    status: Arc<StatusCell>,
    limits: Limits,
    asked: BackendKind,
    most_workers: usize,
    thread: Option<JoinHandle<()>>,
}

impl Engine {
    /// Loads the model with what the configuration asks for ([`load`](crate::infer::load())) and starts the workers.
    ///
    /// Without `threads`, there is a worker with a one-thread session for each core (four at most) on a CPU backend: on
    /// two cores that gives a third more frames than one session with two threads. A further session is made only when
    /// more frames wait than sessions are free, so one live camera costs the memory of one session.
    ///
    /// # Errors
    /// Those of [`load`](crate::infer::load()), [`InferError::Hung`] and [`InferError::Thread`].
    pub fn start(spec: Arc<ModelSpec>, config: &ModelConfig) -> Result<Self, InferError> {
        // A program that ends soon does not begin to build what only later runs would have.
        let purpose = if config.backend == BackendChoice::Tensorrt { Purpose::Build } else { Purpose::Short };
        let rungs = Arc::new(Factory::new(spec.clone(), config, purpose));
        Self::with_rungs(spec, rungs, Limits::default(), Starts::none(), true)
    }

    /// The same for a service, which lives long: a TensorRT engine that is not there yet is built while the next backend
    /// serves (or while frames wait, when TensorRT was asked for by name), and starts that die are recorded in
    /// `state_folder`, so that a backend which kills the process is left out in the end.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn serve(spec: Arc<ModelSpec>, config: &ModelConfig, state_folder: Option<&Path>) -> Result<Self, InferError> {
        let starts = match state_folder {
            Some(folder) if config.backend == BackendChoice::Auto => Starts::open(folder, identity(&spec, config)),
            _ => Starts::none(),
        };
        let rungs = Arc::new(Factory::new(spec.clone(), config, Purpose::Service));
        Self::with_rungs(spec, rungs, Limits::default(), starts, false)
    }

    /// An engine on a session that is there already, with `workers` (≥ 1) threads and nothing to fall back on.
    pub fn with_session(
        spec: Arc<ModelSpec>,
        session: Box<dyn Session>,
        info: BackendInfo,
        workers: usize,
    ) -> Result<Self, InferError> {
        let limits = Limits::default();
        let rungs = Arc::new(OneRung { kinds: [info.kind], workers });
        let status = Arc::new(StatusCell::default());
        let mut supervisor = Supervisor::new(spec, rungs, limits.clone(), Starts::none(), status);
        let warm_up = limits.load / limits.factor.max(1);
        let loaded = Loaded {
            session,
            kind: info.kind,
            version: info.version,
            warm_up,
            nodes: info.nodes,
            divisions: Vec::new(),
        };
        let engine = Self::of(&supervisor, limits, info.kind, workers.max(1));
        supervisor.adopt(loaded)?;
        engine.supervised(supervisor)
    }

    pub(in crate::infer) fn with_rungs(
        spec: Arc<ModelSpec>,
        rungs: Arc<dyn Rungs>,
        limits: Limits,
        starts: Starts,
        waits_for_build: bool,
    ) -> Result<Self, InferError> {
        let asked = rungs.kinds().first().copied().unwrap_or(BackendKind::Tract);
        let most = rungs.kinds().iter().map(|kind| rungs.workers(*kind)).max().unwrap_or(1);
        let status = Arc::new(StatusCell::default());
        let mut supervisor = Supervisor::new(spec, rungs, limits.clone(), starts, status);
        // From here on, dropping `engine` stops what was started.
        let engine = Self::of(&supervisor, limits, asked, most);
        supervisor.begin();
        while !supervisor.has_begun(waits_for_build) {
            supervisor.wait();
            supervisor.look();
        }
        if let Some(error) = supervisor.error.take() {
            // First the one who owns a build that may run, then the engine, which waits for its threads.
            drop(supervisor);
            return Err(error);
        }
        engine.supervised(supervisor)
    }

    fn of(supervisor: &Supervisor, limits: Limits, asked: BackendKind, most_workers: usize) -> Self {
        let (shared, spec) = (supervisor.shared.clone(), supervisor.spec.clone());
        Self { shared, spec, status: supervisor.status.clone(), limits, asked, most_workers, thread: None }
    }

    fn supervised(mut self, supervisor: Supervisor) -> Result<Self, InferError> {
        let name = "engine".to_owned();
        let thread = std::thread::Builder::new().name(name.clone()).spawn(move || supervisor.run());
        self.thread = Some(thread.map_err(|error| InferError::Thread { name, reason: error.to_string() })?);
        Ok(self)
    }

    /// What really runs the model now. Before anything does, the backend that was asked for, with an empty version.
    pub fn info(&self) -> BackendInfo {
        let nothing =
            || BackendInfo { kind: self.asked, version: String::new(), fallbacks: Vec::new(), nodes: BTreeMap::new() };
        self.status.get().backend.unwrap_or_else(nothing)
    }

    /// What the engine does now, and why.
    pub fn status(&self) -> EngineStatus {
        self.status.get()
    }

    /// From now on `observer` hears of each change of the status, and of the present one at once. `None`: nobody does.
    pub fn observe(&self, observer: Option<Observer>) {
        self.status.observe(observer);
    }

    /// Why this process must end, when it must: its GPU is lost to it, and a new process can have it again.
    pub fn fatal(&self) -> Option<String> {
        let status = self.status.get();
        status.fatal.then(|| status.reason.unwrap_or_default())
    }

    /// The model.
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

    /// A camera's way in, with at most `depth` (≥ 1) jobs in flight.
    pub fn lane(&self, name: &str, depth: usize, priority: Priority) -> Lane {
        self.shared.lane(name, depth, priority)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let notified = self.shared.lock().close();
        self.shared.work.notify_all();
        self.shared.watch.notify_all();
        for notify in notified {
            notify();
        }
        if let Some(thread) = self.thread.take() {
            // Nothing in it can panic: the loader catches what a runtime throws.
            let _ = thread.join();
        }
        let patience = Patience { infer: self.limits.stop, load: self.limits.stop };
        let mut state = self.shared.lock();
        state.crew.forgive(Instant::now());
        while state.crew.alive() > 0 {
            for overdue in state.crew.overdue(Instant::now(), patience) {
                tracing::error!("an inference thread hangs and is left alone (number {})", overdue.thread);
                for ticket in overdue.tickets {
                    state.lose(ticket, InferError::Stopped);
                }
            }
            state = Shared::wait_for(&self.shared.watch, state, self.limits.look);
        }
        let threads = state.crew.take_left();
        drop(state);
        for thread in threads {
            // A worker catches what a session throws; nothing else in it can panic.
            let _ = thread.join();
        }
    }
}

/// A ladder of one rung that cannot be loaded anew.
struct OneRung {
    kinds: [BackendKind; 1],
    workers: usize,
}

impl Rungs for OneRung {
    fn kinds(&self) -> &[BackendKind] {
        &self.kinds
    }

    fn backend(&self, kind: BackendKind) -> Result<Box<dyn crate::infer::Backend>, InferError> {
        Err(InferError::NotBuilt(kind))
    }

    fn workers(&self, _kind: BackendKind) -> usize {
        self.workers
    }
}

/// What a record of starts is about: another model, library or choice may well live.
fn identity(spec: &ModelSpec, config: &ModelConfig) -> String {
    let library = crate::infer::ONNX_RUNTIME.candidates(config.ort_library.as_deref()).1.into_iter().next();
    let library = library.map(|path| {
        let meta = std::fs::metadata(&path).ok();
        let modified = meta.as_ref().and_then(|meta| meta.modified().ok());
        format!("{} {:?} {modified:?}", path.display(), meta.map(|meta| meta.len()))
    });
    format!("{} {:?} {} {}", spec.id.sha256, config.backend, spec.input.size, library.unwrap_or_default())
}
