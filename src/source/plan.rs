//! Which elements the pipelines of this room need, and which of them this box has.

use gstreamer as gst;
use gstreamer::prelude::*;
use serde::{Deserialize, Serialize};

use super::decoder::{CODECS, Codec};
use super::error::{SourceError, package};
use super::{file, local, rtsp};

/// An element that a pipeline needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ElementPlan {
    pub element: String,
    /// Debian and Ubuntu package.
    pub package: String,
    pub installed: bool,
}

impl ElementPlan {
    /// Looks `element` up. GStreamer must have been initialised.
    pub fn of(element: &str) -> Self {
        let installed = gst::ElementFactory::find(element).is_some();
        Self { element: element.into(), package: package(element).into(), installed }
    }
}

/// One decoder of a codec.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecoderPlan {
    pub element: String,
    /// Debian and Ubuntu package.
    pub package: String,
    /// Runs on a chip of its own, not on the CPU.
    pub hardware: bool,
    /// Why it is not taken, for example `is not installed`; `None`: it opens.
    pub trouble: Option<String>,
}

/// The elements that decode one codec.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CodecPlan {
    /// `H.264`, `H.265` or `MJPEG`.
    pub codec: String,
    /// Needed besides the decoder.
    pub elements: Vec<ElementPlan>,
    /// Best first.
    pub decoders: Vec<DecoderPlan>,
}

impl CodecPlan {
    /// Opens every decoder once, also those behind the first that works.
    fn of(codec: &Codec) -> Self {
        let decoders = codec.decoders.iter().map(|decoder| DecoderPlan {
            element: decoder.element.into(),
            package: package(decoder.element).into(),
            hardware: decoder.hardware(),
            trouble: decoder.open().map(close).err().map(|reason| reason.to_string()),
        });
        Self {
            codec: codec.name.into(),
            elements: [Some(codec.depay), codec.parse].into_iter().flatten().map(ElementPlan::of).collect(),
            decoders: decoders.collect(),
        }
    }

    /// The decoder that a pipeline takes: the first that opens.
    pub fn chosen(&self) -> Option<&DecoderPlan> {
        self.decoders.iter().find(|decoder| decoder.trouble.is_none())
    }
}

fn close(chain: Vec<gst::Element>) {
    for element in chain {
        // Back to NULL only releases; there is nothing to do when it fails.
        let _ = element.set_state(gst::State::Null);
    }
}

/// The elements that the pipelines of cameras and files need.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourcePlan {
    pub rtsp: Vec<ElementPlan>,
    pub usb: Vec<ElementPlan>,
    pub csi: Vec<ElementPlan>,
    pub file: Vec<ElementPlan>,
    /// Of files, one per kind of container.
    pub demuxers: Vec<ElementPlan>,
    pub codecs: Vec<CodecPlan>,
}

/// Looks everything up in GStreamer's registry and opens each decoder once. Opening a decoder's device may be slow, and a
/// broken driver may crash the process.
///
/// # Errors
/// [`SourceError::Init`] when GStreamer does not start.
pub fn plan() -> Result<SourcePlan, SourceError> {
    gst::init().map_err(|e| SourceError::Init(e.to_string()))?;
    let elements = |names: &[&str]| names.iter().copied().map(ElementPlan::of).collect();
    Ok(SourcePlan {
        rtsp: elements(&rtsp::ELEMENTS),
        usb: elements(&local::USB_ELEMENTS),
        csi: elements(&local::CSI_ELEMENTS),
        file: elements(&file::ELEMENTS),
        demuxers: file::demuxers().into_iter().map(ElementPlan::of).collect(),
        codecs: CODECS.iter().map(CodecPlan::of).collect(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeSet;
    use std::time::Duration;

    use gstreamer_app as gst_app;

    use super::super::input::Input;
    use super::*;
    use crate::config::{SourceConfig, Transport};

    fn factories(pipeline: &gst::Pipeline) -> BTreeSet<String> {
        pipeline
            .iterate_elements()
            .into_iter()
            .flatten()
            .filter_map(|e| Some(e.factory()?.name().to_string()))
            .collect()
    }

    fn built(source: SourceConfig) -> gst::Pipeline {
        Input::new(&source).build(|_| gst_app::AppSinkCallbacks::builder().build()).unwrap().pipeline
    }

    #[test]
    fn the_plan_names_every_element_of_the_pipelines() {
        let plan = plan().unwrap();
        let (url, latency) = ("rtsp://127.0.0.1:1/".into(), Duration::ZERO);
        let camera =
            built(SourceConfig::Rtsp { url, username: None, password: None, transport: Transport::Tcp, latency });
        let path = std::env::current_exe().unwrap();
        let clip = built(SourceConfig::File { path, looped: false, realtime: false });
        for (built, planned) in [(camera, &plan.rtsp), (clip, &plan.file)] {
            let built = factories(&built);
            assert!(built.len() >= 2, "{built:?}");
            for element in built {
                let plan = planned.iter().find(|plan| plan.element == element);
                assert!(plan.is_some_and(|plan| plan.installed), "{element} is not planned, or not installed");
            }
        }
    }

    #[test]
    fn the_chosen_decoder_is_the_one_in_the_pipeline() {
        let plan = plan().unwrap();
        for (codec, plan) in CODECS.iter().zip(&plan.codecs) {
            let chain = codec.packet_chain().unwrap();
            let names: Vec<String> = chain.iter().map(|e| e.factory().unwrap().name().to_string()).collect();
            let chosen = plan.chosen().unwrap();
            assert!(names.contains(&chosen.element), "{names:?} without {}", chosen.element);
            assert!(plan.elements.iter().all(|element| element.installed), "{plan:?}");
            for element in chain {
                element.set_state(gst::State::Null).unwrap();
            }
        }
        assert!(plan.demuxers.iter().filter(|d| d.element == "qtdemux").count() == 1, "each demuxer once");
    }
}
