//! Engines ahead of time: what `ocelli models build` and the child of a build do.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use crate::config::{BackendChoice, ModelConfig};
use crate::infer::backend::factory::{Factory, Purpose};
use crate::infer::backend::load::{Loaded, run_on};
use crate::infer::cache::build::{BuildEvent, BuildRequest};
use crate::infer::cache::{EngineKey, Lookup, digest};
use crate::infer::runtime::gpu;
use crate::infer::{InferError, OrtProvider, Session};
use crate::model::ModelSpec;
use crate::types::{BackendInfo, BackendKind};

/// Everything that the engine of `spec` depends on.
pub(in crate::infer) fn engine_key(
    spec: &ModelSpec,
    config: &ModelConfig,
    library: &Path,
    version: String,
) -> Result<EngineKey, InferError> {
    let options = &config.tensorrt;
    let calibration = options.calibration.as_deref().map(|path| {
        digest(path).map(|(_, sha256)| sha256).map_err(|error| InferError::Build {
            backend: BackendKind::Tensorrt,
            reason: format!("the calibration table {} cannot be read ({error})", path.display()),
        })
    });
    let precision = match (options.int8, options.fp16) {
        (true, true) => "int8+fp16",
        (true, false) => "int8",
        (false, true) => "fp16",
        (false, false) => "fp32",
    };
    // Where the table is does not matter, what is in it does.
    let rest = crate::config::TensorrtConfig { calibration: None, ..options.clone() };
    Ok(EngineKey {
        model: spec.id.sha256.clone(),
        precision: precision.into(),
        shape: spec.input.shape(spec.input.batch.size).map(|n| n.to_string()).join("x"),
        options: format!("{} device {}", serde_json::to_string(&rest).unwrap_or_default(), config.device),
        calibration: calibration.transpose()?,
        runtime: version,
        libraries: gpu::libraries(library),
        gpu: gpu::name(),
    })
}

/// What came of [`build_engine`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Built {
    /// The engine is in this folder now.
    New(PathBuf),
    /// It was there already.
    Before(PathBuf),
    /// This backend needs none.
    Nothing,
}

/// Has the engine of `backend` built in a child process, whatever earlier builds came to; `phase` hears what the builder
/// does.
///
/// # Errors
/// Those of the runtime's library and of the cache, and [`InferError::Build`].
pub fn build_engine(
    spec: Arc<ModelSpec>,
    config: &ModelConfig,
    backend: BackendKind,
    phase: &dyn Fn(&str),
) -> Result<Built, InferError> {
    let factory = Factory::new(spec, &ModelConfig { backend: choice(backend), ..config.clone() }, Purpose::Build);
    if backend != BackendKind::Tensorrt {
        factory.prove(backend)?;
        return Ok(Built::Nothing);
    }
    let (cache, key) = factory.engine()?;
    cache.forgive(&key)?;
    let Some(builder) = factory.builder(backend)? else { return Ok(Built::Before(factory.cached()?)) };
    builder.build(phase, &AtomicBool::new(false))?;
    Ok(Built::New(factory.cached()?))
}

/// Says why a session is not fit to serve.
pub type Proof<'a> = dyn Fn(Box<dyn Session>, BackendInfo) -> Result<(), String> + 'a;

/// Builds, or proves, in *this* process: what the child does. It may die of it, so never call this in a process that must
/// live.
///
/// # Errors
/// Those of the runtime and of the cache, and the reason for which `prove` refuses what was built.
pub fn build_here(
    spec: Arc<ModelSpec>,
    request: &BuildRequest,
    say: &dyn Fn(BuildEvent),
    prove: &Proof<'_>,
) -> Result<(), InferError> {
    let started = Instant::now();
    let begin =
        |phase: &str| say(BuildEvent::Phase { phase: phase.into(), elapsed_s: started.elapsed().as_secs_f64() });
    let config = ModelConfig { backend: choice(request.backend), ..request.config.clone() };
    let factory = Factory::new(spec.clone(), &config, Purpose::Build);
    let proven = |Loaded { session, kind, version, nodes, .. }| {
        begin("comparing its boxes with the reference's");
        prove(session, BackendInfo { kind, version, fallbacks: Vec::new(), nodes })
            .map_err(|reason| InferError::Provider { backend: request.backend, reason })
    };
    begin("opening the runtime");
    if request.backend != BackendKind::Tensorrt {
        if request.backend != BackendKind::Openvino {
            factory.library()?;
        }
        begin("loading the model and running it");
        let loaded = factory.run(request.backend)?;
        return if request.backend == BackendKind::Openvino { proven(loaded) } else { Ok(()) };
    }
    let (cache, key) = factory.engine()?;
    if let Lookup::Ready(_) = cache.lookup(&key)? {
        // Somebody wants to know whether it works, or another process was faster.
        begin("loading the engine and running it");
        factory.run(request.backend)?;
        return Ok(());
    }
    let folder = cache.begin(&key)?;
    begin("building the engine");
    let built =
        run_on(&spec, request.backend, || Ok(Box::new(factory.ort(OrtProvider::Tensorrt, Some(folder.clone()))?)));
    let stored = built.and_then(|loaded| {
        // The proof drops the session: whatever the provider writes at its end is a part of the engine.
        proven(loaded)?;
        begin("storing the engine");
        let empty = std::fs::read_dir(&folder).is_ok_and(|mut entries| entries.next().is_none());
        if empty {
            let reason = "the provider wrote no engine".to_owned();
            return Err(InferError::Provider { backend: request.backend, reason });
        }
        Ok(cache.commit(&key, &folder, started.elapsed())?)
    });
    if stored.is_err() {
        let _ = std::fs::remove_dir_all(&folder);
    }
    stored.map(|_| ())
}

fn choice(kind: BackendKind) -> BackendChoice {
    match kind {
        BackendKind::Tensorrt => BackendChoice::Tensorrt,
        BackendKind::Cuda => BackendChoice::Cuda,
        BackendKind::Openvino => BackendChoice::Openvino,
        BackendKind::Cpu => BackendChoice::Cpu,
        BackendKind::Tract => BackendChoice::Tract,
    }
}
