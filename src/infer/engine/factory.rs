//! The real backends: which library, which options, which engine from the cache.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::config::{ModelConfig, Precision};
use crate::infer::backend::onnxruntime::{ONNX_RUNTIME, OrtOptions, provider_library, provider_works};
use crate::infer::backend::openvino;
use crate::infer::backend::openvino::OPENVINO;
use crate::infer::cache::build::{self, BuildRequest, Builder, ChildBuilder};
use crate::infer::cache::engine_build::engine_key;
use crate::infer::cache::{EngineCache, EngineKey, Lookup};
use crate::infer::engine::ladder::{Loaded, Rungs, rungs};
use crate::infer::engine::parallel;
use crate::infer::engine::policy::on_gpu;
use crate::infer::runtime::gpu;
use crate::infer::runtime::places;
use crate::infer::runtime::probe::locate;
use crate::infer::{Backend, CacheError, InferError, OpenvinoBackend, OrtBackend, OrtProvider, Session};
use crate::model::ModelSpec;
use crate::types::{BackendKind, Division};

/// Sessions at most, however many cores there are: each has its own memory.
const MAX_WORKERS: usize = 4;

/// The real backends. The library is looked for and tried once for all rungs.
pub(in crate::infer) struct Factory {
    spec: Arc<ModelSpec>,
    config: ModelConfig,
    kinds: &'static [BackendKind],
    /// For whom it works.
    purpose: Purpose,
    library: Mutex<Option<Result<(PathBuf, String), InferError>>>,
    openvino: Mutex<Option<Result<(PathBuf, String), InferError>>>,
    /// OpenVINO's boxes have been compared.
    agreed: AtomicBool,
    stopped: AtomicBool,
}

/// What an engine is started for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::infer) enum Purpose {
    /// A few frames: nothing is built or measured for those that may come later.
    Short,
    /// The same, but what was asked for is built when it is not there.
    Build,
    /// A service that runs for days.
    Service,
}

impl Factory {
    pub(in crate::infer) fn new(spec: Arc<ModelSpec>, config: &ModelConfig, purpose: Purpose) -> Self {
        let kinds = rungs(config.backend, gpu::present(), openvino::is_available(config));
        Self {
            spec,
            config: config.clone(),
            kinds,
            purpose,
            library: Mutex::default(),
            openvino: Mutex::default(),
            agreed: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
        }
    }

    pub(in crate::infer) fn library(&self) -> Result<(PathBuf, String), InferError> {
        let mut library = self.library.lock().unwrap_or_else(PoisonError::into_inner);
        library.get_or_insert_with(|| locate(&ONNX_RUNTIME, self.config.ort_library.as_deref())).clone()
    }

    pub(in crate::infer) fn ort(
        &self,
        provider: OrtProvider,
        engine: Option<PathBuf>,
    ) -> Result<OrtBackend, InferError> {
        self.ort_with(provider, engine, self.threads())
    }

    fn ort_with(
        &self,
        provider: OrtProvider,
        engine: Option<PathBuf>,
        threads: usize,
    ) -> Result<OrtBackend, InferError> {
        let (path, version) = self.library()?;
        let options = OrtOptions {
            threads,
            spinning: self.config.spinning,
            device: self.config.device,
            tensorrt: self.config.tensorrt.clone(),
            cuda: self.config.cuda.clone(),
            engine,
        };
        Ok(OrtBackend::proven(provider, path, version, options))
    }

    /// The same for a process that must live: a damaged provider's library kills the one that opens it.
    fn proven_ort(&self, provider: OrtProvider, engine: Option<PathBuf>) -> Result<OrtBackend, InferError> {
        provider_works(&self.library()?.0, provider)?;
        self.ort(provider, engine)
    }

    fn openvino(&self, threads: usize) -> Result<OpenvinoBackend, InferError> {
        let mut library = self.openvino.lock().unwrap_or_else(PoisonError::into_inner);
        let options = &self.config.openvino;
        let found = library.get_or_insert_with(|| locate(&OPENVINO, options.library.as_deref())).clone();
        let (path, version) = found?;
        Ok(OpenvinoBackend::proven(path, version, threads, options.precision))
    }

    /// What moves boxes has to find what the reference finds before a service takes it, as a GPU engine has.
    fn is_compared(&self, kind: BackendKind) -> bool {
        let exact = kind != BackendKind::Openvino || self.config.openvino.precision == Precision::F32;
        let wanted = !exact && self.config.min_agreement > 0.0 && self.spec.golden().is_dir();
        !wanted || self.purpose != Purpose::Service || self.agreed.load(Ordering::Relaxed)
    }

    fn agreed_openvino(&self) -> Result<OpenvinoBackend, InferError> {
        let backend = self.openvino(self.threads())?;
        if !self.is_compared(BackendKind::Openvino) {
            self.prove(BackendKind::Openvino)?;
        }
        Ok(backend)
    }

    /// Threads inside one inference. One per session: several sessions on several frames mostly beat one session on several
    /// threads.
    fn threads(&self) -> usize {
        self.config.threads.unwrap_or(1)
    }

    /// TensorRT's part of ONNX Runtime is a file of its own. Without it there is nothing to build, and no need to try.
    fn tensorrt_provider(&self) -> Result<(), InferError> {
        let provider = provider_library(&self.library()?.0, OrtProvider::Tensorrt).unwrap_or_default();
        if provider.exists() {
            return Ok(());
        }
        let reason = format!(
            "there is no {}; install a build of ONNX Runtime with TensorRT, or use backend: cpu",
            provider.display()
        );
        Err(InferError::Provider { backend: BackendKind::Tensorrt, reason })
    }

    /// The cache, and what the engine of this model is called there.
    pub(in crate::infer) fn engine(&self) -> Result<(EngineCache, EngineKey), InferError> {
        self.tensorrt_provider()?;
        let folder = self
            .config
            .cache
            .clone()
            .or_else(|| Some(places::cache_folder()?.join("engines")))
            .ok_or(CacheError::NoFolder)?;
        let cache = EngineCache::open(&folder, self.config.cache_mb.saturating_mul(1_000_000))?;
        let (path, version) = self.library()?;
        Ok((cache, engine_key(&self.spec, &self.config, &path, version)?))
    }

    fn request(&self, kind: BackendKind) -> BuildRequest {
        build::request(kind, &self.config, self.spec.path.clone(), self.spec.id.sha256.clone())
    }

    /// Where the engine is, when it is there.
    pub(in crate::infer) fn cached(&self) -> Result<PathBuf, InferError> {
        let (cache, key) = self.engine()?;
        match cache.lookup(&key)? {
            Lookup::Ready(folder) => Ok(folder),
            Lookup::Absent | Lookup::Rejected(_) => Err(InferError::NoEngine { backend: BackendKind::Tensorrt }),
        }
    }
}

impl Rungs for Factory {
    fn kinds(&self) -> &[BackendKind] {
        self.kinds
    }

    fn backend(&self, kind: BackendKind) -> Result<Box<dyn Backend>, InferError> {
        Ok(match kind {
            BackendKind::Tract => return tract(),
            BackendKind::Openvino => Box::new(self.agreed_openvino()?),
            BackendKind::Cpu => Box::new(self.ort(OrtProvider::Cpu, None)?),
            BackendKind::Cuda => Box::new(self.proven_ort(OrtProvider::Cuda, None)?),
            BackendKind::Tensorrt => Box::new(self.proven_ort(OrtProvider::Tensorrt, Some(self.cached()?))?),
        })
    }

    fn prove(&self, kind: BackendKind) -> Result<(), InferError> {
        match kind {
            BackendKind::Tract => return Ok(()),
            _ => build::prove(&self.request(kind), &self.stopped)?,
        }
        if kind == BackendKind::Openvino {
            self.agreed.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    fn at_hand(&self, kind: BackendKind) -> Result<(), InferError> {
        if self.is_compared(kind) {
            return Ok(());
        }
        let reason = "its boxes were not compared with the reference's yet, and cameras wait".to_owned();
        Err(InferError::Build { backend: kind, reason })
    }

    fn builder(&self, kind: BackendKind) -> Result<Option<Arc<dyn Builder>>, InferError> {
        if kind != BackendKind::Tensorrt {
            return Ok(None);
        }
        let (cache, key) = self.engine()?;
        if let Lookup::Ready(_) = cache.lookup(&key)? {
            return Ok(None);
        }
        if self.purpose == Purpose::Short {
            return Err(InferError::NoEngine { backend: kind });
        }
        if let Some(reason) = cache.record(&key).refusal() {
            return Err(InferError::BuildRefused { backend: kind, reason });
        }
        Ok(Some(Arc::new(ChildBuilder { request: self.request(kind), cache, key })))
    }

    fn reject(&self, kind: BackendKind, reason: &str) -> bool {
        if kind != BackendKind::Tensorrt {
            return false;
        }
        let Ok((cache, key)) = self.engine() else { return false };
        matches!(cache.lookup(&key), Ok(Lookup::Ready(_))) && cache.reject(&key, reason).is_ok()
    }

    fn accepted(&self, kind: BackendKind) {
        if kind == BackendKind::Tensorrt
            && let Ok((cache, key)) = self.engine()
            && cache.record(&key).rejected > 0
            && let Err(error) = cache.forgive(&key)
        {
            tracing::warn!("{error}");
        }
    }

    fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    fn batch_wait(&self) -> Duration {
        self.config.batch_wait
    }

    fn divide(&self, mut loaded: Loaded, frames_wait: bool) -> Loaded {
        let (kind, sessions) = (loaded.kind, self.workers(loaded.kind));
        let threads = if kind == BackendKind::Tract { 1 } else { self.threads() };
        let usual = Division { sessions, threads, per_frame: None };
        let measured = match kind {
            BackendKind::Cpu | BackendKind::Openvino
                if self.purpose == Purpose::Service && sessions > 1 && !frames_wait =>
            {
                parallel::try_both(&self.spec, &mut loaded, sessions, || self.one_session(kind, sessions))
            }
            _ => Ok(None),
        };
        match measured {
            Ok(Some((divisions, together))) => {
                let said: Vec<String> = divisions.iter().map(Division::to_string).collect();
                tracing::info!("{kind}: {}", said.join(" rather than "));
                let one = divisions.first().is_some_and(|best| best.sessions == 1);
                let session = if one { together } else { loaded.session };
                Loaded { session, divisions, ..loaded }
            }
            Ok(None) => Loaded { divisions: vec![usual], ..loaded },
            Err(error) => {
                tracing::warn!("how to divide the cores could not be measured: {error}");
                Loaded { divisions: vec![usual], ..loaded }
            }
        }
    }

    fn workers(&self, kind: BackendKind) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        match (kind, self.config.threads) {
            // A session of tract is one thread: its threads are sessions.
            (BackendKind::Tract, threads) => threads.unwrap_or_else(cores).clamp(1, MAX_WORKERS),
            (_, None) if !on_gpu(kind) => cores().clamp(1, MAX_WORKERS),
            _ => 1,
        }
    }
}

impl Factory {
    /// A further session of what is loaded already, with other threads.
    fn one_session(&self, kind: BackendKind, threads: usize) -> Result<Box<dyn Session>, InferError> {
        match kind {
            BackendKind::Openvino => self.openvino(threads)?.load(&self.spec),
            _ => self.ort_with(OrtProvider::Cpu, None, threads)?.load(&self.spec),
        }
    }
}

#[cfg(feature = "tract")]
fn tract() -> Result<Box<dyn Backend>, InferError> {
    Ok(Box::new(crate::infer::TractBackend))
}

#[cfg(not(feature = "tract"))]
fn tract() -> Result<Box<dyn Backend>, InferError> {
    Err(InferError::NotBuilt(BackendKind::Tract))
}
