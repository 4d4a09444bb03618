//! The one table of all keys. The parser, the JSON Schema, the reference page and `config show` read it, so none of
//! them can know a key that the others do not.

mod model;

pub(crate) use model::{CUDA, MODEL, OPENVINO, PROFILE, TENSORRT};

/// A group of keys.
#[derive(Debug)]
pub(crate) struct Section {
    /// Name of its definition in the schema and of its part in the reference.
    pub(crate) name: &'static str,
    pub(crate) doc: &'static str,
    /// What a plain text means where the section is expected.
    pub(crate) short: Short,
    pub(crate) keys: &'static [Key],
}

/// The short form of a section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Short {
    /// There is none.
    None,
    /// The text is the value of this key.
    Key(&'static str),
    /// A text with `://` is `url`, any other is `file`.
    UrlOrFile,
}

/// One key.
#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    /// Text of the default, read by the same code as the file. `None`: absent means what `doc` says.
    pub(crate) default: Option<&'static str>,
    pub(crate) doc: &'static str,
    /// A valid value that is not the default, as YAML; for the reference and for the test that every key has an effect.
    pub(crate) example: &'static str,
}

/// What a key's value is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    /// Any text without control characters, not empty.
    Text,
    /// A name: letters, digits, `_`, `-`, `.`.
    Name,
    /// An MQTT topic without wildcards, may have several levels.
    Topic,
    /// Address of a service with one of these schemes.
    Url(&'static [&'static str]),
    /// A path; relative ones start at the folder of the file that names it.
    Path,
    /// A text that is never shown.
    Secret,
    /// 64 hexadecimal digits.
    Sha256,
    Bool,
    Integer {
        min: u64,
        max: u64,
    },
    Number {
        min: f64,
        max: f64,
    },
    /// Limits in milliseconds.
    Duration {
        min: u64,
        max: u64,
    },
    Word(&'static [&'static str]),
    /// IP address and port to listen on.
    Address,
    /// `640` or `640x384`, width first.
    Size {
        min: u32,
        max: u32,
    },
    /// A list of different, not empty texts.
    Texts,
    Section(&'static Section),
    /// Names (chosen by the user) of sections.
    Named(&'static Section),
}

/// Schemes of a camera.
pub(crate) const CAMERA_SCHEMES: &[&str] = &["rtsp", "rtsps"];
/// Schemes of a broker.
pub(crate) const MQTT_SCHEMES: &[&str] = &["mqtt", "mqtts"];

const fn key(
    name: &'static str,
    kind: Kind,
    default: Option<&'static str>,
    example: &'static str,
    doc: &'static str,
) -> Key {
    Key { name, kind, default, doc, example }
}

/// The whole file.
pub(crate) static ROOT: Section = Section {
    name: "config",
    doc: "The configuration of `ocelli run`.",
    short: Short::None,
    keys: &[
        key("version", Kind::Integer { min: 1, max: 1 }, Some("1"), "1", "Version of this format."),
        key("node", Kind::Name, None, "node1", "Name of this box in MQTT topics. Default: the host name."),
        key(
            "model",
            Kind::Section(&MODEL),
            None,
            "models/yolo.onnx",
            "The detector. Default: the model shipped with Ocelli.",
        ),
        key(
            "models",
            Kind::Named(&MODEL),
            None,
            "{plates: models/plates.onnx}",
            "Further detectors by name, for cameras that say `detect: {model: NAME}`. Default: none.",
        ),
        key("mqtt", Kind::Section(&MQTT), None, "mqtt://127.0.0.1:1883", "Detections to an MQTT broker. Default: off."),
        key(
            "rtsp",
            Kind::Section(&RTSP),
            None,
            "0.0.0.0:8554",
            "Annotated streams as `rtsp://HOST:8554/<camera>`. Default: on, for this machine only.",
        ),
        key("http", Kind::Section(&HTTP), None, "127.0.0.1:8080", "Health and metrics over HTTP. Default: off."),
        key("jsonl", Kind::Section(&JSONL), None, "detections.jsonl", "Detections as JSON Lines. Default: off."),
        key(
            "stats_interval",
            Kind::Duration { min: 1_000, max: 3_600_000 },
            Some("10s"),
            "60s",
            "How often statistics are published.",
        ),
        key(
            "state_dir",
            Kind::Path,
            None,
            "/var/lib/ocelli",
            "Folder of what must survive a restart; one running Ocelli per folder. Default: systemd's `STATE_DIRECTORY`, else none.",
        ),
        key(
            "defaults",
            Kind::Section(&DEFAULTS),
            None,
            "{detect: {threshold: 0.4}}",
            "What cameras use where they say nothing else.",
        ),
        key(
            "cameras",
            Kind::Named(&CAMERA),
            None,
            "{gate: \"rtsp://10.0.0.5/stream1\"}",
            "The cameras by name; at least one. A name has 1 to 63 characters from `a`–`z`, `0`–`9`, `_`, `-` and begins with a letter or digit.",
        ),
    ],
};

/// `mqtt:`
pub(crate) static MQTT: Section = Section {
    name: "mqtt",
    doc: "Detections, states and statistics to an MQTT broker. Short form: its URL.",
    short: Short::Key("url"),
    keys: &[
        key(
            "url",
            Kind::Url(MQTT_SCHEMES),
            None,
            "mqtts://broker.lan:8883",
            "The broker: `mqtt://HOST[:1883]` or, with TLS, `mqtts://HOST[:8883]`. Required.",
        ),
        key("username", Kind::Text, None, "ocelli", "User name. Default: none."),
        key("password", Kind::Secret, None, "${mqtt_password:-x}", "Password; best as `${NAME}`. Default: none."),
        key(
            "ca_file",
            Kind::Path,
            None,
            "/etc/ocelli/ca.pem",
            "CA certificates (PEM) for `mqtts://`. Default: the system's.",
        ),
        key("prefix", Kind::Topic, Some("ocelli"), "site/ocelli", "First part of all topics."),
        key("frames", Kind::Bool, Some("true"), "false", "One message per frame on `…/<camera>/frame`."),
        key(
            "queue",
            Kind::Integer { min: 1, max: 100_000 },
            Some("1000"),
            "200",
            "Messages that wait for the broker; a full queue drops the oldest.",
        ),
    ],
};

/// `rtsp:`
pub(crate) static RTSP: Section = Section {
    name: "rtsp",
    doc: "The RTSP server for streams with the boxes drawn in. Short form: its address.",
    short: Short::Key("listen"),
    keys: &[
        key("enabled", Kind::Bool, Some("true"), "false", "`false`: no server."),
        key(
            "listen",
            Kind::Address,
            Some("127.0.0.1:8554"),
            "0.0.0.0:8554",
            "Address and port; port 0 takes a free one. `0.0.0.0` opens the streams to the network.",
        ),
        key(
            "bitrate_kbps",
            Kind::Integer { min: 100, max: 100_000 },
            Some("4000"),
            "2000",
            "H.264 bit rate per stream, kbit/s.",
        ),
        key(
            "max_delay",
            Kind::Duration { min: 0, max: 10_000 },
            Some("500ms"),
            "200ms",
            "Longest time that a frame waits for its own boxes.",
        ),
    ],
};

/// `http:`
pub(crate) static HTTP: Section = Section {
    name: "http",
    doc: "The HTTP server for health and metrics. Short form: its address.",
    short: Short::Key("listen"),
    keys: &[key(
        "listen",
        Kind::Address,
        Some("127.0.0.1:8080"),
        "0.0.0.0:8081",
        "Address and port; port 0 takes a free one.",
    )],
};

/// `jsonl:`
pub(crate) static JSONL: Section = Section {
    name: "jsonl",
    doc: "Detections as JSON Lines, one line per frame. Short form: the file.",
    short: Short::Key("file"),
    keys: &[key("file", Kind::Path, None, "detections.jsonl", "A file, or `-` for standard output. Required.")],
};

/// `defaults:`
pub(crate) static DEFAULTS: Section = Section {
    name: "defaults",
    doc: "What cameras use where they say nothing else.",
    short: Short::None,
    keys: &[
        key("detect", Kind::Section(&DETECT), None, "{threshold: 0.4}", "What is looked for."),
        key("reconnect", Kind::Section(&RECONNECT), None, "{no_frame: 10s}", "How a live source comes back."),
    ],
};

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
            "`rtsp://` or `rtsps://` address. Either `url` or `file` is required.",
        ),
        key("file", Kind::Path, None, "video.mp4", "A video file instead of a camera."),
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

impl Section {
    pub(crate) fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }
}

/// All sections, the file first, each once.
pub(crate) fn sections() -> [&'static Section; 14] {
    [
        &ROOT, &MODEL, &TENSORRT, &PROFILE, &CUDA, &OPENVINO, &MQTT, &RTSP, &HTTP, &JSONL, &DEFAULTS, &CAMERA, &DETECT,
        &RECONNECT,
    ]
}
