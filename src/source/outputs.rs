//! What a source gives to the rest of the program.

use std::sync::{Arc, OnceLock};

use super::error::SourceError;
use crate::frame::Frame;
use crate::queue;
use crate::types::CameraStatus;

/// Sees every frame before it is queued, on GStreamer's thread: must return at once.
pub trait FrameTap: Send + Sync {
    /// To keep the frame, clone it: that clones a reference.
    fn frame(&self, frame: &Frame);
}

/// Where a source puts frames and states.
#[derive(Clone)]
pub struct Outputs {
    /// The queue's policy decides what happens when the reader is slow: [`queue::latest`] for live sources,
    /// [`queue::DropPolicy::Block`] for files of which every frame counts. Closed when the source has ended for good or
    /// was stopped.
    pub frames: queue::Sender<Frame>,
    /// Sees every frame, also those that the queue drops.
    pub tap: Option<Arc<dyn FrameTap>>,
    /// Called once per change of state (or of its reason), on the thread `src-<camera>`.
    pub status: Arc<dyn Fn(CameraStatus) + Send + Sync>,
}

/// What is known about a source.
#[derive(Default)]
pub(super) struct Facts {
    pub(super) outcome: OnceLock<Outcome>,
    /// The codec's name and the element that decodes it, of the first run with a frame; `None` in it: another codec.
    pub(super) decoding: OnceLock<Option<(&'static str, String)>>,
}

/// How a source ended by itself.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// A file played once is over.
    Ended,
    /// A file played once could not be played (to its end).
    Failed(SourceError),
}
