//! The register of an engine's threads: what each does, since when, and which of them hang. Data only.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::infer::engine::limits::Limits;
use crate::infer::engine::scheduler::Ticket;

/// Generation of threads that are not workers.
pub(super) const NO_WORKER: u64 = u64::MAX;

/// Hung threads of all engines of this process.
static HUNG: AtomicUsize = AtomicUsize::new(0);

/// Threads of this process that hang in a runtime and were abandoned. While there is one, the process must end without
/// tearing down what the runtime uses (`_exit`), or it crashes on its way out.
pub fn hung_threads() -> usize {
    HUNG.load(Ordering::SeqCst)
}

/// What a thread does now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// It has no session, because none was needed so far; or it waits for another process.
    Resting,
    /// It makes a session.
    Loading { since: Instant },
    /// It has a session and no job.
    Idle,
    /// It infers.
    Busy { since: Instant },
    /// It drops its session.
    Leaving { since: Instant },
    /// It did not come back by its deadline. A thread cannot be ended from outside, so it is abandoned.
    Hung,
}

struct Thread {
    id: u64,
    /// Workers of older generations end after the jobs that they have.
    generation: u64,
    phase: Phase,
    /// The jobs that it infers.
    tickets: Vec<Ticket>,
    handle: Option<JoinHandle<()>>,
}

/// A thread that was abandoned.
pub(super) struct Abandoned {
    pub(super) thread: u64,
    /// It was a worker of the present generation.
    pub(super) serves: bool,
    /// The jobs that it keeps.
    pub(super) tickets: Vec<Ticket>,
}

#[derive(Default)]
pub(super) struct Threads {
    threads: Vec<Thread>,
    ended: Vec<JoinHandle<()>>,
    next_id: u64,
    pub(super) generation: u64,
    checked: Option<Instant>,
}

impl Threads {
    /// An entry for a thread that is about to be started.
    pub(super) fn add(&mut self, generation: u64, phase: Phase) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.threads.push(Thread { id, generation, phase, tickets: Vec::new(), handle: None });
        id
    }

    pub(super) fn started(&mut self, id: u64, handle: JoinHandle<()>) {
        match self.threads.iter_mut().find(|thread| thread.id == id) {
            Some(thread) => thread.handle = Some(handle),
            None => self.ended.push(handle),
        }
    }

    /// A thread is about to end; its session is dropped already.
    pub(super) fn remove(&mut self, id: u64) {
        if let Some(at) = self.threads.iter().position(|thread| thread.id == id) {
            let thread = self.threads.swap_remove(at);
            if thread.phase == Phase::Hung {
                HUNG.fetch_sub(1, Ordering::SeqCst);
            }
            self.ended.extend(thread.handle);
        }
    }

    /// Threads that have ended or will in an instant, to be joined without the lock.
    pub(super) fn take_ended(&mut self) -> Vec<JoinHandle<()>> {
        std::mem::take(&mut self.ended)
    }

    pub(super) fn set_phase(&mut self, id: u64, phase: Phase) {
        if let Some(thread) = self.threads.iter_mut().find(|thread| thread.id == id && thread.phase != Phase::Hung) {
            thread.phase = phase;
        }
    }

    /// A worker begins with these jobs.
    pub(super) fn busy(&mut self, id: u64, tickets: impl Iterator<Item = Ticket>) {
        self.set_phase(id, Phase::Busy { since: Instant::now() });
        if let Some(thread) = self.threads.iter_mut().find(|thread| thread.id == id) {
            thread.tickets.clear();
            thread.tickets.extend(tickets);
        }
    }

    /// Whether the worker belongs to the present generation and is not abandoned.
    pub(super) fn serves(&self, id: u64) -> bool {
        self.present().any(|thread| thread.id == id && thread.phase != Phase::Hung)
    }

    fn present(&self) -> impl Iterator<Item = &Thread> {
        self.threads.iter().filter(|thread| thread.generation == self.generation)
    }

    /// Workers other than `id` that have no job.
    pub(super) fn idle_besides(&self, id: u64) -> usize {
        self.present().filter(|thread| thread.id != id && thread.phase == Phase::Idle).count()
    }

    /// Workers that will take a job without one more session: idle ones and those that load.
    pub(super) fn ready(&self) -> usize {
        self.present().filter(|thread| matches!(thread.phase, Phase::Idle | Phase::Loading { .. })).count()
    }

    /// Workers of the present generation that are not abandoned.
    pub(super) fn workers(&self) -> usize {
        self.present().filter(|thread| thread.phase != Phase::Hung).count()
    }

    pub(super) fn hung(&self) -> usize {
        self.threads.iter().filter(|thread| thread.phase == Phase::Hung).count()
    }

    /// Threads that can still be waited for.
    pub(super) fn alive(&self) -> usize {
        self.threads.len() - self.hung()
    }

    /// Abandons the threads that are away for too long; an inference may take `infer`. When the process was suspended since
    /// the last call, no thread is late because of that.
    pub(super) fn abandon_late(&mut self, now: Instant, infer: Duration, limits: &Limits) -> Vec<Abandoned> {
        let gap = self.checked.replace(now).map(|before| now.saturating_duration_since(before));
        if gap.is_some_and(|gap| gap > limits.suspended()) {
            for thread in &mut self.threads {
                if let Phase::Busy { since } | Phase::Loading { since } | Phase::Leaving { since } = &mut thread.phase {
                    *since = now;
                }
            }
        }
        self.abandon(|phase| match phase {
            Phase::Busy { since } => now.saturating_duration_since(since) >= infer,
            Phase::Loading { since } | Phase::Leaving { since } => now.saturating_duration_since(since) >= limits.load,
            Phase::Resting | Phase::Idle | Phase::Hung => false,
        })
    }

    pub(super) fn abandon(&mut self, which: impl Fn(Phase) -> bool) -> Vec<Abandoned> {
        let mut abandoned = Vec::new();
        for thread in self.threads.iter_mut().filter(|thread| thread.phase != Phase::Hung && which(thread.phase)) {
            let tickets = match thread.phase {
                Phase::Busy { .. } => std::mem::take(&mut thread.tickets),
                _ => Vec::new(),
            };
            thread.phase = Phase::Hung;
            HUNG.fetch_add(1, Ordering::SeqCst);
            let serves = thread.generation == self.generation;
            abandoned.push(Abandoned { thread: thread.id, serves, tickets });
        }
        abandoned
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn late(threads: &mut Threads, now: Instant) -> Vec<Abandoned> {
        let limits = Limits { load: SECOND * 10, check: Duration::ZERO, ..Limits::default() };
        threads.abandon_late(now, SECOND, &limits)
    }

    #[test]
    fn a_late_thread_is_abandoned_once_and_makes_room_when_it_comes_back() {
        let mut threads = Threads::default();
        let start = Instant::now();
        let (busy, loading) = (threads.add(0, Phase::Idle), threads.add(NO_WORKER, Phase::Loading { since: start }));
        threads.busy(busy, std::iter::empty());
        let abandoned = late(&mut threads, start + SECOND * 2);
        assert_eq!(abandoned.iter().map(|late| (late.thread, late.serves)).collect::<Vec<_>>(), [(busy, true)]);
        assert!(late(&mut threads, start + SECOND * 3).is_empty());
        assert_eq!((threads.hung(), threads.alive(), threads.workers()), (1, 1, 0));
        threads.set_phase(busy, Phase::Idle);
        assert_eq!(threads.hung(), 1, "a hung thread stays abandoned until it ends");
        threads.remove(busy);
        threads.remove(loading);
        assert_eq!((threads.hung(), threads.alive()), (0, 0));
    }

    #[test]
    fn no_thread_is_late_because_the_process_was_suspended() {
        let mut threads = Threads::default();
        let start = Instant::now();
        let busy = threads.add(0, Phase::Busy { since: start });
        assert!(late(&mut threads, start).is_empty());
        assert!(late(&mut threads, start + SECOND * 3600).is_empty(), "suspended for an hour");
        assert!(late(&mut threads, start + SECOND * 3600 + SECOND / 2).is_empty());
        assert_eq!(late(&mut threads, start + SECOND * 3601).len(), 1, "late after it");
        threads.remove(busy);
    }
}
