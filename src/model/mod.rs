//! What a model file says about itself, and how its output becomes boxes.
//!
//! Belongs here: the manifest, the ONNX metadata, layouts, decoding, NMS. Does not belong here: running a model.
//! Files are read only by [`ModelSpec::open`], [`file_sha256`] and [`default_model`]; all else is a pure function.

mod decode;
mod error;
mod layout;
mod manifest;
mod names;
mod nms;
mod onnx;
mod places;
mod spec;
#[cfg(test)]
mod spec_tests;
mod tensors;
#[cfg(test)]
mod testing;

pub use decode::{Candidate, DecodeParams, decode};
pub use error::ModelError;
pub use manifest::{MANIFEST, Manifest, ManifestInput};
pub use names::{NamesError, parse as parse_names};
pub use nms::{MAX_NMS, Nms};
pub use onnx::{Dim, OnnxError, OnnxInfo, Port, read as read_onnx};
pub use places::{default_model, model_folders};
pub use spec::{Family, ModelSpec, file_sha256};
pub use tensors::{ChannelOrder, Elem, InputSpec, MAX_OUTPUTS, OutputSpec, TensorSpec};
