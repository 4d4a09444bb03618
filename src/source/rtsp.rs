//! An RTSP camera's pipeline.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use gstreamer as gst;
use gstreamer::prelude::*;

use super::decoder::Codec;
use super::error::{SourceError, build, make};
use super::pipeline::{Draft, pad_caps};
use crate::config::Transport;

/// `rtspsrc` gives up on a server that accepts the connection and never answers.
const TCP_TIMEOUT: Duration = Duration::from_secs(5);

/// The elements of every RTSP pipeline that come from plugins, besides the codec's; those after the first two are made by
/// `rtspsrc` itself.
pub(super) const ELEMENTS: [&str; 5] = ["rtspsrc", "videoconvert", "rtpbin", "rtpjitterbuffer", "udpsrc"];

/// `rtspsrc ! depay ! parse ! decoder ! tail`. What follows `rtspsrc` is added when the camera's stream is known.
/// `url` has no credentials.
pub(super) fn rtsp(
    url: &str,
    username: Option<&str>,
    password: Option<&str>,
    transport: Transport,
    latency: Duration,
    draft: &Draft,
) -> Result<(), SourceError> {
    let source = make("rtspsrc")?;
    source.set_property("location", url);
    // Properties, never the URL: GStreamer prints URLs in its messages.
    source.set_property("user-id", username);
    source.set_property("user-pw", password);
    source.set_property_from_str("protocols", if transport == Transport::Tcp { "tcp" } else { "udp" });
    let latency = latency.as_millis().min(u128::from(u32::MAX)) as u32;
    source.set_property("latency", latency);
    // Bounds the jitter buffer; with no buffer at all it would drop everything.
    source.set_property("drop-on-latency", latency > 0);
    source.set_property("tcp-timeout", TCP_TIMEOUT.as_micros() as u64);
    source.set_property("user-agent", concat!("ocelli/", env!("CARGO_PKG_VERSION")));
    select_one_video_stream(&source);
    draft.pipeline.add(&source).map_err(build)?;
    let weak = draft.downgrade();
    source.connect_pad_added(move |_, pad| weak.attempt(|draft| attach(draft, pad)));
    let weak = draft.downgrade();
    source.connect_no_more_pads(move |source| {
        weak.attempt(|_| match source.src_pads().is_empty() {
            true => Err(SourceError::NoVideo("the camera offers no video stream".into())),
            false => Ok(()),
        });
    });
    Ok(())
}

/// Only the first video stream is set up: sound and second streams would cost the camera bandwidth for nothing.
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

fn attach(draft: &Draft, pad: &gst::Pad) -> Result<(), SourceError> {
    let encoding = pad_caps(pad).structure(0).and_then(|s| s.get::<String>("encoding-name").ok()).unwrap_or_default();
    let codec = Codec::of_rtp(&encoding).ok_or_else(|| {
        SourceError::NoVideo(format!("the camera sends `{encoding}`; set it to H.264, H.265 or MJPEG"))
    })?;
    tracing::debug!("camera sends {}", codec.name);
    draft.insert(pad, codec.rtp_chain()?)
}
