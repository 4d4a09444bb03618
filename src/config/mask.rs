//! Source lines as they may be shown: secrets masked, control characters made visible, long lines cut.
//!
//! Works on text, not on the parsed tree, because a file that does not parse is shown as well.

use std::borrow::Cow;

use crate::types::{HIDDEN, redact};

/// Is a key of this name a secret? Misspelled ones too: they are shown just when they are wrong.
pub(crate) fn is_secret_key(key: &str) -> bool {
    let key = key.to_lowercase();
    ["pass", "pwd", "secret", "token"].iter().any(|word| key.contains(word))
        || strsim::damerau_levenshtein(&key, "password") <= 3
}

/// A value as messages quote it: a file may hold one of a megabyte.
pub(crate) fn shortened(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(100) {
        Some((end, _)) => format!("{}…", &text[..end]).into(),
        None => text.into(),
    }
}

/// Text without control characters (a terminal would obey them); tabs become spaces.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\t' => ' ',
            '\n' => '\n',
            c if c.is_control() || is_bidi_control(c) => '\u{fffd}',
            c => c,
        })
        .collect()
}

fn is_bidi_control(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Line `line` (from 1) of `text` with its secrets masked, and what to underline in it: the offset in characters from 0
/// of `column` (from 1), and how many characters of the `width` from there are shown. At most about `room` characters
/// are shown. `None` when there is no such line.
pub(crate) fn source_line(
    text: &str,
    line: usize,
    column: usize,
    width: usize,
    room: usize,
) -> Option<(String, usize, usize)> {
    let source = text.lines().nth(line.checked_sub(1)?)?;
    let start = column.saturating_sub(1).min(source.chars().count());
    let end = start.saturating_add(width).min(source.chars().count());
    if continues_secret(text, line) {
        let indent = indent_of(source).min(room);
        return Some((format!("{}{HIDDEN}", " ".repeat(indent)), start.min(indent), 1));
    }
    let masked = mask(source);
    let length = masked.chars().count();
    let (start, end) = match (masked_length(source, start), masked_length(source, end)) {
        ((start, true), (end, _)) => (start.saturating_sub(HIDDEN.len()), end.min(length)),
        ((start, false), (end, _)) => (start.min(length), end.min(length)),
    };
    let (shown, caret) = cut(&printable(&masked), start, room);
    let width = end.saturating_sub(start).min(shown.chars().count().saturating_sub(caret)).max(1);
    Some((shown, caret, width))
}

fn mask(line: &str) -> String {
    redact(&mask_keys(line))
}

/// How many characters the first `count` of `line` have when masked, and whether they end inside of a secret.
fn masked_length(line: &str, count: usize) -> (usize, bool) {
    let head: String = line.chars().take(count).collect();
    let shown = mask(&head);
    (shown.chars().count(), shown.ends_with(HIDDEN) && !head.ends_with(HIDDEN))
}

fn indent_of(line: &str) -> usize {
    line.chars().take_while(|c| c.is_whitespace()).count()
}

/// Is the line part of a secret that began on an earlier line (a block scalar, a value on the next line)?
fn continues_secret(text: &str, line: usize) -> bool {
    let mut secret_indent = None;
    for (index, current) in text.lines().enumerate() {
        let blank = current.trim().is_empty();
        let indent = indent_of(current);
        if secret_indent.is_some_and(|start| indent <= start && !blank) {
            secret_indent = None;
        }
        if index + 1 == line {
            return secret_indent.is_some();
        }
        if secret_indent.is_none() && secret_value(current, 0).is_some() {
            secret_indent = Some(indent);
        }
    }
    false
}

/// The byte range of the next value of a secret key at or behind byte `from`, up to the end of the flow entry. The
/// range is empty when the value stands on the next line.
fn secret_value(line: &str, from: usize) -> Option<(usize, usize)> {
    let mut search = from;
    while let Some(at) = line[search..].find([':', '=']).map(|at| search + at) {
        let next = &line[at + 1..];
        let key_start = line[..at]
            .rfind(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '"' | '\'')))
            .map_or(0, |i| i + line[i..].chars().next().map_or(1, char::len_utf8));
        let key = line[key_start..at].trim_matches(['"', '\'']);
        let separates = line.as_bytes()[at] == b'=' || next.is_empty() || next.starts_with([' ', '\t', '"', '\'']);
        if separates && is_secret_key(key.rsplit(['.', '_']).next().unwrap_or(key)) {
            let start = at + 1 + (next.len() - next.trim_start().len());
            return Some((start, value_end(line, start)));
        }
        search = at + 1;
    }
    None
}

/// Where the value that starts at byte `start` ends: at its closing quote, at `,` or `}` inside `{…}`, else at the end.
fn value_end(line: &str, start: usize) -> usize {
    let flow = line[..start].contains('{');
    let (mut quote, mut escaped, mut depth) = (None, false, 0_usize);
    for (at, c) in line[start..].char_indices() {
        match (quote, c) {
            (Some('"'), '\\') if !escaped => {
                escaped = true;
                continue;
            }
            (Some(quote), c) if c == quote && !escaped => return start + at + 1,
            (None, '"' | '\'') if at == 0 => quote = Some(c),
            // A `,` inside a plain flow value ends it; `${NAME}` does not.
            (None, '{') => depth += 1,
            (None, '}') if depth > 0 => depth -= 1,
            (None, '}' | ',') if flow && depth == 0 => return start + at,
            _ => {}
        }
        escaped = false;
    }
    line.len()
}

/// Hides the values of secret keys.
fn mask_keys(line: &str) -> String {
    let mut out = String::new();
    let mut done = 0;
    while let Some((start, end)) = secret_value(line, done) {
        let value = &line[start..end];
        out.push_str(&line[done..start]);
        // A reference holds no secret and is worth reading.
        let reference = value.trim().trim_matches(['"', '\'']);
        let public = reference.is_empty() || (reference.starts_with("${") && !reference.contains(":-"));
        out.push_str(if public { value } else { HIDDEN });
        done = end;
        if value.is_empty() {
            break;
        }
    }
    out.push_str(&line[done..]);
    out
}

/// At most `width` characters of `line`, around the caret.
fn cut(line: &str, caret: usize, width: usize) -> (String, usize) {
    let length = line.chars().count();
    if length <= width {
        return (line.to_owned(), caret);
    }
    let start = if caret < width * 3 / 4 { 0 } else { caret - width / 2 };
    let end = (start + width).min(length);
    let mut out: String = line.chars().skip(start).take(end - start).collect();
    if end < length {
        out.push('…');
    }
    match start {
        0 => (out, caret),
        _ => (format!("…{out}"), caret - start + 1),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[track_caller]
    fn check(text: &str, line: usize, column: usize, expected: &str) {
        let (shown, caret, _) = source_line(text, line, column, 1, 110).unwrap();
        assert_eq!(format!("{shown}\n{:caret$}^", ""), expected);
    }

    #[test]
    fn the_caret_points_at_the_column() {
        check("a: 1\n  b: x", 2, 6, "  b: x\n     ^");
        check("ä: ö", 1, 4, "ä: ö\n   ^");
        check("\ta", 1, 2, " a\n ^");
    }

    #[test]
    fn secrets_are_masked_and_the_caret_moves_along() {
        check("  password: hunter2", 1, 13, "  password: ***\n            ^");
        check("  password: hunter2", 1, 17, "  password: ***\n            ^");
        check("{password: hunter2, url: 5}", 1, 21, "{password: ***, url: 5}\n                ^");
        check("{password: 'a, b}', url: 5}", 1, 21, "{password: ***, url: 5}\n                ^");
        check("pasword: hunter2", 1, 1, "pasword: ***\n^");
        check("\"password\": hunter2", 1, 1, "\"password\": ***\n^");
        check("mqtt.password=hunter2", 1, 15, "mqtt.password=***\n              ^");
        check("OCELLI__MQTT__PASSWORD=hunter2", 1, 1, "OCELLI__MQTT__PASSWORD=***\n^");
        check("{a: {password: ${X}, b: 1}", 1, 23, "{a: {password: ${X}, b: 1}\n                      ^");
        check("url: rtsp://admin:hunter2@host", 1, 6, "url: rtsp://***@host\n     ^");
        check("password:\n  hunter2: : x\nb: 1", 2, 10, "  ***\n  ^");
        check("password: |\n  hunter2\n\n  hunter3\nb: 1", 4, 3, "  ***\n  ^");
        check("password: |\n  hunter2\nb: 1", 3, 4, "b: 1\n   ^");
    }

    #[test]
    fn long_lines_are_cut_around_the_caret() {
        let line = format!("{}X{}", "a".repeat(500), "b".repeat(500));
        let (shown, caret, _) = source_line(&line, 1, 501, 1, 110).unwrap();
        assert_eq!(shown.chars().nth(caret), Some('X'));
        assert!(shown.chars().count() < 120);
    }

    proptest::proptest! {
        #[test]
        fn any_line_is_taken(text in "([ -~]|\n|ä|: |password: |://|@|\\{|\\}|\"){0,40}", line in 0_usize..6, column in 0_usize..60) {
            if let Some((shown, caret, width)) = source_line(&text, line, column, 7, 20) {
                proptest::prop_assert!(width >= 1 && caret <= shown.chars().count());
            }
        }

        #[test]
        fn a_password_is_never_shown(
            before in "(url: x, |a: \"b\", |\\$\\{X\\}, ){0,3}",
            quote in "[\"']?",
            after in "(, b: 1|\\}| # note){0,3}",
            column in 1_usize..60,
        ) {
            let line = format!("{{{before}password: {quote}S3CRET{quote}{after}");
            let (shown, _, _) = source_line(&line, 1, column, 1, 110).unwrap();
            proptest::prop_assert!(!shown.contains("S3CRET"), "{}", shown);
        }
    }
}
