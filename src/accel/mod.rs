//! Memory that is not ours, and instructions that not every processor has. The only room that may hold `unsafe`.
//!
//! Belongs here: turning a GStreamer buffer into the borrowed views of `types`, the numbers of tensors in page-locked memory, giving freed heap back, and loops on vectors of the
//! processor. Does not belong here: pipelines, models.

pub mod conv;
mod frame;
mod heap;
pub mod tensor;

pub use frame::{Frame, FrameError, MappedFrame, color_spec};
pub use heap::trim_heap;
