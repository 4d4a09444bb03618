//! The engine's own thread: it collects events, asks the machine, and carries out the effects.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::Level;

use crate::infer::backend::load::{Backends, Found, LoadReason, Loaded};
use crate::infer::engine::crashes::CrashCounter;
use crate::infer::engine::event::{Effect, Event, Outcome};
use crate::infer::engine::limits::Limits;
use crate::infer::engine::machine::Machine;
use crate::infer::engine::scheduler::Notify;
use crate::infer::engine::shared::{Message, Shared};
use crate::infer::engine::status::StatusCell;
use crate::infer::engine::threads::{NO_WORKER, Phase};
use crate::infer::engine::worker::{self, Common};
use crate::infer::{InferError, Session};
use crate::model::{MAX_BATCH, ModelSpec};
use crate::types::{BackendInfo, BackendKind, BuildProgress, EngineStatus, SessionLayout};

/// How often the log reports that a build goes on.
const BUILD_NEWS: Duration = Duration::from_secs(30);

/// A build of a GPU engine; dropping it ends the building process.
struct Build {
    kind: BackendKind,
    started: Instant,
    expected: Option<Duration>,
    logged: Instant,
    phase: Arc<Mutex<String>>,
    cancel: Arc<AtomicBool>,
}

impl Build {
    fn phase(&self) -> String {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Build {
    fn drop(&mut self) {
        self.cancel.store(true, Ordering::Relaxed);
    }
}

/// What serves, or served last.
struct Serving {
    common: Common,
    info: BackendInfo,
    layouts: Vec<SessionLayout>,
    /// Of an inference.
    timeout: Duration,
}

pub(super) struct Run {
    shared: Arc<Shared>,
    spec: Arc<ModelSpec>,
    status: Arc<StatusCell>,
    backends: Arc<dyn Backends>,
    limits: Limits,
    crashes: CrashCounter,
    /// A build under way is a part of the start.
    waits_for_build: bool,
    machine: Machine,
    /// The result of the attempt that the machine is deciding on.
    found: Option<Found>,
    /// Attempt and thread of the load under way.
    loader: Option<(u64, u64)>,
    build: Option<Build>,
    serving: Option<Serving>,
    next_worker: u64,
}

impl Run {
    pub(super) fn new(
        shared: Arc<Shared>,
        spec: Arc<ModelSpec>,
        status: Arc<StatusCell>,
        backends: Arc<dyn Backends>,
        limits: Limits,
        crashes: CrashCounter,
        waits_for_build: bool,
    ) -> Self {
        Self {
            shared,
            spec,
            status,
            machine: Machine::new(backends.order(), limits.clone()),
            backends,
            limits,
            crashes,
            waits_for_build,
            found: None,
            loader: None,
            build: None,
            serving: None,
            next_worker: 0,
        }
    }

    /// Runs until the engine is closed or cancelled.
    pub(super) fn run(mut self) {
        if !self.is_over() {
            let crashes = self.crashes.counts(self.backends.order());
            self.handle(Event::Start { crashes });
        }
        while self.wait() {
            self.step();
        }
        // First of all, because whatever follows may be slow: a process that is killed then has not crashed.
        self.handle(Event::Cancelled);
        self.build = None;
        self.backends.stop();
        self.shared.lock().begun.get_or_insert(Err(InferError::Stopped));
        self.shared.watch.notify_all();
    }

    fn is_over(&self) -> bool {
        let state = self.shared.lock();
        state.closed || state.cancelled
    }

    /// Waits until something is to be done. False: the engine ends.
    fn wait(&mut self) -> bool {
        let now = Instant::now();
        let check = self.limits.check;
        let next = self
            .machine
            .next_retry()
            .map_or(check, |due| due.saturating_duration_since(now).clamp(Duration::from_millis(1), check));
        let state = self.shared.lock();
        if !state.closed && !state.cancelled && state.inbox.is_empty() && state.record.unseen.is_none() {
            drop(Shared::wait_for(&self.shared.watch, state, next));
        } else {
            drop(state);
        }
        !self.is_over()
    }

    fn step(&mut self) {
        let mut state = self.shared.lock();
        let (ended, inbox) = (state.threads.take_ended(), std::mem::take(&mut state.inbox));
        drop(state);
        for thread in ended {
            // It catches what a runtime throws; nothing else in it can panic.
            let _ = thread.join();
        }
        for message in inbox {
            match message {
                Message::Loaded { attempt, found } => self.loaded(attempt, found),
                Message::BuildEnded(outcome) => self.build_ended(outcome),
            }
        }
        self.check_threads();
        if let Some(build) = self.build.as_mut().filter(|build| build.logged.elapsed() >= BUILD_NEWS) {
            build.logged = Instant::now();
            let (elapsed, phase) = (build.started.elapsed(), build.phase());
            tracing::info!("{}: its engine has been building for {elapsed:.0?} ({phase})", build.kind);
        }
    }

    fn loaded(&mut self, attempt: u64, found: Result<Found, InferError>) {
        let outcome = match &found {
            Ok(Found::Session(_)) => Outcome::Session,
            Ok(Found::Build(_)) => Outcome::Build,
            Err(error) => Outcome::Error(error.clone()),
        };
        self.found = found.ok();
        self.handle(Event::Loaded { attempt, outcome });
        if let Some(unwanted) = self.found.take() {
            // Closing a session can take seconds.
            let leaving = Phase::Leaving { since: Instant::now() };
            let _ = self.shared.spawn("infer-close".into(), NO_WORKER, leaving, move |_| drop(unwanted));
        }
    }

    fn build_ended(&mut self, outcome: Result<(), InferError>) {
        if let (Some(build), Ok(())) = (self.build.take(), &outcome) {
            tracing::info!("{}: its engine was built in {:.0?}", build.kind, build.started.elapsed());
        }
        self.handle(Event::BuildEnded(outcome));
    }

    /// Sees threads that hang, jobs that failed and frames that were served.
    fn check_threads(&mut self) {
        let (kind, load) = (self.machine.kind(), self.limits.load);
        let infer = self.serving.as_ref().map_or(load, |serving| serving.timeout);
        let mut notified: Vec<Notify> = Vec::new();
        let mut events = Vec::new();
        let mut state = self.shared.lock();
        let abandoned = state.threads.abandon_late(Instant::now(), infer, &self.limits);
        let hung = state.threads.hung();
        for late in abandoned {
            if let Some((attempt, _)) = self.loader.take_if(|(_, thread)| *thread == late.thread) {
                // The loader drops a late session by itself.
                state.attempt = None;
                let backend = self.machine.loading().unwrap_or(kind);
                let outcome = Outcome::Error(InferError::Hung { backend, limit: load });
                events.push(Event::Loaded { attempt, outcome });
                continue;
            }
            let limit = if late.tickets.is_empty() { load } else { infer };
            for ticket in late.tickets {
                notified.extend(state.scheduler.lose(ticket, InferError::Hung { backend: kind, limit }));
            }
            if late.serves {
                events.push(Event::WorkerHung { hung, limit });
            }
        }
        let failures = state.record.failures;
        events.extend(state.record.unseen.take().map(|error| Event::Failed { failures, error }));
        events.push(Event::Tick { served: state.record.served, failures, hung });
        drop(state);
        notified.iter().for_each(|notify| notify());
        for event in events {
            self.handle(event);
        }
    }

    fn handle(&mut self, event: Event) {
        for effect in self.machine.handle(Instant::now(), event) {
            self.perform(effect);
        }
        self.publish();
        if let Some(begun) = self.machine.begun(self.waits_for_build) {
            let mut state = self.shared.lock();
            if state.begun.is_none() {
                state.begun = Some(begun);
                self.shared.watch.notify_all();
            }
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Load { attempt, kind, reason } => self.load(attempt, kind, reason),
            Effect::Abandon => {
                self.loader = None;
                self.shared.lock().attempt = None;
            }
            Effect::Serve { kind, halt_on_failure } => {
                if let Err(error) = self.serve(kind, halt_on_failure) {
                    self.handle(Event::NoWorker(error));
                }
            }
            Effect::Build { kind } => self.start_build(kind),
            Effect::StartWorker => self.start_worker(),
            Effect::Halt => self.shared.lock().record.halted = true,
            Effect::Resume => {
                let mut state = self.shared.lock();
                (state.record.halted, state.record.halt_on_failure) = (false, false);
                let alone = state.threads.workers() == 0;
                drop(state);
                self.shared.work.notify_all();
                if alone {
                    self.start_worker();
                }
            }
            Effect::Refuse(error) => {
                let notified = self.shared.lock().scheduler.refuse(error);
                notified.iter().for_each(|notify| notify());
            }
            Effect::Admit => self.shared.lock().scheduler.admit(),
            Effect::Remember(mark) => self.crashes.mark(mark),
            Effect::Log(Level::ERROR, text) => tracing::error!("{text}"),
            Effect::Log(_, text) => tracing::warn!("{text}"),
        }
    }

    fn publish(&self) {
        let (serving, fallbacks) = (self.serving.as_ref(), self.machine.fallbacks());
        self.status.set(EngineStatus {
            state: self.machine.state,
            reason: self.machine.reason.clone(),
            backend: serving.map(|serving| BackendInfo { fallbacks, ..serving.info.clone() }),
            layouts: serving.map_or_else(Vec::new, |serving| serving.layouts.clone()),
            build: self.build.as_ref().map(|build| BuildProgress {
                backend: build.kind,
                phase: build.phase(),
                // Whole seconds, so that the status changes once a second at most.
                elapsed: Duration::from_secs(build.started.elapsed().as_secs()),
                expected: build.expected,
            }),
            ended: self.machine.ended,
        });
    }

    fn load(&mut self, attempt: u64, kind: BackendKind, reason: LoadReason) {
        self.shared.lock().attempt = Some(attempt);
        let (backends, shared) = (self.backends.clone(), self.shared.clone());
        let loading = Phase::Loading { since: Instant::now() };
        let loader = self.shared.spawn("infer-load".into(), NO_WORKER, loading, move |id| {
            let found = backends.load(kind, reason);
            let mut state = shared.lock();
            state.threads.set_phase(id, Phase::Leaving { since: Instant::now() });
            if state.attempt.take_if(|wanted| *wanted == attempt).is_some() {
                state.inbox.push(Message::Loaded { attempt, found });
            } else {
                // Without the lock, because closing a session can take seconds.
                drop(state);
                drop(found);
            }
        });
        match loader {
            Ok(thread) => self.loader = Some((attempt, thread)),
            Err(error) => self.shared.send(Message::Loaded { attempt, found: Err(error) }),
        }
    }

    fn start_build(&mut self, kind: BackendKind) {
        let Some(Found::Build(builder)) = self.found.take() else { return };
        let now = Instant::now();
        let expected = builder.expected();
        let takes = expected.map_or("minutes".to_owned(), |expected| format!("about {expected:?}, as the last time"));
        tracing::info!("{kind}: its engine is being built, which takes {takes}");
        let build = Build { kind, started: now, expected, logged: now, phase: Arc::default(), cancel: Arc::default() };
        let (shared, phase, cancel) = (self.shared.clone(), build.phase.clone(), build.cancel.clone());
        // A build is never late here: it has a limit of its own.
        let thread = self.shared.spawn("infer-build".into(), NO_WORKER, Phase::Resting, move |_| {
            let set = |text: &str| text.clone_into(&mut phase.lock().unwrap_or_else(PoisonError::into_inner));
            let outcome = builder.build(&set, &cancel);
            // Before the thread counts as ended, so that nothing keeps the builder after the engine's end.
            drop(builder);
            shared.send(Message::BuildEnded(outcome));
        });
        if let Err(error) = thread {
            self.shared.send(Message::BuildEnded(Err(error)));
        }
        self.build = Some(build);
    }

    /// The session that was just loaded replaces what served before: each older worker ends after the jobs that it has.
    fn serve(&mut self, kind: BackendKind, halt_on_failure: bool) -> Result<(), InferError> {
        let Some(Found::Session(loaded)) = self.found.take() else { return Ok(()) };
        let Loaded { session, version, warm_up, nodes, layouts, .. } = loaded;
        let workers = layouts.first().map_or(1, |best| best.sessions).max(1);
        let common = Common {
            shared: self.shared.clone(),
            spec: self.spec.clone(),
            backend: kind,
            fork: session.fork(),
            batch: session.batch().clamp(1, MAX_BATCH),
            batch_wait: self.backends.batch_wait(),
        };
        self.shared.lock().next_generation(halt_on_failure);
        self.shared.workers.store(workers, Ordering::Relaxed);
        self.start_numbered(&common, Some(session), Phase::Idle)?;
        for _ in 1..workers {
            if let Err(error) = self.start_numbered(&common, None, Phase::Resting) {
                tracing::warn!("{error}; inference goes on with fewer sessions");
            }
        }
        self.shared.work.notify_all();
        if let Some(before) = &self.serving {
            tracing::warn!("inference goes on with {kind} ({version}) instead of {}", before.info.kind);
        }
        let info = BackendInfo { kind, version, fallbacks: Vec::new(), nodes };
        self.serving = Some(Serving { common, info, layouts, timeout: self.limits.inference(kind, warm_up) });
        Ok(())
    }

    fn start_worker(&mut self) {
        let Some(common) = self.serving.as_ref().map(|serving| serving.common.clone()) else { return };
        if let Err(error) = self.start_numbered(&common, None, Phase::Loading { since: Instant::now() }) {
            tracing::error!("{error}");
        }
    }

    fn start_numbered(
        &mut self,
        common: &Common,
        session: Option<Box<dyn Session>>,
        phase: Phase,
    ) -> Result<(), InferError> {
        let number = self.next_worker;
        self.next_worker += 1;
        worker::start(common, number, session, phase)
    }
}
