//! How the supervisor brings a rung to serve: loading it on a thread of its own, building what it needs in a process of its
//! own, and the swap between two frames.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Supervisor;
use crate::infer::cache::build::{Builder, Building};
use crate::infer::engine::crew::{NO_WORKER, Phase};
use crate::infer::engine::ladder::{Loaded, attempt};
use crate::infer::engine::worker::{self, Common};
use crate::infer::{Fork, InferError};
use crate::model::MAX_BATCH;
use crate::types::{BackendInfo, BuildProgress, EngineState};

/// How often the log says that a build goes on.
const BUILD_NEWS: Duration = Duration::from_secs(30);

/// Why a rung is being loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Nothing serves yet, or what served has failed: the next lower rung follows when it does not work.
    Down,
    /// It was lost earlier, and another one serves meanwhile.
    Climb,
    /// Its engine was being built, and another one serves meanwhile, or none.
    Built,
}

/// What a loader came to.
enum Found {
    /// A session that has run.
    Session(Loaded),
    /// Something must be built first.
    Build(Arc<dyn Builder>),
}

/// A rung that a thread of its own is loading.
pub(super) struct Loading {
    pub(super) rung: usize,
    pub(super) purpose: Purpose,
    pub(super) thread: u64,
    outcome: Slot,
}

type Slot = Arc<Mutex<Option<Result<Found, InferError>>>>;

impl Loading {
    pub(super) fn is_done(&self) -> bool {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// It is given up: a result that comes later is dropped.
    pub(super) fn fail(&self, error: InferError) {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(Err(error));
    }
}

impl Supervisor {
    /// Loads a rung on a thread of its own, because loading may hang too.
    pub(super) fn load(&mut self, rung: usize, purpose: Purpose) {
        let Some(kind) = self.policy.kind(rung) else { return };
        self.starts.starting(kind);
        let outcome: Slot = Arc::default();
        let (spec, rungs, slot) = (self.spec.clone(), self.rungs.clone(), outcome.clone());
        // What served has failed: cameras stand still until this rung serves.
        let frames_wait = purpose == Purpose::Down && self.common.is_some();
        let thread = self.spawn("infer-load", Phase::Loading { since: Instant::now() }, move || {
            let found = match rungs.builder(kind) {
                Ok(Some(builder)) => Ok(Found::Build(builder)),
                Ok(None) => {
                    let proven = match purpose {
                        Purpose::Climb => rungs.prove(kind),
                        _ if frames_wait => rungs.at_hand(kind),
                        _ => Ok(()),
                    };
                    proven
                        .and_then(|()| attempt(&spec, kind, rungs.as_ref()))
                        .map(|loaded| Found::Session(rungs.divide(loaded, frames_wait)))
                }
                Err(error) => Err(error),
            };
            // When the supervisor has given this up, its verdict stays, and the session is dropped here.
            slot.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(found);
        });
        let loading = Loading { rung, purpose, thread: thread.clone().unwrap_or(u64::MAX), outcome };
        if let Err(error) = thread {
            loading.fail(error);
        }
        self.loading = Some(loading);
    }

    /// Starts a thread that is no worker, but one that the engine's end waits for.
    fn spawn(&self, name: &str, phase: Phase, run: impl FnOnce() + Send + 'static) -> Result<u64, InferError> {
        let id = self.shared.lock().crew.join(NO_WORKER, phase);
        let shared = self.shared.clone();
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            run();
            shared.lock().crew.leave(id);
            shared.watch.notify_all();
        });
        let mut state = self.shared.lock();
        match thread {
            Ok(handle) => {
                state.crew.started(id, handle);
                Ok(id)
            }
            Err(error) => {
                state.crew.leave(id);
                Err(InferError::Thread { name: name.to_owned(), reason: error.to_string() })
            }
        }
    }

    pub(super) fn see_loaded(&mut self) {
        let Some(loading) = self.loading.take_if(|loading| loading.is_done()) else { return };
        let Loading { rung, purpose, outcome, .. } = loading;
        let outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner).take();
        let outcome = match outcome {
            Some(Ok(Found::Session(loaded))) => self.activate(rung, loaded),
            Some(Ok(Found::Build(builder))) => return self.start_build(rung, builder),
            Some(Err(error)) => Err(error),
            None => return,
        };
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
        if matches!(error, InferError::Load { .. } | InferError::Provider { .. }) && self.rungs.reject(kind, &sentence)
        {
            // An engine from the cache that the runtime does not take: it is built once more.
            return self.load(rung, purpose);
        }
        match purpose {
            Purpose::Climb => {
                let wait = self.policy.lost(rung, self.looked);
                tracing::warn!("backend {sentence}; it is tried again in {wait:?}");
            }
            Purpose::Built if self.common.is_some() => tracing::warn!("backend {sentence}"),
            Purpose::Built | Purpose::Down => self.try_next(rung, sentence, error),
        }
    }

    /// Nothing serves, and this rung does not either.
    fn try_next(&mut self, rung: usize, sentence: String, error: InferError) {
        if self.rungs.kinds().len() > 1 {
            tracing::warn!("backend {sentence}");
        }
        if self.policy.kind(rung + 1).is_some() {
            return self.load(rung + 1, Purpose::Down);
        }
        if self.common.is_some() {
            return self.stay();
        }
        if self.building.is_some() {
            self.state = EngineState::Building;
            return;
        }
        // Whoever waits for the start is told; when there was only a build to wait for, nobody waits any more.
        if self.state == EngineState::Building {
            tracing::error!("inference cannot start: {sentence}");
        }
        self.error = Some(error);
        self.fail(sentence);
    }

    /// Nothing below works: back to the rung that failed.
    fn stay(&mut self) {
        self.policy.exhausted();
        self.policy.give_up(self.policy.current());
        let mut state = self.shared.lock();
        state.crew.halted = false;
        state.crew.stop_on_failure = false;
        let workers = state.crew.workers();
        drop(state);
        self.shared.work.notify_all();
        self.state = EngineState::Degraded;
        if workers == 0 {
            self.replace_worker();
        }
    }

    /// Has an engine built in a process of its own, while the next rung serves.
    fn start_build(&mut self, rung: usize, builder: Arc<dyn Builder>) {
        let kind = self.policy.kind(rung).unwrap_or(self.kind());
        self.starts.failed(kind);
        let (building, run) = Building::new(rung, kind, builder);
        match building.expected {
            Some(expected) => {
                tracing::info!("{kind}: its engine is being built, which took {expected:?} the last time")
            }
            None => tracing::info!("{kind}: its engine is being built, which takes minutes"),
        }
        // No phase of a thread that may be late: a build has its own limit.
        if let Err(error) = self.spawn("infer-build", Phase::Resting, run) {
            building.fail(error);
        }
        self.building = Some(building);
        self.build_news = Instant::now();
        self.passed_over.insert(rung, format!("{kind}: its engine is being built"));
        if self.common.is_none() {
            match self.policy.kind(rung + 1) {
                Some(_) if self.loading.is_none() => self.load(rung + 1, Purpose::Down),
                _ => self.state = EngineState::Building,
            }
        }
    }

    /// Sees how a build goes.
    pub(super) fn see_build(&mut self) {
        let Some(building) = &self.building else { return };
        if building.is_done() && self.loading.is_none() {
            let Some(building) = self.building.take() else { return };
            let (rung, took) = (building.rung, building.started.elapsed());
            match building.take_outcome() {
                Some(Err(error)) => {
                    tracing::error!("backend {} after {took:.0?}", error.sentence(building.backend));
                    self.passed_over.insert(rung, error.sentence(building.backend));
                }
                _ => tracing::info!("{}: its engine is built after {took:.0?}", building.backend),
            }
            // Loading it is also what builds it once more, or says why not.
            self.load(rung, Purpose::Built);
        } else if self.build_news.elapsed() >= BUILD_NEWS {
            self.build_news = Instant::now();
            let (elapsed, phase) = (building.started.elapsed(), building.phase());
            tracing::info!("{}: its engine is being built since {elapsed:.0?} ({phase})", building.backend);
        }
    }

    pub(super) fn build_progress(&self) -> Option<BuildProgress> {
        self.building.as_ref().map(|building| BuildProgress {
            backend: building.backend,
            phase: building.phase(),
            // Whole seconds: the status is news once a second.
            elapsed: Duration::from_secs(building.started.elapsed().as_secs()),
            expected: building.expected,
        })
    }

    /// Lets a session that has run serve, in the place of what served before: each worker of the older generation ends after
    /// the job that it has.
    pub(super) fn activate(&mut self, rung: usize, loaded: Loaded) -> Result<(), InferError> {
        let Loaded { session, kind, version, warm_up, nodes, divisions } = loaded;
        let fork: Fork = session.fork();
        let workers = divisions.first().map_or_else(|| self.rungs.workers(kind), |best| best.sessions).max(1);
        self.divisions = divisions;
        let (shared, spec) = (self.shared.clone(), self.spec.clone());
        let (batch, batch_wait) = (session.batch().clamp(1, MAX_BATCH), self.rungs.batch_wait());
        let common = Common { shared, spec, backend: kind, fork, batch, batch_wait };
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
        self.rungs.accepted(kind);
        self.info = Some(BackendInfo { kind, version, fallbacks: Vec::new(), nodes });
        self.common = Some(common);
        (self.state, self.reason) = (EngineState::Serving, None);
        (self.activated, self.told_served, self.seen_served) = (Instant::now(), false, 0);
        Ok(())
    }
}
