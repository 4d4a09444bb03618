//! What the feeding thread and the RTSP server share: the encoder's input while a viewer watches, and the newest frame.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use gstreamer_rtsp_server as gst_rtsp_server;
use gstreamer_rtsp_server::prelude::*;

use crate::cancel::Cancel;
use crate::frame::Frame;

/// Time between two looks for a viewer.
pub(super) const TICK: Duration = Duration::from_millis(20);

pub(super) struct Shared {
    slot: Mutex<Slot>,
    pub(super) cancel: Cancel,
}

#[derive(Default)]
pub(super) struct Slot {
    pub(super) viewer: Option<Viewer>,
    /// The first frame of the next viewer.
    pub(super) newest: Option<Frame>,
}

/// The input of one prepared media: all its viewers share it.
pub(super) struct Viewer {
    pub(super) input: gst_app::AppSrc,
    /// Time on the source's time line that is 0 in this media.
    zero: Option<u64>,
    caps: Option<gst::Caps>,
}

impl Shared {
    pub(super) fn new(first: Frame, cancel: Cancel) -> Self {
        let slot = Mutex::new(Slot { viewer: None, newest: Some(first) });
        Self { slot, cancel }
    }

    // The slot's fields are always whole, so a poisoned lock is still good.
    pub(super) fn lock(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The server prepares a media for its first viewer: its input is fed until it is unprepared.
    pub(super) fn prepared(self: &Arc<Self>, media: &gst_rtsp_server::RTSPMedia) {
        let input = media.element().downcast::<gst::Bin>().ok().and_then(|bin| bin.by_name("input"));
        let Some(input) = input.and_then(|e| e.downcast::<gst_app::AppSrc>().ok()) else { return };
        let (weak, gone) = (Arc::downgrade(self), input.downgrade());
        media.connect_unprepared(move |_| {
            if let Some(shared) = weak.upgrade() {
                let mut slot = shared.lock();
                if slot.viewer.as_ref().is_some_and(|v| gone.upgrade().is_some_and(|gone| gone == v.input)) {
                    slot.viewer = None;
                }
            }
        });
        let mut slot = self.lock();
        let mut viewer = Viewer { input, zero: None, caps: None };
        // At once: the answer to DESCRIBE waits for the encoder's first output.
        if let Some(frame) = slot.newest.clone() {
            viewer.push(frame);
        }
        slot.viewer = Some(viewer);
    }
}

impl Viewer {
    /// Encodes one frame; drops it when the encoder is two frames behind.
    pub(super) fn push(&mut self, frame: Frame) {
        let pts = frame.meta.pts_ns;
        let size = frame.info().size() as u64;
        if self.input.current_level_bytes() > 2 * size {
            return;
        }
        let Ok(caps) = frame.info().to_caps() else { return };
        if self.caps.as_ref() != Some(&caps) {
            self.input.set_caps(Some(&caps));
            self.caps = Some(caps);
        }
        let zero = *self.zero.get_or_insert(pts);
        let mut buffer = frame.into_buffer();
        // Shares the pixels; only the times are this buffer's own.
        let writable = buffer.make_mut();
        writable.set_pts(gst::ClockTime::from_nseconds(pts.saturating_sub(zero)));
        writable.set_dts(gst::ClockTime::NONE);
        // Refused only while the media goes away: then the slot is cleared at once.
        let _ = self.input.push_buffer(buffer);
    }
}
