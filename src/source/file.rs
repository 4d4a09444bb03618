//! A file's pipeline: the demuxer is chosen here by the container; H.264, H.265 and JPEG get the same decoders as cameras.
//! Only other codecs are left to `decodebin`: files come from the user, not from the network.

use std::collections::BTreeSet;
use std::path::Path;

use gstreamer as gst;
use gstreamer::prelude::*;

use super::decoder::Codec;
use super::error::{SourceError, build, make};
use super::pipeline::{Draft, media_type, pad_caps};

/// Containers, by the media type that `typefind` finds, and the demuxer of each.
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
    // An elementary stream has the same name, but not the field `systemstream`.
    ("video/mpeg", "mpegpsdemux"),
];

/// The elements of every file's pipeline that come from plugins, besides the container's and the codec's.
pub(super) const ELEMENTS: [&str; 3] = ["filesrc", "typefind", "videoconvert"];

/// The demuxers, each once.
pub(super) fn demuxers() -> BTreeSet<&'static str> {
    CONTAINERS.iter().map(|(_, demuxer)| *demuxer).collect()
}

/// `filesrc ! typefind ! demuxer ! decoder ! tail`. What follows `typefind` is added when it knows what the file is.
pub(super) fn file(path: &Path, draft: &Draft) -> Result<(), SourceError> {
    let (source, find) = (make("filesrc")?, make("typefind")?);
    source.set_property("location", playable(path)?);
    draft.pipeline.add_many([&source, &find]).map_err(build)?;
    source.link(&find).map_err(build)?;
    let weak = draft.downgrade();
    find.connect("have-type", false, move |values| {
        let find = values.first()?.get::<gst::Element>().ok()?;
        let caps = values.get(2)?.get::<gst::Caps>().ok()?;
        weak.attempt(|draft| take_apart(draft, &find, &caps));
        None
    });
    Ok(())
}

/// The path as GStreamer wants it. A pipe or a device is refused: it would block the opening thread without end.
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
fn take_apart(draft: &Draft, find: &gst::Element, caps: &gst::Caps) -> Result<(), SourceError> {
    let source = find.static_pad("src").ok_or_else(|| build("typefind has no source pad"))?;
    let media = media_type(caps);
    let system_stream = caps.structure(0).and_then(|s| s.get::<bool>("systemstream").ok()) == Some(true);
    let elementary = media == "video/mpeg" && !system_stream;
    if let Some((_, demuxer)) = CONTAINERS.iter().find(|(name, _)| *name == media && !elementary) {
        return demux(draft, &source, demuxer);
    }
    match media.as_str() {
        "application/x-yuv4mpeg" => draft.insert(&source, vec![make("y4mdec")?]),
        _ if draft.fault.stream(&media) => attach(draft, &source, &media),
        _ => Err(SourceError::NoVideo(format!("it is {media}, no video that Ocelli plays"))),
    }
}

fn demux(draft: &Draft, source: &gst::Pad, demuxer: &'static str) -> Result<(), SourceError> {
    let demux = make(demuxer)?;
    let weak = draft.downgrade();
    demux.connect_pad_added(move |_, pad| {
        weak.attempt(|draft| {
            let media = media_type(&pad_caps(pad));
            if draft.fault.stream(&media) { attach(draft, pad, &media) } else { Ok(()) }
        });
    });
    let weak = draft.downgrade();
    demux.connect_no_more_pads(move |_| weak.attempt(|draft| draft.fault.explain().map_or(Ok(()), Err)));
    draft.pipeline.add(&demux).map_err(build)?;
    let sink = demux.static_pad("sink").ok_or_else(|| build("a demuxer without a sink pad"))?;
    source.link(&sink).map_err(build)?;
    demux.sync_state_with_parent().map_err(build)
}

/// Decodes the packets of `pad`.
fn attach(draft: &Draft, pad: &gst::Pad, media: &str) -> Result<(), SourceError> {
    if let Some(codec) = Codec::of_media(media) {
        return draft.insert(pad, codec.packet_chain()?);
    }
    if media == "video/x-raw" {
        return draft.insert(pad, Vec::new());
    }
    let decode = make("decodebin")?;
    let head = draft.head.clone();
    decode.connect_pad_added(move |_, pad| {
        // A pad that does not fit leaves the sink unlinked: the stream then ends with "not-linked" on the bus.
        if !head.is_linked() && pad.link(&head).is_err() {
            tracing::debug!("a decoded stream is no video that the sink takes");
        }
    });
    draft.pipeline.add(&decode).map_err(build)?;
    let sink = decode.static_pad("sink").ok_or_else(|| build("decodebin has no sink pad"))?;
    decode.sync_state_with_parent().map_err(build)?;
    pad.link(&sink).map(drop).map_err(build)
}
