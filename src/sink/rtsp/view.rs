//! One camera's annotated stream.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::shared::{Input, Shared, lock};
use super::worker::Worker;
use crate::frame::Frame;
use crate::queue::{self, DropPolicy};
use crate::sink::Sink;
use crate::source::FrameTap;
use crate::types::{CameraName, CameraStatus, FrameResult};

/// Frames and results that may wait for the view's thread.
const QUEUE: usize = 16;

/// One camera's annotated stream. Takes frames from the source and results from the detector without blocking. Without
/// viewers it only keeps references to the newest frame and result.
pub struct View {
    pub(super) shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl View {
    /// Starts the thread `view-<camera>`, which is idle without viewers.
    pub(super) fn start(camera: &CameraName, max_delay: Duration) -> std::io::Result<Self> {
        let (input, frames) = queue::bounded("view", QUEUE, DropPolicy::DropOldest);
        let shared = Arc::new(Shared::new(camera, input, frames.waker()));
        let mut worker = Worker::new(shared.clone(), frames, max_delay);
        let thread = std::thread::Builder::new().name(format!("view-{camera}")).spawn(move || worker.run())?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)) })
    }

    /// True while there are viewers, or one asks for the description.
    pub fn is_watched(&self) -> bool {
        self.shared.is_watched()
    }

    /// Pictures encoded since the start.
    pub fn encoded(&self) -> u64 {
        self.shared.pushed.load(Ordering::Relaxed)
    }

    /// Frames not encoded since the start because the encoder was behind.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed) + self.shared.input.dropped()
    }

    /// Ends the thread and joins it. Later frames and results are ignored.
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
        // Outside the lock: freeing a frame takes long.
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
