//! Memory that is not ours, and instructions that not every processor has. The only room that may hold `unsafe`.
//!
//! Belongs here: turning a GStreamer buffer into the borrowed views of `types`, giving freed heap back, and loops on vectors of the
//! processor. Does not belong here: pipelines, models.

pub mod conv;
mod frame;
mod heap;

pub use frame::{Frame, FrameError, MappedFrame, color_spec};
pub use heap::trim_heap;
