//! The thread `cam-<name>`: takes frames, keeps the engine busy, publishes results in frame order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::detector::{Detector, DetectorError};
use crate::cancel::{Cancel, HookGuard};
use crate::frame::Frame;
use crate::queue::{Receiver, RecvError};
use crate::sink::Sink;
use crate::telemetry::{CameraMetrics, Count, Progress, Registry};
use crate::types::{CameraName, FrameResult};

/// Longest wait for a frame or a result before the flags are read again.
const TICK: Duration = Duration::from_millis(250);

/// What one camera's thread works with.
pub struct CameraParts {
    pub name: CameraName,
    /// The name of its model in the configuration.
    pub model: String,
    /// Frames from its source: newest wins for live video, none lost for files.
    pub frames: Receiver<Frame>,
    pub detector: Detector,
    /// Most frames per second given to the detector.
    pub fps: Option<f64>,
    pub results: Arc<dyn Sink>,
    pub registry: Registry,
}

/// A running camera thread.
pub struct Camera {
    name: CameraName,
    leave: Arc<AtomicBool>,
    thread: JoinHandle<()>,
    _waking: HookGuard,
}

impl Camera {
    /// Starts the thread. It ends when the queue of frames is closed and all are done, or when
    /// `cancel` is cancelled, which drops the frames in work.
    pub fn start(mut parts: CameraParts, cancel: &Cancel) -> std::io::Result<Self> {
        let leave = Arc::new(AtomicBool::new(false));
        let name = parts.name.clone();
        let (waker, cancelled) = (parts.frames.waker(), parts.frames.waker());
        parts.detector.on_done(Arc::new(move || waker.wake()));
        let waking = cancel.on_cancel(move |_| cancelled.wake());
        let (stop, leaves) = (cancel.clone(), leave.clone());
        let thread = std::thread::Builder::new().name(format!("cam-{name}")).spawn(move || {
            // Frames dropped earlier were counted by the thread that read the queue before.
            let dropped = parts.frames.dropped();
            let metrics = parts.registry.camera(&parts.name);
            Worker {
                pace: Pace::new(parts.fps),
                parts,
                metrics,
                dropped,
                failing: false,
                progress: Progress::default(),
            }
            .run(&stop, &leaves);
        })?;
        Ok(Self { name, leave, thread, _waking: waking })
    }

    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Takes no more frames, finishes and publishes those in work, and joins the thread. Frames in the queue stay there
    /// for the next thread.
    pub fn finish(self) {
        self.leave.store(true, Ordering::Relaxed);
        self.join();
    }

    /// Joins the thread, which the caller has cancelled.
    pub fn join(self) {
        if self.thread.join().is_err() {
            tracing::error!(camera = &*self.name, "the camera's thread panicked; please report this");
        }
    }
}

struct Worker {
    parts: CameraParts,
    pace: Pace,
    metrics: Arc<CameraMetrics>,
    dropped: u64,
    /// Errors are logged when they begin and when they end, not for each frame.
    failing: bool,
    progress: Progress,
}

impl Worker {
    fn run(mut self, cancel: &Cancel, leave: &AtomicBool) {
        self.metrics.progress(self.progress);
        self.metrics.detects_with(Some(&self.parts.model));
        while !cancel.is_cancelled() && !leave.load(Ordering::Relaxed) {
            self.publish_done(Duration::ZERO);
            self.turn();
            if !self.parts.detector.has_room() {
                // The engine is full. Newer frames push older ones out of the queue meanwhile.
                self.publish_done(TICK);
                continue;
            }
            match self.parts.frames.recv_timeout(TICK) {
                Ok(frame) => self.take(frame),
                Err(RecvError::Woken | RecvError::Timeout) => {}
                Err(RecvError::Closed) => break,
            }
            self.count_dropped();
        }
        while self.parts.detector.in_flight() > 0 && !cancel.is_cancelled() {
            self.publish_done(TICK);
            self.turn();
        }
        self.metrics.detects_with(None);
    }

    /// Shows the watchdog that the loop runs.
    fn turn(&mut self) {
        self.progress.turns += 1;
        self.metrics.progress(self.progress);
    }

    fn take(&mut self, frame: Frame) {
        if !self.pace.accepts(frame.meta.pts_ns) {
            return;
        }
        let meta = frame.meta.clone();
        let submitted = frame.map().map_err(|error| error.to_string()).and_then(|mapped| {
            let view = mapped.view().map_err(|error| error.to_string())?;
            self.parts.detector.submit(meta, &view).map_err(|error| error.to_string())
        });
        match submitted {
            Ok(()) => self.progress.taken += 1,
            Err(error) => self.failed(&error),
        }
    }

    /// Publishes the frames that the engine has finished, waiting at most `timeout` for the first.
    fn publish_done(&mut self, timeout: Duration) {
        let mut timeout = timeout;
        while let Some(outcome) = self.parts.detector.finish(timeout) {
            self.publish(outcome);
            timeout = Duration::ZERO;
        }
    }

    fn publish(&mut self, outcome: Result<FrameResult, DetectorError>) {
        self.progress.finished += 1;
        match outcome {
            Ok(result) => {
                if self.failing {
                    self.failing = false;
                    tracing::warn!(camera = &*self.parts.name, "detection works again");
                }
                self.metrics.result(&result);
                self.parts.results.result(&Arc::new(result));
            }
            Err(error) => self.failed(&error.to_string()),
        }
    }

    fn failed(&mut self, error: &str) {
        self.parts.registry.count(Count::DetectErrors, 1);
        if !self.failing {
            self.failing = true;
            tracing::error!(camera = &*self.parts.name, error, "detection failed; the next frame is tried");
        }
    }

    fn count_dropped(&mut self) {
        let dropped = self.parts.frames.dropped();
        if dropped > self.dropped {
            self.metrics.frames_dropped(dropped - self.dropped);
            self.dropped = dropped;
        }
    }
}

/// Lets at most `fps` frames per second of video time through.
struct Pace {
    interval_ns: Option<f64>,
    due_ns: f64,
}

impl Pace {
    fn new(fps: Option<f64>) -> Self {
        Self { interval_ns: fps.filter(|fps| *fps > 0.0).map(|fps| 1e9 / fps), due_ns: 0.0 }
    }

    fn accepts(&mut self, pts_ns: u64) -> bool {
        let Some(interval) = self.interval_ns else { return true };
        let now = pts_ns as f64;
        // A tenth of tolerance: at 10 of 30 fps, rounded time stamps must not turn every third frame into every fourth.
        if now + interval * 0.1 < self.due_ns {
            return false;
        }
        // After a gap the schedule restarts instead of catching up.
        self.due_ns = if now > self.due_ns + interval { now + interval } else { self.due_ns + interval };
        true
    }
}

#[cfg(test)]
mod tests {
    use super::Pace;

    fn accepted(fps: Option<f64>, pts: impl Iterator<Item = u64>) -> usize {
        let mut pace = Pace::new(fps);
        pts.filter(|pts| pace.accepts(*pts)).count()
    }

    #[test]
    fn ten_of_thirty() {
        let pts = || (0..300u64).map(|n| n * 33_333_333);
        assert_eq!(accepted(Some(10.0), pts()), 100);
        assert_eq!(accepted(None, pts()), 300);
        assert_eq!(accepted(Some(60.0), pts()), 300);
    }

    #[test]
    fn a_gap_is_not_caught_up() {
        let before = (0..30u64).map(|n| n * 33_333_333);
        let after = (0..30u64).map(|n| 60_000_000_000 + n * 33_333_333);
        assert_eq!(accepted(Some(10.0), before.chain(after)), 20);
    }
}
