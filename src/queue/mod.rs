//! Bounded queues with a drop policy and a counter. Ocelli has no unbounded queue.
//!
//! Belongs here: hand-over between threads. Does not belong here: what is handed over.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What a full queue does with another item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropPolicy {
    /// The oldest item is dropped: live video, results, events.
    DropOldest,
    /// The sender waits: files, where every frame counts.
    Block,
}

struct State<T> {
    items: VecDeque<T>,
    closed: bool,
    woken: bool,
}

struct Shared<T> {
    name: &'static str,
    capacity: usize,
    policy: DropPolicy,
    state: Mutex<State<T>>,
    /// Notified at each change.
    changed: Condvar,
    dropped: AtomicU64,
}

impl<T> Shared<T> {
    // A holder that panics cannot leave the deque half changed, so a poisoned lock is still good.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The writing end; may be cloned.
pub struct Sender<T>(Arc<Shared<T>>);

/// The reading end; may be cloned, each item goes to one reader.
pub struct Receiver<T>(Arc<Shared<T>>);

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// Why nothing was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecvError {
    #[error("timed out")]
    Timeout,
    #[error("closed")]
    Closed,
    #[error("woken")]
    Woken,
}

/// Wakes the receiver of a queue without an item, so that one thread can wait for two things.
pub struct Waker<T>(Arc<Shared<T>>);

impl<T> Waker<T> {
    /// The next (or the current) receive returns [`RecvError::Woken`], before any item.
    pub fn wake(&self) {
        self.0.lock().woken = true;
        self.0.changed.notify_all();
    }
}

/// A queue of at most `capacity` (≥ 1) items.
pub fn bounded<T>(name: &'static str, capacity: usize, policy: DropPolicy) -> (Sender<T>, Receiver<T>) {
    let shared = Arc::new(Shared {
        name,
        capacity: capacity.max(1),
        policy,
        state: Mutex::new(State { items: VecDeque::with_capacity(capacity.max(1)), closed: false, woken: false }),
        changed: Condvar::new(),
        dropped: AtomicU64::new(0),
    });
    (Sender(shared.clone()), Receiver(shared))
}

/// The one-slot queue of live video: the newest item wins.
pub fn latest<T>(name: &'static str) -> (Sender<T>, Receiver<T>) {
    bounded(name, 1, DropPolicy::DropOldest)
}

impl<T> Sender<T> {
    /// Adds an item. Returns the item that was dropped: the oldest under [`DropPolicy::DropOldest`], or `item` itself
    /// when the queue is closed. Waits only under [`DropPolicy::Block`].
    pub fn send(&self, item: T) -> Option<T> {
        let mut state = self.0.lock();
        loop {
            if state.closed {
                return Some(item);
            }
            if state.items.len() < self.0.capacity {
                state.items.push_back(item);
                drop(state);
                self.0.changed.notify_all();
                return None;
            }
            match self.0.policy {
                DropPolicy::DropOldest => {
                    let oldest = state.items.pop_front();
                    state.items.push_back(item);
                    drop(state);
                    self.0.dropped.fetch_add(1, Ordering::Relaxed);
                    self.0.changed.notify_all();
                    return oldest;
                }
                DropPolicy::Block => {
                    state = self.0.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    /// Accepts no more items; those in the queue can still be received.
    pub fn close(&self) {
        self.0.lock().closed = true;
        self.0.changed.notify_all();
    }

    /// Items dropped since the start because the queue was full.
    pub fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }

    /// Items that wait now.
    pub fn len(&self) -> usize {
        self.0.lock().items.len()
    }

    /// True when nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The queue's name, for logs and metrics.
    pub fn name(&self) -> &'static str {
        self.0.name
    }
}

impl<T> Receiver<T> {
    /// Takes the oldest item, waiting at most `timeout` for one.
    pub fn recv_timeout(&self, timeout: Duration) -> Result<T, RecvError> {
        let deadline = Instant::now() + timeout;
        let mut state = self.0.lock();
        loop {
            if std::mem::take(&mut state.woken) {
                return Err(RecvError::Woken);
            }
            if let Some(item) = state.items.pop_front() {
                drop(state);
                self.0.changed.notify_all();
                return Ok(item);
            }
            if state.closed {
                return Err(RecvError::Closed);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(RecvError::Timeout);
            }
            state = self.0.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Takes the oldest item, if there is one.
    pub fn try_recv(&self) -> Result<T, RecvError> {
        self.recv_timeout(Duration::ZERO)
    }

    /// A handle with which another thread can end a wait.
    pub fn waker(&self) -> Waker<T> {
        Waker(self.0.clone())
    }

    /// Accepts no more items and drops those in the queue; blocked senders wake up.
    pub fn close(&self) {
        let waiting = {
            let mut state = self.0.lock();
            state.closed = true;
            std::mem::take(&mut state.items)
        };
        drop(waiting);
        self.0.changed.notify_all();
    }

    /// Items dropped since the start because the queue was full.
    pub fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latest_keeps_the_newest_and_counts() {
        let (tx, rx) = latest("test");
        assert_eq!(tx.send(1), None);
        assert_eq!(tx.send(2), Some(1));
        assert_eq!(rx.try_recv(), Ok(2));
        assert_eq!(tx.dropped(), 1);
        assert_eq!(rx.try_recv(), Err(RecvError::Timeout));
    }

    #[test]
    fn block_makes_the_sender_wait_and_loses_nothing() {
        let (tx, rx) = bounded("test", 2, DropPolicy::Block);
        let writer = std::thread::spawn(move || {
            for n in 0..100 {
                assert_eq!(tx.send(n), None);
            }
            tx.close();
        });
        let mut got = Vec::new();
        while let Ok(n) = rx.recv_timeout(Duration::from_secs(10)) {
            got.push(n);
        }
        assert!(writer.join().is_ok());
        assert_eq!(got, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn a_wake_ends_the_wait_once_and_loses_no_item() {
        let (tx, rx) = latest("test");
        let waker = rx.waker();
        waker.wake();
        assert_eq!(tx.send(1), None);
        assert_eq!(rx.recv_timeout(Duration::from_secs(10)), Err(RecvError::Woken));
        assert_eq!(rx.recv_timeout(Duration::from_secs(10)), Ok(1));
        let waiter = std::thread::spawn(move || rx.recv_timeout(Duration::from_secs(10)));
        waker.wake();
        assert_eq!(waiter.join().ok(), Some(Err(RecvError::Woken)));
    }

    #[test]
    fn closing_the_reader_frees_a_blocked_sender() {
        let (tx, rx) = bounded("test", 1, DropPolicy::Block);
        assert_eq!(tx.send(1), None);
        let writer = std::thread::spawn(move || tx.send(2));
        rx.close();
        assert_eq!(writer.join().ok().flatten(), Some(2));
    }
}
