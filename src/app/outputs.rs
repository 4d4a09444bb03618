//! Where a camera's frames, results and states go. A camera keeps its [`CameraOutputs`] for its whole life; sinks are
//! exchanged behind it, so a new broker costs no camera a frame.

use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::frame::Frame;
use crate::sink::Sink;
use crate::sink::rtsp::View;
use crate::source::FrameTap;
use crate::telemetry::CameraMetrics;
use crate::types::{CameraStatus, FrameResult};

/// The sinks that serve all cameras: MQTT, JSON Lines.
#[derive(Default)]
pub(super) struct SharedSinks(RwLock<Vec<Arc<dyn Sink>>>);

impl SharedSinks {
    pub(super) fn replace(&self, sinks: Vec<Arc<dyn Sink>>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = sinks;
    }

    // Sinks return at once, so the lock is held briefly.
    fn each(&self, mut give: impl FnMut(&dyn Sink)) {
        for sink in self.0.read().unwrap_or_else(PoisonError::into_inner).iter() {
            give(&**sink);
        }
    }
}

/// One camera's outputs.
pub(super) struct CameraOutputs {
    metrics: Arc<CameraMetrics>,
    shared: Arc<SharedSinks>,
    /// The camera's annotated stream.
    view: RwLock<Option<Arc<View>>>,
    /// The last state, for sinks that are added later.
    status: Mutex<Option<CameraStatus>>,
}

impl CameraOutputs {
    pub(super) fn new(metrics: Arc<CameraMetrics>, shared: Arc<SharedSinks>) -> Self {
        Self { metrics, shared, view: RwLock::default(), status: Mutex::default() }
    }

    /// Exchanges the annotated stream; the new one gets the camera's state.
    pub(super) fn set_view(&self, view: Option<Arc<View>>) {
        let previous = std::mem::replace(&mut *self.view.write().unwrap_or_else(PoisonError::into_inner), view.clone());
        // The last reference joins a thread: not under the lock.
        drop(previous);
        if let Some(view) = view {
            self.introduce(&*view);
        }
    }

    /// Gives the camera's state to a sink that was just added.
    pub(super) fn introduce(&self, sink: &dyn Sink) {
        if let Some(status) = &*self.status.lock().unwrap_or_else(PoisonError::into_inner) {
            sink.status(status);
        }
    }

    fn view(&self) -> Option<Arc<View>> {
        self.view.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl FrameTap for CameraOutputs {
    fn frame(&self, frame: &Frame) {
        self.metrics.frame();
        if let Some(view) = self.view() {
            view.frame(frame);
        }
    }
}

impl Sink for CameraOutputs {
    fn result(&self, result: &Arc<FrameResult>) {
        self.shared.each(|sink| sink.result(result));
        if let Some(view) = self.view() {
            view.result(result);
        }
    }

    fn status(&self, status: &CameraStatus) {
        self.metrics.status(status);
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = Some(status.clone());
        self.shared.each(|sink| sink.status(status));
        if let Some(view) = self.view() {
            view.status(status);
        }
    }
}
