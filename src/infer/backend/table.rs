//! The backends, best first. A new backend is a file or folder beside this one, and a line here.

use std::path::Path;

use crate::config::{BackendChoice, Precision};
use crate::infer::ProbeReport;
use crate::infer::backend::descriptor::{Descriptor, Device, Machine};
use crate::infer::backend::{onnxruntime, openvino, tract};
use crate::types::BackendKind;

static TABLE: [&Descriptor; 5] =
    [&onnxruntime::TENSORRT, &onnxruntime::CUDA, &openvino::DESCRIPTOR, &onnxruntime::CPU, &tract::DESCRIPTOR];

/// All backends, best first.
pub fn backends() -> &'static [&'static Descriptor] {
    &TABLE
}

/// The entry of a backend.
pub fn backend(kind: BackendKind) -> &'static Descriptor {
    // Every kind has an entry; a test checks that.
    TABLE.iter().find(|descriptor| descriptor.kind == kind).unwrap_or(&TABLE[4])
}

/// The backend that is named; `None` for `auto`.
pub fn named_backend(choice: BackendChoice) -> Option<&'static Descriptor> {
    TABLE.iter().find(|descriptor| descriptor.choice == choice).copied()
}

/// Whether a backend runs on a GPU, whose faults can outlive a session.
pub(in crate::infer) fn on_gpu(kind: BackendKind) -> bool {
    backend(kind).device == Device::Gpu
}

/// The backends that `choice` tries on this machine, in this order.
pub fn fallback_order(choice: BackendChoice, machine: Machine) -> Vec<BackendKind> {
    let tried = |descriptor: &&&Descriptor| match choice {
        BackendChoice::Auto => (descriptor.in_auto)(machine),
        _ => descriptor.choice == choice,
    };
    TABLE.iter().filter(tried).map(|descriptor| descriptor.kind).collect()
}

/// Opens a library in this process and runs a tiny model with it: what the probing child does. It may crash the process.
/// Without a `kind`, ONNX Runtime is opened without any execution provider. Only OpenVINO uses `precision`.
pub fn probe_here(path: &Path, kind: Option<BackendKind>, precision: Precision) -> ProbeReport {
    let outcome = match kind {
        None => onnxruntime::try_library(path, None),
        Some(kind) => (backend(kind).probe_here)(kind, path, precision),
    };
    match outcome {
        Ok(version) => ProbeReport { version: Some(version), error: None },
        Err(error) => ProbeReport { version: None, error: Some(error) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use BackendKind::{Cpu, Cuda, Openvino, Tensorrt, Tract};

    #[test]
    fn every_backend_has_an_entry() {
        for kind in [Tensorrt, Cuda, Openvino, Cpu, Tract] {
            assert_eq!(backend(kind).kind, kind);
            assert_eq!(named_backend(backend(kind).choice).map(|descriptor| descriptor.kind), Some(kind));
        }
        assert!(named_backend(BackendChoice::Auto).is_none());
    }

    #[test]
    fn the_fallback_order_has_what_the_machine_has() {
        let order = |choice, gpu, openvino| fallback_order(choice, Machine { gpu, openvino });
        assert_eq!(order(BackendChoice::Auto, false, false), [Cpu, Tract]);
        assert_eq!(order(BackendChoice::Auto, true, false), [Tensorrt, Cuda, Cpu, Tract]);
        assert_eq!(order(BackendChoice::Auto, false, true), [Openvino, Cpu, Tract]);
        assert_eq!(order(BackendChoice::Auto, true, true), [Tensorrt, Cuda, Openvino, Cpu, Tract]);
        assert_eq!(order(BackendChoice::Cuda, false, false), [Cuda]);
        assert_eq!(order(BackendChoice::Cpu, false, true), [Cpu]);
        assert_eq!(order(BackendChoice::Openvino, false, false), [Openvino]);
    }
}
