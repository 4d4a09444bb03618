//! The keys of `cameras.<name>:`, and of `detect:` and `reconnect:` there and in `defaults:`.

use std::path::PathBuf;
use std::time::Duration;

use super::field::PRIORITIES;
use super::macros::{scalars, section, words};
use super::read::{Entry, Field, Keys, Parse, Reader, Report};
use super::section::{Key, Kind, Section};
use super::value::{self, is_camera_name};
use crate::types::{CameraName, Priority, Size, redact};

section! {
    /// One camera.
    pub struct CameraConfig("camera" in "cameras.<name>", short "url" "file", among SourceKeys) {
        /// `false`: the camera is shown as `disabled` and nothing runs.
        pub enabled: bool = Bool, default "true", example "false";
        /// What is looked for. Default: `defaults.detect`.
        pub detect: DetectConfig = Section(DetectConfig::SECTION), example "{labels: [person]}";
        /// How a lost camera is connected again. Default: `defaults.reconnect`.
        pub reconnect: ReconnectConfig = Section(ReconnectConfig::SECTION), only ["url", "usb", "csi"], example "{no_frame: 10s}";
    } with {
        /// `^[a-z0-9][a-z0-9_-]{0,62}$`
        pub name: CameraName,
        /// Where the video comes from.
        pub source: SourceConfig,
    }
}

impl Field for Vec<CameraConfig> {
    fn read(entry: &mut Entry<'_>) -> Option<Self> {
        let mut named = entry.named::<CameraConfig>()?;
        named.retain(|(name, _)| is_camera_name(name));
        named.sort_by(|(a, _), (b, _)| a.cmp(b));
        Some(named.into_iter().map(|(name, camera)| CameraConfig { name: name.into(), ..camera }).collect())
    }
    fn absent() -> Self {
        Vec::new()
    }
}

/// The keys that say where the video comes from, one of which is required.
pub(crate) const SOURCES: [&str; 4] = ["url", "usb", "csi", "file"];

section! {
    /// The keys of all kinds of sources.
    pub(crate) struct SourceKeys("source" in "") {
        /// `rtsp://` or `rtsps://` address. One of `url`, `usb`, `csi` and `file` is required.
        pub(crate) url: Option<String> = Url(&["rtsp", "rtsps"]), example "rtsp://10.0.0.5/stream1";
        /// Device of a USB (Video4Linux) camera; names in `/dev/v4l/by-id` do not change when others are plugged in.
        pub(crate) usb: Option<PathBuf> = Path, example "/dev/video0";
        /// Number of a sensor on a Jetson's CSI connector.
        pub(crate) csi: Option<u32> = Integer(0, 15), example "0";
        /// A video file instead of a camera.
        pub(crate) file: Option<PathBuf> = Path, example "video.mp4";
        /// `usb`, `csi`: width and height of the picture. Default: the camera's own.
        pub(crate) size: Option<Size> = Size(32, 8192), only ["usb", "csi"], example "1920x1080";
        /// `usb`, `csi`: frames per second that the camera is asked for. Default: the camera's own.
        pub(crate) framerate: Option<u32> = Integer(1, 240), only ["usb", "csi"], example "30";
        /// `usb`: what the camera is asked to send. `auto`: the first that it has of `mjpeg`, `raw` and `h264`.
        pub(crate) format: UsbFormat = Word(UsbFormat::WORDS), default "auto", only ["usb"], example "mjpeg";
        /// User name of the camera. Default: none.
        pub(crate) username: Option<String> = Text, only ["url"], example "admin";
        /// Password of the camera; best as `${NAME}`. Default: none.
        pub(crate) password: Option<String> = Secret, only ["url"], example "${camera_password:-x}";
        /// How RTP travels. `tcp` passes firewalls and loses nothing.
        pub(crate) transport: Transport = Word(Transport::WORDS), default "tcp", only ["url"], example "udp";
        /// Jitter buffer of the receiver.
        pub(crate) latency: Duration = Duration(0, 10_000), default "200ms", only ["url"], example "50ms";
        /// Start the file again at its end.
        pub(crate) looped as "loop": bool = Bool, default "false", only ["file"], example "true";
        /// `true`: the file plays at its own frame rate and the newest frame wins. `false`: as fast as possible, every frame is
        /// detected.
        pub(crate) realtime: bool = Bool, default "true", only ["file"], example "false";
    }
}

section! {
    /// What is looked for in a camera's frames; in `defaults` and in a camera.
    pub struct DetectConfig("detect" in "detect") {
        /// Frames per second given to the detector at most. Default: as many as it can take.
        pub fps: Option<f64> = Number(0.01, 1000.0), example "10";
        /// Lowest confidence reported.
        pub threshold: f32 = Number(0.0, 1.0), default "0.25", example "0.4";
        /// Boxes of one class that overlap more than this (IoU) are one object.
        pub iou: f32 = Number(0.0, 1.0), default "0.45", example "0.6";
        /// Objects per frame at most.
        pub max_detections: usize = Integer(1, 10_000), default "300", example "50";
        /// Labels reported. Default: all that the model knows.
        pub labels: Option<Vec<String>> = Texts, example "[person, car]";
        /// Which detector: a name of `models`, or `default` for that of `model`.
        pub model: String = Name, default "default", example "plates";
        /// Share of the detector when it cannot take every frame: `high` gets four times the frames of `normal`, `low` a quarter.
        pub priority: Priority = Word(PRIORITIES), default "normal", example "high";
    }
}

section! {
    /// How a lost camera is connected again; in `defaults` and in a camera.
    pub struct ReconnectConfig("reconnect" in "reconnect") {
        /// A camera that sends no frame for this long is connected again.
        pub no_frame: Duration = Duration(100, 600_000), default "5s", example "10s";
        /// Wait before the first retry; it doubles up to `max`.
        pub first: Duration = Duration(10, 3_600_000), default "1s", example "2s";
        /// Longest wait.
        pub max: Duration = Duration(10, 3_600_000), default "60s", example "30s";
        /// Each wait is varied by ± this share, so that cameras do not all return at once.
        pub jitter: f64 = Number(0.0, 1.0), default "0.2", example "0.1";
    }
}

words! {
    /// What a USB camera is asked to send.
    pub enum UsbFormat {
        /// The first that it has of MJPEG, raw pictures and H.264.
        Auto = "auto",
        /// JPEG pictures.
        Mjpeg = "mjpeg",
        /// Pictures without compression.
        Raw = "raw",
        /// H.264.
        H264 = "h264",
    }
}

words! {
    /// How RTP travels.
    pub enum Transport {
        /// Interleaved in the RTSP connection: through any firewall, no packet is lost.
        Tcp = "tcp",
        /// Its own UDP ports: lower delay, loses packets.
        Udp = "udp",
    }
}

/// Where a camera's video comes from.
#[derive(Clone, PartialEq)]
pub enum SourceConfig {
    /// `rtsp://` or `rtsps://`.
    Rtsp {
        /// Address without user and password.
        url: String,
        username: Option<String>,
        password: Option<String>,
        transport: Transport,
        /// Jitter buffer of the receiver.
        latency: Duration,
    },
    /// A Video4Linux camera.
    Usb { device: PathBuf, format: UsbFormat, capture: Capture },
    /// A sensor on the CSI connector of a Jetson.
    Csi { sensor: u32, capture: Capture },
    /// A video file.
    File {
        path: PathBuf,
        /// Start again at the end.
        looped: bool,
        /// `true`: at the file's own frame rate, newest frame wins. `false`: as fast as possible, every frame counts.
        realtime: bool,
    },
}

/// What a camera on this box is asked for; `None`: what it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Capture {
    pub size: Option<Size>,
    /// Frames per second.
    pub framerate: Option<u32>,
}

impl Default for SourceConfig {
    fn default() -> Self {
        Self::File { path: PathBuf::new(), looped: false, realtime: true }
    }
}

// Not derived, because a password may not reach a log.
impl std::fmt::Debug for SourceConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Rtsp { url, transport, latency, .. } => {
                write!(f, "Rtsp({}, {transport:?}, {latency:?})", redact(url))
            }
            Self::Usb { device, format, capture } => write!(f, "Usb({}, {format:?}, {capture:?})", device.display()),
            Self::Csi { sensor, capture } => write!(f, "Csi({sensor}, {capture:?})"),
            Self::File { path, looped, realtime } => {
                write!(f, "File({}, looped: {looped}, realtime: {realtime})", path.display())
            }
        }
    }
}

impl SourceConfig {
    /// A camera, not a file: its frames cannot wait, and it is connected again when it is lost.
    pub fn is_live(&self) -> bool {
        !matches!(self, Self::File { .. })
    }
}
