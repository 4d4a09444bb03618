//! What a source plays: which pipeline it needs, how long that may be silent, and what its bus messages mean.

use std::path::PathBuf;
use std::time::Duration;

use gstreamer as gst;
use gstreamer_app as gst_app;

use super::error::SourceError;
use super::file::file;
use super::local::{LocalSpec, local};
use super::pipeline::{Draft, Fault};
use super::rtsp::{RtspSpec, rtsp};
use crate::config::SourceConfig;
use crate::types::Url;

/// Timeout for a camera's first frame: many send a key frame only every ten seconds.
pub(super) const FIRST_FRAME: Duration = Duration::from_secs(15);
/// Timeout for a file: a slow disk or a large frame is no fault.
const FILE_SILENCE: Duration = Duration::from_secs(60);

pub(super) enum Input {
    Rtsp(RtspSpec),
    /// USB or CSI.
    Local(LocalSpec),
    File {
        path: PathBuf,
        looped: bool,
        realtime: bool,
    },
}

impl Input {
    pub(super) fn new(source: &SourceConfig) -> Self {
        match source {
            SourceConfig::Rtsp { url, username, password, transport, latency } => {
                let parsed = Url::parse(url).ok();
                let (inline_name, inline_password) =
                    parsed.as_ref().map(|url| (url.username.clone(), url.password.clone())).unwrap_or_default();
                let username = username.clone().or(inline_name);
                // `rtspsrc` logs in only when both are set; a camera's password may be empty.
                let password = password.clone().or(inline_password).or(username.as_ref().map(|_| String::new()));
                Self::Rtsp(RtspSpec {
                    url: parsed.map_or_else(|| url.clone(), |url| url.without_credentials()),
                    username,
                    password,
                    transport: *transport,
                    latency: *latency,
                })
            }
            SourceConfig::Usb { device, format, capture } => {
                Self::Local(LocalSpec::Usb { device: device.clone(), format: *format, capture: *capture })
            }
            SourceConfig::Csi { sensor, capture } => Self::Local(LocalSpec::Csi { sensor: *sensor, capture: *capture }),
            SourceConfig::File { path, looped, realtime } => {
                Self::File { path: path.clone(), looped: *looped, realtime: *realtime }
            }
        }
    }

    pub(super) fn is_live(&self) -> bool {
        !matches!(self, Self::File { .. })
    }

    /// A file that is played once, so that a failure is its end.
    pub(super) fn plays_once(&self) -> bool {
        matches!(self, Self::File { looped: false, .. })
    }

    /// The whole pipeline, not started.
    pub(super) fn build(
        &self,
        callbacks: impl FnOnce(gst::Bus) -> gst_app::AppSinkCallbacks,
    ) -> Result<Draft, SourceError> {
        let draft = Draft::new(matches!(self, Self::File { realtime: true, .. }), callbacks)?;
        match self {
            Self::Rtsp(spec) => rtsp(spec, &draft)?,
            Self::Local(spec) => local(spec, &draft)?,
            Self::File { path, .. } => file(path, &draft)?,
        }
        Ok(draft)
    }

    /// Longest time without a frame; `no_frame` is the configured one for cameras that have sent some.
    pub(super) fn silence_timeout(&self, frames: u64, no_frame: Duration) -> Duration {
        match self {
            Self::File { .. } => FILE_SILENCE,
            _ if frames == 0 => FIRST_FRAME.max(no_frame),
            _ => no_frame,
        }
    }

    /// The stream ended after `frames` frames: `None` when that is a file's ordinary end.
    pub(super) fn ended(&self, frames: u64) -> Option<SourceError> {
        match self {
            Self::Rtsp(_) | Self::Local(_) => Some(SourceError::StreamEnded),
            Self::File { .. } if frames > 0 => None,
            Self::File { .. } => Some(self.named(SourceError::NoVideo("not one frame could be decoded".into()))),
        }
    }

    /// An error message came on the bus.
    pub(super) fn error(&self, message: &gst::message::Error, fault: &Fault) -> SourceError {
        // Our own fault is more precise than the "not-linked" that follows from it.
        match (fault.explain(), self) {
            (Some(fault), _) => self.named(fault),
            (None, Self::File { path, .. }) => SourceError::from_file(message, path),
            (None, _) => SourceError::from_camera(message, self.secrets()),
        }
    }

    /// Says which file holds no video.
    pub(super) fn named(&self, error: SourceError) -> SourceError {
        match (self, error) {
            (Self::File { path, .. }, SourceError::NoVideo(reason)) => SourceError::File { path: path.clone(), reason },
            (_, error) => error,
        }
    }

    /// Must not be repeated in a message.
    pub(super) fn secrets(&self) -> &[String] {
        match self {
            Self::Rtsp(spec) => spec.password.as_slice(),
            Self::Local(_) | Self::File { .. } => &[],
        }
    }
}
