//! The stages of one camera around the engine: preprocess → (engine) → NMS → result. The service and `ocelli detect` both
//! use it, so that both give the same boxes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::DetectConfig;
use crate::infer::{CameraQueue, Engine, InferError, Job};
use crate::model::{DecodeParams, ModelError, ModelSpec, Nms};
use crate::preprocess::{PreprocessError, Preprocessor};
use crate::types::{BackendKind, FrameMeta, FrameResult, ImageView, Latency, Letterbox};

/// Why a frame gave no result.
#[derive(Debug, thiserror::Error)]
pub enum DetectorError {
    /// A label of the filter is not one of the model's.
    #[error("camera `{camera}`: {error}")]
    Labels {
        camera: String,
        /// Names the label and the nearest one of the model.
        error: Box<ModelError>,
    },
    #[error(transparent)]
    Preprocess(#[from] PreprocessError),
    #[error(transparent)]
    Infer(#[from] InferError),
    #[error("no answer from the engine within {0:?}")]
    Timeout(Duration),
}

/// A frame in the engine, and what is needed to finish it.
struct Pending {
    meta: FrameMeta,
    letterbox: Letterbox,
    wait: Duration,
    preprocess: Duration,
}

/// One camera's stages. Owns an input tensor for each frame that it may have in the engine; the tensors move there and
/// back.
pub struct Detector {
    spec: Arc<ModelSpec>,
    params: DecodeParams,
    /// The engine's backend at the start; a finished job reports its own.
    backend: BackendKind,
    queue: CameraQueue,
    spare: usize,
    preprocessor: Preprocessor,
    nms: Nms,
    iou: f32,
    max_detections: usize,
    idle: Vec<Job>,
    pending: VecDeque<Pending>,
}

impl Detector {
    /// Stages for the camera `name` with one frame in the engine per worker, and `spare` frames more.
    pub fn new(engine: &Engine, name: &str, config: &DetectConfig, spare: usize) -> Result<Self, DetectorError> {
        let spec = engine.spec().clone();
        let depth = engine.most_workers() + spare;
        Ok(Self {
            preprocessor: Preprocessor::new(&spec.input),
            params: decode_params(&spec, name, config)?,
            queue: engine.camera_queue(name, depth, config.priority),
            spare,
            backend: engine.info().kind,
            nms: Nms::new(),
            iou: spec.nms_iou(config.iou),
            spec,
            max_detections: config.max_detections,
            idle: Vec::with_capacity(depth),
            pending: VecDeque::with_capacity(depth),
        })
    }

    /// Calls `wake` on the engine's thread when a frame of this camera is done.
    pub fn on_done(&mut self, wake: Arc<dyn Fn() + Send + Sync>) {
        self.queue.on_done(wake);
    }

    /// True when the engine takes another frame of this camera.
    pub fn has_room(&self) -> bool {
        self.pending.len() < self.room()
    }

    /// Most frames in the engine; changes when the engine switches to a backend with more or fewer workers.
    fn room(&self) -> usize {
        (self.queue.workers() + self.spare).min(self.queue.depth())
    }

    pub fn in_flight(&self) -> usize {
        self.pending.len()
    }

    /// Fills a free tensor with the frame and hands it to the engine. Without room the frame is refused as a timeout.
    pub fn submit(&mut self, meta: FrameMeta, image: &ImageView<'_>) -> Result<(), DetectorError> {
        if !self.has_room() {
            return Err(DetectorError::Timeout(Duration::ZERO));
        }
        let mut job = self.idle.pop().unwrap_or_else(|| Job::new(&self.spec, self.params.clone()));
        let start = Instant::now();
        let letterbox = match self.preprocessor.fill(image, &mut job.input) {
            Ok(letterbox) => letterbox,
            Err(error) => {
                self.idle.push(job);
                return Err(error.into());
            }
        };
        let preprocess = start.elapsed();
        let wait = start.saturating_duration_since(meta.captured);
        self.queue.submit(job)?;
        self.pending.push_back(Pending { meta, letterbox, wait, preprocess });
        Ok(())
    }

    /// The result of the oldest frame in the engine. `None` when it is not done within `timeout`, or there is none.
    pub fn finish(&mut self, timeout: Duration) -> Option<Result<FrameResult, DetectorError>> {
        if self.pending.is_empty() {
            return None;
        }
        let mut job = self.queue.wait(timeout)?;
        let pending = self.pending.pop_front()?;
        let outcome = std::mem::replace(&mut job.outcome, Ok(()));
        let start = Instant::now();
        // The sinks share the list of detections: the one allocation per frame.
        let mut detections = Vec::new();
        if outcome.is_ok() {
            self.nms.run(&mut job.candidates, self.iou, self.max_detections, &pending.letterbox, &mut detections);
        }
        let (infer, postprocess, batch) = (job.infer, job.decode + start.elapsed(), job.batch);
        let backend = job.backend.unwrap_or(self.backend);
        // A hanging inference keeps its tensor, and fewer workers need fewer of them.
        if !job.input.is_empty() && self.idle.len() + self.pending.len() < self.room() {
            self.idle.push(job);
        }
        if let Err(error) = outcome {
            return Some(Err(error.into()));
        }
        let latency = Latency {
            wait: pending.wait,
            preprocess: pending.preprocess,
            infer,
            postprocess,
            total: pending.meta.captured.elapsed(),
        };
        Some(Ok(FrameResult { meta: pending.meta, model: self.spec.id.clone(), backend, batch, detections, latency }))
    }
}

fn decode_params(spec: &ModelSpec, camera: &str, config: &DetectConfig) -> Result<DecodeParams, DetectorError> {
    let classes = config.labels.as_ref().map(|labels| spec.class_mask(labels)).transpose();
    let classes = classes.map_err(|error| DetectorError::Labels { camera: camera.into(), error: Box::new(error) })?;
    Ok(DecodeParams { threshold: config.threshold, classes })
}
