//! Detections, results per frame, camera states.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::frame::{CameraName, FrameMeta};
use super::geometry::PixelBox;
use super::named::named;

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Detection {
    /// Index of the model's labels.
    pub class_id: u32,
    /// Confidence 0 ..= 1.
    pub score: f32,
    /// Box in pixels of the source frame, clipped to it.
    pub bbox: PixelBox,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelId {
    /// Name from the manifest, else the file's stem.
    pub name: String,
    /// SHA-256 of the file, lower-case hex.
    pub sha256: String,
    /// Class names, by `class_id`.
    pub labels: Vec<String>,
}

impl ModelId {
    /// The class name, or `class<N>` when the model has none.
    pub fn label(&self, class_id: u32) -> std::borrow::Cow<'_, str> {
        match self.labels.get(class_id as usize) {
            Some(label) => label.as_str().into(),
            None => format!("class{class_id}").into(),
        }
    }
}

named! {
    /// What runs a model.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
    pub enum BackendKind {
        /// ONNX Runtime with the TensorRT provider.
        Tensorrt = "tensorrt",
        /// ONNX Runtime with the CUDA provider.
        Cuda = "cuda",
        /// OpenVINO on the CPU.
        Openvino = "openvino",
        /// ONNX Runtime on the CPU.
        Cpu = "cpu",
        /// tract, pure Rust, built in.
        Tract = "tract",
    }
}

impl std::fmt::Display for BackendKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The backend that runs, as measured, not as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendInfo {
    /// Which backend loaded the model and ran the warm-up.
    pub kind: BackendKind,
    /// For example `ONNX Runtime 1.24.4` or `tract 0.23.9`.
    pub version: String,
    /// Why earlier backends of the fallback order were not taken (`auto` only), one sentence each: `cpu: no ONNX Runtime
    /// library found …`.
    pub fallbacks: Vec<String>,
    /// Nodes of the graph by the provider that ran them, read back from the warm-up inference; empty where the runtime has
    /// only one.
    pub nodes: BTreeMap<String, usize>,
}

/// Durations of the stages of one frame.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Latency {
    /// From arrival of the decoded frame to the start of preprocessing.
    pub wait: Duration,
    /// Planes to tensor.
    pub preprocess: Duration,
    /// In the session, without the wait before it.
    pub infer: Duration,
    /// Decoding and NMS.
    pub postprocess: Duration,
    /// From arrival of the decoded frame to the finished result.
    pub total: Duration,
}

/// One frame's detections without pixels; shared by all sinks.
#[derive(Debug, Clone)]
pub struct FrameResult {
    pub meta: FrameMeta,
    pub model: Arc<ModelId>,
    pub backend: BackendKind,
    /// Frames of the same run, this one included.
    pub batch: usize,
    /// Best score first.
    pub detections: Vec<Detection>,
    pub latency: Latency,
}

named! {
    /// State of a camera as users see it.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
    pub enum CameraState {
        /// First connection, or trying again.
        Connecting = "connecting",
        /// Frames arrive.
        Online = "online",
        /// Connected, but no frame for `no_frame`.
        Stalled = "stalled",
        /// Cannot be reached; retried with back-off.
        Offline = "offline",
        /// The camera refused the credentials; retried slowly.
        AuthFailed = "auth_failed",
        /// Switched off in the configuration.
        Disabled = "disabled",
        /// A file came to its end.
        Ended = "ended",
    }
}

/// A change of a camera's state.
#[derive(Debug, Clone)]
pub struct CameraStatus {
    pub camera: CameraName,
    pub state: CameraState,
    /// Wall clock of the change.
    pub since: SystemTime,
    /// For people; secrets are redacted already.
    pub reason: Option<String>,
    /// Failed attempts since the camera was last online.
    pub retries: u32,
}
