//! The thread `watchdog`: checks that frames are still finished, and notifies the service manager.
//!
//! systemd gets `READY=1` once every model has run, a `STATUS=` line, `WATCHDOG=1` while detection makes progress or waits
//! for a known reason, `EXTEND_TIMEOUT_USEC` while a model loads or an engine is built, `RELOADING=1` and `STOPPING=1`.
//! Without systemd the same check still makes health report a stuck camera.

use std::fmt::Write as _;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use super::stall::StallCheck;
use crate::telemetry::{EngineReport, Registry, StatsSnapshot};
use crate::types::{CameraState, EngineState};

/// Time between two checks, unless the service manager's watchdog needs a shorter one.
const TICK: Duration = Duration::from_secs(1);
/// Time between two status lines.
const STATUS: Duration = Duration::from_secs(5);
/// Each check during the start asks for this much more time.
const EXTENSION: Duration = Duration::from_secs(30);
/// A start that takes longer than this gets no extension any more: it hangs.
const LONGEST_START: Duration = Duration::from_secs(45 * 60);
/// A frame is stuck after four times the time that the models took to load, within these bounds.
const STUCK_AFTER: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(120));
/// Name of the fault of a stuck camera.
const FAULT: &str = "watchdog";

/// What the service does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// The engines were started in `loaded`; they have run their models, or build what they need.
    Started {
        loaded: Duration,
    },
    /// A reload begins (true) or ends.
    Reloading(bool),
    Stopping,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Models are loaded, or their engines are built.
    Starting,
    /// Every model has run.
    Running,
    Stopping,
}

/// The thread `watchdog`. Dropping it ends the thread.
pub(super) struct Watchdog {
    events: Option<SyncSender<Event>>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    pub(super) fn start(registry: Registry) -> std::io::Result<Self> {
        let (events, received) = sync_channel(8);
        let thread = std::thread::Builder::new().name("watchdog".into()).spawn(move || {
            let now = Instant::now();
            let watch = Watch {
                registry,
                begun: now,
                phase: Phase::Starting,
                loaded: None,
                reloading: false,
                check: StallCheck::default(),
                stuck: None,
                next_status: now,
                status: String::new(),
            };
            watch.run(&received);
        })?;
        Ok(Self { events: Some(events), thread: Some(thread) })
    }

    pub(super) fn notify(&self, event: Event) {
        if let Some(events) = &self.events {
            // The thread lives as long as this.
            let _ = events.send(event);
        }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.events = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread watchdog panicked; please report this");
        }
    }
}

/// Does nothing outside systemd. A lost message is followed by the next.
fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!("the service manager cannot be notified: {error}");
    }
}

struct Watch {
    registry: Registry,
    begun: Instant,
    phase: Phase,
    /// How long the engines took to start; the measure of what is slow on this machine.
    loaded: Option<Duration>,
    reloading: bool,
    check: StallCheck,
    /// What is stuck.
    stuck: Option<String>,
    next_status: Instant,
    /// The status line that was sent last.
    status: String,
}

impl Watch {
    /// Runs until the sender of events is dropped.
    fn run(mut self, events: &Receiver<Event>) {
        let tick = sd_notify::watchdog_enabled().map_or(TICK, |timeout| TICK.min(timeout / 4));
        loop {
            self.look(Instant::now());
            match events.recv_timeout(tick) {
                Ok(event) => self.event(event),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Started { loaded } => self.loaded = Some(loaded),
            Event::Stopping => {
                self.phase = Phase::Stopping;
                send(&[NotifyState::Stopping]);
            }
            Event::Reloading(on) => {
                self.reloading = on;
                // Before the first READY=1 the service manager still waits for the start.
                match (on, NotifyState::monotonic_usec_now()) {
                    _ if self.phase != Phase::Running => {}
                    (true, Ok(now)) => send(&[NotifyState::Reloading, now]),
                    (true, Err(_)) => send(&[NotifyState::Reloading]),
                    (false, _) => send(&[NotifyState::Ready]),
                }
            }
        }
    }

    fn look(&mut self, now: Instant) {
        if self.phase == Phase::Starting && self.loaded.is_some() && self.registry.all_models_have_run() {
            self.phase = Phase::Running;
            self.status = status_line(&self.registry.snapshot());
            // In one message: `systemctl start` returns with it, and the status is there.
            send(&[NotifyState::Status(&self.status), NotifyState::Ready]);
        }
        if self.phase == Phase::Starting && now.duration_since(self.begun) < LONGEST_START {
            send(&[NotifyState::ExtendTimeoutUsec(EXTENSION.as_micros() as u32)]);
        }
        if let (Phase::Starting | Phase::Running, Some(loaded)) = (self.phase, self.loaded) {
            let (least, most) = STUCK_AFTER;
            let stuck = self.check.stuck(now, (loaded * 4).clamp(least, most), self.registry.progress());
            self.report(stuck);
        }
        // Threads come and go during a reload, and a new model may load slowly.
        if self.phase == Phase::Running && (self.stuck.is_none() || self.reloading) {
            send(&[NotifyState::Watchdog]);
        }
        if now >= self.next_status {
            self.next_status = now + STATUS;
            self.send_status(now);
        }
    }

    /// Reports to log and health when a camera gets stuck, and when it recovers.
    fn report(&mut self, stuck: Option<String>) {
        match (&self.stuck, &stuck) {
            (None, Some(why)) => tracing::error!("{why}; no watchdog notification until frames are finished again"),
            (Some(_), None) => tracing::warn!("frames are finished again"),
            _ => {}
        }
        if self.stuck != stuck {
            self.registry.fault(FAULT, stuck.clone());
            self.stuck = stuck;
        }
    }

    fn send_status(&mut self, now: Instant) {
        let line = match (self.phase, self.loaded) {
            (Phase::Starting, None) => {
                format!("starting: loading the model, {} s", now.duration_since(self.begun).as_secs())
            }
            (Phase::Stopping, _) => "stopping".into(),
            _ => status_line(&self.registry.snapshot()),
        };
        if line != self.status {
            send(&[NotifyState::Status(&line)]);
            self.status = line;
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
    use std::sync::Arc;
    use std::time::SystemTime;

    #[test]
    fn the_status_line_shows_backend_cameras_and_the_first_that_is_away() {
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
    fn the_status_line_shows_a_build_and_failing_inference() {
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
        assert!(registry.engine_waits(DEFAULT_MODEL) && !registry.all_models_have_run());
        let line = status_line(&registry.snapshot());
        assert_eq!(line, "no model, tensorrt engine being built for 37 s, no camera configured");
        registry.engine_status(
            DEFAULT_MODEL,
            &model,
            &EngineStatus { state: EngineState::Degraded, ..EngineStatus::default() },
        );
        assert!(!registry.engine_waits(DEFAULT_MODEL));
        assert_eq!(status_line(&registry.snapshot()), "no model, inference degraded, no camera configured");
    }
}
