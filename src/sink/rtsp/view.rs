//! One camera as viewers see it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::media::Outlet;
use super::worker::Worker;
use crate::frame::Frame;
use crate::queue::{self, DropPolicy};
use crate::sink::Sink;
use crate::source::FrameTap;
use crate::types::{CameraName, CameraStatus, FrameResult};

/// Frames and results on their way to the view's thread, which takes them at once: only a stuck thread fills it.
const QUEUE: usize = 16;

/// What arrives for the view's thread.
// Boxing frames would be an allocation per frame to save a few bytes in a queue of 16.
#[allow(clippy::large_enum_variant)]
pub(super) enum Input {
    Frame(Frame),
    Result(Arc<FrameResult>),
}

/// The newest of everything, for the first picture of a viewer and for the slate.
#[derive(Default, Clone)]
pub(super) struct Known {
    pub(super) frame: Option<Frame>,
    pub(super) result: Option<Arc<FrameResult>>,
    pub(super) status: Option<CameraStatus>,
}

/// What the view, its thread and the RTSP library's threads share.
pub(super) struct Shared {
    pub(super) camera: CameraName,
    known: Mutex<Known>,
    outlet: Mutex<Option<Outlet>>,
    /// True while there is an outlet: all that a frame without viewers has to look at.
    watched: AtomicBool,
    generations: AtomicU64,
    departures: AtomicU64,
    input: queue::Sender<Input>,
    waker: queue::Waker<Input>,
    pub(super) pushed: AtomicU64,
    pub(super) dropped: AtomicU64,
}

// No holder of these locks runs foreign code, so a poisoned one is still good.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(super) fn known(&self) -> Known {
        lock(&self.known).clone()
    }

    pub(super) fn outlet(&self) -> Option<Outlet> {
        lock(&self.outlet).clone()
    }

    pub(super) fn next_generation(&self) -> u64 {
        self.generations.fetch_add(1, Ordering::Relaxed)
    }

    /// Media that went down, or are on their way.
    pub(super) fn departures(&self) -> u64 {
        self.departures.load(Ordering::Acquire)
    }

    /// From now on viewers get a new media.
    pub(super) fn depart(&self) {
        self.departures.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn attach(&self, outlet: Outlet) {
        let previous = lock(&self.outlet).replace(outlet);
        drop(previous);
        self.watched.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Lets go of the media `generation`; a newer one stays.
    pub(super) fn detach(&self, generation: u64) {
        let gone = {
            let mut slot = lock(&self.outlet);
            let gone = slot.take_if(|outlet| outlet.generation == generation);
            self.watched.store(slot.is_some(), Ordering::Release);
            gone
        };
        // Dropping the last reference to an element takes its locks: not under ours.
        drop(gone);
        self.waker.wake();
    }

    pub(super) fn request_key_frame(&self) {
        if let Some(outlet) = self.outlet() {
            outlet.request_key_frame();
        }
    }

    fn is_watched(&self) -> bool {
        self.watched.load(Ordering::Acquire)
    }
}

/// One camera's annotated stream. Takes frames from the source and results from the detector; returns at once from
/// both. Without viewers it keeps references to the newest frame and result, and does nothing else.
pub struct View {
    pub(super) shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl View {
    /// Starts the thread `view-<camera>`, idle until somebody watches.
    pub(super) fn start(camera: &CameraName, max_delay: Duration) -> std::io::Result<Self> {
        let (input, frames) = queue::bounded("view", QUEUE, DropPolicy::DropOldest);
        let shared = Arc::new(Shared {
            camera: camera.clone(),
            known: Mutex::default(),
            outlet: Mutex::default(),
            watched: AtomicBool::new(false),
            generations: AtomicU64::new(1),
            departures: AtomicU64::new(0),
            input,
            waker: frames.waker(),
            pushed: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        });
        let mut worker = Worker::new(shared.clone(), frames, max_delay);
        let thread = std::thread::Builder::new().name(format!("view-{camera}")).spawn(move || worker.run())?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)) })
    }

    /// True while somebody watches (or has asked what there is to watch).
    pub fn is_watched(&self) -> bool {
        self.shared.is_watched()
    }

    /// Pictures given to the encoder since the start.
    pub fn encoded(&self) -> u64 {
        self.shared.pushed.load(Ordering::Relaxed)
    }

    /// Frames not encoded since the start because the encoder was behind.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed) + self.shared.input.dropped()
    }

    /// Ends the thread and waits for it. What still comes is ignored.
    pub fn stop(&self) {
        self.shared.input.close();
        self.shared.waker.wake();
        let thread = lock(&self.thread).take();
        if thread.is_some_and(|t| t.join().is_err()) {
            tracing::error!(camera = %self.shared.camera, "the view's thread has panicked");
        }
    }
}

impl Drop for View {
    fn drop(&mut self) {
        self.stop();
    }
}

impl FrameTap for View {
    fn frame(&self, frame: &Frame) {
        let previous = lock(&self.shared.known).frame.replace(frame.clone());
        // Freeing a picture takes longer than the lock should be held.
        drop(previous);
        if self.shared.is_watched() {
            self.shared.input.send(Input::Frame(frame.clone()));
        }
    }
}

impl Sink for View {
    fn result(&self, result: &Arc<FrameResult>) {
        if result.meta.camera != self.shared.camera {
            return;
        }
        let previous = lock(&self.shared.known).result.replace(result.clone());
        drop(previous);
        if self.shared.is_watched() {
            self.shared.input.send(Input::Result(result.clone()));
        }
    }

    fn status(&self, status: &CameraStatus) {
        if status.camera != self.shared.camera {
            return;
        }
        lock(&self.shared.known).status = Some(status.clone());
        if self.shared.is_watched() {
            self.shared.waker.wake();
        }
    }
}
