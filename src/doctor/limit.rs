//! Work that may hang: done by a thread that is left behind when its time is over.

use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

/// What was seen, or why nothing was.
pub(super) type Limited<T> = Result<T, String>;

/// Work that goes on.
pub(super) struct Task<T> {
    outcome: Receiver<T>,
    begin: Instant,
    limit: Duration,
}

impl<T: Send + 'static> Task<T> {
    /// Starts `work`, which has `limit` from now on.
    pub(super) fn start(name: &str, limit: Duration, work: impl FnOnce() -> T + Send + 'static) -> Self {
        let (done, outcome) = sync_channel(1);
        // Nobody joins it: a thread that hangs in the system cannot be ended, and this program ends soon. When there is no
        // thread to be had, the channel is closed and `wait` says so.
        let _ = std::thread::Builder::new().name(format!("doctor-{name}")).spawn(move || {
            let _ = done.send(work());
        });
        Self { outcome, begin: Instant::now(), limit }
    }

    /// What came out of it.
    pub(super) fn wait(self) -> Limited<T> {
        let left = self.limit.saturating_sub(self.begin.elapsed());
        self.outcome.recv_timeout(left).map_err(|error| match error {
            RecvTimeoutError::Timeout => format!("no answer within {} s", self.limit.as_secs_f32()),
            RecvTimeoutError::Disconnected => "the check itself failed; please report this".into(),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    #[test]
    fn what_hangs_and_what_panics_is_told() {
        assert_eq!(Task::start("a", Duration::from_secs(60), || 7).wait(), Ok(7));
        let (_keep, never) = sync_channel::<()>(0);
        let hung = Task::start("b", Duration::from_millis(20), move || never.recv().is_ok());
        assert_eq!(hung.wait().unwrap_err(), "no answer within 0.02 s");
        let dead: Task<()> = Task::start("c", Duration::from_secs(60), || panic!("told to panic"));
        assert!(dead.wait().unwrap_err().contains("report"));
    }
}
