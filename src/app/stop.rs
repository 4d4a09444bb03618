//! Stopping several parts at once, in bounded time.

use std::collections::BTreeSet;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use crate::cancel::{self, Cancel};

/// From the request to stop to the end of the process: less than `TimeoutStopSec` of the systemd unit, after which the
/// process is killed.
pub const STOP_WITHIN: Duration = Duration::from_secs(8);

/// Longest wait before the deadline is read again: a signal may come meanwhile.
const TICK: Duration = Duration::from_millis(250);

/// One part's stop, and the part's name for the log.
pub(super) type Step = (String, Box<dyn FnOnce() + Send>);

/// Runs `steps` side by side, each on a thread of its own, and waits for them: `at_most`, and no longer than until the
/// deadline of `cancel`. A step that is still at work then is left behind.
pub(super) fn stop_all(cancel: &Cancel, at_most: Duration, steps: Vec<Step>) {
    let (done, ended) = sync_channel(steps.len());
    let mut waiting = BTreeSet::new();
    for (name, step) in steps {
        let (done, ended_name) = (done.clone(), name.clone());
        // Without a thread the step is dropped here, and with it the part.
        if let Ok(thread) = std::thread::Builder::new().name("stop".into()).spawn(move || {
            step();
            let _ = done.send(ended_name);
        }) {
            waiting.insert(name);
            drop(thread);
        }
    }
    drop(done);
    let begun = Instant::now();
    while !waiting.is_empty() {
        let left = cancel.remaining(at_most.saturating_sub(begun.elapsed()));
        match ended.recv_timeout(left.min(TICK)) {
            Ok(name) => _ = waiting.remove(&name),
            Err(RecvTimeoutError::Timeout) if left > TICK => {}
            Err(_) => {
                let names: Vec<String> = waiting.into_iter().collect();
                tracing::warn!("{} did not stop in time: left behind", names.join(", "));
                cancel::leave_behind();
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
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
