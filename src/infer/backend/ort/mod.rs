//! ONNX Runtime, opened at run time: on the CPU, with CUDA, or with TensorRT.

pub(in crate::infer) mod bound;
pub(in crate::infer) mod placement;
pub(in crate::infer) mod providers;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use half::f16;
use ort::ep::{self, ExecutionProvider};
use ort::session::builder::SessionBuilder;
use ort::session::{Session as Inner, SessionOutputs};
use ort::value::{PrimitiveTensorElementType, TensorRef, ValueRef};

use crate::config::{CudaConfig, TensorrtConfig};
use crate::infer::backend::convert::{self, Number, side_by_side};
use crate::infer::backend::ort::bound::{Binding, Outputs, Places};
use crate::infer::runtime::library;
use crate::infer::runtime::ort_library::{chain, environment};
use crate::infer::{Backend, Consume, Fork, InferError, Session, check_frames, hand_out, load_bytes};
use crate::model::{Elem, Input, InputSpec, MAX_OUTPUTS, ModelSpec};
use crate::types::BackendKind;

/// What executes the graph inside ONNX Runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrtProvider {
    /// The CPU.
    Cpu,
    /// CUDA.
    Cuda,
    /// TensorRT, and CUDA for what TensorRT cannot do.
    Tensorrt,
}

impl OrtProvider {
    pub(in crate::infer) fn kind(self) -> BackendKind {
        match self {
            Self::Cpu => BackendKind::Cpu,
            Self::Cuda => BackendKind::Cuda,
            Self::Tensorrt => BackendKind::Tensorrt,
        }
    }

    /// The name that the runtime's profile uses.
    pub(in crate::infer) fn name(self) -> &'static str {
        match self {
            Self::Cpu => "CPUExecutionProvider",
            Self::Cuda => ep::CUDA::NAME,
            Self::Tensorrt => ep::TensorRT::NAME,
        }
    }
}

/// How ONNX Runtime and its providers are set up.
#[derive(Debug, Clone, Default)]
pub(in crate::infer) struct OrtOptions {
    /// Threads (≥ 1) inside one inference.
    pub(in crate::infer) threads: usize,
    /// They wait busily for work.
    pub(in crate::infer) spinning: bool,
    /// Number of the GPU.
    pub(in crate::infer) device: u32,
    pub(in crate::infer) tensorrt: TensorrtConfig,
    pub(in crate::infer) cuda: CudaConfig,
    /// Folder of TensorRT's engine: read where there is one, written where there is none.
    pub(in crate::infer) engine: Option<PathBuf>,
}

/// ONNX Runtime.
#[derive(Debug, Clone)]
pub struct OrtBackend {
    provider: OrtProvider,
    library: PathBuf,
    version: String,
    options: OrtOptions,
    /// Where the tensors of the CPU's sessions lie.
    host: Option<Places>,
}

impl OrtBackend {
    /// Finds a library (`library`, else `ORT_DYLIB_PATH`, else the usual places), tries it in a child process, and
    /// opens it in this one. `threads` (≥ 1) work on one inference.
    ///
    /// # Errors
    /// [`InferError::NoLibrary`], [`InferError::Library`], [`InferError::Prober`] or [`InferError::OtherLibrary`].
    pub fn new(provider: OrtProvider, library: Option<&Path>, threads: usize) -> Result<Self, InferError> {
        let (library, version) = library::locate(library)?;
        Ok(Self::proven(provider, library, version, OrtOptions { threads, ..OrtOptions::default() }))
    }

    /// A backend on a library that a child process has opened already.
    pub(in crate::infer) fn proven(
        provider: OrtProvider,
        library: PathBuf,
        version: String,
        options: OrtOptions,
    ) -> Self {
        Self { provider, library, version, options, host: None }
    }

    /// The same with its tensors bound as on a GPU, `fixed`: as a CUDA graph needs it; where that does not work it is an
    /// error. To try on a CPU, where nothing is gained by it, what sessions on a GPU do.
    #[must_use]
    pub fn bound(self, fixed: bool) -> Self {
        Self { host: Some(Places::host(fixed)), ..self }
    }

    /// The runtime's own session with the options of ours, for measurements beside it.
    ///
    /// # Errors
    /// As [`Backend::load`].
    pub fn bare(&self, spec: &ModelSpec) -> Result<Inner, InferError> {
        let bytes = load_bytes(self.provider.kind(), spec)?;
        let loaded = self.builder(Some(spec))?.commit_from_memory(&bytes);
        loaded.map_err(|error| InferError::Load {
            backend: self.provider.kind(),
            model: spec.path.clone(),
            reason: chain(&error),
        })
    }

    /// `spec`: the model that the session is for; `None` for the probe's tiny one.
    pub(in crate::infer) fn builder(&self, spec: Option<&ModelSpec>) -> Result<SessionBuilder, InferError> {
        let environment = environment(&self.library)?;
        let refused = |error: ort::Error| self.refused(&error);
        let mut builder = Inner::builder(&environment)
            .and_then(|b| Ok(b.with_intra_threads(self.options.threads.max(1))?))
            .and_then(|b| Ok(b.with_inter_threads(1)?))
            // A pool that spins takes the cores away from decoding and encoding, so it does not unless that is asked for.
            .and_then(|b| Ok(b.with_intra_op_spinning(self.options.spinning)?))
            .and_then(|b| Ok(b.with_inter_op_spinning(self.options.spinning)?))
            .and_then(|b| Ok(b.with_log_level(ort::logging::LogLevel::Warning)?))
            // One block planned for a whole run costs 18 MB more per session of YOLOv5n at 640 and saves no time here.
            .and_then(|b| Ok(b.with_memory_pattern(false)?))
            .map_err(refused)?;
        // One by one and strictly: registering a list swallows the errors and runs on the CPU.
        match self.provider {
            OrtProvider::Cpu => {}
            OrtProvider::Cuda => providers::cuda(&self.options).register(&mut builder).map_err(refused)?,
            OrtProvider::Tensorrt => {
                providers::tensorrt(&self.options, spec).register(&mut builder).map_err(refused)?;
                // TensorRT leaves nodes over; without CUDA they run on the CPU, which is slow but right.
                if let Err(error) = providers::cuda(&self.options).register(&mut builder) {
                    tracing::warn!("nodes that TensorRT cannot run go to the CPU: {error}");
                }
            }
        }
        Ok(builder)
    }

    fn refused(&self, error: &ort::Error) -> InferError {
        InferError::Provider { backend: self.provider.kind(), reason: chain(error) }
    }

    /// `first`: the session's first inference is profiled, to see which provider runs which node.
    fn session(&self, spec: &Arc<ModelSpec>, first: bool) -> Result<OrtSession, InferError> {
        let failed = |error: ort::Error| InferError::Load {
            backend: self.provider.kind(),
            model: spec.path.clone(),
            reason: chain(&error),
        };
        let mut builder = self.builder(Some(spec))?;
        if first {
            builder = builder.with_profiling(placement::file_prefix()).map_err(|error| failed(error.into()))?;
        }
        let bytes = load_bytes(self.provider.kind(), spec)?;
        let inner = builder.commit_from_memory(&bytes).map_err(failed)?;
        let binding = match self.places() {
            None => None,
            Some(places) if places.strict => Some(Binding::new(&inner, spec, places).map_err(failed)?),
            Some(places) => Binding::new(&inner, spec, places).inspect_err(|error| self.without_binding(error)).ok(),
        };
        Ok(OrtSession::new(self.clone(), spec.clone(), inner, binding, first))
    }

    /// Where the tensors of a session lie; `None`: in our own memory.
    fn places(&self) -> Option<Places> {
        let graph = match self.provider {
            OrtProvider::Cpu => return self.host.clone(),
            OrtProvider::Cuda => self.options.cuda.cuda_graph,
            OrtProvider::Tensorrt => self.options.tensorrt.cuda_graph,
        };
        Some(Places::cuda(self.options.device, graph))
    }

    fn without_binding(&self, error: &ort::Error) {
        let kind = self.provider.kind();
        tracing::warn!("{kind}: frames are copied through the host's ordinary memory: {}", chain(error));
    }
}

impl Backend for OrtBackend {
    fn kind(&self) -> BackendKind {
        self.provider.kind()
    }

    fn probe(&self) -> Result<String, InferError> {
        environment(&self.library)?;
        Ok(format!("ONNX Runtime {}", self.version))
    }

    fn load(&self, spec: &ModelSpec) -> Result<Box<dyn Session>, InferError> {
        Ok(Box::new(self.session(&Arc::new(spec.clone()), true)?))
    }
}

/// The frames of a run in the model's own type and layout, where they cannot be read where they lie. Grows to what is
/// needed.
enum Feed {
    Float32(Vec<f32>),
    Float16(Vec<f16>),
    Uint8(Vec<u8>),
}

struct OrtSession {
    backend: OrtBackend,
    spec: Arc<ModelSpec>,
    /// What a GPU reads and writes; `None`: the runtime is given the feed. Its memory is the session's, so it goes first.
    binding: Option<Binding>,
    inner: Inner,
    /// The binding has not run yet, and where it does not work, the feed will do.
    untried: bool,
    feed: Feed,
    /// One for each output tensor; used by those that are no single floats.
    converted: Vec<Vec<f32>>,
    /// The profiler runs until the first inference is done.
    profiled: bool,
    nodes: BTreeMap<String, usize>,
}

impl OrtSession {
    fn new(backend: OrtBackend, spec: Arc<ModelSpec>, inner: Inner, binding: Option<Binding>, profiled: bool) -> Self {
        let feed = match spec.input.elem {
            Elem::Float16 => Feed::Float16(Vec::new()),
            Elem::Uint8 => Feed::Uint8(Vec::new()),
            _ => Feed::Float32(Vec::new()),
        };
        let converted = spec.output.tensors.iter().map(|_| Vec::new()).collect();
        let (untried, nodes) = (binding.as_ref().is_some_and(|binding| !binding.is_strict()), BTreeMap::new());
        Self { untried, backend, spec, inner, binding, feed, converted, profiled, nodes }
    }

    /// Reads back which provider ran the nodes of the first inference, and fails unless ours ran a part of the graph.
    fn read_placement(&mut self) -> Result<(), InferError> {
        let provider = self.backend.provider;
        let refused = |reason: String| InferError::Provider { backend: provider.kind(), reason };
        let read = self.inner.end_profiling().map_err(|error| chain(&error)).and_then(placement::take);
        match read {
            Ok(nodes) => self.nodes = nodes,
            // There is no other provider that could have run them.
            Err(reason) if provider == OrtProvider::Cpu => {
                tracing::debug!("node placement is not known: {reason}");
                return Ok(());
            }
            Err(reason) => return Err(refused(reason)),
        }
        tracing::info!("{}: nodes by provider: {}", provider.kind(), placement::words(&self.nodes));
        if provider != OrtProvider::Cpu && !self.nodes.contains_key(provider.name()) {
            return Err(refused("it registered, but ran no node of this model".into()));
        }
        Ok(())
    }
}

impl Session for OrtSession {
    fn run(&mut self, frames: &[Input<'_>], consume: &mut Consume<'_>) -> Result<(), InferError> {
        self.run_once(frames, consume)?;
        if std::mem::take(&mut self.profiled) {
            self.read_placement()?;
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
    /// A runtime that cannot do it costs speed, not the backend.
    fn try_binding(&mut self, frames: &[Input<'_>]) {
        let Some(binding) = &mut self.binding else { return };
        let outputs = &self.spec.output.tensors;
        let tried = binding.run(&mut self.inner, &self.spec, frames).and_then(|given| {
            let mut numbers = Vec::new();
            outputs
                .iter()
                .enumerate()
                .try_for_each(|(at, tensor)| given.widen(at, &tensor.name, tensor.elem, &mut numbers))
        });
        if let Err(error) = tried {
            self.backend.without_binding(&error);
            self.binding = None;
        }
    }

    fn run_once(&mut self, frames: &[Input<'_>], consume: &mut Consume<'_>) -> Result<(), InferError> {
        check_frames(&self.spec, self.spec.input.batch.size, frames)?;
        let kind = self.backend.provider.kind();
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
                Elem::Float32 => outputs.floats(at, &tensor.name).map_err(failed)?,
                _ => converted,
            };
        }
        hand_out(tensors, &wholes, parts, frames.len(), consume)
    }
}

/// The runtime reads one frame in our memory and we read its output in place: no tensor is copied.
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

/// Brings the frames of a run side by side.
fn gather<'v, T: Number + PrimitiveTensorElementType + Default + std::fmt::Debug + 'static>(
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
