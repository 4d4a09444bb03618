//! The keys at the top of the file.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::camera::{CameraConfig, DetectConfig, ReconnectConfig};
use super::macros::section;
use super::model::ModelConfig;
use super::outputs::{HttpConfig, JsonlConfig, MqttConfig, RtspConfig};
use super::read::{Entry, Field, Keys, Reader, Report};
use super::section::{Key, Kind, Section};
use crate::types::DEFAULT_MODEL;

section! {
    /// The configuration of `ocelli run`.
    pub struct Config("config" in "") {
        /// Version of this format.
        pub version: u32 = Integer(1, 1), default "1", example "1";
        /// Name of this box in MQTT topics. Default: the host name.
        pub node: String = Name, example "node1";
        /// The detector. Default: the model shipped with Ocelli.
        pub model: ModelConfig = Section(ModelConfig::SECTION), example "models/yolo.onnx";
        /// Further detectors by name, for cameras with `detect: {model: NAME}`. Default: none.
        pub models: BTreeMap<String, ModelConfig> = Named(ModelConfig::SECTION), example "{plates: models/plates.onnx}";
        /// Detections to an MQTT broker. Default: off.
        pub mqtt: Option<MqttConfig> = Optional(MqttConfig::SECTION), example "mqtt://127.0.0.1:1883";
        /// Annotated streams as `rtsp://HOST:8554/<camera>`. Default: on, for this machine only.
        pub rtsp: Option<RtspConfig> = Section(RtspConfig::SECTION), example "127.0.0.1:9554";
        /// Health and metrics over HTTP. Default: off.
        pub http: Option<HttpConfig> = Optional(HttpConfig::SECTION), example "127.0.0.1:8080";
        /// Detections as JSON Lines. Default: off.
        pub jsonl: Option<JsonlConfig> = Optional(JsonlConfig::SECTION), example "detections.jsonl";
        /// How often statistics are published.
        pub stats_interval: Duration = Duration(1_000, 3_600_000), default "10s", example "60s";
        /// Folder for what must survive a restart; one running Ocelli per folder. Default: systemd's `STATE_DIRECTORY`, else none.
        pub state_dir: Option<PathBuf> = Path, example "/var/lib/ocelli";
        /// What cameras use where they set nothing else.
        pub defaults: CameraDefaults = Section(CameraDefaults::SECTION), example "{detect: {threshold: 0.4}}";
        /// The cameras by name; at least one. A name has 1 to 63 characters from `a`–`z`, `0`–`9`, `_`, `-` and begins with a
        /// letter or digit.
        pub cameras: Vec<CameraConfig> = Named(CameraConfig::SECTION), example "{gate: \"rtsp://10.0.0.5/stream1\"}";
    }
}

section! {
    /// What cameras use where they set nothing else.
    pub struct CameraDefaults("defaults" in "defaults") {
        /// What is looked for.
        pub detect: DetectConfig = Section(DetectConfig::SECTION), example "{threshold: 0.4}";
        /// How a lost camera is connected again.
        pub reconnect: ReconnectConfig = Section(ReconnectConfig::SECTION), example "{no_frame: 10s}";
    }
}

impl Config {
    /// The detectors that enabled cameras use, by name; the default one when no camera is enabled.
    pub fn used_models(&self) -> BTreeMap<&str, &ModelConfig> {
        let cameras = self.cameras.iter().filter(|camera| camera.enabled);
        let mut used: BTreeMap<&str, &ModelConfig> =
            cameras.filter_map(|camera| Some((camera.detect.model.as_str(), self.model_of(camera)?))).collect();
        if used.is_empty() {
            used.insert(DEFAULT_MODEL, &self.model);
        }
        used
    }

    /// Folder of the crash counter of the model `name`: each has its own.
    pub fn starts_folder(&self, name: &str) -> Option<PathBuf> {
        let folder = self.state_dir.as_ref()?;
        Some(if name == DEFAULT_MODEL { folder.clone() } else { folder.join("models").join(name) })
    }

    /// The detector of a camera. `None`: there is none of that name, which no checked configuration has.
    pub fn model_of(&self, camera: &CameraConfig) -> Option<&ModelConfig> {
        match camera.detect.model.as_str() {
            DEFAULT_MODEL => Some(&self.model),
            name => self.models.get(name),
        }
    }
}
