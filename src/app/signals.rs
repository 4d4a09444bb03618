//! SIGINT and SIGTERM ask for an orderly end, a second one ends the process at once; SIGHUP asks for a reload.

use std::thread::JoinHandle;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::queue::Sender;

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGINT or SIGTERM.
    Terminate,
    /// SIGHUP.
    Reload,
}

/// The thread `signals`; ended by [`Signals::stop`].
pub struct Signals {
    handle: signal_hook::iterator::Handle,
    thread: JoinHandle<()>,
}

impl Signals {
    /// Sends [`Signal::Terminate`] at the first signal to end, and nothing more after it; at the second the process exits
    /// with 128 + the signal's number. Sends [`Signal::Reload`] at each SIGHUP.
    pub fn start(asked: Sender<Signal>) -> std::io::Result<Self> {
        let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP])?;
        let handle = signals.handle();
        let thread = std::thread::Builder::new().name("signals".into()).spawn(move || {
            let mut ending = false;
            for signal in signals.forever() {
                match signal {
                    // The queue holds the newest only: a reload must not push out the end.
                    SIGHUP if ending => {}
                    SIGHUP => drop(asked.send(Signal::Reload)),
                    signal if ending => std::process::exit(128 + signal),
                    _ => {
                        ending = true;
                        asked.send(Signal::Terminate);
                    }
                }
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
