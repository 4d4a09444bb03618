//! Plain data that every room uses: geometry, frame metadata, detections and results.
//!
//! Belongs here: plain data and the arithmetic on it. Does not belong here: threads, sockets, files, GStreamer, clock
//! reads. Time is always an argument.

mod engine;
mod frame;
mod geometry;
mod image;
mod named;
mod result;
mod url;

pub use engine::{BuildProgress, DEFAULT_MODEL, Ended, EngineState, EngineStatus, Priority, SessionLayout};
pub use frame::{CameraName, FrameMeta};
pub use geometry::{Letterbox, NormBox, Padding, PixelBox, Size};
pub use image::{ColorMatrix, ColorRange, ColorSpec, Image, ImageView, ImageViewMut, Plane, PlaneMut};
pub(crate) use named::named;
pub use result::{BackendInfo, BackendKind, CameraState, CameraStatus, Detection, FrameResult, Latency, ModelId};
pub use url::{HIDDEN, Url, redact, redact_with};
