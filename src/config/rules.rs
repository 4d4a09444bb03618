//! What no key can check alone, for everything but the cameras.

use std::net::SocketAddr;
use std::path::Path;

use super::error::{Pos, Problem};
use super::file::Config;
use super::mask::shortened;
use super::model::ModelConfig;
use super::outputs::{HttpConfig, MqttConfig, RtspConfig};
use super::tree::Node;
use crate::types::{DEFAULT_MODEL, Url};

/// What a path leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PathKind {
    Nothing,
    File,
    Folder,
}

/// Checks a configuration and completes it. Pure: what it must know of the machine are fields.
pub(crate) struct Rules<'a> {
    /// The keys as given.
    pub(crate) root: &'a Node,
    /// Name of the box when the file gives none.
    pub(crate) host: &'a str,
    /// State folder when the file names none.
    pub(crate) state_dir: Option<&'a Path>,
    pub(crate) path_kind: &'a dyn Fn(&Path) -> PathKind,
    pub(crate) errors: Vec<Problem>,
    pub(crate) warnings: Vec<Problem>,
}

impl Rules<'_> {
    pub(crate) fn error(&mut self, pos: &Pos, text: impl Into<String>, hint: impl Into<String>) {
        self.errors.push(Problem::new(text).at(pos).hint(hint));
    }

    pub(crate) fn warn(&mut self, pos: &Pos, text: impl Into<String>, hint: impl Into<String>) {
        self.warnings.push(Problem::new(text).at(pos).hint(hint));
    }

    /// Everything but the cameras.
    pub(crate) fn apply(&mut self, config: &mut Config) {
        if config.node.is_empty() {
            config.node = node_name(self.host);
        }
        config.state_dir = config.state_dir.take().or_else(|| self.state_dir.map(Path::to_owned));
        config.rtsp = Some(config.rtsp.take().unwrap_or_default()).filter(|rtsp| rtsp.enabled);
        let root = self.root;
        if let Some(node) = root.get("model") {
            self.model(node, &config.model, "model");
        }
        self.models(config);
        if let (Some(mqtt), Some(node)) = (&mut config.mqtt, root.get("mqtt")) {
            self.mqtt(node, mqtt);
        }
        if let (Some(jsonl), Some(node)) = (&config.jsonl, root.at(["jsonl", "file"])) {
            self.jsonl(node, &jsonl.file);
        }
        self.listeners(config.rtsp.as_ref(), config.http.as_ref());
    }

    fn models(&mut self, config: &mut Config) {
        for entry in self.root.get("models").map(Node::entries).unwrap_or_default() {
            if entry.key == DEFAULT_MODEL {
                let hint = "write it there, or give it another name";
                self.error(&entry.pos, "`models.default` is the name of the model under `model`", hint);
                config.models.remove(&entry.key);
            } else if let Some(model) = config.models.get(&entry.key) {
                let path = format!("models.{}", entry.key);
                if entry.value.get("file").is_none() {
                    let text = format!("`{path}` has no `file`");
                    self.error(&entry.value.pos, text, "add `file: models/plates.onnx`");
                }
                self.model(&entry.value, model, &path);
            }
        }
        // A process has one ONNX Runtime.
        for model in config.models.values_mut() {
            model.ort_library = model.ort_library.take().or_else(|| config.model.ort_library.clone());
        }
    }

    fn model(&mut self, node: &Node, model: &ModelConfig, path: &str) {
        let file = [PathKind::File];
        let (tensorrt, openvino) = (&model.tensorrt, &model.openvino);
        let library = node.at(["openvino", "library"]);
        self.must_exist(node.get("file"), &model.file, "the model", &[PathKind::File, PathKind::Folder]);
        self.must_exist(node.get("ort_library"), &model.ort_library, "ONNX Runtime's library", &file);
        self.must_exist(library, &openvino.library, "OpenVINO's library", &file);
        let table = node.at(["tensorrt", "calibration"]);
        self.must_exist(table, &tensorrt.calibration, "the calibration table", &file);
        if let (Some(profile), Some(node)) = (tensorrt.profile, node.at(["tensorrt", "profile"]))
            && ![Some(profile.min), profile.opt, profile.max].iter().flatten().is_sorted()
        {
            self.error(&node.pos, "`model.tensorrt.profile` does not ascend", "`min` ≤ `opt` ≤ `max`");
        }
        if let (Some(_), Some(sha256), None) = (&model.sha256, node.get("sha256"), node.get("file")) {
            let hint = "the shipped model is checked anyway; remove the line, or name the file";
            self.error(&sha256.pos, format!("`{path}.sha256` without `{path}.file`"), hint);
        }
    }

    fn mqtt(&mut self, node: &Node, mqtt: &mut MqttConfig) {
        // A wrong address was reported.
        let Some((given, url)) = node.get("url").and_then(|given| Some((given, Url::parse(given.text().trim()).ok()?)))
        else {
            return;
        };
        if !matches!(url.rest.as_str(), "" | "/") {
            let hint = "topics are set with `prefix`; remove the path";
            self.error(&given.pos, "`mqtt.url` has something behind the host", hint);
        }
        if let (Some(_), Some(ca_file), false) = (&mqtt.ca_file, node.get("ca_file"), mqtt.url.tls) {
            self.error(&ca_file.pos, "`mqtt.ca_file` has no effect without TLS", "use `mqtts://` in `mqtt.url`");
        }
        self.must_exist(node.get("ca_file"), &mqtt.ca_file, "the CA certificates", &[PathKind::File]);
        self.credentials(node, "mqtt", &url, &mut mqtt.username, &mut mqtt.password);
        if mqtt.password.is_some() && !mqtt.url.tls && !url.is_loopback() {
            self.warn(&given.pos, "the password travels unencrypted to the broker", "use `mqtts://`");
        }
    }

    fn jsonl(&mut self, node: &Node, file: &Path) {
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if file == Path::new("-") || file.as_os_str().is_empty() {
        } else if (self.path_kind)(file) == PathKind::Folder {
            let text = format!("`jsonl.file` is a folder: {}", shortened(node.raw()));
            self.error(&node.pos, text, "name a file in it");
        } else if (self.path_kind)(folder) != PathKind::Folder {
            let folder = folder.display().to_string();
            let text = format!("the folder of `jsonl.file` does not exist: {}", shortened(&folder));
            self.error(&node.pos, text, "make the folder, or name another file");
        }
    }

    /// Servers that the network reaches, and two servers on one port.
    fn listeners(&mut self, rtsp: Option<&RtspConfig>, http: Option<&HttpConfig>) {
        let place = |section| self.root.at([section, "listen"]).map(|node| node.pos.clone());
        let (rtsp_pos, http_pos) = (place("rtsp"), place("http"));
        if let (Some(rtsp), Some(pos)) = (rtsp.filter(|rtsp| !rtsp.anonymous), &rtsp_pos) {
            self.local(pos, "rtsp", rtsp.listen, "watch");
        }
        if let (Some(http), Some(pos)) = (http.filter(|http| !http.anonymous), &http_pos) {
            self.local(pos, "http", http.listen, "read health and metrics");
        }
        let Some((rtsp, http)) = rtsp.zip(http).filter(|(rtsp, http)| clash(rtsp.listen, http.listen)) else { return };
        // The later line is the one that was added to a working file; point there.
        let rtsp_is_later = match (&rtsp_pos, &http_pos) {
            (Some(rtsp), Some(http)) => rtsp.line > http.line,
            (rtsp, _) => rtsp.is_some(),
        };
        let (what, other, address, pos) = match rtsp_is_later {
            true => ("rtsp", "http", http.listen, rtsp_pos),
            false => ("http", "rtsp", rtsp.listen, http_pos),
        };
        let text = format!("`{what}.listen` takes the port {} of `{other}.listen`", address.port());
        let hint = format!("`{other}` listens on {address}; give one of them another port");
        self.error(pos.as_ref().unwrap_or(&self.root.pos), text, hint);
    }

    /// An address that others reach must be asked for.
    fn local(&mut self, pos: &Pos, section: &str, listen: SocketAddr, use_: &str) {
        if listen.ip().to_canonical().is_loopback() {
            return;
        }
        let text =
            format!("`{section}.listen` is an address that others can reach, and Ocelli asks them for no password");
        let hint = format!(
            "listen on `127.0.0.1:{}`, or let anybody who reaches it {use_}: `{section}: {{listen: \"{listen}\", anonymous: true}}`",
            listen.port()
        );
        self.error(pos, text, hint);
    }

    /// User and password: the keys, else those in the URL, which are a warning.
    pub(crate) fn credentials(
        &mut self,
        node: &Node,
        path: &str,
        url: &Url,
        username: &mut Option<String>,
        password: &mut Option<String>,
    ) {
        let Some(given) = node.get("url") else { return };
        if url.username.is_none() && url.password.is_none() {
            if let (Some(_), Some(pos), None) = (&password, node.get("password"), node.get("username")) {
                self.error(&pos.pos, format!("`{path}.password` without `{path}.username`"), "add the user's name");
            }
            return;
        }
        if username.is_some() || password.is_some() {
            let text = format!("`{path}` has a user or password both in its URL and as keys");
            self.error(&given.pos, text, "take them out of the URL");
        } else if !given.raw().contains("${") {
            let hint = "use `username:` and `password: ${NAME}`, so that the secret is not in this file";
            self.warn(&given.pos, format!("`{path}.url` holds a user or password"), hint);
        }
        *username = username.take().or_else(|| url.username.clone());
        *password = password.take().or_else(|| url.password.clone());
    }

    /// A path that is given must lead to one of `kinds`.
    pub(crate) fn must_exist(
        &mut self,
        node: Option<&Node>,
        path: &Option<impl AsRef<Path>>,
        what: &str,
        kinds: &[PathKind],
    ) {
        let (Some(node), Some(path)) = (node, path) else { return };
        let kind = (self.path_kind)(path.as_ref());
        if kinds.contains(&kind) {
            return;
        }
        // A name from the environment may be private: show it only as written.
        let shown = match node.raw() {
            raw if raw.contains("${") => raw.to_owned(),
            _ => path.as_ref().display().to_string(),
        };
        let (text, hint) = match kind {
            PathKind::Folder => ("is a folder, not a file", "name the file in it"),
            _ => (
                "does not exist",
                "check the spelling and the rights; a relative path starts at the folder of the file that names it",
            ),
        };
        self.error(&node.pos, format!("{what} {text}: {}", shortened(&shown)), hint);
    }
}

/// Would both listen on one port of one address?
fn clash(a: SocketAddr, b: SocketAddr) -> bool {
    a.port() == b.port() && a.port() != 0 && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
}

/// A node's name from a host name: the first label, without characters that are not allowed.
fn node_name(host: &str) -> String {
    let allowed = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let name: String = host.split('.').next().unwrap_or_default().chars().filter(allowed).take(63).collect();
    match name.trim_start_matches(['-', '_']) {
        "" => "ocelli".into(),
        name => name.into(),
    }
}
