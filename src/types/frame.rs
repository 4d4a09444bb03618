//! What is known of a frame besides its pixels.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::Size;

/// A camera's name as the configuration gives it: `^[a-z0-9][a-z0-9_-]{0,62}$`.
pub type CameraName = Arc<str>;

/// What is known of a frame besides its pixels.
#[derive(Debug, Clone)]
pub struct FrameMeta {
    /// Which camera.
    pub camera: CameraName,
    /// Counts the frames that the source delivered, from 0, over reconnects; grows by 1.
    pub seq: u64,
    /// Presentation time in nanoseconds of the pipeline's running time, plus the offset that keeps it growing over
    /// reconnects and loops.
    pub pts_ns: u64,
    /// Wall clock at which the decoded frame arrived.
    pub captured_at: SystemTime,
    /// Monotonic clock at which the decoded frame arrived.
    pub captured: Instant,
    /// Width and height.
    pub size: Size,
}
