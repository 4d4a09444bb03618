//! Which waiting job runs next: camera queues, fair shares by priority, batches. Data only: the caller holds the lock.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar};
use std::time::{Duration, Instant};

use crate::infer::InferError;
use crate::infer::engine::job::Job;
use crate::types::Priority;

/// Called when a job is done; must return at once.
pub(super) type Notify = Arc<dyn Fn() + Send + Sync>;

enum Slot {
    Waiting(Job, Instant),
    Running,
    Done(Job),
}

/// Price of a job of the lowest priority.
const UNIT: u64 = 64;

struct Queue {
    id: u64,
    /// Price of each job: the higher, the less often the queue has its turn.
    price: u64,
    /// On the scheduler's clock: when the jobs taken so far are paid for.
    paid: u64,
    /// Jobs in flight, oldest first. The job of ticket number `n` is at `n - first`.
    slots: VecDeque<Slot>,
    first: u64,
    /// Signalled when a job of this queue is done.
    done: Arc<Condvar>,
    notify: Option<Notify>,
}

impl Queue {
    /// Index of the job that has waited longest.
    fn oldest_waiting(&self) -> Option<usize> {
        self.slots.iter().position(|slot| matches!(slot, Slot::Waiting(..)))
    }
}

/// Identifies a job that a worker has taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticket {
    queue: u64,
    number: u64,
}

#[derive(Default)]
pub(super) struct Scheduler {
    queues: Vec<Queue>,
    next_id: u64,
    /// Index of the queue whose turn it is among equals.
    turn: usize,
    /// When the last job that was taken began, on a clock that advances by prices.
    clock: u64,
    /// Jobs that no worker has taken yet.
    pub(super) waiting: usize,
    /// Set while nothing can infer: jobs come back with this error at once.
    refusal: Option<InferError>,
    closed: bool,
}

impl Scheduler {
    /// A new queue with its condition variable for finished jobs.
    pub(super) fn open(&mut self, depth: usize, priority: Priority) -> (u64, Arc<Condvar>) {
        let (id, done) = (self.next_id, Arc::new(Condvar::new()));
        self.next_id += 1;
        let (price, slots) = (UNIT / priority.weight(), VecDeque::with_capacity(depth));
        self.queues.push(Queue { id, price, paid: 0, slots, first: 0, done: done.clone(), notify: None });
        (id, done)
    }

    /// Removes a queue with the jobs in it.
    pub(super) fn remove(&mut self, id: u64) {
        let Some(index) = self.queues.iter().position(|queue| queue.id == id) else { return };
        let queue = self.queues.remove(index);
        self.waiting -= queue.slots.iter().filter(|slot| matches!(slot, Slot::Waiting(..))).count();
        // The turn stays with the queue that had it.
        self.turn -= usize::from(self.turn > index);
    }

    fn queue(&mut self, id: u64) -> Option<&mut Queue> {
        self.queues.iter_mut().find(|queue| queue.id == id)
    }

    /// Adds a job. `Ok(Some(notify))`: it is done already, because jobs are refused now. `Err(true)`: the queue has `depth`
    /// jobs in flight already. `Err(false)`: the scheduler is closed.
    pub(super) fn submit(&mut self, id: u64, depth: usize, job: Job) -> Result<Option<Notify>, bool> {
        let (closed, refusal, clock) = (self.closed, self.refusal.clone(), self.clock);
        let queue = self.queue(id).filter(|_| !closed).ok_or(false)?;
        if queue.slots.len() >= depth {
            return Err(true);
        }
        if let Some(error) = refusal {
            queue.slots.push_back(Slot::Done(job.refuse(error)));
            return Ok(queue.notify.clone());
        }
        if queue.oldest_waiting().is_none() {
            // A queue that was idle has saved nothing up.
            queue.paid = queue.paid.max(clock);
        }
        queue.slots.push_back(Slot::Waiting(job, Instant::now()));
        self.waiting += 1;
        Ok(None)
    }

    /// The oldest waiting job of the queue whose turn it is.
    ///
    /// Queues share the workers by weight: each job has a price, and the queue that will first have paid for its next job
    /// has its turn. Equal ones take turns in a circle.
    pub(super) fn take(&mut self) -> Option<(Ticket, Job)> {
        let count = self.queues.len();
        let (mut next, mut due) = (None, u64::MAX);
        for step in 0..count {
            let index = (self.turn + step) % count;
            let queue = &self.queues[index];
            let Some(offset) = queue.oldest_waiting() else { continue };
            let paid = queue.paid.saturating_add(queue.price);
            if paid < due {
                (next, due) = (Some((index, offset)), paid);
            }
        }
        let (index, offset) = next?;
        let queue = &mut self.queues[index];
        let Slot::Waiting(job, _) = std::mem::replace(queue.slots.get_mut(offset)?, Slot::Running) else { return None };
        self.clock = due - queue.price;
        queue.paid = due;
        self.turn = (index + 1) % count;
        self.waiting -= 1;
        Some((Ticket { queue: queue.id, number: queue.first + offset as u64 }, job))
    }

    /// How long a run of up to `batch` frames should still be put off at `now` for more frames to come: until the oldest
    /// frame has waited for `at_most`, a batch is full, or every queue has a waiting job.
    pub(super) fn worth_waiting(&self, batch: usize, at_most: Duration, now: Instant) -> Option<Duration> {
        if self.waiting >= batch || at_most.is_zero() || self.closed {
            return None;
        }
        let mut oldest = now;
        let mut without = 0;
        for queue in &self.queues {
            match queue.oldest_waiting().and_then(|offset| queue.slots.get(offset)) {
                Some(Slot::Waiting(_, since)) => oldest = oldest.min(*since),
                _ => without += 1,
            }
        }
        let left = at_most.checked_sub(now.saturating_duration_since(oldest))?;
        (without > 0 && !left.is_zero()).then_some(left)
    }

    /// Gives a job back to its queue, and returns whom to notify. Does nothing when the queue is gone, or when the job was
    /// reported as lost already.
    pub(super) fn finish(&mut self, ticket: Ticket, job: Job) -> Option<Notify> {
        let queue = self.queue(ticket.queue)?;
        let offset = usize::try_from(ticket.number.checked_sub(queue.first)?).ok()?;
        let slot = queue.slots.get_mut(offset).filter(|slot| matches!(slot, Slot::Running))?;
        *slot = Slot::Done(job);
        queue.done.notify_all();
        queue.notify.clone()
    }

    /// Reports a job as lost: the worker that has it does not come back.
    pub(super) fn lose(&mut self, ticket: Ticket, error: InferError) -> Option<Notify> {
        self.finish(ticket, Job::lost(error))
    }

    /// `None`: there is no such queue, or nothing in flight. `Some(None)`: the oldest job is not done yet.
    pub(super) fn take_done(&mut self, id: u64) -> Option<Option<Job>> {
        let queue = self.queue(id)?;
        if !matches!(queue.slots.front()?, Slot::Done(_)) {
            return Some(None);
        }
        queue.first += 1;
        match queue.slots.pop_front() {
            Some(Slot::Done(job)) => Some(Some(job)),
            _ => None,
        }
    }

    pub(super) fn in_flight(&mut self, id: u64) -> usize {
        self.queue(id).map_or(0, |queue| queue.slots.len())
    }

    pub(super) fn on_done(&mut self, id: u64, notify: Notify) {
        if let Some(queue) = self.queue(id) {
            queue.notify = Some(notify);
        }
    }

    /// From now on jobs come back with `error`, waiting ones too. Returns whom to notify.
    pub(super) fn refuse(&mut self, error: InferError) -> Vec<Notify> {
        self.refusal = Some(error.clone());
        self.waiting = 0;
        for queue in &mut self.queues {
            for slot in &mut queue.slots {
                match std::mem::replace(slot, Slot::Running) {
                    Slot::Waiting(job, _) => *slot = Slot::Done(job.refuse(error.clone())),
                    other => *slot = other,
                }
            }
            queue.done.notify_all();
        }
        self.queues.iter().filter_map(|queue| queue.notify.clone()).collect()
    }

    /// Jobs are accepted again.
    pub(super) fn admit(&mut self) {
        self.refusal = None;
    }

    /// Ends all jobs that no worker has taken, for ever. Returns whom to notify.
    pub(super) fn close(&mut self) -> Vec<Notify> {
        self.closed = true;
        self.refuse(InferError::Stopped)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::infer::backend::fake::{params, spec};

    #[test]
    fn a_frame_waits_for_others_while_that_can_help() {
        let mut scheduler = Scheduler::default();
        let (first, second) = (scheduler.open(2, Priority::Normal).0, scheduler.open(2, Priority::Normal).0);
        assert!(scheduler.submit(first, 2, Job::new(&spec(), params())).is_ok());
        let at_most = Duration::from_secs(60);
        let wait = |scheduler: &Scheduler, batch, at_most, later| {
            scheduler.worth_waiting(batch, at_most, Instant::now() + Duration::from_secs(later))
        };
        assert!(wait(&scheduler, 4, at_most, 0).is_some_and(|left| left <= at_most && left > at_most / 2));
        assert!(wait(&scheduler, 4, at_most, 20).is_some_and(|left| left <= Duration::from_secs(40)));
        assert_eq!(wait(&scheduler, 4, at_most, 61), None, "it has waited long enough");
        assert_eq!(wait(&scheduler, 4, Duration::ZERO, 0), None);
        assert_eq!(wait(&scheduler, 1, at_most, 0), None, "the batch is full");
        assert!(scheduler.submit(second, 2, Job::new(&spec(), params())).is_ok());
        assert_eq!(wait(&scheduler, 4, at_most, 0), None, "every camera has a frame waiting");
    }

    #[test]
    fn a_lost_job_comes_back_and_its_late_result_is_dropped() {
        let mut scheduler = Scheduler::default();
        let queue = scheduler.open(3, Priority::Normal).0;
        for _ in 0..3 {
            assert!(scheduler.submit(queue, 3, Job::new(&spec(), params())).is_ok());
        }
        let (ticket, job) = scheduler.take().unwrap();
        scheduler.lose(ticket, InferError::Stopped);
        let back = scheduler.take_done(queue).flatten().unwrap();
        assert!(back.outcome.is_err() && back.input.is_empty());
        assert!(scheduler.finish(ticket, job).is_none());
        assert!(scheduler.take_done(queue).unwrap().is_none(), "the second one still waits");
    }
}
