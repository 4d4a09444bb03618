//! GStreamer, examined by a child process: opening a vendor's decoder may crash or hang.

use std::time::Duration;

use gstreamer as gst;
use serde::{Deserialize, Serialize};

use super::limit::{Limited, child};
use crate::sink::encoder::{self, EncoderPlan};
use crate::sink::rtsp;
use crate::source::{self, ElementPlan, SourcePlan};

/// The first start builds the registry of all plugins, which is slow on a small machine.
const TIMEOUT: Duration = Duration::from_secs(40);

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
    /// Files of plugins that GStreamer could not load.
    pub broken: Vec<String>,
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
        .filter_map(|plugin| Some(plugin.filename()?.display().to_string()))
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
    child(&["probe-media".as_ref()], TIMEOUT, "the process that examined its plugins")
}
