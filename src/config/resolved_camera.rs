//! A camera after defaults are filled in: where its video comes from, what is looked for, how it comes back.

use std::path::PathBuf;
use std::time::Duration;

use crate::types::{CameraName, DEFAULT_MODEL, Priority, Size};

/// Where a camera's video comes from.
#[derive(Clone, PartialEq)]
pub enum SourceConfig {
    /// `rtsp://` or `rtsps://`, without credentials.
    Rtsp {
        /// Address without user and password.
        url: String,
        /// User name.
        username: Option<String>,
        /// Password, resolved.
        password: Option<String>,
        /// RTP over TCP or UDP.
        transport: Transport,
        /// Jitter buffer of the receiver.
        latency: Duration,
    },
    /// A Video4Linux camera.
    Usb {
        /// Its device; a name in `/dev/v4l/by-id` stays the same when others are plugged in.
        device: PathBuf,
        /// What it is asked to send.
        format: UsbFormat,
        /// Size and rate.
        capture: Capture,
    },
    /// A sensor on the CSI connector of a Jetson.
    Csi {
        /// Number of the sensor.
        sensor: u32,
        /// Size and rate.
        capture: Capture,
    },
    /// A video file.
    File {
        /// Its path.
        path: PathBuf,
        /// Start again at the end.
        looped: bool,
        /// `true`: at the file's own frame rate, newest frame wins. `false`: as fast as possible, every frame counts.
        realtime: bool,
    },
}

impl std::fmt::Debug for SourceConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Rtsp { url, username, password, transport, latency } => f
                .debug_struct("Rtsp")
                .field("url", url)
                .field("username", username)
                .field("password", &password.as_ref().map(|_| "***"))
                .field("transport", transport)
                .field("latency", latency)
                .finish(),
            Self::Usb { device, format, capture } => {
                f.debug_struct("Usb").field("device", device).field("format", format).field("capture", capture).finish()
            }
            Self::Csi { sensor, capture } => {
                f.debug_struct("Csi").field("sensor", sensor).field("capture", capture).finish()
            }
            Self::File { path, looped, realtime } => {
                f.debug_struct("File").field("path", path).field("looped", looped).field("realtime", realtime).finish()
            }
        }
    }
}

impl SourceConfig {
    /// A camera: pictures come when they come, and it is to be brought back when it is lost.
    pub fn is_live(&self) -> bool {
        !matches!(self, Self::File { .. })
    }
}

/// What a camera on this box is asked for; `None`: what it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Capture {
    /// Of the picture, in pixels.
    pub size: Option<Size>,
    /// Pictures per second.
    pub framerate: Option<u32>,
}

/// What a USB camera is asked to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UsbFormat {
    /// The first that it has of MJPEG, raw pictures and H.264.
    #[default]
    Auto,
    /// JPEG pictures.
    Mjpeg,
    /// Pictures without compression.
    Raw,
    /// H.264.
    H264,
}

/// How RTP travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// Interleaved in the RTSP connection: through any firewall, never a torn picture.
    #[default]
    Tcp,
    /// Its own UDP ports: lower delay, loses packets.
    Udp,
}

/// One camera, its defaults filled in.
#[derive(Debug, Clone, PartialEq)]
pub struct CameraConfig {
    /// `^[a-z0-9][a-z0-9_-]{0,62}$`.
    pub name: CameraName,
    /// `false`: shown as `disabled`, nothing runs.
    pub enabled: bool,
    /// Where the video comes from.
    pub source: SourceConfig,
    /// What is looked for.
    pub detect: DetectConfig,
    /// How a live source comes back.
    pub reconnect: ReconnectConfig,
}

/// What is looked for in a camera's frames.
#[derive(Debug, Clone, PartialEq)]
pub struct DetectConfig {
    /// Frames per second given to the detector at most; `None`: as many as it can take.
    pub fps: Option<f64>,
    /// Lowest confidence reported, 0 ..= 1; 0.25 by default.
    pub threshold: f32,
    /// Boxes of one class that overlap more than this are one object, 0 ..= 1; 0.45 by default.
    pub iou: f32,
    /// Objects per frame at most; 300 by default.
    pub max_detections: usize,
    /// Labels reported; `None`: all of the model's.
    pub labels: Option<Vec<String>>,
    /// Share of the engine when it is busy.
    pub priority: Priority,
    /// Which detector: a name of `models`, or `default` for that of `model`.
    pub model: String,
}

impl Default for DetectConfig {
    fn default() -> Self {
        Self {
            fps: None,
            threshold: 0.25,
            iou: 0.45,
            max_detections: 300,
            labels: None,
            priority: Priority::Normal,
            model: DEFAULT_MODEL.into(),
        }
    }
}

/// How a live source comes back.
#[derive(Debug, Clone, PartialEq)]
pub struct ReconnectConfig {
    /// No frame for this long: the connection is torn down and made anew. 5 s by default.
    pub no_frame: Duration,
    /// Wait before the first retry; doubles up to `max`. 1 s by default.
    pub first: Duration,
    /// Longest wait. 60 s by default.
    pub max: Duration,
    /// Each wait is spread by ± this share, 0 ..= 1. 0.2 by default.
    pub jitter: f64,
}

impl Default for ReconnectConfig {
    fn default() -> Self {
        Self {
            no_frame: Duration::from_secs(5),
            first: Duration::from_secs(1),
            max: Duration::from_secs(60),
            jitter: 0.2,
        }
    }
}
