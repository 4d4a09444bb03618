//! The keys of what Ocelli sends and serves: `mqtt:`, `rtsp:`, `http:`, `jsonl:`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::macros::{scalars, section};
use super::read::{Entry, Field, Keys, Parse, Reader, Report};
use super::section::{Key, Kind, Section};
use super::value;
use crate::types::Url;

section! {
    /// Detections, states and statistics to an MQTT broker.
    pub struct MqttConfig("mqtt" in "mqtt", short "url") {
        /// The broker: `mqtt://HOST[:1883]` or, with TLS, `mqtts://HOST[:8883]`. Required.
        pub url: Broker = Url(&["mqtt", "mqtts"]), required "mqtt://127.0.0.1:1883";
        /// User name. Default: none.
        pub username: Option<String> = Text, example "ocelli";
        /// Password; best as `${NAME}`. Default: none.
        pub password: Option<String> = Secret, example "${mqtt_password:-x}";
        /// CA certificates (PEM) for `mqtts://`. Default: the system's.
        pub ca_file: Option<PathBuf> = Path, example "/etc/ocelli/ca.pem";
        /// First part of all topics.
        pub prefix: String = Topic, default "ocelli", example "site/ocelli";
        /// One message per frame on `…/<camera>/frame`.
        pub frames: bool = Bool, default "true", example "false";
        /// Messages that wait for the broker; a full queue drops the oldest.
        pub queue: usize = Integer(1, 100_000), default "1000", example "200";
    }
}

/// A broker's address.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Broker {
    pub host: String,
    pub port: u16,
    /// `mqtts://`
    pub tls: bool,
}

impl From<Url> for Broker {
    fn from(url: Url) -> Self {
        let tls = url.scheme == "mqtts";
        Self { port: url.port.unwrap_or(if tls { 8883 } else { 1883 }), host: url.host, tls }
    }
}

scalars! {
    Broker: |text, _, kind| value::url(text, kind).map(Self::from), Self::default();
}

section! {
    /// The RTSP server for streams with the boxes drawn in, as `rtsp://HOST:8554/<camera>`.
    pub struct RtspConfig("rtsp" in "rtsp", short "listen") {
        /// `false`: no server.
        pub enabled: bool = Bool, default "true", example "false";
        /// Address and port; port 0 takes a free one. An address that others can reach needs `anonymous: true`.
        pub listen: SocketAddr = Address, default "127.0.0.1:8554", example "127.0.0.1:9554";
        /// Anybody who reaches this address may watch.
        pub anonymous: bool = Bool, default "false", example "true";
        /// H.264 bit rate per stream, kbit/s.
        pub bitrate_kbps: u32 = Integer(100, 100_000), default "4000", example "2000";
        /// Longest time that a frame waits for its own boxes.
        pub max_delay: Duration = Duration(0, 10_000), default "500ms", example "200ms";
    }
}

section! {
    /// The HTTP server for health and metrics.
    pub struct HttpConfig("http" in "http", short "listen") {
        /// Address and port; port 0 takes a free one. An address that others can reach needs `anonymous: true`.
        pub listen: SocketAddr = Address, default "127.0.0.1:8080", example "127.0.0.1:8081";
        /// Anybody who reaches this address may read health and metrics.
        pub anonymous: bool = Bool, default "false", example "true";
    }
}

section! {
    /// Detections as JSON Lines, one line per frame.
    pub struct JsonlConfig("jsonl" in "jsonl", short "file") {
        /// A file, or `-` for standard output. Required.
        pub file: PathBuf = Path, required "detections.jsonl";
    }
}
