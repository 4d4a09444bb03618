//! One scalar: from text to a typed value, or what it must be and what to try.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::keys::{Key, Kind, Section};
use crate::types::{Size, Url};

/// A typed value.
#[derive(Clone, PartialEq)]
pub(crate) enum Value {
    /// Text, names, paths, secrets, words, URLs.
    Text(String),
    Bool(bool),
    Integer(u64),
    Number(f64),
    Duration(Duration),
    Address(SocketAddr),
    Size(Size),
    Texts(Vec<String>),
}

/// The default of a key, from the table.
pub(crate) fn default(section: &'static Section, key: &str) -> Option<Value> {
    let key = section.key(key)?;
    scalar_value(key, key.default?).ok()
}

/// `^[a-z0-9][a-z0-9_-]{0,62}$`
pub(crate) fn is_camera_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    name.len() <= 63
        && name.bytes().next().is_some_and(allowed)
        && name.bytes().all(|byte| allowed(byte) || matches!(byte, b'_' | b'-'))
}

/// The candidate that `word` probably meant.
pub(crate) fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase().replace('-', "_");
    candidates
        .map(|candidate| (strsim::damerau_levenshtein(&word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.len().max(word.len()) / 3).clamp(1, 3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// What a value must be, for messages and the reference.
pub(crate) fn expected(kind: Kind) -> String {
    let seconds = |milliseconds: &u64| humantime::format_duration(Duration::from_millis(*milliseconds)).to_string();
    match kind {
        Kind::Text => "a text".into(),
        Kind::Name => "a name of letters, digits, `_`, `-` and `.`".into(),
        Kind::Topic => "a topic without `+`, `#` and empty levels".into(),
        Kind::Url(schemes) => {
            let schemes: Vec<String> = schemes.iter().map(|scheme| format!("`{scheme}://`")).collect();
            format!("a {} address", schemes.join(" or "))
        }
        Kind::Path => "a path".into(),
        Kind::Secret => "a text".into(),
        Kind::Sha256 => "64 hexadecimal digits".into(),
        Kind::Bool => "`true` or `false`".into(),
        Kind::Integer { min, max } if min == max => format!("`{min}`"),
        Kind::Integer { min, max } => format!("a whole number from {min} to {max}"),
        Kind::Number { min, max } => format!("a number from {min} to {max}"),
        Kind::Duration { min, max } => format!("a duration from {} to {}", seconds(&min), seconds(&max)),
        Kind::Word(words) => {
            let words: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
            match words.split_last() {
                Some((last, [])) => last.clone(),
                Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
                None => String::new(),
            }
        }
        Kind::Address => "an address with a port".into(),
        Kind::Size { min, max } => format!("a size from {min} to {max}, as `640` or `640x384`"),
        Kind::Texts => "a list of texts".into(),
        Kind::Section(section) => format!("the keys of `{}`", section.name),
        Kind::Named(section) => format!("names, each with the keys of `{}`", section.name),
    }
}

/// Reads one scalar. The error is what to try, if there is something to say beyond [`expected`].
pub(crate) fn scalar_value(key: &Key, text: &str) -> Result<Value, Option<String>> {
    let value = text.trim();
    match key.kind {
        Kind::Text | Kind::Path if value.is_empty() || text.chars().any(char::is_control) => {
            Err(Some("it may not be empty or hold control characters; to leave it out, remove the key".into()))
        }
        Kind::Text | Kind::Path | Kind::Secret => Ok(Value::Text(text.to_owned())),
        Kind::Name if is_name(value) => Ok(Value::Text(value.to_owned())),
        Kind::Topic if is_topic(value) => Ok(Value::Text(value.to_owned())),
        Kind::Sha256 if value.len() == 64 && value.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            Ok(Value::Text(value.to_ascii_lowercase()))
        }
        Kind::Name | Kind::Topic | Kind::Sha256 => Err(None),
        Kind::Url(schemes) => url(value, schemes).map(|()| Value::Text(value.to_owned())),
        Kind::Bool => match value {
            "true" | "True" | "TRUE" => Ok(Value::Bool(true)),
            "false" | "False" | "FALSE" => Ok(Value::Bool(false)),
            "yes" | "on" => Err(Some("write `true`".into())),
            "no" | "off" => Err(Some("write `false`".into())),
            other => Err(did_you_mean(other, &["true", "false"])),
        },
        Kind::Integer { min, max } => {
            value.parse().ok().filter(|n| (min..=max).contains(n)).map(Value::Integer).ok_or(None)
        }
        Kind::Number { min, max } => {
            value.parse().ok().filter(|n| (min..=max).contains(n)).map(Value::Number).ok_or(None)
        }
        Kind::Duration { min, max } => duration(value, min, max),
        Kind::Word(words) => match words.contains(&value) {
            true => Ok(Value::Text(value.to_owned())),
            false => Err(did_you_mean(value, words)),
        },
        Kind::Address => address(value),
        Kind::Size { min, max } => size(value, min, max),
        Kind::Texts | Kind::Section(_) | Kind::Named(_) => Err(None),
    }
}

fn did_you_mean(word: &str, words: &[&'static str]) -> Option<String> {
    nearest(word, words.iter().copied()).map(|near| format!("did you mean `{near}`?"))
}

fn is_name(text: &str) -> bool {
    text.len() <= 63
        && text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'))
}

fn is_topic(text: &str) -> bool {
    text.len() <= 200
        && !text.contains(['+', '#', '$'])
        && !text.chars().any(char::is_control)
        && text.split('/').all(|level| !level.trim().is_empty())
}

fn url(text: &str, schemes: &[&'static str]) -> Result<(), Option<String>> {
    let example = || format!("for example `{}://10.0.0.5`", schemes.first().unwrap_or(&"rtsp"));
    match Url::parse(text) {
        Ok(url) if schemes.contains(&url.scheme.as_str()) => Ok(()),
        _ if text.starts_with("file:") => Err(Some("for a video file use the key `file` and its path".into())),
        Ok(url) => Err(did_you_mean(&url.scheme, schemes).or_else(|| Some(example()))),
        Err(_) if !text.contains("://") => Err(Some(format!(
            "write the scheme too, for example `{}://{}`",
            schemes.first().unwrap_or(&"rtsp"),
            "10.0.0.5"
        ))),
        Err(reason) => Err(Some(reason.to_owned())),
    }
}

fn duration(text: &str, min: u64, max: u64) -> Result<Value, Option<String>> {
    let unit_missing = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') && !text.is_empty();
    let parsed = if text == "0" { Some(Duration::ZERO) } else { humantime::parse_duration(text).ok() };
    let range = Duration::from_millis(min)..=Duration::from_millis(max);
    match parsed {
        Some(duration) if range.contains(&duration) => Ok(Value::Duration(duration)),
        Some(_) => Err(None),
        None if unit_missing => Err(Some(format!("write the unit: `{text}s` or `{text}ms`"))),
        None => Err(Some("write a number with its unit: `500ms`, `5s`, `1m 30s`".into())),
    }
}

fn address(text: &str) -> Result<Value, Option<String>> {
    let resolved = match text.strip_prefix("localhost:") {
        Some(port) => port.parse().ok().map(|port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)),
        None => text.parse().ok(),
    };
    let port = text.trim_start_matches(':').parse::<u16>().ok();
    match (resolved, port) {
        (Some(address), _) => Ok(Value::Address(address)),
        (None, Some(port)) => {
            Err(Some(format!("`127.0.0.1:{port}` for this machine only, `0.0.0.0:{port}` for the network")))
        }
        (None, None) => Err(Some("for example `127.0.0.1:8554`, or `[::1]:8554`; names are not looked up".into())),
    }
}

fn size(text: &str, min: u32, max: u32) -> Result<Value, Option<String>> {
    let side = |text: &str| text.trim().parse::<u32>().ok().filter(|side| (min..=max).contains(side));
    let size = match text.split_once(['x', 'X', '×']) {
        Some((w, h)) => side(w).zip(side(h)).map(|(w, h)| Size::new(w, h)),
        None => side(text).map(|side| Size::new(side, side)),
    };
    size.map(Value::Size).ok_or(None)
}
