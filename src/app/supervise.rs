//! The main thread while the service runs: reloads, statistics in the log, and the reasons to end.

use std::time::{Duration, Instant};

use super::camera::RunningCamera;
use super::reload::Reader;
use super::service::Service;
use super::watchdog::Event;
use crate::infer::Engine;
use crate::types::Ended;

/// Longest wait before the reasons to end are checked again.
const TICK: Duration = Duration::from_millis(500);

/// Why [`Service::wait`] returned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    Signal,
    /// Every camera is a file and has come to its end.
    AllEnded,
    /// A model can never be inferred in this process again, for this reason.
    EngineLost(Ended, String),
}

impl Service {
    /// Waits for a signal to stop or for the end of all files. Meanwhile it logs one line per camera and interval, and at
    /// each SIGHUP takes over the configuration that `read` gives.
    pub fn wait(&mut self, read: &Reader) -> Stop {
        let mut next = Instant::now() + self.config.stats_interval;
        loop {
            // First the cameras: a cancelled one ends, too.
            let ended = self.all_ended();
            if self.signals.cancel().is_cancelled() {
                return Stop::Signal;
            }
            if let Some((ended, reason)) = self.engines.values().find_map(Engine::fatal) {
                return Stop::EngineLost(ended, reason);
            }
            if ended {
                return Stop::AllEnded;
            }
            if self.signals.hangup(next.saturating_duration_since(Instant::now()).min(TICK)) {
                self.watchdog.notify(Event::Reloading(true));
                self.reload(read);
                self.watchdog.notify(Event::Reloading(false));
                next = Instant::now() + self.config.stats_interval;
            }
            if Instant::now() >= next {
                next += self.config.stats_interval;
                self.log_stats();
            }
        }
    }

    fn all_ended(&self) -> bool {
        let mut enabled = self.cameras.values().filter(|camera| camera.config.enabled).peekable();
        enabled.peek().is_some() && enabled.all(RunningCamera::is_finished)
    }

    fn log_stats(&self) {
        let stats = self.registry.snapshot();
        let backend_of = |name: &str| {
            let (_, camera) = self.cameras.iter().find(|(camera, _)| &***camera == name)?;
            Some(stats.models.get(&camera.config.detect.model)?.model.as_ref()?.backend.as_str())
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
}
