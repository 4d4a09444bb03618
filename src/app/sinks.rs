//! The sinks of the service.

use std::sync::Arc;
use std::time::Duration;

use super::error::AppError;
use super::outputs::SharedSinks;
use super::stop::Step;
use crate::cancel::Cancel;
use crate::config::Config;
use crate::sink::Sink;
use crate::sink::http::HttpServer;
use crate::sink::jsonl::JsonlSink;
use crate::sink::mqtt::MqttSink;
use crate::sink::rtsp::{RtspServer, View};
use crate::telemetry::Registry;
use crate::types::CameraName;

/// Time for a sink to send the results in its queue.
pub(super) const FLUSH: Duration = Duration::from_secs(3);

pub(super) struct Sinks {
    pub(super) rtsp: Option<RtspServer>,
    pub(super) jsonl: Option<Arc<JsonlSink>>,
    pub(super) http: Option<HttpServer>,
    pub(super) mqtt: Option<Arc<MqttSink>>,
    /// The sinks that serve all cameras; a camera's RTSP view is its own.
    pub(super) shared: Arc<SharedSinks>,
}

impl Sinks {
    pub(super) fn start(config: &Config, registry: &Registry) -> Result<Self, AppError> {
        let sinks = Self {
            rtsp: start_rtsp(config)?,
            jsonl: start_jsonl(config, registry)?,
            http: start_http(config, registry)?,
            mqtt: start_mqtt(config, registry)?,
            shared: Arc::default(),
        };
        sinks.share();
        Ok(sinks)
    }

    /// Gives the cameras the sinks that are in place now.
    pub(super) fn share(&self) {
        let mut shared: Vec<Arc<dyn Sink>> = Vec::new();
        if let Some(mqtt) = &self.mqtt {
            shared.push(mqtt.clone());
        }
        if let Some(jsonl) = &self.jsonl {
            shared.push(jsonl.clone());
        }
        self.shared.replace(shared);
    }

    /// The annotated stream of a camera; `None` for a disabled one.
    pub(super) fn view(&self, camera: &str) -> Option<Arc<View>> {
        self.rtsp.as_ref().and_then(|rtsp| rtsp.view(camera))
    }

    /// The stop of each sink.
    pub(super) fn stop(self, cancel: &Cancel) -> Vec<Step> {
        let mut steps: Vec<Step> = Vec::new();
        if let Some(mqtt) = self.mqtt {
            let flush = cancel.remaining(FLUSH);
            steps.push(("MQTT".into(), Box::new(move || mqtt.stop(flush))));
        }
        if let Some(jsonl) = self.jsonl {
            let flush = cancel.remaining(FLUSH);
            steps.push(("JSON Lines".into(), Box::new(move || jsonl.stop(flush))));
        }
        if let Some(rtsp) = self.rtsp {
            steps.push(("the RTSP server".into(), Box::new(move || rtsp.stop())));
        }
        if let Some(http) = self.http {
            steps.push(("the HTTP server".into(), Box::new(move || http.stop())));
        }
        steps
    }
}

/// The cameras that have a stream.
pub(super) fn enabled(config: &Config) -> Vec<CameraName> {
    config.cameras.iter().filter(|camera| camera.enabled).map(|camera| camera.name.clone()).collect()
}

pub(super) fn start_rtsp(config: &Config) -> Result<Option<RtspServer>, AppError> {
    let Some(rtsp) = &config.rtsp else { return Ok(None) };
    let server = RtspServer::start(rtsp, &enabled(config))?;
    for name in enabled(config) {
        log_stream(&server, &name);
    }
    Ok(Some(server))
}

pub(super) fn log_stream(server: &RtspServer, camera: &CameraName) {
    tracing::info!(camera = &**camera, url = format!("rtsp://{}/{camera}", server.addr()), "annotated stream");
}

pub(super) fn start_jsonl(config: &Config, registry: &Registry) -> Result<Option<Arc<JsonlSink>>, AppError> {
    let Some(jsonl) = &config.jsonl else { return Ok(None) };
    Ok(Some(Arc::new(JsonlSink::start(jsonl, registry.clone())?)))
}

pub(super) fn start_http(config: &Config, registry: &Registry) -> Result<Option<HttpServer>, AppError> {
    let Some(http) = &config.http else { return Ok(None) };
    let server = HttpServer::start(http, registry.clone())?;
    tracing::info!(url = format!("http://{}/api/v1/health", server.addr()), "health and metrics");
    Ok(Some(server))
}

pub(super) fn start_mqtt(config: &Config, registry: &Registry) -> Result<Option<Arc<MqttSink>>, AppError> {
    let Some(mqtt) = &config.mqtt else { return Ok(None) };
    Ok(Some(Arc::new(MqttSink::start(mqtt, &config.node, config.stats_interval, registry.clone())?)))
}
