//! One binary for all integration tests: they drive the real executable with real brokers, cameras and clients.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, clippy::print_stdout)]
#![allow(missing_docs, unreachable_pub, dead_code)]

mod allocation;
mod batch;
mod common;
mod completions;
mod config;
mod conformance;
mod counter;
mod detect;
mod doctor;
mod e2e;
mod engine_build;
mod eval;
mod families;
mod layering;
mod local_cameras;
mod models;
mod mqtt;
mod openvino;
mod parity;
mod rtsp;
mod runtime;
mod service;
mod source;
mod stopping;
