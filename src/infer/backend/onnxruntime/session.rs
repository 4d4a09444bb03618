//! A session of ONNX Runtime.

use std::collections::BTreeMap;
use std::sync::Arc;

use half::f16;
use ort::session::{Session as Inner, SessionOutputs};
use ort::value::{PrimitiveTensorElementType, TensorRef, ValueRef};

use crate::infer::backend::convert::{self, Element, chain, side_by_side};
use crate::infer::backend::onnxruntime::bound::{Binding, Outputs};
use crate::infer::backend::onnxruntime::profile::{Profile, words};
use crate::infer::backend::onnxruntime::{OrtBackend, providers};
use crate::infer::{Consume, Fork, InferError, Session, check_frames, hand_out};
use crate::model::{Elem, Input, InputSpec, MAX_OUTPUTS, ModelSpec};
use crate::types::BackendKind;

/// The frames of a run in the model's own type and layout, if they must be copied. Grows to the largest run.
enum Feed {
    Float32(Vec<f32>),
    Float16(Vec<f16>),
    Uint8(Vec<u8>),
}

pub(super) struct OrtSession {
    backend: OrtBackend,
    spec: Arc<ModelSpec>,
    /// Tensors that a GPU reads and writes; `None`: the feed is used. Its memory is the session's, so it is dropped first.
    binding: Option<Binding>,
    inner: Inner,
    /// The binding has not run yet. If it does not work, the feed is used.
    untried: bool,
    feed: Feed,
    /// For each output tensor that is not f32: its values as f32.
    converted: Vec<Vec<f32>>,
    /// Written until the first inference is done, or the session is dropped.
    profile: Option<Profile>,
    nodes: BTreeMap<String, usize>,
}

impl OrtSession {
    pub(super) fn new(
        backend: OrtBackend,
        spec: Arc<ModelSpec>,
        inner: Inner,
        binding: Option<Binding>,
        profile: Option<Profile>,
    ) -> Self {
        let feed = match spec.input.elem {
            Elem::Float16 => Feed::Float16(Vec::new()),
            Elem::Uint8 => Feed::Uint8(Vec::new()),
            _ => Feed::Float32(Vec::new()),
        };
        let converted = spec.output.tensors.iter().map(|_| Vec::new()).collect();
        let (untried, nodes) = (binding.as_ref().is_some_and(|binding| !binding.is_strict()), BTreeMap::new());
        Self { untried, backend, spec, inner, binding, feed, converted, profile, nodes }
    }

    /// Reads which provider ran the nodes of the first inference. It is an error if this session's provider ran none.
    fn read_placement(&mut self, profile: Profile) -> Result<(), InferError> {
        let kind = self.backend.kind;
        match profile.read(&mut self.inner) {
            Ok(nodes) => self.nodes = nodes,
            Err(reason) => {
                tracing::warn!("{kind}: which provider runs which node is unknown: {reason}");
                return Ok(());
            }
        }
        tracing::info!("{kind}: nodes by provider: {}", words(&self.nodes));
        if kind != BackendKind::Cpu && !self.nodes.contains_key(providers::name(kind)) {
            let reason = "it registered, but ran no node of this model".into();
            return Err(InferError::Provider { backend: kind, reason });
        }
        Ok(())
    }
}

impl Session for OrtSession {
    fn run(&mut self, frames: &[Input<'_>], consume: &mut Consume<'_>) -> Result<(), InferError> {
        self.run_once(frames, consume)?;
        if let Some(profile) = self.profile.take() {
            self.read_placement(profile)?;
        }
        if std::mem::take(&mut self.untried) {
            self.try_binding(frames);
        }
        Ok(())
    }

    fn batch(&self) -> usize {
        self.spec.input.batch.size
    }

    fn nodes(&self) -> BTreeMap<String, usize> {
        self.nodes.clone()
    }

    fn fork(&self) -> Fork {
        // ONNX Runtime cannot share weights between sessions that are loaded from a file.
        let (backend, spec) = (self.backend.clone(), self.spec.clone());
        Arc::new(move || Ok(Box::new(backend.session(&spec, false)?)))
    }
}

impl OrtSession {
    /// Runs with bound tensors once. A runtime that cannot do that only loses speed.
    fn try_binding(&mut self, frames: &[Input<'_>]) {
        let Some(binding) = &mut self.binding else { return };
        let outputs = &self.spec.output.tensors;
        let tried = binding.run(&mut self.inner, &self.spec, frames).and_then(|given| {
            let mut values = Vec::new();
            outputs
                .iter()
                .enumerate()
                .try_for_each(|(at, tensor)| given.widen(at, &tensor.name, tensor.elem, &mut values))
        });
        if let Err(error) = tried {
            self.backend.without_binding(&error);
            self.binding = None;
        }
    }

    fn run_once(&mut self, frames: &[Input<'_>], consume: &mut Consume<'_>) -> Result<(), InferError> {
        check_frames(&self.spec, self.spec.input.batch.size, frames)?;
        let kind = self.backend.kind;
        let failed = |error: ort::Error| InferError::Run { backend: kind, reason: chain(&error) };
        let spec = &self.spec.input;
        let (parts, outputs) = match self.binding.as_mut().filter(|_| !self.untried) {
            Some(binding) => {
                (binding.parts(spec, frames.len()), binding.run(&mut self.inner, &self.spec, frames).map_err(failed)?)
            }
            None => {
                // A fixed batch is always run as a whole.
                let parts = if spec.batch.open { frames.len() } else { spec.batch.size };
                let outputs = run_fed(&mut self.inner, spec, frames, parts, &mut self.feed).map_err(failed)?;
                (parts, Outputs::Given(outputs))
            }
        };
        let tensors = &self.spec.output.tensors;
        for (at, (tensor, converted)) in tensors.iter().zip(&mut self.converted).enumerate() {
            if tensor.elem != Elem::Float32 {
                outputs.widen(at, &tensor.name, tensor.elem, converted).map_err(failed)?;
            }
        }
        let mut wholes: [&[f32]; MAX_OUTPUTS] = [&[]; MAX_OUTPUTS];
        for (at, ((tensor, converted), whole)) in tensors.iter().zip(&self.converted).zip(&mut wholes).enumerate() {
            *whole = match tensor.elem {
                Elem::Float32 => outputs.values(at, &tensor.name).map_err(failed)?,
                _ => converted,
            };
        }
        hand_out(tensors, &wholes, parts, frames.len(), consume)
    }
}

/// Runs on tensors in ordinary memory. One frame in the model's own form is read in place, and so are the outputs.
fn run_fed<'s>(
    session: &'s mut Inner,
    spec: &InputSpec,
    frames: &[Input<'_>],
    parts: usize,
    feed: &mut Feed,
) -> ort::Result<SessionOutputs<'s>> {
    let shape = spec.shape(parts).map(|n| n as i64);
    let tensor = match (feed, frames) {
        (Feed::Float32(_), [Input::Planes(planes)]) if parts == 1 && convert::as_is(spec) => {
            TensorRef::from_array_view((shape, *planes)).map(TensorRef::into_dyn)
        }
        (Feed::Uint8(_), [Input::Bytes(bytes)]) if parts == 1 => {
            TensorRef::from_array_view((shape, *bytes)).map(TensorRef::into_dyn)
        }
        (Feed::Float32(values), _) => gather(spec, frames, parts, values),
        (Feed::Float16(values), _) => gather(spec, frames, parts, values),
        (Feed::Uint8(values), _) => gather(spec, frames, parts, values),
    }?;
    match &spec.size_input {
        None => session.run(ort::inputs![tensor]),
        Some(name) => {
            let sides = [i64::from(spec.size.w), i64::from(spec.size.h)];
            let sides = TensorRef::from_array_view(([1_i64, 2], sides.as_slice()))?;
            session.run(ort::inputs![spec.name.as_str() => tensor, name.as_str() => sides])
        }
    }
}

/// Copies the frames of a run side by side.
fn gather<'v, T: Element + PrimitiveTensorElementType + Default + std::fmt::Debug + 'static>(
    spec: &InputSpec,
    frames: &[Input<'_>],
    parts: usize,
    values: &'v mut Vec<T>,
) -> ort::Result<ValueRef<'v>> {
    let shape = spec.shape(parts).map(|n| n as i64);
    values.resize(spec.frame_len() * parts, T::default());
    side_by_side(spec, frames, values);
    TensorRef::from_array_view((shape, values.as_slice())).map(TensorRef::into_dyn)
}
