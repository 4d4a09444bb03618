//! The supervisor: sees inferences that fail or hang, and brings the engine to another backend and back.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::crew::{NO_WORKER, Patience, Phase};
use super::ladder::{Loaded, Rungs, attempt};
use super::lanes::{Notify, Shared};
use super::policy::{Limits, Policy, Verdict};
use super::starts::Starts;
use super::status::StatusCell;
use super::worker::{self, Common};
use super::{Fork, InferError};
use crate::model::ModelSpec;
use crate::types::{BackendInfo, BackendKind, EngineState, EngineStatus};

/// Why a rung is being loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// Nothing serves yet, or what served has failed: the next lower rung follows when it does not work.
    Down,
    /// It was lost earlier, and another one serves meanwhile.
    Climb,
}

/// A rung that a thread of its own is loading.
struct Loading {
    rung: usize,
    purpose: Purpose,
    thread: u64,
    outcome: Arc<Mutex<Option<Result<Loaded, InferError>>>>,
}

pub(super) struct Supervisor {
    pub(super) shared: Arc<Shared>,
    pub(super) spec: Arc<ModelSpec>,
    pub(super) status: Arc<StatusCell>,
    rungs: Arc<dyn Rungs>,
    limits: Limits,
    policy: Policy,
    starts: Starts,
    /// Why a rung was passed over, by its place on the ladder.
    passed_over: BTreeMap<usize, String>,
    loading: Option<Loading>,
    /// The generation that serves.
    common: Option<Common>,
    info: Option<BackendInfo>,
    deadline: Duration,
    activated: Instant,
    told_served: bool,
    seen_served: u64,
    next_worker: u64,
    /// What the status says besides.
    state: EngineState,
    reason: Option<String>,
    fatal: bool,
    /// Why nothing could be started at all.
    pub(super) error: Option<InferError>,
    looked: Instant,
}

impl Supervisor {
    pub(super) fn new(
        spec: Arc<ModelSpec>,
        rungs: Arc<dyn Rungs>,
        limits: Limits,
        starts: Starts,
        status: Arc<StatusCell>,
    ) -> Self {
        let now = Instant::now();
        Self {
            shared: Shared::new(),
            spec,
            status,
            policy: Policy::new(rungs.kinds(), limits.clone()),
            rungs,
            starts,
            passed_over: BTreeMap::new(),
            loading: None,
            common: None,
            info: None,
            deadline: limits.load,
            activated: now,
            told_served: false,
            seen_served: 0,
            next_worker: 0,
            state: EngineState::Loading,
            reason: None,
            fatal: false,
            error: None,
            looked: now,
            limits,
        }
    }

    /// Begins with the best rung that earlier starts of this program did not die on.
    pub(super) fn begin(&mut self) {
        let kinds = self.rungs.kinds().to_vec();
        let first = self.starts.first(&kinds);
        for (rung, kind) in kinds.iter().enumerate().take(first) {
            let why = format!("{kind}: left out, because the last two starts on it died before it served (safe start)");
            tracing::warn!("backend {why}");
            self.passed_over.insert(rung, why);
            self.policy.lost(rung, Instant::now());
        }
        self.load(first, Purpose::Down);
        self.publish();
    }

    /// True once frames can be handed in, or it is clear that they never can.
    pub(super) fn has_begun(&self) -> bool {
        self.state != EngineState::Loading
    }

    /// A session that somebody else has loaded.
    pub(super) fn adopt(&mut self, loaded: Loaded) -> Result<(), InferError> {
        self.activate(0, loaded)?;
        self.publish();
        Ok(())
    }

    /// The thread's loop.
    pub(super) fn run(mut self) {
        while self.wait() {
            self.look();
        }
        self.starts.stopped();
    }

    /// Waits until something is to be done. False: the engine closes.
    pub(super) fn wait(&mut self) -> bool {
        let shared = self.shared.clone();
        let mut state = shared.lock();
        let looked = Instant::now();
        let next = self.policy.next_climb().map_or(self.limits.look, |due| {
            due.saturating_duration_since(looked).clamp(Duration::from_millis(1), self.limits.look)
        });
        // The loader fills its slot before it takes the lock to say so: no result is overslept.
        let loaded = self
            .loading
            .as_ref()
            .is_some_and(|loading| loading.outcome.lock().unwrap_or_else(PoisonError::into_inner).is_some());
        if !state.closed && !loaded && state.crew.record.unseen.is_none() {
            state = Shared::wait_for(&shared.watch, state, next);
            // Nobody is late when the whole process stood still, as it does after a stop signal or in a frozen container.
            if looked.elapsed() > next * 4 + Duration::from_secs(1) {
                state.crew.forgive(Instant::now());
            }
        }
        !state.closed
    }

    /// Sees what has happened and does what follows.
    pub(super) fn look(&mut self) {
        self.looked = Instant::now();
        let left = self.shared.lock().crew.take_left();
        for thread in left {
            // It catches what a runtime throws; nothing else in it can panic.
            let _ = thread.join();
        }
        if !self.fatal {
            self.see_hangs();
            self.see_failure();
            self.see_loaded();
            self.see_service();
            self.climb_if_due();
        }
        self.publish();
    }

    fn see_hangs(&mut self) {
        let patience = Patience { infer: self.deadline, load: self.limits.load };
        let mut heard: Vec<Notify> = Vec::new();
        let mut hangs = 0;
        let kind = self.kind();
        let mut state = self.shared.lock();
        for overdue in state.crew.overdue(self.looked, patience) {
            let limit = if overdue.ticket.is_some() { patience.infer } else { patience.load };
            let error = InferError::Hung { backend: kind, limit };
            if let Some(ticket) = overdue.ticket {
                heard.extend(state.lose(ticket, error));
            }
            let loads = self.loading.as_ref().is_some_and(|loading| loading.thread == overdue.thread);
            if let (true, Some(loading)) = (loads, &self.loading) {
                let backend = self.policy.kind(loading.rung).unwrap_or(kind);
                let error = InferError::Hung { backend, limit };
                loading.outcome.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(Err(error));
            }
            hangs += usize::from(overdue.serves);
        }
        let hung = state.crew.hung();
        drop(state);
        for notify in heard {
            notify();
        }
        for _ in 0..hangs {
            let error = InferError::Hung { backend: kind, limit: self.deadline };
            tracing::error!("{error}");
            match self.policy.hung(hung) {
                Verdict::Down => return self.go_down(&error),
                Verdict::Fatal => return self.end(&error),
                Verdict::Wait => self.stand_still(&error),
                Verdict::GoOn => {
                    self.degraded(&error);
                    self.replace_worker();
                }
            }
        }
        // A thread that came back has made room for another one.
        if hangs == 0 && hung < self.limits.hung as usize && self.shared.lock().refuses() {
            self.shared.lock().admit();
            self.replace_worker();
        }
    }

    fn see_failure(&mut self) {
        let (unseen, failures) = {
            let mut state = self.shared.lock();
            (state.crew.record.unseen.take(), state.crew.record.failures)
        };
        let Some(error) = unseen else { return };
        match self.policy.failed(failures, &error) {
            Verdict::Down => self.go_down(&error),
            Verdict::Fatal => self.end(&error),
            Verdict::GoOn | Verdict::Wait => self.degraded(&error),
        }
    }

    /// The present rung fails; the next one is loaded while frames wait.
    fn go_down(&mut self, error: &InferError) {
        if self.loading.as_ref().is_some_and(|loading| loading.purpose == Purpose::Down) {
            return;
        }
        let (rung, kind) = (self.policy.current(), self.kind());
        self.shared.lock().crew.halted = true;
        let wait = self.policy.lost(rung, self.looked);
        tracing::error!(
            "backend {}; the next one is loaded, and this one is tried again in {wait:?}",
            error.sentence(kind)
        );
        self.passed_over.insert(rung, format!("{} while it ran", error.sentence(kind)));
        self.state = EngineState::Loading;
        self.reason = Some(error.sentence(kind));
        // A climb that was under way is to a better rung than the one that failed; let it be the next try.
        self.loading = None;
        self.load(rung + 1, Purpose::Down);
    }

    fn degraded(&mut self, error: &InferError) {
        if self.state != EngineState::Degraded {
            tracing::error!("inference fails: {error}");
        }
        self.state = EngineState::Degraded;
        self.reason = Some(error.sentence(self.kind()));
    }

    /// Nothing can run: frames come back with the error until a hanging thread does.
    fn stand_still(&mut self, error: &InferError) {
        self.degraded(error);
        self.refuse(error.clone());
    }

    fn refuse(&self, error: InferError) {
        let heard = self.shared.lock().refuse(error);
        for notify in heard {
            notify();
        }
    }

    /// Only a new process can infer again.
    fn end(&mut self, error: &InferError) {
        let reason = error.sentence(self.kind());
        tracing::error!("inference has ended in this process: {reason}");
        self.fatal = true;
        self.state = EngineState::Failed;
        self.reason = Some(reason.clone());
        self.shared.lock().crew.halted = true;
        self.refuse(InferError::Ended { reason });
    }

    fn replace_worker(&mut self) {
        let Some(common) = &self.common else { return };
        let number = self.next_worker;
        self.next_worker += 1;
        if let Err(error) = worker::start(common, number, None, Phase::Loading { since: Instant::now() }) {
            tracing::error!("{error}");
        }
    }

    /// Loads a rung on a thread of its own, because loading may hang too.
    fn load(&mut self, rung: usize, purpose: Purpose) {
        let Some(kind) = self.policy.kind(rung) else { return };
        self.starts.starting(kind);
        let outcome = Arc::new(Mutex::new(None));
        let mut state = self.shared.lock();
        let id = state.crew.join(NO_WORKER, Phase::Loading { since: Instant::now() });
        drop(state);
        let (shared, spec, rungs, slot) = (self.shared.clone(), self.spec.clone(), self.rungs.clone(), outcome.clone());
        let thread = std::thread::Builder::new().name("infer-load".into()).spawn(move || {
            let proven = if purpose == Purpose::Climb { rungs.prove(kind) } else { Ok(()) };
            let loaded = proven.and_then(|()| attempt(&spec, kind, rungs.as_ref()));
            // When the supervisor has given this up, its verdict stays, and the session is dropped here.
            slot.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(loaded);
            drop(slot);
            shared.lock().crew.leave(id);
            shared.watch.notify_all();
        });
        let mut state = self.shared.lock();
        match thread {
            Ok(handle) => state.crew.started(id, handle),
            Err(error) => {
                state.crew.leave(id);
                let error = InferError::Thread { name: "infer-load".into(), reason: error.to_string() };
                *outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(Err(error));
            }
        }
        drop(state);
        self.loading = Some(Loading { rung, purpose, thread: id, outcome });
    }

    fn see_loaded(&mut self) {
        let done = self
            .loading
            .as_ref()
            .and_then(|loading| loading.outcome.lock().unwrap_or_else(PoisonError::into_inner).take());
        let Some(outcome) = done else { return };
        let Some(Loading { rung, purpose, .. }) = self.loading.take() else { return };
        let outcome = outcome.and_then(|loaded| self.activate(rung, loaded));
        if let Err(error) = outcome {
            self.not_loaded(rung, purpose, error);
        }
    }

    fn not_loaded(&mut self, rung: usize, purpose: Purpose, error: InferError) {
        let kind = self.policy.kind(rung).unwrap_or(self.kind());
        let sentence = error.sentence(kind);
        self.starts.failed(kind);
        if error.device_lost() && self.common.is_some() {
            return self.end(&error);
        }
        self.passed_over.insert(rung, sentence.clone());
        if purpose == Purpose::Climb {
            let wait = self.policy.lost(rung, self.looked);
            tracing::warn!("backend {sentence}; it is tried again in {wait:?}");
            return;
        }
        if self.rungs.kinds().len() > 1 {
            tracing::warn!("backend {sentence}");
        }
        if self.policy.kind(rung + 1).is_some() {
            return self.load(rung + 1, Purpose::Down);
        }
        if self.common.is_none() {
            self.state = EngineState::Failed;
            self.reason = Some(sentence);
            self.error = Some(error);
            return;
        }
        // Nothing below works: back to the one that failed.
        self.policy.exhausted();
        self.policy.give_up(self.policy.current());
        let mut state = self.shared.lock();
        state.crew.halted = false;
        state.crew.stop_on_failure = false;
        drop(state);
        self.shared.work.notify_all();
        self.state = EngineState::Degraded;
        if self.shared.lock().crew.workers() == 0 {
            self.replace_worker();
        }
    }

    /// Lets a session that has run serve, in the place of what served before: each worker of the older generation ends after
    /// the job that it has.
    fn activate(&mut self, rung: usize, loaded: Loaded) -> Result<(), InferError> {
        let Loaded { session, kind, version, warm_up } = loaded;
        let fork: Fork = session.fork();
        let workers = self.rungs.workers(kind).max(1);
        let common = Common { shared: self.shared.clone(), spec: self.spec.clone(), backend: kind, fork };
        self.policy.activated(rung);
        let mut state = self.shared.lock();
        state.crew.next_generation();
        state.crew.stop_on_failure = self.policy.can_go_down();
        state.admit();
        drop(state);
        self.shared.workers.store(workers, std::sync::atomic::Ordering::Relaxed);
        let mut first = Some(session);
        for _ in 0..workers {
            let session = first.take();
            let phase = if session.is_some() { Phase::Idle } else { Phase::Resting };
            match worker::start(&common, self.next_worker, session, phase) {
                Err(error) if phase == Phase::Resting => {
                    tracing::warn!("{error}; inference goes on with fewer sessions")
                }
                started => started?,
            }
            self.next_worker += 1;
        }
        self.shared.work.notify_all();
        self.deadline = self.limits.deadline(kind, warm_up);
        self.passed_over.remove(&rung);
        if let Some(before) = &self.info {
            tracing::warn!("inference goes on with {kind} ({version}) instead of {}", before.kind);
        }
        let fallbacks = self.passed_over.range(..rung).map(|(_, why)| why.clone()).collect();
        self.info = Some(BackendInfo { kind, version, fallbacks });
        self.common = Some(common);
        (self.state, self.reason) = (EngineState::Serving, None);
        (self.activated, self.told_served, self.seen_served) = (Instant::now(), false, 0);
        Ok(())
    }

    /// Sees that frames are inferred.
    fn see_service(&mut self) {
        let (served, failures) = {
            let state = self.shared.lock();
            (state.crew.record.served, state.crew.record.failures)
        };
        let more = served > std::mem::replace(&mut self.seen_served, served);
        if more && failures == 0 {
            self.policy.works();
            if self.state == EngineState::Degraded && !self.shared.lock().refuses() {
                tracing::warn!("inference works again");
                (self.state, self.reason) = (EngineState::Serving, None);
            }
        }
        if self.state != EngineState::Serving {
            return;
        }
        let age = self.looked.saturating_duration_since(self.activated);
        if !self.told_served && (served >= self.limits.served.0 || age >= self.limits.served.1) {
            self.told_served = true;
            self.starts.served(self.kind());
        }
        if age >= self.limits.settled {
            self.policy.settled();
        }
    }

    fn climb_if_due(&mut self) {
        if self.loading.is_some() || self.state != EngineState::Serving {
            return;
        }
        if let Some(rung) = self.policy.climb_due(self.looked) {
            self.load(rung, Purpose::Climb);
        }
    }

    fn kind(&self) -> BackendKind {
        self.policy.kind(self.policy.current()).unwrap_or(BackendKind::Tract)
    }

    fn publish(&self) {
        self.status.set(EngineStatus {
            state: self.state,
            reason: self.reason.clone(),
            backend: self.info.clone(),
            build: None,
            fatal: self.fatal,
        });
    }
}
