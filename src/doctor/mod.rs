//! What is on this box, and whether it is what the configuration needs: facts are gathered, then judged.
//!
//! Belongs here: looking, and sentences about what was seen with the fix for each. Does not belong here: knowing what
//! the other rooms need; they say it (`infer::survey`, `source::plan`, `sink::encoder::plan`, …) by the very code that
//! `ocelli run` goes through.
//!
//! Judging (`judge`) is pure: facts in, checks out. Gathering never hangs and never dies of what it looks at: what may
//! crash is looked at by a child process, what may hang by a thread that is left behind when its time is over.

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
pub use dropin::{DROPIN, write as write_dropin};
pub use facts::{CameraFacts, Facts, Scope};
pub use gather::{Request, gather};
pub use judge::judge;
pub use media::look as look_at_media;
pub use root::Root;
pub use text::render;

/// Looks at the box and judges what was seen. Takes as long as the slowest thing that is asked, about a minute at most.
pub fn examine(request: &Request) -> Report {
    Report::new(judge(&gather(request)))
}

/// The text of the systemd drop-in that opens this box's devices to the service.
pub fn dropin(root: &Root) -> String {
    dropin::dropin(&board::board(root), &devices::devices(root))
}
