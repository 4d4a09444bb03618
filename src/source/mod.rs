//! Where frames come from: one GStreamer pipeline per camera, kept alive.
//!
//! Belongs here: pipelines, reconnects, states, and the simulated camera that tests and the demo look at. Does not belong
//! here: what is done with a frame.
//!
//! A camera's pictures travel on GStreamer's own threads: the callback numbers and stamps a frame and hands it over,
//! nothing else. The thread `src-<camera>` only watches: it builds the pipeline, waits on its bus, notices silence, tears
//! down and tries again.

mod backoff;
mod control;
mod counter;
mod decoder;
mod error;
mod file;
mod handover;
mod local;
mod pipeline;
mod plan;
mod probe;
mod pts;
mod runner;
mod simulate;
mod status;

use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use gstreamer as gst;

use crate::config::CameraConfig;
use crate::frame::Frame;
use crate::queue;
use crate::types::{CameraName, CameraStatus};

pub use backoff::Backoff;
pub use counter::{read_counter, write_counter};
pub use error::{SourceError, package};
pub use plan::{CodecPlan, DecoderPlan, ElementPlan, SourcePlan, plan};
pub use probe::{CameraProbe, probe};
pub use simulate::{Simulator, SimulatorConfig};

use control::Control;
use runner::Runner;

/// How long [`Source::stop`] waits for the camera's thread.
const STOP: Duration = Duration::from_secs(2);

/// Sees every frame before it is queued, on GStreamer's thread: must return at once.
pub trait FrameTap: Send + Sync {
    /// One frame. To keep it, clone it: that clones a reference.
    fn frame(&self, frame: &Frame);
}

/// Where a source puts what it has.
#[derive(Clone)]
pub struct Outputs {
    /// Frames. The queue's policy decides what happens when the reader is slow: [`queue::latest`] for live sources,
    /// [`queue::DropPolicy::Block`] for files of which every frame counts. Closed when the source has ended for good or
    /// was stopped.
    pub frames: queue::Sender<Frame>,
    /// Sees every frame, also those that the queue drops.
    pub tap: Option<Arc<dyn FrameTap>>,
    /// Called once per change of state (or of its reason), on the thread `src-<camera>`.
    pub status: Arc<dyn Fn(CameraStatus) + Send + Sync>,
}

/// How a source came to its end by itself.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// A file played once is over.
    Ended,
    /// A file played once could not be played (to its end).
    Failed(SourceError),
}

/// A running camera or file.
pub struct Source {
    camera: CameraName,
    control: Arc<Control>,
    outcome: Arc<OnceLock<Outcome>>,
    frames: queue::Sender<Frame>,
    thread: Option<(JoinHandle<()>, Receiver<()>)>,
}

impl Source {
    /// Starts the thread `src-<camera>`. Returns at once: whether the camera can be reached is told through
    /// `outputs.status`. Fails only when GStreamer cannot be started or no thread can be had.
    pub fn start(camera: &CameraConfig, outputs: Outputs) -> Result<Self, SourceError> {
        gst::init().map_err(|e| SourceError::Init(e.to_string()))?;
        let control = Arc::new(Control::default());
        let outcome = Arc::new(OnceLock::new());
        let frames = outputs.frames.clone();
        let runner = Runner::new(camera, outputs, control.clone(), outcome.clone());
        let (done, finished) = sync_channel(1);
        let thread = std::thread::Builder::new()
            .name(format!("src-{}", camera.name))
            .spawn(move || {
                runner.run();
                let _ = done.send(());
            })
            .map_err(|e| SourceError::Thread(e.to_string()))?;
        Ok(Self { camera: camera.name.clone(), control, outcome, frames, thread: Some((thread, finished)) })
    }

    /// How the source ended by itself; `None` while it runs, and for sources that never end (cameras, loops).
    /// Known before the queue of frames is closed.
    pub fn outcome(&self) -> Option<Outcome> {
        self.outcome.get().cloned()
    }

    /// Closes the queue of frames, tears the pipeline down and joins the thread; gives up, and says so in the log, after
    /// two seconds.
    pub fn stop(mut self) {
        self.shut_down();
    }

    fn shut_down(&mut self) {
        let Some((thread, finished)) = self.thread.take() else {
            return;
        };
        self.control.stop();
        // Frees a streaming thread that waits for a slow reader; without it the pipeline could not be torn down.
        self.frames.close();
        match finished.recv_timeout(STOP) {
            Ok(()) | Err(RecvTimeoutError::Disconnected) => {
                let _ = thread.join();
            }
            Err(RecvTimeoutError::Timeout) => {
                tracing::warn!(camera = %self.camera, "the source's thread did not end within {STOP:?}: left behind");
            }
        }
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.shut_down();
    }
}
