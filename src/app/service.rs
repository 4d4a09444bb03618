//! `ocelli run` without its command line.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::camera::RunningCamera;
use super::error::AppError;
use super::lock::{Locked, StateLock};
use super::outlets::Outlets;
use super::reload::Reader;
use super::sinks::Sinks;
use super::vitals::{Phase, Vitals};
use super::{Signal, Signals};
use crate::config::{Config, ModelConfig};
use crate::ffi::glibc;
use crate::infer::Engine;
use crate::model::ModelSpec;
use crate::queue::{self, Receiver, RecvError};
use crate::telemetry::Registry;
use crate::types::CameraName;

/// Name of the fault that an unusable state folder is.
const STATE_FAULT: &str = "state_dir";

/// Why [`Service::wait`] returned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// A signal.
    Signal,
    /// Every camera is a file and has come to its end.
    AllEnded,
    /// Only a new process can infer again, because of this: its GPU is lost to this one.
    EngineLost(String),
}

/// The running service.
pub struct Service {
    pub(super) config: Config,
    pub(super) registry: Registry,
    pub(super) sinks: Sinks,
    pub(super) cameras: BTreeMap<CameraName, RunningCamera>,
    /// By the model's name in the configuration.
    pub(super) engines: BTreeMap<String, Engine>,
    vitals: Vitals,
    asked: Receiver<Signal>,
    signals: Signals,
    _state: Option<StateLock>,
}

impl Service {
    /// Starts everything: sinks first, so that health is visible and viewers are answered while the model loads; then
    /// sources, so that cameras connect meanwhile; the engine; at last the threads that bring them together.
    pub fn start(config: Config) -> Result<Self, AppError> {
        let registry = Registry::new(&config.node);
        let state = lock_state(&config, &registry)?;
        let mut specs = BTreeMap::new();
        for (name, model) in config.used_models() {
            specs.insert(name.to_owned(), (Arc::new(open_model(model)?), model));
        }
        registry.use_models(&specs.keys().cloned().collect::<Vec<_>>());
        let (signal_tx, asked) = queue::latest("signals");
        let signals = Signals::start(signal_tx)?;
        let vitals = Vitals::start(registry.clone())?;
        let sinks = Sinks::start(&config, &registry)?;
        let mut cameras = BTreeMap::new();
        for camera in &config.cameras {
            let outlets = Arc::new(Outlets::new(registry.clone(), sinks.shared().clone()));
            outlets.set_view(sinks.view(&camera.name));
            cameras.insert(camera.name.clone(), RunningCamera::open(camera, outlets, &registry)?);
        }
        let begun = Instant::now();
        let mut engines = BTreeMap::new();
        for (name, (spec, model)) in specs {
            let engine = start_engine(&name, spec, model, &config)?;
            show_engine(&name, &engine, &registry);
            engines.insert(name, engine);
        }
        let loaded = begun.elapsed();
        glibc::trim_heap();
        for camera in cameras.values_mut().filter(|camera| camera.config().enabled) {
            let engine = engines.get(&camera.config().detect.model).ok_or(AppError::NoModel)?;
            camera.detect_with(RunningCamera::detector(camera.config(), engine)?)?;
        }
        vitals.enter(Phase::Running { loaded });
        Ok(Self { config, registry, sinks, cameras, engines, vitals, asked, signals, _state: state })
    }

    /// The counters.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Waits for a signal or for the end of all files. Meanwhile it logs one line of numbers per interval, and takes over
    /// what `read` gives at each SIGHUP.
    pub fn wait(&mut self, read: &Reader) -> Stop {
        let mut next = Instant::now() + self.config.stats_interval;
        loop {
            if let Some(reason) = self.engines.values().find_map(Engine::fatal) {
                return Stop::EngineLost(reason);
            }
            let mut enabled = self.cameras.values().filter(|camera| camera.config().enabled).peekable();
            if enabled.peek().is_some() && enabled.all(RunningCamera::is_finished) {
                return Stop::AllEnded;
            }
            let left = next.saturating_duration_since(Instant::now()).min(Duration::from_millis(500));
            match self.asked.recv_timeout(left) {
                Ok(Signal::Reload) => {
                    self.vitals.reloading(true);
                    self.reload(read);
                    self.vitals.reloading(false);
                    next = Instant::now() + self.config.stats_interval;
                }
                Ok(Signal::Terminate) | Err(RecvError::Closed) => return Stop::Signal,
                Err(RecvError::Timeout | RecvError::Woken) => {}
            }
            if Instant::now() >= next {
                next += self.config.stats_interval;
                self.log_stats();
            }
        }
    }

    fn log_stats(&self) {
        let stats = self.registry.snapshot();
        let backend_of = |name: &str| {
            let (_, camera) = self.cameras.iter().find(|(camera, _)| &***camera == name)?;
            Some(stats.models.get(&camera.config().detect.model)?.model.as_ref()?.backend.as_str())
        };
        for (name, camera) in &stats.cameras {
            let backend = backend_of(name).unwrap_or("none");
            tracing::info!(
                camera = name,
                state = camera.state.as_str(),
                backend,
                fps = camera.fps,
                detect_fps = camera.detect_fps,
                infer_ms = camera.infer_ms_p50,
                latency_ms = camera.latency_ms_p50,
                latency_ms_p99 = camera.latency_ms_p99,
                dropped = camera.frames_dropped,
            );
        }
    }

    /// Stops everything, in the direction of the frames: sources, cameras, engine, sinks.
    pub fn stop(mut self) {
        self.vitals.enter(Phase::Stopping);
        self.cameras.values_mut().for_each(RunningCamera::stop_source);
        self.cameras.into_values().for_each(RunningCamera::stop);
        drop(self.engines);
        self.sinks.stop();
        self.vitals.stop();
        self.signals.stop();
    }
}

/// The lock on the state folder; none without a folder, or when it cannot be written, which health tells then.
fn lock_state(config: &Config, registry: &Registry) -> Result<Option<StateLock>, AppError> {
    let Some(folder) = &config.state_dir else { return Ok(None) };
    match StateLock::acquire(folder)? {
        Locked::Held(lock) => Ok(Some(lock)),
        Locked::Unwritable(why) => {
            tracing::warn!("{why}; running on without it");
            registry.fault(STATE_FAULT, Some(why));
            Ok(None)
        }
    }
}

/// Opens the configured model, else the shipped one, and holds it to the configured checksum.
pub fn open_model(config: &ModelConfig) -> Result<ModelSpec, AppError> {
    let path = config.file.clone().or_else(crate::model::default_model).ok_or(AppError::NoModel)?;
    Ok(ModelSpec::open(&path, config.input_size)?.held_to(config.batch, config.sha256.as_deref())?)
}

/// Loads the model and runs it once, or begins to build what it needs. Starts are recorded in the state folder, so that a
/// backend which kills the process is left out in the end. Nobody hears of this engine yet; see [`show_engine`].
pub(super) fn start_engine(
    name: &str,
    spec: Arc<ModelSpec>,
    model: &ModelConfig,
    config: &Config,
) -> Result<Engine, AppError> {
    let engine = Engine::serve(spec, model, starts_folder(name, config).as_deref())?;
    // The engine has warned of each backend that it passed over, and says itself that it is building.
    if let Some(info) = engine.status().backend {
        tracing::info!(
            model = engine.spec().id.name, backend = %info.kind, version = info.version, workers = engine.workers(),
            input = %engine.spec().input.size, "model ready"
        );
    }
    Ok(engine)
}

/// The folder in which the starts of this model are recorded, made.
fn starts_folder(name: &str, config: &Config) -> Option<PathBuf> {
    let folder = config.starts_folder(name)?;
    // A state folder that cannot be written is told already.
    if let Err(error) = std::fs::create_dir_all(&folder) {
        tracing::debug!("{} cannot be made: {error}", folder.display());
    }
    Some(folder)
}

/// From now on the registry hears what becomes of the engine of the model `name`.
pub(super) fn show_engine(name: &str, engine: &Engine, registry: &Registry) {
    let (name, registry, model) = (name.to_owned(), registry.clone(), engine.spec().id.clone());
    engine.observe(Some(Arc::new(move |status| registry.engine_status(&name, &model, status))));
}
