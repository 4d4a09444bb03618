//! Stopping: one token and one deadline for everything that has to end.
//!
//! Belongs here: the request to stop, its notification, and how much time is left. Does not belong here: what is stopped,
//! and in which order (room `app`).
//!
//! The service makes one token. Whatever waits, waits on it or registers a hook that wakes it; whatever is waited for
//! during a stop is waited for until [`Cancel::remaining`] is zero, never for a time of its own.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Time between two checks whether a thread has ended: the standard library has no join with a timeout.
const POLL: Duration = Duration::from_millis(5);

static LEFT_BEHIND: AtomicBool = AtomicBool::new(false);

/// Notes that a hanging thread was not joined: see [`left_behind`].
pub fn leave_behind() {
    LEFT_BEHIND.store(true, Ordering::Relaxed);
}

/// True when a thread of this process hangs. Then the process must end by `_exit`: an ordinary exit runs destructors, and
/// they would tear down what that thread still uses.
pub fn left_behind() -> bool {
    LEFT_BEHIND.load(Ordering::Relaxed)
}

type Hook = Box<dyn Fn(Instant) + Send>;

#[derive(Default)]
struct State {
    /// When everything must have ended; set by the first cancellation, and only ever moved forward.
    deadline: Option<Instant>,
    hooks: Vec<(u64, Hook)>,
    next_hook: u64,
    children: Vec<Weak<Inner>>,
}

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    cancelled: Condvar,
}

impl Inner {
    // Only the hooks run under the lock, and they must not panic; a poisoned lock is still good.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request to stop, shared by cloning.
#[derive(Clone, Default)]
pub struct Cancel(Arc<Inner>);

/// Keeps a hook registered; dropping it removes the hook.
#[must_use]
pub struct HookGuard {
    inner: Weak<Inner>,
    id: u64,
}

impl Cancel {
    pub fn new() -> Self {
        Self::default()
    }

    /// A token that is cancelled with this one, and can be cancelled alone: for one camera, one model, one reload.
    pub fn child(&self) -> Self {
        let child = Self::new();
        let mut state = self.0.lock();
        if let Some(deadline) = state.deadline {
            child.cancel_at(deadline);
        }
        state.children.retain(|child| child.strong_count() > 0);
        state.children.push(Arc::downgrade(&child.0));
        drop(state);
        child
    }

    /// Asks everything to end within `within`. Of several deadlines the earliest holds.
    pub fn cancel(&self, within: Duration) {
        self.cancel_at(Instant::now() + within);
    }

    fn cancel_at(&self, deadline: Instant) {
        let mut state = self.0.lock();
        if state.deadline.is_some_and(|before| before <= deadline) {
            return;
        }
        state.deadline = Some(deadline);
        for (_, hook) in &state.hooks {
            hook(deadline);
        }
        for child in state.children.iter().filter_map(Weak::upgrade) {
            Self(child).cancel_at(deadline);
        }
        drop(state);
        self.0.cancelled.notify_all();
    }

    pub fn is_cancelled(&self) -> bool {
        self.0.lock().deadline.is_some()
    }

    /// `at_most`, but no longer than what is left until the deadline. Zero: do not wait at all.
    pub fn remaining(&self, at_most: Duration) -> Duration {
        let deadline = self.0.lock().deadline;
        deadline.map_or(at_most, |deadline| deadline.saturating_duration_since(Instant::now()).min(at_most))
    }

    /// Sleeps for `time`. True, at once, when the token is cancelled.
    pub fn sleep(&self, time: Duration) -> bool {
        let state = self.0.lock();
        let wait = self.0.cancelled.wait_timeout_while(state, time, |state| state.deadline.is_none());
        wait.unwrap_or_else(PoisonError::into_inner).0.deadline.is_some()
    }

    /// Joins the threads that end within `at_most` and before the deadline; returns the others.
    pub fn join(&self, at_most: Duration, mut threads: Vec<JoinHandle<()>>) -> Vec<JoinHandle<()>> {
        let end = Instant::now() + at_most;
        loop {
            let (ended, running) = threads.into_iter().partition(JoinHandle::is_finished);
            threads = running;
            for thread in ended {
                let name = thread.thread().name().unwrap_or_default().to_owned();
                if thread.join().is_err() {
                    tracing::error!("the thread {name} panicked; please report this");
                }
            }
            let left = self.remaining(end.saturating_duration_since(Instant::now()));
            if threads.is_empty() || left.is_zero() {
                return threads;
            }
            std::thread::sleep(left.min(POLL));
        }
    }

    /// Calls `hook` with the deadline when the token is cancelled, and again when the deadline moves forward; at once when
    /// it is cancelled already. The hook wakes something and returns: it must not block, and must not use this token.
    pub fn on_cancel(&self, hook: impl Fn(Instant) + Send + 'static) -> HookGuard {
        let mut state = self.0.lock();
        if let Some(deadline) = state.deadline {
            hook(deadline);
        }
        let id = state.next_hook;
        state.next_hook += 1;
        state.hooks.push((id, Box::new(hook)));
        HookGuard { inner: Arc::downgrade(&self.0), id }
    }
}

impl Drop for HookGuard {
    fn drop(&mut self) {
        if let Some(inner) = self.inner.upgrade() {
            inner.lock().hooks.retain(|(id, _)| *id != self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    #[test]
    fn a_sleeper_wakes_and_later_sleeps_end_at_once() {
        let cancel = Cancel::new();
        assert!(!cancel.is_cancelled() && !cancel.sleep(Duration::from_millis(1)));
        assert_eq!(cancel.remaining(LONG), LONG);
        let sleeper = std::thread::spawn({
            let cancel = cancel.clone();
            move || cancel.sleep(LONG)
        });
        cancel.cancel(Duration::from_secs(60));
        assert!(sleeper.join().is_ok_and(|woken| woken) && cancel.sleep(LONG));
        assert!(cancel.remaining(LONG) <= Duration::from_secs(60));
        assert_eq!(cancel.remaining(Duration::from_secs(1)), Duration::from_secs(1));
    }

    #[test]
    fn the_earliest_deadline_holds() {
        let cancel = Cancel::new();
        cancel.cancel(Duration::from_secs(60));
        cancel.cancel(LONG);
        assert!(cancel.remaining(LONG) <= Duration::from_secs(60));
        cancel.cancel(Duration::ZERO);
        assert_eq!(cancel.remaining(LONG), Duration::ZERO);
    }

    #[test]
    fn hooks_are_called_until_their_guard_is_dropped() {
        let cancel = Cancel::new();
        let calls = Arc::new(AtomicU32::new(0));
        let count = || {
            let calls = calls.clone();
            move |_| {
                calls.fetch_add(1, Ordering::Relaxed);
            }
        };
        let (kept, dropped) = (cancel.on_cancel(count()), cancel.on_cancel(count()));
        drop(dropped);
        cancel.cancel(Duration::ZERO);
        let late = cancel.on_cancel(count());
        assert_eq!(calls.load(Ordering::Relaxed), 2, "one that was kept, one that came late");
        drop((kept, late));
    }

    #[test]
    fn a_child_ends_with_its_parent_but_not_the_other_way_round() {
        let parent = Cancel::new();
        let (one, other) = (parent.child(), parent.child());
        one.cancel(LONG);
        assert!(one.is_cancelled() && !parent.is_cancelled() && !other.is_cancelled());
        parent.cancel(Duration::ZERO);
        assert!(other.is_cancelled());
        assert_eq!(one.remaining(LONG), Duration::ZERO, "the parent's earlier deadline");
        assert!(parent.child().is_cancelled());
    }
}
