//! A camera's pipeline, and the end that all pipelines share: an `appsink` that takes I420 or NV12 and nothing else.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use gstreamer_video as gst_video;

use super::SourceError;
use super::control::wake;
use super::decoder::Codec;
use super::error::make;
use crate::config::Transport;

/// `rtspsrc` gives up a server that accepts the connection and never answers.
const TCP_TIMEOUT: Duration = Duration::from_secs(5);

/// The elements of every camera's pipeline that come from plugins, besides the codec's; those after the first two are
/// what `rtspsrc` makes for itself.
pub(super) const ELEMENTS: [&str; 5] = ["rtspsrc", "videoconvert", "rtpbin", "rtpjitterbuffer", "udpsrc"];

/// Where a fault is put that GStreamer's threads find and its bus has no words for.
#[derive(Clone, Default)]
pub(super) struct Fault {
    first: Arc<Mutex<Option<SourceError>>>,
    streams: Arc<Mutex<Streams>>,
}

/// What a file holds.
#[derive(Default)]
struct Streams {
    /// A video stream was found: it is the one that is played.
    video: bool,
    /// Media types of the others.
    others: Vec<String>,
}

impl Fault {
    /// Keeps the first fault and wakes the reader of the bus.
    pub(super) fn set(&self, error: SourceError, pipeline: &gst::Pipeline) {
        self.first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        if let Some(bus) = pipeline.bus() {
            wake(&bus);
        }
    }

    /// Notes a stream of a file. True: it is the video that is to be played.
    pub(super) fn stream(&self, media: &str) -> bool {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        let video = media.starts_with("video/") || media.starts_with("image/");
        if streams.video || !video {
            streams.others.push(media.to_owned());
            return false;
        }
        streams.video = true;
        true
    }

    /// The fault, or what a file without video holds instead: such a file ends with an error that says nothing.
    pub(super) fn explain(&self) -> Option<SourceError> {
        let streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        let others = || SourceError::NoVideo(format!("it holds {}, but no video", streams.others.join(", ")));
        self.take().or_else(|| (!streams.video && !streams.others.is_empty()).then(others))
    }

    pub(super) fn take(&self) -> Option<SourceError> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// An RTSP camera, its address without credentials.
#[derive(Debug)]
pub(super) struct RtspSpec {
    pub(super) url: String,
    pub(super) username: Option<String>,
    pub(super) password: Option<String>,
    pub(super) transport: Transport,
    pub(super) latency: Duration,
}

/// `rtspsrc ! depay ! parse ! decoder ! tail`. What follows `rtspsrc` is added when the camera has said what it sends.
pub(super) fn rtsp(
    spec: &RtspSpec,
    callbacks: impl FnOnce(gst::Bus) -> gst_app::AppSinkCallbacks,
) -> Result<(gst::Pipeline, Fault), SourceError> {
    let pipeline = gst::Pipeline::new();
    let source = make("rtspsrc")?;
    source.set_property("location", &spec.url);
    // Properties, never the URL: GStreamer prints URLs in its messages.
    source.set_property("user-id", &spec.username);
    source.set_property("user-pw", &spec.password);
    source.set_property_from_str("protocols", if spec.transport == Transport::Tcp { "tcp" } else { "udp" });
    let latency = spec.latency.as_millis().min(u128::from(u32::MAX)) as u32;
    source.set_property("latency", latency);
    // Bounds the jitter buffer; with no buffer at all it would drop everything.
    source.set_property("drop-on-latency", latency > 0);
    source.set_property("tcp-timeout", TCP_TIMEOUT.as_micros() as u64);
    source.set_property("user-agent", concat!("ocelli/", env!("CARGO_PKG_VERSION")));
    let fault = Fault::default();
    select_one_video_stream(&source);
    let head = tail(&pipeline, false, callbacks)?;
    pipeline.add(&source).map_err(build)?;
    let (weak, on_pad) = (pipeline.downgrade(), fault.clone());
    source.connect_pad_added(move |_, pad| {
        let Some(pipeline) = weak.upgrade() else { return };
        if let Err(error) = attach_rtp(&pipeline, pad, &head) {
            on_pad.set(error, &pipeline);
        }
    });
    let (weak, on_end) = (pipeline.downgrade(), fault.clone());
    source.connect_no_more_pads(move |source| {
        if let Some(pipeline) = weak.upgrade()
            && source.src_pads().is_empty()
        {
            on_end.set(SourceError::NoVideo("the camera offers no video stream".into()), &pipeline);
        }
    });
    Ok((pipeline, fault))
}

/// Only the first video stream is set up: sound and second pictures would cost the camera bandwidth for nothing.
fn select_one_video_stream(source: &gst::Element) {
    let chosen = Mutex::new(None::<u32>);
    source.connect("select-stream", false, move |values| {
        let number = values.get(1).and_then(|v| v.get::<u32>().ok())?;
        let caps = values.get(2).and_then(|v| v.get::<gst::Caps>().ok())?;
        let video = caps.structure(0).and_then(|s| s.get::<&str>("media").ok()) == Some("video");
        let mut chosen = chosen.lock().unwrap_or_else(PoisonError::into_inner);
        let take = video && *chosen.get_or_insert(number) == number;
        Some(take.to_value())
    });
}

fn attach_rtp(pipeline: &gst::Pipeline, pad: &gst::Pad, head: &gst::Pad) -> Result<(), SourceError> {
    let caps = pad.current_caps().unwrap_or_else(|| pad.query_caps(None));
    let encoding = caps.structure(0).and_then(|s| s.get::<String>("encoding-name").ok()).unwrap_or_default();
    let codec = Codec::of_rtp(&encoding).ok_or_else(|| {
        SourceError::NoVideo(format!("the camera sends `{encoding}`; set it to H.264, H.265 or MJPEG"))
    })?;
    tracing::debug!("camera sends {}", codec.name);
    insert(pipeline, pad, codec.rtp_chain()?, head)
}

/// Puts `chain` between `pad` and `head` in a running pipeline.
pub(super) fn insert(
    pipeline: &gst::Pipeline,
    pad: &gst::Pad,
    chain: Vec<gst::Element>,
    head: &gst::Pad,
) -> Result<(), SourceError> {
    let no_pad = || build("an element has no such pad");
    pipeline.add_many(&chain).map_err(build)?;
    gst::Element::link_many(&chain).map_err(build)?;
    let mut first = head.clone();
    if let (Some(front), Some(back)) = (chain.first(), chain.last()) {
        back.static_pad("src").ok_or_else(no_pad)?.link(head).map_err(build)?;
        first = front.static_pad("sink").ok_or_else(no_pad)?;
    }
    // From the sink's end, so that no element gets data before the next one is ready.
    for element in chain.iter().rev() {
        element.sync_state_with_parent().map_err(build)?;
    }
    pad.link(&first).map(|_| ()).map_err(build)
}

/// `videoconvert ! appsink`: the end of every pipeline. Returns the pad that takes decoded pictures.
pub(super) fn tail(
    pipeline: &gst::Pipeline,
    sync: bool,
    callbacks: impl FnOnce(gst::Bus) -> gst_app::AppSinkCallbacks,
) -> Result<gst::Pad, SourceError> {
    // Passes I420 and NV12 through untouched; works only when the decoder gives something else (Y42B of some JPEG
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
    convert.static_pad("sink").ok_or_else(|| build("videoconvert has no sink pad"))
}

/// Tells the decoder that planes may have any stride. Without this it copies every picture into a tight buffer.
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

pub(super) fn build(error: impl std::fmt::Display) -> SourceError {
    SourceError::Build(error.to_string())
}
