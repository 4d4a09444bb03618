//! `ocelli run`: the service.

use std::path::PathBuf;

use super::Failure;
use crate::app::{AppError, Reader, STOP_WITHIN, Service, Signals, Stop};
use crate::config;
use crate::telemetry;

/// A wrong command line or environment.
const USAGE: u8 = 2;
/// sysexits(3): a service that is needed is not available.
const UNAVAILABLE: u8 = 69;
/// sysexits(3): an internal error, here of the GPU; a new start may help.
const GPU_FAULT: u8 = 70;
/// sysexits(3): the configuration is wrong.
const CONFIG: u8 = 78;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Configuration file; repeat it to merge several, later ones win [default: ocelli.yaml, /etc/ocelli/ocelli.yaml]
    #[arg(short, long, value_name = "FILE")]
    config: Vec<PathBuf>,
    /// Override one key, for example `--set mqtt.url=mqtt://broker`
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Log format
    #[arg(long, default_value = "auto", value_name = "auto|text|json")]
    log_format: telemetry::log::LogFormat,
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    telemetry::log::init("info", args.log_format).map_err(|error| Failure::new(USAGE, error))?;
    let config = config::load(&args.config, &args.set).map_err(|errors| Failure::new(CONFIG, errors))?;
    // Before anything slow: a signal during the start ends the process in order.
    let signals = Signals::start(STOP_WITHIN)?;
    let cancel = signals.cancel().clone();
    let mut service = match Service::start(config, signals) {
        Ok(service) => service,
        Err(_) if cancel.is_cancelled() => {
            tracing::info!("stopped during the start: signal received");
            return Ok(());
        }
        Err(error) => return Err(Failure::new(exit_code(&error), error)),
    };
    let read: Reader = Box::new(move || config::load(&args.config, &args.set));
    let stop = service.wait(&read);
    match &stop {
        Stop::EngineLost(reason) => tracing::error!("stopping, because inference has ended in this process: {reason}"),
        Stop::Signal => tracing::info!("stopping: signal received"),
        Stop::AllEnded => tracing::info!("stopping: every camera has ended"),
    }
    service.stop();
    match stop {
        Stop::EngineLost(reason) => Err(Failure::new(GPU_FAULT, anyhow::anyhow!(reason))),
        _ => Ok(()),
    }
}

fn exit_code(error: &AppError) -> u8 {
    match error {
        AppError::Model(_) | AppError::NoModel | AppError::Detector(_) => CONFIG,
        AppError::Infer(_) | AppError::Rtsp(_) | AppError::Http(_) | AppError::SecondInstance { .. } => UNAVAILABLE,
        _ => 1,
    }
}
