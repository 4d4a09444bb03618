//! GStreamer, examined by a child process: opening a vendor's decoder may crash or hang.

use std::time::Duration;

use gstreamer as gst;
use serde::{Deserialize, Serialize};

use super::limit::Limited;
use crate::infer;
use crate::sink::encoder::{self, EncoderPlan};
use crate::sink::rtsp;
use crate::source::{self, ElementPlan, SourcePlan};

/// The first start builds the registry of all plugins, which is slow on a small machine.
const TIMEOUT: Duration = Duration::from_secs(40);

/// A plugin that GStreamer could not load.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Broken {
    pub file: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Media {
    /// `1.22.0`.
    pub version: String,
    /// Elements that cameras and files need.
    pub source: SourcePlan,
    /// Encoders, best first.
    pub encoders: Vec<EncoderPlan>,
    /// Elements that annotated streams need besides the encoder.
    pub output: Vec<ElementPlan>,
    pub broken: Vec<Broken>,
}

/// Examines GStreamer in this process: what the child (`ocelli probe-media`) does.
pub fn look() -> Result<Media, String> {
    let source = source::plan().map_err(|error| error.to_string())?;
    let encoders = encoder::plan().map_err(|error| error.to_string())?;
    let (major, minor, micro, _) = gst::version();
    let broken = gst::Registry::get()
        .plugins()
        .into_iter()
        .filter(|plugin| plugin.plugin_flags().contains(gst::PluginFlags::BLACKLISTED))
        .filter_map(|plugin| Some(Broken { file: plugin.filename()?.display().to_string() }))
        .collect();
    Ok(Media {
        version: format!("{major}.{minor}.{micro}"),
        source,
        encoders,
        output: rtsp::ELEMENTS.into_iter().map(ElementPlan::of).collect(),
        broken,
    })
}

pub(super) fn media() -> Limited<Media> {
    let answer = infer::ask(&["probe-media".as_ref()], TIMEOUT).map_err(|error| error.to_string())?;
    if let Some(signal) = answer.crash() {
        return Err(format!("its plugins crashed the process that examined them ({signal})"));
    }
    answer
        .report::<Limited<Media>>()
        .unwrap_or_else(|| Err(format!("the process that examined it ended with {}", answer.status)))
}
