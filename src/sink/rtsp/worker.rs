//! The thread `view-<camera>`: delays frames until their boxes are known, draws, and feeds the encoder.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use gstreamer as gst;
use gstreamer_video as gst_video;

use super::encoder_input::EncoderInput;
use super::shared::{Input, Known, Shared};
use super::timeline::Timeline;
use crate::annotate::{self, FORGET, Matcher};
use crate::frame::Frame;
use crate::queue::{Receiver, RecvError};
use crate::types::{CameraState, FrameMeta, FrameResult, Size};

/// A still picture is sent again after this long, so that viewers do not time out.
const REPEAT: Duration = Duration::from_secs(1);
/// The same while the media is being prepared: DESCRIBE waits for encoder output, and the first picture may be lost.
const PREPARE_REPEAT: Duration = Duration::from_millis(250);
/// A media that does not run after this time is logged.
const PREPARE_SLOW: Duration = Duration::from_secs(3);
/// Without a reported state, a camera counts as away when its last frame is older than this.
const FRESH: Duration = Duration::from_secs(3);
/// Without viewers the thread sleeps until it is woken.
const IDLE: Duration = Duration::from_secs(3600);
/// Bytes of frames that may wait for their boxes.
const HELD_BYTES: usize = 64 << 20;
/// Size of the picture of a camera that never sent a frame.
const SLATE_SIZE: Size = Size::new(1280, 720);

/// The "no signal" picture, kept so that it is drawn only once.
struct Slate {
    frame: Frame,
    detail: String,
}

pub(super) struct Worker {
    shared: Arc<Shared>,
    input: Receiver<Input>,
    matcher: Matcher<Frame>,
    encoder_input: Option<EncoderInput>,
    timeline: Timeline,
    /// The layout that was set on the encoder.
    format: Option<gst_video::VideoInfo>,
    slate: Option<Slate>,
    last_push: Instant,
    /// Since when the current media is being prepared; `None` once it runs.
    preparing: Option<Instant>,
    /// Why the camera has no picture, as shown now.
    away: Option<String>,
}

impl Worker {
    pub(super) fn new(shared: Arc<Shared>, input: Receiver<Input>, max_delay: Duration) -> Self {
        Self {
            shared,
            input,
            matcher: Matcher::new(max_delay, 8),
            encoder_input: None,
            timeline: Timeline::default(),
            format: None,
            slate: None,
            last_push: Instant::now(),
            preparing: None,
            away: None,
        }
    }

    pub(super) fn run(&mut self) {
        loop {
            let now = Instant::now();
            match self.input.recv_timeout(self.wait(now)) {
                Ok(Input::Frame(frame)) if self.encoder_input.is_some() => self.hold(frame, Instant::now()),
                Ok(Input::Frame(_)) => {}
                Ok(Input::Result(result)) => self.matcher.result(result, Instant::now()),
                Err(RecvError::Timeout | RecvError::Woken) => {}
                Err(RecvError::Closed) => return,
            }
            self.follow_encoder();
            self.follow_start(Instant::now());
            self.release();
            self.fill_silence(Instant::now());
        }
    }

    /// Time until the next frame is due, if no input comes.
    fn wait(&self, now: Instant) -> Duration {
        if self.encoder_input.is_none() {
            return IDLE;
        }
        let due = self.matcher.next_deadline(now).unwrap_or(self.last_push + self.repeat());
        due.saturating_duration_since(now)
    }

    fn repeat(&self) -> Duration {
        if self.preparing.is_some() { PREPARE_REPEAT } else { REPEAT }
    }

    /// Notices that the media runs; logs once when that takes long.
    fn follow_start(&mut self, now: Instant) {
        let (Some(since), Some(encoder_input)) = (self.preparing, &self.encoder_input) else { return };
        if encoder_input.running_time().is_some() {
            self.preparing = None;
        } else if now.saturating_duration_since(since) >= PREPARE_SLOW {
            self.preparing = None;
            tracing::warn!(camera = %self.shared.camera, source = %encoder_input.state(),
                "viewers wait: the stream's encoder does not start");
        }
    }

    /// Switches to the media that viewers use now, and sends a first picture at once: DESCRIBE would hang without one.
    fn follow_encoder(&mut self) {
        let current = self.shared.encoder_input();
        let generation = |encoder_input: &Option<EncoderInput>| encoder_input.as_ref().map(|o| o.generation);
        if generation(&current) == generation(&self.encoder_input) {
            return;
        }
        self.matcher.clear();
        self.timeline = Timeline::default();
        self.format = None;
        self.away = None;
        self.encoder_input = current;
        self.preparing = self.encoder_input.is_some().then(Instant::now);
        if self.encoder_input.is_some() {
            let known = self.shared.known();
            if let Some(result) = &known.result {
                self.matcher.result(result.clone(), Instant::now());
            }
            self.still(known);
        }
    }

    fn hold(&mut self, frame: Frame, now: Instant) {
        self.matcher.set_capacity((HELD_BYTES / frame.info().size().max(1)).clamp(2, 64));
        self.matcher.push(frame.meta.seq, frame.meta.pts_ns, frame, now);
    }

    fn release(&mut self) {
        while let Some(released) = self.matcher.pop(Instant::now()) {
            self.away = None;
            self.show(released.frame, released.result.as_deref(), Some(released.pts_ns));
        }
    }

    /// Sends a still picture after a second without frames, or when the reason for their absence has changed.
    fn fill_silence(&mut self, now: Instant) {
        if self.encoder_input.is_none() || !self.matcher.is_empty() {
            return;
        }
        let known = self.shared.known();
        let changed = self.away.is_some() && away(&known) != self.away;
        if changed || now.saturating_duration_since(self.last_push) >= self.repeat() {
            self.still(known);
        }
    }

    /// Sends the last frame of an online camera, else the "no signal" picture.
    fn still(&mut self, known: Known) {
        self.away = away(&known);
        match (&self.away, known.frame) {
            (None, Some(frame)) => {
                let result =
                    known.result.filter(|r| r.meta.pts_ns.abs_diff(frame.meta.pts_ns) <= FORGET.as_nanos() as u64);
                self.show(frame, result.as_deref(), None);
            }
            (detail, frame) => {
                let detail = detail.clone().unwrap_or_else(|| CameraState::Connecting.as_str().to_owned());
                if let Some(slate) = self.slate(detail, frame.as_ref()) {
                    self.show(slate, None, None);
                }
            }
        }
    }

    /// The "no signal" picture, in the layout of the last frame so that the encoder need not restart.
    fn slate(&mut self, detail: String, last: Option<&Frame>) -> Option<Frame> {
        let info = match last {
            Some(frame) => frame.info().clone(),
            None => gst_video::VideoInfo::builder(gst_video::VideoFormat::I420, SLATE_SIZE.w, SLATE_SIZE.h)
                .fps(gst::Fraction::new(25, 1))
                .build()
                .ok()?,
        };
        if let Some(slate) = self.slate.as_ref().filter(|s| s.detail == detail && *s.frame.info() == info) {
            return Some(slate.frame.clone());
        }
        let mut frame = blank(&self.shared, info)?;
        let text = format!("{}: {detail}", self.shared.camera);
        frame.paint(|view| annotate::slate(view, "NO SIGNAL", &text)).ok()?;
        self.slate = Some(Slate { frame: frame.clone(), detail });
        Some(frame)
    }

    /// Draws and encodes one picture; `pts_ns` is the camera's time stamp.
    fn show(&mut self, mut frame: Frame, result: Option<&FrameResult>, pts_ns: Option<u64>) {
        let Some(encoder_input) = self.encoder_input.clone() else { return };
        self.last_push = Instant::now();
        let info = frame.info().clone();
        if encoder_input.is_full(info.size()) {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        // A result from before a change of resolution has other coordinates.
        let result = result.filter(|r| r.meta.size == frame.meta.size && !r.detections.is_empty());
        if let Some(result) = result
            && let Err(error) = frame.paint(|view| annotate::draw(view, &result.detections, &result.model))
        {
            tracing::debug!(camera = %self.shared.camera, %error, "frame shown without boxes");
        }
        if self.format.as_ref() != Some(&info) {
            if let Err(error) = encoder_input.set_format(&info) {
                tracing::error!(camera = %self.shared.camera, %error, "cannot set the video's format on the encoder");
                return;
            }
            self.format = Some(info);
        }
        let stamp = self.timeline.stamp(pts_ns, encoder_input.running_time());
        let mut buffer = frame.into_buffer();
        {
            // Copies the header with the time stamps; the pixels stay shared.
            let header = buffer.make_mut();
            header.set_pts(gst::ClockTime::from_nseconds(stamp));
            header.set_dts(gst::ClockTime::NONE);
            header.set_duration(gst::ClockTime::NONE);
        }
        match encoder_input.push(buffer) {
            Ok(()) => {
                self.shared.pushed.fetch_add(1, Ordering::Relaxed);
            }
            // The media is being removed, which detaches it, or does not run yet, and gets the next picture.
            Err(flow) => tracing::debug!(camera = %self.shared.camera, ?flow, "the encoder did not accept a picture"),
        }
    }
}

/// Why the camera has no picture now; `None` when it has one.
fn away(known: &Known) -> Option<String> {
    let state = known.status.as_ref().map(|s| s.state);
    match (state, &known.frame) {
        (Some(CameraState::Online), Some(_)) => None,
        (None, Some(frame)) if frame.meta.captured.elapsed() < FRESH => None,
        (None | Some(CameraState::Online), _) => Some(CameraState::Connecting.as_str().to_owned()),
        (Some(state), _) => Some(state.as_str().replace('_', " ")),
    }
}

fn blank(shared: &Shared, info: gst_video::VideoInfo) -> Option<Frame> {
    let meta = FrameMeta {
        camera: shared.camera.clone(),
        seq: 0,
        pts_ns: 0,
        captured_at: SystemTime::now(),
        captured: Instant::now(),
        size: Size::new(info.width(), info.height()),
    };
    let buffer = gst::Buffer::with_size(info.size()).ok()?;
    Frame::new(meta, buffer, info).ok()
}
