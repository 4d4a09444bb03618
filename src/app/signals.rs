//! SIGINT and SIGTERM ask for an orderly stop, a second one ends the process at once; SIGHUP asks for a reload.

use std::thread::JoinHandle;
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::cancel::{Cancel, HookGuard};
use crate::queue::{self, Receiver};

/// The thread `signals`. While it is there, signals do not end the process by themselves.
pub struct Signals {
    cancel: Cancel,
    hangups: Receiver<()>,
    handle: signal_hook::iterator::Handle,
    thread: Option<JoinHandle<()>>,
    _waking: HookGuard,
}

impl Signals {
    /// At the first signal to stop, [`Self::cancel`] is cancelled with a deadline in `within`; at the second, the process
    /// exits with 128 + the signal's number.
    pub fn start(within: Duration) -> std::io::Result<Self> {
        let cancel = Cancel::new();
        let (hangup, hangups) = queue::latest("signals");
        let waker = hangups.waker();
        let waking = cancel.on_cancel(move |_| waker.wake());
        let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP])?;
        let handle = signals.handle();
        let asked = cancel.clone();
        let thread = std::thread::Builder::new().name("signals".into()).spawn(move || {
            let mut stopping = false;
            for signal in signals.forever() {
                match signal {
                    SIGHUP => drop(hangup.send(())),
                    // Not `exit`: destructors would run while ONNX Runtime is at work.
                    signal if stopping => signal_hook::low_level::exit(128 + signal),
                    _ => {
                        stopping = true;
                        asked.cancel(within);
                    }
                }
            }
        })?;
        Ok(Self { cancel, hangups, handle, thread: Some(thread), _waking: waking })
    }

    /// The token that the signals cancel.
    pub fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    /// Waits for SIGHUP; false when the time is over or the token is cancelled.
    pub fn hangup(&self, timeout: Duration) -> bool {
        self.hangups.recv_timeout(timeout).is_ok()
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        self.handle.close();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread signals panicked; please report this");
        }
    }
}
