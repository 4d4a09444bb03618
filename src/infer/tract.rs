//! tract: pure Rust, built in, runs everywhere.

use std::sync::Arc;

use half::f16;
use half::slice::HalfFloatSliceExt;
use tract_onnx::prelude::*;
use tract_onnx::tract_core::plan::SimpleState;
use tract_onnx::tract_core::transform::get_transform;

use super::{Backend, Fork, InferError, Session, input_len};
use crate::model::ModelSpec;
use crate::types::BackendKind;

/// Version of the crate that is built in; a test holds it to the lock file.
const VERSION: &str = "0.23.9";

type State = SimpleState<TypedFact, Box<dyn TypedOp>>;

/// tract.
#[derive(Debug, Clone, Copy, Default)]
pub struct TractBackend;

impl Backend for TractBackend {
    fn kind(&self) -> BackendKind {
        BackendKind::Tract
    }

    fn probe(&self) -> Result<String, InferError> {
        Ok(format!("tract {VERSION}"))
    }

    fn load(&self, spec: &ModelSpec) -> Result<Box<dyn Session>, InferError> {
        let failed = |error: TractError| InferError::Load {
            backend: BackendKind::Tract,
            model: spec.path.clone(),
            reason: format!("{error:#}").replace('\n', " "),
        };
        let plan = plan(spec).map_err(failed)?;
        Ok(Box::new(TractSession::new(plan, (input_len(spec), spec.output.len())).map_err(failed)?))
    }
}

fn plan(spec: &ModelSpec) -> TractResult<Arc<TypedRunnableModel>> {
    let (h, w) = (spec.input.size.h as usize, spec.input.size.w as usize);
    let element = if spec.input.f16 { f16::datum_type() } else { f32::datum_type() };
    // The fact fixes what a model may leave open: batch, height and width.
    let mut model = onnx().model_for_path(&spec.path)?.with_input_fact(0, element.fact([1, 3, h, w]).into())?;
    if model.outputs.len() > 1 {
        model.select_outputs_by_name([&spec.output.name])?;
    }
    let mut typed = model.into_typed()?;
    if spec.input.f16 || spec.output.f16 {
        // Half floats are emulated here, a hundred times slower than single ones: widen the whole graph once.
        if let Some(transform) = get_transform("f16_to_f32")? {
            transform.transform(&mut typed)?;
        }
    }
    typed.into_optimized()?.into_runnable()
}

struct TractSession {
    plan: Arc<TypedRunnableModel>,
    state: State,
    /// Shared with the state during a run only, so that its memory serves every frame.
    input: Arc<Tensor>,
    output_f32: Vec<f32>,
    expected: (usize, usize),
}

impl TractSession {
    fn new(plan: Arc<TypedRunnableModel>, expected: (usize, usize)) -> TractResult<Self> {
        let fact = plan.model().input_fact(0)?;
        let shape = fact.shape.as_concrete().map(<[usize]>::to_vec).unwrap_or_default();
        let input = Arc::new(Tensor::zero_dt(fact.datum_type, &shape)?);
        let state = plan.spawn()?;
        let half_output = plan.model().output_fact(0)?.datum_type == f16::datum_type();
        let output_f32 = if half_output { vec![0.0; expected.1] } else { Vec::new() };
        Ok(Self { plan, state, input, output_f32, expected })
    }

    /// Copies `input` into the tensor that tract reads: its tensors own their memory, so one copy cannot be saved.
    fn fill(&mut self, input: &[f32]) -> TractResult<()> {
        if Arc::get_mut(&mut self.input).is_none() {
            // A run that failed may have left a reference behind.
            self.state.reset_turn()?;
        }
        let tensor = Arc::make_mut(&mut self.input);
        if tensor.datum_type() == f16::datum_type() {
            let mut view = tensor.to_plain_array_view_mut::<f16>()?;
            let slice = view.as_slice_mut().ok_or_else(not_contiguous)?;
            slice.convert_from_f32_slice(input);
        } else {
            let mut view = tensor.to_plain_array_view_mut::<f32>()?;
            let slice = view.as_slice_mut().ok_or_else(not_contiguous)?;
            slice.copy_from_slice(input);
        }
        Ok(())
    }
}

fn not_contiguous() -> TractError {
    TractError::msg("a tensor is not contiguous")
}

fn run_error(error: TractError) -> InferError {
    InferError::Run { backend: BackendKind::Tract, reason: format!("{error:#}").replace('\n', " ") }
}

impl Session for TractSession {
    fn run(&mut self, input: &[f32], consume: &mut dyn FnMut(&[f32])) -> Result<(), InferError> {
        if input.len() != self.expected.0 || input.len() != self.input.len() {
            return Err(InferError::Input { expected: self.expected.0, got: input.len() });
        }
        self.fill(input).map_err(run_error)?;
        let outputs = self.state.run(tvec!(self.input.clone().into_tvalue())).map_err(run_error)?;
        let output = outputs.first().ok_or_else(|| run_error(TractError::msg("there is no output")))?;
        if output.len() != self.expected.1 {
            return Err(InferError::Output { expected: self.expected.1, got: output.len() });
        }
        if output.datum_type() == f16::datum_type() {
            let view = output.to_plain_array_view::<f16>().map_err(run_error)?;
            let values = view.as_slice().ok_or_else(|| run_error(not_contiguous()))?;
            values.convert_to_f32_slice(&mut self.output_f32);
            consume(&self.output_f32);
        } else {
            let view = output.to_plain_array_view::<f32>().map_err(run_error)?;
            consume(view.as_slice().ok_or_else(|| run_error(not_contiguous()))?);
        }
        Ok(())
    }

    fn fork(&self) -> Fork {
        // The plan holds the weights: all sessions of a model share them.
        let (plan, expected) = (self.plan.clone(), self.expected);
        Arc::new(move || Ok(Box::new(Self::new(plan.clone(), expected).map_err(run_error)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_shown_is_the_version_built_in() {
        let lock = include_str!("../../Cargo.lock");
        assert!(lock.contains(&format!("name = \"tract-onnx\"\nversion = \"{VERSION}\"")), "VERSION is out of date");
    }
}
