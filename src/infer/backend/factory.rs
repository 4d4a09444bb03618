//! The real backends: which library, which options, which engine from the cache.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::config::{BackendChoice, ModelConfig, Precision};
use crate::infer::backend::layout;
use crate::infer::backend::load::{Backends, Found, LoadReason, Loaded, load_first, on_gpu, run_on};
use crate::infer::backend::onnxruntime::{ONNX_RUNTIME, OrtOptions, provider_library, provider_works};
use crate::infer::backend::openvino;
use crate::infer::backend::openvino::OPENVINO;
use crate::infer::cache::build::{self, BuildRequest, Builder, ChildBuilder};
use crate::infer::cache::engine_build::engine_key;
use crate::infer::cache::{EngineCache, EngineKey, Lookup};
use crate::infer::runtime::gpu;
use crate::infer::runtime::places;
use crate::infer::runtime::probe::locate;
use crate::infer::{Backend, CacheError, InferError, OpenvinoBackend, OrtBackend, OrtProvider, Session};
use crate::model::ModelSpec;
use crate::types::{BackendInfo, BackendKind, Division};

/// Sessions at most, however many cores there are: each has its own memory.
const MAX_WORKERS: usize = 4;

/// Loads the model with the backend that `config` asks for, runs it once, and reports what ran it.
///
/// A named backend either runs or is an error. `auto` tries TensorRT → CUDA → OpenVINO → ONNX Runtime on the CPU → tract and
/// reports why it fell back. The GPU backends are left out where there is no NVIDIA device, and OpenVINO where its library
/// is not or where it would compute in f32.
///
/// # Errors
/// The named backend's error; for `auto` the error of the last backend.
pub fn load(spec: &ModelSpec, config: &ModelConfig) -> Result<(Box<dyn Session>, BackendInfo), InferError> {
    load_first(&Factory::new(Arc::new(spec.clone()), config, Purpose::Short))
}

/// The backends that `choice` tries, in this order. `gpu`: the box has one of [`NVIDIA_DEVICES`](crate::infer::NVIDIA_DEVICES);
/// `openvino`: `auto` may take it, and its library is there.
pub fn fallback_order(choice: BackendChoice, gpu: bool, openvino: bool) -> &'static [BackendKind] {
    use BackendKind::{Cpu, Cuda, Openvino, Tensorrt, Tract};
    match choice {
        BackendChoice::Auto => match (gpu, openvino) {
            (true, true) => &[Tensorrt, Cuda, Openvino, Cpu, Tract],
            (true, false) => &[Tensorrt, Cuda, Cpu, Tract],
            (false, true) => &[Openvino, Cpu, Tract],
            (false, false) => &[Cpu, Tract],
        },
        BackendChoice::Openvino => &[Openvino],
        BackendChoice::Tensorrt => &[Tensorrt],
        BackendChoice::Cuda => &[Cuda],
        BackendChoice::Cpu => &[Cpu],
        BackendChoice::Tract => &[Tract],
    }
}

/// The real backends. The library is looked for and tried once for all backends.
pub(in crate::infer) struct Factory {
    spec: Arc<ModelSpec>,
    config: ModelConfig,
    kinds: &'static [BackendKind],
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
        let kinds = fallback_order(config.backend, gpu::present(), openvino::is_available(config));
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

impl Backends for Factory {
    fn order(&self) -> &[BackendKind] {
        self.kinds
    }

    fn load(&self, kind: BackendKind, reason: LoadReason) -> Result<Found, InferError> {
        if let Some(builder) = self.builder(kind)? {
            return Ok(Found::Build(builder));
        }
        let proven = match reason {
            LoadReason::Retry => self.prove(kind),
            LoadReason::Fallback => self.available_at_once(kind),
            LoadReason::Start | LoadReason::Built => Ok(()),
        };
        match proven.and_then(|()| self.run(kind)) {
            Ok(loaded) => {
                self.accepted(kind);
                Ok(Found::Session(self.choose_layout(loaded, reason == LoadReason::Fallback)))
            }
            Err(error) if error.is_bad_engine() && self.reject(kind, &error.sentence(kind)) => {
                // It is built once more.
                self.builder(kind)?.map(Found::Build).ok_or(error)
            }
            Err(error) => Err(error),
        }
    }

    fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    fn batch_wait(&self) -> Duration {
        self.config.batch_wait
    }

    fn most_sessions(&self) -> usize {
        self.kinds.iter().map(|kind| self.sessions(*kind)).max().unwrap_or(1)
    }
}

impl Factory {
    /// Loads the model on `kind` and runs it.
    pub(in crate::infer) fn run(&self, kind: BackendKind) -> Result<Loaded, InferError> {
        run_on(&self.spec, kind, || self.backend(kind))
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

    /// Sees in another process whether a backend works, where trying it could crash this one.
    pub(in crate::infer) fn prove(&self, kind: BackendKind) -> Result<(), InferError> {
        match kind {
            BackendKind::Tract => return Ok(()),
            _ => build::prove(&self.request(kind), &self.stopped)?,
        }
        if kind == BackendKind::Openvino {
            self.agreed.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// An error for a backend whose boxes must first be compared with the reference's.
    fn available_at_once(&self, kind: BackendKind) -> Result<(), InferError> {
        if self.is_compared(kind) {
            return Ok(());
        }
        let reason = "its boxes were not compared with the reference's yet, and cameras wait".to_owned();
        Err(InferError::Build { backend: kind, reason })
    }

    /// What builds the engine that a backend needs, when there is none yet.
    pub(in crate::infer) fn builder(&self, kind: BackendKind) -> Result<Option<Arc<dyn Builder>>, InferError> {
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

    /// Moves an engine that the runtime does not take out of the cache. False: there is none, or this program must not.
    fn reject(&self, kind: BackendKind, reason: &str) -> bool {
        if kind != BackendKind::Tensorrt || self.purpose == Purpose::Short {
            return false;
        }
        let Ok((cache, key)) = self.engine() else { return false };
        matches!(cache.lookup(&key), Ok(Lookup::Ready(_))) && cache.reject(&key, reason).is_ok()
    }

    /// The engine works: earlier rejections do not count any more.
    fn accepted(&self, kind: BackendKind) {
        if kind == BackendKind::Tensorrt
            && let Ok((cache, key)) = self.engine()
            && cache.record(&key).rejected > 0
            && let Err(error) = cache.forgive(&key)
        {
            tracing::warn!("{error}");
        }
    }

    /// Chooses sessions × threads, by a short measurement where that is worth it and no frames wait. What was loaded may
    /// become another session of the same backend.
    fn choose_layout(&self, mut loaded: Loaded, frames_wait: bool) -> Loaded {
        let (kind, sessions) = (loaded.kind, self.sessions(loaded.kind));
        let threads = if kind == BackendKind::Tract { 1 } else { self.threads() };
        let usual = Division { sessions, threads, per_frame: None };
        let measured = match kind {
            BackendKind::Cpu | BackendKind::Openvino
                if self.purpose == Purpose::Service && sessions > 1 && !frames_wait =>
            {
                layout::try_both(&self.spec, &mut loaded, sessions, || self.one_session(kind, sessions))
            }
            _ => Ok(None),
        };
        match measured {
            Ok(Some((divisions, together))) => {
                let texts: Vec<String> = divisions.iter().map(Division::to_string).collect();
                tracing::info!("{kind}: {}", texts.join(" rather than "));
                let one = divisions.first().is_some_and(|best| best.sessions == 1);
                let session = if one { together } else { loaded.session };
                Loaded { session, divisions, ..loaded }
            }
            Ok(None) => Loaded { divisions: vec![usual], ..loaded },
            Err(error) => {
                tracing::warn!("session layouts could not be measured: {error}");
                Loaded { divisions: vec![usual], ..loaded }
            }
        }
    }

    /// Sessions side by side at most.
    fn sessions(&self, kind: BackendKind) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        match (kind, self.config.threads) {
            // A session of tract is one thread: its threads are sessions.
            (BackendKind::Tract, threads) => threads.unwrap_or_else(cores).clamp(1, MAX_WORKERS),
            (_, None) if !on_gpu(kind) => cores().clamp(1, MAX_WORKERS),
            _ => 1,
        }
    }

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::backend::fake::spec;
    use BackendKind::{Cpu, Cuda, Openvino, Tensorrt, Tract};

    #[test]
    fn the_fallback_order_has_what_the_box_has() {
        assert_eq!(fallback_order(BackendChoice::Auto, false, false), [Cpu, Tract]);
        assert_eq!(fallback_order(BackendChoice::Cuda, false, false), [Cuda]);
        assert_eq!(fallback_order(BackendChoice::Auto, false, true), [Openvino, Cpu, Tract]);
        assert_eq!(fallback_order(BackendChoice::Auto, true, true), [Tensorrt, Cuda, Openvino, Cpu, Tract]);
        assert_eq!(fallback_order(BackendChoice::Cpu, false, true), [Cpu]);
        assert_eq!(fallback_order(BackendChoice::Openvino, false, false), [Openvino]);
    }

    #[test]
    fn configured_threads_are_sessions_of_tract_and_one_session_of_onnx_runtime() {
        let factory = |threads| {
            let config = ModelConfig { threads, ..ModelConfig::default() };
            Factory::new(Arc::new(spec()), &config, Purpose::Service)
        };
        assert_eq!(factory(Some(3)).sessions(Tract), 3);
        assert_eq!(factory(Some(200)).sessions(Tract), 4);
        assert_eq!(factory(Some(3)).sessions(Cpu), 1);
        assert_eq!(factory(Some(3)).sessions(Tensorrt), 1);
        assert_eq!(factory(None).sessions(Tract), factory(None).sessions(Cpu));
        assert_eq!(factory(None).sessions(Cuda), 1);
    }
}
