//! What is known about the running program: counters, states, the measured backend; the snapshot that MQTT, HTTP and the
//! log all show.
//!
//! Belongs here: numbers and words about the program. Does not belong here: sending them anywhere.

mod engine;
mod health;
mod journal;
pub mod log;
mod registry;

pub use engine::{BuildStats, DivisionStats, EngineReport, EngineStats};
pub use health::{CameraHealth, Health, HealthStatus, MqttHealth};
pub use registry::{Beat, CameraStats, ModelStats, Registry, Reload, StatsSnapshot};
