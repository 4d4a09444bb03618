//! From files, environment and arguments to one checked configuration. The only part of the room that reads anything.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::{ConfigErrors, Origin, Pos, Problem};
use super::file::Config;
use super::interpolate::{Lookup, interpolate};
use super::layers::{OVERRIDE_PREFIX, expand, inherit, merge, override_tree};
use super::mask::shortened;
use super::read::{Keys, Report};
use super::rules::{PathKind, Rules};
use super::tree::{self, Kind, Node};

/// Looked for, in this order, when no file is named.
pub const DEFAULT_FILES: [&str; 2] = ["ocelli.yaml", "/etc/ocelli/ocelli.yaml"];

/// A configuration file larger than this is none.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// A configuration without errors.
pub struct Loaded {
    /// What the program uses.
    pub config: Config,
    /// What is doubtful.
    pub warnings: Vec<Problem>,
    /// The files that were read, in order.
    pub files: Vec<PathBuf>,
    /// The keys as given, for `config show`.
    pub(crate) root: Node,
}

/// Reads `files` (none: the first of [`DEFAULT_FILES`] that exists), then the environment (`OCELLI__MQTT__URL=…`), then
/// `sets` (`mqtt.url=…`). Later ones win; maps are merged key by key. Warnings go to the log.
///
/// # Errors
/// Everything that is wrong, all at once, each with its place.
pub fn load(files: &[PathBuf], sets: &[String]) -> Result<Config, ConfigErrors> {
    let loaded = load_all(files, sets)?;
    for warning in &loaded.warnings {
        tracing::warn!("configuration: {warning}");
    }
    Ok(loaded.config)
}

/// As [`load`], with the warnings and what `config show` needs.
///
/// # Errors
/// Everything that is wrong, all at once, each with its place.
pub fn load_all(files: &[PathBuf], sets: &[String]) -> Result<Loaded, ConfigErrors> {
    load_with(files, sets, Environment::of_process())
}

/// As [`load_all`], but takes any word for each `${NAME}` that is defined nowhere: the form can be checked where the
/// secrets are not available. The configuration is not to be used.
///
/// # Errors
/// Everything else that is wrong.
pub fn load_without_secrets(files: &[PathBuf], sets: &[String]) -> Result<Loaded, ConfigErrors> {
    load_with(files, sets, Environment { unknown: Some("undefined"), ..Environment::of_process() })
}

fn load_with(files: &[PathBuf], sets: &[String], environment: Environment) -> Result<Loaded, ConfigErrors> {
    let files = match files {
        [] => default_files(!sets.is_empty() || environment.overrides().next().is_some())?,
        files => files.to_vec(),
    };
    let texts = all(files.iter().map(|file| Ok((file.clone(), read(file)?))))?;
    let (config, warnings, root) = assemble(&texts, sets, &environment, &path_kind)?;
    Ok(Loaded { config, warnings, files, root })
}

/// A file that is missing or no YAML leaves holes, so nothing that follows from them is reported.
fn all<T>(results: impl Iterator<Item = Result<T, Problem>>) -> Result<Vec<T>, ConfigErrors> {
    let (right, wrong): (Vec<_>, Vec<_>) = results.partition(Result::is_ok);
    match wrong.is_empty() {
        true => Ok(right.into_iter().flatten().collect()),
        false => Err(ConfigErrors::new(wrong.into_iter().filter_map(Result::err).collect(), Vec::new())),
    }
}

fn default_files(may_be_absent: bool) -> Result<Vec<PathBuf>, ConfigErrors> {
    let found = DEFAULT_FILES.iter().find(|file| Path::new(file).exists());
    if found.is_none() && !may_be_absent {
        let text = format!("no configuration file: looked for {}", DEFAULT_FILES.join(" and "));
        return Err(ConfigErrors::new(vec![Problem::new(text).hint("name one with `-c FILE`")], Vec::new()));
    }
    Ok(found.into_iter().map(PathBuf::from).collect())
}

fn read(file: &Path) -> Result<String, Problem> {
    let failed = |what: &str, hint: &str| Problem::new(format!("{}: {what}", file.display())).hint(hint);
    let unreadable = |error: std::io::Error| match error.kind() {
        ErrorKind::NotFound => failed("does not exist", "check the path after `-c`"),
        _ => failed(&format!("cannot be read: {error}"), "check the rights of the file and its folders"),
    };
    let metadata = std::fs::metadata(file).map_err(unreadable)?;
    if metadata.is_dir() {
        return Err(failed("is a folder", "name the file in it"));
    }
    if metadata.len() > MAX_FILE_BYTES {
        return Err(failed("is larger than 1 MiB", "is this the configuration?"));
    }
    let text = String::from_utf8(std::fs::read(file).map_err(unreadable)?)
        .map_err(|_| failed("is not UTF-8 text", "save it as UTF-8; is this the configuration?"))?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

fn path_kind(path: &Path) -> PathKind {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => PathKind::Folder,
        Ok(_) => PathKind::File,
        Err(_) => PathKind::Nothing,
    }
}

/// What the configuration reads from the process's surroundings.
pub(crate) struct Environment {
    pub(crate) variables: BTreeMap<String, String>,
    /// systemd's folder of credentials.
    pub(crate) credentials: Option<PathBuf>,
    pub(crate) host: String,
    /// Stands for a `${NAME}` that is defined nowhere; `None`: that is an error.
    pub(crate) unknown: Option<&'static str>,
    /// systemd's state folder; the first when there are several.
    pub(crate) state_dir: Option<PathBuf>,
}

impl Environment {
    fn of_process() -> Self {
        let variables = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
        let state_dir = std::env::var("STATE_DIRECTORY")
            .ok()
            .and_then(|folders| folders.split(':').next().filter(|first| !first.is_empty()).map(PathBuf::from));
        Self { variables, credentials, host: host.trim().to_owned(), unknown: None, state_dir }
    }

    /// A credential of systemd, else a variable.
    fn lookup(&self, name: &str) -> Result<Option<String>, String> {
        if let Some(folder) = &self.credentials {
            match std::fs::read_to_string(folder.join(name)) {
                Ok(text) => return Ok(Some(text.trim_end_matches(['\n', '\r']).to_owned())),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(format!("the credential cannot be read: {error}")),
            }
        }
        Ok(self.variables.get(name).cloned())
    }

    fn overrides(&self) -> impl Iterator<Item = (&str, &str)> {
        self.variables
            .iter()
            .filter(|(name, _)| name.starts_with(OVERRIDE_PREFIX))
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// Everything after reading: parse, resolve references, merge, check.
pub(crate) fn assemble(
    files: &[(PathBuf, String)],
    sets: &[String],
    environment: &Environment,
    path_kind: &dyn Fn(&Path) -> PathKind,
) -> Result<(Config, Vec<Problem>, Node), ConfigErrors> {
    let mut report = Report::new(Config::SECTION);
    let mut trees = layers(files, sets, environment)?;
    let find = |name: &str| environment.lookup(name);
    let lookup = Lookup { find: &find, unknown: environment.unknown };
    for tree in &mut trees {
        interpolate(tree, lookup, &mut report.problems);
        expand(tree, Config::SECTION);
    }
    let root = trees.into_iter().reduce(merge).unwrap_or_else(nothing);
    if matches!(root.kind, Kind::Null) || report.check_keys(Config::SECTION, &root, "") {
        Config::from_node(Some(&root), "", &mut report);
    }
    // Read again with what cameras inherit; what is wrong in it was reported.
    let inherited = inherit(&root);
    let mut config = Config::from_node(Some(&inherited), "", &mut Report::new(Config::SECTION));
    let mut rules = Rules {
        root: &root,
        host: &environment.host,
        state_dir: environment.state_dir.as_deref(),
        path_kind,
        errors: report.problems,
        warnings: Vec::new(),
    };
    rules.apply(&mut config);
    rules.cameras(&mut config, &inherited);
    let (errors, warnings) = (rules.errors, rules.warnings);
    if errors.is_empty() { Ok((config, warnings, root)) } else { Err(ConfigErrors::new(errors, warnings)) }
}

/// The trees of all files, variables and arguments, later ones win.
fn layers(files: &[(PathBuf, String)], sets: &[String], environment: &Environment) -> Result<Vec<Node>, ConfigErrors> {
    let mut trees = Vec::new();
    let origin = |index, label: String, text: &str, base: Option<&Path>| {
        Arc::new(Origin { index, label, text: text.to_owned(), base: base.unwrap_or(Path::new("")).to_owned() })
    };
    for (file, text) in files {
        trees.push(tree::parse(&origin(trees.len(), file.display().to_string(), text, file.parent()), text));
    }
    for (name, value) in environment.overrides() {
        let origin = origin(trees.len(), format!("environment {name}"), &format!("{name}={value}"), None);
        trees.push(override_tree(&origin, "__", value));
    }
    for set in sets {
        trees.push(match set.split_once('=') {
            Some((path, value)) => {
                override_tree(&origin(trees.len(), format!("--set {}", shortened(path)), set, None), ".", value)
            }
            None => Err(Problem::new(format!("--set {}: there is no `=`", shortened(key_part(set))))
                .hint("write `--set mqtt.url=mqtt://127.0.0.1:1883`")),
        });
    }
    all(trees.into_iter())
}

/// The keys at the start of an argument that is none; what follows may be a secret.
fn key_part(set: &str) -> &str {
    &set[..set.find(|c: char| !(c.is_alphanumeric() || matches!(c, '.' | '_' | '-'))).unwrap_or(set.len())]
}

fn nothing() -> Node {
    let origin = Origin { index: 0, label: "(no file)".into(), text: String::new(), base: PathBuf::new() };
    Node { pos: Pos { origin: Arc::new(origin), line: 1, column: 1, width: 1 }, kind: Kind::Null }
}
