//! The input of the encoder that serves a camera's viewers.

use std::sync::Arc;

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use gstreamer_video as gst_video;

use crate::sink::encoder::Encoder;

/// Frames that may wait for the encoder; further ones are dropped.
const QUEUED_FRAMES: u64 = 2;

/// Takes frames while there are viewers.
#[derive(Clone)]
pub(super) struct EncoderInput {
    /// Distinguishes this media from later ones.
    pub(super) generation: u64,
    appsrc: gst_app::AppSrc,
    element: Option<gst::Element>,
    encoder: Arc<Encoder>,
}

impl EncoderInput {
    pub(super) fn new(
        generation: u64,
        appsrc: gst_app::AppSrc,
        element: Option<gst::Element>,
        encoder: &Arc<Encoder>,
    ) -> Self {
        Self { generation, appsrc, element, encoder: encoder.clone() }
    }

    /// True when the encoder is behind.
    pub(super) fn is_full(&self, frame_bytes: usize) -> bool {
        // `current-level-buffers` needs GStreamer 1.20, bytes need 1.2.
        self.appsrc.current_level_bytes() >= QUEUED_FRAMES * frame_bytes as u64
    }

    /// Time of the running stream in nanoseconds; `None` while it is being prepared.
    pub(super) fn running_time(&self) -> Option<u64> {
        let (clock, base) = (self.appsrc.clock()?, self.appsrc.base_time()?);
        // In READY and PAUSED the clock is that of an earlier run.
        (self.appsrc.current_state() == gst::State::Playing).then_some(())?;
        clock.time().checked_sub(base).map(gst::ClockTime::nseconds)
    }

    /// State and fill level of the encoder's source, for logs.
    pub(super) fn state(&self) -> String {
        format!("{:?}, {} bytes wait", self.appsrc.current_state(), self.appsrc.current_level_bytes())
    }

    /// Sets the layout of the following frames, and a key frame every two seconds.
    pub(super) fn set_format(&self, info: &gst_video::VideoInfo) -> Result<(), gst::glib::BoolError> {
        self.appsrc.set_caps(Some(&info.to_caps()?));
        let fps = info.fps();
        let fps = if fps.denom() > 0 && fps.numer() > 0 { fps.numer() / fps.denom() } else { 25 };
        if let Some(element) = &self.element {
            self.encoder.set_key_interval(element, (fps.clamp(1, 120) * 2) as u32);
        }
        Ok(())
    }

    /// Passes a buffer to the encoder. On an error this media is being removed.
    pub(super) fn push(&self, buffer: gst::Buffer) -> Result<(), gst::FlowError> {
        self.appsrc.push_buffer(buffer).map(|_| ())
    }

    /// Requests a key frame, so that a new viewer gets a picture at once.
    pub(super) fn request_key_frame(&self) {
        if let Some(pad) = self.element.as_ref().and_then(|e| e.static_pad("src")) {
            // Encoders that ignore the event make a key frame every two seconds.
            pad.send_event(gst_video::UpstreamForceKeyUnitEvent::builder().all_headers(true).build());
        }
    }
}
