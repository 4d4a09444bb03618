//! The thread of one source: `run` is the retry loop around `run_once`.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use gstreamer as gst;
use gstreamer::prelude::*;

use super::backoff::Backoff;
use super::decoder::decoding;
use super::error::SourceError;
use super::handover::Handover;
use super::input::Input;
use super::outputs::{Facts, Outcome, Outputs};
use super::pipeline::{Draft, Fault, wake};
use super::status::Reporter;
use crate::cancel::{self, Cancel};
use crate::config::CameraConfig;
use crate::types::{CameraName, CameraState, redact_with};

/// Wrong credentials are not tried more often than this: cameras lock accounts.
const AUTH_RETRY: Duration = Duration::from_secs(60);
/// A tear-down that takes longer is left to its thread.
const TEAR_DOWN: Duration = Duration::from_millis(1500);
/// With this many hanging tear-downs no new connection is made.
const HUNG: usize = 4;

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
    cancel: Cancel,
    facts: Arc<Facts>,
    handover: Arc<Handover>,
    reporter: Reporter,
    backoff: Backoff,
    /// Tear-downs that did not end in time.
    hung: Vec<JoinHandle<()>>,
}

impl Runner {
    pub(super) fn new(camera: &CameraConfig, outputs: Outputs, cancel: Cancel, facts: Arc<Facts>) -> Self {
        let input = Input::new(&camera.source);
        Self {
            camera: camera.name.clone(),
            no_frame: camera.reconnect.no_frame,
            cancel,
            facts,
            handover: Arc::new(Handover::new(camera.name.clone(), &outputs, input.is_live())),
            input,
            reporter: Reporter::new(camera.name.clone(), outputs.status),
            backoff: Backoff::new(&camera.reconnect),
            hung: Vec::new(),
        }
    }

    /// Runs until it is cancelled or, for a file played once, until its end. Then closes the queue of frames.
    pub(super) fn run(mut self) {
        self.reporter.report(CameraState::Connecting, None);
        while !self.cancel.is_cancelled() {
            let begin = Instant::now();
            let end = self.run_once();
            let online = if self.handover.count() > 0 { begin.elapsed() } else { Duration::ZERO };
            match self.after(end, online) {
                Some(wait) if !self.cancel.sleep(wait) => {}
                _ => break,
            }
            // A silent camera was reported as stalled; now a new attempt begins.
            if self.reporter.state() == Some(CameraState::Stalled) {
                self.reporter.report(CameraState::Connecting, None);
            }
        }
        self.handover.close();
        if self.hung.iter().any(|thread| !thread.is_finished()) {
            cancel::leave_behind();
        }
    }

    /// The wait before the next run; `None` ends the source.
    fn after(&mut self, end: End, online: Duration) -> Option<Duration> {
        let once = self.input.plays_once();
        let (state, error) = match end {
            End::Stopped => return None,
            End::Over if once => return self.finish(None),
            End::Over => return Some(Duration::ZERO),
            End::Failed(error) | End::Silent(error) if once => return self.finish(Some(error)),
            End::Failed(error @ SourceError::AuthFailed) => (CameraState::AuthFailed, error),
            End::Failed(error) => (CameraState::Offline, error),
            End::Silent(error) => (CameraState::Stalled, error),
        };
        self.reporter.failed();
        self.reporter.report(state, Some(&error));
        let wait = self.backoff.next_wait(online, fastrand::f64());
        Some(if state == CameraState::AuthFailed { wait.max(AUTH_RETRY) } else { wait })
    }

    fn finish(&mut self, error: Option<SourceError>) -> Option<Duration> {
        let outcome = error.clone().map_or(Outcome::Ended, Outcome::Failed);
        // Set before the report and before the queue closes: a reader that sees the end can ask for the reason.
        let _ = self.facts.outcome.set(outcome);
        self.reporter.report(CameraState::Ended, error.as_ref());
        None
    }

    /// One connection, or one pass through the file.
    fn run_once(&mut self) -> End {
        self.hung.retain(|thread| !thread.is_finished());
        if self.hung.len() >= HUNG {
            return End::Failed(SourceError::TearDown(self.hung.len()));
        }
        let draft = match self.input.build(|bus| self.handover.new_run(bus)) {
            Ok(draft) => draft,
            Err(error) => return End::Failed(error),
        };
        let Some(bus) = draft.pipeline.bus() else {
            return End::Failed(SourceError::Build("a pipeline without a bus".into()));
        };
        let woken = bus.clone();
        let waking = self.cancel.on_cancel(move |_| wake(&woken));
        // A failed start has its reason on the bus.
        let started = draft.pipeline.set_state(gst::State::Playing).is_ok();
        let end = self.watch(&draft, &bus, started);
        drop(waking);
        if self.handover.count() > 0 {
            // A short file may end before it was seen online.
            let _ = self.facts.decoding.set(decoding(&draft.pipeline));
        }
        // Reported before the tear-down, which may be slow with a frozen camera.
        if let End::Silent(error) = &end {
            self.reporter.report(CameraState::Stalled, Some(error));
        }
        self.tear_down(draft.pipeline);
        end
    }

    /// Reads the bus until the run ends.
    fn watch(&mut self, draft: &Draft, bus: &gst::Bus, started: bool) -> End {
        loop {
            if self.cancel.is_cancelled() || self.handover.closed() {
                return End::Stopped;
            }
            if let Some(error) = draft.fault.take() {
                return End::Failed(self.input.named(error));
            }
            let frames = self.handover.count();
            if frames > 0 && self.reporter.state() != Some(CameraState::Online) {
                let _ = self.facts.decoding.set(decoding(&draft.pipeline));
                self.reporter.report(CameraState::Online, None);
            }
            let (timeout, silence) = (self.input.silence_timeout(frames, self.no_frame), self.handover.silence());
            if silence >= timeout {
                return End::Silent(match frames {
                    0 => SourceError::NeverAFrame(timeout),
                    _ => SourceError::Silent(timeout),
                });
            }
            let wait = if started { timeout - silence } else { Duration::ZERO };
            match bus.timed_pop(gst::ClockTime::from_nseconds(wait.as_nanos().min(u128::from(u64::MAX / 2)) as u64)) {
                Some(message) => {
                    if let Some(end) = self.message(&message, &draft.fault) {
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
            gst::MessageView::Eos(_) => Some(self.input.ended(self.handover.count()).map_or(End::Over, End::Failed)),
            gst::MessageView::Error(error) => Some(End::Failed(self.input.error(error, fault))),
            gst::MessageView::Warning(warning) => {
                let text = redact_with(warning.error().message(), self.input.secrets());
                tracing::debug!(camera = %self.camera, "{text}");
                None
            }
            _ => None,
        }
    }

    /// Stops the pipeline in a thread of its own, because a frozen camera can hold it up.
    fn tear_down(&mut self, pipeline: gst::Pipeline) {
        let thread = std::thread::Builder::new().name(format!("end-{}", self.camera)).spawn({
            let pipeline = pipeline.clone();
            move || {
                let _ = pipeline.set_state(gst::State::Null);
            }
        });
        let Ok(thread) = thread else {
            // Without a thread: here, unbounded.
            let _ = pipeline.set_state(gst::State::Null);
            return;
        };
        let hung = self.cancel.join(TEAR_DOWN, vec![thread]);
        if !hung.is_empty() {
            tracing::warn!(camera = %self.camera, "closing the connection takes too long: left to a thread");
            self.hung.extend(hung);
        }
    }
}
