//! One frame's inference on its way through the engine.

use std::time::Duration;

use crate::infer::InferError;
use crate::model::{Candidate, DecodeParams, InputTensor, ModelSpec};
use crate::types::BackendKind;

/// One frame's inference. Its buffers travel from the camera to the engine and back, and serve the next frame.
#[derive(Debug)]
pub struct Job {
    /// Empty when an inference that hangs has kept the buffers ([`InferError::Hung`]).
    pub input: InputTensor,
    pub params: DecodeParams,
    /// The decoder's output, in pixels of the model's input. Empty after an error.
    pub candidates: Vec<Candidate>,
    /// Time in the session; includes the frames that ran in the same batch.
    pub infer: Duration,
    /// Frames that ran together, this one included.
    pub batch: usize,
    /// Time in the decoder.
    pub decode: Duration,
    pub outcome: Result<(), InferError>,
    /// What ran it; `None` when nothing did.
    pub backend: Option<BackendKind>,
}

impl Job {
    /// A job whose input tensor has the right size and is all zeros.
    pub fn new(spec: &ModelSpec, params: DecodeParams) -> Self {
        Self::with(InputTensor::new(&spec.input), params, Ok(()))
    }

    /// Returned in place of a job whose buffers a hanging inference holds.
    pub(super) fn lost(error: InferError) -> Self {
        Self::with(InputTensor::lost(), DecodeParams { threshold: 1.0, classes: None }, Err(error))
    }

    pub(super) fn refuse(mut self, error: InferError) -> Self {
        self.candidates.clear();
        self.outcome = Err(error);
        self.backend = None;
        self
    }

    fn with(input: InputTensor, params: DecodeParams, outcome: Result<(), InferError>) -> Self {
        Self {
            input,
            params,
            candidates: Vec::new(),
            infer: Duration::ZERO,
            batch: 0,
            decode: Duration::ZERO,
            outcome,
            backend: None,
        }
    }
}
