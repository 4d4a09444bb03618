//! What a model file says about itself, and how its output becomes boxes.
//!
//! Belongs here: the manifest, the ONNX metadata, layouts, decoding, NMS. Does not belong here: running a model.
//! Files are read only by [`ModelSpec`], [`file_sha256`] and [`default_model`]; all else is a pure function.

mod decode;
mod decode_heads;
mod decode_sets;
mod error;
mod external;
mod family;
mod file;
mod gate;
mod gate_tensor;
#[cfg(test)]
mod gate_tests;
mod input;
mod layout;
mod manifest;
mod names;
mod nms;
mod onnx;
mod places;
mod prepare;
mod protobuf;
mod recognise;
#[cfg(test)]
mod recognise_tests;
mod spec;
#[cfg(test)]
mod spec_tests;
mod tensors;
#[cfg(test)]
mod testing;

pub use decode::{Candidate, DecodeParams, decode};
pub use decode_heads::Anchor;
pub use error::ModelError;
pub use family::Family;
pub use file::file_sha256;
pub use gate::GateError;
pub use manifest::{MANIFEST, Manifest, ManifestInput};
pub use names::{NamesError, parse as parse_names};
pub use nms::{MAX_NMS, Nms};
pub use onnx::{Dim, OnnxError, OnnxInfo, Port, read as read_onnx};
pub use places::{default_model, model_folders};
pub use prepare::{GraphNms, Prepare, PrepareError, prepare};
pub use spec::ModelSpec;
pub use tensors::{
    Batch, ChannelOrder, Elem, Input, InputSpec, InputTensor, MAX_BATCH, MAX_OUTPUTS, OutputSpec, TensorSpec,
};
