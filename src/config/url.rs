//! Just enough of URLs for cameras and brokers.

/// `scheme://[user[:password]@]host[:port][rest]`.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Url {
    /// Lower case.
    pub(crate) scheme: String,
    /// Percent-decoded.
    pub(crate) username: Option<String>,
    /// Percent-decoded.
    pub(crate) password: Option<String>,
    /// As written, IPv6 without its brackets.
    pub(crate) host: String,
    pub(crate) port: Option<u16>,
    /// Path, query and fragment with their first character; may be empty.
    pub(crate) rest: String,
}

impl Url {
    /// Takes a URL apart. The error is a sentence about the part that is wrong; it holds no credentials.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        let (scheme, rest) = text.split_once("://").ok_or("it has no `://`")?;
        if scheme.is_empty() || !scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte)) {
            return Err("the part before `://` is not a scheme");
        }
        if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err("it has a space or a control character");
        }
        let authority_end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, rest) = rest.split_at(authority_end);
        // A password may hold `@`: the last one separates.
        let (userinfo, address) = match authority.rsplit_once('@') {
            Some((userinfo, address)) => (Some(userinfo), address),
            None => (None, authority),
        };
        let (username, password) = match userinfo.map(|userinfo| userinfo.split_once(':').unwrap_or((userinfo, ""))) {
            Some((name, word)) => (decode(name), decode(word)),
            None => (None, None),
        };
        let (host, port) = split_port(address)?;
        Ok(Self {
            scheme: scheme.to_ascii_lowercase(),
            username,
            password,
            host: host.to_owned(),
            port,
            rest: rest.to_owned(),
        })
    }

    /// The same URL without user and password.
    pub(crate) fn without_credentials(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let port = self.port.map(|port| format!(":{port}")).unwrap_or_default();
        format!("{}://{host}{port}{}", self.scheme, self.rest)
    }

    /// Does the host mean this machine?
    pub(crate) fn is_loopback(&self) -> bool {
        self.host.eq_ignore_ascii_case("localhost")
            || self.host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

fn split_port(address: &str) -> Result<(&str, Option<u16>), &'static str> {
    const PORT: &str = "the port is not a number from 1 to 65535";
    let (host, port) = match address.strip_prefix('[') {
        Some(inner) => {
            let (host, behind) = inner.split_once(']').ok_or("the `[` of the IPv6 address is not closed")?;
            host.parse::<std::net::Ipv6Addr>().map_err(|_| "the part in `[…]` is not an IPv6 address")?;
            match behind.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None if behind.is_empty() => (host, None),
                None => return Err("something stands between `]` and the port"),
            }
        }
        None => match address.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (address, None),
        },
    };
    if host.is_empty() {
        return Err("it has no host");
    }
    if !host.chars().all(|c| c.is_alphanumeric() || matches!(c, '-' | '.' | '_' | ':' | '%')) {
        return Err("the host has a character that no host name has");
    }
    let port = match port {
        Some(port) => Some(port.parse::<u16>().ok().filter(|port| *port > 0).ok_or(PORT)?),
        None => None,
    };
    Ok((host, port))
}

/// Percent-decodes; what is no valid escape stays. `None` when empty.
fn decode(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escape = (bytes[at] == b'%')
            .then(|| text.get(at + 1..at + 3))
            .flatten()
            .filter(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match escape {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    (!out.is_empty()).then(|| String::from_utf8_lossy(&out).into_owned())
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
            "rtsp://h,",
        ] {
            assert!(Url::parse(text).is_err(), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_taken(text in "(rtsp|://|@|:|/|%|%4|\\[|\\]|ä|[ -~]){0,20}") {
            if let Ok(url) = Url::parse(&text) {
                let again = Url::parse(&url.without_credentials());
                proptest::prop_assert!(again.is_ok_and(|again| again.host == url.host && again.username.is_none()));
            }
        }
    }
}
