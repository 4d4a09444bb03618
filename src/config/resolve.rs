//! From checked keys to the configuration that the program uses: defaults, inheritance, and what no key can check alone.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use super::cameras;
use super::check::{Given, Group};
use super::error::Problem;
use super::keys;
use super::resolved::{
    BatchProfile, Config, CudaConfig, HttpConfig, JsonlConfig, ModelConfig, MqttConfig, OpenvinoConfig, RtspConfig,
    TensorrtConfig,
};
use super::value::Value;
use super::view::{View, located, url};
use crate::types::{DEFAULT_MODEL, Url};

/// What a path leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PathKind {
    Nothing,
    File,
    Folder,
}

/// What the configuration needs to know of the machine. An argument, so that resolving stays pure.
pub(crate) struct Machine<'a> {
    /// Name of the box when the file gives none.
    pub(crate) host: &'a str,
    /// State folder when the file names none.
    pub(crate) state_dir: Option<&'a Path>,
    pub(crate) path_kind: &'a dyn Fn(&Path) -> PathKind,
}

/// Where problems are collected while the configuration is put together.
pub(crate) struct Resolver<'a> {
    pub(crate) machine: &'a Machine<'a>,
    pub(crate) errors: Vec<Problem>,
    pub(crate) warnings: Vec<Problem>,
}

/// Puts the configuration together. It is meaningful only when there are no errors.
pub(crate) fn resolve(root: &Group, machine: &Machine<'_>) -> (Config, Vec<Problem>, Vec<Problem>) {
    let mut resolver = Resolver { machine, errors: Vec::new(), warnings: Vec::new() };
    let top = View::of(root);
    let config = Config {
        node: top.text("node").unwrap_or_else(|| node_name(machine.host)),
        model: resolver.model("model", root.group("model")),
        models: resolver.models(root),
        mqtt: root.group("mqtt").and_then(|group| resolver.mqtt(group)),
        rtsp: rtsp(root.group("rtsp")),
        http: root.group("http").map(|group| HttpConfig { listen: View::of(group).address("listen") }),
        jsonl: root.group("jsonl").and_then(|group| resolver.jsonl(group)),
        cameras: cameras::cameras(root, &mut resolver),
        stats_interval: top.duration("stats_interval"),
        state_dir: top.path("state_dir").or_else(|| machine.state_dir.map(Path::to_owned)),
    };
    resolver.listeners(root, &config);
    cameras::across(root, &config, &mut resolver);
    (config, resolver.errors, resolver.warnings)
}

impl Resolver<'_> {
    fn models(&mut self, root: &Group) -> BTreeMap<String, ModelConfig> {
        let mut models = BTreeMap::new();
        for (name, pos, group) in root.named("models") {
            if name == DEFAULT_MODEL {
                self.errors.push(
                    Problem::new("`models.default` is the name of the model under `model`")
                        .at(pos)
                        .hint("write it there, or give it another name"),
                );
                continue;
            }
            if !group.mentions("file") {
                self.required(group, &format!("models.{name}"), "file", "models/plates.onnx");
            }
            models.insert(name.clone(), self.model(&format!("models.{name}"), Some(group)));
        }
        // A process has one ONNX Runtime.
        let library = root.group("model").and_then(|group| View::of(group).path("ort_library"));
        for model in models.values_mut() {
            model.ort_library = model.ort_library.take().or_else(|| library.clone());
        }
        models
    }

    fn model(&mut self, path: &str, group: Option<&Group>) -> ModelConfig {
        let view = View::new(&keys::MODEL, [group]);
        let model = ModelConfig {
            file: view.path("file"),
            sha256: view.text("sha256"),
            backend: view.word("backend"),
            ort_library: view.path("ort_library"),
            threads: view.integer("threads").map(|threads| threads as usize),
            input_size: view.size("input_size"),
            batch: view.integer("batch").map(|frames| frames as usize),
            batch_wait: view.duration("batch_wait"),
            spinning: view.boolean("spinning"),
            device: view.integer("device").unwrap_or(0) as u32,
            cache: view.path("cache"),
            cache_mb: view.integer("cache_mb").unwrap_or(0),
            min_agreement: view.number("min_agreement").unwrap_or(1.0),
            tensorrt: tensorrt(group.and_then(|group| group.group("tensorrt"))),
            cuda: cuda(group.and_then(|group| group.group("cuda"))),
            openvino: openvino(group.and_then(|group| group.group("openvino"))),
        };
        let Some(group) = group else { return model };
        if let Some(tensorrt) = group.group("tensorrt") {
            self.must_exist(tensorrt, "calibration", "the calibration table", &[PathKind::File]);
            self.profile(tensorrt, model.tensorrt.profile);
        }
        if let Some(openvino) = group.group("openvino") {
            self.must_exist(openvino, "library", "OpenVINO's library", &[PathKind::File]);
        }
        self.must_exist(group, "file", "the model", &[PathKind::File, PathKind::Folder]);
        self.must_exist(group, "ort_library", "ONNX Runtime's library", &[PathKind::File]);
        if let (Some(sha256), false) = (group.given("sha256"), group.mentions("file")) {
            self.errors.push(
                Problem::new(format!("`{path}.sha256` without `{path}.file`"))
                    .at(&sha256.pos)
                    .hint("the shipped model is checked anyway; remove the line, or name the file"),
            );
        }
        model
    }

    fn profile(&mut self, tensorrt: &Group, profile: Option<BatchProfile>) {
        let (Some(group), Some(profile)) = (tensorrt.group("profile"), profile) else { return };
        let given = [Some(profile.min), profile.opt, profile.max];
        if !given.iter().flatten().is_sorted() {
            self.errors.push(
                Problem::new("`model.tensorrt.profile` does not ascend").at(&group.pos).hint("`min` ≤ `opt` ≤ `max`"),
            );
        }
    }

    fn mqtt(&mut self, group: &Group) -> Option<MqttConfig> {
        let Some(given) = group.given("url") else {
            self.required(group, "mqtt", "url", "mqtt://127.0.0.1:1883");
            return None;
        };
        let url = url(given)?;
        if !matches!(url.rest.as_str(), "" | "/") {
            self.errors.push(
                Problem::new("`mqtt.url` has something behind the host")
                    .at(&given.pos)
                    .hint("topics are set with `prefix`; remove the path"),
            );
        }
        let tls = url.scheme == "mqtts";
        if let (Some(ca_file), false) = (group.given("ca_file"), tls) {
            self.errors.push(
                Problem::new("`mqtt.ca_file` has no effect without TLS")
                    .at(&ca_file.pos)
                    .hint("use `mqtts://` in `mqtt.url`"),
            );
        }
        self.must_exist(group, "ca_file", "the CA certificates", &[PathKind::File]);
        let (username, password) = self.credentials(group, "mqtt", Some((given, &url)));
        if password.is_some() && !tls && !url.is_loopback() {
            self.warnings.push(
                Problem::new("the password travels unencrypted to the broker").at(&given.pos).hint("use `mqtts://`"),
            );
        }
        let view = View::of(group);
        Some(MqttConfig {
            port: url.port.unwrap_or(if tls { 8883 } else { 1883 }),
            host: url.host,
            tls,
            username,
            password,
            ca_file: view.path("ca_file"),
            prefix: view.text("prefix").unwrap_or_default(),
            frames: view.boolean("frames"),
            queue: view.integer("queue").unwrap_or(1) as usize,
        })
    }

    fn jsonl(&mut self, group: &Group) -> Option<JsonlConfig> {
        let Some(given) = group.given("file") else {
            self.required(group, "jsonl", "file", "detections.jsonl");
            return None;
        };
        if given.value == Value::Text("-".into()) {
            return Some(JsonlConfig { file: "-".into() });
        }
        let file = located(given)?;
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let kind = (self.machine.path_kind)(&file);
        if kind == PathKind::Folder {
            self.errors.push(
                Problem::new(format!("`jsonl.file` is a folder: {}", given.raw))
                    .at(&given.pos)
                    .hint("name a file in it"),
            );
        } else if (self.machine.path_kind)(folder) != PathKind::Folder {
            self.errors.push(
                Problem::new(format!("the folder of `jsonl.file` does not exist: {}", folder.display()))
                    .at(&given.pos)
                    .hint("make the folder, or name another file"),
            );
        }
        Some(JsonlConfig { file })
    }

    /// Two servers on one port.
    fn listeners(&mut self, root: &Group, config: &Config) {
        let (Some(rtsp), Some(http)) = (&config.rtsp, &config.http) else { return };
        if !clash(rtsp.listen, http.listen) {
            return;
        }
        let place =
            |section| root.group(section).and_then(|group| group.given("listen")).map(|given| given.pos.clone());
        // The later line is the one that was added to a working file; point there.
        let (what, other, pos) = match (place("rtsp"), place("http")) {
            (Some(rtsp), Some(http)) if rtsp.line > http.line => ("rtsp", "http", Some(rtsp)),
            (_, Some(http)) => ("http", "rtsp", Some(http)),
            (Some(rtsp), None) => ("rtsp", "http", Some(rtsp)),
            (None, None) => ("http", "rtsp", None),
        };
        let problem =
            Problem::new(format!("`{what}.listen` takes the port {} of `{other}.listen`", http.listen.port())).hint(
                format!(
                    "`{other}` listens on {}; give one of them another port",
                    if other == "rtsp" { rtsp.listen } else { http.listen }
                ),
            );
        self.errors.push(match pos {
            Some(pos) => problem.at(&pos),
            None => problem,
        });
    }

    /// User and password: the keys, else those in the URL, which are a warning.
    pub(crate) fn credentials(
        &mut self,
        group: &Group,
        path: &str,
        url: Option<(&Given, &Url)>,
    ) -> (Option<String>, Option<String>) {
        let view = View::of(group);
        let (username, password) = (view.text("username"), view.text("password"));
        let Some((given, url)) = url.filter(|(_, url)| url.username.is_some() || url.password.is_some()) else {
            if let (Some(password), false) = (group.given("password"), group.mentions("username")) {
                self.errors.push(
                    Problem::new(format!("`{path}.password` without `{path}.username`"))
                        .at(&password.pos)
                        .hint("add the user's name"),
                );
            }
            return (username, password);
        };
        if username.is_some() || password.is_some() {
            self.errors.push(
                Problem::new(format!("`{path}` has a user or password both in its URL and as keys"))
                    .at(&given.pos)
                    .hint("take them out of the URL"),
            );
        } else if !given.raw.contains("${") {
            self.warnings.push(
                Problem::new(format!("`{path}.url` holds a user or password"))
                    .at(&given.pos)
                    .hint("use `username:` and `password: ${NAME}`, so that the secret is not in this file"),
            );
        }
        (username.or_else(|| url.username.clone()), password.or_else(|| url.password.clone()))
    }

    /// A path that is given must lead to one of `kinds`.
    pub(crate) fn must_exist(&mut self, group: &Group, key: &str, what: &str, kinds: &[PathKind]) {
        let Some(given) = group.given(key) else { return };
        let Some(path) = located(given) else { return };
        let kind = (self.machine.path_kind)(&path);
        if kinds.contains(&kind) {
            return;
        }
        // A name from the environment may be private: show it only as written.
        let shown = if given.raw.contains("${") { given.raw.clone() } else { path.display().to_string() };
        let problem = match kind {
            PathKind::Folder => {
                Problem::new(format!("{what} is a folder, not a file: {shown}")).hint("name the file in it")
            }
            _ => Problem::new(format!("{what} does not exist: {shown}")).hint(
                "check the spelling and the rights; a relative path starts at the folder of the file that names it",
            ),
        };
        self.errors.push(problem.at(&given.pos));
    }

    fn required(&mut self, group: &Group, path: &str, key: &str, example: &str) {
        if !group.mentions(key) {
            self.errors.push(
                Problem::new(format!("`{path}` has no `{key}`")).at(&group.pos).hint(format!("add `{key}: {example}`")),
            );
        }
    }
}

fn tensorrt(group: Option<&Group>) -> TensorrtConfig {
    let view = View::new(&keys::TENSORRT, [group]);
    TensorrtConfig {
        fp16: view.boolean("fp16"),
        int8: view.boolean("int8"),
        calibration: view.path("calibration"),
        dla_core: view.integer("dla_core").map(|core| core as u32),
        workspace_mb: view.integer("workspace_mb"),
        timing_cache: view.boolean("timing_cache"),
        builder_level: view.integer("builder_level").map(|level| level as u8),
        cuda_graph: view.boolean("cuda_graph"),
        profile: group.and_then(|group| group.group("profile")).map(|group| {
            let view = View::new(&keys::PROFILE, [Some(group)]);
            let frames = |key| view.integer(key).map(|frames| frames as u32);
            BatchProfile { min: frames("min").unwrap_or(1), opt: frames("opt"), max: frames("max") }
        }),
    }
}

fn cuda(group: Option<&Group>) -> CudaConfig {
    let view = View::new(&keys::CUDA, [group]);
    CudaConfig {
        memory_mb: view.integer("memory_mb"),
        arena: view.word("arena"),
        cudnn_search: view.word("cudnn_search"),
        tf32: view.boolean("tf32"),
        cuda_graph: view.boolean("cuda_graph"),
    }
}

fn openvino(group: Option<&Group>) -> OpenvinoConfig {
    let view = View::new(&keys::OPENVINO, [group]);
    OpenvinoConfig { library: view.path("library"), precision: view.word("precision") }
}

/// On by default: an absent section means the section's defaults.
fn rtsp(group: Option<&Group>) -> Option<RtspConfig> {
    let view = View::new(&keys::RTSP, [group]);
    view.boolean("enabled").then(|| RtspConfig {
        listen: view.address("listen"),
        bitrate_kbps: view.integer("bitrate_kbps").unwrap_or(0) as u32,
        max_delay: view.duration("max_delay"),
    })
}

/// Would both listen on one port of one address?
pub(crate) fn clash(a: SocketAddr, b: SocketAddr) -> bool {
    a.port() == b.port() && a.port() != 0 && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
}

/// A node's name from a host name: the first label, what is not allowed left out.
fn node_name(host: &str) -> String {
    let name: String = host
        .split('.')
        .next()
        .unwrap_or_default()
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
        .take(63)
        .collect();
    let name = name.trim_start_matches(['-', '_']);
    if name.is_empty() { "ocelli".into() } else { name.into() }
}
