//! Work with a timeout, on a thread that is left behind when it does not end in time.

use std::ffi::OsStr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;

use crate::infer;

/// A result, or why there is none.
pub(super) type Limited<T> = Result<T, String>;

pub(super) struct Task<T> {
    outcome: Receiver<T>,
    begin: Instant,
    limit: Duration,
}

impl<T: Send + 'static> Task<T> {
    /// Starts `work`, which has `limit` from now on.
    pub(super) fn start(name: &str, limit: Duration, work: impl FnOnce() -> T + Send + 'static) -> Self {
        let (done, outcome) = sync_channel(1);
        // Never joined: a thread that hangs in a system call cannot be ended, and this process ends soon. If the thread cannot be
        // started, the channel is closed and `wait` reports it.
        let _ = std::thread::Builder::new().name(format!("doctor-{name}")).spawn(move || {
            let _ = done.send(work());
        });
        Self { outcome, begin: Instant::now(), limit }
    }

    pub(super) fn wait(self) -> Limited<T> {
        let left = self.limit.saturating_sub(self.begin.elapsed());
        self.outcome.recv_timeout(left).map_err(|error| match error {
            RecvTimeoutError::Timeout => format!("no answer within {} s", self.limit.as_secs_f32()),
            RecvTimeoutError::Disconnected => "the check itself failed; please report this".into(),
        })
    }
}

/// What a child process reports that runs this program with `call`; `name` is the child's in a reason.
pub(super) fn child<T: DeserializeOwned>(call: &[&OsStr], timeout: Duration, name: &str) -> Limited<T> {
    let answer = infer::ask(call, timeout).map_err(|error| error.to_string())?;
    match answer.crash() {
        Some(signal) => Err(format!("{name} crashed ({signal})")),
        None => answer.report().unwrap_or_else(|| Err(format!("{name} ended with {}", answer.status))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    #[test]
    fn a_timeout_and_a_panic_are_reported() {
        assert_eq!(Task::start("a", Duration::from_secs(60), || 7).wait(), Ok(7));
        let (_keep, never) = sync_channel::<()>(0);
        let slow = Task::start("b", Duration::from_millis(20), move || never.recv().is_ok());
        assert_eq!(slow.wait().unwrap_err(), "no answer within 0.02 s");
        let panicked: Task<()> = Task::start("c", Duration::from_secs(60), || panic!("on purpose"));
        assert!(panicked.wait().unwrap_err().contains("report"));
    }
}
