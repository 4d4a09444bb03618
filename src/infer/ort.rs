//! ONNX Runtime, opened at run time: on the CPU, with CUDA, or with TensorRT.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use half::f16;
use half::slice::HalfFloatSliceExt;
use ort::ep::{self, ExecutionProvider};
use ort::session::Session as Inner;
use ort::session::builder::SessionBuilder;
use ort::value::TensorRef;

use super::{Backend, Fork, InferError, Session, input_len, library, placement, providers};
use crate::config::{CudaConfig, TensorrtConfig};
use crate::model::ModelSpec;
use crate::types::BackendKind;

/// The library that this process has opened. ONNX Runtime allows one, and for ever.
struct Opened {
    path: PathBuf,
    environment: Option<ort::environment::Environment>,
}

static OPENED: Mutex<Option<Opened>> = Mutex::new(None);

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
    pub(super) fn kind(self) -> BackendKind {
        match self {
            Self::Cpu => BackendKind::Cpu,
            Self::Cuda => BackendKind::Cuda,
            Self::Tensorrt => BackendKind::Tensorrt,
        }
    }

    /// The name that the runtime's profile uses.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Cpu => "CPUExecutionProvider",
            Self::Cuda => ep::CUDA::NAME,
            Self::Tensorrt => ep::TensorRT::NAME,
        }
    }
}

/// How ONNX Runtime and its providers are set up.
#[derive(Debug, Clone, Default)]
pub(super) struct OrtOptions {
    /// Threads (≥ 1) inside one inference.
    pub(super) threads: usize,
    /// They wait busily for work.
    pub(super) spinning: bool,
    /// Number of the GPU.
    pub(super) device: u32,
    pub(super) tensorrt: TensorrtConfig,
    pub(super) cuda: CudaConfig,
    /// Folder of TensorRT's engine: read where there is one, written where there is none.
    pub(super) engine: Option<PathBuf>,
}

/// ONNX Runtime.
#[derive(Debug, Clone)]
pub struct OrtBackend {
    provider: OrtProvider,
    library: PathBuf,
    version: String,
    options: OrtOptions,
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
    pub(super) fn proven(provider: OrtProvider, library: PathBuf, version: String, options: OrtOptions) -> Self {
        Self { provider, library, version, options }
    }

    /// `spec`: the model that the session is for; `None` for the probe's tiny one.
    pub(super) fn builder(&self, spec: Option<&ModelSpec>) -> Result<SessionBuilder, InferError> {
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
        let inner = builder.commit_from_file(&spec.path).map_err(failed)?;
        Ok(OrtSession::new(self.clone(), spec.clone(), inner, first))
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

struct OrtSession {
    backend: OrtBackend,
    spec: Arc<ModelSpec>,
    inner: Inner,
    shape: [i64; 4],
    expected: (usize, usize),
    input_f16: Vec<f16>,
    output_f32: Vec<f32>,
    /// The profiler runs until the first inference is done.
    profiled: bool,
    nodes: BTreeMap<String, usize>,
}

impl OrtSession {
    fn new(backend: OrtBackend, spec: Arc<ModelSpec>, inner: Inner, profiled: bool) -> Self {
        let shape = [1, 3, i64::from(spec.input.size.h), i64::from(spec.input.size.w)];
        let expected = (input_len(&spec), spec.output.len());
        let input_f16 = if spec.input.f16 { vec![f16::ZERO; expected.0] } else { Vec::new() };
        let output_f32 = if spec.output.f16 { vec![0.0; expected.1] } else { Vec::new() };
        let nodes = BTreeMap::new();
        Self { backend, spec, inner, shape, expected, input_f16, output_f32, profiled, nodes }
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
    fn run(&mut self, input: &[f32], consume: &mut dyn FnMut(&[f32])) -> Result<(), InferError> {
        self.run_once(input, consume)?;
        if std::mem::take(&mut self.profiled) { self.read_placement() } else { Ok(()) }
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
    fn run_once(&mut self, input: &[f32], consume: &mut dyn FnMut(&[f32])) -> Result<(), InferError> {
        if input.len() != self.expected.0 {
            return Err(InferError::Input { expected: self.expected.0, got: input.len() });
        }
        let kind = self.backend.provider.kind();
        let failed = |error: ort::Error| InferError::Run { backend: kind, reason: chain(&error) };
        // The runtime reads our memory in place and we read its output in place: no tensor is copied.
        let outputs = if self.spec.input.f16 {
            self.input_f16.convert_from_f32_slice(input);
            let tensor = TensorRef::from_array_view((self.shape, self.input_f16.as_slice())).map_err(failed)?;
            self.inner.run(ort::inputs![tensor])
        } else {
            let tensor = TensorRef::from_array_view((self.shape, input)).map_err(failed)?;
            self.inner.run(ort::inputs![tensor])
        }
        .map_err(failed)?;
        let name = self.spec.output.name.as_str();
        let value = (!name.is_empty())
            .then(|| outputs.get(name))
            .flatten()
            .ok_or_else(|| InferError::Run { backend: kind, reason: format!("there is no output {name:?}") })?;
        let check = |got: usize| match got == self.expected.1 {
            true => Ok(()),
            false => Err(InferError::Output { expected: self.expected.1, got }),
        };
        if self.spec.output.f16 {
            let (_, values) = value.try_extract_tensor::<f16>().map_err(failed)?;
            check(values.len())?;
            values.convert_to_f32_slice(&mut self.output_f32);
            consume(&self.output_f32);
        } else {
            let (_, values) = value.try_extract_tensor::<f32>().map_err(failed)?;
            check(values.len())?;
            consume(values);
        }
        Ok(())
    }
}

/// The environment of this process on `library`, made at the first call. The library must have passed
/// [`probe`](super::probe()).
fn environment(library: &Path) -> Result<ort::environment::Environment, InferError> {
    let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
    let unusable = |reason: String| InferError::Library { path: library.to_owned(), reason, hint: library::hint() };
    if let Some(Opened { path, environment }) = &*opened {
        return match environment {
            Some(environment) if path == library => Ok(environment.clone()),
            _ => Err(InferError::OtherLibrary { open: path.clone(), wanted: library.to_owned() }),
        };
    }
    let (path, outcome) = (library.to_owned(), open(library));
    let environment = outcome.map_err(unusable)?;
    *opened = Some(Opened { path, environment: Some(environment.clone()) });
    Ok(environment)
}

pub(super) fn open(library: &Path) -> Result<ort::environment::Environment, String> {
    let builder = ort::init_from(library).map_err(|error| load_error(&error))?;
    let environment = builder
        .with_name("ocelli")
        .with_telemetry(false)
        .with_logger(Arc::new(|level, category, _, _, message| match level {
            ort::logging::LogLevel::Fatal | ort::logging::LogLevel::Error => {
                tracing::warn!(target: "onnxruntime", "{category}: {message}");
            }
            ort::logging::LogLevel::Warning => tracing::debug!(target: "onnxruntime", "{category}: {message}"),
            _ => tracing::trace!(target: "onnxruntime", "{category}: {message}"),
        }))
        .build()
        .map_err(|error| chain(&error))?;
    environment.set_log_level(ort::logging::LogLevel::Warning);
    Ok(environment)
}

fn load_error(error: &ort::LoadDynamicError) -> String {
    match error {
        ort::LoadDynamicError::Dlopen { error, .. } => format!("the system cannot load it ({})", chain(error)),
        ort::LoadDynamicError::MissingApi { .. } => {
            "it is a library, but not ONNX Runtime (it does not export OrtGetApiBase)".into()
        }
        ort::LoadDynamicError::BadVersion { version_str, .. } => {
            format!("it is version {version_str}, which is too old")
        }
        other => chain(other),
    }
}

/// An error and what caused it, on one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text.replace('\n', " ").trim().to_owned()
}
