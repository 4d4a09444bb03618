//! Building engines ahead of time: what `ocelli models build` and its child process do.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use crate::config::ModelConfig;
use crate::infer::backend::build_child::{BuildEvent, BuildRequest};
use crate::infer::backend::factory::Factory;
use crate::infer::backend::load::{Loaded, run_on};
use crate::infer::backend::table::backend;
use crate::infer::{InferError, Session};
use crate::model::ModelSpec;
use crate::types::{BackendInfo, BackendKind};

/// The result of [`build_engine`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Built {
    /// The engine was built and is in this folder.
    New(PathBuf),
    /// The engine was built earlier.
    Before(PathBuf),
    /// This backend needs no engine.
    Nothing,
}

/// Builds the engine of `kind` in a child process, however often earlier builds failed. `phase` is called with each phase.
pub fn build_engine(
    spec: Arc<ModelSpec>,
    config: &ModelConfig,
    kind: BackendKind,
    phase: &dyn Fn(&str),
) -> Result<Built, InferError> {
    let factory = Factory::named(spec, config, kind);
    if !backend(kind).needs_engine {
        factory.prove(kind)?;
        return Ok(Built::Nothing);
    }
    let (cache, key) = factory.engine(kind)?;
    cache.reset(&key)?;
    let Some(builder) = factory.builder(kind)? else { return Ok(Built::Before(factory.cached(kind)?)) };
    builder.build(phase, &AtomicBool::new(false))?;
    Ok(Built::New(factory.cached(kind)?))
}

/// Returns why a session is not fit to serve.
pub type Proof<'a> = dyn Fn(Box<dyn Session>, BackendInfo) -> Result<(), String> + 'a;

/// Builds an engine, or tries a backend that needs none, in this process: what the child does. It may crash the process.
pub fn build_here(
    spec: Arc<ModelSpec>,
    request: &BuildRequest,
    report: &dyn Fn(BuildEvent),
    prove: &Proof<'_>,
) -> Result<(), InferError> {
    let (started, kind) = (Instant::now(), request.backend);
    let begin =
        |phase: &str| report(BuildEvent::Phase { phase: phase.into(), elapsed_s: started.elapsed().as_secs_f64() });
    let factory = Factory::named(spec.clone(), &request.config, kind);
    let failed = |reason| InferError::Provider { backend: kind, reason };
    let proven = |Loaded { session, version, nodes, .. }| {
        begin("comparing its boxes with the reference's");
        prove(session, BackendInfo { kind, version, fallbacks: Vec::new(), nodes }).map_err(failed)
    };
    begin("opening the runtime");
    factory.library(kind)?;
    if !backend(kind).needs_engine {
        begin("loading the model and running it");
        let loaded = factory.run(kind)?;
        return if backend(kind).moves_boxes.is_some() { proven(loaded) } else { Ok(()) };
    }
    let (cache, key) = factory.engine(kind)?;
    if cache.lookup(&key)?.is_some() {
        // It was built meanwhile, for example by another process. Check that it works.
        begin("loading the engine and running it");
        factory.run(kind)?;
        return Ok(());
    }
    let folder = cache.begin(&key)?;
    begin("building the engine");
    let built = run_on(&spec, kind, || factory.make(kind, Some(folder.clone()), None));
    let stored = built.and_then(|loaded| {
        // The proof drops the session. What the provider writes at its end is a part of the engine.
        proven(loaded)?;
        begin("storing the engine");
        if std::fs::read_dir(&folder).is_ok_and(|mut entries| entries.next().is_none()) {
            return Err(failed("the provider wrote no engine".into()));
        }
        Ok(cache.commit(&key, &folder, started.elapsed())?)
    });
    if stored.is_err() {
        let _ = std::fs::remove_dir_all(&folder);
    }
    stored.map(|_| ())
}
