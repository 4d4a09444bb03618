//! A model on tract.

use std::sync::Arc;

use half::f16;
use tract_onnx::prelude::*;
use tract_onnx::tract_core::ops::konst::Const;
use tract_onnx::tract_core::plan::SimpleState;
use tract_onnx::tract_core::transform::get_transform;

use crate::infer::backend::convert::{Element, side_by_side};
use crate::infer::{Backend, Consume, Fork, InferError, Session, check_frames, hand_out, load_bytes, parts_on_cpu};
use crate::model::{Elem, Input, InputSpec, MAX_OUTPUTS, ModelSpec};
use crate::tract_conv;
use crate::types::BackendKind;

/// Version of the crate that is built in; a test compares it with the lock file.
const VERSION: &str = "0.23.9";

type State = SimpleState<TypedFact, Box<dyn TypedOp>>;

#[derive(Debug, Clone, Copy, Default)]
pub struct TractBackend;

impl TractBackend {
    /// The plan that sessions run, for benchmarks.
    pub fn plan(&self, spec: &ModelSpec) -> Result<Arc<TypedRunnableModel>, InferError> {
        let bytes = load_bytes(BackendKind::Tract, spec)?;
        plan(spec, &bytes).map_err(|error| load_error(spec, &error))
    }
}

fn load_error(spec: &ModelSpec, error: &TractError) -> InferError {
    let reason = format!("{error:#}").replace('\n', " ");
    InferError::Load { backend: BackendKind::Tract, model: spec.path.clone(), reason }
}

impl Backend for TractBackend {
    fn probe(&self) -> Result<String, InferError> {
        Ok(format!("tract {VERSION}"))
    }

    fn load(&self, spec: &ModelSpec) -> Result<Box<dyn Session>, InferError> {
        let session = TractSession::new(self.plan(spec)?, Arc::new(spec.clone()));
        Ok(Box::new(session.map_err(|error| load_error(spec, &error))?))
    }
}

fn plan(spec: &ModelSpec, mut bytes: &[u8]) -> TractResult<Arc<TypedRunnableModel>> {
    let element = match spec.input.elem {
        Elem::Float16 => f16::datum_type(),
        Elem::Uint8 => u8::datum_type(),
        _ => f32::datum_type(),
    };
    // The fact fixes what a model may leave open: batch, height and width.
    let fact = element.fact(spec.input.shape(parts_on_cpu(spec))).into();
    let mut model = onnx().model_for_read(&mut bytes)?;
    if let Some(name) = &spec.input.size_input {
        // The size never changes, so the second input becomes a constant.
        let node = model.node_id_by_name(name)?;
        let sides = rctensor2(&[[i64::from(spec.input.size.w), i64::from(spec.input.size.h)]]);
        model.inputs.retain(|outlet| outlet.node != node);
        model.node_mut(node).op = Box::new(Const::new(sides.clone())?);
        model.set_outlet_fact(node.into(), sides.try_into()?)?;
    }
    model.set_input_fact(0, fact)?;
    let names: Vec<&str> = spec.output.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    if model.outputs.len() > 1 {
        model.select_outputs_by_name(names)?;
    }
    let mut typed = model.into_typed()?;
    let halves = |node: &TypedNode| node.outputs.iter().any(|output| output.fact.datum_type == f16::datum_type());
    if typed.nodes.iter().any(halves) {
        // f16 is emulated here, a hundred times slower than f32: convert the whole graph once.
        if let Some(transform) = get_transform("f16_to_f32")? {
            transform.transform(&mut typed)?;
        }
    }
    tract_conv::optimise(typed)?.into_runnable()
}

struct TractSession {
    plan: Arc<TypedRunnableModel>,
    state: State,
    /// Shared with the state during a run only, so that its memory is reused for every frame.
    input: Arc<Tensor>,
    /// For each output tensor that is not f32: its values as f32.
    converted: Vec<Vec<f32>>,
    spec: Arc<ModelSpec>,
}

impl TractSession {
    fn new(plan: Arc<TypedRunnableModel>, spec: Arc<ModelSpec>) -> TractResult<Self> {
        let fact = plan.model().input_fact(0)?;
        let shape = fact.shape.as_concrete().map(<[usize]>::to_vec).unwrap_or_default();
        let input = Arc::new(Tensor::zero_dt(fact.datum_type, &shape)?);
        let state = plan.spawn()?;
        let converted = spec.output.tensors.iter().map(|_| Vec::new()).collect();
        Ok(Self { plan, state, input, converted, spec })
    }

    /// Copies the frames into the tensor that tract reads: its tensors own their memory, so one copy is unavoidable.
    fn fill(&mut self, frames: &[Input<'_>]) -> TractResult<()> {
        if Arc::get_mut(&mut self.input).is_none() {
            // A run that failed may have left a reference behind.
            self.state.reset_turn()?;
        }
        let (spec, tensor) = (&self.spec.input, Arc::make_mut(&mut self.input));
        // The type is the plan's, not the file's: f16 may have been converted.
        match tensor.datum_type() {
            DatumType::F16 => write::<f16>(tensor, spec, frames),
            DatumType::U8 => write::<u8>(tensor, spec, frames),
            _ => write::<f32>(tensor, spec, frames),
        }
    }
}

fn write<T: Datum + Element>(tensor: &mut Tensor, spec: &InputSpec, frames: &[Input<'_>]) -> TractResult<()> {
    let mut view = tensor.to_plain_array_view_mut::<T>()?;
    let out = view.as_slice_mut().ok_or_else(not_contiguous)?;
    side_by_side(spec, frames, out);
    Ok(())
}

/// The values of an output as f32.
fn widen<T: Datum + Element>(tensor: &Tensor, out: &mut Vec<f32>) -> TractResult<()> {
    let view = tensor.to_plain_array_view::<T>()?;
    T::widen(view.as_slice().ok_or_else(not_contiguous)?, out);
    Ok(())
}

fn not_contiguous() -> TractError {
    TractError::msg("a tensor is not contiguous")
}

fn run_error(error: TractError) -> InferError {
    InferError::Run { backend: BackendKind::Tract, reason: format!("{error:#}").replace('\n', " ") }
}

impl Session for TractSession {
    fn batch(&self) -> usize {
        parts_on_cpu(&self.spec)
    }

    fn run(&mut self, frames: &[Input<'_>], consume: &mut Consume<'_>) -> Result<(), InferError> {
        let parts = parts_on_cpu(&self.spec);
        check_frames(&self.spec, parts, frames)?;
        self.fill(frames).map_err(run_error)?;
        let outputs = self.state.run(tvec!(self.input.clone().into_tvalue())).map_err(run_error)?;
        for (output, converted) in outputs.iter().zip(&mut self.converted) {
            match output.datum_type() {
                DatumType::F32 => Ok(()),
                DatumType::F16 => widen::<f16>(output, converted),
                DatumType::U8 => widen::<u8>(output, converted),
                DatumType::I32 => widen::<i32>(output, converted),
                DatumType::I64 => widen::<i64>(output, converted),
                other => Err(TractError::msg(format!("an output is of type {other:?}"))),
            }
            .map_err(run_error)?;
        }
        let mut slices: [&[f32]; MAX_OUTPUTS] = [&[]; MAX_OUTPUTS];
        let tensors = &self.spec.output.tensors;
        for (n, slice) in slices.iter_mut().enumerate().take(tensors.len()) {
            let output = outputs.get(n).ok_or_else(|| run_error(TractError::msg("an output is missing")))?;
            *slice = match output.datum_type() {
                DatumType::F32 => {
                    output.try_as_plain_ram().and_then(|view| view.as_slice::<f32>()).map_err(run_error)?
                }
                _ => self.converted.get(n).map_or(&[][..], Vec::as_slice),
            };
        }
        hand_out(tensors, &slices, parts, frames.len(), consume)
    }

    fn fork(&self) -> Fork {
        // The plan holds the weights: all sessions of a model share them.
        let (plan, spec) = (self.plan.clone(), self.spec.clone());
        Arc::new(move || Ok(Box::new(Self::new(plan.clone(), spec.clone()).map_err(run_error)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_shown_is_the_version_built_in() {
        let lock = include_str!("../../../../Cargo.lock");
        assert!(lock.contains(&format!("name = \"tract-onnx\"\nversion = \"{VERSION}\"")), "VERSION is out of date");
    }
}
