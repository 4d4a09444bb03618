//! A worker: a thread with a session. It takes jobs until other workers replace it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use crate::infer::engine::job::Job;
use crate::infer::engine::scheduler::{Notify, Ticket};
use crate::infer::engine::shared::{Shared, State};
use crate::infer::engine::threads::Phase;
use crate::infer::{Fork, InferError, Session};
use crate::model::{Candidate, DecodeParams, Input, MAX_BATCH, ModelSpec, decode};
use crate::types::BackendKind;

/// Values of an output that are checked for being finite. A backend that computes nonsense does so everywhere, and checking
/// all values of each frame would cost more than the decoder.
const SAMPLES: usize = 1024;

/// What the workers of one backend have in common.
#[derive(Clone)]
pub(super) struct Common {
    pub(super) shared: Arc<Shared>,
    pub(super) spec: Arc<ModelSpec>,
    pub(super) backend: BackendKind,
    pub(super) fork: Fork,
    /// Frames in a run at most.
    pub(super) batch: usize,
    /// How long the first frame of a run waits for others.
    pub(super) batch_wait: Duration,
}

struct Worker {
    common: Common,
    id: u64,
    session: Option<Box<dyn Session>>,
    /// The jobs that run; the vector is reused.
    jobs: Vec<(Ticket, Job)>,
}

/// Starts a worker in the phase `Idle` (with a session), `Loading` (it makes a session at once) or `Resting` (it makes one
/// when it is needed).
pub(super) fn start(
    common: &Common,
    number: u64,
    session: Option<Box<dyn Session>>,
    phase: Phase,
) -> Result<(), InferError> {
    let generation = common.shared.lock().threads.generation;
    let (common, rests) = (common.clone(), phase == Phase::Resting);
    let shared = common.shared.clone();
    let run = move |id| Worker { id, session, jobs: Vec::with_capacity(common.batch), common }.run(rests);
    shared.spawn(format!("infer-{number}"), generation, phase, run).map(drop)
}

impl Worker {
    fn run(mut self, rests: bool) {
        let shared = self.common.shared.clone();
        let has_work = !rests || self.wait_until_needed();
        if has_work && self.session.is_none() {
            self.session = self.make_session(!rests);
        }
        let notified = if self.session.is_some() { self.serve() } else { Vec::new() };
        shared.lock().threads.set_phase(self.id, Phase::Leaving { since: Instant::now() });
        for notify in notified {
            notify();
        }
        let dropped = catch_unwind(AssertUnwindSafe(|| drop(self.session.take())));
        if dropped.is_err() {
            tracing::warn!("{} panicked while a session was closed", self.common.backend);
        }
    }

    /// Takes jobs while its generation serves. Returns whom to notify of the last ones.
    fn serve(&mut self) -> Vec<Notify> {
        let shared = self.common.shared.clone();
        let mut notified: Vec<Notify> = Vec::new();
        let mut state = shared.lock();
        while !state.closed && state.threads.serves(self.id) {
            // Finishing jobs (below) and taking the next ones happen under one lock, and an idle worker counts as idle
            // before the camera is notified: else the camera's next job would look like one too many for the workers.
            let pause = self.take(&mut state);
            drop(state);
            for notify in notified.drain(..) {
                notify();
            }
            if self.jobs.is_empty() {
                state = shared.lock();
                state = self.rest(&shared, state, pause);
                continue;
            }
            let failure = self.infer_all();
            state = shared.lock();
            self.note(&mut state, failure);
            notified.extend(self.jobs.drain(..).filter_map(|(ticket, job)| state.scheduler.finish(ticket, job)));
        }
        notified
    }

    /// Takes the jobs of the next run, or none and returns how long to wait for more.
    fn take(&mut self, state: &mut State) -> Option<Duration> {
        let batch = self.common.batch;
        let pause = state.scheduler.worth_waiting(batch, self.common.batch_wait, Instant::now());
        if !state.record.halted && pause.is_none() {
            // Idle workers get their share: side by side they are faster than one worker with all of it.
            let share = state.scheduler.waiting.div_ceil(1 + state.threads.idle_besides(self.id));
            self.jobs.extend((0..share.min(batch)).map_while(|_| state.scheduler.take()));
        }
        match self.jobs.is_empty() {
            true => state.threads.set_phase(self.id, Phase::Idle),
            false => state.threads.busy(self.id, self.jobs.iter().map(|(ticket, _)| *ticket)),
        }
        pause
    }

    /// Waits until there may be something to do, at most for `pause` when frames wait already.
    fn rest<'a>(
        &self,
        shared: &'a Shared,
        mut state: MutexGuard<'a, State>,
        pause: Option<Duration>,
    ) -> MutexGuard<'a, State> {
        while !state.closed && state.threads.serves(self.id) {
            match pause {
                _ if state.record.halted || state.scheduler.waiting == 0 => state = Shared::wait(&shared.work, state),
                // One check per wake-up: `take` decides whether that was enough.
                Some(pause) => return Shared::wait_for(&shared.work, state, pause),
                None => break,
            }
        }
        state
    }

    /// Records how the jobs of the last run went.
    fn note(&self, state: &mut State, failure: Option<InferError>) {
        if !state.threads.serves(self.id) {
            return;
        }
        let worked = self.jobs.iter().filter(|(_, job)| job.outcome.is_ok()).count();
        state.record.note(worked as u64, failure);
        if state.record.unseen.is_some() {
            self.common.shared.watch.notify_all();
        }
    }

    /// Waits until more frames wait than the other workers can take. False: no work for this one.
    fn wait_until_needed(&self) -> bool {
        let shared = &self.common.shared;
        let mut state = shared.lock();
        while state.scheduler.waiting <= state.threads.ready() * self.common.batch || state.record.halted {
            if state.closed || !state.threads.serves(self.id) {
                return false;
            }
            state = Shared::wait(&shared.work, state);
        }
        state.threads.set_phase(self.id, Phase::Loading { since: Instant::now() });
        true
    }

    /// `alone`: without this session nothing serves, so a failure counts as one of the backend.
    fn make_session(&self, alone: bool) -> Option<Box<dyn Session>> {
        let started = Instant::now();
        let backend = self.common.backend;
        let made = catch_unwind(AssertUnwindSafe(|| (self.common.fork)()));
        let error = match made {
            Ok(Ok(session)) => {
                tracing::debug!("one more {backend} session after {:?}", started.elapsed());
                return Some(session);
            }
            Ok(Err(error)) => error,
            Err(_) => InferError::Run { backend, reason: "the backend panicked while it made a session".into() },
        };
        if alone {
            let mut state = self.common.shared.lock();
            if state.threads.serves(self.id) {
                state.record.note(0, Some(error));
                state.record.halted = true;
                self.common.shared.watch.notify_all();
            }
        } else {
            tracing::warn!("a further session could not be made, inference goes on with the present ones: {error}");
        }
        None
    }

    /// Runs the jobs together, and each one that failed once more alone. Returns the backend's failure.
    fn infer_all(&mut self) -> Option<InferError> {
        let Self { session: Some(session), jobs, common, .. } = self else { return None };
        let together = jobs.len();
        infer(common, session.as_mut(), jobs);
        let mut failure = None;
        for job in jobs {
            match &job.1.outcome {
                // A wrong input and a lost GPU fail the second time too.
                Ok(()) => continue,
                Err(InferError::Input { .. }) if together == 1 => continue,
                Err(error) if error.device_lost() => return Some(error.clone()),
                Err(error) => tracing::debug!("this frame is tried once more: {error}"),
            }
            infer(common, session.as_mut(), std::slice::from_mut(job));
            match &job.1.outcome {
                Ok(()) | Err(InferError::Input { .. }) => {}
                Err(error) => failure = Some(error.clone()),
            }
        }
        failure
    }
}

/// Where one frame's output goes.
struct Slot<'a> {
    params: &'a DecodeParams,
    candidates: &'a mut Vec<Candidate>,
    decode: &'a mut Duration,
    sane: bool,
}

/// Runs the model on jobs, at most as many as the session takes at once, and decodes its output.
fn infer(common: &Common, session: &mut dyn Session, jobs: &mut [(Ticket, Job)]) {
    let (backend, together) = (common.backend, jobs.len());
    let mut frames = [Input::Planes(&[]); MAX_BATCH];
    let mut slots = [const { None }; MAX_BATCH];
    for ((frame, slot), (_, job)) in frames.iter_mut().zip(&mut slots).zip(jobs.iter_mut()) {
        let Job { input, params, candidates, decode, .. } = job;
        *decode = Duration::ZERO;
        *frame = input.view();
        *slot = Some(Slot { params, candidates, decode, sane: true });
    }
    let started = Instant::now();
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        session.run(frames.get(..together).unwrap_or_default(), &mut |frame, outputs| {
            let Some(Some(slot)) = slots.get_mut(frame) else { return };
            let begun = Instant::now();
            slot.sane = outputs.iter().all(|output| are_finite(output));
            decode(&common.spec, outputs, slot.params, slot.candidates);
            *slot.decode = begun.elapsed();
        })
    }));
    let elapsed = started.elapsed();
    let sane = slots.map(|slot| slot.is_none_or(|slot| slot.sane));
    let elapsed = elapsed.saturating_sub(jobs.iter().map(|(_, job)| job.decode).sum());
    let failed = |reason: &str| InferError::Run { backend, reason: reason.into() };
    for ((_, job), sane) in jobs.iter_mut().zip(sane) {
        (job.infer, job.batch, job.backend) = (elapsed, together, Some(backend));
        job.outcome = match &outcome {
            Ok(Ok(())) if !sane => Err(failed("the output has values that are not finite")),
            Ok(outcome) => outcome.clone(),
            Err(_) => Err(failed("the backend panicked over this frame")),
        };
        if job.outcome.is_err() {
            job.candidates.clear();
        }
    }
}

/// Whether evenly spread samples of an output are finite numbers.
fn are_finite(output: &[f32]) -> bool {
    output.iter().step_by((output.len() / SAMPLES).max(1)).all(|value| value.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_that_is_not_finite_is_detected() {
        assert!(are_finite(&[]));
        assert!(are_finite(&vec![0.5; 2_000_000]));
        assert!(!are_finite(&[f32::NAN]));
        assert!(!are_finite(&vec![f32::INFINITY; 2_000_000]));
    }
}
