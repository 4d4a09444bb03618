//! The service: start order, supervision, reload, stop order.
//!
//! Belongs here: who is started when, who is told to stop when, and what the service manager hears. Does not belong here:
//! what they do in between.

mod camera;
mod error;
mod lock;
mod outlets;
mod plan;
mod pulse;
mod reload;
mod service;
mod signals;
mod sinks;
mod vitals;

pub use error::AppError;
pub use reload::Reader;
pub use service::{Service, Stop, open_model};
pub use signals::{Signal, Signals};
