//! GStreamer: looked at by a child process, because opening a vendor's decoder may crash or hang the one that does it.

use std::time::Duration;

use gstreamer as gst;
use serde::{Deserialize, Serialize};

use super::limit::Limited;
use crate::infer;
use crate::sink::encoder::{self, EncoderPlan};
use crate::sink::rtsp;
use crate::source::{self, ElementPlan, SourcePlan};

/// The first look builds the registry of all plugins, which takes a small box its time.
const PATIENCE: Duration = Duration::from_secs(40);

/// A plugin whose file is there, but which GStreamer could not load.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Broken {
    /// Its file.
    pub file: String,
}

/// What GStreamer has on this box.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Media {
    /// `1.22.0`.
    pub version: String,
    /// What cameras and files need.
    pub source: SourcePlan,
    /// Encoders, best first.
    pub encoders: Vec<EncoderPlan>,
    /// What annotated streams need besides the encoder.
    pub output: Vec<ElementPlan>,
    /// Plugins that do not load.
    pub broken: Vec<Broken>,
}

/// Looks at GStreamer in this process: what the child does (`ocelli probe-media`).
///
/// # Errors
/// When GStreamer does not start, in words.
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

/// Asks a child.
pub(super) fn media() -> Limited<Media> {
    let answer = infer::ask(&["probe-media".as_ref()], PATIENCE).map_err(|error| error.to_string())?;
    if let Some(signal) = answer.crash() {
        return Err(format!("looking at its plugins crashed with {signal}"));
    }
    answer
        .report::<Limited<Media>>()
        .unwrap_or_else(|| Err(format!("the process that looked ended with {}", answer.status)))
}
