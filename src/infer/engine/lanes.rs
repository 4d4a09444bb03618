//! The lanes: cameras hand in jobs, workers take them in turn. The state that cameras, workers and the supervisor share.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::infer::InferError;
use crate::infer::engine::crew::Crew;
use crate::model::{Candidate, DecodeParams, InputTensor, ModelSpec};
use crate::types::{BackendKind, Priority};

/// One frame's inference. Its buffers travel from the camera to the engine and back, and serve the next frame.
#[derive(Debug)]
pub struct Job {
    /// The input tensor. Empty when an inference that hangs has kept the buffers ([`InferError::Hung`]).
    pub input: InputTensor,
    /// What the decoder lets through.
    pub params: DecodeParams,
    /// What the decoder found, in pixels of the model's input. Empty after an error.
    pub candidates: Vec<Candidate>,
    /// Time in the session, that of the frames which ran with this one included.
    pub infer: Duration,
    /// Frames that ran together, this one included.
    pub batch: usize,
    /// Time in the decoder.
    pub decode: Duration,
    /// Whether it worked.
    pub outcome: Result<(), InferError>,
    /// What ran it; `None` when nothing did.
    pub backend: Option<BackendKind>,
}

impl Job {
    /// A job with an input tensor of the right size, all zeros.
    pub fn new(spec: &ModelSpec, params: DecodeParams) -> Self {
        Self {
            input: InputTensor::new(&spec.input),
            params,
            candidates: Vec::new(),
            infer: Duration::ZERO,
            batch: 0,
            decode: Duration::ZERO,
            outcome: Ok(()),
            backend: None,
        }
    }

    /// What comes back in place of a job whose buffers a hanging inference holds.
    fn lost(error: InferError) -> Self {
        Self {
            input: InputTensor::lost(),
            params: DecodeParams { threshold: 1.0, classes: None },
            candidates: Vec::new(),
            infer: Duration::ZERO,
            batch: 0,
            decode: Duration::ZERO,
            outcome: Err(error),
            backend: None,
        }
    }

    fn refuse(mut self, error: InferError) -> Self {
        self.candidates.clear();
        self.outcome = Err(error);
        self.backend = None;
        self
    }
}

/// Hears that a job is done.
pub(in crate::infer) type Notify = Arc<dyn Fn() + Send + Sync>;

enum Slot {
    /// Since when.
    Waiting(Job, Instant),
    Running,
    Done(Job),
}

/// What a job of the lowest priority costs on the clock of [`State::clock`].
const UNIT: u64 = 64;

struct LaneState {
    id: u64,
    /// What each of its jobs costs: the more, the less often it has its turn.
    cost: u64,
    /// On the engine's clock: when what it had so far is paid.
    paid: u64,
    /// Jobs in flight, oldest first. The job of ticket `t` is at `t - first`.
    slots: VecDeque<Slot>,
    first: u64,
    /// Signalled when a job of this lane is done.
    done: Arc<Condvar>,
    notify: Option<Notify>,
}

/// Which job of which lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::infer) struct Ticket {
    lane: u64,
    number: u64,
}

#[derive(Default)]
pub(in crate::infer) struct State {
    lanes: Vec<LaneState>,
    next_id: u64,
    /// Index of the lane whose turn it is among equals.
    turn: usize,
    /// When the last job that was taken began, on a clock that runs by what jobs cost.
    clock: u64,
    /// Jobs that no worker has taken yet.
    pub(in crate::infer) waiting: usize,
    /// The threads that work for this engine.
    pub(in crate::infer) crew: Crew,
    /// Set while nothing can infer: jobs come back with it at once.
    refusal: Option<InferError>,
    pub(in crate::infer) closed: bool,
}

pub(in crate::infer) struct Shared {
    state: Mutex<State>,
    /// Signalled when there is work, or when workers must look up.
    pub(in crate::infer) work: Condvar,
    /// Signalled when the supervisor must look up, or a thread has ended.
    pub(in crate::infer) watch: Condvar,
    /// Inferences that can run at the same time now.
    pub(in crate::infer) workers: AtomicUsize,
}

impl Shared {
    pub(in crate::infer) fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            work: Condvar::new(),
            watch: Condvar::new(),
            workers: AtomicUsize::new(1),
        })
    }

    // No holder of the lock runs foreign code, so a poisoned lock is still good.
    pub(in crate::infer) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for `condvar` with the lock given up meanwhile.
    pub(in crate::infer) fn wait<'a>(condvar: &Condvar, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        condvar.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// The same for at most `timeout`.
    pub(in crate::infer) fn wait_for<'a>(
        condvar: &Condvar,
        state: MutexGuard<'a, State>,
        timeout: Duration,
    ) -> MutexGuard<'a, State> {
        condvar.wait_timeout(state, timeout).unwrap_or_else(PoisonError::into_inner).0
    }

    /// A camera's way in, with at most `depth` (≥ 1) jobs in flight.
    pub(in crate::infer) fn lane(self: &Arc<Self>, name: &str, depth: usize, priority: Priority) -> Lane {
        let done = Arc::new(Condvar::new());
        let depth = depth.max(1);
        let mut state = self.lock();
        let id = state.next_id;
        state.next_id += 1;
        let slots = VecDeque::with_capacity(depth);
        let cost = UNIT / priority.weight();
        state.lanes.push(LaneState { id, cost, paid: 0, slots, first: 0, done: done.clone(), notify: None });
        drop(state);
        Lane { shared: self.clone(), id, name: name.to_owned(), depth, done }
    }
}

impl LaneState {
    /// Which of its jobs has waited longest.
    fn waits(&self) -> Option<usize> {
        self.slots.iter().position(|slot| matches!(slot, Slot::Waiting(..)))
    }
}

impl State {
    /// The oldest waiting job of the lane whose turn it is.
    ///
    /// Lanes share the engine by weight: each job has a price, and the lane that will have paid for its next one first has
    /// its turn. A lane that had nothing to do saves nothing up. Equal ones have their turns in a circle.
    pub(in crate::infer) fn take(&mut self) -> Option<(Ticket, Job)> {
        let count = self.lanes.len();
        let (mut next, mut due) = (None, u64::MAX);
        for step in 0..count {
            let index = (self.turn + step) % count;
            let lane = &self.lanes[index];
            let Some(offset) = lane.waits() else { continue };
            let paid = lane.paid.saturating_add(lane.cost);
            if paid < due {
                (next, due) = (Some((index, offset)), paid);
            }
        }
        let (index, offset) = next?;
        let lane = &mut self.lanes[index];
        let Slot::Waiting(job, _) = std::mem::replace(lane.slots.get_mut(offset)?, Slot::Running) else { return None };
        self.clock = due - lane.cost;
        lane.paid = due;
        self.turn = (index + 1) % count;
        self.waiting -= 1;
        Some((Ticket { lane: lane.id, number: lane.first + offset as u64 }, job))
    }

    /// How long a run of up to `batch` frames should be put off at `now` for more of them to come: until the oldest frame
    /// has waited for `patience`, a batch is full, or every lane waits already.
    pub(in crate::infer) fn worth_waiting(&self, batch: usize, patience: Duration, now: Instant) -> Option<Duration> {
        if self.waiting >= batch || patience.is_zero() || self.closed {
            return None;
        }
        let mut oldest = now;
        let mut without = 0;
        for lane in &self.lanes {
            match lane.waits().and_then(|offset| lane.slots.get(offset)) {
                Some(Slot::Waiting(_, since)) => oldest = oldest.min(*since),
                _ => without += 1,
            }
        }
        let left = patience.checked_sub(now.saturating_duration_since(oldest))?;
        (without > 0 && !left.is_zero()).then_some(left)
    }

    fn lane(&mut self, id: u64) -> Option<&mut LaneState> {
        self.lanes.iter_mut().find(|lane| lane.id == id)
    }

    /// Gives a job back to its lane, and who wants to hear of it. A lane that is gone takes nothing, and neither does one
    /// that was told already that this job is lost.
    pub(in crate::infer) fn finish(&mut self, ticket: Ticket, job: Job) -> Option<Notify> {
        let lane = self.lane(ticket.lane)?;
        let offset = usize::try_from(ticket.number.checked_sub(lane.first)?).ok()?;
        let slot = lane.slots.get_mut(offset).filter(|slot| matches!(slot, Slot::Running))?;
        *slot = Slot::Done(job);
        lane.done.notify_all();
        lane.notify.clone()
    }

    /// Tells a lane that the worker which has its job does not come back.
    pub(in crate::infer) fn lose(&mut self, ticket: Ticket, error: InferError) -> Option<Notify> {
        self.finish(ticket, Job::lost(error))
    }

    /// From now on jobs come back with `error`, those that wait too. Gives who wants to hear of it.
    pub(in crate::infer) fn refuse(&mut self, error: InferError) -> Vec<Notify> {
        self.refusal = Some(error.clone());
        self.waiting = 0;
        for lane in &mut self.lanes {
            for slot in &mut lane.slots {
                match std::mem::replace(slot, Slot::Running) {
                    Slot::Waiting(job, _) => *slot = Slot::Done(job.refuse(error.clone())),
                    other => *slot = other,
                }
            }
            lane.done.notify_all();
        }
        self.lanes.iter().filter_map(|lane| lane.notify.clone()).collect()
    }

    /// Jobs are taken again.
    pub(in crate::infer) fn admit(&mut self) {
        self.refusal = None;
    }

    pub(in crate::infer) fn refuses(&self) -> bool {
        self.refusal.is_some()
    }

    /// Ends all jobs that no worker has taken, and gives who wants to hear of it.
    pub(in crate::infer) fn close(&mut self) -> Vec<Notify> {
        self.closed = true;
        self.refuse(InferError::Stopped)
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
        let (refusal, clock) = (state.refusal.clone(), state.clock);
        let lane = state.lane(self.id).ok_or(InferError::Stopped)?;
        if lane.slots.len() >= self.depth {
            return Err(InferError::LaneFull { lane: self.name.clone(), depth: self.depth });
        }
        if let Some(error) = refusal {
            lane.slots.push_back(Slot::Done(job.refuse(error)));
            let notify = lane.notify.clone();
            drop(state);
            if let Some(notify) = notify {
                notify();
            }
            return Ok(());
        }
        if lane.waits().is_none() {
            // Time in which it wanted nothing is not saved up.
            lane.paid = lane.paid.max(clock);
        }
        lane.slots.push_back(Slot::Waiting(job, Instant::now()));
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

    /// Inferences that can run at the same time now; changes when the engine goes to another backend.
    pub fn workers(&self) -> usize {
        self.shared.workers.load(Ordering::Relaxed)
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
            state = Shared::wait_for(&self.done, state, left);
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
            let waiting = lane.slots.iter().filter(|slot| matches!(slot, Slot::Waiting(..))).count();
            state.waiting -= waiting;
            // The turn stays with the lane that had it.
            state.turn -= usize::from(state.turn > index);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::infer::backend::fake::{params, spec};
    use crate::infer::engine::crew::{Patience, Phase};

    #[test]
    fn a_frame_waits_for_others_while_that_can_help() {
        let shared = Shared::new();
        let (mut first, mut second) = (shared.lane("a", 2, Priority::Normal), shared.lane("b", 2, Priority::Normal));
        first.submit(Job::new(&spec(), params())).unwrap();
        let patience = Duration::from_secs(60);
        let wait = |batch, patience, later| {
            shared.lock().worth_waiting(batch, patience, Instant::now() + Duration::from_secs(later))
        };
        assert!(wait(4, patience, 0).is_some_and(|left| left <= patience && left > patience / 2));
        assert!(wait(4, patience, 20).is_some_and(|left| left <= Duration::from_secs(40)));
        assert_eq!(wait(4, patience, 61), None, "it has waited long enough");
        assert_eq!(wait(4, Duration::ZERO, 0), None);
        assert_eq!(wait(1, patience, 0), None, "the batch is full");
        second.submit(Job::new(&spec(), params())).unwrap();
        assert_eq!(wait(4, patience, 0), None, "nobody else is there");
    }

    #[test]
    fn a_hanging_run_gives_up_all_its_jobs() {
        let shared = Shared::new();
        let mut lane = shared.lane("a", 3, Priority::Normal);
        for _ in 0..3 {
            lane.submit(Job::new(&spec(), params())).unwrap();
        }
        let mut state = shared.lock();
        let id = state.crew.join(0, Phase::Idle);
        let tickets: Vec<Ticket> = (0..2).map(|_| state.take().unwrap().0).collect();
        state.crew.busy(id, tickets.iter().copied());
        let patience = Patience { infer: Duration::from_secs(1), load: Duration::from_secs(1) };
        let overdue = state.crew.overdue(Instant::now() + Duration::from_secs(2), patience);
        assert_eq!(overdue[0].tickets, tickets);
        for ticket in tickets {
            state.lose(ticket, InferError::Stopped);
        }
        drop(state);
        let mut back = || lane.wait(Duration::ZERO);
        assert!(back().unwrap().outcome.is_err() && back().unwrap().outcome.is_err());
        assert!(back().is_none(), "the third one still waits");
        // It counts as hung for the whole process: it has come back.
        shared.lock().crew.leave(id);
    }
}
