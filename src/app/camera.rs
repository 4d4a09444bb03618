//! One configured camera while the service runs: its source, its detecting thread, its outputs.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::error::AppError;
use super::outputs::CameraOutputs;
use super::stop::Step;
use crate::cancel::Cancel;
use crate::config::{CameraConfig, SourceConfig};
use crate::frame::Frame;
use crate::infer::Engine;
use crate::pipeline::{Camera, CameraParts, Detector};
use crate::queue::{self, DropPolicy, Receiver};
use crate::sink::Sink as _;
use crate::source::{Outputs, Source};
use crate::telemetry::Registry;
use crate::types::{CameraState, CameraStatus};

/// Longest stop of a camera.
pub(super) const STOP: Duration = Duration::from_secs(2);

/// A camera of the configuration. A disabled one has neither source nor thread.
pub(super) struct RunningCamera {
    /// Changes while the camera runs, except for what concerns the source.
    pub(super) config: CameraConfig,
    pub(super) outputs: Arc<CameraOutputs>,
    registry: Registry,
    cancel: Cancel,
    /// The source, and the queue of its frames.
    source: Option<(Source, Receiver<Frame>)>,
    thread: Option<Camera>,
}

impl RunningCamera {
    /// Starts the source, so that the camera connects; detection begins with [`Self::detect_with`]. The camera ends when
    /// `cancel` is cancelled.
    pub(super) fn open(
        config: &CameraConfig,
        outputs: Arc<CameraOutputs>,
        registry: &Registry,
        cancel: &Cancel,
    ) -> Result<Self, AppError> {
        let mut camera = Self {
            config: config.clone(),
            outputs: outputs.clone(),
            registry: registry.clone(),
            cancel: cancel.child(),
            source: None,
            thread: None,
        };
        if !config.enabled {
            outputs.status(&CameraStatus {
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
        let states = outputs.clone();
        let outputs = Outputs {
            frames: frame_tx,
            tap: Some(outputs),
            status: Arc::new(move |status: CameraStatus| states.status(&status)),
        };
        let source = Source::start(config, outputs, &camera.cancel)
            .map_err(|error| AppError::Source { camera: config.name.to_string(), error })?;
        camera.source = Some((source, frames));
        Ok(camera)
    }

    /// The stages of this camera on `engine`; fails when a label of the filter is not one of the model's.
    pub(super) fn detector(config: &CameraConfig, engine: &Engine) -> Result<Detector, AppError> {
        // For files one batch more than workers, so that one is ready when a worker becomes free.
        let spare = match config.source {
            SourceConfig::File { realtime: false, .. } => engine.spec().input.batch.size,
            _ => 0,
        };
        Ok(Detector::new(engine, &config.name, &config.detect, spare)?)
    }

    /// Detects with `detector` from now on. The previous detector finishes the frames that it has; the source and its queue
    /// stay.
    pub(super) fn detect_with(&mut self, detector: Detector) -> Result<(), AppError> {
        if let Some(thread) = self.thread.take() {
            thread.finish();
        }
        let Some((_, frames)) = &self.source else { return Ok(()) };
        let parts = CameraParts {
            name: self.config.name.clone(),
            model: self.config.detect.model.clone(),
            frames: frames.clone(),
            detector,
            fps: self.config.detect.fps,
            results: self.outputs.clone(),
            registry: self.registry.clone(),
        };
        self.thread = Some(Camera::start(parts, &self.cancel)?);
        Ok(())
    }

    /// True when it was enabled and has ended: a source that failed for good or a file that ended closes the queue of
    /// frames, which ends the thread.
    pub(super) fn is_finished(&self) -> bool {
        self.thread.as_ref().is_some_and(Camera::is_finished)
    }

    /// Disconnects the camera and ends its thread.
    pub(super) fn stop(self) -> Step {
        let stop = move || {
            // Source and thread begin to stop at once.
            self.cancel.cancel(STOP);
            if let Some(thread) = self.thread {
                thread.join();
            }
            if let Some((source, _)) = self.source {
                source.stop();
            }
        };
        (format!("camera {}", self.config.name), Box::new(stop))
    }
}
