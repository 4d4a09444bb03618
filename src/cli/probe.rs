//! `ocelli probe-runtime`: opens a runtime's library in a process of its own, which may crash.

use std::io::Write;
use std::path::PathBuf;

use super::Failure;
use super::options::parse_precision;
use crate::config::Precision;
use crate::infer::probe_here;
use crate::types::BackendKind;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Path of the library
    library: PathBuf,
    /// Execution provider to try; `openvino`: the library is OpenVINO's own
    #[arg(long)]
    provider: Option<Provider>,
    /// Precision in which OpenVINO computes
    #[arg(long, default_value = "f32", value_parser = parse_precision, value_name = "f32|f16|bf16")]
    precision: Precision,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Provider {
    Cpu,
    Cuda,
    Tensorrt,
    Openvino,
}

/// Prints one line of JSON, [`crate::infer::ProbeReport`].
pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let kind = args.provider.map(|provider| match provider {
        Provider::Cpu => BackendKind::Cpu,
        Provider::Cuda => BackendKind::Cuda,
        Provider::Tensorrt => BackendKind::Tensorrt,
        Provider::Openvino => BackendKind::Openvino,
    });
    let report = probe_here(&args.library, kind, args.precision);
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{}", serde_json::to_string(&report)?)?;
    stdout.flush()?;
    match report.error {
        None => Ok(()),
        Some(error) => Err(anyhow::anyhow!("{}: {error}", args.library.display()).into()),
    }
}
