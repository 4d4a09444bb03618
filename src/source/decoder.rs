//! Which elements turn a camera's RTP packets, or a file's packets, into frames.

use gstreamer as gst;
use gstreamer::prelude::*;

use super::error::{SourceError, make, package};

/// A codec whose elements are chosen here, never by auto-plugging.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Codec {
    pub(super) name: &'static str,
    /// `encoding-name` in RTP caps.
    rtp: &'static str,
    /// Media type of the packets in a file.
    media: &'static str,
    pub(super) depay: &'static str,
    pub(super) parse: Option<&'static str>,
    /// Best first; the first that is installed and whose device opens is taken.
    pub(super) decoders: &'static [Decoder],
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Decoder {
    pub(super) element: &'static str,
    /// Copies frames from the decoder's own memory into system memory.
    download: Option<&'static str>,
}

const fn plain(element: &'static str) -> Decoder {
    Decoder { element, download: None }
}

/// Jetson's decoder writes NVMM memory; `nvvidconv` copies it into system memory as NV12 (on the VIC, not on the CPU).
const JETSON: Decoder = Decoder { element: "nvv4l2decoder", download: Some("nvvidconv") };

pub(super) static CODECS: [Codec; 3] = [
    Codec {
        name: "H.264",
        rtp: "H264",
        media: "video/x-h264",
        depay: "rtph264depay",
        parse: Some("h264parse"),
        decoders: &[JETSON, plain("v4l2slh264dec"), plain("v4l2h264dec"), plain("avdec_h264"), plain("openh264dec")],
    },
    Codec {
        name: "H.265",
        rtp: "H265",
        media: "video/x-h265",
        depay: "rtph265depay",
        parse: Some("h265parse"),
        decoders: &[JETSON, plain("v4l2slh265dec"), plain("v4l2h265dec"), plain("avdec_h265")],
    },
    Codec {
        name: "MJPEG",
        rtp: "JPEG",
        media: "image/jpeg",
        depay: "rtpjpegdepay",
        parse: None,
        decoders: &[plain("jpegdec"), plain("avdec_mjpeg")],
    },
];

impl Codec {
    pub(super) fn of_rtp(encoding: &str) -> Option<&'static Self> {
        CODECS.iter().find(|c| c.rtp.eq_ignore_ascii_case(encoding))
    }

    pub(super) fn of_media(media: &str) -> Option<&'static Self> {
        CODECS.iter().find(|c| c.media == media)
    }

    /// The elements from RTP packets to frames, in order.
    pub(super) fn rtp_chain(&self) -> Result<Vec<gst::Element>, SourceError> {
        let mut chain = vec![make(self.depay)?];
        chain.extend(self.packet_chain()?);
        if let Some(decoder) = chain.iter().find(|e| e.has_property("max-threads")) {
            few_threads(decoder);
        }
        Ok(chain)
    }

    /// The elements from a file's packets to frames, in order.
    pub(super) fn packet_chain(&self) -> Result<Vec<gst::Element>, SourceError> {
        let mut chain = Vec::with_capacity(4);
        chain.extend(self.parse.map(make).transpose()?);
        chain.extend(self.decoder()?);
        Ok(chain)
    }

    fn decoder(&self) -> Result<Vec<gst::Element>, SourceError> {
        for choice in self.decoders {
            match choice.open() {
                Ok(chain) => return Ok(chain),
                Err(Unusable::NotInstalled) => {}
                Err(reason) => tracing::info!("decoder {} {reason}: trying the next one", choice.element),
            }
        }
        let names: Vec<&str> = self.decoders.iter().map(|d| d.element).collect();
        // Libav's decoders need no device.
        Err(SourceError::MissingElement { element: names.join("` or `"), package: package("avdec_") })
    }
}

/// The codec's name and its decoder, by the elements in the pipeline; `None` for files in another codec.
pub(super) fn decoding(pipeline: &gst::Pipeline) -> Option<(&'static str, String)> {
    let elements = pipeline.iterate_elements().into_iter().flatten();
    elements.filter_map(|element| Some(element.factory()?.name().to_string())).find_map(|name| {
        let codec = CODECS.iter().find(|codec| codec.decoders.iter().any(|decoder| decoder.element == name))?;
        Some((codec.name, name))
    })
}

/// Why a decoder is not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unusable {
    #[error("is not installed")]
    NotInstalled,
    #[error("is installed, but its device does not open")]
    Device,
    #[error("is installed, but `{0}`, which it needs, is not")]
    Download(&'static str),
}

impl Decoder {
    /// The decoder and what follows it, with its device opened: a later failure is the stream's, not the box's.
    pub(super) fn open(&self) -> Result<Vec<gst::Element>, Unusable> {
        let decoder = gst::ElementFactory::make(self.element).build().map_err(|_| Unusable::NotInstalled)?;
        // READY opens the device: a hardware decoder whose device is absent or taken fails here, not later.
        if decoder.set_state(gst::State::Ready).is_err() {
            let _ = decoder.set_state(gst::State::Null);
            return Err(Unusable::Device);
        }
        let Some(download) = self.download else { return Ok(vec![decoder]) };
        downloaded(decoder.clone(), download).map_err(|_| {
            let _ = decoder.set_state(gst::State::Null);
            Unusable::Download(download)
        })
    }

    /// Runs on a chip of its own, not on the CPU.
    pub(super) fn hardware(&self) -> bool {
        self.element.starts_with("nvv4l2") || self.element.starts_with("v4l2")
    }
}

/// `decoder`, and the elements that copy its frames from NVMM memory into system memory.
pub(super) fn downloaded(decoder: gst::Element, download: &'static str) -> Result<Vec<gst::Element>, SourceError> {
    let download = make(download)?;
    // Frames are held while they wait for their boxes; the default pool of 4 would stop the decoder.
    if download.has_property("output-buffers") {
        download.set_property_from_str("output-buffers", "24");
    }
    let caps = gst::Caps::builder("video/x-raw").field("format", "NV12").build();
    let filter = make("capsfilter")?;
    filter.set_property("caps", caps);
    Ok(vec![decoder, download, filter])
}

/// One decoding thread for live video up to 1080p: 6 ms of one core per frame is enough, and eight cameras with a thread
/// per core each only compete for the caches. Larger frames keep libav's own choice. (In a live pipeline libav
/// parallelises by slices, not frames, so threads never add delay.)
fn few_threads(decoder: &gst::Element) {
    let Some(pad) = decoder.static_pad("sink") else { return };
    let decoder = decoder.downgrade();
    // The size is known once the parser has seen the stream; the decoder reads the property when the caps arrive.
    pad.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
        if let (Some(gst::EventView::Caps(caps)), Some(decoder)) = (info.event().map(|e| e.view()), decoder.upgrade()) {
            let dimension = |name| caps.caps().structure(0).and_then(|s| s.get::<i32>(name).ok()).unwrap_or(0);
            let large = i64::from(dimension("width")) * i64::from(dimension("height")) > 1920 * 1088;
            decoder.set_property("max-threads", if large { 0i32 } else { 1 });
        }
        gst::PadProbeReturn::Ok
    });
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn codecs_are_found_by_either_name() {
        assert_eq!(Codec::of_rtp("h265").unwrap().name, "H.265");
        assert_eq!(Codec::of_media("image/jpeg").unwrap().name, "MJPEG");
        assert!(Codec::of_rtp("VP8").is_none());
        assert!(Codec::of_media("audio/mpeg").is_none());
    }

    #[test]
    fn every_codec_has_a_working_chain_here() {
        gst::init().unwrap();
        for codec in &CODECS {
            let chain = codec.rtp_chain().unwrap();
            assert!(chain.len() >= 2, "{}", codec.name);
            for element in chain {
                element.set_state(gst::State::Null).unwrap();
            }
        }
    }
}
