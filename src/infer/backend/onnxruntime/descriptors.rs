//! ONNX Runtime's entries in the table of backends: one for each execution provider.

use crate::config::BackendChoice;
use crate::infer::backend::descriptor::{Descriptor, Device, Sessions, Setup};
use crate::infer::backend::onnxruntime::library::ONNX_RUNTIME;
use crate::infer::backend::onnxruntime::probe::{provider_works, try_library};
use crate::infer::backend::onnxruntime::{OrtBackend, OrtOptions, OrtProvider};
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
    probe_here: |library, _| try_library(library, Some(OrtProvider::Cpu)),
    probe_parts: |_| Ok(()),
    make: |setup| make(OrtProvider::Cpu, setup),
};

pub(in crate::infer) static CUDA: Descriptor = Descriptor {
    kind: BackendKind::Cuda,
    choice: BackendChoice::Cuda,
    device: Device::Gpu,
    in_auto: |machine| machine.gpu,
    sessions: Sessions::One,
    probe_here: |library, _| try_library(library, Some(OrtProvider::Cuda)),
    probe_parts: |library| provider_works(library, OrtProvider::Cuda),
    make: |setup| make(OrtProvider::Cuda, setup),
    ..CPU
};

pub(in crate::infer) static TENSORRT: Descriptor = Descriptor {
    kind: BackendKind::Tensorrt,
    choice: BackendChoice::Tensorrt,
    needs_engine: true,
    probe_here: |library, _| try_library(library, Some(OrtProvider::Tensorrt)),
    probe_parts: |library| provider_works(library, OrtProvider::Tensorrt),
    make: |setup| make(OrtProvider::Tensorrt, setup),
    ..CUDA
};

fn make(provider: OrtProvider, setup: Setup<'_>) -> Result<Box<dyn Backend>, InferError> {
    let Setup { config, library, threads, engine } = setup;
    let (library, version) = library.ok_or_else(|| ONNX_RUNTIME.none_found())?;
    let options = OrtOptions {
        threads,
        spinning: config.spinning,
        device: config.device,
        tensorrt: config.tensorrt.clone(),
        cuda: config.cuda.clone(),
        engine,
    };
    Ok(Box::new(OrtBackend::proven(provider, library, version, options)))
}
