//! The way to wake a source's thread wherever it waits: on the bus or between two attempts.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gstreamer as gst;

/// Name of the application message that only wakes the reader of the bus.
const WAKE: &str = "ocelli-wake";

#[derive(Default)]
pub(super) struct Control {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    stopping: bool,
    bus: Option<gst::Bus>,
}

impl Control {
    // Both fields are always whole, so a poisoned lock is still good.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the thread to end.
    pub(super) fn stop(&self) {
        let bus = {
            let mut state = self.lock();
            state.stopping = true;
            state.bus.clone()
        };
        self.changed.notify_all();
        if let Some(bus) = bus {
            wake(&bus);
        }
    }

    pub(super) fn stopping(&self) -> bool {
        self.lock().stopping
    }

    /// From now on [`Control::stop`] also wakes the reader of this bus (`None`: of none).
    pub(super) fn watch(&self, bus: Option<gst::Bus>) {
        self.lock().bus = bus;
    }

    /// Waits for `duration`, or until the stop. Returns true when the source is to stop.
    pub(super) fn wait(&self, duration: Duration) -> bool {
        let deadline = Instant::now() + duration;
        let mut state = self.lock();
        while !state.stopping {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

/// Makes the reader of the bus look at the flags again.
pub(super) fn wake(bus: &gst::Bus) {
    // Refused only while the bus is flushing: then nobody reads it.
    let _ = bus.post(gst::message::Application::new(gst::Structure::new_empty(WAKE)));
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::sync::Arc;

    #[test]
    fn stop_ends_a_long_wait_and_an_elapsed_one_says_no() {
        let control = Arc::new(Control::default());
        assert!(!control.wait(Duration::ZERO));
        let waiter = {
            let control = control.clone();
            std::thread::spawn(move || control.wait(Duration::from_secs(3600)))
        };
        control.stop();
        assert!(waiter.join().unwrap(), "stopped, not elapsed");
        assert!(control.wait(Duration::from_secs(3600)), "and every later wait ends at once");
    }

    #[test]
    fn stop_wakes_the_bus() {
        gst::init().unwrap();
        let (control, bus) = (Control::default(), gst::Bus::new());
        control.watch(Some(bus.clone()));
        control.stop();
        assert!(bus.pop().is_some());
    }
}
