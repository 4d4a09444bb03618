//! Why an ONNX file is refused.

/// Why bytes are not an ONNX model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OnnxError {
    #[error("damaged at byte {at}: {what}")]
    Damaged { at: usize, what: &'static str },
    /// A message whose frame is sound, but whose fields are not.
    #[error("damaged: {0}")]
    Decode(#[from] prost::DecodeError),
    /// Valid protobuf, but without a graph or an IR version.
    #[error("it holds no {0}")]
    Missing(&'static str),
    #[error("it holds more than {limit} {what}")]
    Limit { what: &'static str, limit: usize },
}

impl OnnxError {
    /// One word for scripts.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Damaged { .. } | Self::Decode(_) => "damaged",
            Self::Missing(_) => "no_model",
            Self::Limit { .. } => "limit",
        }
    }
}

/// Why the gate refuses a model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GateError {
    #[error(transparent)]
    Onnx(#[from] OnnxError),
    /// Weights in another file, which the manifest does not allow.
    #[error(
        "the data of tensor `{tensor}` lies in another file. Save the model in one file with \
         onnx.save(model, path, save_as_external_data=False), or write `allow_external_data: true` into a model.yaml \
         beside it"
    )]
    External { tensor: String },
    /// Weights in another file, which cannot be read.
    #[error("the data of tensor `{tensor}` in `{location}`: {reason}")]
    Reference { tensor: String, location: String, reason: String },
    #[error(
        "operator `{op}` belongs to the domain `{domain}`, which is not part of ONNX and needs extra code; export the \
         model without it, or write `allow_domains: [{domain}]` into a model.yaml beside it"
    )]
    Domain { op: String, domain: String },
    /// A shape that no detector has, or that does not match the tensor's data.
    #[error("tensor `{tensor}` {reason}")]
    Tensor { tensor: String, reason: String },
}

impl GateError {
    /// One word for scripts.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Onnx(error) => error.code(),
            Self::External { .. } => "external_data",
            Self::Reference { .. } => "external_reference",
            Self::Domain { .. } => "domain",
            Self::Tensor { .. } => "tensor",
        }
    }
}

pub(super) fn limit(what: &'static str, limit: usize) -> GateError {
    GateError::Onnx(OnnxError::Limit { what, limit })
}
