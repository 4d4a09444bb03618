//! Annotated video over RTSP: one mount `/<camera>` per camera, one encoder per watched camera, none for the others.
//!
//! Belongs here: the server, and per camera the thread that matches, paints and feeds the encoder. Does not belong here:
//! which boxes there are, and how they look.

mod clients;
mod media;
mod server;
mod timeline;
mod view;
mod worker;

pub use media::ELEMENTS;
pub use server::{RtspError, RtspServer};
pub use view::View;
