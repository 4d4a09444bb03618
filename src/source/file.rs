//! A file's pipeline: the container is taken apart by an element chosen here; H.264, H.265 and JPEG get the same decoders
//! as cameras. Only other codecs are left to `decodebin`, because files come from the user, not from the network.

use std::path::Path;

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;

use super::SourceError;
use super::decoder::Codec;
use super::error::make;
use super::pipeline::{Fault, build, insert, tail};

/// Containers, by the media type that `typefind` finds, and the element that takes each apart.
const CONTAINERS: [(&str, &str); 13] = [
    ("video/quicktime", "qtdemux"),
    ("application/x-3gp", "qtdemux"),
    ("video/mj2", "qtdemux"),
    ("video/x-matroska", "matroskademux"),
    ("video/webm", "matroskademux"),
    ("video/x-msvideo", "avidemux"),
    ("video/mpegts", "tsdemux"),
    ("video/x-flv", "flvdemux"),
    ("video/x-ms-asf", "asfdemux"),
    ("video/ogg", "oggdemux"),
    ("application/ogg", "oggdemux"),
    ("multipart/x-mixed-replace", "multipartdemux"),
    // Told from an elementary stream by its `systemstream` field.
    ("video/mpeg", "mpegpsdemux"),
];

/// The elements of every file's pipeline that come from plugins, besides the container's and the codec's.
pub(super) const ELEMENTS: [&str; 3] = ["filesrc", "typefind", "videoconvert"];

/// The elements that take containers apart, each once.
pub(super) fn demuxers() -> impl Iterator<Item = &'static str> {
    let first =
        |index: usize| CONTAINERS.iter().position(|(_, demuxer)| *demuxer == CONTAINERS[index].1) == Some(index);
    CONTAINERS.iter().enumerate().filter(move |(index, _)| first(*index)).map(|(_, (_, demuxer))| *demuxer)
}

/// `filesrc ! typefind ! demuxer ! decoder ! tail`. What follows `typefind` is added when it knows what the file is.
pub(super) fn file(
    path: &Path,
    realtime: bool,
    callbacks: impl FnOnce(gst::Bus) -> gst_app::AppSinkCallbacks,
) -> Result<(gst::Pipeline, Fault), SourceError> {
    let location = playable(path)?;
    let pipeline = gst::Pipeline::new();
    let (source, find) = (make("filesrc")?, make("typefind")?);
    source.set_property("location", location);
    let head = tail(&pipeline, realtime, callbacks)?;
    pipeline.add_many([&source, &find]).map_err(build)?;
    source.link(&find).map_err(build)?;
    let fault = Fault::default();
    let (weak, on_type) = (pipeline.downgrade(), fault.clone());
    find.connect("have-type", false, move |values| {
        let find = values.first()?.get::<gst::Element>().ok()?;
        let caps = values.get(2)?.get::<gst::Caps>().ok()?;
        let pipeline = weak.upgrade()?;
        if let Err(error) = take_apart(&pipeline, &find, &caps, &head, &on_type) {
            on_type.set(error, &pipeline);
        }
        None
    });
    Ok((pipeline, fault))
}

/// The path as GStreamer wants it. A pipe or a device would block the opening thread for ever: refused.
fn playable(path: &Path) -> Result<&str, SourceError> {
    let refuse = |reason: String| SourceError::File { path: path.to_owned(), reason };
    let data = std::fs::metadata(path).map_err(|e| refuse(e.to_string()))?;
    if data.is_dir() {
        return Err(refuse("it is a directory".into()));
    }
    if !data.is_file() {
        return Err(refuse("it is not a regular file".into()));
    }
    if data.len() == 0 {
        return Err(refuse("the file is empty".into()));
    }
    path.to_str().ok_or_else(|| refuse("its name is not valid UTF-8; rename it".into()))
}

/// Adds what is needed behind `typefind`.
fn take_apart(
    pipeline: &gst::Pipeline,
    find: &gst::Element,
    caps: &gst::Caps,
    head: &gst::Pad,
    fault: &Fault,
) -> Result<(), SourceError> {
    let source = find.static_pad("src").ok_or_else(|| build("typefind has no source pad"))?;
    let whole = caps.structure(0);
    let media = whole.map(|s| s.name().to_string()).unwrap_or_default();
    let elementary = media == "video/mpeg" && whole.and_then(|s| s.get::<bool>("systemstream").ok()) != Some(true);
    if let Some((_, demuxer)) = CONTAINERS.iter().find(|(name, _)| *name == media && !elementary) {
        return demux(pipeline, &source, demuxer, head, fault);
    }
    match media.as_str() {
        "application/x-yuv4mpeg" => insert(pipeline, &source, vec![make("y4mdec")?], head),
        _ if fault.stream(&media) => attach(pipeline, &source, &media, head),
        _ => Err(SourceError::NoVideo(format!("it is {media}, no video that Ocelli plays"))),
    }
}

fn demux(
    pipeline: &gst::Pipeline,
    source: &gst::Pad,
    demuxer: &'static str,
    head: &gst::Pad,
    fault: &Fault,
) -> Result<(), SourceError> {
    let demux = make(demuxer)?;
    let (weak, on_pad, head) = (pipeline.downgrade(), fault.clone(), head.clone());
    demux.connect_pad_added(move |_, pad| {
        let Some(pipeline) = weak.upgrade() else { return };
        let caps = pad.current_caps().unwrap_or_else(|| pad.query_caps(None));
        let media = caps.structure(0).map(|s| s.name().to_string()).unwrap_or_default();
        if on_pad.stream(&media)
            && let Err(error) = attach(&pipeline, pad, &media, &head)
        {
            on_pad.set(error, &pipeline);
        }
    });
    let (weak, on_end) = (pipeline.downgrade(), fault.clone());
    demux.connect_no_more_pads(move |_| {
        if let (Some(pipeline), Some(error)) = (weak.upgrade(), on_end.explain()) {
            on_end.set(error, &pipeline);
        }
    });
    pipeline.add(&demux).map_err(build)?;
    let sink = demux.static_pad("sink").ok_or_else(|| build("a demuxer without a sink pad"))?;
    source.link(&sink).map_err(build)?;
    demux.sync_state_with_parent().map_err(build)
}

/// Decodes the packets of `pad`.
fn attach(pipeline: &gst::Pipeline, pad: &gst::Pad, media: &str, head: &gst::Pad) -> Result<(), SourceError> {
    match Codec::of_media(media) {
        Some(codec) => insert(pipeline, pad, codec.packet_chain()?, head),
        None if media == "video/x-raw" => insert(pipeline, pad, Vec::new(), head),
        None => {
            let decode = make("decodebin")?;
            let target = head.clone();
            decode.connect_pad_added(move |_, pad| {
                // A pad that does not fit leaves the sink unlinked: the stream then ends with "not-linked" on the bus.
                if !target.is_linked() && pad.link(&target).is_err() {
                    tracing::debug!("a decoded stream does not fit the picture's sink");
                }
            });
            pipeline.add(&decode).map_err(build)?;
            let sink = decode.static_pad("sink").ok_or_else(|| build("decodebin has no sink pad"))?;
            decode.sync_state_with_parent().map_err(build)?;
            pad.link(&sink).map(|_| ()).map_err(build)
        }
    }
}
