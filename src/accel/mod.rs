//! Memory that is not ours: mapped video planes today, device memory later. The only room that may hold `unsafe`.
//!
//! Belongs here: turning a GStreamer buffer into the borrowed views of `types`, and giving freed heap back. Does not belong here: pipelines.

mod frame;
mod heap;

pub use frame::{Frame, FrameError, MappedFrame, color_spec};
pub use heap::trim_heap;
