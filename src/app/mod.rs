//! The service: start, supervision, reload, stop.
//!
//! Belongs here: the order in which parts start and stop, what a new configuration exchanges, what the service manager is
//! notified of. Does not belong here: what the parts do in between.
//!
//! One stop token ([`Cancel`](crate::cancel::Cancel)) reaches every part. The thread `signals` cancels it at the first
//! SIGINT or SIGTERM, also during start and reload, with the one deadline by which the process ends.

mod camera;
mod engines;
mod error;
mod lock;
mod outputs;
mod plan;
mod reload;
mod service;
mod signals;
mod sinks;
mod stall;
mod stop;
mod supervise;
mod watchdog;

pub use engines::open_model;
pub use error::AppError;
pub use reload::Reader;
pub use service::Service;
pub use signals::Signals;
pub use stop::STOP_WITHIN;
pub use supervise::Stop;
