//! From files, environment and arguments to one checked configuration. The only part of the room that reads anything.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::check::{self, Group};
use super::error::{ConfigErrors, Origin, Pos, Problem};
use super::interpolate::{Lookup, interpolate};
use super::keys;
use super::mask::is_secret_key;
use super::resolve::{Machine, PathKind, resolve};
use super::resolved::Config;
use super::tree::{self, Entry, Kind, Node};

/// Looked for, in this order, when no file is named.
pub const DEFAULT_FILES: [&str; 2] = ["ocelli.yaml", "/etc/ocelli/ocelli.yaml"];

/// Variables that override keys: `OCELLI__MQTT__URL` is `mqtt.url`.
const OVERRIDE_PREFIX: &str = "OCELLI__";

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
    pub(crate) root: Group,
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
/// secrets are not at hand. The configuration is not to be used.
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
    let mut problems = Vec::new();
    let texts: Vec<(PathBuf, String)> = files
        .iter()
        .filter_map(|file| match read(file) {
            Ok(text) => Some((file.clone(), text)),
            Err(problem) => {
                problems.push(problem);
                None
            }
        })
        .collect();
    // A file that is not there leaves holes: what follows from them is no news.
    if !problems.is_empty() {
        return Err(ConfigErrors::new(problems, Vec::new()));
    }
    let (config, warnings, root) = assemble(&texts, sets, &environment, &path_kind)?;
    Ok(Loaded { config, warnings, files, root })
}

fn default_files(may_be_absent: bool) -> Result<Vec<PathBuf>, ConfigErrors> {
    match DEFAULT_FILES.iter().find(|file| Path::new(file).exists()) {
        Some(file) => Ok(vec![file.into()]),
        None if may_be_absent => Ok(Vec::new()),
        None => {
            let problem = Problem::new(format!("no configuration file: looked for {}", DEFAULT_FILES.join(" and ")))
                .hint("name one with `-c FILE`");
            Err(ConfigErrors::new(vec![problem], Vec::new()))
        }
    }
}

fn read(file: &Path) -> Result<String, Problem> {
    let failed = |what: String, hint: &str| Err(Problem::new(format!("{}: {what}", file.display())).hint(hint));
    match std::fs::metadata(file) {
        Ok(metadata) if metadata.is_dir() => return failed("is a folder".into(), "name the file in it"),
        Ok(metadata) if metadata.len() > MAX_FILE_BYTES => {
            return failed("is larger than 1 MiB".into(), "is this the configuration?");
        }
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return failed("does not exist".into(), "check the path after `-c`");
        }
        Err(error) => {
            return failed(format!("cannot be read: {error}"), "check the rights of the file and its folders");
        }
    }
    match std::fs::read(file).map(String::from_utf8) {
        Ok(Ok(text)) => Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text)),
        Ok(Err(_)) => failed("is not UTF-8 text".into(), "save it as UTF-8; is this the configuration?"),
        Err(error) => failed(format!("cannot be read: {error}"), "check the rights of the file"),
    }
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

/// Everything after reading: parse, resolve references, merge, check, resolve.
pub(crate) fn assemble(
    files: &[(PathBuf, String)],
    sets: &[String],
    environment: &Environment,
    path_kind: &dyn Fn(&Path) -> PathKind,
) -> Result<(Config, Vec<Problem>, Group), ConfigErrors> {
    let mut problems = Vec::new();
    let mut trees = Vec::new();
    let mut keep = |tree: Result<Node, Problem>| match tree {
        Ok(tree) => trees.push(tree),
        Err(problem) => problems.push(problem),
    };
    for (index, (file, text)) in files.iter().enumerate() {
        let base = file.parent().map(Path::to_path_buf).unwrap_or_default();
        let origin = Origin { index, label: file.display().to_string(), text: text.clone(), base };
        keep(tree::parse(&Arc::new(origin)));
    }
    let mut index = files.len();
    for (name, value) in environment.overrides() {
        let path = name[OVERRIDE_PREFIX.len()..].to_lowercase().replace("__", ".");
        keep(override_tree(index, format!("environment {name}"), name, OVERRIDE_PREFIX.len(), &path, value));
        index += 1;
    }
    for set in sets {
        keep(match set.split_once('=') {
            Some((path, value)) => override_tree(index, format!("--set {path}"), path, 0, path, value),
            None => Err(Problem::new(format!("--set {}: there is no `=`", key_part(set)))
                .hint("write `--set mqtt.url=mqtt://127.0.0.1:1883`")),
        });
        index += 1;
    }
    // Text that is no YAML leaves holes: what follows from them is no news.
    if !problems.is_empty() {
        return Err(ConfigErrors::new(problems, Vec::new()));
    }
    let find = |name: &str| environment.lookup(name);
    let lookup = Lookup { find: &find, unknown: environment.unknown };
    for tree in &mut trees {
        interpolate(tree, lookup, &mut problems);
        check::expand(tree, &keys::ROOT);
    }
    let root = trees.into_iter().reduce(tree::merge).unwrap_or_else(nothing);
    let root = check::check(&root, &mut problems);
    let (config, errors, warnings) =
        resolve(&root, &Machine { host: &environment.host, state_dir: environment.state_dir.as_deref(), path_kind });
    problems.extend(errors);
    if problems.is_empty() { Ok((config, warnings, root)) } else { Err(ConfigErrors::new(problems, warnings)) }
}

/// The keys at the start of an argument that is none; what follows may be a secret.
fn key_part(set: &str) -> &str {
    &set[..set.find(|c: char| !(c.is_alphanumeric() || matches!(c, '.' | '_' | '-'))).unwrap_or(set.len())]
}

fn nothing() -> Node {
    let origin = Origin { index: 0, label: "(no file)".into(), text: String::new(), base: PathBuf::new() };
    Node { pos: Pos { origin: Arc::new(origin), line: 1, column: 1, width: 1 }, kind: Kind::Null }
}

/// The tree of one `path=value`. `written` is the path as the user wrote it, its keys starting at byte `skip`.
fn override_tree(
    index: usize,
    label: String,
    written: &str,
    skip: usize,
    path: &str,
    value: &str,
) -> Result<Node, Problem> {
    let text = format!("{written}={value}");
    let origin = Arc::new(Origin { index, label, text, base: PathBuf::new() });
    let value_column = written.chars().count() + 2;
    let last = path.rsplit('.').next().unwrap_or(path);
    let place = |column, width: usize| Pos { origin: origin.clone(), line: 1, column, width: width.max(1) };
    let pos = place(value_column, value.chars().count());
    // Lists and maps are YAML. Any other text is taken as it is: no quoting inside the shell's quoting.
    let mut node = if value.starts_with(['[', '{']) && !value.starts_with("${") && !is_secret_key(last) {
        // Spaces in front keep the columns of the argument.
        tree::parse_text(&origin, &format!("{}{value}", " ".repeat(value_column - 1)))?
    } else if value.is_empty() || value == "null" || value == "~" {
        Node { pos, kind: Kind::Null }
    } else {
        Node::scalar(pos, value)
    };
    let mut end = written.chars().count() + 1;
    let separator = if skip > 0 { 2 } else { 1 };
    for key in path.rsplit('.') {
        let width = key.chars().count();
        let column = end.saturating_sub(width).max(1);
        let pos = place(column, width);
        if key.is_empty() {
            return Err(Problem::new("an empty key").at(&pos).hint("write the keys as in `mqtt.url`"));
        }
        let entry = Entry { key: key.to_owned(), pos: pos.clone(), value: node };
        node = Node { pos, kind: Kind::Map(vec![entry]) };
        end = column.saturating_sub(separator);
    }
    Ok(node)
}
