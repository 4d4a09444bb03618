//! Collects all facts; slow checks run at the same time.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::board::Board;
use super::devices::Devices;
use super::facts::{Broker, Credentials, Facts, Port, Scope};
use super::limit::{Limited, Task};
use super::system::Folder;
use super::{DROPIN, Root, board, devices, dropin, libraries, media, network, runtime, system};
use crate::config::ModelConfig;
use crate::model::ModelSpec;
use crate::sink::mqtt;

/// Files of the system; only a network disk that does not answer makes them slow.
const FILES: Duration = Duration::from_secs(5);
/// Opening a model file, its checksum included.
const MODEL: Duration = Duration::from_secs(20);
/// GStreamer, whose first start builds its registry of plugins.
const MEDIA: Duration = Duration::from_secs(45);
/// The broker; the probe's own timeout is shorter.
const BROKER: Duration = Duration::from_secs(12);

/// What to examine.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// The file tree. Libraries that are loaded, GStreamer and the network are always this machine's.
    pub root: Root,
    pub scope: Scope,
    /// Arguments with which a child process reads the same configuration.
    pub arguments: Vec<OsString>,
}

/// Never hangs and never fails: a check that times out is a fact too.
pub fn gather(request: &Request) -> Facts {
    let (root, scope) = (request.root.clone(), request.scope.clone());
    let gpu = runtime::gpu(&root);
    let model_config = scope.config.as_ref().map(|config| config.model.clone());
    let asked = model_config.clone().unwrap_or_default();
    let ask_gpu = !gpu.is_empty() || scope.wants_gpu();
    let runtime = Task::start("runtime", runtime::TIMEOUT, move || runtime::runtime(&asked, ask_gpu));
    let media = Task::start("media", MEDIA, media::media);
    let broker = broker(&scope);
    let used = scope.config.as_ref().map(|config| config.used_models().into_values().cloned().collect());
    let model = Task::start("model", MODEL, move || models(used.unwrap_or_else(|| vec![ModelConfig::default()])));
    let folders = folders(&scope);
    let libraries = Task::start("libraries", FILES, {
        let root = root.clone();
        move || libraries::libraries(&root)
    });
    let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").map(|folder| credentials(Path::new(&folder)));
    let ports = ports(&Root::default(), &scope);
    let cameras = network::cameras(&scope, &request.arguments);
    let (board, devices) = (board::board(&root), devices::devices(&root));
    Facts {
        dropin: allowed(&root, &board, &devices),
        board,
        devices,
        memory: system::memory(&root),
        power: system::power(&root),
        clock: system::clock(&root, SystemTime::now()),
        folders: folders
            .into_iter()
            .map(|(folder, task)| task.wait().unwrap_or_else(|late| Folder { trouble: Some(late), ..folder }))
            .collect(),
        gpu,
        libraries: libraries.wait(),
        model: model.wait().and_then(|outcome| outcome),
        broker: broker
            .map(|(broker, probe)| Broker { outcome: probe.map(|probe| probe.wait().unwrap_or_else(Err)), ..broker }),
        runtime: runtime.wait(),
        media: media.wait().and_then(|outcome| outcome),
        credentials,
        ports,
        cameras,
        scope,
    }
}

fn allowed(root: &Root, board: &Board, devices: &Devices) -> Option<bool> {
    let there = root.text(DROPIN).unwrap_or_default();
    let asked = devices::has_unit(root) && !devices.nodes.is_empty();
    asked.then(|| dropin::current(&dropin::dropin(board, devices), &there))
}

/// The broker without its outcome, and the probe that is under way, unless its password is not available.
fn broker(scope: &Scope) -> Option<(Broker, Option<Task<Limited<()>>>)> {
    let config = scope.config.as_ref()?;
    let mqtt = config.mqtt.clone()?;
    let (node, address, tls) = (config.node.clone(), format!("{}:{}", mqtt.url.host, mqtt.url.port), mqtt.url.tls);
    let asked = !scope.lacks(mqtt.password.as_ref());
    let task = asked.then(|| Task::start("broker", BROKER, move || mqtt::probe(&mqtt, &node)));
    Some((Broker { address, tls, outcome: None }, task))
}

/// Opens the models as the service does.
fn models(configs: Vec<ModelConfig>) -> Limited<String> {
    let opened: Result<Vec<String>, String> = configs.iter().map(model).collect();
    Ok(opened?.join("; "))
}

fn model(config: &ModelConfig) -> Limited<String> {
    let file = config.file.clone().or_else(crate::model::default_model);
    let file = file.ok_or("none is configured, and the shipped one was not found")?;
    let spec = ModelSpec::open(&file, config.input_size)
        .and_then(|spec| spec.held_to(config.batch, config.sha256.as_deref()))
        .map_err(|error| error.to_string())?;
    let (name, input, classes) = (&spec.id.name, spec.input.size, spec.output.classes);
    Ok(format!("{name}, {input}, {classes} classes ({})", spec.path.display()))
}

/// Folders that systemd provides, and those that the configuration names; each with its check, which is under way.
fn folders(scope: &Scope) -> Vec<(Folder, Task<Folder>)> {
    let given = |variable: &str| {
        let value = std::env::var(variable).unwrap_or_default();
        value.split(':').next().filter(|folder| !folder.is_empty()).map(PathBuf::from)
    };
    let installed = |path: &str| Some(PathBuf::from(path)).filter(|path| path.is_dir());
    let configured = scope.config.as_ref().and_then(|config| config.state_dir.clone());
    let state = configured.or_else(|| given("STATE_DIRECTORY")).or_else(|| installed("/var/lib/ocelli"));
    let cache = given("CACHE_DIRECTORY").or_else(|| installed("/var/cache/ocelli"));
    let jsonl = scope.config.as_ref().and_then(|config| config.jsonl.as_ref()).map(|jsonl| jsonl.file.clone());
    let jsonl = jsonl.filter(|file| file != Path::new("-")).map(|file| match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    });
    let all = [("state", state), ("cache", cache), ("jsonl", jsonl), ("temporary", Some(std::env::temp_dir()))];
    all.into_iter()
        .filter_map(|(purpose, path)| Some((purpose, path?)))
        .map(|(purpose, path)| {
            let asked = path.clone();
            let task = Task::start(purpose, FILES, move || system::folder(purpose, &asked));
            (Folder { purpose: purpose.into(), path, free: None, trouble: None }, task)
        })
        .collect()
}

fn credentials(folder: &Path) -> Credentials {
    let names = std::fs::read_dir(folder).ok().map(|entries| {
        let mut names: Vec<String> =
            entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    });
    Credentials { folder: folder.to_owned(), names }
}

fn ports(root: &Root, scope: &Scope) -> Vec<Port> {
    let Some(config) = &scope.config else { return Vec::new() };
    let rtsp = config.rtsp.as_ref().map(|rtsp| ("rtsp", rtsp.listen));
    let http = config.http.as_ref().map(|http| ("http", http.listen));
    rtsp.into_iter().chain(http).map(|(server, address)| network::port(root, server, address)).collect()
}
