//! The state that cameras, workers and the engine's own thread share, under one short lock.

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::infer::InferError;
use crate::infer::backend::load::Found;
use crate::infer::engine::scheduler::{Notify, Scheduler};
use crate::infer::engine::threads::{Phase, Threads};

/// What the engine's own thread is sent by others.
pub(super) enum Message {
    Loaded { attempt: u64, found: Result<Found, InferError> },
    BuildEnded(Result<(), InferError>),
}

/// How the present workers do.
#[derive(Default)]
pub(super) struct Record {
    /// Frames inferred.
    pub(super) served: u64,
    /// Jobs that failed, retry included, since the last one that worked.
    pub(super) failures: u32,
    /// The last failure, until the engine's thread has seen it.
    pub(super) unseen: Option<InferError>,
    /// A failure halts these workers, because there is a backend to fall back to.
    pub(super) halt_on_failure: bool,
    /// The workers take no further job.
    pub(super) halted: bool,
}

impl Record {
    /// `worked` jobs worked, and then one failed in spite of its retry if there is a `failure`.
    pub(super) fn note(&mut self, worked: u64, failure: Option<InferError>) {
        if worked > 0 {
            self.served += worked;
            self.failures = 0;
        }
        if let Some(error) = failure {
            self.failures += 1;
            self.unseen = Some(error);
            self.halted |= self.halt_on_failure;
        }
    }
}

#[derive(Default)]
pub(super) struct State {
    pub(super) scheduler: Scheduler,
    pub(super) threads: Threads,
    pub(super) record: Record,
    pub(super) inbox: Vec<Message>,
    /// The load whose result is still wanted.
    pub(super) attempt: Option<u64>,
    /// How the start ended, once it has.
    pub(super) begun: Option<Result<(), InferError>>,
    pub(super) cancelled: bool,
    pub(super) closed: bool,
}

impl State {
    /// Workers of older generations end after the jobs that they have.
    pub(super) fn next_generation(&mut self, halt_on_failure: bool) {
        self.threads.generation += 1;
        self.record = Record { halt_on_failure, ..Record::default() };
        self.scheduler.admit();
    }

    /// Ends all waiting jobs and all workers. Returns whom to notify.
    pub(super) fn close(&mut self) -> Vec<Notify> {
        self.closed = true;
        self.scheduler.close()
    }
}

pub(super) struct Shared {
    state: Mutex<State>,
    /// Signalled when there is work, or when workers must check whether they still serve.
    pub(super) work: Condvar,
    /// Signalled when the engine's thread has something to do, when the start has ended, or when a thread has ended.
    pub(super) watch: Condvar,
    /// Inferences that can run at the same time now.
    pub(super) workers: AtomicUsize,
}

impl Shared {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            work: Condvar::new(),
            watch: Condvar::new(),
            workers: AtomicUsize::new(1),
        })
    }

    // No holder of the lock runs foreign code, so a poisoned lock is still good.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for `condvar`; the lock is released meanwhile.
    pub(super) fn wait<'a>(condvar: &Condvar, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        condvar.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// The same for at most `timeout`.
    pub(super) fn wait_for<'a>(
        condvar: &Condvar,
        state: MutexGuard<'a, State>,
        timeout: Duration,
    ) -> MutexGuard<'a, State> {
        condvar.wait_timeout(state, timeout).unwrap_or_else(PoisonError::into_inner).0
    }

    /// Starts a registered thread, which the engine's end waits for. `run` is given its id, and has dropped any session when
    /// it returns: the process must not end while a runtime cleans up.
    pub(super) fn spawn(
        self: &Arc<Self>,
        name: String,
        generation: u64,
        phase: Phase,
        run: impl FnOnce(u64) + Send + 'static,
    ) -> Result<u64, InferError> {
        let id = self.lock().threads.add(generation, phase);
        let shared = self.clone();
        let thread = std::thread::Builder::new().name(name.clone()).spawn(move || {
            run(id);
            shared.lock().threads.remove(id);
            shared.watch.notify_all();
        });
        let mut state = self.lock();
        match thread {
            Ok(handle) => state.threads.started(id, handle),
            Err(error) => {
                state.threads.remove(id);
                return Err(InferError::Thread { name, reason: error.to_string() });
            }
        }
        Ok(id)
    }

    pub(super) fn send(&self, message: Message) {
        self.lock().inbox.push(message);
        self.watch.notify_all();
    }
}
