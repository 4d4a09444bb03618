//! What all pipelines share: the end, an `appsink` that takes I420 or NV12 and nothing else, and the way to report a fault
//! that is found on one of GStreamer's threads.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gstreamer as gst;
use gstreamer::glib;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use gstreamer_video as gst_video;

use super::error::{SourceError, build, make};

/// Name of the application message that only wakes the reader of the bus.
const WAKE: &str = "ocelli-wake";

/// Makes the reader of the bus look at its flags again.
pub(super) fn wake(bus: &gst::Bus) {
    // Refused only while the bus is flushing: then no thread reads it.
    let _ = bus.post(gst::message::Application::new(gst::Structure::new_empty(WAKE)));
}

/// The media type of caps, for example `video/x-h264`; empty without one.
pub(super) fn media_type(caps: &gst::CapsRef) -> String {
    caps.structure(0).map(|s| s.name().to_string()).unwrap_or_default()
}

/// The caps of a pad that a demuxer has just added.
pub(super) fn pad_caps(pad: &gst::Pad) -> gst::Caps {
    pad.current_caps().unwrap_or_else(|| pad.query_caps(None))
}

/// The fault that was found on one of GStreamer's threads and that the bus does not describe.
#[derive(Clone, Default)]
pub(super) struct Fault(Arc<Mutex<Found>>);

#[derive(Default)]
struct Found {
    first: Option<SourceError>,
    /// A file's video stream was found: that one is played.
    video: bool,
    /// Media types of a file's other streams.
    others: Vec<String>,
}

impl Fault {
    // Its fields are always whole, so a poisoned lock is still good.
    fn lock(&self) -> MutexGuard<'_, Found> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a stream of a file. True: it is the video stream to be played.
    pub(super) fn stream(&self, media: &str) -> bool {
        let mut found = self.lock();
        let video = media.starts_with("video/") || media.starts_with("image/");
        if found.video || !video {
            found.others.push(media.to_owned());
            return false;
        }
        found.video = true;
        true
    }

    /// The fault, or what a file without video holds instead: GStreamer's own error for such a file is empty.
    pub(super) fn explain(&self) -> Option<SourceError> {
        let mut found = self.lock();
        let no_video = !found.video && !found.others.is_empty();
        let others =
            no_video.then(|| SourceError::NoVideo(format!("it holds {}, but no video", found.others.join(", "))));
        found.first.take().or(others)
    }

    pub(super) fn take(&self) -> Option<SourceError> {
        self.lock().first.take()
    }
}

/// A pipeline to which elements are still added.
pub(super) struct Draft {
    pub(super) pipeline: gst::Pipeline,
    /// The pad that takes decoded frames.
    pub(super) head: gst::Pad,
    pub(super) fault: Fault,
}

/// The same for the callbacks of elements, which must not keep the pipeline alive.
pub(super) struct WeakDraft {
    pipeline: glib::WeakRef<gst::Pipeline>,
    head: gst::Pad,
    fault: Fault,
}

impl Draft {
    /// A pipeline that holds `videoconvert ! appsink`. `sync`: frames come at their own pace.
    pub(super) fn new(
        sync: bool,
        callbacks: impl FnOnce(gst::Bus) -> gst_app::AppSinkCallbacks,
    ) -> Result<Self, SourceError> {
        let pipeline = gst::Pipeline::new();
        // Passes I420 and NV12 through untouched; converts only when the decoder gives something else (Y42B of some JPEG
        // cameras, 10 bit H.265).
        let convert = make("videoconvert")?;
        let caps = gst::Caps::builder("video/x-raw").field("format", gst::List::new(["I420", "NV12"])).build();
        let sink = gst_app::AppSink::builder()
            .caps(&caps)
            .sync(sync)
            .max_buffers(2)
            // Keeps no buffer of its own: the decoder's pool may be small.
            .enable_last_sample(false)
            .build();
        let bus = pipeline.bus().ok_or_else(|| build("a pipeline without a bus"))?;
        sink.set_callbacks(callbacks(bus));
        pipeline.add_many([&convert, sink.upcast_ref()]).map_err(build)?;
        convert.link(&sink).map_err(build)?;
        if let Some(pad) = sink.static_pad("sink") {
            accept_padded_planes(&pad);
        }
        let head = convert.static_pad("sink").ok_or_else(|| build("videoconvert has no sink pad"))?;
        Ok(Self { pipeline, head, fault: Fault::default() })
    }

    pub(super) fn downgrade(&self) -> WeakDraft {
        WeakDraft { pipeline: self.pipeline.downgrade(), head: self.head.clone(), fault: self.fault.clone() }
    }

    /// Puts `chain` between `pad` and the pipeline's end while the pipeline runs.
    pub(super) fn insert(&self, pad: &gst::Pad, chain: Vec<gst::Element>) -> Result<(), SourceError> {
        let no_pad = || build("an element has no such pad");
        self.pipeline.add_many(&chain).map_err(build)?;
        gst::Element::link_many(&chain).map_err(build)?;
        let mut first = self.head.clone();
        if let (Some(front), Some(back)) = (chain.first(), chain.last()) {
            back.static_pad("src").ok_or_else(no_pad)?.link(&self.head).map_err(build)?;
            first = front.static_pad("sink").ok_or_else(no_pad)?;
        }
        // From the sink's end, so that no element gets data before the next one is ready.
        for element in chain.iter().rev() {
            element.sync_state_with_parent().map_err(build)?;
        }
        pad.link(&first).map(drop).map_err(build)
    }
}

impl WeakDraft {
    /// Runs `work` if the pipeline still exists. Keeps the first error and wakes the reader of the bus.
    pub(super) fn attempt(&self, work: impl FnOnce(&Draft) -> Result<(), SourceError>) {
        let Some(pipeline) = self.pipeline.upgrade() else { return };
        let draft = Draft { pipeline, head: self.head.clone(), fault: self.fault.clone() };
        if let Err(error) = work(&draft) {
            draft.fault.lock().first.get_or_insert(error);
            if let Some(bus) = draft.pipeline.bus() {
                wake(&bus);
            }
        }
    }
}

/// Answers the decoder's allocation query: planes may have any stride. Otherwise it copies every frame into a tight buffer.
fn accept_padded_planes(pad: &gst::Pad) {
    pad.add_probe(gst::PadProbeType::QUERY_DOWNSTREAM, |_, info| {
        if let Some(query) = info.query_mut()
            && let gst::QueryViewMut::Allocation(allocation) = query.view_mut()
        {
            allocation.add_allocation_meta::<gst_video::VideoMeta>(None);
            return gst::PadProbeReturn::Handled;
        }
        gst::PadProbeReturn::Ok
    });
}
