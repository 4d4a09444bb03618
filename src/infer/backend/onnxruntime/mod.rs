//! ONNX Runtime, opened at run time: on the CPU, with CUDA, or with TensorRT.

mod bound;
mod descriptors;
mod engine_key;
mod library;
mod probe;
mod profile;
mod providers;
mod session;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ort::ep::ExecutionProvider;
use ort::session::Session as Inner;
use ort::session::builder::SessionBuilder;

pub(in crate::infer) use descriptors::{CPU, CUDA, TENSORRT};
pub(in crate::infer) use engine_key::engine_key;
pub use library::ONNX_RUNTIME;
pub(in crate::infer) use probe::try_library;
pub use probe::{ProviderReport, probe_provider};
pub use profile::remove_profiles;

use crate::config::ModelConfig;
use crate::infer::backend::convert::chain;
use crate::infer::runtime::probe::locate;
use crate::infer::{Backend, InferError, Session, load_bytes};
use crate::model::ModelSpec;
use crate::types::BackendKind;
use bound::{Binding, Places};
use library::environment;
use profile::Profile;
use session::OrtSession;

#[derive(Debug, Clone)]
pub struct OrtBackend {
    /// `cpu`, `cuda` or `tensorrt`.
    kind: BackendKind,
    library: PathBuf,
    version: String,
    config: ModelConfig,
    /// Threads (≥ 1) inside one inference.
    threads: usize,
    /// Folder of TensorRT's engine: read if it has one, written otherwise.
    engine: Option<PathBuf>,
    /// Where tensors of sessions on the CPU lie, for tests.
    host: Option<Places>,
}

impl OrtBackend {
    /// Finds a library (`library`, else `ORT_DYLIB_PATH`, else the searched folders) and probes it in a child process.
    /// `kind`: `cpu`, `cuda` or `tensorrt`. `threads` (≥ 1) work on one inference.
    pub fn new(kind: BackendKind, library: Option<&Path>, threads: usize) -> Result<Self, InferError> {
        let (library, version) = locate(&ONNX_RUNTIME, library)?;
        Ok(Self::proven(kind, library, version, threads))
    }

    /// A backend with default options, on a library that a child process has probed.
    fn proven(kind: BackendKind, library: PathBuf, version: String, threads: usize) -> Self {
        Self { kind, library, version, config: ModelConfig::default(), threads, engine: None, host: None }
    }

    /// Binds tensors on the CPU as sessions on a GPU do, to test that code without a GPU. `fixed`: at fixed addresses, as a
    /// CUDA graph needs it.
    #[must_use]
    pub fn bound(self, fixed: bool) -> Self {
        Self { host: Some(Places::host(fixed)), ..self }
    }

    /// The runtime's own session with the same options, for benchmarks.
    pub fn bare(&self, spec: &ModelSpec) -> Result<Inner, InferError> {
        let bytes = load_bytes(self.kind, spec)?;
        self.builder(Some(spec))?.commit_from_memory(&bytes).map_err(|error| self.not_loaded(spec, &error))
    }

    fn not_loaded(&self, spec: &ModelSpec, error: &ort::Error) -> InferError {
        InferError::Load { backend: self.kind, model: spec.path.clone(), reason: chain(error) }
    }

    /// `spec`: the model that the session is for; `None` for the probe's tiny model.
    pub(in crate::infer) fn builder(&self, spec: Option<&ModelSpec>) -> Result<SessionBuilder, InferError> {
        let environment = environment(&self.library)?;
        let refused = |error: ort::Error| self.refused(&error);
        let mut builder = Inner::builder(&environment)
            .and_then(|b| Ok(b.with_intra_threads(self.threads.max(1))?))
            .and_then(|b| Ok(b.with_inter_threads(1)?))
            // Threads that spin take the cores away from decoding and encoding.
            .and_then(|b| Ok(b.with_intra_op_spinning(self.config.spinning)?))
            .and_then(|b| Ok(b.with_inter_op_spinning(self.config.spinning)?))
            .and_then(|b| Ok(b.with_log_level(ort::logging::LogLevel::Warning)?))
            // Planning one block for a whole run costs 18 MB more per session of YOLOv5n at 640 and saves no time.
            .and_then(|b| Ok(b.with_memory_pattern(false)?))
            .map_err(refused)?;
        // One by one: registering a list ignores errors and runs on the CPU.
        match self.kind {
            BackendKind::Cuda => providers::cuda(&self.config).register(&mut builder).map_err(refused)?,
            BackendKind::Tensorrt => {
                providers::tensorrt(&self.config, self.engine.as_deref(), spec)
                    .register(&mut builder)
                    .map_err(refused)?;
                // TensorRT does not run every node; without CUDA the others run on the CPU, which is slow but right.
                if let Err(error) = providers::cuda(&self.config).register(&mut builder) {
                    tracing::warn!("nodes that TensorRT cannot run will run on the CPU: {error}");
                }
            }
            _ => {}
        }
        Ok(builder)
    }

    fn refused(&self, error: &ort::Error) -> InferError {
        InferError::Provider { backend: self.kind, reason: chain(error) }
    }

    /// `first`: the session's first inference is profiled, to see which provider runs which node.
    fn session(&self, spec: &Arc<ModelSpec>, first: bool) -> Result<OrtSession, InferError> {
        let failed = |error: ort::Error| self.not_loaded(spec, &error);
        let builder = self.builder(Some(spec))?;
        let bytes = load_bytes(self.kind, spec)?;
        let (mut builder, profile) = if first { Profile::start(builder) } else { (builder, None) };
        let inner = builder.commit_from_memory(&bytes).map_err(failed)?;
        let binding = match self.places() {
            None => None,
            Some(places) if places.strict => Some(Binding::new(&inner, spec, places).map_err(failed)?),
            Some(places) => Binding::new(&inner, spec, places).inspect_err(|error| self.without_binding(error)).ok(),
        };
        Ok(OrtSession::new(self.clone(), spec.clone(), inner, binding, profile))
    }

    /// Where the tensors of a session lie; `None`: in ordinary memory.
    fn places(&self) -> Option<Places> {
        let graph = match self.kind {
            BackendKind::Cuda => self.config.cuda.cuda_graph,
            BackendKind::Tensorrt => self.config.tensorrt.cuda_graph,
            _ => return self.host.clone(),
        };
        Some(Places::cuda(self.config.device, graph))
    }

    fn without_binding(&self, error: &ort::Error) {
        let (kind, error) = (self.kind, chain(error));
        tracing::warn!("{kind}: frames go through ordinary memory, which is slower than page-locked memory: {error}");
    }
}

impl Backend for OrtBackend {
    fn probe(&self) -> Result<String, InferError> {
        environment(&self.library)?;
        Ok(format!("ONNX Runtime {}", self.version))
    }

    fn load(&self, spec: &ModelSpec) -> Result<Box<dyn Session>, InferError> {
        Ok(Box::new(self.session(&Arc::new(spec.clone()), true)?))
    }
}
