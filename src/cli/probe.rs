//! `ocelli probe-runtime`: open an ONNX Runtime library in a process of its own, which may die of it.

use std::io::Write;
use std::path::PathBuf;

use super::Failure;
use crate::infer::{OrtProvider, check_here};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Path of the library
    library: PathBuf,
    /// Try this execution provider of it
    #[arg(long)]
    provider: Option<Provider>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Provider {
    Cpu,
    Cuda,
    Tensorrt,
}

/// Prints one line of JSON, [`crate::infer::ProbeReport`].
pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let report = check_here(
        &args.library,
        args.provider.map(|provider| match provider {
            Provider::Cpu => OrtProvider::Cpu,
            Provider::Cuda => OrtProvider::Cuda,
            Provider::Tensorrt => OrtProvider::Tensorrt,
        }),
    );
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{}", serde_json::to_string(&report)?)?;
    stdout.flush()?;
    match report.error {
        None => Ok(()),
        Some(error) => Err(anyhow::anyhow!("{}: {error}", args.library.display()).into()),
    }
}
