//! The sinks of the service, and how they are exchanged while it runs.

use std::sync::Arc;
use std::time::Duration;

use super::AppError;
use super::outlets::SharedSinks;
use crate::config::Config;
use crate::sink::Sink;
use crate::sink::http::HttpServer;
use crate::sink::jsonl::JsonlSink;
use crate::sink::mqtt::MqttSink;
use crate::sink::rtsp::{RtspServer, View};
use crate::telemetry::Registry;
use crate::types::CameraName;

/// Sinks get this long to send what they have.
pub(super) const FLUSH: Duration = Duration::from_secs(3);

/// Sinks, in the order in which they are stopped.
pub(super) struct Sinks {
    pub(super) rtsp: Option<RtspServer>,
    pub(super) jsonl: Option<Arc<JsonlSink>>,
    pub(super) http: Option<HttpServer>,
    pub(super) mqtt: Option<Arc<MqttSink>>,
    /// What the cameras see of them.
    shared: Arc<SharedSinks>,
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

    /// The sinks that serve all cameras; a camera's RTSP view is its own.
    pub(super) fn shared(&self) -> &Arc<SharedSinks> {
        &self.shared
    }

    /// Gives the cameras what is in place now.
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

    /// The annotated stream of a camera; none for a disabled one.
    pub(super) fn view(&self, camera: &str) -> Option<Arc<View>> {
        self.rtsp.as_ref().and_then(|rtsp| rtsp.view(camera))
    }

    pub(super) fn stop(self) {
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

/// Names of the cameras that have a stream.
pub(super) fn enabled(config: &Config) -> Vec<CameraName> {
    config.cameras.iter().filter(|camera| camera.enabled).map(|camera| camera.name.clone()).collect()
}

pub(super) fn start_rtsp(config: &Config) -> Result<Option<RtspServer>, AppError> {
    let Some(rtsp) = &config.rtsp else { return Ok(None) };
    let server = RtspServer::start(rtsp, &enabled(config))?;
    for name in enabled(config) {
        tell_stream(&server, &name);
    }
    Ok(Some(server))
}

/// One line with the address of a camera's stream.
pub(super) fn tell_stream(server: &RtspServer, camera: &CameraName) {
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
