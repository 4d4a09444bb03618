//! Loading a model on the real backends: which library, which engine from the cache, how many sessions.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::config::ModelConfig;
use crate::infer::backend::build_child::{self, BuildRequest, Builder, ChildBuilder};
use crate::infer::backend::descriptor::{Machine, Sessions, Setup};
use crate::infer::backend::load::{Backends, Found, LoadReason, Loaded, load_first, run_on};
use crate::infer::backend::onnxruntime::engine_key;
use crate::infer::backend::table::{backend, fallback_order};
use crate::infer::backend::{layout, openvino};
use crate::infer::cache::{EngineCache, EngineKey};
use crate::infer::runtime::probe::locate;
use crate::infer::runtime::{gpu, places};
use crate::infer::{Backend, CacheError, InferError, Session};
use crate::model::ModelSpec;
use crate::types::{BackendInfo, BackendKind, SessionLayout};

/// Sessions at most, however many cores there are: each has its own memory.
const MAX_SESSIONS: usize = 4;

/// Loads the model with the backend that `config` asks for, runs it once, and reports what ran it.
///
/// A named backend either runs or is an error. `auto` tries the backends of the fallback order that this machine may have,
/// and reports why it fell back; if none works, the error is that of the last one.
pub fn load(spec: &ModelSpec, config: &ModelConfig) -> Result<(Box<dyn Session>, BackendInfo), InferError> {
    load_first(&Factory::new(Arc::new(spec.clone()), config, Purpose::Short))
}

/// The path and the version of a library.
type Library = (PathBuf, String);

/// The real backends of one model. Each library is searched and probed once.
pub(in crate::infer) struct Factory {
    spec: Arc<ModelSpec>,
    config: ModelConfig,
    order: Vec<BackendKind>,
    purpose: Purpose,
    /// By the runtime's name.
    libraries: Mutex<Vec<(&'static str, Result<Library, InferError>)>>,
    /// A backend whose boxes may differ from the reference's has been compared with it.
    compared: AtomicBool,
    stopped: AtomicBool,
}

/// What a model is loaded for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::infer) enum Purpose {
    /// A few frames: nothing is built or measured.
    Short,
    /// A few frames, but a missing engine is built.
    Build,
    /// A service that runs for days.
    Service,
}

impl Factory {
    pub(in crate::infer) fn new(spec: Arc<ModelSpec>, config: &ModelConfig, purpose: Purpose) -> Self {
        let machine = Machine { gpu: gpu::present(), openvino: openvino::is_available(config) };
        Self {
            spec,
            config: config.clone(),
            order: fallback_order(config.backend, machine),
            purpose,
            libraries: Mutex::default(),
            compared: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
        }
    }

    /// For building with one backend.
    pub(in crate::infer) fn named(spec: Arc<ModelSpec>, config: &ModelConfig, kind: BackendKind) -> Self {
        Self::new(spec, &ModelConfig { backend: backend(kind).choice, ..config.clone() }, Purpose::Build)
    }

    /// The library that a backend needs; `None`: it is built in.
    pub(in crate::infer) fn library(&self, kind: BackendKind) -> Result<Option<Library>, InferError> {
        let Some(runtime) = backend(kind).runtime else { return Ok(None) };
        let mut libraries = self.libraries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, found)) = libraries.iter().find(|(name, _)| *name == runtime.name) {
            return found.clone().map(Some);
        }
        let found = locate(runtime, (backend(kind).named_library)(&self.config));
        libraries.push((runtime.name, found.clone()));
        found.map(Some)
    }

    /// Makes a backend. `threads` work on one inference, `model.threads` by default.
    pub(in crate::infer) fn make(
        &self,
        kind: BackendKind,
        engine: Option<PathBuf>,
        threads: Option<usize>,
    ) -> Result<Box<dyn Backend>, InferError> {
        let threads = threads.unwrap_or_else(|| self.threads());
        (backend(kind).make)(kind, Setup { config: &self.config, library: self.library(kind)?, threads, engine })
    }

    /// One thread by default: several sessions on several frames are mostly faster than one session on several threads.
    fn threads(&self) -> usize {
        self.config.threads.unwrap_or(1)
    }

    /// Loads the model on `kind` and runs it.
    pub(in crate::infer) fn run(&self, kind: BackendKind) -> Result<Loaded, InferError> {
        run_on(&self.spec, kind, || {
            let engine = if backend(kind).needs_engine { Some(self.cached(kind)?) } else { None };
            if let Some((library, _)) = self.library(kind)? {
                (backend(kind).probe_parts)(kind, &library)?;
            }
            if !self.is_compared(kind) {
                self.prove(kind)?;
            }
            self.make(kind, engine, None)
        })
    }

    /// Whether nothing must be compared with the reference before this backend serves.
    fn is_compared(&self, kind: BackendKind) -> bool {
        let may_differ = backend(kind).moves_boxes.is_some_and(|moves| moves(&self.config));
        let wanted = may_differ && self.config.min_agreement > 0.0 && self.spec.golden().is_dir();
        !wanted || self.purpose != Purpose::Service || self.compared.load(Ordering::Relaxed)
    }

    /// Tries in a child process whether a backend works, if trying it could crash this one.
    pub(in crate::infer) fn prove(&self, kind: BackendKind) -> Result<(), InferError> {
        let descriptor = backend(kind);
        if descriptor.runtime.is_none() {
            return Ok(());
        }
        build_child::prove(&self.request(kind), &self.stopped)?;
        if descriptor.moves_boxes.is_some() {
            self.compared.store(true, Ordering::Relaxed);
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

    fn request(&self, kind: BackendKind) -> BuildRequest {
        // The child must load the very file that this process has checked.
        let (file, sha256) = (Some(self.spec.path.clone()), Some(self.spec.id.sha256.clone()));
        BuildRequest { backend: kind, config: ModelConfig { file, sha256, ..self.config.clone() } }
    }
}

/// Engines that must be built.
impl Factory {
    /// The cache, and the key of this model's engine in it.
    pub(in crate::infer) fn engine(&self, kind: BackendKind) -> Result<(EngineCache, EngineKey), InferError> {
        let (path, version) = self.library(kind)?.ok_or(InferError::NoEngine { backend: kind })?;
        let key = engine_key(&self.spec, &self.config, &path, version)?;
        let usual = || Some(places::cache_folder()?.join("engines"));
        let folder = self.config.cache.clone().or_else(usual).ok_or(CacheError::NoFolder)?;
        Ok((EngineCache::open(&folder, self.config.cache_mb.saturating_mul(1_000_000))?, key))
    }

    /// The folder of the engine, if it is built.
    pub(in crate::infer) fn cached(&self, kind: BackendKind) -> Result<PathBuf, InferError> {
        let (cache, key) = self.engine(kind)?;
        cache.lookup(&key)?.ok_or(InferError::NoEngine { backend: kind })
    }

    /// What builds the engine that a backend needs, if it is not built yet.
    pub(in crate::infer) fn builder(&self, kind: BackendKind) -> Result<Option<Arc<dyn Builder>>, InferError> {
        if !backend(kind).needs_engine {
            return Ok(None);
        }
        let (cache, key) = self.engine(kind)?;
        if cache.lookup(&key)?.is_some() {
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

    /// Moves an engine that the runtime rejects out of the cache. False: there is none, or this program must not change it.
    fn reject(&self, kind: BackendKind, reason: &str) -> bool {
        if !backend(kind).needs_engine || self.purpose == Purpose::Short {
            return false;
        }
        let Ok((cache, key)) = self.engine(kind) else { return false };
        matches!(cache.lookup(&key), Ok(Some(_))) && cache.reject(&key, reason).is_ok()
    }

    /// The engine works: earlier rejections do not count any more.
    fn accepted(&self, kind: BackendKind) {
        if backend(kind).needs_engine
            && let Ok((cache, key)) = self.engine(kind)
            && cache.record(&key).rejected > 0
            && let Err(error) = cache.reset(&key)
        {
            tracing::warn!("{error}");
        }
    }
}

/// The session layout.
impl Factory {
    /// Sessions side by side at most.
    fn sessions(&self, kind: BackendKind) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        match (backend(kind).sessions, self.config.threads) {
            (Sessions::OneThreadEach, threads) => threads.unwrap_or_else(cores).clamp(1, MAX_SESSIONS),
            (Sessions::Measured, None) => cores().clamp(1, MAX_SESSIONS),
            _ => 1,
        }
    }

    /// Chooses sessions × threads, by a short measurement if that is worth it and no frames wait. The session may be
    /// replaced by another one of the same backend.
    fn choose_layout(&self, mut loaded: Loaded, frames_wait: bool) -> Loaded {
        let (kind, sessions) = (loaded.kind, self.sessions(loaded.kind));
        let kinds = backend(kind).sessions;
        let threads = if kinds == Sessions::OneThreadEach { 1 } else { self.threads() };
        loaded.layouts = vec![SessionLayout { sessions, threads, per_frame: None }];
        let service = self.purpose == Purpose::Service;
        if kinds != Sessions::Measured || !service || sessions == 1 || frames_wait {
            return loaded;
        }
        let one = || self.make(kind, None, Some(sessions))?.load(&self.spec);
        if let Err(error) = layout::try_both(&self.spec, &mut loaded, sessions, one) {
            tracing::warn!("session layouts could not be measured: {error}");
        }
        loaded
    }
}

impl Backends for Factory {
    fn order(&self) -> &[BackendKind] {
        &self.order
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
        self.order.iter().map(|kind| self.sessions(*kind)).max().unwrap_or(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::backend::fake::spec;
    use BackendKind::{Cpu, Cuda, Tensorrt, Tract};

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
