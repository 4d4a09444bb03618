//! The thread `cam-<name>`: takes frames, keeps the engine busy, publishes results in frame order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::frame::Frame;
use crate::pipeline::{Detector, DetectorError};
use crate::queue::{Receiver, RecvError};
use crate::sink::Sink;
use crate::telemetry::{Beat, Registry};
use crate::types::{CameraName, FrameMeta, FrameResult};

/// Longest wait for a frame or a result before the stop flag is looked at again.
const TICK: Duration = Duration::from_millis(250);

/// What one camera's thread works with.
pub struct CameraParts {
    /// Its name.
    pub name: CameraName,
    /// Frames from its source: newest wins for live video, none lost for files.
    pub frames: Receiver<Frame>,
    /// Its stages around the engine.
    pub detector: Detector,
    /// Frames per second given to the detector at most.
    pub fps: Option<f64>,
    /// Where results go.
    pub sinks: Vec<Arc<dyn Sink>>,
    /// Counters.
    pub registry: Registry,
}

/// A running camera thread.
pub struct Camera {
    name: CameraName,
    stop: Arc<AtomicBool>,
    leave: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Camera {
    /// Starts the thread. It ends when the frames are closed and all are done, or on [`Camera::stop`].
    pub fn start(mut parts: CameraParts) -> std::io::Result<Self> {
        let (stop, leave) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let name = parts.name.clone();
        let waker = parts.frames.waker();
        parts.detector.on_done(Arc::new(move || waker.wake()));
        let flags = (stop.clone(), leave.clone());
        let thread = std::thread::Builder::new().name(format!("cam-{name}")).spawn(move || {
            // What the queue dropped before belongs to the thread that read it before.
            let dropped = parts.frames.dropped();
            Worker { pace: Pace::new(parts.fps), parts, dropped, failing: false, beat: Beat::default() }
                .run(&flags.0, &flags.1);
        })?;
        Ok(Self { name, stop, leave, thread })
    }

    /// True once the thread has ended.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Takes no frame more, finishes and publishes those in work, and waits for that. Frames that wait in the queue stay
    /// there for the next thread.
    pub fn finish(self) {
        self.leave.store(true, Ordering::Relaxed);
        self.join();
    }

    /// Ends the thread and waits for it; the source must have been stopped before.
    pub fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.join();
    }

    fn join(self) {
        if self.thread.join().is_err() {
            tracing::error!(camera = &*self.name, "the camera's thread panicked; please report this");
        }
    }
}

struct Worker {
    parts: CameraParts,
    pace: Pace,
    dropped: u64,
    /// Errors are logged when they begin and when they end, not per frame.
    failing: bool,
    beat: Beat,
}

impl Worker {
    fn run(mut self, stop: &AtomicBool, leave: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) && !leave.load(Ordering::Relaxed) {
            self.publish_done(Duration::ZERO);
            self.beat.turns += 1;
            self.parts.registry.beat(&self.parts.name, Some(self.beat));
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
        while self.parts.detector.in_flight() > 0 && !stop.load(Ordering::Relaxed) {
            self.publish_done(TICK);
            self.beat.turns += 1;
            self.parts.registry.beat(&self.parts.name, Some(self.beat));
        }
        self.parts.registry.beat(&self.parts.name, None);
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
            Ok(()) => self.beat.taken += 1,
            Err(error) => self.failed(&error),
        }
    }

    /// Publishes what the engine has finished, waiting at most `timeout` for the first.
    fn publish_done(&mut self, timeout: Duration) {
        let mut timeout = timeout;
        while let Some(outcome) = self.parts.detector.finish(timeout) {
            self.publish(outcome);
            timeout = Duration::ZERO;
        }
    }

    fn publish(&mut self, outcome: Result<FrameResult, (FrameMeta, DetectorError)>) {
        self.beat.finished += 1;
        match outcome {
            Ok(result) => {
                if self.failing {
                    self.failing = false;
                    tracing::warn!(camera = &*self.parts.name, "detection works again");
                }
                self.parts.registry.result(&result);
                let result = Arc::new(result);
                for sink in &self.parts.sinks {
                    sink.result(&result);
                }
            }
            Err((_, error)) => self.failed(&error.to_string()),
        }
    }

    fn failed(&mut self, error: &str) {
        self.parts.registry.count("detect_errors", 1);
        if !self.failing {
            self.failing = true;
            tracing::error!(camera = &*self.parts.name, error, "detection failed; trying on with the next frame");
        }
    }

    fn count_dropped(&mut self) {
        let dropped = self.parts.frames.dropped();
        if dropped > self.dropped {
            self.parts.registry.frames_dropped(&self.parts.name, dropped - self.dropped);
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
        // A tenth of slack: at 10 of 30 fps, time stamps rounded down must not turn every third frame into every fourth.
        if now + interval * 0.1 < self.due_ns {
            return false;
        }
        // After a gap the schedule starts anew instead of catching up.
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
