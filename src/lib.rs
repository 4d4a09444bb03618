//! Ocelli: cameras in, detections out. See `ARCHITECTURE.md` for the rooms and the arrows between them.

pub mod annotate;
pub mod app;
pub mod cancel;
pub mod cli;
pub mod config;
pub mod doctor;
pub mod eval;
pub mod ffi;
pub mod frame;
pub mod infer;
pub mod model;
pub mod onnx;
pub mod pipeline;
pub mod preprocess;
pub mod queue;
pub mod sink;
pub mod source;
pub mod telemetry;
#[cfg(feature = "tract")]
pub mod tract_conv;
pub mod types;
