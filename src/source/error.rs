//! What can go wrong with a source, in words for people.

use std::path::PathBuf;
use std::time::Duration;

use gstreamer as gst;

use crate::types::redact_with;

/// Why a source does not deliver frames. Texts hold no user name and no password.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SourceError {
    /// GStreamer itself does not start.
    #[error("GStreamer does not start: {0}")]
    Init(String),
    /// No thread for the camera.
    #[error("no thread for the camera: {0}")]
    Thread(String),
    /// A GStreamer element is not installed.
    #[error("GStreamer element `{element}` is not installed: install {package}")]
    MissingElement {
        /// Name of the element, or names of which one is needed.
        element: String,
        /// Debian and Ubuntu package that holds it.
        package: &'static str,
    },
    /// The pipeline could not be put together.
    #[error("cannot build the pipeline: {0}")]
    Build(String),
    /// The file cannot be read as video.
    #[error("cannot play {}: {reason}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The stream or file has no video that is understood.
    #[error("no usable video: {0}")]
    NoVideo(String),
    /// The camera refused the credentials, or wants some.
    #[error("the camera refused the credentials (401): check `username` and `password`")]
    AuthFailed,
    /// The camera cannot be reached, or the stream broke.
    #[error("{0}")]
    Stream(String),
    /// A live camera ended its stream.
    #[error("the camera ended the stream")]
    StreamEnded,
    /// Connected, but nothing comes.
    #[error("no frame for {0:.1?}")]
    Silent(Duration),
    /// Connected, but nothing came from the start.
    #[error("connected, but no frame came within {0:.1?}")]
    NeverAFrame(Duration),
    /// Earlier pipelines hang in their tear-down.
    #[error("{0} earlier connections do not close; waiting for them")]
    TearDown(usize),
}

impl SourceError {
    /// From an error message on the bus of a camera's pipeline.
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

    /// From an error message on the bus of a file's pipeline.
    pub(super) fn from_file(message: &gst::message::Error, path: &std::path::Path) -> Self {
        Self::File { path: path.to_owned(), reason: sentence(&message.error(), detail(message)) }
    }
}

/// The last line of the debug text: the element's own words, without source file and object path.
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

/// `name` as an element, or which package to install.
pub(super) fn make(name: &'static str) -> Result<gst::Element, SourceError> {
    gst::ElementFactory::make(name).build().map_err(|_| missing(name))
}

/// The error for an element that the registry does not have.
pub(super) fn missing(name: &str) -> SourceError {
    SourceError::MissingElement { element: name.to_owned(), package: package(name) }
}

/// The Debian and Ubuntu package that has the element `name`: those of Ocelli's own pipelines, in and out.
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
