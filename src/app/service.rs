//! `ocelli run` without its command line: what is started, in which order, and how it is stopped.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Arc;
use std::time::Instant;

use super::camera::{self, RunningCamera};
use super::engines::{self, open_model};
use super::error::AppError;
use super::lock::{Locked, lock};
use super::outputs::CameraOutputs;
use super::signals::Signals;
use super::sinks::{FLUSH, Sinks};
use super::stop::{STOP_WITHIN, stop_all};
use super::watchdog::{Event, Watchdog};
use crate::config::{CameraConfig, Config};
use crate::ffi::glibc;
use crate::infer::Engine;
use crate::model::ModelSpec;
use crate::telemetry::Registry;
use crate::types::CameraName;

/// Name of the fault of an unusable state folder.
const STATE_FAULT: &str = "state_dir";

/// The running service.
pub struct Service {
    pub(super) config: Config,
    pub(super) registry: Registry,
    pub(super) sinks: Sinks,
    pub(super) cameras: BTreeMap<CameraName, RunningCamera>,
    /// By the model's name in the configuration.
    pub(super) engines: BTreeMap<String, Engine>,
    pub(super) watchdog: Watchdog,
    pub(super) signals: Signals,
    /// The lock on the state folder.
    _state: Option<File>,
}

impl Service {
    /// Starts everything: sinks first, so that health is visible and viewers are answered while the models load; then
    /// sources, so that cameras connect meanwhile; the engines; at last the cameras' threads.
    ///
    /// # Errors
    /// What was started is stopped again. [`AppError::Cancelled`] after a signal to stop.
    pub fn start(config: Config, signals: Signals) -> Result<Self, AppError> {
        let registry = Registry::new(&config.node);
        let state = lock_state(&config, &registry)?;
        let mut specs = BTreeMap::new();
        for (name, model) in config.used_models() {
            specs.insert(name.to_owned(), Arc::new(open_model(model)?));
        }
        registry.use_models(&specs.keys().cloned().collect::<Vec<_>>());
        let watchdog = Watchdog::start(registry.clone())?;
        let sinks = Sinks::start(&config, &registry)?;
        let mut service = Self {
            config,
            registry,
            sinks,
            cameras: BTreeMap::new(),
            engines: BTreeMap::new(),
            watchdog,
            signals,
            _state: state,
        };
        match service.bring_up(specs) {
            Ok(()) => Ok(service),
            Err(error) => {
                // Before `stop`, which cancels the token as well.
                let error = if service.signals.cancel().is_cancelled() { AppError::Cancelled } else { error };
                service.stop();
                Err(error)
            }
        }
    }

    fn bring_up(&mut self, specs: BTreeMap<String, Arc<ModelSpec>>) -> Result<(), AppError> {
        let cancel = self.signals.cancel().clone();
        for camera in &self.config.cameras {
            self.cameras.insert(camera.name.clone(), self.open_camera(camera)?);
        }
        let begun = Instant::now();
        let models = self.config.used_models();
        for (name, spec) in specs {
            let model = models.get(&*name).ok_or(AppError::NoModel)?;
            let engine = engines::start(&name, spec, model, &self.config, &cancel)?;
            engines::observe(&name, &engine, &self.registry);
            self.engines.insert(name, engine);
        }
        let loaded = begun.elapsed();
        glibc::trim_heap();
        for camera in self.cameras.values_mut().filter(|camera| camera.config.enabled) {
            let engine = self.engines.get(&camera.config.detect.model).ok_or(AppError::NoModel)?;
            camera.detect_with(RunningCamera::detector(&camera.config, engine)?)?;
        }
        self.watchdog.notify(Event::Started { loaded });
        Ok(())
    }

    /// Connects a camera, with the sinks that are in place now.
    pub(super) fn open_camera(&self, camera: &CameraConfig) -> Result<RunningCamera, AppError> {
        let outputs = Arc::new(CameraOutputs::new(self.registry.camera(&camera.name), self.sinks.shared.clone()));
        outputs.set_view(self.sinks.view(&camera.name));
        RunningCamera::open(camera, outputs, &self.registry, self.signals.cancel())
    }

    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Stops everything within [`STOP_WITHIN`] of the request to stop: cameras, then sinks, so that the MQTT goodbye leaves
    /// even when an engine hangs, then engines; the parts of each kind side by side. A part that hangs is left behind.
    pub fn stop(self) {
        let cancel = self.signals.cancel().clone();
        cancel.cancel(STOP_WITHIN);
        self.watchdog.notify(Event::Stopping);
        // Cameras and sinks get a part of the time each, the engines the rest.
        stop_all(&cancel, camera::STOP, self.cameras.into_values().map(RunningCamera::stop).collect());
        stop_all(&cancel, FLUSH, self.sinks.stop(&cancel));
        stop_all(&cancel, STOP_WITHIN, self.engines.into_iter().map(engines::stop).collect());
    }
}

/// The lock on the state folder; `None` without a folder, or when it cannot be written, which health shows.
fn lock_state(config: &Config, registry: &Registry) -> Result<Option<File>, AppError> {
    let Some(folder) = &config.state_dir else { return Ok(None) };
    match lock(folder)? {
        Locked::Held(file) => Ok(Some(file)),
        Locked::Unwritable(why) => {
            tracing::warn!("{why}; continuing without it");
            registry.fault(STATE_FAULT, Some(why));
            Ok(None)
        }
    }
}
