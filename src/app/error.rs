//! Why the service did not start, or did not take over a new configuration.

use std::path::PathBuf;

use crate::infer::InferError;
use crate::model::ModelError;
use crate::pipeline::DetectorError;
use crate::sink::http::HttpError;
use crate::sink::jsonl::JsonlError;
use crate::sink::mqtt::MqttError;
use crate::sink::rtsp::RtspError;
use crate::source::SourceError;

/// Why the service did not start.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The model file.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// No model was configured and none is installed.
    #[error(
        "no model: `model:` is not set and the shipped model was not found; set `model: FILE.onnx` or OCELLI_MODEL"
    )]
    NoModel,
    /// The backend.
    #[error(transparent)]
    Infer(#[from] InferError),
    /// A camera's label filter.
    #[error(transparent)]
    Detector(#[from] DetectorError),
    /// The broker's configuration (not its absence, which is waited for).
    #[error(transparent)]
    Mqtt(#[from] MqttError),
    /// The RTSP server.
    #[error(transparent)]
    Rtsp(#[from] RtspError),
    /// The HTTP server.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The JSON Lines file.
    #[error(transparent)]
    Jsonl(#[from] JsonlError),
    /// A camera's pipeline.
    #[error("camera `{camera}`: {error}")]
    Source {
        /// Which camera.
        camera: String,
        /// Why.
        error: SourceError,
    },
    /// Another Ocelli runs with the same state folder.
    #[error(
        "another ocelli ({holder}) runs with the state folder {folder}; stop that one, or give this one its own `state_dir`"
    )]
    SecondInstance {
        /// The folder.
        folder: PathBuf,
        /// `process 123`, as far as known.
        holder: String,
    },
    /// A thread could not be started.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
}
