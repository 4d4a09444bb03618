//! The thread `vitals`: looks whether frames are still finished, and tells the service manager what goes on.
//!
//! What systemd hears: `READY=1` once every model has run, a `STATUS=` line, `WATCHDOG=1` while detection goes on or waits
//! for something known, `EXTEND_TIMEOUT_USEC` while the model loads or an engine is built, `RELOADING=1`, `STOPPING=1`.
//! Without systemd the same look at the frames still makes health tell what is stuck.

use std::fmt::Write as _;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use super::pulse::Pulse;
use crate::telemetry::{EngineReport, Registry, StatsSnapshot};
use crate::types::{CameraState, EngineState};

/// How often the thread looks, unless the watchdog is impatient.
const TICK: Duration = Duration::from_secs(1);
/// How often the status line is made anew.
const STATUS: Duration = Duration::from_secs(5);
/// Each tick of a start asks for this much more time.
const EXTENSION: Duration = Duration::from_secs(30);
/// A start that takes longer than this gets no extension any more: it hangs.
const LONGEST_START: Duration = Duration::from_secs(45 * 60);
/// A frame in work for less than this is never stuck.
const PATIENCE: Duration = Duration::from_secs(10);
/// A frame in work for longer than this is, however slow the machine.
const LONGEST_PATIENCE: Duration = Duration::from_secs(120);
/// Name of the fault that a stuck camera is.
const FAULT: &str = "watchdog";

/// What the service is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// The model is being loaded.
    Starting,
    /// Every model has run once, which took `loaded`, loading included.
    Running {
        /// The measure of what is slow on this machine.
        loaded: Duration,
    },
    /// The end.
    Stopping,
}

#[derive(Debug, Clone, Copy)]
struct State {
    phase: Phase,
    reloading: bool,
    over: bool,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }
}

/// The thread `vitals`.
pub(super) struct Vitals {
    registry: Registry,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Vitals {
    pub(super) fn start(registry: Registry) -> std::io::Result<Self> {
        let state = State { phase: Phase::Starting, reloading: false, over: false };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let (watched, watcher_registry) = (shared.clone(), registry.clone());
        let thread = std::thread::Builder::new().name("vitals".into()).spawn(move || {
            let watchdog = sd_notify::watchdog_enabled();
            Watcher {
                registry: watcher_registry,
                shared: watched,
                watchdog,
                pulse: Pulse::default(),
                said: String::new(),
            }
            .run();
        })?;
        Ok(Self { registry, shared, thread: Some(thread) })
    }

    /// What is said of a phase is said before this returns.
    pub(super) fn enter(&self, phase: Phase) {
        self.shared.change(|state| state.phase = phase);
        match phase {
            // In one message: `systemctl start` returns with it, and the status is there.
            Phase::Running { .. } => {
                tell(&[NotifyState::Status(&status_line(&self.registry.snapshot())), NotifyState::Ready]);
            }
            Phase::Stopping => tell(&[NotifyState::Stopping]),
            Phase::Starting => {}
        }
    }

    /// Between the two calls a reload is under way.
    pub(super) fn reloading(&self, on: bool) {
        self.shared.change(|state| state.reloading = on);
        match (on, NotifyState::monotonic_usec_now()) {
            (true, Ok(now)) => tell(&[NotifyState::Reloading, now]),
            (true, Err(_)) => tell(&[NotifyState::Reloading]),
            (false, _) => tell(&[NotifyState::Ready]),
        }
    }

    /// Ends the thread.
    pub(super) fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.shared.change(|state| state.over = true);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread vitals panicked; please report this");
        }
    }
}

impl Drop for Vitals {
    fn drop(&mut self) {
        self.end();
    }
}

/// Nobody listens outside systemd, and a message that is lost is followed by the next.
fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!("the service manager does not listen: {error}");
    }
}

struct Watcher {
    registry: Registry,
    shared: Arc<Shared>,
    /// After this much silence the service manager kills us.
    watchdog: Option<Duration>,
    pulse: Pulse,
    /// The status line that was sent last.
    said: String,
}

impl Watcher {
    fn run(mut self) {
        let tick = self.watchdog.map_or(TICK, |patience| TICK.min(patience / 4));
        let begun = Instant::now();
        let mut next_status = begun;
        let mut stuck = None;
        loop {
            let now = Instant::now();
            let state = *self.shared.lock();
            if state.over {
                return;
            }
            match state.phase {
                Phase::Starting if begun.elapsed() < LONGEST_START => {
                    tell(&[NotifyState::ExtendTimeoutUsec(EXTENSION.as_micros() as u32)]);
                }
                Phase::Starting | Phase::Stopping => {}
                Phase::Running { loaded } => {
                    let limit = (loaded * 4).clamp(PATIENCE, LONGEST_PATIENCE);
                    let found = if self.registry.engine_waits() {
                        // Frames wait for the next backend, which has limits of its own.
                        self.pulse = Pulse::default();
                        None
                    } else {
                        self.pulse.check(now, limit, self.registry.beats())
                    };
                    self.judge(&mut stuck, found);
                    // Threads come and go during a reload, and a new model may be long in loading.
                    if stuck.is_none() || state.reloading {
                        tell(&[NotifyState::Watchdog]);
                    }
                }
            }
            if now >= next_status {
                next_status = now + STATUS;
                self.say(state.phase, begun);
            }
            let state = self.shared.lock();
            if !state.over {
                let _ = self.shared.changed.wait_timeout(state, tick).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// Tells log and health when something gets stuck, and when it comes back.
    fn judge(&self, stuck: &mut Option<String>, found: Option<String>) {
        match (&*stuck, &found) {
            (None, Some(why)) => {
                tracing::error!("{why}; the watchdog is not fed until frames are finished again");
            }
            (Some(_), None) => tracing::warn!("frames are finished again"),
            _ => {}
        }
        if *stuck != found {
            self.registry.fault(FAULT, found.clone());
            *stuck = found;
        }
    }

    fn say(&mut self, phase: Phase, begun: Instant) {
        let line = match phase {
            Phase::Starting => format!("starting: loading the model, {} s", begun.elapsed().as_secs()),
            Phase::Running { .. } => status_line(&self.registry.snapshot()),
            Phase::Stopping => "stopping".into(),
        };
        if line != self.said {
            tell(&[NotifyState::Status(&line)]);
            self.said = line;
        }
    }
}

/// One line for `systemctl status`: `cpu (ONNX Runtime 1.24.4), 2 of 3 cameras online, 49.8 fps; dock is offline: …`.
fn status_line(stats: &StatsSnapshot) -> String {
    let several = stats.models.len() > 1;
    let engine = |(name, EngineReport { model, engine }): (&String, &EngineReport)| {
        let mut words = if several { format!("{name}: ") } else { String::new() };
        // Writing to a String cannot fail; here and below.
        let _ = match model {
            Some(model) => write!(words, "{} ({})", model.backend, model.backend_version),
            None => write!(words, "no model"),
        };
        let _ = match (&engine.build, engine.state) {
            (Some(build), _) => write!(words, ", {} engine being built for {} s", build.backend, build.elapsed_s),
            (None, EngineState::Serving | EngineState::Loading) => Ok(()),
            (None, state) => write!(words, ", inference {}", state.as_str()),
        };
        words
    };
    let engines: Vec<String> = stats.models.iter().map(engine).collect();
    let mut line = if engines.is_empty() { "no model".into() } else { engines.join("; ") };
    let used: Vec<_> = stats.cameras.iter().filter(|(_, camera)| camera.state != CameraState::Disabled).collect();
    let online = used.iter().filter(|(_, camera)| camera.state == CameraState::Online).count();
    let fps: f64 = used.iter().map(|(_, camera)| camera.detect_fps).sum();
    let _ = match used.len() {
        0 => write!(line, ", no camera configured"),
        all => write!(line, ", {online} of {all} cameras online, {fps:.1} fps"),
    };
    let away = used.iter().find(|(_, camera)| !matches!(camera.state, CameraState::Online | CameraState::Ended));
    if let Some((name, camera)) = away {
        let _ = write!(line, "; {name} is {}", camera.state.as_str());
        if let Some(reason) = &camera.reason {
            let _ = write!(line, ": {reason}");
        }
    }
    // A line break would end the message's field.
    line.replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{BackendKind, BuildProgress, CameraStatus, DEFAULT_MODEL, EngineStatus, ModelId};
    use std::time::SystemTime;

    #[test]
    fn the_status_line_tells_backend_cameras_and_the_first_that_is_away() {
        let registry = Registry::new("n");
        assert_eq!(status_line(&registry.snapshot()), "no model, no camera configured");
        let status = |camera: &str, state, reason: Option<&str>| CameraStatus {
            camera: camera.into(),
            state,
            since: SystemTime::UNIX_EPOCH,
            reason: reason.map(Into::into),
            retries: 0,
        };
        registry.camera_status(&status("dock", CameraState::Offline, Some("connection\nrefused")));
        registry.camera_status(&status("gate", CameraState::Online, None));
        registry.camera_status(&status("off", CameraState::Disabled, None));
        assert_eq!(
            status_line(&registry.snapshot()),
            "no model, 1 of 2 cameras online, 0.0 fps; dock is offline: connection refused"
        );
    }

    #[test]
    fn the_status_line_tells_of_a_build_and_of_inference_that_fails() {
        let registry = Registry::new("n");
        let model = Arc::new(ModelId { name: "m".into(), sha256: String::new(), labels: vec![] });
        let build = BuildProgress {
            backend: BackendKind::Tensorrt,
            phase: "building".into(),
            elapsed: Duration::from_secs(37),
            expected: None,
        };
        let building = EngineStatus { state: EngineState::Building, build: Some(build), ..EngineStatus::default() };
        registry.engine_status(DEFAULT_MODEL, &model, &building);
        assert!(registry.engine_waits());
        let line = status_line(&registry.snapshot());
        assert_eq!(line, "no model, tensorrt engine being built for 37 s, no camera configured");
        registry.engine_status(
            DEFAULT_MODEL,
            &model,
            &EngineStatus { state: EngineState::Degraded, ..EngineStatus::default() },
        );
        assert!(!registry.engine_waits());
        assert_eq!(status_line(&registry.snapshot()), "no model, inference degraded, no camera configured");
    }
}
