//! The table of keys as a page for people.

use super::file::Config;
use super::read::Keys;
use super::section::{Section, sections};
use super::value::expected;

/// Markdown tables of all keys with type, range and default.
pub fn reference() -> String {
    let tables = sections(Config::SECTION).into_iter().map(table);
    format!("{}{}", include_str!("reference.md"), tables.collect::<String>())
}

fn table(section: &Section) -> String {
    let title = if section.at.is_empty() { "Top level".into() } else { format!("`{}`", section.at) };
    let short = match section.short {
        [url, file] => format!(" A plain text with `://` is `{url}`, any other is `{file}`."),
        [key] => format!(" A plain text is `{key}`."),
        _ => String::new(),
    };
    let mut text = format!("\n## {title}\n\n{}{short}\n\n", section.doc());
    text.push_str("| key | value | default | example | meaning |\n|---|---|---|---|---|\n");
    for key in section.keys() {
        let default = key.default.map_or_else(|| "–".to_owned(), |default| format!("`{default}`"));
        let (value, doc) = (expected(key.kind), key.doc());
        text.push_str(&format!("| `{}` | {value} | {default} | `{}` | {doc} |\n", key.name, key.example));
    }
    text
}
