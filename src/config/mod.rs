//! The configuration file: parsed, checked as a whole, and resolved. Parsing does no I/O beyond reading the files named.
//!
//! Belongs here: what the keys mean and every message about them. Does not belong here: opening cameras or sockets.

mod resolved;

pub use resolved::{
    BackendChoice, CameraConfig, Config, DetectConfig, HttpConfig, JsonlConfig, ModelConfig, MqttConfig,
    ReconnectConfig, RtspConfig, SourceConfig, Transport,
};
