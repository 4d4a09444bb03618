//! `ocelli probe-runtime`: open a runtime's library in a process of its own, which may die of it.

use std::io::Write;
use std::path::PathBuf;

use super::Failure;
use super::detect::parse_precision;
use crate::config::Precision;
use crate::infer::{OrtProvider, check_here, check_openvino_here};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Path of the library
    library: PathBuf,
    /// Try this execution provider of it; `openvino`: the library is OpenVINO's own
    #[arg(long)]
    provider: Option<Provider>,
    /// What OpenVINO is to compute in
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
    let library = &args.library;
    let report = match args.provider {
        None => check_here(library, None),
        Some(Provider::Cpu) => check_here(library, Some(OrtProvider::Cpu)),
        Some(Provider::Cuda) => check_here(library, Some(OrtProvider::Cuda)),
        Some(Provider::Tensorrt) => check_here(library, Some(OrtProvider::Tensorrt)),
        Some(Provider::Openvino) => check_openvino_here(library, args.precision),
    };
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{}", serde_json::to_string(&report)?)?;
    stdout.flush()?;
    match report.error {
        None => Ok(()),
        Some(error) => Err(anyhow::anyhow!("{}: {error}", args.library.display()).into()),
    }
}
