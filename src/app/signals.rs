//! SIGINT and SIGTERM as events: the first asks for an orderly end, a second one ends the process at once.

use std::thread::JoinHandle;

use signal_hook::consts::{SIGINT, SIGTERM};

use crate::queue::Sender;

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGINT or SIGTERM.
    Terminate,
}

/// The thread `signals`; ended by [`Signals::stop`].
pub struct Signals {
    handle: signal_hook::iterator::Handle,
    thread: JoinHandle<()>,
}

impl Signals {
    /// Sends [`Signal::Terminate`] at the first signal; at the second the process exits with 128 + the signal's number.
    pub fn start(asked: Sender<Signal>) -> std::io::Result<Self> {
        let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
        let handle = signals.handle();
        let thread = std::thread::Builder::new().name("signals".into()).spawn(move || {
            for (count, signal) in signals.forever().enumerate() {
                if count > 0 {
                    std::process::exit(128 + signal);
                }
                asked.send(Signal::Terminate);
            }
        })?;
        Ok(Self { handle, thread })
    }

    /// Ends the thread.
    pub fn stop(self) {
        self.handle.close();
        if self.thread.join().is_err() {
            tracing::error!("the signal thread panicked; please report this");
        }
    }
}
