//! Backends: one file or folder for each runtime that can run a model.

mod conformance;
pub(in crate::infer) mod convert;
#[cfg(test)]
pub(in crate::infer) mod fake;
pub(in crate::infer) mod openvino;
pub(in crate::infer) mod ort;
#[cfg(feature = "tract")]
pub(in crate::infer) mod tract;
#[cfg(feature = "tract")]
mod tract_rewrite;

pub use conformance::check_session;
