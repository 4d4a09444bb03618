//! Where results go. No sink makes video or inference wait.
//!
//! Belongs here: clients, servers and their queues. Does not belong here: deciding what is detected.

pub mod encoder;
pub mod http;
pub mod jsonl;
pub mod message;
pub mod mqtt;
pub mod rtsp;
pub mod video_file;

use std::sync::Arc;

use crate::types::{CameraStatus, FrameResult};

/// Takes results and states; must return at once.
pub trait Sink: Send + Sync {
    fn result(&self, result: &Arc<FrameResult>);
    fn status(&self, status: &CameraStatus);
}
