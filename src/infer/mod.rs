//! Running a model: backends behind one trait, the fallback order between them, and the engine that serves all cameras.
//!
//! Belongs here: sessions and their threads, finding and probing a runtime library. Does not belong here: cameras, the
//! meaning of a model's output (room `model`), pixels (room `preprocess`).
//!
//! Architecture Invariant: a runtime library is opened in this process only after a child process has opened it, because
//! opening a damaged one crashes the process.

mod backend;
mod cache;
mod engine;
mod error;
mod runtime;

pub use backend::build_child::{BuildEvent, BuildRequest};
pub use backend::build_here::{Built, Proof, build_engine, build_here};
pub use backend::descriptor::{Descriptor, Device, Machine};
pub use backend::factory::load;
pub use backend::onnxruntime::{ONNX_RUNTIME, OrtBackend, ProviderReport, probe_provider, remove_profiles};
pub use backend::openvino::{OPENVINO, OpenvinoBackend, openvino_computes, wants_openvino};
pub use backend::table::{backend, backends, fallback_order, named_backend, probe_here};
#[cfg(feature = "tract")]
pub use backend::tract::TractBackend;
pub use cache::{BuildRecord, CacheError, EngineCache, EngineKey};
pub use engine::Engine;
pub use engine::camera_queue::CameraQueue;
pub use engine::job::Job;
pub use engine::status::Observer;
pub use engine::threads::hung_threads;
pub use error::InferError;
pub use runtime::child::{Answer, ChildError, ask, remove_temporary_folder, set_prober};
pub use runtime::elf::check as check_elf;
pub use runtime::gpu::NVIDIA_DEVICES;
pub use runtime::library::{LibrarySource, Runtime};
pub use runtime::probe::{ProbeReport, Survey, probe, survey};

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::{Elem, Input, MAX_OUTPUTS, ModelSpec, TensorSpec};
use crate::types::BackendKind;

/// Called with the index of a frame in its run and the frame's output tensors.
pub type Consume<'a> = dyn FnMut(usize, &[&[f32]]) + 'a;

/// One loaded model, ready to run. A session belongs to one thread at a time.
pub trait Session: Send {
    /// Runs the model once, on 1 … [`Self::batch`] frames.
    ///
    /// On success `consume` is called exactly once for each frame, in order, with the tensors of
    /// [`OutputSpec`](crate::model::OutputSpec) in its order, each whole and borrowed from the runtime, or converted to f32
    /// where they are not f32. A model with a fixed batch always runs a whole batch; unused places cost time.
    ///
    /// # Errors
    /// [`InferError::Input`] when an input has the wrong length or form or there are too many of them,
    /// [`InferError::Run`] when the runtime fails, and [`InferError::Output`] when an output does not have the shape that the
    /// model declares. The session stays usable.
    fn run(&mut self, frames: &[Input<'_>], consume: &mut Consume<'_>) -> Result<(), InferError>;

    /// Frames that one run takes at most.
    fn batch(&self) -> usize {
        1
    }

    /// [`Self::run`] for one frame.
    fn run_one(&mut self, frame: Input<'_>, consume: &mut dyn FnMut(&[&[f32]])) -> Result<(), InferError> {
        self.run(&[frame], &mut |_, outputs| consume(outputs))
    }

    /// Nodes of the graph by the provider that ran them in the first inference, where the runtime reports it.
    fn nodes(&self) -> BTreeMap<String, usize> {
        BTreeMap::new()
    }

    /// Makes further sessions of the same model on the same backend, for further threads. They share the weights where the
    /// backend can.
    fn fork(&self) -> Fork;
}

pub type Fork = Arc<dyn Fn() -> Result<Box<dyn Session>, InferError> + Send + Sync>;

/// Something that can run models.
pub trait Backend: Send + Sync {
    /// Checks that it works on this machine. Returns its name and version, for example `ONNX Runtime 1.24.4`.
    fn probe(&self) -> Result<String, InferError>;

    /// Loads a model without running it.
    fn load(&self, spec: &ModelSpec) -> Result<Box<dyn Session>, InferError>;
}

/// Sets the crash counter of a model in the service's `state_folder` to zero, so that all backends are tried again. Returns the
/// backends that had crashes.
///
/// # Errors
/// Those of the file system.
pub fn reset_crash_counter(state_folder: &std::path::Path, spec: &ModelSpec) -> std::io::Result<Vec<String>> {
    engine::crashes::CrashCounter::reset(state_folder, &spec.id.sha256)
}

/// Refuses frames that a session with `batch` frames of `spec` in a run cannot take.
fn check_frames(spec: &ModelSpec, batch: usize, frames: &[Input<'_>]) -> Result<(), InferError> {
    if !(1..=batch).contains(&frames.len()) {
        return Err(InferError::Batch { most: batch, got: frames.len() });
    }
    let expected = spec.input.frame_len();
    for frame in frames {
        let form = matches!(frame, Input::Planes(_)) || spec.input.elem == Elem::Uint8;
        if frame.len() != expected || !form {
            return Err(InferError::Input { expected, got: if form { frame.len() } else { 0 } });
        }
    }
    Ok(())
}

/// Frames in one run where batches gain nothing, on a CPU: a fixed batch as a whole, and one where it is open.
fn parts_on_cpu(spec: &ModelSpec) -> usize {
    if spec.input.batch.open { 1 } else { spec.input.batch.size }
}

/// Gives each of the first `frames` of a run that had `parts` its share of the output tensors.
fn hand_out(
    tensors: &[TensorSpec],
    wholes: &[&[f32]; MAX_OUTPUTS],
    parts: usize,
    frames: usize,
    consume: &mut Consume<'_>,
) -> Result<(), InferError> {
    for (tensor, whole) in tensors.iter().zip(wholes) {
        if !whole.len().is_multiple_of(parts) || !tensor.takes(whole.len() / parts) {
            return Err(InferError::Output { expected: tensor.len() * parts, got: whole.len() });
        }
    }
    for frame in 0..frames {
        let mut share: [&[f32]; MAX_OUTPUTS] = [&[]; MAX_OUTPUTS];
        for (share, whole) in share.iter_mut().zip(wholes) {
            let each = whole.len() / parts;
            *share = &whole[frame * each..][..each];
        }
        consume(frame, share.get(..tensors.len()).unwrap_or(&share));
    }
    Ok(())
}

/// The bytes that a runtime loads: those that have passed the model's gate.
pub(crate) fn load_bytes(backend: BackendKind, spec: &ModelSpec) -> Result<Vec<u8>, InferError> {
    let failed = |error: crate::model::ModelError| {
        let reason = match std::error::Error::source(&error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        };
        InferError::Load { backend, model: spec.path.clone(), reason }
    };
    spec.bytes().map_err(failed)
}
