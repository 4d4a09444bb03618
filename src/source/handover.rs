//! From GStreamer's thread to the reader: a frame is numbered, stamped and handed over. No wait (except for files of which
//! every frame counts), no log, no lock held across a foreign call.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use gstreamer as gst;
use gstreamer_app as gst_app;
use gstreamer_video as gst_video;

use super::outputs::{FrameTap, Outputs};
use super::pipeline::wake;
use super::pts::PtsLine;
use crate::frame::Frame;
use crate::queue;
use crate::types::{CameraName, FrameMeta, Size};

/// The state of one source that outlives its runs.
pub(super) struct Handover {
    camera: CameraName,
    frames: queue::Sender<Frame>,
    tap: Option<Arc<dyn FrameTap>>,
    live: bool,
    start: Instant,
    line: Mutex<Line>,
    /// The run whose frames count; frames of one that hangs in its tear-down are refused.
    run: AtomicU64,
    /// Frames of the current run.
    count: AtomicU64,
    /// When the last frame came or its hand-over ended, nanoseconds since `start`.
    last: AtomicU64,
    /// The callback waits for a slow reader.
    waiting: AtomicBool,
    /// The reader has closed the queue.
    closed: AtomicBool,
}

#[derive(Default)]
struct Line {
    seq: u64,
    pts: PtsLine,
    last: Option<Instant>,
}

impl Handover {
    pub(super) fn new(camera: CameraName, outputs: &Outputs, live: bool) -> Self {
        Self {
            camera,
            frames: outputs.frames.clone(),
            tap: outputs.tap.clone(),
            live,
            start: Instant::now(),
            line: Mutex::default(),
            run: AtomicU64::new(0),
            count: AtomicU64::new(0),
            last: AtomicU64::new(0),
            waiting: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        }
    }

    /// Starts a run: frames of earlier ones are refused from now on. Returns the callbacks for its `appsink`.
    pub(super) fn new_run(self: &Arc<Self>, bus: gst::Bus) -> gst_app::AppSinkCallbacks {
        let run = self.run.fetch_add(1, Ordering::AcqRel) + 1;
        self.line.lock().unwrap_or_else(PoisonError::into_inner).pts.new_run();
        self.count.store(0, Ordering::Release);
        self.waiting.store(false, Ordering::Release);
        self.touch();
        let handover = self.clone();
        let mut layout = Layout::default();
        gst_app::AppSinkCallbacks::builder()
            .new_sample(move |sink| {
                let sample = sink.pull_sample().map_err(|_| gst::FlowError::Flushing)?;
                handover.sample(run, &sample, &mut layout, &bus)
            })
            .build()
    }

    /// Frames of the current run.
    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    pub(super) fn closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Time since the last frame; zero while the callback waits for the reader.
    pub(super) fn silence(&self) -> Duration {
        if self.waiting.load(Ordering::Acquire) {
            return Duration::ZERO;
        }
        self.start.elapsed().saturating_sub(Duration::from_nanos(self.last.load(Ordering::Acquire)))
    }

    /// Ends the queue: the reader still gets the frames in it.
    pub(super) fn close(&self) {
        self.frames.close();
    }

    fn touch(&self) {
        self.last.store(self.start.elapsed().as_nanos() as u64, Ordering::Release);
    }

    fn sample(
        &self,
        run: u64,
        sample: &gst::SampleRef,
        layout: &mut Layout,
        bus: &gst::Bus,
    ) -> Result<gst::FlowSuccess, gst::FlowError> {
        let (captured, captured_at) = (Instant::now(), SystemTime::now());
        let info = sample.caps_owned().and_then(|caps| layout.of(caps)).ok_or(gst::FlowError::NotNegotiated)?;
        let buffer = sample.buffer_owned().ok_or(gst::FlowError::Error)?;
        let own = buffer.pts().and_then(|pts| running_time(sample, pts));
        let (seq, pts_ns) = self.stamp(run, own, captured).ok_or(gst::FlowError::Flushing)?;
        let size = Size::new(info.width(), info.height());
        let meta = FrameMeta { camera: self.camera.clone(), seq, pts_ns, captured_at, captured, size };
        let frame = Frame::new(meta, buffer, info).map_err(|_| gst::FlowError::NotNegotiated)?;
        self.touch();
        if self.count.fetch_add(1, Ordering::AcqRel) == 0 {
            wake(bus); // the camera is online
        }
        if let Some(tap) = &self.tap {
            tap.frame(&frame);
        }
        self.waiting.store(true, Ordering::Release);
        let back = self.frames.send(frame);
        self.touch();
        self.waiting.store(false, Ordering::Release);
        // A full queue gives back an older frame, a closed one this frame.
        if back.is_some_and(|frame| frame.meta.seq == seq) {
            self.closed.store(true, Ordering::Release);
            wake(bus);
            return Err(gst::FlowError::Eos);
        }
        Ok(gst::FlowSuccess::Ok)
    }

    /// The frame's number and time; `None` when `run` is no longer the current one.
    fn stamp(&self, run: u64, own: Option<u64>, now: Instant) -> Option<(u64, u64)> {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        if self.run.load(Ordering::Acquire) != run {
            return None;
        }
        let since_last = line.last.filter(|_| self.live).map(|last| now.duration_since(last).as_nanos() as u64);
        let pts = line.pts.next(own, since_last);
        let seq = line.seq;
        line.seq += 1;
        line.last = Some(now);
        Some((seq, pts))
    }
}

/// Nanoseconds of running time, where time 0 is the start of the pipeline, whatever the container's first time is.
fn running_time(sample: &gst::SampleRef, pts: gst::ClockTime) -> Option<u64> {
    let segment = sample.segment()?.downcast_ref::<gst::ClockTime>()?;
    segment.to_running_time(pts).map(gst::ClockTime::nseconds)
}

/// The layout that belongs to the last caps: caps are parsed when they change, not per frame.
#[derive(Default)]
struct Layout(Option<(gst::Caps, gst_video::VideoInfo)>);

impl Layout {
    fn of(&mut self, caps: gst::Caps) -> Option<gst_video::VideoInfo> {
        match &self.0 {
            Some((known, info)) if known.as_ptr() == caps.as_ptr() => Some(info.clone()),
            _ => {
                let info = gst_video::VideoInfo::from_caps(&caps).ok()?;
                self.0 = Some((caps, info.clone()));
                Some(info)
            }
        }
    }
}
