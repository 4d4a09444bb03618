//! The engines of the service: one per model that an enabled camera uses.

use std::sync::Arc;

use super::error::AppError;
use super::stop::Step;
use crate::cancel::Cancel;
use crate::config::{Config, ModelConfig};
use crate::infer::Engine;
use crate::model::ModelSpec;
use crate::telemetry::Registry;

/// Opens the configured model, else the shipped one, and compares it with the configured checksum.
pub fn open_model(config: &ModelConfig) -> Result<ModelSpec, AppError> {
    let path = config.file.clone().or_else(crate::model::default_model).ok_or(AppError::NoModel)?;
    Ok(ModelSpec::open(&path, config.input_size)?.held_to(config.batch, config.sha256.as_deref())?)
}

/// Loads the model and runs it once, or begins to build its GPU engine. Starts are recorded in the state folder, so that a
/// backend which keeps crashing the process is left out. The registry does not see this engine yet; see [`observe`].
pub(super) fn start(
    name: &str,
    spec: Arc<ModelSpec>,
    model: &ModelConfig,
    config: &Config,
    cancel: &Cancel,
) -> Result<Engine, AppError> {
    let folder = config.starts_folder(name);
    if let Some(folder) = &folder
        && let Err(error) = std::fs::create_dir_all(folder)
    {
        // A state folder that cannot be written was reported at the start.
        tracing::debug!("cannot create {}: {error}", folder.display());
    }
    let engine = Engine::serve(spec, model, folder.as_deref(), cancel)?;
    // The engine itself logs each backend that it skips, and that it builds.
    if let Some(info) = engine.status().backend {
        tracing::info!(
            model = engine.spec().id.name, backend = %info.kind, version = info.version, workers = engine.workers(),
            input = %engine.spec().input.size, "model ready"
        );
    }
    Ok(engine)
}

/// From now on the registry shows the state of this engine.
pub(super) fn observe(name: &str, engine: &Engine, registry: &Registry) {
    let (name, registry, model) = (name.to_owned(), registry.clone(), engine.spec().id.clone());
    engine.observe(Some(Arc::new(move |status| registry.engine_status(&name, &model, status))));
}

/// Ends the engine, which may wait for a running inference.
pub(super) fn stop((name, engine): (String, Engine)) -> Step {
    (format!("the engine of model {name}"), Box::new(move || drop(engine)))
}
