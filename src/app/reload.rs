//! Taking over a new configuration while the service runs. Everything that can fail is made first; only then is anything
//! exchanged, and only what differs. So a bad file, a port in use or a model that does not load changes nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::camera::{self, RunningCamera};
use super::engines::{self, open_model};
use super::error::AppError;
use super::plan::{Change, Plan};
use super::service::Service;
use super::sinks::{self, FLUSH};
use super::stop::stop_all;
use crate::config::{Config, ConfigErrors};
use crate::infer::Engine;
use crate::pipeline::Detector;
use crate::sink::http::HttpServer;
use crate::sink::jsonl::JsonlSink;
use crate::sink::mqtt::MqttSink;
use crate::sink::rtsp::RtspServer;
use crate::types::CameraName;

/// Longest wait for an engine that is not used any more: twice the time in which it gives up a hanging inference.
const ENGINE: Duration = Duration::from_secs(20);
/// Name of the fault of a refused configuration.
const FAULT: &str = "config";

/// Reads the configuration again: the same files and arguments as at the start.
pub type Reader = Box<dyn Fn() -> Result<Config, ConfigErrors> + Send>;

/// What was made before anything is exchanged.
struct Prepared {
    /// Engines of models that are new or changed.
    engines: BTreeMap<String, Engine>,
    detectors: BTreeMap<CameraName, Detector>,
    http: Option<HttpServer>,
    jsonl: Option<Arc<JsonlSink>>,
    rtsp: Option<RtspServer>,
}

impl Service {
    /// Reads the configuration and takes over what differs. An error is logged and shown in health, and the old
    /// configuration stays in force as a whole.
    pub(super) fn reload(&mut self, read: &Reader) {
        tracing::info!("reloading the configuration");
        let prepared = read().map_err(|errors| errors.to_string()).and_then(|new| {
            let plan = self.plan(&new);
            let prepared = self.prepare(&plan, &new).map_err(|error| error.to_string())?;
            Ok((new, plan, prepared))
        });
        let outcome = match prepared {
            Ok((new, plan, prepared)) => {
                let outcome = self.apply(&plan, new, prepared);
                tracing::info!(changed = %plan, "configuration reloaded");
                if plan.state_dir {
                    tracing::warn!("`state_dir` has changed: that takes effect at the next start");
                }
                outcome.map_err(|error| format!("the new configuration is in force, but for this: {error}"))
            }
            // A signal to stop came meanwhile.
            Err(_) if self.signals.cancel().is_cancelled() => return,
            Err(error) => Err(format!("the new configuration is refused, the old one is in force: {error}")),
        };
        self.registry.reloaded(outcome.is_ok());
        // Health first: whoever acts on the line in the log finds it there.
        self.registry.fault(FAULT, outcome.as_ref().err().map(|error| one_line(error)));
        if let Err(error) = outcome {
            tracing::error!("{error}");
        }
    }

    fn plan(&self, new: &Config) -> Plan {
        let mut plan = Plan::between(&self.config, new);
        // A file that logrotate has moved is opened again.
        plan.jsonl |= self.sinks.jsonl.as_ref().is_some_and(|jsonl| jsonl.was_moved());
        plan
    }

    /// Fails only where the system refuses what it granted before (a thread, a port); the rest is done all the same.
    fn apply(&mut self, plan: &Plan, new: Config, mut prepared: Prepared) -> Result<(), AppError> {
        self.remove_cameras(plan, &new);
        let sinks = self.exchange_sinks(plan, &new, &mut prepared);
        let old_engines = self.exchange_engines(plan, &new, prepared.engines);
        let cameras = self.change_cameras(&new, prepared.detectors);
        // No camera uses them any more. One that hangs must not hold up the service.
        stop_all(self.signals.cancel(), ENGINE, old_engines.into_iter().map(engines::stop).collect());
        self.config = new;
        sinks.and(cameras)
    }

    fn prepare(&self, plan: &Plan, new: &Config) -> Result<Prepared, AppError> {
        if let (true, Some(mqtt)) = (plan.mqtt, &new.mqtt) {
            MqttSink::check(mqtt, &new.node)?;
        }
        let http = if plan.http { sinks::start_http(new, &self.registry)? } else { None };
        let jsonl = if plan.jsonl { sinks::start_jsonl(new, &self.registry)? } else { None };
        // On the same address the old server must stop first.
        let moved = self.config.rtsp.as_ref().map(|rtsp| rtsp.listen) != new.rtsp.as_ref().map(|rtsp| rtsp.listen);
        let rtsp = if plan.rtsp && moved { sinks::start_rtsp(new)? } else { None };
        let mut made = BTreeMap::new();
        for (name, model) in new.used_models() {
            if plan.models.contains(name) {
                let spec = Arc::new(open_model(model)?);
                made.insert(name.to_owned(), engines::start(name, spec, model, new, self.signals.cancel())?);
            }
        }
        let mut detectors = BTreeMap::new();
        for camera in new.cameras.iter().filter(|camera| camera.enabled) {
            let name = &camera.detect.model;
            if plan.models.contains(name) || plan.cameras.contains_key(&camera.name) {
                let engine = made.get(name).or_else(|| self.engines.get(name)).ok_or(AppError::NoModel)?;
                detectors.insert(camera.name.clone(), RunningCamera::detector(camera, engine)?);
            }
        }
        Ok(Prepared { engines: made, detectors, http, jsonl, rtsp })
    }

    /// Returns the engines that are no longer used.
    fn exchange_engines(&mut self, plan: &Plan, new: &Config, made: BTreeMap<String, Engine>) -> Vec<(String, Engine)> {
        let old: Vec<_> = plan.models.iter().filter_map(|name| self.engines.remove_entry(name)).collect();
        old.iter().for_each(|(_, engine)| engine.observe(None));
        let names: Vec<String> = new.used_models().into_keys().map(str::to_owned).collect();
        self.registry.use_models(&names);
        for (name, engine) in made {
            engines::observe(&name, &engine, &self.registry);
            self.engines.insert(name, engine);
        }
        old
    }

    /// Stops the cameras that are gone, and those that come back with another source.
    fn remove_cameras(&mut self, plan: &Plan, new: &Config) {
        let ends = plan.cameras.iter().filter(|(_, change)| matches!(change, Change::Removed | Change::Source));
        let steps = ends.filter_map(|(name, _)| self.cameras.remove(name).map(RunningCamera::stop));
        stop_all(self.signals.cancel(), camera::STOP, steps.collect());
        for (name, _) in plan.cameras.iter().filter(|(_, change)| **change == Change::Removed) {
            self.registry.forget(name);
            if let Some(mqtt) = &self.sinks.mqtt {
                mqtt.forget(name);
            }
        }
        if let (Some(rtsp), false) = (&mut self.sinks.rtsp, plan.rtsp) {
            rtsp.retain(&sinks::enabled(new));
        }
    }

    fn exchange_sinks(&mut self, plan: &Plan, new: &Config, prepared: &mut Prepared) -> Result<(), AppError> {
        let flush = self.signals.cancel().remaining(FLUSH);
        let mut outcome = Ok(());
        if plan.node {
            self.registry.set_node(&new.node);
        }
        if plan.http {
            self.sinks.http = prepared.http.take();
        }
        if plan.jsonl {
            std::mem::swap(&mut self.sinks.jsonl, &mut prepared.jsonl);
        }
        if plan.mqtt {
            // One client id, so the old session must end before the new one begins.
            if let Some(old) = self.sinks.mqtt.take() {
                self.sinks.share();
                old.stop(flush);
            }
            match sinks::start_mqtt(new, &self.registry) {
                Ok(mqtt) => self.sinks.mqtt = mqtt,
                Err(error) => outcome = Err(error),
            }
            match &self.sinks.mqtt {
                Some(mqtt) => self.cameras.values().for_each(|camera| camera.outputs.introduce(&**mqtt)),
                None => self.registry.no_mqtt(),
            }
        }
        self.sinks.share();
        // The old one; its last result is in its queue.
        if let Some(old) = prepared.jsonl.take() {
            old.stop(flush);
        }
        outcome.and(self.exchange_streams(plan, new, prepared.rtsp.take()))
    }

    fn exchange_streams(&mut self, plan: &Plan, new: &Config, rtsp: Option<RtspServer>) -> Result<(), AppError> {
        let mut outcome = Ok(());
        if plan.rtsp {
            self.cameras.values().for_each(|camera| camera.outputs.set_view(None));
            drop(self.sinks.rtsp.take());
            match rtsp.map_or_else(|| sinks::start_rtsp(new), |made| Ok(Some(made))) {
                Ok(rtsp) => self.sinks.rtsp = rtsp,
                Err(error) => outcome = Err(error),
            }
            for (name, camera) in &self.cameras {
                camera.outputs.set_view(self.sinks.view(name));
            }
        } else if let Some(rtsp) = &mut self.sinks.rtsp {
            for name in sinks::enabled(new) {
                match rtsp.add(&name) {
                    Ok(true) => sinks::log_stream(rtsp, &name),
                    Ok(false) => {}
                    Err(error) => outcome = Err(error.into()),
                }
            }
        }
        outcome
    }

    fn change_cameras(&mut self, new: &Config, mut detectors: BTreeMap<CameraName, Detector>) -> Result<(), AppError> {
        let mut outcome = Ok(());
        for config in &new.cameras {
            let camera = self.cameras.remove(&config.name).map_or_else(|| self.open_camera(config), Ok);
            let changed = camera.and_then(|mut camera| {
                camera.config = config.clone();
                let detects = detectors.remove(&config.name).map_or(Ok(()), |detector| camera.detect_with(detector));
                self.cameras.insert(config.name.clone(), camera);
                detects
            });
            outcome = outcome.and(changed);
        }
        outcome
    }
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}
