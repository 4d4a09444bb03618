//! What the engine decides, as a pure machine: an event goes in, effects come out. Time is an argument; there are no threads,
//! locks or files here, so each decision is tested by a script of events (`machine_tests.rs`).
//!
//! Backends are named by their place in the fallback order, best first. At most one load (an *attempt*) and one build of a
//! GPU engine are under way; a result that belongs to an older attempt changes nothing.

use std::time::{Duration, Instant};

use tracing::Level;

use crate::infer::InferError;
use crate::infer::backend::load::LoadReason;
use crate::infer::backend::table::on_gpu;
use crate::infer::engine::crashes::{CRASHES, Mark};
use crate::infer::engine::event::{Effect, Event, Outcome};
use crate::infer::engine::limits::Limits;
use crate::types::{BackendKind, Ended, EngineState};

struct Entry {
    kind: BackendKind,
    /// Losses since it last served for long; each doubles the wait before a retry.
    losses: u32,
    /// When it is tried again while a worse one serves.
    retry_at: Option<Instant>,
    /// Why it does not serve.
    fallback_reason: Option<String>,
}

struct Attempt {
    id: u64,
    index: usize,
    reason: LoadReason,
}

struct Build {
    index: usize,
    ended: bool,
}

#[derive(Default)]
pub(super) struct Machine {
    limits: Limits,
    order: Vec<Entry>,
    /// What serves, or served last.
    current: usize,
    /// A backend has served in this process.
    has_served: bool,
    attempt: Option<Attempt>,
    attempts: u64,
    build: Option<Build>,
    /// The backend whose start the crash counter counts until it has served.
    counted: Option<BackendKind>,
    /// Hangs since the last frame that worked.
    hangs: u32,
    /// No worse backend works, so failures do not fall back any more.
    exhausted: bool,
    /// Jobs are refused until a hung thread comes back.
    refusing: bool,
    serves_since: Option<Instant>,
    served_reported: bool,
    seen_served: u64,
    stopped: bool,
    pub(super) state: EngineState,
    pub(super) reason: Option<String>,
    pub(super) ended: Option<Ended>,
    start_error: Option<InferError>,
    effects: Vec<Effect>,
}

impl Machine {
    pub(super) fn new(kinds: &[BackendKind], limits: Limits) -> Self {
        let entry = |&kind| Entry { kind, losses: 0, retry_at: None, fallback_reason: None };
        Self { limits, order: kinds.iter().map(entry).collect(), ..Self::default() }
    }

    pub(super) fn handle(&mut self, now: Instant, event: Event) -> Vec<Effect> {
        if self.ended.is_none() && !self.stopped {
            match event {
                Event::Start { crashes } => self.start(now, &crashes),
                Event::Loaded { attempt, outcome } => self.loaded(now, attempt, outcome),
                Event::NoWorker(error) => {
                    self.end(Ended::NoBackend, error.sentence(self.kind()));
                    self.start_error = Some(error);
                }
                Event::BuildEnded(outcome) => self.build_ended(outcome),
                Event::WorkerHung { hung, limit } => self.worker_hung(now, hung, limit),
                Event::Failed { failures, error } => self.failed(now, failures, &error),
                Event::Tick { served, failures, hung } => self.tick(now, served, failures, hung),
                Event::Cancelled => {
                    self.stopped = true;
                    self.uncount();
                }
            }
        }
        std::mem::take(&mut self.effects)
    }

    /// Why each backend better than the present one does not serve.
    pub(super) fn fallbacks(&self) -> Vec<String> {
        self.order.iter().take(self.current).filter_map(|entry| entry.fallback_reason.clone()).collect()
    }

    /// What serves, or served last.
    pub(super) fn kind(&self) -> BackendKind {
        self.order.get(self.current).map_or(BackendKind::Tract, |entry| entry.kind)
    }

    /// The backend that is being loaded.
    pub(super) fn loading(&self) -> Option<BackendKind> {
        self.attempt.as_ref().and_then(|attempt| Some(self.order.get(attempt.index)?.kind))
    }

    /// When a better backend is to be tried again.
    pub(super) fn next_retry(&self) -> Option<Instant> {
        self.order.iter().take(self.current).filter_map(|entry| entry.retry_at).min()
    }

    /// How the start ended; `None`: it goes on. With `waits_for_build` a build under way is a part of the start.
    pub(super) fn begun(&self, waits_for_build: bool) -> Option<Result<(), InferError>> {
        match (&self.start_error, self.state) {
            (Some(error), _) => Some(Err(error.clone())),
            (None, EngineState::Loading) => None,
            (None, EngineState::Building) if waits_for_build => None,
            _ => Some(Ok(())),
        }
    }

    fn log(&mut self, level: Level, text: String) {
        self.effects.push(Effect::Log(level, text));
    }

    fn start(&mut self, now: Instant, crashes: &[u32]) {
        let crashed = |index: &usize| crashes.get(*index).copied().unwrap_or_default() >= CRASHES;
        let first = (0..self.order.len()).find(|index| !crashed(index)).unwrap_or(self.order.len().saturating_sub(1));
        for (index, crashes) in crashes.iter().enumerate().take(first) {
            let kind = self.order[index].kind;
            let why = format!(
                "{kind}: left out, because the last {crashes} starts on it crashed before it served (safe start)"
            );
            self.log(Level::WARN, format!("backend {why}"));
            self.order[index].fallback_reason = Some(why);
            self.order[index].losses = crashes - CRASHES;
            self.retry_later(index, now);
        }
        self.load(first, LoadReason::Start);
    }

    fn load(&mut self, index: usize, reason: LoadReason) {
        let Some(kind) = self.order.get(index).map(|entry| entry.kind) else { return };
        self.attempts += 1;
        let attempt = self.attempts;
        self.attempt = Some(Attempt { id: attempt, index, reason });
        self.uncount();
        self.counted = Some(kind);
        self.effects.push(Effect::Remember(Mark::Started(kind)));
        self.effects.push(Effect::Load { attempt, kind, reason });
    }

    /// Whatever happens to the process from now on, it is not the fault of the backend that was being started.
    fn uncount(&mut self) {
        self.effects.extend(self.counted.take().map(|kind| Effect::Remember(Mark::Orderly(kind))));
    }

    fn loaded(&mut self, now: Instant, id: u64, outcome: Outcome) {
        let Some(attempt) = self.attempt.take_if(|attempt| attempt.id == id) else { return };
        match outcome {
            Outcome::Session => self.serve(now, attempt.index),
            Outcome::Build => self.must_build(&attempt),
            Outcome::Error(error) => self.not_loaded(now, &attempt, error),
        }
        self.load_what_was_built();
    }

    fn serve(&mut self, now: Instant, index: usize) {
        (self.current, self.has_served) = (index, true);
        (self.hangs, self.exhausted, self.refusing) = (0, false, false);
        (self.serves_since, self.served_reported, self.seen_served) = (Some(now), false, 0);
        (self.state, self.reason) = (EngineState::Serving, None);
        for entry in self.order.iter_mut().skip(index) {
            entry.retry_at = None;
        }
        self.order[index].fallback_reason = None;
        self.effects.push(Effect::Serve { kind: self.kind(), halt_on_failure: self.can_fall_back() });
    }

    /// The engine is built in another process; the next backend serves meanwhile.
    fn must_build(&mut self, attempt: &Attempt) {
        self.uncount();
        let (index, kind) = (attempt.index, self.order[attempt.index].kind);
        self.build = Some(Build { index, ended: false });
        self.order[index].fallback_reason = Some(format!("{kind}: its engine is being built"));
        self.effects.push(Effect::Build { kind });
        if !self.has_served {
            match index + 1 < self.order.len() {
                true => self.load(index + 1, LoadReason::Start),
                false => self.state = EngineState::Building,
            }
        }
    }

    fn build_ended(&mut self, outcome: Result<(), InferError>) {
        let Some(build) = &mut self.build else { return };
        build.ended = true;
        if let Err(error) = outcome {
            let entry = &mut self.order[build.index];
            let sentence = error.sentence(entry.kind);
            entry.fallback_reason = Some(sentence.clone());
            self.log(Level::ERROR, format!("backend {sentence}"));
        }
        self.load_what_was_built();
    }

    /// Also after a failed build: the load asks for one more build, or says why there is none.
    fn load_what_was_built(&mut self) {
        if self.attempt.is_none()
            && let Some(build) = self.build.take_if(|build| build.ended)
        {
            self.load(build.index, LoadReason::Built);
        }
    }

    fn not_loaded(&mut self, now: Instant, attempt: &Attempt, error: InferError) {
        let index = attempt.index;
        let sentence = error.sentence(self.order[index].kind);
        self.uncount();
        if error.device_lost() && self.has_served {
            return self.end(Ended::DeviceLost, sentence);
        }
        self.order[index].fallback_reason = Some(sentence.clone());
        let wait = (attempt.reason == LoadReason::Retry || error.is_transient()).then(|| self.retry_later(index, now));
        let frames_wait = matches!(attempt.reason, LoadReason::Start | LoadReason::Fallback) || !self.has_served;
        if self.order.len() > 1 {
            let again = wait.map(|wait| format!("; it is tried again in {wait:?}")).unwrap_or_default();
            self.log(Level::WARN, format!("backend {sentence}{again}"));
        }
        if frames_wait {
            self.load_next(index, sentence, error);
        }
    }

    /// Nothing serves, and the backend at `index` does not either.
    fn load_next(&mut self, index: usize, sentence: String, error: InferError) {
        if index + 1 < self.order.len() {
            let reason = if self.has_served { LoadReason::Fallback } else { LoadReason::Start };
            self.load(index + 1, reason);
        } else if self.has_served {
            // No worse backend works: stay with the one that failed.
            self.exhausted = true;
            self.state = EngineState::Degraded;
            self.effects.push(Effect::Resume);
        } else if self.build.is_some() {
            self.state = EngineState::Building;
        } else {
            if self.state == EngineState::Building {
                self.log(Level::ERROR, format!("inference cannot start: {sentence}"));
            }
            self.start_error = Some(error);
            self.fail(Ended::NoBackend, sentence);
        }
    }

    fn can_fall_back(&self) -> bool {
        self.current + 1 < self.order.len() && !self.exhausted
    }

    fn falling_back(&self) -> bool {
        self.attempt.as_ref().is_some_and(|attempt| attempt.reason == LoadReason::Fallback)
    }

    fn failed(&mut self, now: Instant, failures: u32, error: &InferError) {
        let given_up = on_gpu(self.kind()) && failures >= self.limits.failures;
        if error.device_lost() || (given_up && !self.can_fall_back()) {
            self.end(Ended::DeviceLost, error.sentence(self.kind()));
        } else if self.can_fall_back() {
            self.fall_back(now, error);
        } else {
            self.degraded(error);
        }
    }

    fn worker_hung(&mut self, now: Instant, hung: usize, limit: Duration) {
        let error = InferError::Hung { backend: self.kind(), limit };
        self.hangs += 1;
        let full = hung >= self.limits.hung as usize;
        self.log(Level::ERROR, error.to_string());
        if (self.hangs > 1 || full || self.falling_back()) && self.can_fall_back() {
            self.fall_back(now, &error);
        } else if !full {
            // The first hang is retried with a new session, as a failure is.
            self.degraded(&error);
            self.effects.push(Effect::StartWorker);
        } else if on_gpu(self.kind()) {
            self.end(Ended::DeviceLost, error.sentence(self.kind()));
        } else {
            self.degraded(&error);
            self.refusing = true;
            self.effects.push(Effect::Refuse(error));
        }
    }

    /// The present backend fails; the next one is loaded while frames wait.
    fn fall_back(&mut self, now: Instant, error: &InferError) {
        if self.falling_back() {
            return;
        }
        let sentence = error.sentence(self.kind());
        self.effects.push(Effect::Halt);
        let wait = self.retry_later(self.current, now);
        self.log(
            Level::ERROR,
            format!("backend {sentence}; the next one is loaded, this one is tried again in {wait:?}"),
        );
        self.order[self.current].fallback_reason = Some(format!("{sentence} while it ran"));
        (self.state, self.reason) = (EngineState::Loading, Some(sentence));
        // The retry of a better backend that was under way is put off: frames wait now.
        if let Some(attempt) = self.attempt.take() {
            self.effects.push(Effect::Abandon);
            self.retry_later(attempt.index, now);
        }
        self.load(self.current + 1, LoadReason::Fallback);
    }

    fn degraded(&mut self, error: &InferError) {
        if self.state != EngineState::Degraded {
            self.log(Level::ERROR, format!("inference fails: {error}"));
        }
        (self.state, self.reason) = (EngineState::Degraded, Some(error.sentence(self.kind())));
    }

    /// Only a new process can infer again.
    fn end(&mut self, ended: Ended, reason: String) {
        self.log(Level::ERROR, format!("inference has ended in this process: {reason}"));
        self.fail(ended, reason);
    }

    fn fail(&mut self, ended: Ended, reason: String) {
        self.uncount();
        (self.state, self.reason, self.ended) = (EngineState::Failed, Some(reason.clone()), Some(ended));
        self.effects.push(Effect::Halt);
        self.effects.push(Effect::Refuse(InferError::Ended { reason }));
    }

    /// The backend at `index` is tried again after a wait, which is returned and doubles each time.
    fn retry_later(&mut self, index: usize, now: Instant) -> Duration {
        let Limits { retry_first, retry_max, .. } = self.limits;
        let entry = &mut self.order[index];
        let wait = retry_first.saturating_mul(1_u32.checked_shl(entry.losses).unwrap_or(u32::MAX)).min(retry_max);
        entry.losses = (entry.losses + 1).min(31);
        entry.retry_at = Some(now + wait);
        wait
    }

    fn tick(&mut self, now: Instant, served: u64, failures: u32, hung: usize) {
        if self.refusing && hung < self.limits.hung as usize {
            self.refusing = false;
            self.effects.extend([Effect::Admit, Effect::StartWorker]);
        }
        let more = served > std::mem::replace(&mut self.seen_served, served);
        if more && failures == 0 {
            self.hangs = 0;
            if self.state == EngineState::Degraded && !self.refusing {
                self.log(Level::WARN, "inference works again".into());
                (self.state, self.reason) = (EngineState::Serving, None);
            }
        }
        if self.state != EngineState::Serving {
            return;
        }
        let age = self.serves_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        let (enough, long) = self.limits.served;
        if !self.served_reported && (served >= enough || age >= long) {
            self.served_reported = true;
            self.counted.take_if(|kind| *kind == self.order[self.current].kind);
            self.effects.push(Effect::Remember(Mark::Served(self.kind())));
        }
        if age >= self.limits.settled {
            self.order[self.current].losses = 0;
        }
        let due = |entry: &Entry| entry.retry_at.is_some_and(|at| at <= now);
        if self.attempt.is_none()
            && let Some(index) = self.order.iter().take(self.current).position(due)
        {
            self.load(index, LoadReason::Retry);
        }
    }
}
