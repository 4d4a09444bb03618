//! Health: a pure function of the states in the registry.

use std::collections::BTreeMap;

use serde::Serialize;

use super::stats::{CameraHealth, EngineReport, EngineStats, ModelStats};
use crate::types::{CameraState, DEFAULT_MODEL, EngineState, EngineStatus};

/// Health in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum HealthStatus {
    /// Everything works as configured.
    Ok,
    /// Something does not work, or a slower backend is used.
    Degraded,
    /// The model is being loaded, or cameras are being connected for the first time.
    Starting,
}

/// The MQTT session.
#[derive(Debug, Clone, Serialize, schemars::JsonSchema)]
pub struct MqttHealth {
    pub connected: bool,
    /// Why it is down.
    pub reason: Option<String>,
}

/// What `/api/v1/health` shows.
#[derive(Debug, Clone, Serialize, schemars::JsonSchema)]
pub struct Health {
    /// Health in one word.
    pub status: HealthStatus,
    /// What does not work as configured, one sentence each; empty when everything does.
    pub reasons: Vec<String>,
    /// Detection runs: all models are loaded, and a camera is online or none is configured.
    pub ready: bool,
    /// The default model, or the first one by name; `null` until it has run. All of them: `models`.
    pub model: Option<ModelStats>,
    /// The inference engine of that model.
    pub engine: EngineStats,
    /// All models in use, by their names in the configuration; `default` is that of `model:`.
    pub models: BTreeMap<String, EngineReport>,
    /// Cameras by name.
    pub cameras: BTreeMap<String, CameraHealth>,
    /// `null` when no broker is configured.
    pub mqtt: Option<MqttHealth>,
}

impl Health {
    /// `faults` are sentences about anything else. A disabled camera counts as not configured. A file that has ended is no
    /// fault, but nothing is detected on it any more.
    pub(super) fn new(
        models: BTreeMap<String, EngineReport>,
        cameras: BTreeMap<String, CameraHealth>,
        mqtt: Option<MqttHealth>,
        mut faults: Vec<String>,
    ) -> Self {
        let mut starting = Vec::new();
        if models.is_empty() {
            starting.push("the model is not loaded yet".to_owned());
        }
        for (name, EngineReport { model, engine }) in &models {
            // The only model needs no name.
            let which = if models.len() > 1 { format!("model {name}: ") } else { String::new() };
            match engine.trouble() {
                Some((why, true)) => faults.push(format!("{which}{why}")),
                Some((why, false)) => starting.push(format!("{which}{why}")),
                None => {}
            }
            if let Some(model) = model {
                let because = |why: &String| format!("{which}{} runs, because {why}", model.backend);
                faults.extend(model.fallbacks.iter().map(because));
            }
        }
        let loads = |report: &EngineReport| report.model.is_none() && report.engine.state != EngineState::Failed;
        let loading = models.is_empty() || models.values().any(loads);
        let serves = !models.is_empty() && models.values().all(|report| report.engine.serves());
        let mut configured = 0;
        let mut online = 0;
        for (name, camera) in &cameras {
            let because = camera.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
            configured += usize::from(camera.state != CameraState::Disabled);
            match camera.state {
                CameraState::Online => online += 1,
                CameraState::Disabled | CameraState::Ended => {}
                CameraState::Connecting if camera.retries == 0 && camera.reason.is_none() => {
                    starting.push(format!("camera {name} is connecting"));
                }
                state => faults.push(format!("camera {name} is {}{because}", state.as_str())),
            }
        }
        if let Some(MqttHealth { connected: false, reason }) = &mqtt {
            match reason {
                Some(reason) => faults.push(format!("the MQTT broker {reason}")),
                None => starting.push("the MQTT broker is being connected".to_owned()),
            }
        }
        let status = match (starting.is_empty(), faults.is_empty()) {
            (true, true) => HealthStatus::Ok,
            _ if loading => HealthStatus::Starting,
            (false, true) => HealthStatus::Starting,
            (_, false) => HealthStatus::Degraded,
        };
        let ready = serves && (online > 0 || configured == 0);
        let mut reasons = starting;
        reasons.append(&mut faults);
        if serves && !ready && reasons.is_empty() {
            reasons.push("no camera is online: every video file has come to its end".to_owned());
        }
        let (model, engine) = first(&models);
        Self { status, reasons, ready, model, engine, models, cameras, mqtt }
    }
}

/// The model of fields that show a single one: `default`, else the first by name.
pub(super) fn first(models: &BTreeMap<String, EngineReport>) -> (Option<ModelStats>, EngineStats) {
    match models.get(DEFAULT_MODEL).or_else(|| models.values().next()) {
        Some(EngineReport { model, engine }) => (model.clone(), engine.clone()),
        None => (None, EngineStats::new(&EngineStatus::default())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(fallbacks: &[&str]) -> Option<ModelStats> {
        Some(ModelStats {
            name: "m".into(),
            sha256: String::new(),
            backend: "tract".into(),
            backend_version: "tract 0.23".into(),
            fallbacks: fallbacks.iter().map(|why| (*why).to_owned()).collect(),
            nodes: BTreeMap::new(),
        })
    }

    fn health(model: Option<ModelStats>, cameras: BTreeMap<String, CameraHealth>, mqtt: Option<MqttHealth>) -> Health {
        let state = if model.is_some() { EngineState::Serving } else { EngineState::Loading };
        Health::new(one(model, engine(state, None)), cameras, mqtt, vec![])
    }

    fn one(model: Option<ModelStats>, engine: EngineStats) -> BTreeMap<String, EngineReport> {
        [(DEFAULT_MODEL.to_owned(), EngineReport { model, engine })].into()
    }

    fn engine(state: EngineState, reason: Option<&str>) -> EngineStats {
        EngineStats::new(&EngineStatus { state, reason: reason.map(str::to_owned), ..EngineStatus::default() })
    }

    fn cameras(states: &[(CameraState, Option<&str>)]) -> BTreeMap<String, CameraHealth> {
        let camera = |(n, (state, reason)): (usize, &(CameraState, Option<&str>))| {
            let reason = reason.map(str::to_owned);
            (format!("cam{n}"), CameraHealth { state: *state, since: String::new(), reason, retries: 0 })
        };
        states.iter().enumerate().map(camera).collect()
    }

    fn check(health: &Health, status: HealthStatus, ready: bool, reason: &str) {
        assert_eq!((health.status, health.ready), (status, ready), "{:?}", health.reasons);
        assert!(health.reasons.join("; ").contains(reason), "{:?}", health.reasons);
        assert_eq!(health.reasons.is_empty(), status == HealthStatus::Ok && ready, "{:?}", health.reasons);
    }

    #[test]
    fn each_combination_of_states_has_its_status() {
        use CameraState::{AuthFailed, Connecting, Disabled, Ended, Offline, Online};
        use HealthStatus::{Degraded, Ok, Starting};
        let on = (Online, None);
        let down = |reason: Option<&str>| Some(MqttHealth { connected: false, reason: reason.map(str::to_owned) });
        check(&health(None, cameras(&[on]), None), Starting, false, "model is not loaded");
        check(&health(model(&[]), cameras(&[]), None), Ok, true, "");
        check(&health(model(&[]), cameras(&[on, (Disabled, None)]), None), Ok, true, "");
        check(&health(model(&["cpu: no library"]), cameras(&[on]), None), Degraded, true, "because cpu: no library");
        check(&health(model(&[]), cameras(&[(Connecting, None)]), None), Starting, false, "cam0 is connecting");
        let away = cameras(&[on, (Offline, Some("no route")), (Connecting, Some("timed out"))]);
        check(&health(model(&[]), away, None), Degraded, true, "cam1 is offline: no route; camera cam2 is connecting");
        check(&health(model(&[]), cameras(&[(AuthFailed, None)]), None), Degraded, false, "auth_failed");
        check(&health(model(&[]), cameras(&[(Disabled, None)]), None), Ok, true, "");
        check(&health(model(&[]), cameras(&[(Ended, None)]), None), Ok, false, "come to its end");
        check(&health(model(&[]), cameras(&[on]), down(None)), Starting, true, "being connected");
        check(&health(model(&[]), cameras(&[on]), down(Some("is silent"))), Degraded, true, "broker is silent");
    }

    #[test]
    fn an_engine_that_does_not_serve_is_not_ready() {
        use EngineState::{Building, Degraded, Failed, Loading};
        let cases = [
            (None, Building, None, HealthStatus::Starting, "is being built"),
            (Some(&["tensorrt failed"][..]), Loading, Some("tensorrt failed"), HealthStatus::Degraded, "frames wait"),
            (
                Some(&[][..]),
                Degraded,
                Some("cpu: no memory"),
                HealthStatus::Degraded,
                "inference fails: cpu: no memory",
            ),
            (Some(&[][..]), Failed, Some("CUDA failure 700"), HealthStatus::Degraded, "ended: CUDA failure 700"),
            (None, Failed, Some("no engine"), HealthStatus::Degraded, "no engine"),
        ];
        for (fallbacks, state, reason, status, words) in cases {
            let online = cameras(&[(CameraState::Online, None)]);
            let health = Health::new(one(fallbacks.and_then(model), engine(state, reason)), online, None, vec![]);
            check(&health, status, false, words);
        }
    }
    #[test]
    fn of_several_models_each_must_serve_and_is_named() {
        let online = || cameras(&[(CameraState::Online, None)]);
        let mut models = one(model(&[]), engine(EngineState::Serving, None));
        let plates = |fallbacks, state, reason| EngineReport { model: model(fallbacks), engine: engine(state, reason) };
        models.insert("plates".into(), plates(&[], EngineState::Serving, None));
        check(&Health::new(models.clone(), online(), None, vec![]), HealthStatus::Ok, true, "");
        models.insert("plates".into(), plates(&["cpu: no library"], EngineState::Serving, None));
        let health = Health::new(models.clone(), online(), None, vec![]);
        check(&health, HealthStatus::Degraded, true, "model plates: tract runs, because cpu: no library");
        models.insert("plates".into(), plates(&[], EngineState::Degraded, Some("cpu: no memory")));
        let health = Health::new(models, online(), None, vec![]);
        check(&health, HealthStatus::Degraded, false, "model plates: inference fails: cpu: no memory");
        assert_eq!(health.engine.state, EngineState::Serving, "the default one is shown first");
    }
}
