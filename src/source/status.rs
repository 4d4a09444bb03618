//! Reports each change of a camera's state once, to the program and to the log.

use std::sync::Arc;
use std::time::SystemTime;

use super::error::SourceError;
use crate::types::{CameraName, CameraState, CameraStatus};

pub(super) struct Reporter {
    camera: CameraName,
    out: Arc<dyn Fn(CameraStatus) + Send + Sync>,
    reported: Option<(CameraState, Option<String>)>,
    /// Failed attempts since the camera was last online.
    retries: u32,
}

impl Reporter {
    pub(super) fn new(camera: CameraName, out: Arc<dyn Fn(CameraStatus) + Send + Sync>) -> Self {
        Self { camera, out, reported: None, retries: 0 }
    }

    pub(super) fn state(&self) -> Option<CameraState> {
        self.reported.as_ref().map(|(state, _)| *state)
    }

    /// Counts a failed attempt.
    pub(super) fn failed(&mut self) {
        self.retries = self.retries.saturating_add(1);
    }

    /// Reports the state unless it and its reason are those reported last.
    pub(super) fn report(&mut self, state: CameraState, error: Option<&SourceError>) {
        if state == CameraState::Online {
            self.retries = 0;
        }
        let now = (state, error.map(SourceError::to_string));
        if self.reported.as_ref() == Some(&now) {
            return;
        }
        self.log(state, now.1.as_deref());
        (self.out)(CameraStatus {
            camera: self.camera.clone(),
            state,
            since: SystemTime::now(),
            reason: now.1.clone(),
            retries: self.retries,
        });
        self.reported = Some(now);
    }

    fn log(&self, state: CameraState, reason: Option<&str>) {
        let (camera, word, retries) = (&self.camera, state.as_str(), self.retries);
        match (state, reason) {
            // Neither recovers by itself: the user must act.
            (CameraState::AuthFailed | CameraState::Ended, Some(reason)) => {
                tracing::error!(%camera, state = word, "{reason}");
            }
            (_, Some(reason)) => tracing::warn!(%camera, state = word, retries, "{reason}"),
            (_, None) => tracing::info!(%camera, "camera is {word}"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use CameraState::{Connecting, Offline, Online};
    use std::sync::Mutex;

    #[test]
    fn a_state_is_reported_once_and_a_new_reason_again() {
        let reported = Arc::new(Mutex::new(Vec::new()));
        let out = reported.clone();
        let mut reporter = Reporter::new("gate".into(), Arc::new(move |s| out.lock().unwrap().push(s)));
        let (one, two) = (SourceError::StreamEnded, SourceError::AuthFailed);
        reporter.report(Connecting, None);
        for _ in 0..3 {
            reporter.failed();
            reporter.report(Offline, Some(&one));
        }
        reporter.failed();
        reporter.report(Offline, Some(&two));
        reporter.report(Online, None);
        reporter.failed();
        reporter.report(Offline, Some(&one));
        let reported: Vec<_> =
            reported.lock().unwrap().iter().map(|s| (s.state, s.reason.is_some(), s.retries)).collect();
        let wanted =
            [(Connecting, false, 0), (Offline, true, 1), (Offline, true, 4), (Online, false, 0), (Offline, true, 1)];
        assert_eq!(reported, wanted);
    }
}
