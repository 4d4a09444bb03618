//! A running camera or file, as its owner sees it.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use gstreamer as gst;

use super::error::SourceError;
use super::outputs::{Facts, Outcome, Outputs};
use super::runner::Runner;
use crate::cancel::{self, Cancel, HookGuard};
use crate::config::CameraConfig;
use crate::types::CameraName;

/// Longest wait for the camera's thread in [`Source::stop`].
const STOP: Duration = Duration::from_secs(2);

/// A running camera or file. Dropping it stops it.
pub struct Source {
    camera: CameraName,
    cancel: Cancel,
    facts: Arc<Facts>,
    thread: Option<JoinHandle<()>>,
    _closing: HookGuard,
}

impl Source {
    /// Starts the thread `src-<camera>` and returns at once: `outputs.status` reports whether the camera can be reached.
    /// The source ends when `cancel` is cancelled, or on [`Self::stop`].
    ///
    /// # Errors
    /// GStreamer does not start, or no thread can be started.
    pub fn start(camera: &CameraConfig, outputs: Outputs, cancel: &Cancel) -> Result<Self, SourceError> {
        gst::init().map_err(|e| SourceError::Init(e.to_string()))?;
        let cancel = cancel.child();
        let facts = Arc::new(Facts::default());
        // Frees a streaming thread that waits for a slow reader; otherwise the pipeline could not be torn down.
        let frames = outputs.frames.clone();
        let closing = cancel.on_cancel(move |_| frames.close());
        let runner = Runner::new(camera, outputs, cancel.clone(), facts.clone());
        let thread = std::thread::Builder::new()
            .name(format!("src-{}", camera.name))
            .spawn(move || runner.run())
            .map_err(|e| SourceError::Thread(e.to_string()))?;
        Ok(Self { camera: camera.name.clone(), cancel, facts, thread: Some(thread), _closing: closing })
    }

    /// How the source ended by itself; `None` while it runs, and for sources that never end (cameras, loops).
    /// Set before the queue of frames is closed.
    pub fn outcome(&self) -> Option<Outcome> {
        self.facts.outcome.get().cloned()
    }

    /// The codec's name and its decoder; known soon after the first frame.
    pub(super) fn decoding(&self) -> Option<Option<(&'static str, String)>> {
        self.facts.decoding.get().cloned()
    }

    /// Closes the queue of frames, tears the pipeline down and joins the thread. After two seconds it logs a warning and
    /// leaves the thread behind.
    pub fn stop(mut self) {
        self.shut_down();
    }

    fn shut_down(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        self.cancel.cancel(STOP);
        if !self.cancel.join(STOP, vec![thread]).is_empty() {
            cancel::leave_behind();
            tracing::warn!(camera = %self.camera, "the camera's source thread did not end in time: left behind");
        }
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.shut_down();
    }
}
