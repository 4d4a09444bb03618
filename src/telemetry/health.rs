//! Whether all is well, and if not, why: a pure function of what the registry knows.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{EngineStats, ModelStats};
use crate::types::{CameraState, EngineState};

/// The whole program in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum HealthStatus {
    /// Everything that is configured works as asked.
    Ok,
    /// It works, but not all of it, or not as fast as it could.
    Degraded,
    /// The model is being loaded, or cameras are being connected for the first time.
    Starting,
}

/// One camera's state.
#[derive(Debug, Clone, Serialize, schemars::JsonSchema)]
pub struct CameraHealth {
    /// State now.
    pub state: CameraState,
    /// RFC 3339 time of the last change of state.
    pub since: String,
    /// Why.
    pub reason: Option<String>,
    /// Failed attempts since it was last online.
    pub retries: u32,
}

/// The MQTT session.
#[derive(Debug, Clone, Serialize, schemars::JsonSchema)]
pub struct MqttHealth {
    /// Up or down.
    pub connected: bool,
    /// Why it is down.
    pub reason: Option<String>,
}

/// What `/api/v1/health` shows.
#[derive(Debug, Clone, Serialize, schemars::JsonSchema)]
pub struct Health {
    /// The whole in one word.
    pub status: HealthStatus,
    /// What is not as it should be, one sentence each; empty when all is well.
    pub reasons: Vec<String>,
    /// Detects now: the model is loaded, and a camera is online or none is configured.
    pub ready: bool,
    /// The model and what really runs it; `null` while it is being loaded.
    pub model: Option<ModelStats>,
    /// What the inference engine does.
    pub engine: EngineStats,
    /// Cameras by name.
    pub cameras: BTreeMap<String, CameraHealth>,
    /// `null` when no broker is configured.
    pub mqtt: Option<MqttHealth>,
}

impl Health {
    /// The verdict on these parts; `faults` are sentences on what is none of them. A camera that is switched off counts as not configured; a file that has ended is no
    /// fault, but nothing is detected on it any more.
    pub(super) fn new(
        model: Option<ModelStats>,
        engine: EngineStats,
        cameras: BTreeMap<String, CameraHealth>,
        mqtt: Option<MqttHealth>,
        mut faults: Vec<String>,
    ) -> Self {
        let mut starting = Vec::new();
        match engine.trouble() {
            Some((why, true)) => faults.push(why),
            Some((why, false)) => starting.push(why),
            None => {}
        }
        if let Some(model) = &model {
            faults.extend(model.fallbacks.iter().map(|why| format!("{} runs, because {why}", model.backend)));
        }
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
            _ if model.is_none() && engine.state != EngineState::Failed => HealthStatus::Starting,
            (false, true) => HealthStatus::Starting,
            (_, false) => HealthStatus::Degraded,
        };
        let ready = engine.serves() && (online > 0 || configured == 0);
        let mut reasons = starting;
        reasons.append(&mut faults);
        if engine.serves() && !ready && reasons.is_empty() {
            reasons.push("no camera is online: every video file has come to its end".to_owned());
        }
        Self { status, reasons, ready, model, engine, cameras, mqtt }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::EngineStatus;

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

    /// As it is when the engine is in the state that goes with the model.
    fn health(model: Option<ModelStats>, cameras: BTreeMap<String, CameraHealth>, mqtt: Option<MqttHealth>) -> Health {
        let state = if model.is_some() { EngineState::Serving } else { EngineState::Loading };
        Health::new(model, engine(state, None), cameras, mqtt, vec![])
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
    fn verdicts() {
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
            let health = Health::new(fallbacks.and_then(model), engine(state, reason), online, None, vec![]);
            check(&health, status, false, words);
        }
    }
}
