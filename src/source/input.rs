//! What a source plays: which pipeline it needs, how long that may be silent, and what its bus messages mean.

use std::time::Duration;

use gstreamer as gst;
use gstreamer_app as gst_app;

use super::error::SourceError;
use super::file::file;
use super::local::{csi, usb};
use super::pipeline::{Draft, Fault};
use super::rtsp::rtsp;
use crate::config::SourceConfig;
use crate::types::Url;

/// Timeout for a camera's first frame: many send a key frame only every ten seconds.
pub(super) const FIRST_FRAME: Duration = Duration::from_secs(15);
/// Timeout for a file: a slow disk or a large frame is no fault.
const FILE_SILENCE: Duration = Duration::from_secs(60);

pub(super) struct Input(SourceConfig);

impl Input {
    /// Moves user and password from the URL into their own fields.
    pub(super) fn new(source: &SourceConfig) -> Self {
        let mut source = source.clone();
        if let SourceConfig::Rtsp { url, username, password, .. } = &mut source {
            if let Ok(parsed) = Url::parse(url) {
                *url = parsed.without_credentials();
                *username = username.take().or(parsed.username);
                *password = password.take().or(parsed.password);
            }
            // `rtspsrc` logs in only when both are set; a camera's password may be empty.
            if username.is_some() {
                password.get_or_insert_default();
            }
        }
        Self(source)
    }

    pub(super) fn is_live(&self) -> bool {
        self.0.is_live()
    }

    /// A file that is played once, so that a failure is its end.
    pub(super) fn plays_once(&self) -> bool {
        matches!(self.0, SourceConfig::File { looped: false, .. })
    }

    /// The whole pipeline, not started.
    pub(super) fn build(
        &self,
        callbacks: impl FnOnce(gst::Bus) -> gst_app::AppSinkCallbacks,
    ) -> Result<Draft, SourceError> {
        let draft = Draft::new(matches!(self.0, SourceConfig::File { realtime: true, .. }), callbacks)?;
        match &self.0 {
            SourceConfig::Rtsp { url, username, password, transport, latency } => {
                rtsp(url, username.as_deref(), password.as_deref(), *transport, *latency, &draft)?;
            }
            SourceConfig::Usb { device, format, capture } => usb(device, *format, *capture, &draft)?,
            SourceConfig::Csi { sensor, capture } => csi(*sensor, *capture, &draft)?,
            SourceConfig::File { path, .. } => file(path, &draft)?,
        }
        Ok(draft)
    }

    /// Longest time without a frame; `no_frame` is the configured one for cameras that have sent some.
    pub(super) fn silence_timeout(&self, frames: u64, no_frame: Duration) -> Duration {
        match &self.0 {
            SourceConfig::File { .. } => FILE_SILENCE,
            _ if frames == 0 => FIRST_FRAME.max(no_frame),
            _ => no_frame,
        }
    }

    /// The stream ended after `frames` frames: `None` when that is a file's ordinary end.
    pub(super) fn ended(&self, frames: u64) -> Option<SourceError> {
        match &self.0 {
            SourceConfig::File { .. } if frames > 0 => None,
            SourceConfig::File { .. } => {
                Some(self.named(SourceError::NoVideo("not one frame could be decoded".into())))
            }
            _ => Some(SourceError::StreamEnded),
        }
    }

    /// An error message came on the bus.
    pub(super) fn error(&self, message: &gst::message::Error, fault: &Fault) -> SourceError {
        // Our own fault is more precise than the "not-linked" that follows from it.
        match (fault.explain(), &self.0) {
            (Some(fault), _) => self.named(fault),
            (None, SourceConfig::File { path, .. }) => SourceError::from_file(message, path),
            (None, _) => SourceError::from_camera(message, self.secrets()),
        }
    }

    /// Names the file that holds no video.
    pub(super) fn named(&self, error: SourceError) -> SourceError {
        match (&self.0, error) {
            (SourceConfig::File { path, .. }, SourceError::NoVideo(reason)) => {
                SourceError::File { path: path.clone(), reason }
            }
            (_, error) => error,
        }
    }

    /// Must not be repeated in a message.
    pub(super) fn secrets(&self) -> &[String] {
        match &self.0 {
            SourceConfig::Rtsp { password, .. } => password.as_slice(),
            _ => &[],
        }
    }
}
