//! A worker: a thread with a session. It takes jobs until its generation is over.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use super::crew::Phase;
use super::lanes::{Job, Notify, Shared};
use super::{Fork, InferError, Session};
use crate::model::{ModelSpec, decode};
use crate::types::BackendKind;

/// Values of an output that are looked at for being numbers. A backend that computes nonsense does so all over the place,
/// and to look at all values of each frame would cost more than the decoder.
const SAMPLES: usize = 1024;

/// What all workers of a generation have in common.
#[derive(Clone)]
pub(super) struct Common {
    pub(super) shared: Arc<Shared>,
    pub(super) spec: Arc<ModelSpec>,
    pub(super) backend: BackendKind,
    pub(super) fork: Fork,
}

pub(super) struct Worker {
    pub(super) common: Common,
    pub(super) id: u64,
    /// `None`: it makes one on its own, at once or when it is needed, as its phase says.
    pub(super) session: Option<Box<dyn Session>>,
}

/// Starts a worker in the phase `Idle` (with a session), `Loading` (makes one at once) or `Resting` (when needed).
pub(super) fn start(
    common: &Common,
    number: u64,
    session: Option<Box<dyn Session>>,
    phase: Phase,
) -> Result<(), InferError> {
    let mut state = common.shared.lock();
    let generation = state.crew.generation;
    let id = state.crew.join(generation, phase);
    drop(state);
    let worker = Worker { common: common.clone(), id, session };
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
        let notify = if self.session.is_some() { self.serve() } else { None };
        shared.lock().crew.phase(self.id, Phase::Leaving { since: Instant::now() });
        if let Some(notify) = notify {
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

    /// Takes jobs while its generation serves. Gives who has not heard of the last job yet.
    fn serve(&mut self) -> Option<Notify> {
        let shared = self.common.shared.clone();
        let mut notify: Option<Notify> = None;
        let mut state = shared.lock();
        while !state.closed && state.crew.serves(self.id) {
            // Finishing a job (below) and taking the next one happen under one lock, and an idle worker counts as idle
            // before anybody hears of the job: else the lane's next job would look like one too many for the workers.
            let taken = if state.crew.halted { None } else { state.take() };
            state.crew.phase(
                self.id,
                match &taken {
                    Some((ticket, _)) => Phase::Busy { since: Instant::now(), ticket: *ticket },
                    None => Phase::Idle,
                },
            );
            drop(state);
            if let Some(notify) = notify.take() {
                notify();
            }
            if let Some((ticket, mut job)) = taken {
                let failure = self.infer_twice(&mut job);
                state = shared.lock();
                if state.crew.serves(self.id) {
                    state.crew.record.note(failure);
                    if state.crew.record.unseen.is_some() {
                        state.crew.halted |= state.crew.stop_on_failure;
                        shared.watch.notify_all();
                    }
                }
                notify = state.finish(ticket, job);
            } else {
                state = shared.lock();
                while !state.closed && state.crew.serves(self.id) && (state.waiting == 0 || state.crew.halted) {
                    state = Shared::wait(&shared.work, state);
                }
            }
        }
        notify
    }

    /// Waits until more frames wait than the other workers can take. False: no work for this one.
    fn wait_until_needed(&self) -> bool {
        let shared = &self.common.shared;
        let mut state = shared.lock();
        while state.waiting <= state.crew.ready() || state.crew.halted {
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

    /// Runs a job, and once more when that fails. Gives the backend's failure.
    fn infer_twice(&mut self, job: &mut Job) -> Option<InferError> {
        self.infer(job);
        match &job.outcome {
            // The caller's mistake, and the GPU's end, are the same the second time.
            Ok(()) | Err(InferError::Input { .. }) => return None,
            Err(error) if error.device_lost() => return Some(error.clone()),
            Err(error) => tracing::debug!("one more try with this frame: {error}"),
        }
        self.infer(job);
        job.outcome.as_ref().err().cloned()
    }

    /// Runs the model and decodes its output.
    fn infer(&mut self, job: &mut Job) {
        let Some(session) = &mut self.session else { return };
        let backend = self.common.backend;
        let Job { input, params, candidates, decode: decode_time, .. } = job;
        *decode_time = std::time::Duration::ZERO;
        let mut sane = true;
        let started = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            session.run(input, &mut |outputs| {
                let begun = Instant::now();
                sane = outputs.iter().all(|output| are_numbers(output));
                decode(&self.common.spec, outputs, params, candidates);
                *decode_time = begun.elapsed();
            })
        }));
        job.infer = started.elapsed().saturating_sub(job.decode);
        let failed = |reason: &str| InferError::Run { backend, reason: reason.into() };
        job.outcome = match outcome {
            Ok(Ok(())) if !sane => Err(failed("it put out numbers that are not finite")),
            Ok(outcome) => outcome,
            Err(_) => Err(failed("it panicked over this frame")),
        };
        job.backend = Some(backend);
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
