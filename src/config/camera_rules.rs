//! What no key can check alone for cameras: where each one's video comes from, and what two of them must not share.

use super::camera::{CameraConfig, Capture, ReconnectConfig, SOURCES, SourceConfig, SourceKeys};
use super::error::Pos;
use super::file::Config;
use super::read::{Keys, Report};
use super::rules::{PathKind, Rules};
use super::tree::{Entry, Kind, Node};
use super::value::nearest;
use crate::types::{DEFAULT_MODEL, Url};

impl Rules<'_> {
    /// `inherited`: the tree in which each camera has what it inherits; `config` was read from it.
    pub(crate) fn cameras(&mut self, config: &mut Config, inherited: &Node) {
        let root = self.root;
        if root.get("cameras").is_none_or(|node| matches!(&node.kind, Kind::Map(all) if all.is_empty())) {
            let hint = "add for example `cameras: {gate: \"rtsp://10.0.0.5/stream1\"}`";
            self.error(&root.pos, "there is no camera", hint);
        }
        if let Some(node) = root.at(["defaults", "reconnect"]) {
            self.waits(node, &config.defaults.reconnect);
        }
        for camera in &mut config.cameras {
            let Some(node) = camera_entry(root, &camera.name).map(|entry| &entry.value) else { continue };
            camera.source = self.source(node, camera).unwrap_or_default();
            if let (Some(_), Some(node)) = (node.get("reconnect"), inherited.at(["cameras", &camera.name, "reconnect"]))
            {
                self.waits(node, &camera.reconnect);
            }
        }
        self.across(config);
    }

    fn source(&mut self, node: &Node, camera: &CameraConfig) -> Option<SourceConfig> {
        let keys = SourceKeys::from_node(Some(node), "", &mut Report::new(SourceKeys::SECTION));
        let path = format!("cameras.{}", camera.name);
        let there = [keys.url.is_some(), keys.usb.is_some(), keys.csi.is_some(), keys.file.is_some()];
        let kinds: Vec<&str> =
            SOURCES.into_iter().zip(there).filter(|(_, there)| *there).map(|(kind, _)| kind).collect();
        let kind = match kinds[..] {
            [kind] => kind,
            [one, other, ..] => {
                let hint = "keep one of them (`null` takes away what an earlier file set)";
                let pos = &node.get(other).unwrap_or(node).pos;
                self.error(pos, format!("`{path}` has both `{one}` and `{other}`"), hint);
                return None;
            }
            [] => {
                if !SOURCES.iter().any(|kind| node.get(kind).is_some()) {
                    let text = format!("`{path}` has neither `url` nor `file` (nor `usb` or `csi`)");
                    let hint = "add `url: rtsp://…` or `usb: /dev/video0` for a camera, or `file: …` for a video";
                    self.error(&node.pos, text, hint);
                }
                return None;
            }
        };
        self.useless(node, &path, kind);
        let capture = Capture { size: keys.size, framerate: keys.framerate };
        match (keys.url, keys.usb, keys.csi, keys.file) {
            (Some(url), ..) => {
                let url = Url::parse(url.trim()).ok()?;
                let (mut username, mut password) = (keys.username, keys.password);
                self.credentials(node, &path, &url, &mut username, &mut password);
                let (transport, latency) = (keys.transport, keys.latency);
                Some(SourceConfig::Rtsp { url: url.without_credentials(), username, password, transport, latency })
            }
            (_, Some(device), ..) => Some(SourceConfig::Usb { device, format: keys.format, capture }),
            (_, _, Some(sensor), _) => Some(SourceConfig::Csi { sensor, capture }),
            (.., file) => {
                if camera.enabled {
                    self.must_exist(node.get("file"), &file, &format!("the video of `{path}`"), &[PathKind::File]);
                }
                Some(SourceConfig::File { path: file?, looped: keys.looped, realtime: keys.realtime })
            }
        }
    }

    /// Keys that this kind of source does not read.
    fn useless(&mut self, node: &Node, path: &str, kind: &str) {
        let source = match kind {
            "url" => "an RTSP camera",
            "usb" => "a USB camera",
            "csi" => "a CSI camera",
            _ => "a file",
        };
        for key in CameraConfig::SECTION.keys().filter(|key| !key.only.is_empty() && !key.only.contains(&kind)) {
            if let Some(given) = node.get(key.name) {
                self.error(&given.pos, format!("`{path}.{}` has no effect on {source}", key.name), "remove it");
            }
        }
    }

    /// The first wait may not be longer than the longest.
    fn waits(&mut self, node: &Node, reconnect: &ReconnectConfig) {
        if reconnect.first > reconnect.max {
            let [first, max] = [reconnect.first, reconnect.max].map(humantime::format_duration);
            let text = format!("`reconnect.first` ({first}) is longer than `reconnect.max` ({max})");
            let pos = &node.get("first").or(node.get("max")).unwrap_or(node).pos;
            self.error(pos, text, "`first` doubles up to `max`");
        }
    }

    /// What two cameras, or a camera and something else, must not share.
    fn across(&mut self, config: &Config) {
        for (index, camera) in config.cameras.iter().enumerate() {
            let name = &camera.name;
            let Some(pos) = camera_entry(self.root, name).map(|entry| &entry.pos) else { continue };
            self.model_of(config, camera, pos);
            for other in &config.cameras[..index] {
                if name.replace('-', "_") == other.name.replace('-', "_") {
                    let text = format!("the cameras `{}` and `{name}` differ only in `-` and `_`", other.name);
                    self.warn(pos, text, "programs that read the messages may mix them up");
                }
                if camera.enabled && other.enabled && camera.source == other.source && camera.source.is_live() {
                    let text = format!("the cameras `{}` and `{name}` have the same address", other.name);
                    self.warn(pos, text, "is one of the addresses a copy that was to be changed?");
                }
            }
            match (&camera.source, &config.jsonl, &config.rtsp) {
                (SourceConfig::File { path, .. }, Some(jsonl), _) if jsonl.file == *path => {
                    let text = format!("`jsonl.file` would overwrite the video of `cameras.{name}`");
                    self.error(pos, text, "name another file");
                }
                (SourceConfig::Rtsp { url, .. }, _, Some(rtsp)) => {
                    let port = Url::parse(url).ok().filter(Url::is_loopback).map(|url| url.port.unwrap_or(554));
                    if port == Some(rtsp.listen.port()) {
                        let own = rtsp.listen;
                        let text = format!("`cameras.{name}` reads from the port of Ocelli's own RTSP server ({own})");
                        let hint = "give `rtsp.listen` another port, or correct the camera's address";
                        self.error(pos, text, hint);
                    }
                }
                _ => {}
            }
        }
    }

    fn model_of(&mut self, config: &Config, camera: &CameraConfig, pos: &Pos) {
        if config.model_of(camera).is_some() {
            return;
        }
        let (wanted, known) = (&camera.detect.model, config.models.keys().map(String::as_str));
        let hint = match nearest(wanted, known.chain([DEFAULT_MODEL])) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("add it: `models: {{{wanted}: path/to/{wanted}.onnx}}`"),
        };
        let text = format!("`cameras.{}` asks for the model `{wanted}`, which is not among `models`", camera.name);
        self.error(pos, text, hint);
    }
}

fn camera_entry<'a>(root: &'a Node, name: &str) -> Option<&'a Entry> {
    root.get("cameras")?.entry(name)
}
