//! What is on this machine, and whether it is what the configuration needs: facts are collected, then assessed.
//!
//! This room examines the machine and words the findings, each with a fix. What other rooms need, they report themselves
//! (`infer::survey`, `source::plan`, `sink::encoder::plan`, …) by the code that `ocelli run` uses.
//!
//! `judge` is pure: facts in, checks out. Collecting never hangs or crashes: what may crash is examined by a child process, what may
//! hang by a thread that is left behind after a timeout.

mod board;
mod check;
mod devices;
mod dropin;
mod facts;
mod gather;
mod judge;
mod libraries;
mod limit;
mod media;
mod network;
mod root;
mod runtime;
mod system;
#[cfg(test)]
mod tests;
mod text;

pub use check::{Check, Counts, Report, Section, Status};
pub use devices::DROPIN;
pub use dropin::write as write_dropin;
pub use facts::{CameraFacts, Facts, Scope};
pub use gather::{Request, gather};
pub use judge::judge;
pub use media::look as look_at_media;
pub use root::Root;
pub use text::render;

/// Takes as long as the slowest check, about a minute at most.
pub fn examine(request: &Request) -> Report {
    Report::new(judge(&gather(request)))
}

/// The text of the systemd drop-in that allows the service this machine's devices.
pub fn dropin(root: &Root) -> String {
    dropin::dropin(&board::board(root), &devices::devices(root))
}
