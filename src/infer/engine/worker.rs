//! A worker: a thread with a session. It takes jobs until its generation is over.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use crate::infer::engine::crew::Phase;
use crate::infer::engine::lanes::{Job, Notify, Shared, State, Ticket};
use crate::infer::{Fork, InferError, Session};
use crate::model::{Candidate, DecodeParams, Input, MAX_BATCH, ModelSpec, decode};
use crate::types::BackendKind;

/// Values of an output that are looked at for being numbers. A backend that computes nonsense does so all over the place,
/// and to look at all values of each frame would cost more than the decoder.
const SAMPLES: usize = 1024;

/// What all workers of a generation have in common.
#[derive(Clone)]
pub(in crate::infer) struct Common {
    pub(in crate::infer) shared: Arc<Shared>,
    pub(in crate::infer) spec: Arc<ModelSpec>,
    pub(in crate::infer) backend: BackendKind,
    pub(in crate::infer) fork: Fork,
    /// Frames in a run at most, and how long the first one waits for the others.
    pub(in crate::infer) batch: usize,
    pub(in crate::infer) batch_wait: Duration,
}

pub(in crate::infer) struct Worker {
    pub(in crate::infer) common: Common,
    pub(in crate::infer) id: u64,
    /// `None`: it makes one on its own, at once or when it is needed, as its phase says.
    pub(in crate::infer) session: Option<Box<dyn Session>>,
    /// The jobs that run; kept for its memory.
    pub(in crate::infer) jobs: Vec<(Ticket, Job)>,
}

/// Starts a worker in the phase `Idle` (with a session), `Loading` (makes one at once) or `Resting` (when needed).
pub(in crate::infer) fn start(
    common: &Common,
    number: u64,
    session: Option<Box<dyn Session>>,
    phase: Phase,
) -> Result<(), InferError> {
    let mut state = common.shared.lock();
    let generation = state.crew.generation;
    let id = state.crew.join(generation, phase);
    drop(state);
    let worker = Worker { common: common.clone(), id, session, jobs: Vec::with_capacity(common.batch) };
    let name = format!("infer-{number}");
    let rests = phase == Phase::Resting;
    let thread = std::thread::Builder::new().name(name.clone()).spawn(move || worker.run(rests));
    let mut state = common.shared.lock();
    match thread {
        Ok(handle) => {
            state.crew.started(id, handle);
            Ok(())
        }
        Err(error) => {
            state.crew.leave(id);
            Err(InferError::Thread { name, reason: error.to_string() })
        }
    }
}

impl Worker {
    fn run(mut self, rests: bool) {
        let shared = self.common.shared.clone();
        let has_work = !rests || self.wait_until_needed();
        if has_work && self.session.is_none() {
            self.session = self.make_session(!rests);
        }
        let heard = if self.session.is_some() { self.serve() } else { Vec::new() };
        shared.lock().crew.phase(self.id, Phase::Leaving { since: Instant::now() });
        for notify in heard {
            notify();
        }
        // Before it is gone from the crew: nobody may take the process down while a runtime cleans up.
        let dropped = catch_unwind(AssertUnwindSafe(|| drop(self.session.take())));
        if dropped.is_err() {
            tracing::warn!("{} panicked while a session was closed", self.common.backend);
        }
        shared.lock().crew.leave(self.id);
        shared.watch.notify_all();
    }

    /// Takes jobs while its generation serves. Gives who has not heard of the last ones yet.
    fn serve(&mut self) -> Vec<Notify> {
        let shared = self.common.shared.clone();
        let mut heard: Vec<Notify> = Vec::new();
        let mut state = shared.lock();
        while !state.closed && state.crew.serves(self.id) {
            // Finishing jobs (below) and taking the next ones happen under one lock, and an idle worker counts as idle
            // before anybody hears of the jobs: else the lane's next job would look like one too many for the workers.
            let pause = self.take(&mut state);
            drop(state);
            for notify in heard.drain(..) {
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
            heard.extend(self.jobs.drain(..).filter_map(|(ticket, job)| state.finish(ticket, job)));
        }
        heard
    }

    /// Takes the jobs of the next run, or none and says how long it waits for more.
    fn take(&mut self, state: &mut State) -> Option<Duration> {
        let batch = self.common.batch;
        let pause = state.worth_waiting(batch, self.common.batch_wait, Instant::now());
        if !state.crew.halted && pause.is_none() {
            // Idle workers get their share: side by side they are faster than one with all of it.
            let share = state.waiting.div_ceil(1 + state.crew.idle_besides(self.id));
            self.jobs.extend((0..share.min(batch)).map_while(|_| state.take()));
        }
        match self.jobs.is_empty() {
            true => state.crew.phase(self.id, Phase::Idle),
            false => state.crew.busy(self.id, self.jobs.iter().map(|(ticket, _)| *ticket)),
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
        while !state.closed && state.crew.serves(self.id) {
            match pause {
                _ if state.crew.halted || state.waiting == 0 => state = Shared::wait(&shared.work, state),
                // One look per wake-up: `take` knows whether that was enough.
                Some(pause) => return Shared::wait_for(&shared.work, state, pause),
                None => break,
            }
        }
        state
    }

    /// Tells the supervisor how the jobs of the last run went.
    fn note(&self, state: &mut State, failure: Option<InferError>) {
        if !state.crew.serves(self.id) {
            return;
        }
        let worked = self.jobs.iter().filter(|(_, job)| job.outcome.is_ok()).count();
        for _ in 0..worked {
            state.crew.record.note(None);
        }
        if let Some(failure) = failure {
            state.crew.record.note(Some(failure));
        }
        if state.crew.record.unseen.is_some() {
            state.crew.halted |= state.crew.stop_on_failure;
            self.common.shared.watch.notify_all();
        }
    }

    /// Waits until more frames wait than the other workers can take. False: no work for this one.
    fn wait_until_needed(&self) -> bool {
        let shared = &self.common.shared;
        let mut state = shared.lock();
        while state.waiting <= state.crew.ready() * self.common.batch || state.crew.halted {
            if state.closed || !state.crew.serves(self.id) {
                return false;
            }
            state = Shared::wait(&shared.work, state);
        }
        state.crew.phase(self.id, Phase::Loading { since: Instant::now() });
        true
    }

    /// `alone`: without this session nothing serves, so the supervisor must hear when there is none.
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
            Err(_) => InferError::Run { backend, reason: "it panicked while a session was made".into() },
        };
        if alone {
            let mut state = self.common.shared.lock();
            if state.crew.serves(self.id) {
                state.crew.record.note(Some(error));
                state.crew.halted = true;
                self.common.shared.watch.notify_all();
            }
        } else {
            tracing::warn!("no further session, inference stays with those there are: {error}");
        }
        None
    }

    /// Runs the jobs, and those that fail once more, each for itself. Gives the backend's failure.
    fn infer_all(&mut self) -> Option<InferError> {
        let Self { session: Some(session), jobs, common, .. } = self else { return None };
        let together = jobs.len();
        infer(common, session.as_mut(), jobs);
        let mut failure = None;
        for job in jobs {
            match &job.1.outcome {
                // The caller's mistake, and the GPU's end, are the same the second time.
                Ok(()) => continue,
                Err(InferError::Input { .. }) if together == 1 => continue,
                Err(error) if error.device_lost() => return Some(error.clone()),
                Err(error) => tracing::debug!("one more try with this frame: {error}"),
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

/// Runs the model on jobs, as many as the session takes at once at most, and decodes its output.
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
            slot.sane = outputs.iter().all(|output| are_numbers(output));
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
            Ok(Ok(())) if !sane => Err(failed("it put out numbers that are not finite")),
            Ok(outcome) => outcome.clone(),
            Err(_) => Err(failed("it panicked over this frame")),
        };
        if job.outcome.is_err() {
            job.candidates.clear();
        }
    }
}

/// Whether evenly spread samples of an output are finite numbers.
fn are_numbers(output: &[f32]) -> bool {
    output.iter().step_by((output.len() / SAMPLES).max(1)).all(|value| value.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_full_of_nonsense_is_seen() {
        assert!(are_numbers(&[]));
        assert!(are_numbers(&vec![0.5; 2_000_000]));
        assert!(!are_numbers(&[f32::NAN]));
        assert!(!are_numbers(&vec![f32::INFINITY; 2_000_000]));
    }
}
