//! The engine: one model, all cameras. Cameras hand in jobs through lanes, worker threads take them in turn.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::{Fork, InferError, Session, input_len, ladder};
use crate::config::ModelConfig;
use crate::model::{Candidate, DecodeParams, ModelSpec, decode};
use crate::types::{BackendInfo, BackendKind};

/// Sessions at most, however many cores there are: each has its own memory.
const MAX_WORKERS: usize = 4;

/// One frame's inference. Its buffers travel from the camera to the engine and back, and serve the next frame.
#[derive(Debug)]
pub struct Job {
    /// The input tensor, CHW.
    pub input: Vec<f32>,
    /// What the decoder lets through.
    pub params: DecodeParams,
    /// What the decoder found, in pixels of the model's input. Empty after an error.
    pub candidates: Vec<Candidate>,
    /// Time in the session.
    pub infer: Duration,
    /// Time in the decoder.
    pub decode: Duration,
    /// Whether it worked.
    pub outcome: Result<(), InferError>,
}

impl Job {
    /// A job with an input tensor of the right size, all zeros.
    pub fn new(spec: &ModelSpec, params: DecodeParams) -> Self {
        Self {
            input: vec![0.0; input_len(spec)],
            params,
            candidates: Vec::new(),
            infer: Duration::ZERO,
            decode: Duration::ZERO,
            outcome: Ok(()),
        }
    }
}

/// Hears that a job is done.
type Notify = Arc<dyn Fn() + Send + Sync>;

enum Slot {
    Waiting(Job),
    Running,
    Done(Job),
}

struct LaneState {
    id: u64,
    /// Jobs in flight, oldest first. The job of ticket `t` is at `t - first`.
    slots: VecDeque<Slot>,
    first: u64,
    /// Signalled when a job of this lane is done.
    done: Arc<Condvar>,
    notify: Option<Notify>,
}

#[derive(Default)]
struct State {
    lanes: Vec<LaneState>,
    next_id: u64,
    /// Index of the lane whose turn it is.
    turn: usize,
    /// Jobs that no worker has taken yet.
    waiting: usize,
    /// Workers with a session that have nothing to do.
    idle: usize,
    /// Workers that are making their session now.
    forking: usize,
    closed: bool,
}

struct Shared {
    state: Mutex<State>,
    /// Signalled when there is work, or when the engine closes.
    work: Condvar,
}

impl Shared {
    // No holder of the lock runs foreign code, so a poisoned lock is still good.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a worker took: which lane, which ticket, the job.
type Taken = (u64, u64, Job);

impl State {
    /// The oldest waiting job of the next lane that has one.
    fn take(&mut self) -> Option<Taken> {
        let count = self.lanes.len();
        for step in 0..count {
            let index = (self.turn + step) % count;
            let lane = &mut self.lanes[index];
            let Some(offset) = lane.slots.iter().position(|slot| matches!(slot, Slot::Waiting(_))) else { continue };
            if let Slot::Waiting(job) = std::mem::replace(&mut lane.slots[offset], Slot::Running) {
                self.turn = (index + 1) % count;
                self.waiting -= 1;
                return Some((lane.id, lane.first + offset as u64, job));
            }
        }
        None
    }

    fn lane(&mut self, id: u64) -> Option<&mut LaneState> {
        self.lanes.iter_mut().find(|lane| lane.id == id)
    }

    /// Gives a job back to its lane, and who wants to hear of it. A lane that is gone takes nothing.
    fn finish(&mut self, (id, ticket, job): Taken) -> Option<Notify> {
        let lane = self.lane(id)?;
        let offset = usize::try_from(ticket.checked_sub(lane.first)?).ok()?;
        *lane.slots.get_mut(offset)? = Slot::Done(job);
        lane.done.notify_all();
        lane.notify.clone()
    }

    /// Ends all jobs that no worker has taken, and gives who wants to hear of it.
    fn close(&mut self) -> Vec<Notify> {
        self.closed = true;
        self.waiting = 0;
        for lane in &mut self.lanes {
            for slot in &mut lane.slots {
                match std::mem::replace(slot, Slot::Running) {
                    Slot::Waiting(mut job) => {
                        job.outcome = Err(InferError::Stopped);
                        job.candidates.clear();
                        *slot = Slot::Done(job);
                    }
                    other => *slot = other,
                }
            }
            lane.done.notify_all();
        }
        self.lanes.iter().filter_map(|lane| lane.notify.clone()).collect()
    }
}

/// Runs one model for all cameras on the threads `infer-0` … Dropping it finishes the inferences that run, gives the
/// others back unfinished, and joins the threads: a process must not end during an inference.
pub struct Engine {
    shared: Arc<Shared>,
    spec: Arc<ModelSpec>,
    info: BackendInfo,
    threads: Vec<JoinHandle<()>>,
}

impl Engine {
    /// Loads the model with what the configuration asks for ([`load`](super::load())) and starts the workers.
    ///
    /// Without `threads`, there is a worker with a one-thread session for each core (four at most) on a CPU backend: on
    /// two cores that gives a third more frames than one session with two threads. A further session is made only when
    /// more frames wait than sessions are free, so one live camera costs the memory of one session.
    ///
    /// # Errors
    /// Those of [`load`](super::load()), and [`InferError::Thread`].
    pub fn start(spec: Arc<ModelSpec>, config: &ModelConfig) -> Result<Self, InferError> {
        let (session, info) = ladder::load(&spec, config)?;
        let workers = match (config.threads, info.kind) {
            (None, BackendKind::Cpu | BackendKind::Tract) => {
                std::thread::available_parallelism().map_or(1, usize::from).clamp(1, MAX_WORKERS)
            }
            _ => 1,
        };
        Self::with_session(spec, session, info, workers)
    }

    /// An engine on a session that is there already, with `workers` (≥ 1) threads.
    pub fn with_session(
        spec: Arc<ModelSpec>,
        session: Box<dyn Session>,
        info: BackendInfo,
        workers: usize,
    ) -> Result<Self, InferError> {
        let shared = Arc::new(Shared { state: Mutex::default(), work: Condvar::new() });
        let fork = session.fork();
        let mut engine = Self { shared, spec, info, threads: Vec::new() };
        let mut first = Some(session);
        for number in 0..workers.max(1) {
            let name = format!("infer-{number}");
            let worker = Worker {
                shared: engine.shared.clone(),
                spec: engine.spec.clone(),
                backend: engine.info.kind,
                session: first.take(),
                fork: fork.clone(),
            };
            let thread = std::thread::Builder::new().name(name.clone()).spawn(move || worker.run());
            // When one fails, dropping `engine` stops those that were started.
            engine.threads.push(thread.map_err(|error| InferError::Thread { name, reason: error.to_string() })?);
        }
        Ok(engine)
    }

    /// What really runs the model.
    pub fn info(&self) -> BackendInfo {
        self.info.clone()
    }

    /// The model.
    pub fn spec(&self) -> &Arc<ModelSpec> {
        &self.spec
    }

    /// Inferences that can run at the same time: a camera that keeps as many jobs in flight uses them all.
    pub fn workers(&self) -> usize {
        self.threads.len()
    }

    /// A camera's way in, with at most `depth` (≥ 1) jobs in flight.
    pub fn lane(&self, name: &str, depth: usize) -> Lane {
        let done = Arc::new(Condvar::new());
        let depth = depth.max(1);
        let mut state = self.shared.lock();
        let id = state.next_id;
        state.next_id += 1;
        let slots = VecDeque::with_capacity(depth);
        state.lanes.push(LaneState { id, slots, first: 0, done: done.clone(), notify: None });
        drop(state);
        Lane { shared: self.shared.clone(), id, name: name.to_owned(), depth, done }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let notified = self.shared.lock().close();
        self.shared.work.notify_all();
        for notify in notified {
            notify();
        }
        for thread in self.threads.drain(..) {
            // A worker catches what a session throws; nothing else in it can panic.
            let _ = thread.join();
        }
    }
}

/// A camera's way into the engine. Jobs come back in the order in which they went in.
pub struct Lane {
    shared: Arc<Shared>,
    id: u64,
    name: String,
    depth: usize,
    done: Arc<Condvar>,
}

impl Lane {
    /// Hands in a job; returns at once. The job (and its buffers) is lost when there is an error, so ask
    /// [`Self::in_flight`] first.
    ///
    /// # Errors
    /// [`InferError::LaneFull`] or [`InferError::Stopped`].
    pub fn submit(&mut self, job: Job) -> Result<(), InferError> {
        let mut state = self.shared.lock();
        if state.closed {
            return Err(InferError::Stopped);
        }
        let lane = state.lane(self.id).ok_or(InferError::Stopped)?;
        if lane.slots.len() >= self.depth {
            return Err(InferError::LaneFull { lane: self.name.clone(), depth: self.depth });
        }
        lane.slots.push_back(Slot::Waiting(job));
        state.waiting += 1;
        drop(state);
        self.shared.work.notify_all();
        Ok(())
    }

    /// Jobs handed in and not taken back yet.
    pub fn in_flight(&self) -> usize {
        self.shared.lock().lane(self.id).map_or(0, |lane| lane.slots.len())
    }

    /// Jobs that [`Self::submit`] takes at most before one is taken back.
    pub fn depth(&self) -> usize {
        self.depth
    }

    /// The oldest job handed in, waiting for it at most `timeout`; `None` when it is not done by then, or when there is
    /// none. After the engine's end, what it did not run comes back with [`InferError::Stopped`].
    pub fn wait(&mut self, timeout: Duration) -> Option<Job> {
        let deadline = Instant::now() + timeout;
        let mut state = self.shared.lock();
        loop {
            let lane = state.lane(self.id)?;
            if matches!(lane.slots.front()?, Slot::Done(_)) {
                lane.first += 1;
                return match lane.slots.pop_front() {
                    Some(Slot::Done(job)) => Some(job),
                    _ => None,
                };
            }
            let left = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
            state = self.done.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// `notify` is called on a worker's thread each time a job of this lane is done; it must return at once. For a
    /// thread that waits for something else besides.
    pub fn on_done(&mut self, notify: Arc<dyn Fn() + Send + Sync>) {
        if let Some(lane) = self.shared.lock().lane(self.id) {
            lane.notify = Some(notify);
        }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        if let Some(index) = state.lanes.iter().position(|lane| lane.id == self.id) {
            let lane = state.lanes.remove(index);
            let waiting = lane.slots.iter().filter(|slot| matches!(slot, Slot::Waiting(_))).count();
            state.waiting -= waiting;
            // The turn stays with the lane that had it.
            state.turn -= usize::from(state.turn > index);
        }
    }
}

struct Worker {
    shared: Arc<Shared>,
    spec: Arc<ModelSpec>,
    backend: BackendKind,
    /// `None` until more frames wait than the other workers can take.
    session: Option<Box<dyn Session>>,
    fork: Fork,
}

impl Worker {
    fn run(mut self) {
        if self.session.is_none() && !self.wait_until_needed() {
            return;
        }
        let shared = self.shared.clone();
        let mut notify: Option<Notify> = None;
        let mut state = shared.lock();
        while !state.closed {
            // Finishing a job (below) and taking the next one happen under one lock, and an idle worker counts as idle
            // before anybody hears of the job: else the lane's next job would look like one too many for the workers.
            let taken = state.take();
            state.idle += usize::from(taken.is_none());
            drop(state);
            if let Some(notify) = notify.take() {
                notify();
            }
            if let Some((lane, ticket, mut job)) = taken {
                self.infer(&mut job);
                state = shared.lock();
                notify = state.finish((lane, ticket, job));
            } else {
                state = shared.lock();
                while state.waiting == 0 && !state.closed {
                    state = shared.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                state.idle -= 1;
            }
        }
        drop(state);
        if let Some(notify) = notify {
            notify();
        }
    }

    /// Waits until more frames wait than the other workers can take, then makes a session. False: no work for this one.
    fn wait_until_needed(&mut self) -> bool {
        let shared = self.shared.clone();
        let mut state = shared.lock();
        while state.waiting <= state.idle + state.forking {
            if state.closed {
                return false;
            }
            state = shared.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.forking += 1;
        drop(state);
        self.session = self.make_session();
        shared.lock().forking -= 1;
        self.session.is_some()
    }

    fn make_session(&self) -> Option<Box<dyn Session>> {
        let started = Instant::now();
        match catch_unwind(AssertUnwindSafe(|| (self.fork)())) {
            Ok(Ok(session)) => {
                tracing::debug!("one more {} session after {:?}", self.backend, started.elapsed());
                Some(session)
            }
            Ok(Err(error)) => {
                tracing::warn!("no further session, inference stays with those there are: {error}");
                None
            }
            Err(_) => {
                tracing::warn!("no further session, inference stays with those there are: {} panicked", self.backend);
                None
            }
        }
    }

    /// Runs the model and decodes its output.
    fn infer(&mut self, job: &mut Job) {
        let Some(session) = &mut self.session else { return };
        let Job { input, params, candidates, decode: decode_time, .. } = job;
        *decode_time = Duration::ZERO;
        let started = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            session.run(input, &mut |output| {
                let begun = Instant::now();
                decode(&self.spec, output, params, candidates);
                *decode_time = begun.elapsed();
            })
        }));
        job.infer = started.elapsed().saturating_sub(job.decode);
        job.outcome = outcome.unwrap_or_else(|_| {
            Err(InferError::Run { backend: self.backend, reason: "it panicked over this frame".into() })
        });
        if job.outcome.is_err() {
            job.candidates.clear();
        }
    }
}
