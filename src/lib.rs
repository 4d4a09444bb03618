//! Ocelli: cameras in, detections out. See `ARCHITECTURE.md` for the rooms and the arrows between them.

pub mod accel;
pub mod annotate;
pub mod app;
pub mod cli;
pub mod config;
pub mod doctor;
pub mod eval;
pub mod infer;
pub mod model;
pub mod pipeline;
pub mod preprocess;
pub mod queue;
pub mod sink;
pub mod source;
pub mod telemetry;
pub mod types;
