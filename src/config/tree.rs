//! The configuration as a tree of text with places: what YAML gives before any key has a meaning.
//!
//! Scalars stay text; the key that reads one decides what it means. So `password: 007` keeps its zeros, `node: no` is a
//! word, and every problem can be reported at its place, all at once, instead of the first one only.

use std::sync::Arc;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_yaml::Spanned;
use serde_yaml::options::{DuplicateKeyPolicy, MergeKeyPolicy, NonFiniteFloatPolicy};

use super::error::{Origin, Pos, Problem};
use super::mask::shortened;

/// A value with its place.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    pub(crate) pos: Pos,
    pub(crate) kind: Kind,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Kind {
    /// Empty, `~` or `null`: as if the key were not there.
    Null,
    Scalar(Scalar),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A text as written and as meant.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Scalar {
    /// As written; references are not resolved, so it may be shown where the key is no secret.
    pub(crate) raw: String,
    /// References resolved; may hold a secret.
    pub(crate) text: String,
    /// A reference in it could not be resolved: that is reported, and `text` means nothing.
    pub(crate) unresolved: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) pos: Pos,
    pub(crate) value: Node,
}

impl Scalar {
    fn new(text: String) -> Self {
        Self { raw: text.clone(), text, unresolved: false }
    }
}

impl Node {
    pub(crate) fn scalar(pos: Pos, text: &str) -> Self {
        Self { pos, kind: Kind::Scalar(Scalar::new(text.to_owned())) }
    }

    /// The value of `key`, unless it is `null`.
    pub(crate) fn get(&self, key: &str) -> Option<&Self> {
        self.entry(key).map(|entry| &entry.value).filter(|value| !matches!(value.kind, Kind::Null))
    }

    /// As [`get`](Self::get), by several keys.
    pub(crate) fn at<const N: usize>(&self, keys: [&str; N]) -> Option<&Self> {
        keys.iter().try_fold(self, |node, key| node.get(key))
    }

    pub(crate) fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries().iter().find(|entry| entry.key == key)
    }

    /// Of a map; of anything else there are none.
    pub(crate) fn entries(&self) -> &[Entry] {
        match &self.kind {
            Kind::Map(entries) => entries,
            _ => &[],
        }
    }

    fn texts(&self) -> (&str, &str) {
        match &self.kind {
            Kind::Scalar(scalar) => (&scalar.raw, &scalar.text),
            _ => ("", ""),
        }
    }

    /// As written, references unresolved; empty for a list or a map.
    pub(crate) fn raw(&self) -> &str {
        self.texts().0
    }

    /// References resolved: may be a secret.
    pub(crate) fn text(&self) -> &str {
        self.texts().1
    }

    pub(crate) fn describe(&self) -> &'static str {
        match &self.kind {
            Kind::Null => "nothing",
            Kind::Scalar(_) => "a single value",
            Kind::List(_) => "a list",
            Kind::Map(_) => "keys with values",
        }
    }
}

/// The path of a key for messages.
pub(crate) fn join(path: &str, key: &str) -> String {
    let key = shortened(key);
    if path.is_empty() { key.into_owned() } else { format!("{path}.{key}") }
}

/// Limits that no configuration reaches, so that a hostile file is an error and not a hang.
fn options() -> serde_yaml::Options {
    serde_yaml::options! {
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        merge_keys: MergeKeyPolicy::Error,
        non_finite_float_policy: NonFiniteFloatPolicy::PassThrough,
        budget: serde_yaml::budget! { max_depth: 32, max_nodes: 100_000, max_events: 400_000 },
    }
}

/// Parses one YAML document; an empty one is `Kind::Null`. Lines and columns of `text` are those of `origin`.
pub(crate) fn parse(origin: &Arc<Origin>, text: &str) -> Result<Node, Problem> {
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(Node { pos: Pos { origin: origin.clone(), line: 1, column: 1, width: 1 }, kind: Kind::Null });
    }
    match serde_yaml::from_str_with_options::<Spanned<Raw>>(text, options()) {
        Ok(raw) => Ok(Builder { origin, text }.node(raw)),
        Err(error) => Err(syntax_problem(&error, origin)),
    }
}

fn syntax_problem(error: &serde_yaml::Error, origin: &Arc<Origin>) -> Problem {
    // The parser's text ends with its own place and may quote the file; the first line says what is wrong.
    let text = error.without_snippet().to_string();
    let first = text.lines().next().unwrap_or("unreadable");
    let what = first.rfind(" at line ").map_or(first, |at| &first[..at]);
    let place = error.location().filter(|location| location.line() > 0);
    let (line, column) = place.map_or((1, 1), |place| (place.line() as usize, place.column() as usize));
    Problem::new(format!("not valid YAML: {what}"))
        .at(&Pos { origin: origin.clone(), line, column, width: 1 })
        .hint("look at this line and the one above: indentation, a missing `: `, an open quote or bracket")
}

/// What serde hands over.
enum Raw {
    Null,
    /// A plain scalar that YAML takes for a number or a truth value: its text is read from the source.
    Typed(String),
    Text(String),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

macro_rules! typed {
    ($($visit:ident: $type:ty),+) => {$(
        fn $visit<E>(self, value: $type) -> Result<Raw, E> {
            Ok(Raw::Typed(value.to_string()))
        }
    )+};
}

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a value")
    }
    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }
    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }
    typed! { visit_bool: bool, visit_i64: i64, visit_i128: i128, visit_u64: u64, visit_u128: u128, visit_f64: f64 }
    fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Text(value.to_owned()))
    }
    fn visit_string<E>(self, value: String) -> Result<Raw, E> {
        Ok(Raw::Text(value))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Raw, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Raw::List(list))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Raw, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(Raw::Map(map))
    }
}

struct Builder<'a> {
    origin: &'a Arc<Origin>,
    text: &'a str,
}

impl Builder<'_> {
    fn node(&self, raw: Spanned<Raw>) -> Node {
        let (pos, source) = self.place(&raw.defined);
        let kind = match raw.value {
            Raw::Null => Kind::Null,
            Raw::Typed(canonical) => {
                let text = source.map(str::trim).filter(|text| !text.is_empty()).unwrap_or(&canonical).to_owned();
                Kind::Scalar(Scalar::new(text))
            }
            Raw::Text(text) => Kind::Scalar(Scalar::new(text)),
            Raw::List(items) => Kind::List(items.into_iter().map(|item| self.node(item)).collect()),
            Raw::Map(entries) => Kind::Map(
                entries
                    .into_iter()
                    .map(|(key, value)| Entry {
                        pos: self.place(&key.defined).0,
                        key: key.value,
                        value: self.node(value),
                    })
                    .collect(),
            ),
        };
        Node { pos, kind }
    }

    /// The place of a span, and its source text when the parser knows the bytes.
    fn place(&self, location: &serde_yaml::Location) -> (Pos, Option<&str>) {
        let span = location.span();
        let source = span.byte_offset().zip(span.byte_len()).and_then(|(offset, length)| {
            let offset = usize::try_from(offset).ok()?;
            self.text.get(offset..offset.checked_add(usize::try_from(length).ok()?)?)
        });
        // A block value is underlined to the end of its first line only.
        let width =
            source.and_then(|text| text.lines().next()).map_or(1, |line| line.trim_end().chars().count()).max(1);
        let pos = Pos {
            origin: self.origin.clone(),
            line: (location.line() as usize).max(1),
            column: (location.column() as usize).max(1),
            width,
        };
        (pos, source)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn origin(text: &str) -> Arc<Origin> {
        Arc::new(Origin { index: 0, label: "t.yaml".into(), text: text.into(), base: "".into() })
    }

    /// A compact picture of the tree: `key@line:column+width=value`.
    fn picture(node: &Node) -> String {
        let at = |pos: &Pos| format!("@{}:{}+{}", pos.line, pos.column, pos.width);
        match &node.kind {
            Kind::Null => "null".into(),
            Kind::Scalar(scalar) => format!("{:?}{}", scalar.text, at(&node.pos)),
            Kind::List(items) => format!("[{}]", items.iter().map(picture).collect::<Vec<_>>().join(", ")),
            Kind::Map(entries) => {
                let entries = entries.iter().map(|e| format!("{}{}: {}", e.key, at(&e.pos), picture(&e.value)));
                format!("{{{}}}", entries.collect::<Vec<_>>().join(", "))
            }
        }
    }

    #[track_caller]
    fn check(text: &str, expected: &str) {
        assert_eq!(picture(&parse(&origin(text), text).unwrap()), expected);
    }

    #[test]
    fn every_value_has_its_place_and_its_own_text() {
        check("a: 1\nb:\n  c: x y # note\n", r#"{a@1:1+1: "1"@1:4+1, b@2:1+1: {c@3:3+1: "x y"@3:6+3}}"#);
        check(
            "ä: [007, \"8\", no, 1.50, 0x1F]",
            r#"{ä@1:1+1: ["007"@1:5+3, "8"@1:10+3, "no"@1:15+2, "1.50"@1:19+4, "0x1F"@1:25+4]}"#,
        );
        check("a: &x 5\nb: *x\nc:\nd: ~", r#"{a@1:1+1: "5"@1:7+1, b@2:1+1: "5"@1:7+1, c@3:1+1: null, d@4:1+1: null}"#);
        check("a: 1\na: 2", r#"{a@1:1+1: "1"@1:4+1, a@2:1+1: "2"@2:4+1}"#);
        check("1: .inf\ntrue: -.nan", r#"{1@1:1+1: ".inf"@1:4+4, true@2:1+4: "-.nan"@2:7+5}"#);
        check("a: |\n  x\n  y\nb: 'q'", r#"{a@1:1+1: "x\ny\n"@2:3+1, b@4:1+1: "q"@4:4+3}"#);
        check("a: 9999999999999999999999999999", r#"{a@1:1+1: "9999999999999999999999999999"@1:4+28}"#);
        check("# nothing\n", "null");
    }

    #[test]
    fn what_is_no_yaml_is_one_problem_with_its_place() {
        for (text, line) in [
            ("a: [1", 1),
            ("a: 1\nb: \"x", 2),
            ("a: b: c", 1),
            ("a: *nope", 1),
            ("--- 1\n--- 2", 2),
            ("<<: {a: 1}", 1),
            ("a: 1\n? [b]\n: c", 2),
            ("a: \0", 1),
        ] {
            let shown = parse(&origin(text), text).unwrap_err().to_string();
            assert!(shown.starts_with(&format!("t.yaml:{line}:")) && shown.contains("not valid YAML: "), "{shown}");
        }
    }
}
