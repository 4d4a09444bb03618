//! Annotated video over RTSP: one mount `/<camera>` per camera, one encoder per camera that has viewers.
//!
//! Belongs here: the server, and per camera the thread that matches frames with results, draws boxes and feeds the encoder.
//! Does not belong here: how boxes look.

mod clients;
mod encoder_input;
mod media;
mod server;
mod shared;
mod timeline;
mod view;
mod worker;

pub use media::ELEMENTS;
pub use server::{RtspError, RtspServer};
pub use view::View;
