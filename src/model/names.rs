//! Class names as exporters write them: a Python literal (`{0: 'person', 1: "it's"}`, `['a', 'b']`) or JSON. No parser of
//! YAML or JSON reads Python's quotes and escapes.

use std::collections::BTreeMap;

/// A file with more classes is damaged.
const MAX_CLASSES: usize = 100_000;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at byte {at}: {what}")]
pub(super) struct NamesError {
    at: usize,
    what: String,
}

/// Parses class names, in the order of their `class_id`: a dict with keys 0 … n-1 in any order (numbers, quoted in JSON),
/// a list, or a tuple; both kinds of quotes; the escapes of Python and JSON.
pub(super) fn parse(text: &str) -> Result<Vec<String>, NamesError> {
    let mut cursor = Cursor { text, at: 0 };
    cursor.space();
    let names = match cursor.bump() {
        Some('{') => cursor.dict()?,
        Some('[') => cursor.list(']')?,
        Some('(') => cursor.list(')')?,
        _ => return Err(cursor.error("expected `{`, `[` or `(`")),
    };
    cursor.space();
    match cursor.peek() {
        None => Ok(names),
        Some(_) => Err(cursor.error("expected the end")),
    }
}

struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl Cursor<'_> {
    fn error(&self, what: impl Into<String>) -> NamesError {
        NamesError { at: self.at, what: what.into() }
    }

    fn peek(&self) -> Option<char> {
        self.text.get(self.at..)?.chars().next()
    }

    fn bump(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn eat(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        if found {
            self.bump();
        }
        found
    }

    fn space(&mut self) {
        while self.peek().is_some_and(char::is_whitespace) {
            self.bump();
        }
    }

    /// After an item: whether another may follow, or the closing bracket was read.
    fn separator(&mut self, close: char) -> Result<bool, NamesError> {
        self.space();
        let comma = self.eat(',');
        self.space();
        if self.eat(close) {
            return Ok(false);
        }
        if comma { Ok(true) } else { Err(self.error(format!("expected `,` or `{close}`"))) }
    }

    fn list(&mut self, close: char) -> Result<Vec<String>, NamesError> {
        let mut names = Vec::new();
        self.space();
        let mut more = !self.eat(close);
        while more {
            names.push(self.string()?);
            if names.len() > MAX_CLASSES {
                return Err(self.error("more than 100000 classes"));
            }
            more = self.separator(close)?;
        }
        Ok(names)
    }

    fn dict(&mut self) -> Result<Vec<String>, NamesError> {
        let mut entries = BTreeMap::new();
        self.space();
        let mut more = !self.eat('}');
        while more {
            let at = self.at;
            let key = self.key()?;
            self.space();
            if !self.eat(':') {
                return Err(self.error("expected `:`"));
            }
            self.space();
            let name = self.string()?;
            if entries.insert(key, name).is_some() {
                return Err(NamesError { at, what: format!("class {key} is named twice") });
            }
            more = self.separator('}')?;
        }
        // A gap would shift all later names.
        let gap = entries.keys().enumerate().find(|(n, key)| *n != **key);
        if let Some((missing, _)) = gap {
            return Err(self.error(format!("class {missing} has no name")));
        }
        Ok(entries.into_values().collect())
    }

    fn key(&mut self) -> Result<usize, NamesError> {
        let at = self.at;
        let quoted = matches!(self.peek(), Some('\'' | '"'));
        let digits = if quoted {
            self.string()?
        } else {
            let mut digits = String::new();
            while let Some(c) = self.peek().filter(char::is_ascii_digit) {
                digits.push(c);
                self.bump();
            }
            digits
        };
        match digits.parse() {
            Ok(key) if key < MAX_CLASSES => Ok(key),
            _ => Err(NamesError { at, what: "expected a class number from 0 to 99999".into() }),
        }
    }

    fn string(&mut self) -> Result<String, NamesError> {
        // Python 2 wrote u'…'.
        if matches!(self.peek(), Some('u' | 'U')) {
            self.bump();
        }
        let quote = match self.peek() {
            Some(c @ ('\'' | '"')) => c,
            _ => return Err(self.error("expected a quoted name")),
        };
        self.bump();
        let mut out = String::new();
        loop {
            match self.bump() {
                None => return Err(self.error("a name has no closing quote")),
                Some(c) if c == quote => return Ok(out),
                Some('\\') => self.escape(&mut out)?,
                Some(c) => out.push(c),
            }
        }
    }

    fn escape(&mut self, out: &mut String) -> Result<(), NamesError> {
        let c = match self.bump() {
            None => return Err(self.error("a name ends in `\\`")),
            Some('\n') => return Ok(()),
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some('a') => '\x07',
            Some('b') => '\x08',
            Some('f') => '\x0c',
            Some('v') => '\x0b',
            Some(c @ ('\\' | '\'' | '"' | '/')) => c,
            Some('x') => self.hex(2)?,
            Some('u') => self.utf16()?,
            Some('U') => self.hex(8)?,
            Some(c @ '0'..='7') => self.octal(c),
            // Python keeps unknown escapes.
            Some(c) => {
                out.push('\\');
                c
            }
        };
        out.push(c);
        Ok(())
    }

    fn number(&mut self, digits: usize) -> Result<u32, NamesError> {
        let mut n = 0;
        for _ in 0..digits {
            let Some(digit) = self.peek().and_then(|c| c.to_digit(16)) else {
                return Err(self.error(format!("expected {digits} hexadecimal digits")));
            };
            self.bump();
            n = n << 4 | digit;
        }
        Ok(n)
    }

    fn hex(&mut self, digits: usize) -> Result<char, NamesError> {
        let n = self.number(digits)?;
        char::from_u32(n).ok_or_else(|| self.error("no such character"))
    }

    /// `\uXXXX`; JSON writes characters above U+FFFF as two of them.
    fn utf16(&mut self) -> Result<char, NamesError> {
        let first = self.number(4)?;
        if !(0xd800..0xdc00).contains(&first) {
            return char::from_u32(first).ok_or_else(|| self.error("half of a surrogate pair"));
        }
        if !(self.eat('\\') && self.eat('u')) {
            return Err(self.error("half of a surrogate pair"));
        }
        let second = self.number(4)?;
        let low = second.checked_sub(0xdc00).filter(|low| *low < 0x400);
        low.and_then(|low| char::from_u32(0x1_0000 + ((first - 0xd800) << 10) + low))
            .ok_or_else(|| self.error("half of a surrogate pair"))
    }

    /// Up to three octal digits; `first` is read already.
    fn octal(&mut self, first: char) -> char {
        let mut n = first.to_digit(8).unwrap_or(0);
        for _ in 0..2 {
            let Some(digit) = self.peek().and_then(|c| c.to_digit(8)) else { break };
            self.bump();
            n = n << 3 | digit;
        }
        char::from_u32(n).unwrap_or('\u{fffd}')
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(text: &str, names: &[&str]) {
        assert_eq!(parse(text).unwrap(), names, "{text}");
    }

    #[test]
    fn python_and_json_forms() {
        check("{0: 'person', 1: \"it's\"}", &["person", "it's"]);
        check("{1: 'b', 0: 'a',}", &["a", "b"]);
        check(" [ 'a' , \"b\", ] ", &["a", "b"]);
        check("('a', 'b')", &["a", "b"]);
        check("{}", &[]);
        check("[]", &[]);
        check(r#"{"0": "caf\u00e9", "1": "\ud83d\ude97", "2": "a\/b"}"#, &["café", "🚗", "a/b"]);
        check(r#"['\x41\102\n', 'a\\b', '\'"', "\d"]"#, &["AB\n", "a\\b", "'\"", "\\d"]);
        check("{0: u'tr\u{fc}ck'}", &["trück"]);
    }

    #[test]
    fn errors_say_where() {
        for (text, at, what) in [
            ("", 0, "expected `{`"),
            ("person", 1, "expected `{`"),
            ("{0: 'a'", 7, "expected `,`"),
            ("{0: 'a' 1: 'b'}", 8, "expected `,`"),
            ("{0 'a'}", 3, "expected `:`"),
            ("{0: a}", 4, "quoted"),
            ("{0: 'a}", 7, "closing quote"),
            ("{0: 'a', 0: 'b'}", 9, "twice"),
            ("{0: 'a', 2: 'b'}", 16, "class 1 has no name"),
            ("{-1: 'a'}", 1, "class number"),
            ("{99999999999999999999: 'a'}", 1, "class number"),
            ("['a'] x", 6, "the end"),
            (r"['\x4']", 5, "hexadecimal"),
            (r"['\ud800']", 8, "surrogate"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.what.contains(what), "{text}: {error}");
            assert_eq!(error.at, at, "{text}: {error}");
        }
    }

    /// `repr` of Python's `str`.
    fn repr(s: &str) -> String {
        let quote = if s.contains('\'') && !s.contains('"') { '"' } else { '\'' };
        let mut out = String::from(quote);
        for c in s.chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                c if c == quote => out.extend(['\\', c]),
                c if (c as u32) < 0x20 || c as u32 == 0x7f => out.push_str(&format!("\\x{:02x}", c as u32)),
                c if c.is_alphanumeric() || c.is_ascii() => out.push(c),
                c if (c as u32) < 0x1_0000 => out.push_str(&format!("\\u{:04x}", c as u32)),
                c => out.push_str(&format!("\\U{:08x}", c as u32)),
            }
        }
        out.push(quote);
        out
    }

    proptest! {
        #[test]
        fn what_python_writes_comes_back(names in proptest::collection::vec(any::<String>(), 0..20), dict: bool) {
            let items: Vec<String> = names
                .iter()
                .enumerate()
                .map(|(n, name)| if dict { format!("{n}: {}", repr(name)) } else { repr(name) })
                .collect();
            let text = if dict { format!("{{{}}}", items.join(", ")) } else { format!("[{}]", items.join(", ")) };
            prop_assert_eq!(parse(&text).unwrap(), names);
        }

        #[test]
        fn what_json_writes_comes_back(names in proptest::collection::vec(any::<String>(), 0..20)) {
            prop_assert_eq!(&parse(&serde_json::to_string(&names).unwrap()).unwrap(), &names);
            let dict: BTreeMap<String, &String> = names.iter().enumerate().map(|(n, s)| (n.to_string(), s)).collect();
            prop_assert_eq!(&parse(&serde_json::to_string(&dict).unwrap()).unwrap(), &names);
        }

        #[test]
        fn any_text_is_an_answer_or_an_error(text in "[\\[{(]?[a0:,'\"\\\\ux\\])} ]{0,40}") {
            let _ = parse(&text);
        }
    }
}
