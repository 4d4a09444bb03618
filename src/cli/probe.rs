//! `ocelli probe-runtime`: opens a runtime's library in a process of its own, which may crash.

use std::io::Write;
use std::path::PathBuf;

use super::Failure;
use super::options::parse_precision;
use crate::config::Precision;
use crate::infer::{backends, probe_here};
use crate::types::BackendKind;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Path of the library
    library: PathBuf,
    /// Execution provider to try; `openvino`: the library is OpenVINO's own
    #[arg(long, value_parser = parse_provider, value_name = "cpu|cuda|tensorrt|openvino")]
    provider: Option<BackendKind>,
    /// Precision in which OpenVINO computes
    #[arg(long, default_value = "f32", value_parser = parse_precision, value_name = "f32|f16|bf16")]
    precision: Precision,
}

fn parse_provider(text: &str) -> Result<BackendKind, String> {
    let mut kinds = backends().iter().filter(|backend| backend.runtime.is_some()).map(|backend| backend.kind);
    kinds.find(|kind| kind.to_string() == text).ok_or_else(|| "expected tensorrt, cuda, openvino or cpu".into())
}

/// Prints one line of JSON, [`crate::infer::ProbeReport`].
pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let report = probe_here(&args.library, args.provider, args.precision);
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{}", serde_json::to_string(&report)?)?;
    stdout.flush()?;
    match report.error {
        None => Ok(()),
        Some(error) => Err(anyhow::anyhow!("{}: {error}", args.library.display()).into()),
    }
}
