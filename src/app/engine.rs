//! The engine of the running configuration. During a reload there are two, and only one of them is to be heard.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::AppError;
use crate::config::Config;
use crate::infer::{Engine, ServiceOptions};
use crate::model::ModelSpec;
use crate::telemetry::Registry;
use crate::types::{EngineStatus, ModelId};

/// What an engine says of itself goes to the registry only while it is the one that serves.
struct Voice {
    registry: Registry,
    model: Arc<ModelId>,
    heard: Mutex<Heard>,
}

#[derive(Default)]
struct Heard {
    newest: EngineStatus,
    serves: bool,
}

impl Voice {
    fn lock(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // The registry is told under the lock, so that an old status never overtakes a newer one.
    fn hear(&self, status: &EngineStatus) {
        let mut heard = self.lock();
        heard.newest.clone_from(status);
        if heard.serves {
            self.registry.engine_status(&self.model, status);
        }
    }

    fn serve(&self, serves: bool) {
        let mut heard = self.lock();
        heard.serves = serves;
        if serves {
            self.registry.engine_status(&self.model, &heard.newest);
        }
    }
}

/// An engine and its voice.
pub(super) struct ServingEngine {
    engine: Engine,
    voice: Arc<Voice>,
}

impl ServingEngine {
    /// Loads the model and runs it once. `at_once`: it is heard from the first moment; else from [`Self::take_over`] on.
    pub(super) fn start(
        spec: Arc<ModelSpec>,
        config: &Config,
        registry: &Registry,
        at_once: bool,
    ) -> Result<Self, AppError> {
        let heard = Mutex::new(Heard { serves: at_once, ..Heard::default() });
        let voice = Arc::new(Voice { registry: registry.clone(), model: spec.id.clone(), heard });
        let observer = voice.clone();
        let options = ServiceOptions {
            observer: Some(Arc::new(move |status: &EngineStatus| observer.hear(status))),
            state_folder: state_folder(config),
        };
        let engine = Engine::serve(spec, &config.model, options)?;
        let info = engine.info();
        // The ladder has warned of each rung that it passed over.
        tracing::info!(
            model = engine.spec().id.name, backend = %info.kind, version = info.version, workers = engine.workers(),
            input = %engine.spec().input.size, "model ready"
        );
        Ok(Self { engine, voice })
    }

    /// This one serves in place of `previous`.
    pub(super) fn take_over(&self, previous: &Self) {
        previous.voice.serve(false);
        self.voice.serve(true);
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.engine
    }
}

/// Where starts are recorded; nowhere when the folder cannot be used, which health tells already.
fn state_folder(config: &Config) -> Option<PathBuf> {
    config.state_dir.clone().filter(|folder| folder.is_dir())
}
