//! Backends: one file or folder for each runtime that can run a model.

mod conformance;
pub(in crate::infer) mod convert;
pub(in crate::infer) mod factory;
#[cfg(test)]
pub(in crate::infer) mod fake;
mod layout;
pub(in crate::infer) mod load;
pub(in crate::infer) mod onnxruntime;
pub(in crate::infer) mod openvino;
mod tiny;
#[cfg(feature = "tract")]
pub(in crate::infer) mod tract;

pub use conformance::check_session;

use std::path::Path;

use onnxruntime::OrtProvider;

use crate::config::Precision;
use crate::infer::ProbeReport;
use crate::types::BackendKind;

/// Opens a library in this process and runs a tiny model with it: what the probing child does. It may kill the process.
/// Without a `kind`, ONNX Runtime is opened without any execution provider; only OpenVINO uses `precision`.
pub fn probe_here(path: &Path, kind: Option<BackendKind>, precision: Precision) -> ProbeReport {
    let outcome = match kind {
        None => onnxruntime::try_library(path, None),
        Some(BackendKind::Cpu) => onnxruntime::try_library(path, Some(OrtProvider::Cpu)),
        Some(BackendKind::Cuda) => onnxruntime::try_library(path, Some(OrtProvider::Cuda)),
        Some(BackendKind::Tensorrt) => onnxruntime::try_library(path, Some(OrtProvider::Tensorrt)),
        Some(BackendKind::Openvino) => openvino::try_library(path, precision),
        Some(BackendKind::Tract) => Err("tract is built in and has no library".into()),
    };
    match outcome {
        Ok(version) => ProbeReport { version: Some(version), error: None },
        Err(error) => ProbeReport { version: None, error: Some(error) },
    }
}
