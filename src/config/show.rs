//! The configuration as YAML for people, secrets hidden.

use super::check::Group;
use super::keys::{self, Key, Kind, Section};
use super::load::Loaded;
use super::value::{Value, default};
use super::view::View;
use crate::types::{HIDDEN, redact};

impl Loaded {
    /// The keys that were given, merged. With `effective` also every default and everything that a camera inherits;
    /// that text is itself a configuration with the same meaning (but for the secrets, which are hidden).
    pub fn show(&self, effective: bool) -> String {
        let mut writer = Writer { out: String::new(), effective, config_node: &self.config.node };
        writer.section(&View::of(&self.root), Some(&self.root), None, 0);
        writer.out
    }
}

struct Writer<'a> {
    out: String,
    effective: bool,
    config_node: &'a str,
}

impl Writer<'_> {
    /// `group`: the section itself; `inherited`: the section whose sub-sections hold where this one's say nothing.
    fn section(&mut self, view: &View<'_>, group: Option<&Group>, inherited: Option<&Group>, depth: usize) {
        let section = view.section();
        for key in section.keys {
            match key.kind {
                Kind::Section(below) => self.below(key, below, group, inherited, depth),
                Kind::Named(below) => self.named(key, below, group, depth),
                _ => self.value(key, view, group, depth),
            }
        }
    }

    fn below(
        &mut self,
        key: &Key,
        section: &'static Section,
        group: Option<&Group>,
        inherited: Option<&Group>,
        depth: usize,
    ) {
        let own = group.and_then(|group| group.group(key.name));
        let above = inherited.and_then(|group| group.group(key.name));
        // `mqtt` and its like are off when absent; a camera file has no connection to bring back.
        let on_by_default = matches!(
            section.name,
            "model" | "tensorrt" | "cuda" | "openvino" | "rtsp" | "defaults" | "detect" | "reconnect"
        );
        let reads = section.name != "reconnect" || group.is_none_or(|group| group.given("file").is_none());
        if own.is_none() && !(self.effective && on_by_default && reads) {
            return;
        }
        let view = if self.effective { View::new(section, [own, above]) } else { View::new(section, [own]) };
        let start = self.out.len();
        self.line(depth, &format!("{}:", key.name));
        let body = self.out.len();
        self.section(&view, own, None, depth + 1);
        if self.out.len() == body {
            self.out.truncate(start);
            if own.is_some() {
                self.line(depth, &format!("{}: {{}}", key.name));
            }
        }
    }

    fn named(&mut self, key: &Key, section: &'static Section, group: Option<&Group>, depth: usize) {
        let Some(group) = group.filter(|group| !group.named(key.name).is_empty()) else { return };
        self.line(depth, &format!("{}:", key.name));
        for (name, _, camera) in group.named(key.name) {
            self.line(depth + 1, &format!("{name}:"));
            self.section(&View::new(section, [Some(camera)]), Some(camera), group.group("defaults"), depth + 2);
        }
    }

    fn value(&mut self, key: &Key, view: &View<'_>, group: Option<&Group>, depth: usize) {
        let given = view.given(key.name);
        let value = match given {
            Some(given) => Some(given.value.clone()),
            None if !self.effective || useless(view.section(), key, group) => None,
            None if key.name == "node" => Some(Value::Text(self.config_node.to_owned())),
            None => default(view.section(), key.name),
        };
        let Some(value) = value else { return };
        let text = match key.kind {
            Kind::Secret => quoted(HIDDEN),
            Kind::Path if self.effective && value != Value::Text("-".into()) => {
                quoted(&view.path(key.name).map(|path| path.display().to_string()).unwrap_or_default())
            }
            _ => yaml(&value),
        };
        self.line(depth, &format!("{}: {text}", key.name));
    }

    fn line(&mut self, depth: usize, text: &str) {
        self.out.push_str(&"  ".repeat(depth));
        self.out.push_str(text);
        self.out.push('\n');
    }
}

/// Defaults of keys that the camera's kind of source does not read are not shown.
fn useless(section: &Section, key: &Key, group: Option<&Group>) -> bool {
    if section.name != keys::CAMERA.name {
        return false;
    }
    let is = |kind: &str| group.is_some_and(|group| group.given(kind).is_some());
    match key.name {
        "transport" | "latency" => !is("url"),
        "loop" | "realtime" => !is("file"),
        "format" => !is("usb"),
        _ => false,
    }
}

fn yaml(value: &Value) -> String {
    match value {
        Value::Text(text) => quoted(&redact(text)),
        Value::Bool(value) => value.to_string(),
        Value::Integer(value) => value.to_string(),
        Value::Number(value) => value.to_string(),
        Value::Duration(value) => humantime::format_duration(*value).to_string(),
        Value::Address(value) => quoted(&value.to_string()),
        Value::Size(value) => value.to_string(),
        Value::Texts(texts) => format!("[{}]", texts.iter().map(|text| quoted(text)).collect::<Vec<_>>().join(", ")),
    }
}

/// Plain where every YAML reader takes it for the same text, else in double quotes (JSON's are YAML's). A `${` of the
/// resolved text is no reference any more.
fn quoted(text: &str) -> String {
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/');
    let plain = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        && text.chars().all(word)
        && !matches!(
            text.to_ascii_lowercase().as_str(),
            "true" | "false" | "yes" | "no" | "on" | "off" | "null" | "y" | "n"
        );
    if plain { text.to_owned() } else { serde_json::Value::from(text.replace("${", "$${")).to_string() }
}
