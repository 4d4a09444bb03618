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

#[derive(Debug, thiserror::Error)]
pub enum AppError {
    #[error("stopped by a signal during the start")]
    Cancelled,
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(
        "no model: `model:` is not set and the shipped model was not found; set `model: FILE.onnx` or OCELLI_MODEL"
    )]
    NoModel,
    #[error(transparent)]
    Infer(#[from] InferError),
    /// A camera's label filter.
    #[error(transparent)]
    Detector(#[from] DetectorError),
    /// The broker's configuration; an absent broker is no error.
    #[error(transparent)]
    Mqtt(#[from] MqttError),
    #[error(transparent)]
    Rtsp(#[from] RtspError),
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error(transparent)]
    Jsonl(#[from] JsonlError),
    #[error("camera `{camera}`: {error}")]
    Source { camera: String, error: SourceError },
    /// Another Ocelli runs with the same state folder. `holder`: `process 123`, as far as known.
    #[error(
        "another ocelli ({holder}) runs with the state folder {folder}; stop that one, or give this one its own `state_dir`"
    )]
    SecondInstance { folder: PathBuf, holder: String },
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
}
