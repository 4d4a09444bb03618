//! From the tree to typed fields: unknown, duplicate and missing keys, wrong values. Every problem is kept.

use std::path::Path;

use super::error::{Pos, Problem};
use super::mask::shortened;
use super::section::{Key, Kind, Section, sections};
use super::tree::{Kind as NodeKind, Node, join};
use super::value::{Hint, expected, is_camera_name, nearest};

/// Collects problems.
pub(crate) struct Report {
    /// The whole table, for suggestions.
    root: &'static Section,
    pub(crate) problems: Vec<Problem>,
}

impl Report {
    pub(crate) fn new(root: &'static Section) -> Self {
        Self { root, problems: Vec::new() }
    }

    fn add(&mut self, pos: &Pos, text: impl Into<String>, hint: impl Into<String>) {
        self.problems.push(Problem::new(text).at(pos).hint(hint));
    }

    fn twice(&mut self, path: &str, pos: &Pos, first: &Pos) {
        self.add(pos, format!("`{path}` stands twice"), format!("the first one is at {first}; keep one of them"));
    }

    /// Reports keys of `node` that stand twice or that `section` does not have. `false`: it has no keys at all.
    pub(crate) fn check_keys(&mut self, section: &Section, node: &Node, path: &str) -> bool {
        let NodeKind::Map(entries) = &node.kind else {
            let what = if path.is_empty() { "the configuration".into() } else { format!("`{path}`") };
            let text = format!("{what} must be keys with values, not {}", node.describe());
            self.add(&node.pos, text, format!("its keys are {}", section.names()));
            return false;
        };
        for (index, entry) in entries.iter().enumerate() {
            if let Some(first) = entries[..index].iter().find(|first| first.key == entry.key) {
                self.twice(&join(path, &entry.key), &entry.pos, &first.pos);
            } else if section.key(&entry.key).is_none() {
                let place = if path.is_empty() { String::new() } else { format!(" in `{path}`") };
                let text = format!("unknown key `{}`{place}", shortened(&entry.key));
                self.add(&entry.pos, text, self.suggestion(section, &entry.key));
            }
        }
        true
    }

    /// What to write in place of a key that `section` does not have.
    fn suggestion(&self, section: &Section, word: &str) -> String {
        let near = |section: &Section| nearest(word, section.keys().map(|key| key.name));
        if let Some(near) = near(section) {
            return format!("did you mean `{near}`?");
        }
        // The right key at the wrong place: most of the time the indentation is wrong.
        let all = sections(self.root);
        let homes: Vec<String> =
            all.iter().filter(|other| other.key(word).is_some()).map(|other| other.home()).collect();
        if !homes.is_empty() {
            return format!("`{word}` belongs {}; is the indentation right?", homes.join(" or "));
        }
        match all.iter().find_map(|other| Some((near(other)?, other.home()))) {
            Some((near, home)) => format!("did you mean `{near}` {home}?"),
            None => format!("the keys here are {}", section.names()),
        }
    }
}

/// A struct that is read from a section; `section!` implements it.
pub(crate) trait Keys: Sized {
    const SECTION: &'static Section;

    fn read(reader: &mut Reader<'_>) -> Self;

    /// Reads `node`, called `path` in messages. `None`: all defaults.
    fn from_node(node: Option<&Node>, path: &str, report: &mut Report) -> Self {
        Self::read(&mut Reader { section: Self::SECTION, node, path, report })
    }
}

/// One section of the file while it is read.
pub(crate) struct Reader<'a> {
    section: &'static Section,
    node: Option<&'a Node>,
    path: &'a str,
    report: &'a mut Report,
}

impl Reader<'_> {
    /// The value of `key`; where it is absent or wrong, its default.
    pub(crate) fn field<T: Field>(&mut self, key: &str) -> T {
        let Some(key) = self.section.key(key) else { return T::absent() };
        let read = match self.node.and_then(|node| node.get(key.name)) {
            Some(node) => T::read(&mut Entry { key, node, path: &join(self.path, key.name), report: self.report }),
            None => {
                if let (Some(node), true) = (self.node, key.required) {
                    let text = format!("`{}` has no `{}`", self.path, key.name);
                    self.report.add(&node.pos, text, format!("add `{}: {}`", key.name, key.example));
                }
                None
            }
        };
        read.or_else(|| T::default_of(key)).unwrap_or_else(T::absent)
    }
}

/// A type that a key's value is read into.
pub(crate) trait Field: Sized {
    /// `None`: the value is wrong, and that was reported.
    fn read(entry: &mut Entry<'_>) -> Option<Self>;

    /// The default in the table of keys.
    fn default_of(_key: &Key) -> Option<Self> {
        None
    }

    /// Holds where there is neither a value nor a default.
    fn absent() -> Self;
}

/// A key with its value, which is not `null`.
pub(crate) struct Entry<'a> {
    pub(crate) key: &'static Key,
    pub(crate) node: &'a Node,
    /// The key in messages.
    pub(crate) path: &'a str,
    report: &'a mut Report,
}

/// Reads one text; gets the folder at which relative paths start and what the key takes.
pub(crate) type Parse<T> = fn(&str, &Path, Kind) -> Result<T, Hint>;

impl Entry<'_> {
    pub(crate) fn problem(&mut self, pos: &Pos, text: String, hint: Hint) {
        let problem = Problem::new(text).at(pos);
        self.report.problems.push(match hint {
            Some(hint) => problem.hint(hint),
            None => problem,
        });
    }

    pub(crate) fn scalar<T>(&mut self, parse: Parse<T>) -> Option<T> {
        let kind = self.key.kind;
        let NodeKind::Scalar(scalar) = &self.node.kind else {
            let text = format!("`{}` must be {}, not {}", self.path, expected(kind), self.node.describe());
            self.problem(&self.node.pos, text, None);
            return None;
        };
        if scalar.unresolved {
            return None;
        }
        parse(&scalar.text, &self.node.pos.origin.base, kind)
            .map_err(|hint| {
                let shown = match kind {
                    Kind::Secret => String::new(),
                    _ => format!(", not `{}`", shortened(&scalar.raw)),
                };
                self.problem(&self.node.pos, format!("`{}` must be {}{shown}", self.path, expected(kind)), hint);
            })
            .ok()
    }

    pub(crate) fn section<T: Keys>(&mut self) -> Option<T> {
        let readable = self.report.check_keys(T::SECTION, self.node, self.path);
        readable.then(|| T::from_node(Some(self.node), self.path, self.report))
    }

    /// The sections under names that the user chose.
    pub(crate) fn named<T: Keys>(&mut self) -> Option<Vec<(String, T)>> {
        let NodeKind::Map(entries) = &self.node.kind else {
            let text = format!("`{}` must be names with settings, not {}", self.path, self.node.describe());
            self.report.add(&self.node.pos, text, "for example `gate: rtsp://10.0.0.5/stream1`");
            return None;
        };
        let mut all = Vec::new();
        for (index, entry) in entries.iter().enumerate() {
            let path = join(self.path, &entry.key);
            if let Some(first) = entries[..index].iter().find(|first| first.key == entry.key) {
                self.report.twice(&path, &entry.pos, &first.pos);
                continue;
            }
            if !is_camera_name(&entry.key) {
                let text = format!("`{}` cannot be a {}'s name", shortened(&entry.key), T::SECTION.name);
                self.report.add(&entry.pos, text, NAME_RULE);
            }
            let null = matches!(entry.value.kind, NodeKind::Null);
            if null || self.report.check_keys(T::SECTION, &entry.value, &path) {
                all.push((entry.key.clone(), T::from_node(Some(&entry.value), &path, self.report)));
            }
        }
        Some(all)
    }
}

const NAME_RULE: &str = "1 to 63 characters from a–z, 0–9, `_` and `-`, the first a letter or digit: it stands in topics, URLs and file names";
