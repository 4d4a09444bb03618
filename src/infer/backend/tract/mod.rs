//! tract: pure Rust, built in, runs everywhere.

#[cfg(feature = "tract")]
mod session;

#[cfg(feature = "tract")]
pub use session::TractBackend;

use crate::config::BackendChoice;
use crate::infer::backend::descriptor::{Descriptor, Device, Sessions};
use crate::types::BackendKind;

pub(in crate::infer) static DESCRIPTOR: Descriptor = Descriptor {
    kind: BackendKind::Tract,
    choice: BackendChoice::Tract,
    device: Device::Cpu,
    reference: BackendChoice::Cpu,
    runtime: None,
    named_library: |_| None,
    in_auto: |_| true,
    needs_engine: false,
    moves_boxes: None,
    sessions: Sessions::OneThreadEach,
    probe_here: |_, _, _| Err("tract is built in and has no library".into()),
    probe_parts: |_, _| Ok(()),
    #[cfg(feature = "tract")]
    make: |_, _| Ok(Box::new(TractBackend)),
    #[cfg(not(feature = "tract"))]
    make: |kind, _| Err(crate::infer::InferError::NotBuilt(kind)),
};
