//! The keys of `cameras.<name>:`.

use super::{CAMERA_SCHEMES, Kind, Section, Short, key};

/// `cameras.<name>:`
pub(crate) static CAMERA: Section = Section {
    name: "camera",
    doc: "One camera. Short form: its URL or its video file.",
    short: Short::UrlOrFile,
    keys: &[
        key(
            "url",
            Kind::Url(CAMERA_SCHEMES),
            None,
            "rtsp://10.0.0.5/stream1",
            "`rtsp://` or `rtsps://` address. One of `url`, `usb`, `csi` and `file` is required.",
        ),
        key(
            "usb",
            Kind::Path,
            None,
            "/dev/video0",
            "Device of a USB (Video4Linux) camera; the names in `/dev/v4l/by-id` stay the same.",
        ),
        key("csi", Kind::Integer { min: 0, max: 15 }, None, "0", "Number of a sensor on a Jetson's CSI connector."),
        key("file", Kind::Path, None, "video.mp4", "A video file instead of a camera."),
        key(
            "size",
            Kind::Size { min: 32, max: 8192 },
            None,
            "1920x1080",
            "`usb`, `csi`: width and height of the picture. Default: the camera's own.",
        ),
        key(
            "framerate",
            Kind::Integer { min: 1, max: 240 },
            None,
            "30",
            "`usb`, `csi`: pictures per second that the camera is asked for. Default: the camera's own.",
        ),
        key(
            "format",
            Kind::Word(&["auto", "mjpeg", "raw", "h264"]),
            Some("auto"),
            "mjpeg",
            "`usb`: what the camera is asked to send. `auto`: the first that it has of `mjpeg`, `raw` and `h264`.",
        ),
        key("username", Kind::Text, None, "admin", "User name of the camera. Default: none."),
        key(
            "password",
            Kind::Secret,
            None,
            "${camera_password:-x}",
            "Password of the camera; best as `${NAME}`. Default: none.",
        ),
        key(
            "transport",
            Kind::Word(&["tcp", "udp"]),
            Some("tcp"),
            "udp",
            "How RTP travels. `tcp` passes firewalls and never tears a picture.",
        ),
        key("latency", Kind::Duration { min: 0, max: 10_000 }, Some("200ms"), "50ms", "Jitter buffer of the receiver."),
        key("loop", Kind::Bool, Some("false"), "true", "Start the file again at its end."),
        key(
            "realtime",
            Kind::Bool,
            Some("true"),
            "false",
            "`true`: the file plays at its own frame rate and the newest frame wins. `false`: as fast as possible, every frame counts.",
        ),
        key(
            "enabled",
            Kind::Bool,
            Some("true"),
            "false",
            "`false`: the camera is shown as `disabled` and nothing runs.",
        ),
        key(
            "detect",
            Kind::Section(&DETECT),
            None,
            "{labels: [person]}",
            "What is looked for. Default: `defaults.detect`.",
        ),
        key(
            "reconnect",
            Kind::Section(&RECONNECT),
            None,
            "{no_frame: 10s}",
            "How a live source comes back. Default: `defaults.reconnect`.",
        ),
    ],
};

/// `detect:`
pub(crate) static DETECT: Section = Section {
    name: "detect",
    doc: "What is looked for in a camera's frames.",
    short: Short::None,
    keys: &[
        key(
            "fps",
            Kind::Number { min: 0.01, max: 1000.0 },
            None,
            "10",
            "Frames per second given to the detector at most. Default: as many as it can take.",
        ),
        key("threshold", Kind::Number { min: 0.0, max: 1.0 }, Some("0.25"), "0.4", "Lowest confidence reported."),
        key(
            "iou",
            Kind::Number { min: 0.0, max: 1.0 },
            Some("0.45"),
            "0.6",
            "Boxes of one class that overlap more than this are one object.",
        ),
        key("max_detections", Kind::Integer { min: 1, max: 10_000 }, Some("300"), "50", "Objects per frame at most."),
        key("labels", Kind::Texts, None, "[person, car]", "Labels reported. Default: all that the model knows."),
        key(
            "model",
            Kind::Name,
            Some("default"),
            "plates",
            "Which detector: a name of `models`, or `default` for that of `model`.",
        ),
        key(
            "priority",
            Kind::Word(&["low", "normal", "high"]),
            Some("normal"),
            "high",
            "Share of the detector when it cannot take every frame: `high` gets four times the frames of `normal`, `low` a quarter.",
        ),
    ],
};

/// `reconnect:`
pub(crate) static RECONNECT: Section = Section {
    name: "reconnect",
    doc: "How a live source comes back.",
    short: Short::None,
    keys: &[
        key(
            "no_frame",
            Kind::Duration { min: 100, max: 600_000 },
            Some("5s"),
            "10s",
            "No frame for this long: the connection is made anew.",
        ),
        key(
            "first",
            Kind::Duration { min: 10, max: 3_600_000 },
            Some("1s"),
            "2s",
            "Wait before the first retry; doubles up to `max`.",
        ),
        key("max", Kind::Duration { min: 10, max: 3_600_000 }, Some("60s"), "30s", "Longest wait."),
        key("jitter", Kind::Number { min: 0.0, max: 1.0 }, Some("0.2"), "0.1", "Each wait is spread by ± this share."),
    ],
};
