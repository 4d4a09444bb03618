//! What to serve, and how.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// A simulated camera.
#[derive(Clone, PartialEq)]
pub struct SimulatorConfig {
    /// The video file.
    pub file: PathBuf,
    /// Port 0 takes a free one.
    pub listen: SocketAddr,
    /// Path of the stream, without the leading slash.
    pub path: String,
    /// Frames per second instead of the file's own rate; must be above 0.
    pub fps: Option<f64>,
    /// Where in the clip to begin; later passes play it whole.
    pub start: Duration,
    /// User name and password (digest); `None`: open to all.
    pub credentials: Option<(String, String)>,
    /// Start with the first viewer and end with the file, instead of playing in a loop.
    pub once: bool,
    /// Paint the frame number into each frame, see [`write_counter`](crate::source::write_counter).
    pub counter: bool,
}
