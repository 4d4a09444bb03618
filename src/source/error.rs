//! Why a source does not deliver frames, and which package has a missing element.

use std::path::PathBuf;
use std::time::Duration;

use gstreamer as gst;

use crate::types::redact_with;

/// Why a source does not deliver frames. Texts hold no user name and no password.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SourceError {
    #[error("GStreamer does not start: {0}")]
    Init(String),
    #[error("cannot start a thread for the camera: {0}")]
    Thread(String),
    #[error("GStreamer element `{element}` is not installed: install {package}")]
    MissingElement {
        /// Its name, or several names of which one is needed.
        element: String,
        /// Debian and Ubuntu package that holds it.
        package: &'static str,
    },
    #[error("cannot build the pipeline: {0}")]
    Build(String),
    #[error("cannot play {}: {reason}", path.display())]
    File { path: PathBuf, reason: String },
    /// The stream or file has no video that Ocelli can decode.
    #[error("no usable video: {0}")]
    NoVideo(String),
    /// The camera refused the credentials, or requires some.
    #[error("the camera refused the credentials (401): check `username` and `password`")]
    AuthFailed,
    #[error("{0}")]
    Stream(String),
    #[error("the camera ended the stream")]
    StreamEnded,
    /// Connected, but frames have stopped.
    #[error("no frame for {0:.1?}")]
    Silent(Duration),
    /// Connected, but not one frame came.
    #[error("connected, but no frame came within {0:.1?}")]
    NeverAFrame(Duration),
    /// The tear-down of earlier pipelines hangs.
    #[error("{0} earlier connections do not close; waiting for them")]
    TearDown(usize),
}

impl SourceError {
    pub(super) fn from_camera(message: &gst::message::Error, secrets: &[String]) -> Self {
        let error = message.error();
        if error.matches(gst::ResourceError::NotAuthorized) {
            return Self::AuthFailed;
        }
        let detail = detail(message);
        // rtspsrc 1.16 … 1.20 report some refusals as a plain open error.
        if detail.as_deref().is_some_and(|d| d.contains("(401)")) {
            return Self::AuthFailed;
        }
        Self::Stream(redact_with(&sentence(&error, detail), secrets))
    }

    pub(super) fn from_file(message: &gst::message::Error, path: &std::path::Path) -> Self {
        Self::File { path: path.to_owned(), reason: sentence(&message.error(), detail(message)) }
    }
}

/// The last line of the debug text: the element's own message, without source file and object path.
fn detail(message: &gst::message::Error) -> Option<String> {
    let debug = message.debug()?;
    let (_, last) = debug.trim().rsplit_once('\n')?;
    let last = last.trim().trim_end_matches(" (Generic error)").trim_end_matches('.');
    (!last.is_empty() && !last.starts_with("streaming stopped")).then(|| last.to_owned())
}

fn sentence(error: &gst::glib::Error, detail: Option<String>) -> String {
    let message = error.message().trim().trim_end_matches('.');
    match detail {
        Some(detail) if !message.contains(&detail) => format!("{message}: {detail}"),
        _ => message.to_owned(),
    }
}

pub(super) fn make(name: &'static str) -> Result<gst::Element, SourceError> {
    gst::ElementFactory::make(name).build().map_err(|_| missing(name))
}

pub(super) fn missing(name: &str) -> SourceError {
    SourceError::MissingElement { element: name.to_owned(), package: package(name) }
}

/// The Debian and Ubuntu package of a GStreamer element; covers the elements of Ocelli's own pipelines.
pub fn package(name: &str) -> &'static str {
    match name {
        "h264parse" | "h265parse" | "openh264dec" | "openh264enc" | "tsdemux" | "mpegpsdemux" | "y4mdec"
        | "v4l2slh264dec" | "v4l2slh265dec" => "gstreamer1.0-plugins-bad",
        "x264enc" | "asfdemux" => "gstreamer1.0-plugins-ugly",
        "filesrc" | "typefind" | "capsfilter" => "libgstreamer1.0-0",
        "appsink" | "appsrc" | "videoconvert" | "videoscale" | "decodebin" | "oggdemux" => "gstreamer1.0-plugins-base",
        _ if name.starts_with("avdec_") => "gstreamer1.0-libav",
        _ if name.starts_with("nv") => "nvidia-l4t-gstreamer",
        _ => "gstreamer1.0-plugins-good",
    }
}

pub(super) fn build(error: impl std::fmt::Display) -> SourceError {
    SourceError::Build(error.to_string())
}
