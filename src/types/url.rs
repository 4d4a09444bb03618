//! Addresses of cameras and brokers: taken apart for the program, and without their secrets for everybody who reads.

// `core::net` has addresses and no sockets: this room is pure.
use core::net::{IpAddr, Ipv6Addr};
use std::fmt::Write as _;

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// Shown in place of a secret.
pub const HIDDEN: &str = "***";

/// Parameters whose value is a secret, in a query (`?password=…`) or, with some cameras, in the path (`/user=…&pwd=…`).
const SECRET_PARAMETERS: [&str; 10] =
    ["password=", "passwd=", "pass=", "pwd=", "psw=", "token=", "secret=", "auth=", "key=", "passphrase="];

/// `scheme://[user[:password]@]host[:port][rest]`. No `Debug`: it would show the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Url {
    /// Lower case.
    pub scheme: String,
    /// Percent-decoded; `None` when empty.
    pub username: Option<String>,
    /// Percent-decoded; `None` when empty.
    pub password: Option<String>,
    /// As written, IPv6 without its brackets.
    pub host: String,
    pub port: Option<u16>,
    /// Path, query and fragment with their first character; may be empty.
    pub rest: String,
}

impl Url {
    /// Takes a URL apart. A password may hold `@`, `/`, `#`, `?` and spaces that are not percent-encoded, as long as what
    /// stands before them cannot be read as `host:port`.
    ///
    /// # Errors
    /// A sentence about the part that is wrong, without credentials.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let (scheme, rest) = text.split_once("://").ok_or("it has no `://`")?;
        if scheme.is_empty() || !scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte)) {
            return Err("the part before `://` is not a scheme");
        }
        let at = rest[..authority_end(rest)].rfind('@');
        let (userinfo, (host, port), rest) = split(rest, at).or_else(|reason| match rest.rfind('@') {
            last if last == at => Err(reason),
            last => split(rest, last),
        })?;
        if text.contains(char::is_control) || rest.contains(char::is_whitespace) {
            return Err("it has a space or a control character");
        }
        let (username, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
        let decode = |text| Some(percent_decode_str(text).decode_utf8_lossy().into_owned()).filter(|t| !t.is_empty());
        Ok(Self {
            scheme: scheme.to_ascii_lowercase(),
            username: decode(username),
            password: decode(password),
            host: host.to_owned(),
            port,
            rest: rest.to_owned(),
        })
    }

    /// The same URL without user and password.
    pub fn without_credentials(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let port = self.port.map(|port| format!(":{port}")).unwrap_or_default();
        format!("{}://{host}{port}{}", self.scheme, self.rest)
    }

    /// Does the host mean this machine?
    pub fn is_loopback(&self) -> bool {
        self.host.eq_ignore_ascii_case("localhost")
            || self.host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

type Parts<'a> = (&'a str, (&'a str, Option<u16>), &'a str);

/// User information, host and port, and the rest, where the user information ends at byte `at`.
fn split(text: &str, at: Option<usize>) -> Result<Parts<'_>, &'static str> {
    let (userinfo, text) = at.map_or(("", text), |at| (&text[..at], &text[at + 1..]));
    let (address, rest) = text.split_at(authority_end(text));
    Ok((userinfo, split_port(address)?, rest))
}

fn authority_end(text: &str) -> usize {
    text.find(['/', '?', '#']).unwrap_or(text.len())
}

fn split_port(address: &str) -> Result<(&str, Option<u16>), &'static str> {
    const PORT: &str = "the port is not a number from 1 to 65535";
    let (host, port) = match address.strip_prefix('[') {
        Some(inner) => {
            let (host, behind) = inner.split_once(']').ok_or("the `[` of the IPv6 address is not closed")?;
            host.parse::<Ipv6Addr>().map_err(|_| "the part in `[…]` is not an IPv6 address")?;
            match behind.strip_prefix(':') {
                None if !behind.is_empty() => return Err("something stands between `]` and the port"),
                port => (host, port),
            }
        }
        None => address.split_once(':').map_or((address, None), |(host, port)| (host, Some(port))),
    };
    if host.is_empty() {
        return Err("it has no host");
    }
    if host.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err("it has a space or a control character");
    }
    if !host.chars().all(|c| c.is_alphanumeric() || matches!(c, '-' | '.' | '_' | ':' | '%')) {
        return Err("the host has a character that no host name has");
    }
    let port = port.map(|port| port.parse::<u16>().ok().filter(|port| *port > 0).ok_or(PORT)).transpose()?;
    Ok((host, port))
}

/// `text` with the secrets of every URL in it hidden: `rtsp://admin:pw@10.0.0.5/1` becomes `rtsp://***@10.0.0.5/1`.
///
/// When in doubt it hides too much: whatever stands between `://` and the last `@` of a word counts as credentials,
/// because careless passwords hold `@`, `/` and `#`. A path that holds `@` is hidden too.
pub fn redact(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (head, tail) = rest.split_at(at + 3);
        out.push_str(head);
        let (url, next) = tail.split_at(url_end(tail));
        let shown = url.rfind('@').map_or(url.into(), |at| format!("{HIDDEN}{}", &url[at..]));
        redact_parameters(&shown, &mut out);
        rest = next;
    }
    out.push_str(rest);
    out
}

/// As [`redact`]; hides `secrets` too, as they are and percent-encoded.
pub fn redact_with(text: &str, secrets: &[String]) -> String {
    let mut text = text.to_owned();
    for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
        text = text.replace(secret, HIDDEN);
        text = text.replace(&utf8_percent_encode(secret, NON_ALPHANUMERIC).to_string(), HIDDEN);
        text = text.replace(&utf8_percent_encode(secret, UNRESERVED).to_string(), HIDDEN);
    }
    redact(&text)
}

const UNRESERVED: &percent_encoding::AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Where the URL ends that begins behind its `://`.
fn url_end(text: &str) -> usize {
    let ends = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '"' | '\'');
    let end = text.find(ends).unwrap_or(text.len());
    // A colon at the end is the sentence's: `mqtt://host:1883: refused`.
    let authority = text[..authority_end(&text[..end])].trim_end_matches(':');
    let port = authority.rsplit_once(':').map(|(_, port)| port);
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    if text[..end].contains('@') || text.starts_with('[') || port.is_none_or(is_port) {
        return end;
    }
    // `admin:my pass@host`: what stands before the space is no `host:port`, so an `@` further on belongs to the URL.
    let line = &text[..text.find('\n').unwrap_or(text.len())];
    let line = &line[..line.find("://").unwrap_or(line.len())];
    line.rfind('@').map_or(end, |at| text[at..].find(ends).map_or(text.len(), |end| at + end))
}

fn redact_parameters(url: &str, out: &mut String) {
    // ASCII lower case keeps byte positions.
    let lower = url.to_ascii_lowercase();
    let mut done = 0;
    let next = |done: usize| {
        let found = |name: &&str| lower[done..].find(name).map(|at| done + at + name.len());
        SECRET_PARAMETERS.iter().filter_map(found).min()
    };
    while let Some(value) = next(done) {
        let end = url[value..].find(['&', ';', '#']).map_or(url.len(), |at| value + at);
        let shown = if end > value { HIDDEN } else { "" };
        let _ = write!(out, "{}{shown}", &url[done..value]);
        done = end;
    }
    out.push_str(&url[done..]);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn parts_are_found() {
        let url = Url::parse("RTSP://admin:p%40s:s@w@10.0.0.5:8554/a?b#c").unwrap();
        assert_eq!((url.scheme.as_str(), url.host.as_str(), url.port), ("rtsp", "10.0.0.5", Some(8554)));
        assert_eq!((url.username.as_deref(), url.password.as_deref()), (Some("admin"), Some("p@s:s@w")));
        assert_eq!(url.without_credentials(), "rtsp://10.0.0.5:8554/a?b#c");
        let url = Url::parse("mqtts://u@[::1]:1").unwrap();
        assert_eq!((url.username.as_deref(), url.password.as_deref(), url.is_loopback()), (Some("u"), None, true));
        assert_eq!(url.without_credentials(), "mqtts://[::1]:1");
    }

    #[test]
    fn passwords_need_no_percent_encoding() {
        for (text, user, password, rest) in [
            ("rtsp://u:p/x@h", "u", "p/x", "rtsp://h"),
            ("rtsp://u:p#x@h:1/a", "u", "p#x", "rtsp://h:1/a"),
            ("rtsp://u:p?x@h/a", "u", "p?x", "rtsp://h/a"),
            ("rtsp://u:p x@h/a", "u", "p x", "rtsp://h/a"),
            ("rtsp://u:p@/x@h/a", "u", "p@/x", "rtsp://h/a"),
            ("rtsp://u:p%40s@s@h/x", "u", "p@s@s", "rtsp://h/x"),
            ("rtsp://u:%4@h", "u", "%4", "rtsp://h"),
            ("rtsp://u:p@h:1/a@b", "u", "p", "rtsp://h:1/a@b"),
        ] {
            let url = Url::parse(text).unwrap();
            assert_eq!((url.username.as_deref(), url.password.as_deref()), (Some(user), Some(password)), "{text}");
            assert_eq!(url.without_credentials(), rest);
        }
        let url = Url::parse("rtsp://h:1/a@b").unwrap();
        assert_eq!((url.username.as_deref(), url.host.as_str(), url.rest.as_str()), (None, "h", "/a@b"));
    }

    #[test]
    fn broken_urls_are_refused() {
        for text in [
            "",
            "host",
            "://h",
            "a b://h",
            "rtsp://",
            "rtsp://:1",
            "rtsp://h:0",
            "rtsp://h:x",
            "rtsp://h:65536",
            "rtsp://[::1",
            "rtsp://[x]",
            "rtsp://[::1]x",
            "rtsp://a b",
            "rtsp://h/a b",
            "rtsp://h/a\n",
            "rtsp://u:p\n@h/",
            "rtsp://h,",
        ] {
            assert!(Url::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn credentials_in_urls_are_hidden() {
        for (text, expected) in [
            ("rtsp://admin:pw@10.0.0.5/1", "rtsp://***@10.0.0.5/1"),
            ("cannot open rtsp://a:b@c:554/x?y=1: refused", "cannot open rtsp://***@c:554/x?y=1: refused"),
            ("\"mqtts://u:p@h\" and rtsp://q:r@s", "\"mqtts://***@h\" and rtsp://***@s"),
            ("open rtsp://u:bad@h/x and 'rtsp://v@i'", "open rtsp://***@h/x and 'rtsp://***@i'"),
            ("rtsp://admin:p@ss@host/", "rtsp://***@host/"),
            ("rtsp://admin:pa/ss@host/live", "rtsp://***@host/live"),
            ("rtsp://admin:1234/5@host/live", "rtsp://***@host/live"),
            ("rtsp://admin:a#b?c<d>@host/live", "rtsp://***@host/live"),
            ("rtsp://admin:p%40%2Fss@host", "rtsp://***@host"),
            ("rtsp://admin:my pass@host/live: refused", "rtsp://***@host/live: refused"),
            ("rtsp://admin:my \"pass@host", "rtsp://***@host"),
            ("rtsp://host:554/path@2x.jpg", "rtsp://***@2x.jpg"),
            ("rtsp://user@host", "rtsp://***@host"),
            ("rtsp://h/?user=admin&password=x1&ch=1", "rtsp://h/?user=admin&password=***&ch=1"),
            ("rtsp://h/?auth=YWRtaW4=&Key=k/1;psw=x y", "rtsp://h/?auth=***&Key=***;psw=*** y"),
            ("srt://h:9?passphrase=a&token=b", "srt://h:9?passphrase=***&token=***"),
            ("rtsp://h/PWD=x1", "rtsp://h/PWD=***"),
        ] {
            assert_eq!(redact(text), expected, "{text}");
        }
    }

    #[test]
    fn text_without_credentials_stays() {
        for text in [
            "",
            "://",
            "no url, a@b",
            "mail a@b, rtsp://h/x",
            "rtsp://h/x or mail a@b",
            "rtsp://[::1]:8554/gate",
            "rtsp://host/ä?password=",
            "mqtt://127.0.0.1:1883",
            "mqtt://127.0.0.1:1883: refused, ask a@b",
        ] {
            assert_eq!(redact(text), text);
        }
    }

    #[test]
    fn known_secrets_leave_any_text() {
        let secrets = ["top secret/1".to_owned(), String::new()];
        assert_eq!(redact_with("a top secret/1, top%20secret%2F1.", &secrets), "a ***, ***.");
        assert_eq!(redact_with("my-pass: my-pass rtsp://u@h", &["my-pass".into()]), "***: *** rtsp://***@h");
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_taken(text in "(rtsp|://|@|:|/|%|%4|\\[|\\]|password=|ä|[ -~]){0,20}") {
            redact(&text);
            if let Ok(url) = Url::parse(&text) {
                let again = Url::parse(&url.without_credentials());
                proptest::prop_assert!(again.is_ok_and(|again| again.host == url.host && again.username.is_none()));
            }
        }

        #[test]
        fn a_password_never_survives(
            prefix in "[ a-z:/]{0,8}",
            user in "[a-z]{1,8}",
            careless in "[!#-&(-~]{0,6}",
            suffix in "[^@]{0,12}",
        ) {
            let shown = redact(&format!("{prefix}rtsp://{user}:{careless}S3CRET{careless}@host/{suffix}"));
            proptest::prop_assert!(!shown.contains("S3CRET"), "{}", shown);
        }

        #[test]
        fn what_parses_is_hidden(user in "[a-z]{1,8}", password in "[!#-&(-~]{1,6}", host in "[a-z]{1,4}") {
            let text = format!("rtsp://{user}:{password}@{host}/live");
            if Url::parse(&text).is_ok_and(|url| url.username.is_some()) {
                proptest::prop_assert_eq!(redact(&text), format!("rtsp://***@{host}/live"));
            }
        }
    }
}
