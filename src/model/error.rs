//! Why a model cannot be used.

use std::path::PathBuf;

use super::gate::GateError;
use super::onnx::OnnxError;

/// Why a model cannot be used. Every message names the file and what to try.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// There is nothing at the path.
    #[error("no model at {0}: give an .onnx file or a folder with a model.yaml")]
    NotFound(PathBuf),
    /// A folder without a manifest.
    #[error("{folder} is a folder without a model.yaml{hint}")]
    NoManifest {
        /// The folder.
        folder: String,
        /// Which files could be meant; starts with its own punctuation.
        hint: String,
    },
    /// The manifest is wrong.
    #[error("{path}: {message}")]
    Manifest {
        /// The manifest.
        path: String,
        /// What is wrong, with line and column where known.
        message: String,
    },
    /// The file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The file has no bytes.
    #[error("{0} is empty: the export or the copy did not finish; copy it again")]
    Empty(PathBuf),
    /// The file is larger than any model that an edge box can run.
    #[error("{path} has {bytes} bytes, more than the limit of 1 GiB for one model file")]
    TooLarge {
        /// The file.
        path: String,
        /// Its length.
        bytes: u64,
    },
    /// The file is not ONNX.
    #[error("{path} is not an ONNX model: {reason}")]
    NotOnnx {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: OnnxError,
    },
    /// The file holds something that no runtime may see.
    #[error("{path}: {reason}")]
    Gate {
        /// The file.
        path: String,
        /// What, and what to do about it.
        reason: GateError,
    },
    /// The file is not the one that was promised.
    #[error("{path} has SHA-256 {actual}, but {said_by} says {expected}: the file is damaged or another one")]
    Sha256 {
        /// The file.
        path: String,
        /// What was computed.
        actual: String,
        /// What was promised.
        expected: String,
        /// Who promised it.
        said_by: String,
    },
    /// The input is not `[b, 3, H, W]` of floats.
    #[error("{path}: {reason}")]
    Input {
        /// The file.
        path: String,
        /// What was seen and what is needed.
        reason: String,
    },
    /// No known layout fits the outputs.
    #[error("{path}: unknown output layout: {reason}. Outputs: {outputs}")]
    Layout {
        /// The file.
        path: String,
        /// What was looked for and what to set.
        reason: String,
        /// The shapes that were seen.
        outputs: String,
    },
    /// Labels and output disagree about the number of classes.
    #[error("{path}: wrong class count: {reason}")]
    Classes {
        /// The file.
        path: String,
        /// Both counts and where they come from.
        reason: String,
    },
    /// The input size does not suit the strides, or the file fixes another one.
    #[error("{path}: {reason}")]
    Size {
        /// The file.
        path: String,
        /// The size, and the next one that works.
        reason: String,
    },
    /// The model does not take as many frames at once.
    #[error("{path}: {reason}")]
    Batch {
        /// The file.
        path: String,
        /// What was asked for, and what it takes.
        reason: String,
    },
    /// The file and its manifest say different things.
    #[error("{path}: {what}: the file says {file}, but {manifest_path} says {manifest}; correct the manifest")]
    Contradiction {
        /// The file.
        path: String,
        /// About what.
        what: &'static str,
        /// The file's word.
        file: String,
        /// The manifest.
        manifest_path: String,
        /// The manifest's word.
        manifest: String,
    },
    /// A label filter names a class that the model does not have.
    #[error("the model {model} has no label `{label}`{hint}")]
    Label {
        /// The model's name.
        model: String,
        /// The unknown label.
        label: String,
        /// What could be meant; starts with its own punctuation.
        hint: String,
    },
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
            Self::NotOnnx { reason: OnnxError::Damaged { .. }, .. } => "damaged",
            Self::NotOnnx { reason: OnnxError::Missing(_), .. } => "no_model",
            Self::NotOnnx { reason: OnnxError::Limit { .. }, .. } => "limit",
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
