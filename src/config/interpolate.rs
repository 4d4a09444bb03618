//! `${NAME}` and `${NAME:-default}` in values. `$${` is a literal `${`.

use super::error::{Pos, Problem};
use super::tree::{Kind, Node, Scalar};

/// Finds a name's value: `Ok(None)` when it is defined nowhere; the error is a sentence.
pub(crate) type Find<'a> = &'a dyn Fn(&str) -> Result<Option<String>, String>;

/// Where values come from.
#[derive(Clone, Copy)]
pub(crate) struct Lookup<'a> {
    pub(crate) find: Find<'a>,
    /// Stands for a value that is defined nowhere or cannot be read; `None`: that is a problem.
    pub(crate) unknown: Option<&'a str>,
}

/// Resolves the references in all values below `node`. Keys are left alone.
pub(crate) fn interpolate(node: &mut Node, lookup: Lookup<'_>, problems: &mut Vec<Problem>) {
    match &mut node.kind {
        Kind::Null => {}
        Kind::Scalar(scalar) => interpolate_scalar(scalar, &node.pos, lookup, problems),
        Kind::List(items) => items.iter_mut().for_each(|item| interpolate(item, lookup, problems)),
        Kind::Map(entries) => entries.iter_mut().for_each(|entry| interpolate(&mut entry.value, lookup, problems)),
    }
}

fn interpolate_scalar(scalar: &mut Scalar, pos: &Pos, lookup: Lookup<'_>, problems: &mut Vec<Problem>) {
    let mut text = String::with_capacity(scalar.raw.len());
    let mut rest = scalar.raw.as_str();
    while let Some(at) = rest.find("${") {
        if rest[..at].ends_with('$') {
            text.push_str(&rest[..at - 1]);
            text.push_str("${");
            rest = &rest[at + 2..];
            continue;
        }
        text.push_str(&rest[..at]);
        let Some(end) = rest[at..].find('}').map(|end| at + end) else {
            problems.push(
                Problem::new("`${` is not closed")
                    .at(&place(pos, &rest[at..]))
                    .hint("write `${NAME}`, or `$${` for a literal `${`"),
            );
            scalar.unresolved = true;
            return;
        };
        let reference = &rest[at..=end];
        match resolve(reference, lookup) {
            Ok(value) => text.push_str(&value),
            Err(problem) => {
                scalar.unresolved = true;
                problems.push(problem.at(&place(pos, reference)));
            }
        }
        rest = &rest[end + 1..];
    }
    text.push_str(rest);
    scalar.text = text;
}

/// The value of one `${…}`.
fn resolve(reference: &str, lookup: Lookup<'_>) -> Result<String, Problem> {
    let inner = reference.trim_start_matches("${").trim_end_matches('}');
    let (name, default) = match inner.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inner, None),
    };
    let valid = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && name.bytes().next().is_some_and(|byte| !byte.is_ascii_digit());
    if !valid {
        return Err(Problem::new("the name in `${…}` is not a variable's name")
            .hint("write `${NAME}` or `${NAME:-default}`; a name has letters, digits and `_`"));
    }
    let value = match ((lookup.find)(name), lookup.unknown) {
        (Ok(value), _) => value,
        (Err(_), Some(_)) => None,
        (Err(error), None) => return Err(Problem::new(format!("`${{{name}}}`: {error}"))),
    };
    match (value, default.or(lookup.unknown)) {
        (Some(value), Some(default)) if value.is_empty() => Ok(default.to_owned()),
        (Some(value), _) => Ok(value),
        (None, Some(default)) => Ok(default.to_owned()),
        (None, None) => Err(Problem::new(format!("`${{{name}}}` is not defined")).hint(format!(
            "set the environment variable {name}, give the service the systemd credential {name} \
             (LoadCredential={name}:FILE), or write `${{{name}:-default}}`"
        ))),
    }
}

/// Where `part` of the scalar at `pos` stands, when it is on the scalar's first line; else the scalar itself.
fn place(pos: &Pos, part: &str) -> Pos {
    let found = pos.origin.text.lines().nth(pos.line.saturating_sub(1)).and_then(|line| {
        let (start, _) = line.char_indices().nth(pos.column.saturating_sub(1))?;
        let at = start + line[start..].find(part)?;
        Some(line[..at].chars().count() + 1)
    });
    match found {
        Some(column) => Pos { column, width: part.chars().count().max(1), ..pos.clone() },
        None => pos.clone(),
    }
}
