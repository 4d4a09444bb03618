//! The service: start order, supervision, stop order.
//!
//! Belongs here: who is started when, and who is told to stop when. Does not belong here: what they do in between.

mod service;
mod signals;

pub use service::{AppError, Service, Stop, open_model};
pub use signals::{Signal, Signals};
