//! Where a camera's frames, results and states go. A camera holds one [`Outlets`] for its whole life; sinks are exchanged
//! behind it, so a new broker costs no camera a frame.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use crate::frame::Frame;
use crate::sink::Sink;
use crate::sink::rtsp::View;
use crate::source::FrameTap;
use crate::telemetry::Registry;
use crate::types::{CameraStatus, FrameResult};

/// The sinks that serve all cameras: MQTT, JSON Lines.
#[derive(Default)]
pub(super) struct SharedSinks(RwLock<Vec<Arc<dyn Sink>>>);

impl SharedSinks {
    /// From now on results and states go to these.
    pub(super) fn replace(&self, sinks: Vec<Arc<dyn Sink>>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = sinks;
    }

    // Sinks return at once, so the lock is held for a moment only.
    fn each(&self, mut give: impl FnMut(&dyn Sink)) {
        for sink in self.0.read().unwrap_or_else(PoisonError::into_inner).iter() {
            give(&**sink);
        }
    }
}

#[derive(Default)]
struct Own {
    /// The camera's annotated stream.
    view: Option<Arc<View>>,
    /// For sinks that come later.
    status: Option<CameraStatus>,
}

/// One camera's way out.
pub(super) struct Outlets {
    registry: Registry,
    shared: Arc<SharedSinks>,
    own: Mutex<Own>,
}

impl Outlets {
    pub(super) fn new(registry: Registry, shared: Arc<SharedSinks>) -> Self {
        Self { registry, shared, own: Mutex::default() }
    }

    fn own(&self) -> MutexGuard<'_, Own> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Exchanges the annotated stream; the new one hears the camera's state.
    pub(super) fn set_view(&self, view: Option<Arc<View>>) {
        let mut own = self.own();
        if let (Some(view), Some(status)) = (&view, &own.status) {
            view.status(status);
        }
        let previous = std::mem::replace(&mut own.view, view);
        drop(own);
        // The last reference joins a thread: not under the lock.
        drop(previous);
    }

    /// Tells a sink that has just come what the camera's state is.
    pub(super) fn introduce(&self, sink: &dyn Sink) {
        if let Some(status) = &self.own().status {
            sink.status(status);
        }
    }

    fn view(&self) -> Option<Arc<View>> {
        self.own().view.clone()
    }
}

impl FrameTap for Outlets {
    fn frame(&self, frame: &Frame) {
        self.registry.frame(&frame.meta.camera);
        if let Some(view) = self.view() {
            view.frame(frame);
        }
    }
}

impl Sink for Outlets {
    fn result(&self, result: &Arc<FrameResult>) {
        self.shared.each(|sink| sink.result(result));
        if let Some(view) = self.view() {
            view.result(result);
        }
    }

    fn status(&self, status: &CameraStatus) {
        self.registry.camera_status(status);
        self.own().status = Some(status.clone());
        self.shared.each(|sink| sink.status(status));
        if let Some(view) = self.view() {
            view.status(status);
        }
    }
}
