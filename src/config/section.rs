//! The table of keys as data: what the reference, the JSON Schema, `config show` and the checks read. The rows are made by
//! [`section!`](super::macros).

/// A group of keys.
#[derive(Debug)]
pub(crate) struct Section {
    /// In messages and as the name of its definition in the schema.
    pub(crate) name: &'static str,
    /// Its path in a file; empty for the file itself.
    pub(crate) at: &'static str,
    pub(crate) doc: &'static str,
    /// Keys that a plain text may stand for. Of two, a text with `://` is the first.
    pub(crate) short: &'static [&'static str],
    pub(crate) keys: &'static [Key],
    /// A section whose keys stand among these.
    pub(crate) more: Option<&'static Section>,
}

/// One key.
#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    /// Read by the same code as the file. `None`: absent means what the description says.
    pub(crate) default: Option<&'static str>,
    pub(crate) required: bool,
    /// A valid value that is not the default, as YAML.
    pub(crate) example: &'static str,
    /// The keys of which one must be given for this one to have an effect; empty: it always has.
    pub(crate) only: &'static [&'static str],
    pub(crate) doc: &'static str,
}

/// What a key's value is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    /// Any text without control characters, not empty.
    Text,
    /// Letters, digits, `_`, `-`, `.`.
    Name,
    /// An MQTT topic without wildcards, may have several levels.
    Topic,
    /// Address of a service with one of these schemes.
    Url(&'static [&'static str]),
    /// Relative paths start at the folder of the file that names them. `-` stays as it is.
    Path,
    /// A text that is never shown.
    Secret,
    /// 64 hexadecimal digits.
    Sha256,
    Bool,
    Integer(u64, u64),
    Number(f64, f64),
    /// Limits in milliseconds.
    Duration(u64, u64),
    Word(&'static [&'static str]),
    /// IP address and port to listen on.
    Address,
    /// `640` or `640x384`, width first.
    Size(u32, u32),
    /// A list of different, not empty texts.
    Texts,
    /// A section whose defaults hold when it is absent.
    Section(&'static Section),
    /// A section that switches something on.
    Optional(&'static Section),
    /// Sections under names that the user chooses.
    Named(&'static Section),
}

impl Section {
    pub(crate) fn keys(&self) -> impl Iterator<Item = &'static Key> + use<> {
        self.more.map_or(&[][..], |more| more.keys).iter().chain(self.keys)
    }

    pub(crate) fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys().find(|key| key.name == name)
    }

    pub(crate) fn doc(&self) -> &'static str {
        self.doc.trim_start()
    }

    pub(crate) fn names(&self) -> String {
        self.keys().map(|key| key.name).collect::<Vec<_>>().join(", ")
    }

    pub(crate) fn home(&self) -> String {
        if self.at.is_empty() { "at the top".into() } else { format!("in `{}`", self.at) }
    }
}

impl Key {
    pub(crate) fn doc(&self) -> &'static str {
        self.doc.trim_start()
    }
}

/// `root` and all sections in it, each once.
pub(crate) fn sections(root: &'static Section) -> Vec<&'static Section> {
    fn visit(section: &'static Section, all: &mut Vec<&'static Section>) {
        if all.iter().any(|known| known.name == section.name) {
            return;
        }
        all.push(section);
        for key in section.keys() {
            if let Kind::Section(below) | Kind::Optional(below) | Kind::Named(below) = key.kind {
                visit(below, all);
            }
        }
    }
    let mut all = Vec::new();
    visit(root, &mut all);
    all
}
