//! Detection models: what a model file declares, and how its output becomes boxes.
//!
//! Belongs here: the manifest, layouts, decoding, NMS. Does not belong here: running a model, the ONNX format
//! (`onnx`). Files are read by [`ModelSpec`], [`file_sha256`], [`default_model`] and [`model_folders`] only; all else is
//! a pure function.

mod anchors;
mod candidate;
mod decode;
mod decode_heads;
mod decode_sets;
mod error;
mod facts;
mod family;
mod file;
mod grid;
mod input;
mod layout;
mod manifest;
mod names;
mod nms;
mod places;
mod prepare;
mod recognise;
#[cfg(test)]
mod recognise_tests;
mod spec;
#[cfg(test)]
mod spec_tests;
mod tensors;

pub use candidate::{Candidate, DecodeParams};
pub use decode::decode;
pub use error::ModelError;
pub use family::Family;
pub use file::file_sha256;
pub use manifest::{MANIFEST, Manifest, ManifestInput};
pub use nms::Nms;
pub use places::{default_model, model_folders};
pub use prepare::{GraphNms, Prepare, PrepareError, prepare};
pub use spec::ModelSpec;
pub use tensors::{
    Anchor, Batch, ChannelOrder, Elem, Input, InputSpec, InputTensor, MAX_BATCH, MAX_OUTPUTS, OutputSpec, TensorSpec,
};
