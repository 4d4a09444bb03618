//! The tree against the table of keys: unknown keys, keys that stand twice, wrong types, wrong words, ranges. What comes
//! out holds only known keys with values of their type.

use std::collections::{BTreeMap, BTreeSet};

use super::error::{Pos, Problem};
use super::keys::{self, Key, Kind, Section, Short};
use super::mask::is_secret_key;
use super::tree::{self, Entry, Node, Scalar};
use super::value::{Value, expected, is_camera_name, nearest, scalar_value};

/// A typed value that stands in a file, an argument or a variable.
#[derive(Clone)]
pub(crate) struct Given {
    pub(crate) pos: Pos,
    /// As written, references unresolved.
    pub(crate) raw: String,
    pub(crate) value: Value,
}

/// A section as given.
#[derive(Clone)]
pub(crate) struct Group {
    pub(crate) section: &'static Section,
    pub(crate) pos: Pos,
    values: BTreeMap<&'static str, Given>,
    groups: BTreeMap<&'static str, Group>,
    named: BTreeMap<&'static str, Vec<(String, Pos, Group)>>,
    /// Keys that are there with a wrong value: they are reported, nothing follows from their absence.
    broken: BTreeSet<&'static str>,
}

impl Group {
    fn empty(section: &'static Section, pos: Pos) -> Self {
        Self {
            section,
            pos,
            values: BTreeMap::new(),
            groups: BTreeMap::new(),
            named: BTreeMap::new(),
            broken: BTreeSet::new(),
        }
    }

    pub(crate) fn given(&self, key: &str) -> Option<&Given> {
        self.values.get(key)
    }

    pub(crate) fn group(&self, key: &str) -> Option<&Group> {
        self.groups.get(key)
    }

    /// The sections of this key with names of the user's, in the order of the file.
    pub(crate) fn named(&self, key: &str) -> &[(String, Pos, Group)] {
        self.named.get(key).map(Vec::as_slice).unwrap_or_default()
    }

    /// Is the key there, right or wrong?
    pub(crate) fn mentions(&self, key: &str) -> bool {
        self.values.contains_key(key) || self.groups.contains_key(key) || self.broken.contains(key)
    }
}

/// Turns short forms into long ones, so that files that use either can be merged.
pub(crate) fn expand(node: &mut Node, section: &'static Section) {
    if let tree::Kind::Scalar(Scalar { text, .. }) = &node.kind {
        let key = match section.short {
            Short::None => return,
            Short::Key(key) => key,
            Short::UrlOrFile if text.contains("://") => "url",
            Short::UrlOrFile => "file",
        };
        let value = node.clone();
        node.kind = tree::Kind::Map(vec![Entry { key: key.to_owned(), pos: node.pos.clone(), value }]);
        return;
    }
    let tree::Kind::Map(entries) = &mut node.kind else { return };
    for entry in entries {
        match section.key(&entry.key).map(|key| key.kind) {
            Some(Kind::Section(below)) => expand(&mut entry.value, below),
            Some(Kind::Named(below)) => {
                if let tree::Kind::Map(named) = &mut entry.value.kind {
                    named.iter_mut().for_each(|entry| expand(&mut entry.value, below));
                }
            }
            _ => {}
        }
    }
}

/// Checks the whole tree; `problems` gets everything that is wrong.
pub(crate) fn check(root: &Node, problems: &mut Vec<Problem>) -> Group {
    Checker { problems }.section(root, &keys::ROOT, "")
}

struct Checker<'a> {
    problems: &'a mut Vec<Problem>,
}

impl Checker<'_> {
    /// `path` names the section in messages; empty for the file itself.
    fn section(&mut self, node: &Node, section: &'static Section, path: &str) -> Group {
        let mut group = Group::empty(section, node.pos.clone());
        let tree::Kind::Map(entries) = &node.kind else {
            if !matches!(node.kind, tree::Kind::Null) {
                let what = if path.is_empty() { "the configuration".into() } else { format!("`{path}`") };
                let keys = section.keys.iter().map(|key| key.name).collect::<Vec<_>>().join(", ");
                self.problems.push(
                    Problem::new(format!("{what} must be keys with values, not {}", describe(node)))
                        .at(&node.pos)
                        .hint(format!("its keys are {keys}")),
                );
            }
            return group;
        };
        for (index, entry) in entries.iter().enumerate() {
            let inner = join(path, &entry.key);
            if let Some(first) = entries[..index].iter().find(|first| first.key == entry.key) {
                self.problems.push(twice(&inner, entry, first));
                continue;
            }
            match section.key(&entry.key) {
                Some(key) => self.entry(&mut group, key, &entry.value, &inner),
                None => self.problems.push(unknown_key(section, path, entry)),
            }
        }
        group
    }

    fn entry(&mut self, group: &mut Group, key: &'static Key, node: &Node, path: &str) {
        if matches!(node.kind, tree::Kind::Null) && !matches!(key.kind, Kind::Named(_)) {
            return;
        }
        match key.kind {
            Kind::Section(section) => {
                let before = self.problems.len();
                let below = self.section(node, section, path);
                if self.problems.len() > before && !matches!(node.kind, tree::Kind::Map(_)) {
                    group.broken.insert(key.name);
                } else {
                    group.groups.insert(key.name, below);
                }
            }
            Kind::Named(section) => {
                if !self.named(group, key.name, section, node, path) {
                    group.broken.insert(key.name);
                }
            }
            Kind::Texts => match self.texts(node, path) {
                Some(given) => drop(group.values.insert(key.name, given)),
                None => drop(group.broken.insert(key.name)),
            },
            _ => match self.scalar(key, node, path) {
                Some(given) => drop(group.values.insert(key.name, given)),
                None => drop(group.broken.insert(key.name)),
            },
        }
    }

    /// `false`: the node, or one of its entries, is no map.
    fn named(
        &mut self,
        group: &mut Group,
        key: &'static str,
        section: &'static Section,
        node: &Node,
        path: &str,
    ) -> bool {
        let entries = match &node.kind {
            tree::Kind::Map(entries) => entries,
            tree::Kind::Null => return true,
            _ => {
                self.problems.push(
                    Problem::new(format!("`{path}` must be names with settings, not {}", describe(node)))
                        .at(&node.pos)
                        .hint("for example `gate: rtsp://10.0.0.5/stream1`"),
                );
                return false;
            }
        };
        let mut usable = true;
        for (index, entry) in entries.iter().enumerate() {
            let inner = join(path, &entry.key);
            if let Some(first) = entries[..index].iter().find(|first| first.key == entry.key) {
                self.problems.push(twice(&inner, entry, first));
                continue;
            }
            if !is_camera_name(&entry.key) {
                self.problems.push(
                    Problem::new(format!("`{}` cannot be a {}'s name", entry.key, section.name)).at(&entry.pos).hint(
                        "1 to 63 characters from a–z, 0–9, `_` and `-`, the first a letter or digit: it stands in topics, URLs and file names",
                    ),
                );
            }
            let below = self.section(&entry.value, section, &inner);
            if matches!(entry.value.kind, tree::Kind::Map(_) | tree::Kind::Null) {
                group.named.entry(key).or_default().push((entry.key.clone(), entry.pos.clone(), below));
            } else {
                usable = false;
            }
        }
        usable
    }

    fn texts(&mut self, node: &Node, path: &str) -> Option<Given> {
        let tree::Kind::List(items) = &node.kind else {
            self.problems.push(
                Problem::new(format!("`{path}` must be a list, not {}", describe(node)))
                    .at(&node.pos)
                    .hint("for example `[person, car]`"),
            );
            return None;
        };
        let before = self.problems.len();
        let mut resolved = true;
        let mut texts: Vec<String> = Vec::with_capacity(items.len());
        for item in items {
            let problem = match &item.kind {
                tree::Kind::Scalar(scalar) if scalar.unresolved => {
                    resolved = false;
                    continue;
                }
                tree::Kind::Scalar(scalar) if scalar.text.trim().is_empty() => "has an empty entry".to_owned(),
                tree::Kind::Scalar(scalar) if texts.contains(&scalar.text) => format!("has `{}` twice", scalar.raw),
                tree::Kind::Scalar(scalar) => {
                    texts.push(scalar.text.clone());
                    continue;
                }
                _ => format!("must be a list of texts, not of {}", describe(item)),
            };
            self.problems.push(Problem::new(format!("`{path}` {problem}")).at(&item.pos));
        }
        if items.is_empty() {
            self.problems.push(
                Problem::new(format!("`{path}` is an empty list, so nothing would be reported"))
                    .at(&node.pos)
                    .hint("name at least one entry, or leave the key out to get all"),
            );
        }
        let given = Given { pos: node.pos.clone(), raw: texts.join(", "), value: Value::Texts(texts) };
        (resolved && self.problems.len() == before).then_some(given)
    }

    fn scalar(&mut self, key: &'static Key, node: &Node, path: &str) -> Option<Given> {
        let tree::Kind::Scalar(scalar) = &node.kind else {
            self.problems.push(
                Problem::new(format!("`{path}` must be {}, not {}", expected(key.kind), describe(node))).at(&node.pos),
            );
            return None;
        };
        if scalar.unresolved {
            return None;
        }
        match scalar_value(key, &scalar.text) {
            Ok(value) => Some(Given { pos: node.pos.clone(), raw: scalar.raw.clone(), value }),
            Err(hint) => {
                let shown = if is_secret_key(key.name) { String::new() } else { format!(", not `{}`", scalar.raw) };
                let problem = Problem::new(format!("`{path}` must be {}{shown}", expected(key.kind))).at(&node.pos);
                self.problems.push(match hint {
                    Some(hint) => problem.hint(hint),
                    None => problem,
                });
                None
            }
        }
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn describe(node: &Node) -> &'static str {
    match &node.kind {
        tree::Kind::Null => "nothing",
        tree::Kind::Scalar(_) => "a single value",
        tree::Kind::List(_) => "a list",
        tree::Kind::Map(_) => "keys with values",
    }
}

fn twice(path: &str, entry: &Entry, first: &Entry) -> Problem {
    Problem::new(format!("`{path}` stands twice"))
        .at(&entry.pos)
        .hint(format!("the first one is at {}; keep one of them", first.pos))
}

fn unknown_key(section: &'static Section, path: &str, entry: &Entry) -> Problem {
    let place = if path.is_empty() { String::new() } else { format!(" in `{path}`") };
    let problem = Problem::new(format!("unknown key `{}`{place}", entry.key)).at(&entry.pos);
    if let Some(near) = nearest(&entry.key, section.keys.iter().map(|key| key.name)) {
        return problem.hint(format!("did you mean `{near}`?"));
    }
    // The right key at the wrong place: indentation, most of the time.
    let homes: Vec<&str> =
        keys::sections().iter().filter(|other| other.key(&entry.key).is_some()).map(|other| home(other)).collect();
    if !homes.is_empty() {
        return problem.hint(format!("`{}` belongs {}; is the indentation right?", entry.key, homes.join(" or ")));
    }
    let elsewhere = keys::sections()
        .into_iter()
        .find_map(|other| nearest(&entry.key, other.keys.iter().map(|key| key.name)).map(|near| (near, home(other))));
    if let Some((near, home)) = elsewhere {
        return problem.hint(format!("did you mean `{near}` {home}?"));
    }
    let keys = section.keys.iter().map(|key| key.name).collect::<Vec<_>>().join(", ");
    problem.hint(format!("the keys here are {keys}"))
}

fn home(section: &Section) -> &'static str {
    match section.name {
        "config" => "at the top",
        "model" => "in `model`",
        "tensorrt" => "in `model.tensorrt`",
        "profile" => "in `model.tensorrt.profile`",
        "cuda" => "in `model.cuda`",
        "openvino" => "in `model.openvino`",
        "mqtt" => "in `mqtt`",
        "rtsp" => "in `rtsp`",
        "http" => "in `http`",
        "jsonl" => "in `jsonl`",
        "defaults" => "in `defaults`",
        "camera" => "in `cameras.<name>`",
        "detect" => "in `detect`",
        _ => "in `reconnect`",
    }
}
