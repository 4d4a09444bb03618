//! Why a model cannot be used.

use std::path::PathBuf;

use crate::onnx::{GateError, OnnxError};

/// Why a model cannot be used. Every message names the file and what to try.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    #[error("no model at {0}: give an .onnx file or a folder with a model.yaml")]
    NotFound(PathBuf),
    /// `hint` starts with its own punctuation.
    #[error("{folder} is a folder without a model.yaml{hint}")]
    NoManifest { folder: String, hint: String },
    #[error("{path}: {message}")]
    Manifest { path: String, message: String },
    #[error("cannot read {path}")]
    Read { path: String, source: std::io::Error },
    #[error("{0} is empty: the export or the copy did not finish; copy it again")]
    Empty(PathBuf),
    #[error("{path} has {bytes} bytes, more than the limit of 1 GiB for one model file")]
    TooLarge { path: String, bytes: u64 },
    #[error("{path} is not an ONNX model: {reason}")]
    NotOnnx { path: String, reason: OnnxError },
    #[error("{path}: {reason}")]
    Gate { path: String, reason: GateError },
    #[error("{path} has SHA-256 {actual}, but {source_name} expects {expected}: the file is damaged or was exchanged")]
    Sha256 { path: String, actual: String, expected: String, source_name: String },
    /// The input is not `[b, 3, H, W]` of floats.
    #[error("{path}: {reason}")]
    Input { path: String, reason: String },
    #[error("{path}: unknown output layout: {reason}. Outputs: {outputs}")]
    Layout { path: String, reason: String, outputs: String },
    /// Labels and output disagree about the number of classes.
    #[error("{path}: wrong class count: {reason}")]
    Classes { path: String, reason: String },
    /// The input size does not suit the strides, or the file fixes another one.
    #[error("{path}: {reason}")]
    Size { path: String, reason: String },
    #[error("{path}: {reason}")]
    Batch { path: String, reason: String },
    #[error("{path}: {what}: the file has {file}, but {manifest_path} has {manifest}; correct the manifest")]
    Contradiction { path: String, what: &'static str, file: String, manifest_path: String, manifest: String },
    /// `hint` starts with its own punctuation.
    #[error("the model {model} has no label `{label}`{hint}")]
    Label { model: String, label: String, hint: String },
}

impl ModelError {
    /// One word for scripts.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NotFound(_) => "not_found",
            Self::NoManifest { .. } => "no_manifest",
            Self::Manifest { .. } => "manifest",
            Self::Read { .. } => "unreadable",
            Self::Empty(_) => "empty",
            Self::TooLarge { .. } => "too_large",
            Self::NotOnnx { reason, .. } => reason.code(),
            Self::Gate { reason, .. } => reason.code(),
            Self::Sha256 { .. } => "sha256",
            Self::Input { .. } => "input",
            Self::Layout { .. } => "layout",
            Self::Classes { .. } => "classes",
            Self::Size { .. } => "size",
            Self::Batch { .. } => "batch",
            Self::Contradiction { .. } => "contradiction",
            Self::Label { .. } => "label",
        }
    }
}
