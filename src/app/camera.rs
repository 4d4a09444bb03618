//! One configured camera while the service runs: its source, its detector's thread, its way out.

use std::sync::Arc;
use std::time::SystemTime;

use super::AppError;
use super::outlets::Outlets;
use crate::config::{CameraConfig, SourceConfig};
use crate::frame::Frame;
use crate::infer::Engine;
use crate::pipeline::{Camera, CameraParts, Detector};
use crate::queue::{self, DropPolicy, Receiver};
use crate::sink::Sink as _;
use crate::source::{Outputs, Source};
use crate::telemetry::Registry;
use crate::types::{CameraState, CameraStatus};

/// A source that runs, and where its frames wait.
struct Feed {
    source: Source,
    frames: Receiver<Frame>,
}

/// A camera of the configuration. A disabled one has neither source nor thread.
pub(super) struct RunningCamera {
    config: CameraConfig,
    outlets: Arc<Outlets>,
    registry: Registry,
    feed: Option<Feed>,
    thread: Option<Camera>,
}

impl RunningCamera {
    /// Starts the source, so that the camera connects; frames are detected once [`Self::detect_with`] was called.
    pub(super) fn open(config: &CameraConfig, outlets: Arc<Outlets>, registry: &Registry) -> Result<Self, AppError> {
        let mut camera = Self {
            config: config.clone(),
            outlets: outlets.clone(),
            registry: registry.clone(),
            feed: None,
            thread: None,
        };
        if !config.enabled {
            outlets.status(&CameraStatus {
                camera: config.name.clone(),
                state: CameraState::Disabled,
                since: SystemTime::now(),
                reason: Some("switched off in the configuration".into()),
                retries: 0,
            });
            return Ok(camera);
        }
        let (frame_tx, frames) = match config.source {
            // Every frame of a file counts: the decoder waits for the detector.
            SourceConfig::File { realtime: false, .. } => queue::bounded("frames", 4, DropPolicy::Block),
            _ => queue::latest("frames"),
        };
        let states = outlets.clone();
        let outputs = Outputs {
            frames: frame_tx,
            tap: Some(outlets),
            status: Arc::new(move |status: CameraStatus| states.status(&status)),
        };
        let source = Source::start(config, outputs)
            .map_err(|error| AppError::Source { camera: config.name.to_string(), error })?;
        camera.feed = Some(Feed { source, frames });
        Ok(camera)
    }

    /// The stages for this camera on `engine`; fails when a label is not one of the model's.
    pub(super) fn detector(config: &CameraConfig, engine: &Engine) -> Result<Detector, AppError> {
        // For files a batch more than workers, so that one is ready when a worker becomes free.
        let spare = match config.source {
            SourceConfig::File { realtime: false, .. } => engine.spec().input.batch.size,
            _ => 0,
        };
        Ok(Detector::new(engine, &config.name, &config.detect, spare)?)
    }

    /// Detects with `detector` from now on. A detector that was there before finishes the frames that it has; the source
    /// and its queue stay.
    pub(super) fn detect_with(&mut self, detector: Detector) -> Result<(), AppError> {
        if let Some(thread) = self.thread.take() {
            thread.finish();
        }
        let Some(feed) = &self.feed else { return Ok(()) };
        self.thread = Some(Camera::start(CameraParts {
            name: self.config.name.clone(),
            frames: feed.frames.clone(),
            detector,
            fps: self.config.detect.fps,
            sinks: vec![self.outlets.clone()],
            registry: self.registry.clone(),
        })?);
        Ok(())
    }

    /// Takes over what is looked for; the caller gives the detector that goes with it.
    pub(super) fn set_config(&mut self, config: &CameraConfig) {
        self.config = config.clone();
    }

    pub(super) fn config(&self) -> &CameraConfig {
        &self.config
    }

    pub(super) fn outlets(&self) -> &Arc<Outlets> {
        &self.outlets
    }

    /// True when it was enabled and is over: a source that failed for good or a file that ended closes the frames, which
    /// ends the thread.
    pub(super) fn is_finished(&self) -> bool {
        self.thread.as_ref().is_some_and(Camera::is_finished)
    }

    /// Disconnects the camera. Frames that wait are still detected until [`Self::stop`].
    pub(super) fn stop_source(&mut self) {
        if let Some(feed) = self.feed.take() {
            feed.source.stop();
        }
    }

    /// Disconnects the camera and ends its thread.
    pub(super) fn stop(mut self) {
        self.stop_source();
        if let Some(thread) = self.thread.take() {
            thread.stop();
        }
    }
}
