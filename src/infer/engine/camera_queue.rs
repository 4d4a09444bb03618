//! A camera's handle on the engine.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar};
use std::time::{Duration, Instant};

use crate::infer::InferError;
use crate::infer::engine::job::Job;
use crate::infer::engine::shared::Shared;
use crate::types::Priority;

/// A camera's queue of jobs in the engine. Jobs come back in the order in which they were submitted.
pub struct CameraQueue {
    pub(super) shared: Arc<Shared>,
    id: u64,
    name: String,
    depth: usize,
    done: Arc<Condvar>,
}

impl CameraQueue {
    pub(super) fn new(shared: &Arc<Shared>, name: &str, depth: usize, priority: Priority) -> Self {
        let depth = depth.max(1);
        let (id, done) = shared.lock().scheduler.open(depth, priority);
        Self { shared: shared.clone(), id, name: name.to_owned(), depth, done }
    }

    /// Hands in a job; returns at once. The job and its buffers are lost when there is an error, so ask
    /// [`Self::in_flight`] first.
    ///
    /// # Errors
    /// [`InferError::QueueFull`] or [`InferError::Stopped`].
    pub fn submit(&mut self, job: Job) -> Result<(), InferError> {
        let submitted = self.shared.lock().scheduler.submit(self.id, self.depth, job);
        match submitted {
            Ok(None) => self.shared.work.notify_all(),
            Ok(Some(notify)) => notify(),
            Err(true) => return Err(InferError::QueueFull { camera: self.name.clone(), depth: self.depth }),
            Err(false) => return Err(InferError::Stopped),
        }
        Ok(())
    }

    /// Jobs submitted and not taken back yet.
    pub fn in_flight(&self) -> usize {
        self.shared.lock().scheduler.in_flight(self.id)
    }

    /// Jobs in flight at most.
    pub fn depth(&self) -> usize {
        self.depth
    }

    /// Inferences that can run at the same time now; changes when the engine changes its backend.
    pub fn workers(&self) -> usize {
        self.shared.workers.load(Ordering::Relaxed)
    }

    /// The oldest job submitted; `None` when it is not done within `timeout`, or when there is none. After the engine's
    /// end, jobs that did not run come back with [`InferError::Stopped`].
    pub fn wait(&mut self, timeout: Duration) -> Option<Job> {
        let deadline = Instant::now() + timeout;
        let mut state = self.shared.lock();
        loop {
            if let Some(job) = state.scheduler.take_done(self.id)? {
                return Some(job);
            }
            let left = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
            state = Shared::wait_for(&self.done, state, left);
        }
    }

    /// `notify` is called on a worker's thread each time a job of this queue is done; it must return at once. For a
    /// thread that waits for other things too.
    pub fn on_done(&mut self, notify: Arc<dyn Fn() + Send + Sync>) {
        self.shared.lock().scheduler.on_done(self.id, notify);
    }
}

impl Drop for CameraQueue {
    fn drop(&mut self) {
        self.shared.lock().scheduler.remove(self.id);
    }
}
