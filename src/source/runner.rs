//! The thread of one source: `run` is the retry loop around `run_once`.

use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use gstreamer as gst;
use gstreamer::prelude::*;

use super::backoff::Backoff;
use super::control::Control;
use super::file;
use super::handover::Handover;
use super::local::LocalSpec;
use super::pipeline::{self, Fault, RtspSpec};
use super::status::Reporter;
use super::{Outcome, Outputs, SourceError};
use crate::config::{CameraConfig, SourceConfig};
use crate::types::{CameraName, CameraState, Url, redact_with};

/// Patience with a camera's first picture: many send a whole one only every ten seconds.
pub(super) const FIRST_FRAME: Duration = Duration::from_secs(15);
/// Patience with a file: a slow disk and a large picture are no fault.
const FILE_SILENCE: Duration = Duration::from_secs(60);
/// Wrong credentials are not tried more often than this: cameras lock accounts.
const AUTH_RETRY: Duration = Duration::from_secs(60);
/// A tear-down that takes longer is left to its thread.
const TEAR_DOWN: Duration = Duration::from_millis(1500);
/// So many tear-downs may hang before no new connection is made.
const HUNG: usize = 4;

pub(super) enum Input {
    Rtsp(RtspSpec),
    /// USB or CSI.
    Local(LocalSpec),
    File {
        path: PathBuf,
        looped: bool,
        realtime: bool,
    },
}

/// How one run ended.
enum End {
    Stopped,
    /// A file is over.
    Over,
    Failed(SourceError),
    /// A live camera has gone silent.
    Silent(SourceError),
}

pub(super) struct Runner {
    camera: CameraName,
    input: Input,
    no_frame: Duration,
    secrets: Vec<String>,
    control: Arc<Control>,
    outcome: Arc<OnceLock<Outcome>>,
    handover: Arc<Handover>,
    reporter: Reporter,
    backoff: Backoff,
    /// Tear-downs that did not end in time.
    hung: Vec<JoinHandle<()>>,
}

impl Runner {
    pub(super) fn new(
        camera: &CameraConfig,
        outputs: Outputs,
        control: Arc<Control>,
        outcome: Arc<OnceLock<Outcome>>,
    ) -> Self {
        let input = Input::new(&camera.source);
        let secrets = input.secrets();
        let live = !matches!(input, Input::File { .. });
        Self {
            camera: camera.name.clone(),
            input,
            no_frame: camera.reconnect.no_frame,
            secrets,
            control,
            outcome,
            handover: Arc::new(Handover::new(camera.name.clone(), &outputs, live)),
            reporter: Reporter::new(camera.name.clone(), outputs.status),
            backoff: Backoff::new(&camera.reconnect),
            hung: Vec::new(),
        }
    }

    /// Runs until the stop or, for a file played once, until its end. Closes the queue of frames.
    pub(super) fn run(mut self) {
        self.reporter.report(CameraState::Connecting, None);
        while !self.control.stopping() {
            let begin = Instant::now();
            let end = self.run_once();
            let online = if self.handover.count() > 0 { begin.elapsed() } else { Duration::ZERO };
            match self.after(end, online) {
                Some(wait) if self.control.wait(wait) => break,
                Some(_) => {}
                None => break,
            }
            // A silent camera was reported as such; now it is being called again.
            if self.reporter.state() == Some(CameraState::Stalled) {
                self.reporter.report(CameraState::Connecting, None);
            }
        }
        self.handover.close();
    }

    /// What follows: a wait before the next run, or (`None`) the end.
    fn after(&mut self, end: End, online: Duration) -> Option<Duration> {
        let once = matches!(self.input, Input::File { looped: false, .. });
        let (state, error) = match end {
            End::Stopped => return None,
            End::Over if once => return self.finish(None),
            End::Over => return Some(Duration::ZERO),
            End::Failed(error) if once => return self.finish(Some(error)),
            End::Failed(error @ SourceError::AuthFailed) => (CameraState::AuthFailed, error),
            End::Failed(error) => (CameraState::Offline, error),
            End::Silent(error) if once => return self.finish(Some(error)),
            End::Silent(error) => (CameraState::Stalled, error),
        };
        self.reporter.failed();
        self.reporter.report(state, Some(&error));
        self.backoff.ran(online);
        let wait = self.backoff.next_wait(random());
        Some(if state == CameraState::AuthFailed { wait.max(AUTH_RETRY) } else { wait })
    }

    fn finish(&mut self, error: Option<SourceError>) -> Option<Duration> {
        let outcome = error.clone().map_or(Outcome::Ended, Outcome::Failed);
        // Set before the report and before the queue closes: whoever learns of the end can ask how it came.
        let _ = self.outcome.set(outcome);
        self.reporter.report(CameraState::Ended, error.as_ref());
        None
    }

    /// One connection, or one pass through the file.
    fn run_once(&mut self) -> End {
        self.hung.retain(|thread| !thread.is_finished());
        if self.hung.len() >= HUNG {
            return End::Failed(SourceError::TearDown(self.hung.len()));
        }
        let handover = self.handover.clone();
        let callbacks = |bus| handover.new_run(bus);
        let built = match &self.input {
            Input::Rtsp(spec) => pipeline::rtsp(spec, callbacks),
            Input::Local(spec) => spec.pipeline(callbacks),
            Input::File { path, realtime, .. } => file::file(path, *realtime, callbacks),
        };
        let (pipeline, fault) = match built {
            Ok(built) => built,
            Err(error) => return End::Failed(error),
        };
        let Some(bus) = pipeline.bus() else {
            return End::Failed(SourceError::Build("a pipeline without a bus".into()));
        };
        self.control.watch(Some(bus.clone()));
        // A failed start has its reason on the bus.
        let started = pipeline.set_state(gst::State::Playing).is_ok();
        let end = self.watch(&bus, &fault, started);
        self.control.watch(None);
        // Reported before the tear-down, which may take its time with a frozen camera.
        if let End::Silent(error) = &end {
            self.reporter.report(CameraState::Stalled, Some(error));
        }
        self.tear_down(pipeline);
        end
    }

    /// Reads the bus until the run has an end.
    fn watch(&mut self, bus: &gst::Bus, fault: &Fault, started: bool) -> End {
        loop {
            if self.control.stopping() || self.handover.closed() {
                return End::Stopped;
            }
            if let Some(error) = fault.take() {
                return End::Failed(self.with_path(error));
            }
            if self.handover.count() > 0 && self.reporter.state() != Some(CameraState::Online) {
                self.reporter.report(CameraState::Online, None);
            }
            let (patience, silence) = (self.patience(), self.handover.silence());
            if silence >= patience {
                return End::Silent(match self.handover.count() {
                    0 => SourceError::NeverAFrame(patience),
                    _ => SourceError::Silent(patience),
                });
            }
            let wait = if started { patience - silence } else { Duration::ZERO };
            match bus.timed_pop(gst::ClockTime::from_nseconds(wait.as_nanos().min(u128::from(u64::MAX / 2)) as u64)) {
                Some(message) => {
                    if let Some(end) = self.message(&message, fault) {
                        return end;
                    }
                }
                None if !started => return End::Failed(SourceError::Build("the pipeline does not start".into())),
                None => {}
            }
        }
    }

    fn message(&self, message: &gst::Message, fault: &Fault) -> Option<End> {
        match message.view() {
            gst::MessageView::Eos(_) => Some(match &self.input {
                Input::Rtsp(_) | Input::Local(_) => End::Failed(SourceError::StreamEnded),
                Input::File { .. } if self.handover.count() > 0 => End::Over,
                Input::File { .. } => {
                    End::Failed(self.with_path(SourceError::NoVideo("not one picture could be decoded".into())))
                }
            }),
            // Our own word is more to the point than the "not-linked" that follows from it.
            gst::MessageView::Error(error) => Some(End::Failed(match (fault.explain(), &self.input) {
                (Some(fault), _) => self.with_path(fault),
                (None, Input::Rtsp(_) | Input::Local(_)) => SourceError::from_camera(error, &self.secrets),
                (None, Input::File { path, .. }) => SourceError::from_file(error, path),
            })),
            gst::MessageView::Warning(warning) => {
                tracing::debug!(camera = %self.camera, "{}", redact_with(warning.error().message(), &self.secrets));
                None
            }
            _ => None,
        }
    }

    /// How long nothing may come.
    fn patience(&self) -> Duration {
        match &self.input {
            Input::File { .. } => FILE_SILENCE,
            _ if self.handover.count() == 0 => FIRST_FRAME.max(self.no_frame),
            _ => self.no_frame,
        }
    }

    fn with_path(&self, error: SourceError) -> SourceError {
        match (&self.input, error) {
            (Input::File { path, .. }, SourceError::NoVideo(reason)) => {
                SourceError::File { path: path.clone(), reason }
            }
            (_, error) => error,
        }
    }

    /// Stops the pipeline in a thread of its own, because a frozen camera can hold it up.
    fn tear_down(&mut self, pipeline: gst::Pipeline) {
        let (done, finished) = sync_channel(1);
        let thread = std::thread::Builder::new().name(format!("end-{}", self.camera)).spawn({
            let pipeline = pipeline.clone();
            move || {
                let _ = pipeline.set_state(gst::State::Null);
                drop(pipeline);
                let _ = done.send(());
            }
        });
        let Ok(thread) = thread else {
            // No thread to be had: then here, without a bound.
            let _ = pipeline.set_state(gst::State::Null);
            return;
        };
        if finished.recv_timeout(TEAR_DOWN).is_ok() {
            let _ = thread.join();
        } else {
            tracing::warn!(camera = %self.camera, "the connection does not close within {TEAR_DOWN:?}: left to its thread");
            self.hung.push(thread);
        }
    }
}

impl Input {
    pub(super) fn new(source: &SourceConfig) -> Self {
        match source {
            SourceConfig::Rtsp { url, username, password, transport, latency } => {
                let parsed = Url::parse(url).ok();
                let (inline_name, inline_password) =
                    parsed.as_ref().map(|url| (url.username.clone(), url.password.clone())).unwrap_or_default();
                let username = username.clone().or(inline_name);
                // `rtspsrc` logs in only when both are set; a camera's password may be empty.
                let password = password.clone().or(inline_password).or(username.as_ref().map(|_| String::new()));
                Self::Rtsp(RtspSpec {
                    url: parsed.map_or_else(|| url.clone(), |url| url.without_credentials()),
                    username,
                    password,
                    transport: *transport,
                    latency: *latency,
                })
            }
            SourceConfig::Usb { device, format, capture } => {
                Self::Local(LocalSpec::Usb { device: device.clone(), format: *format, capture: *capture })
            }
            SourceConfig::Csi { sensor, capture } => Self::Local(LocalSpec::Csi { sensor: *sensor, capture: *capture }),
            SourceConfig::File { path, looped, realtime } => {
                Self::File { path: path.clone(), looped: *looped, realtime: *realtime }
            }
        }
    }
}

impl Input {
    /// What must not be repeated in a message.
    pub(super) fn secrets(&self) -> Vec<String> {
        match self {
            Self::Rtsp(spec) => spec.password.iter().cloned().collect(),
            Self::Local(_) | Self::File { .. } => Vec::new(),
        }
    }
}

/// Uniform in 0 ..= 1. Good enough to keep cameras out of step, and no crate for it.
fn random() -> f64 {
    RandomState::new().hash_one(0u8) as f64 / u64::MAX as f64
}
