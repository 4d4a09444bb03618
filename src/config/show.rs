//! The configuration as YAML for people, secrets hidden.

use super::file::Config;
use super::layers::inherit;
use super::load::Loaded;
use super::read::Keys;
use super::section::{Key, Kind, Section};
use super::tree::{Kind as NodeKind, Node};
use super::value::{self, located};
use crate::types::{HIDDEN, redact};

impl Loaded {
    /// The keys that were given, merged. With `effective` also every default and everything that a camera inherits;
    /// that text is itself a configuration with the same meaning (but for the secrets, which are hidden).
    pub fn show(&self, effective: bool) -> String {
        let root = if effective { &inherit(&self.root) } else { &self.root };
        let mut writer = Writer { out: String::new(), effective, node_name: &self.config.node };
        writer.section(Config::SECTION, Some(root), 0);
        writer.out
    }
}

struct Writer<'a> {
    out: String,
    effective: bool,
    node_name: &'a str,
}

impl Writer<'_> {
    fn section(&mut self, section: &'static Section, node: Option<&Node>, depth: usize) {
        for key in section.keys() {
            let own = node.and_then(|node| node.get(key.name));
            // A default that this kind of source does not read is not shown.
            let read = key.only.is_empty() || key.only.iter().any(|one| node.is_some_and(|n| n.get(one).is_some()));
            let default = self.effective && read;
            match key.kind {
                Kind::Section(below) if own.is_some() || default => self.below(key, below, own, depth),
                Kind::Optional(below) if own.is_some() => self.below(key, below, own, depth),
                Kind::Named(below) if own.is_some_and(|own| !own.entries().is_empty()) => {
                    self.line(depth, key.name, "");
                    for entry in own.map(Node::entries).unwrap_or_default() {
                        self.line(depth + 1, &entry.key, "");
                        self.section(below, Some(&entry.value), depth + 2);
                    }
                }
                Kind::Section(_) | Kind::Optional(_) | Kind::Named(_) => {}
                _ => match (own, key.default) {
                    (Some(own), _) => self.line(depth, key.name, &self.value(key, own)),
                    (None, _) if default && key.name == "node" => self.line(depth, key.name, &quoted(self.node_name)),
                    (None, Some(text)) if default => self.line(depth, key.name, &scalar(key.kind, text)),
                    _ => {}
                },
            }
        }
    }

    fn below(&mut self, key: &Key, section: &'static Section, own: Option<&Node>, depth: usize) {
        let start = self.out.len();
        self.line(depth, key.name, "");
        let body = self.out.len();
        self.section(section, own, depth + 1);
        if self.out.len() == body {
            self.out.truncate(start);
            if own.is_some() {
                self.line(depth, key.name, "{}");
            }
        }
    }

    fn value(&self, key: &Key, node: &Node) -> String {
        match (&node.kind, key.kind) {
            (NodeKind::List(items), _) => {
                format!("[{}]", items.iter().map(|item| quoted(item.text())).collect::<Vec<_>>().join(", "))
            }
            (_, Kind::Secret) => quoted(HIDDEN),
            (_, Kind::Path) if self.effective => {
                quoted(&located(node.text(), &node.pos.origin.base).display().to_string())
            }
            (_, kind) => scalar(kind, node.text()),
        }
    }

    fn line(&mut self, depth: usize, key: &str, value: &str) {
        let space = if value.is_empty() { "" } else { " " };
        self.out.push_str(&format!("{:1$}{key}:{space}{value}\n", "", 2 * depth));
    }
}

/// One text in its usual form. It was checked.
fn scalar(kind: Kind, text: &str) -> String {
    let plain = match kind {
        Kind::Bool => value::boolean(text).map(|value| value.to_string()),
        Kind::Integer(..) => value::integer(text, kind).map(|value| value.to_string()),
        Kind::Number(..) => value::number(text, kind).map(|value| value.to_string()),
        Kind::Duration(..) => value::duration(text, kind).map(|value| humantime::format_duration(value).to_string()),
        Kind::Size(..) => value::size(text, kind).map(|value| value.to_string()),
        Kind::Address => value::address(text).map(|value| quoted(&value.to_string())),
        _ => value::text(text, kind).map(|value| quoted(&redact(&value))),
    };
    plain.unwrap_or_else(|_| quoted(&redact(text.trim())))
}

/// Plain where every YAML reader takes it for the same text, else in double quotes (JSON's are YAML's). A `${` of the
/// resolved text is no reference any more.
fn quoted(text: &str) -> String {
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/');
    let plain = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        && text.chars().all(word)
        && !["true", "false", "yes", "no", "on", "off", "null", "y", "n"].contains(&text.to_ascii_lowercase().as_str());
    if plain { text.to_owned() } else { serde_json::Value::from(text.replace("${", "$${")).to_string() }
}
