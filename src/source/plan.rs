//! Which elements the pipelines of this room need, and which of them this box has.

use gstreamer as gst;
use serde::{Deserialize, Serialize};

use super::decoder::CODECS;
use super::error::package;
use super::{SourceError, file, local, pipeline};

/// An element that is needed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ElementPlan {
    /// Its name.
    pub element: String,
    /// Debian and Ubuntu package that has it.
    pub package: String,
    /// In GStreamer's registry.
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
    /// Name of the element.
    pub element: String,
    /// Debian and Ubuntu package that has it.
    pub package: String,
    /// On a chip of its own, not on the CPU.
    pub hardware: bool,
    /// Why it is not taken, for example `is not installed`; `None`: it opens.
    pub trouble: Option<String>,
}

/// What turns one codec into pictures.
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
    /// The decoder that a pipeline takes: the first that opens.
    pub fn chosen(&self) -> Option<&DecoderPlan> {
        self.decoders.iter().find(|decoder| decoder.trouble.is_none())
    }
}

/// What the pipelines of cameras and files need.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourcePlan {
    /// Of each RTSP camera.
    pub rtsp: Vec<ElementPlan>,
    /// Of each USB camera.
    pub usb: Vec<ElementPlan>,
    /// Of each camera on the CSI connector.
    pub csi: Vec<ElementPlan>,
    /// Of each file.
    pub file: Vec<ElementPlan>,
    /// Of files, one per kind of container.
    pub demuxers: Vec<ElementPlan>,
    /// Per codec.
    pub codecs: Vec<CodecPlan>,
}

/// Looks everything up in GStreamer's registry and opens each decoder once. A decoder's device may take its time, and a
/// broken driver may crash the process that opens it.
///
/// # Errors
/// [`SourceError::Init`] when GStreamer does not start.
pub fn plan() -> Result<SourcePlan, SourceError> {
    gst::init().map_err(|e| SourceError::Init(e.to_string()))?;
    Ok(SourcePlan {
        rtsp: pipeline::ELEMENTS.into_iter().map(ElementPlan::of).collect(),
        usb: local::USB_ELEMENTS.into_iter().map(ElementPlan::of).collect(),
        csi: local::CSI_ELEMENTS.into_iter().map(ElementPlan::of).collect(),
        file: file::ELEMENTS.into_iter().map(ElementPlan::of).collect(),
        demuxers: file::demuxers().map(ElementPlan::of).collect(),
        codecs: CODECS.iter().map(super::decoder::Codec::plan).collect(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeSet;
    use std::time::Duration;

    use gstreamer::prelude::*;
    use gstreamer_app as gst_app;

    use super::super::pipeline::RtspSpec;
    use super::*;
    use crate::config::Transport;

    fn factories(pipeline: &gst::Pipeline) -> BTreeSet<String> {
        pipeline
            .iterate_elements()
            .into_iter()
            .flatten()
            .filter_map(|e| Some(e.factory()?.name().to_string()))
            .collect()
    }

    fn callbacks(_: gst::Bus) -> gst_app::AppSinkCallbacks {
        gst_app::AppSinkCallbacks::builder().build()
    }

    #[test]
    fn the_plan_names_every_element_that_the_pipelines_are_built_of() {
        let plan = plan().unwrap();
        let spec = RtspSpec {
            url: "rtsp://127.0.0.1:1/".into(),
            username: None,
            password: None,
            transport: Transport::Tcp,
            latency: Duration::ZERO,
        };
        let (camera, _) = pipeline::rtsp(&spec, callbacks).unwrap();
        let clip = std::env::current_exe().unwrap();
        let (clip, _) = file::file(&clip, false, callbacks).unwrap();
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
    fn the_chosen_decoder_is_the_one_that_the_pipeline_takes() {
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
