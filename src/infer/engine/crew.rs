//! Who works for an engine, and how it goes: the part of the shared state that the supervisor watches. No threads here.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::infer::InferError;
use crate::infer::engine::lanes::Ticket;

/// Generation of threads that are no workers.
pub(in crate::infer) const NO_WORKER: u64 = u64::MAX;

/// Threads of this process that hang in a runtime.
static HUNG: AtomicUsize = AtomicUsize::new(0);

/// Threads of this process that hang in a runtime and were left alone. While there is one, the process must end without
/// tearing down what the runtime uses, or it crashes on its way out.
pub fn hung_threads() -> usize {
    HUNG.load(Ordering::SeqCst)
}

/// What a thread does now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::infer) enum Phase {
    /// It has no session, because nobody needed it so far.
    Resting,
    /// It makes a session.
    Loading { since: Instant },
    /// It has a session and nothing to do.
    Idle,
    /// It infers.
    Busy { since: Instant },
    /// It drops its session.
    Leaving { since: Instant },
    /// It did not come back by its deadline. A thread cannot be ended from outside: it is left alone.
    Hung,
}

pub(in crate::infer) struct Member {
    pub(in crate::infer) id: u64,
    /// Workers of older generations end after the job that they have.
    pub(in crate::infer) generation: u64,
    pub(in crate::infer) phase: Phase,
    /// The jobs that it infers.
    tickets: Vec<Ticket>,
    handle: Option<JoinHandle<()>>,
}

/// Longest times that a thread may be away.
#[derive(Debug, Clone, Copy)]
pub(in crate::infer) struct Patience {
    pub(in crate::infer) infer: Duration,
    pub(in crate::infer) load: Duration,
}

/// How the present generation does.
#[derive(Default)]
pub(in crate::infer) struct Record {
    /// Frames inferred.
    pub(in crate::infer) served: u64,
    /// Jobs that failed, retry included, since the last one that worked.
    pub(in crate::infer) failures: u32,
    /// The last failure, until the supervisor has seen it.
    pub(in crate::infer) unseen: Option<InferError>,
}

impl Record {
    /// A job worked, or failed in spite of its retry.
    pub(in crate::infer) fn note(&mut self, failure: Option<InferError>) {
        match failure {
            None => {
                self.served += 1;
                self.failures = 0;
            }
            Some(error) => {
                self.failures += 1;
                self.unseen = Some(error);
            }
        }
    }
}

/// A thread that was given up.
pub(in crate::infer) struct Overdue {
    pub(in crate::infer) thread: u64,
    /// It was a worker of the present generation.
    pub(in crate::infer) serves: bool,
    /// The jobs that it keeps.
    pub(in crate::infer) tickets: Vec<Ticket>,
}

#[derive(Default)]
pub(in crate::infer) struct Crew {
    members: Vec<Member>,
    left: Vec<JoinHandle<()>>,
    next_id: u64,
    pub(in crate::infer) generation: u64,
    pub(in crate::infer) record: Record,
    /// A failure stops this generation, because there is another backend to go to.
    pub(in crate::infer) stop_on_failure: bool,
    /// The generation failed and takes no further job.
    pub(in crate::infer) halted: bool,
}

impl Crew {
    /// A place for a thread that is about to be started.
    pub(in crate::infer) fn join(&mut self, generation: u64, phase: Phase) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.members.push(Member { id, generation, phase, tickets: Vec::new(), handle: None });
        id
    }

    /// The thread of a place.
    pub(in crate::infer) fn started(&mut self, id: u64, handle: JoinHandle<()>) {
        match self.members.iter_mut().find(|member| member.id == id) {
            Some(member) => member.handle = Some(handle),
            None => self.left.push(handle),
        }
    }

    /// A thread is about to end, its session is dropped already.
    pub(in crate::infer) fn leave(&mut self, id: u64) {
        if let Some(at) = self.members.iter().position(|member| member.id == id) {
            let member = self.members.swap_remove(at);
            if member.phase == Phase::Hung {
                HUNG.fetch_sub(1, Ordering::SeqCst);
            }
            self.left.extend(member.handle);
        }
    }

    /// Threads that have ended or will in an instant, to be joined outside the lock.
    pub(in crate::infer) fn take_left(&mut self) -> Vec<JoinHandle<()>> {
        std::mem::take(&mut self.left)
    }

    /// The next generation: the record starts anew, and older workers end.
    pub(in crate::infer) fn next_generation(&mut self) {
        self.generation += 1;
        self.record = Record::default();
        self.halted = false;
    }

    pub(in crate::infer) fn phase(&mut self, id: u64, phase: Phase) {
        if let Some(member) = self.members.iter_mut().find(|member| member.id == id && member.phase != Phase::Hung) {
            member.phase = phase;
        }
    }

    /// A worker begins with these jobs.
    pub(in crate::infer) fn busy(&mut self, id: u64, tickets: impl Iterator<Item = Ticket>) {
        self.phase(id, Phase::Busy { since: Instant::now() });
        if let Some(member) = self.members.iter_mut().find(|member| member.id == id) {
            member.tickets.clear();
            member.tickets.extend(tickets);
        }
    }

    /// Whether the worker belongs to the present generation and is not given up.
    pub(in crate::infer) fn serves(&self, id: u64) -> bool {
        self.present().any(|member| member.id == id && member.phase != Phase::Hung)
    }

    fn present(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.generation == self.generation)
    }

    /// Other workers than `id` that have nothing to do.
    pub(in crate::infer) fn idle_besides(&self, id: u64) -> usize {
        self.present().filter(|member| member.id != id && member.phase == Phase::Idle).count()
    }

    /// Workers that will take a job without a new session being needed: idle ones and those that load.
    pub(in crate::infer) fn ready(&self) -> usize {
        self.present().filter(|member| matches!(member.phase, Phase::Idle | Phase::Loading { .. })).count()
    }

    /// Workers of the present generation that are not given up.
    pub(in crate::infer) fn workers(&self) -> usize {
        self.present().filter(|member| member.phase != Phase::Hung).count()
    }

    pub(in crate::infer) fn hung(&self) -> usize {
        self.members.iter().filter(|member| member.phase == Phase::Hung).count()
    }

    /// Threads that can still be waited for.
    pub(in crate::infer) fn alive(&self) -> usize {
        self.members.len() - self.hung()
    }

    /// Gives up those that are away for too long.
    pub(in crate::infer) fn overdue(&mut self, now: Instant, patience: Patience) -> Vec<Overdue> {
        let generation = self.generation;
        let mut overdue = Vec::new();
        for member in &mut self.members {
            let (since, limit) = match member.phase {
                Phase::Busy { since } => (since, patience.infer),
                Phase::Loading { since } | Phase::Leaving { since } => (since, patience.load),
                Phase::Resting | Phase::Idle | Phase::Hung => continue,
            };
            if now.saturating_duration_since(since) >= limit {
                let tickets = match member.phase {
                    Phase::Busy { .. } => std::mem::take(&mut member.tickets),
                    _ => Vec::new(),
                };
                member.phase = Phase::Hung;
                HUNG.fetch_add(1, Ordering::SeqCst);
                overdue.push(Overdue { thread: member.id, serves: member.generation == generation, tickets });
            }
        }
        overdue
    }

    /// The whole process was stopped for a while: nobody is late because of that.
    pub(in crate::infer) fn forgive(&mut self, now: Instant) {
        for member in &mut self.members {
            if let Phase::Busy { since } | Phase::Loading { since } | Phase::Leaving { since } = &mut member.phase {
                *since = now;
            }
        }
    }
}
