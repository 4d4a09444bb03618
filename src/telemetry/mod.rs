//! What is known about the running program: counters, states, the measured backend. One snapshot feeds MQTT, HTTP and the
//! log; one page feeds Prometheus.
//!
//! Belongs here: numbers and words about the program. Does not belong here: sending them anywhere.

mod camera;
mod health;
mod journal;
pub mod log;
mod prometheus;
mod registry;
mod stats;

pub use camera::{CameraMetrics, Progress};
pub use health::{Health, HealthStatus, MqttHealth};
pub use prometheus::CONTENT_TYPE;
pub use registry::{Count, Registry};
pub use stats::{
    BuildStats, CameraHealth, CameraStats, DivisionStats, EngineReport, EngineStats, ModelStats, Reload, StatsSnapshot,
};
