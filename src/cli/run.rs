//! `ocelli run`: the service.

use super::options::ConfigFiles;
use super::{Failure, exit};
use crate::app::{AppError, Reader, STOP_WITHIN, Service, Signals, Stop};
use crate::config;
use crate::telemetry;
use crate::types::Ended;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ocelli run -c ocelli.yaml
  ocelli run -c site.yaml -c cameras.yaml --set mqtt.url=mqtt://broker --log-format json")]
pub(crate) struct Args {
    #[command(flatten)]
    files: ConfigFiles,
    /// Log format
    #[arg(long, default_value = "auto", value_name = "auto|text|json")]
    log_format: telemetry::log::LogFormat,
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    telemetry::log::init("info", args.log_format).map_err(|error| Failure::new(exit::USAGE, error))?;
    let config =
        config::load(&args.files.config, &args.files.set).map_err(|errors| Failure::new(exit::CONFIG, errors))?;
    // Before anything slow: a signal during the start ends the process in order.
    let signals = Signals::start(STOP_WITHIN)?;
    let mut service = match Service::start(config, signals) {
        Ok(service) => service,
        Err(AppError::Cancelled) => {
            tracing::info!("stopped during the start: signal received");
            return Ok(());
        }
        Err(error) => return Err(Failure::new(exit_code(&error), error)),
    };
    let read: Reader = Box::new(move || config::load(&args.files.config, &args.files.set));
    let stop = service.wait(&read);
    match &stop {
        Stop::EngineLost(_, reason) => {
            tracing::error!("stopping, because inference has ended in this process: {reason}")
        }
        Stop::Signal => tracing::info!("stopping: signal received"),
        Stop::AllEnded => tracing::info!("stopping: every camera has ended"),
    }
    service.stop();
    match stop {
        Stop::EngineLost(ended, reason) => {
            let code = match ended {
                Ended::DeviceLost => exit::GPU_FAULT,
                Ended::NoBackend => exit::UNAVAILABLE,
            };
            Err(Failure::new(code, anyhow::anyhow!(reason)))
        }
        _ => Ok(()),
    }
}

fn exit_code(error: &AppError) -> u8 {
    match error {
        AppError::Model(_) | AppError::NoModel | AppError::Detector(_) => exit::CONFIG,
        AppError::Mqtt(error) if error.is_configuration() => exit::CONFIG,
        AppError::Infer(_) | AppError::Rtsp(_) | AppError::Http(_) | AppError::SecondInstance { .. } => {
            exit::UNAVAILABLE
        }
        _ => 1,
    }
}
