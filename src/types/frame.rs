//! A frame without its pixels.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::geometry::Size;

/// A camera's name as the configuration gives it: `^[a-z0-9][a-z0-9_-]{0,62}$`.
pub type CameraName = Arc<str>;

#[derive(Debug, Clone)]
pub struct FrameMeta {
    pub camera: CameraName,
    /// Number of the frame since the source was started, from 0; reconnects do not reset it.
    pub seq: u64,
    /// Presentation time in nanoseconds of the pipeline's running time, plus an offset that keeps it growing over
    /// reconnects and loops.
    pub pts_ns: u64,
    /// Wall clock at which the decoded frame arrived.
    pub captured_at: SystemTime,
    /// Monotonic clock at which the decoded frame arrived.
    pub captured: Instant,
    pub size: Size,
}
