//! ONNX Runtime's entries in the table of backends: one for each execution provider.

use crate::config::BackendChoice;
use crate::infer::backend::descriptor::{Descriptor, Device, Sessions, Setup};
use crate::infer::backend::onnxruntime::OrtBackend;
use crate::infer::backend::onnxruntime::library::ONNX_RUNTIME;
use crate::infer::backend::onnxruntime::probe::{provider_works, try_library};
use crate::infer::{Backend, InferError};
use crate::types::BackendKind;

pub(in crate::infer) static CPU: Descriptor = Descriptor {
    kind: BackendKind::Cpu,
    choice: BackendChoice::Cpu,
    device: Device::Cpu,
    reference: BackendChoice::Tract,
    runtime: Some(&ONNX_RUNTIME),
    named_library: |config| config.ort_library.as_deref(),
    in_auto: |_| true,
    needs_engine: false,
    moves_boxes: None,
    sessions: Sessions::Measured,
    probe_here: |kind, library, _| try_library(library, Some(kind)),
    probe_parts: |kind, library| provider_works(library, kind),
    make,
};

pub(in crate::infer) static CUDA: Descriptor = Descriptor {
    kind: BackendKind::Cuda,
    choice: BackendChoice::Cuda,
    device: Device::Gpu,
    in_auto: |machine| machine.gpu,
    sessions: Sessions::One,
    ..CPU
};

pub(in crate::infer) static TENSORRT: Descriptor =
    Descriptor { kind: BackendKind::Tensorrt, choice: BackendChoice::Tensorrt, needs_engine: true, ..CUDA };

fn make(kind: BackendKind, setup: Setup<'_>) -> Result<Box<dyn Backend>, InferError> {
    let Setup { config, library, threads, engine } = setup;
    let (library, version) = library.ok_or_else(|| ONNX_RUNTIME.none_found())?;
    let backend = OrtBackend::proven(kind, library, version, threads);
    Ok(Box::new(OrtBackend { config: config.clone(), engine, ..backend }))
}
