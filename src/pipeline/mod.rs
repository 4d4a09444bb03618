//! One camera from frame to result: the thread between its source, its model's engine and the sinks.
//!
//! Belongs here: the order of the stages, their timing, the frame rate. Does not belong here: what a stage does.

mod camera;
mod detector;

pub use camera::{Camera, CameraParts};
pub use detector::{Detector, DetectorError};
