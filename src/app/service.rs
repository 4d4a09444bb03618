//! `ocelli run` without its command line.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::accel::{self, Frame};
use crate::config::{CameraConfig, Config, ModelConfig, SourceConfig};
use crate::infer::{Engine, InferError};
use crate::model::{ModelError, ModelSpec};
use crate::pipeline::{Camera, CameraParts, Detector, DetectorError};
use crate::queue::{self, DropPolicy, Receiver, RecvError};
use crate::sink::Sink;
use crate::sink::http::{HttpError, HttpServer};
use crate::sink::jsonl::{JsonlError, JsonlSink};
use crate::sink::mqtt::{MqttError, MqttSink};
use crate::sink::rtsp::{RtspError, RtspServer, View};
use crate::source::{FrameTap, Outputs, Source, SourceError};
use crate::telemetry::Registry;
use crate::types::{CameraState, CameraStatus};

/// Sinks get this long to send what they have.
const FLUSH: Duration = Duration::from_secs(3);

/// Why the service did not start.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The model file.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// No model was configured and none is installed.
    #[error(
        "no model: `model:` is not set and the shipped model was not found; set `model: FILE.onnx` or OCELLI_MODEL"
    )]
    NoModel,
    /// The backend.
    #[error(transparent)]
    Infer(#[from] InferError),
    /// A camera's label filter.
    #[error(transparent)]
    Detector(#[from] DetectorError),
    /// The broker's configuration (not its absence, which is waited for).
    #[error(transparent)]
    Mqtt(#[from] MqttError),
    /// The RTSP server.
    #[error(transparent)]
    Rtsp(#[from] RtspError),
    /// The HTTP server.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The JSON Lines file.
    #[error(transparent)]
    Jsonl(#[from] JsonlError),
    /// A camera's pipeline.
    #[error("camera `{camera}`: {error}")]
    Source {
        /// Which camera.
        camera: String,
        /// Why.
        error: SourceError,
    },
    /// A thread could not be started.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// Why [`Service::wait`] returned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// A signal.
    Signal,
    /// Every camera is a file and has come to its end.
    AllEnded,
}

/// Sinks, in the order in which they are stopped.
struct Sinks {
    rtsp: Option<RtspServer>,
    jsonl: Option<Arc<JsonlSink>>,
    http: Option<HttpServer>,
    mqtt: Option<Arc<MqttSink>>,
}

/// A camera whose source runs, before its detector does.
struct Opened {
    config: CameraConfig,
    source: Source,
    frames: Receiver<Frame>,
    sinks: Vec<Arc<dyn Sink>>,
}

/// The running service.
pub struct Service {
    registry: Registry,
    sinks: Sinks,
    sources: Vec<Source>,
    cameras: Vec<Camera>,
    engine: Engine,
    asked: Receiver<super::Signal>,
    stats_interval: Duration,
    signals: super::Signals,
}

impl Service {
    /// Starts everything: sinks first, so that health is visible and viewers are answered while the model loads; then
    /// sources, so that cameras connect meanwhile; the engine; at last the threads that bring them together.
    pub fn start(config: &Config) -> Result<Self, AppError> {
        let spec = Arc::new(open_model(&config.model)?);
        let registry = Registry::new(&config.node);
        let (signal_tx, asked) = queue::latest("signals");
        let signals = super::Signals::start(signal_tx)?;
        let sinks = Sinks::start(config, &registry)?;
        let opened = open_cameras(config, &sinks, &registry)?;
        let engine = Engine::start(spec, &config.model)?;
        accel::trim_heap();
        let info = engine.info();
        // The ladder has warned of each rung that it passed over.
        registry.model_ready(engine.spec().id.clone(), info.clone());
        tracing::info!(
            model = engine.spec().id.name, backend = %info.kind, version = info.version, workers = engine.workers(),
            input = %engine.spec().input.size, "model ready"
        );
        let mut sources = Vec::new();
        let mut cameras = Vec::new();
        for camera in opened {
            cameras.push(start_camera(&camera.config, camera.frames, &engine, camera.sinks, &registry)?);
            sources.push(camera.source);
        }
        Ok(Self { registry, sinks, sources, cameras, engine, asked, stats_interval: config.stats_interval, signals })
    }

    /// The counters.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Waits for a signal or for the end of all files; logs one line of numbers per interval meanwhile.
    pub fn wait(&self) -> Stop {
        let mut next = Instant::now() + self.stats_interval;
        loop {
            // A source that failed for good and a file that ended both close the frames, which ends the camera.
            if !self.cameras.is_empty() && self.cameras.iter().all(Camera::is_finished) {
                return Stop::AllEnded;
            }
            let left = next.saturating_duration_since(Instant::now()).min(Duration::from_millis(500));
            match self.asked.recv_timeout(left) {
                Ok(super::Signal::Terminate) | Err(RecvError::Closed) => return Stop::Signal,
                Err(RecvError::Timeout | RecvError::Woken) => {}
            }
            if Instant::now() >= next {
                next += self.stats_interval;
                self.log_stats();
            }
        }
    }

    fn log_stats(&self) {
        let stats = self.registry.snapshot();
        let backend = stats.model.as_ref().map_or("none", |model| &model.backend);
        for (name, camera) in &stats.cameras {
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
    pub fn stop(self) {
        for source in self.sources {
            source.stop();
        }
        for camera in self.cameras {
            camera.stop();
        }
        drop(self.engine);
        self.sinks.stop();
        self.signals.stop();
    }
}

impl Sinks {
    fn start(config: &Config, registry: &Registry) -> Result<Self, AppError> {
        let enabled: Vec<_> =
            config.cameras.iter().filter(|camera| camera.enabled).map(|camera| camera.name.clone()).collect();
        let rtsp = match &config.rtsp {
            Some(rtsp) => Some(RtspServer::start(rtsp, &enabled)?),
            None => None,
        };
        if let Some(rtsp) = &rtsp {
            for name in &enabled {
                tracing::info!(camera = &**name, url = format!("rtsp://{}/{name}", rtsp.addr()), "annotated stream");
            }
        }
        let jsonl = match &config.jsonl {
            Some(jsonl) => Some(Arc::new(JsonlSink::start(jsonl, registry.clone())?)),
            None => None,
        };
        let http = match &config.http {
            Some(http) => Some(HttpServer::start(http, registry.clone())?),
            None => None,
        };
        if let Some(http) = &http {
            tracing::info!(url = format!("http://{}/api/v1/health", http.addr()), "health and metrics");
        }
        let mqtt = match &config.mqtt {
            Some(mqtt) => Some(Arc::new(MqttSink::start(mqtt, &config.node, config.stats_interval, registry.clone())?)),
            None => None,
        };
        Ok(Self { rtsp, jsonl, http, mqtt })
    }

    /// The annotated stream of a camera; none for a disabled one.
    fn view(&self, camera: &str) -> Option<Arc<View>> {
        self.rtsp.as_ref().and_then(|rtsp| rtsp.view(camera))
    }

    /// The sinks that serve all cameras; a camera's RTSP view is its own.
    fn shared(&self) -> Vec<Arc<dyn Sink>> {
        let mut shared: Vec<Arc<dyn Sink>> = Vec::new();
        if let Some(mqtt) = &self.mqtt {
            shared.push(mqtt.clone());
        }
        if let Some(jsonl) = &self.jsonl {
            shared.push(jsonl.clone());
        }
        shared
    }

    fn stop(self) {
        if let Some(rtsp) = self.rtsp {
            rtsp.stop();
        }
        if let Some(jsonl) = self.jsonl {
            jsonl.stop(FLUSH);
        }
        if let Some(mqtt) = self.mqtt {
            mqtt.stop(FLUSH);
        }
        if let Some(http) = self.http {
            http.stop();
        }
    }
}

/// Opens the configured model, else the shipped one, and holds it to the configured checksum.
pub fn open_model(config: &ModelConfig) -> Result<ModelSpec, AppError> {
    let path = config.file.clone().or_else(crate::model::default_model).ok_or(AppError::NoModel)?;
    let spec = ModelSpec::open(&path, config.input_size)?;
    if let Some(expected) = &config.sha256 {
        spec.check_sha256(expected)?;
    }
    Ok(spec)
}

fn open_cameras(config: &Config, sinks: &Sinks, registry: &Registry) -> Result<Vec<Opened>, AppError> {
    let mut opened = Vec::new();
    for camera in &config.cameras {
        let view = sinks.view(&camera.name);
        let mut all = sinks.shared();
        if let Some(view) = &view {
            all.push(view.clone());
        }
        let status = status_fan_out(all.clone(), registry.clone());
        if !camera.enabled {
            status(CameraStatus {
                camera: camera.name.clone(),
                state: CameraState::Disabled,
                since: std::time::SystemTime::now(),
                reason: Some("switched off in the configuration".into()),
                retries: 0,
            });
            continue;
        }
        let (frame_tx, frames) = match camera.source {
            // Every frame of a file counts: the decoder waits for the detector.
            SourceConfig::File { realtime: false, .. } => queue::bounded("frames", 4, DropPolicy::Block),
            _ => queue::latest("frames"),
        };
        let tap = Arc::new(Counted { registry: registry.clone(), view });
        let outputs = Outputs { frames: frame_tx, tap: Some(tap), status };
        let source = Source::start(camera, outputs)
            .map_err(|error| AppError::Source { camera: camera.name.to_string(), error })?;
        opened.push(Opened { config: camera.clone(), source, frames, sinks: all });
    }
    Ok(opened)
}

/// Counts decoded frames, then shows them to the viewers' branch.
struct Counted {
    registry: Registry,
    view: Option<Arc<View>>,
}

impl FrameTap for Counted {
    fn frame(&self, frame: &Frame) {
        self.registry.frame(&frame.meta.camera);
        if let Some(view) = &self.view {
            view.frame(frame);
        }
    }
}

fn status_fan_out(sinks: Vec<Arc<dyn Sink>>, registry: Registry) -> Arc<dyn Fn(CameraStatus) + Send + Sync> {
    Arc::new(move |status: CameraStatus| {
        registry.camera_status(&status);
        for sink in &sinks {
            sink.status(&status);
        }
    })
}

fn start_camera(
    config: &CameraConfig,
    frames: Receiver<Frame>,
    engine: &Engine,
    sinks: Vec<Arc<dyn Sink>>,
    registry: &Registry,
) -> Result<Camera, AppError> {
    // One frame per worker, and for files one more, so that a tensor is ready when a worker becomes free.
    let spare = usize::from(matches!(config.source, SourceConfig::File { realtime: false, .. }));
    let detector = Detector::new(engine, &config.name, &config.detect, engine.workers() + spare)?;
    let parts = CameraParts {
        name: config.name.clone(),
        frames,
        detector,
        fps: config.detect.fps,
        sinks,
        registry: registry.clone(),
    };
    Ok(Camera::start(parts)?)
}
