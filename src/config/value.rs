//! One text of the file: what it must be, its typed value, or what to try instead.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::section::Kind;
use crate::types::{Size, Url};

/// What to try, if there is something to say beyond [`expected`].
pub(crate) type Hint = Option<String>;

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
    // The distance takes quadratic time, and no key is this long.
    (word.len() <= 64).then_some(())?;
    candidates
        .map(|candidate| (strsim::damerau_levenshtein(&word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.len().max(word.len()) / 3).clamp(1, 3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

pub(crate) fn did_you_mean(word: &str, words: &[&'static str]) -> Hint {
    nearest(word, words.iter().copied()).map(|near| format!("did you mean `{near}`?"))
}

/// A path, relative to the folder of the file that names it.
pub(crate) fn located(text: &str, base: &Path) -> PathBuf {
    if text == "-" { text.into() } else { base.join(text) }
}

/// What a value must be, for messages and the reference.
pub(crate) fn expected(kind: Kind) -> String {
    let listed = |words: &[String]| match words.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
        None => String::new(),
    };
    let quoted = |words: &[&str], end: &str| listed(&words.iter().map(|w| format!("`{w}{end}`")).collect::<Vec<_>>());
    let time = |milliseconds| humantime::format_duration(Duration::from_millis(milliseconds));
    match kind {
        Kind::Text | Kind::Secret => "a text".into(),
        Kind::Name => "a name of letters, digits, `_`, `-` and `.`".into(),
        Kind::Topic => "a topic without `+`, `#` and empty levels".into(),
        Kind::Url(schemes) => format!("a {} address", quoted(schemes, "://")),
        Kind::Path => "a path".into(),
        Kind::Sha256 => "64 hexadecimal digits".into(),
        Kind::Bool => "`true` or `false`".into(),
        Kind::Integer(min, max) if min == max => format!("`{min}`"),
        Kind::Integer(min, max) => format!("a whole number from {min} to {max}"),
        Kind::Number(min, max) => format!("a number from {min} to {max}"),
        Kind::Duration(min, max) => format!("a duration from {} to {}", time(min), time(max)),
        Kind::Word(words) => quoted(words, ""),
        Kind::Address => "an address with a port".into(),
        Kind::Size(min, max) => format!("a size from {min} to {max}, as `640` or `640x384`"),
        Kind::Texts => "a list of texts".into(),
        Kind::Section(section) | Kind::Optional(section) => format!("keys of `{}`", section.at),
        Kind::Named(_) => "name → text or keys".into(),
    }
}

pub(crate) fn text(text: &str, kind: Kind) -> Result<String, Hint> {
    let value = text.trim();
    match kind {
        Kind::Text | Kind::Path if value.is_empty() || text.chars().any(char::is_control) => {
            Err(Some("it may not be empty or hold control characters; to leave it out, remove the key".into()))
        }
        Kind::Text | Kind::Path | Kind::Secret => Ok(text.to_owned()),
        Kind::Name if is_name(value) => Ok(value.to_owned()),
        Kind::Topic if is_topic(value) => Ok(value.to_owned()),
        Kind::Url(_) => url(value, kind).map(|_| value.to_owned()),
        Kind::Sha256 if value.len() == 64 && value.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            Ok(value.to_ascii_lowercase())
        }
        _ => Err(None),
    }
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

pub(crate) fn boolean(text: &str) -> Result<bool, Hint> {
    match text.trim() {
        "true" | "True" | "TRUE" => Ok(true),
        "false" | "False" | "FALSE" => Ok(false),
        "yes" | "on" => Err(Some("write `true`".into())),
        "no" | "off" => Err(Some("write `false`".into())),
        other => Err(did_you_mean(other, &["true", "false"])),
    }
}

pub(crate) fn integer(text: &str, kind: Kind) -> Result<u64, Hint> {
    let Kind::Integer(min, max) = kind else { return Err(None) };
    text.trim().parse().ok().filter(|n| (min..=max).contains(n)).ok_or(None)
}

pub(crate) fn number(text: &str, kind: Kind) -> Result<f64, Hint> {
    let Kind::Number(min, max) = kind else { return Err(None) };
    text.trim().parse().ok().filter(|n| (min..=max).contains(n)).ok_or(None)
}

/// The one of `values` that stands at the place of `text` in `words`.
pub(crate) fn word<T: Copy>(text: &str, words: &[&'static str], values: &[T]) -> Result<T, Hint> {
    let text = text.trim();
    let found = words.iter().zip(values).find(|(word, _)| **word == text);
    found.map(|(_, value)| *value).ok_or_else(|| did_you_mean(text, words))
}

pub(crate) fn url(text: &str, kind: Kind) -> Result<Url, Hint> {
    let Kind::Url(schemes) = kind else { return Err(None) };
    let (text, first) = (text.trim(), schemes.first().unwrap_or(&"rtsp"));
    match Url::parse(text) {
        Ok(url) if schemes.contains(&url.scheme.as_str()) => Ok(url),
        _ if text.starts_with("file:") => Err(Some("for a video file use the key `file` and its path".into())),
        Ok(url) => {
            Err(did_you_mean(&url.scheme, schemes).or_else(|| Some(format!("for example `{first}://10.0.0.5`"))))
        }
        Err(_) if !text.contains("://") => Err(Some(format!("write the scheme too, for example `{first}://10.0.0.5`"))),
        Err(reason) => Err(Some(reason.to_owned())),
    }
}

pub(crate) fn duration(text: &str, kind: Kind) -> Result<Duration, Hint> {
    let Kind::Duration(min, max) = kind else { return Err(None) };
    let text = text.trim();
    let unit_missing = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') && !text.is_empty();
    let parsed = if text == "0" { Some(Duration::ZERO) } else { humantime::parse_duration(text).ok() };
    let range = Duration::from_millis(min)..=Duration::from_millis(max);
    match parsed {
        Some(duration) if range.contains(&duration) => Ok(duration),
        Some(_) => Err(None),
        None if unit_missing => Err(Some(format!("write the unit: `{text}s` or `{text}ms`"))),
        None => Err(Some("write a number with its unit: `500ms`, `5s`, `1m 30s`".into())),
    }
}

pub(crate) fn address(text: &str) -> Result<SocketAddr, Hint> {
    let text = text.trim();
    let resolved = match text.strip_prefix("localhost:") {
        Some(port) => port.parse().ok().map(|port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)),
        None => text.parse().ok(),
    };
    resolved.ok_or_else(|| {
        Some(match text.trim_start_matches(':').parse::<u16>() {
            Ok(port) => format!(
                "`127.0.0.1:{port}` for this machine only; for the network `0.0.0.0:{port}` with `anonymous: true`"
            ),
            Err(_) => "for example `127.0.0.1:8554`, or `[::1]:8554`; names are not looked up".into(),
        })
    })
}

pub(crate) fn size(text: &str, kind: Kind) -> Result<Size, Hint> {
    let Kind::Size(min, max) = kind else { return Err(None) };
    let side = |text: &str| text.trim().parse::<u32>().ok().filter(|side| (min..=max).contains(side));
    let size = match text.split_once(['x', 'X', '×']) {
        Some((w, h)) => side(w).zip(side(h)).map(|(w, h)| Size::new(w, h)),
        None => side(text).map(|side| Size::new(side, side)),
    };
    size.ok_or(None)
}
