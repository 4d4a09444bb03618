//! Where frames come from: one GStreamer pipeline per camera, kept alive.
//!
//! Belongs here: pipelines, reconnects, states. Does not belong here: what is done with a frame.

use crate::accel::Frame;

/// Sees every decoded frame on its way to the detector: the video branch.
pub trait FrameTap: Send + Sync {
    /// One decoded frame. Called on the streaming thread, so it must return at once: no wait, no copy of the pixels.
    fn frame(&self, frame: &Frame);
}
