//! Which result belongs on which frame, and drawing it into the planes.
//!
//! Belongs here: drawing and matching, with time as an argument. Does not belong here: threads, encoders.

mod canvas;
mod draw;
mod matcher;
mod palette;
mod slate;
mod text;

pub use draw::draw;
pub use matcher::{FORGET, Matcher, Released};
pub use palette::class_color;
pub use slate::slate;
