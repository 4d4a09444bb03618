//! The one table of all keys. The parser, the JSON Schema, the reference page and `config show` read it, so none of
//! them can know a key that the others do not.

mod camera;
mod model;

pub(crate) use camera::{CAMERA, DETECT, RECONNECT};
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
