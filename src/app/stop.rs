//! Stopping several parts at once, in bounded time.

use std::time::Duration;

use crate::cancel::{self, Cancel};

/// From the request to stop to the end of the process: less than `TimeoutStopSec` of the systemd unit, after which the
/// process is killed.
pub const STOP_WITHIN: Duration = Duration::from_secs(8);

/// One part's stop, and the part's name for the log.
pub(super) type Step = (String, Box<dyn FnOnce() + Send>);

/// Runs `steps` side by side, each on a thread of its own, and waits for them: `at_most`, and no longer than until the
/// deadline of `cancel`. A step that is still at work then is left behind.
pub(super) fn stop_all(cancel: &Cancel, at_most: Duration, steps: Vec<Step>) {
    // Without a thread the step is dropped here, and with it the part.
    let threads = steps.into_iter().filter_map(|(name, step)| std::thread::Builder::new().name(name).spawn(step).ok());
    let hung = cancel.join(at_most, threads.collect());
    if !hung.is_empty() {
        let names: Vec<&str> = hung.iter().filter_map(|thread| thread.thread().name()).collect();
        tracing::warn!("{} did not stop in time: left behind", names.join(", "));
        cancel::leave_behind();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;

    #[test]
    fn the_process_ends_before_systemd_kills_it() {
        let unit = include_str!("../../deploy/systemd/ocelli.service");
        let timeout = unit.lines().find_map(|line| line.strip_prefix("TimeoutStopSec="));
        assert!(timeout.and_then(|text| text.parse().ok()).is_some_and(|seconds: u64| seconds > STOP_WITHIN.as_secs()));
    }

    #[test]
    fn a_step_that_hangs_holds_up_neither_the_others_nor_the_deadline() {
        let cancel = Cancel::new();
        cancel.cancel(Duration::from_millis(200));
        let (hold, held) = sync_channel::<()>(0);
        let (ran, others) = sync_channel(2);
        let second = ran.clone();
        let steps: Vec<Step> = vec![
            ("stuck".into(), Box::new(move || _ = held.recv())),
            ("one".into(), Box::new(move || _ = ran.send(1))),
            ("two".into(), Box::new(move || _ = second.send(2))),
        ];
        stop_all(&cancel, Duration::from_secs(3600), steps);
        assert_eq!(others.iter().sum::<i32>(), 3);
        drop(hold);
        assert!(cancel::left_behind(), "the process must end by `_exit`");
    }
}
