//! Credentials never reach a log, a message or a page.

/// Query and path parameters whose value is a secret (`?password=…`, `/user=…&pwd=…` of some cameras).
const SECRET_PARAMETERS: [&str; 6] = ["password=", "passwd=", "pass=", "pwd=", "token=", "secret="];

/// Shown in place of a secret.
pub const HIDDEN: &str = "***";

/// `text` with the credentials of every URL in it hidden: `rtsp://admin:pw@10.0.0.5/1` becomes `rtsp://***@10.0.0.5/1`.
///
/// When in doubt it hides too much rather than too little: a password with an unescaped `/` is hidden as well.
pub fn redact(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (head, tail) = rest.split_at(at + 3);
        out.push_str(head);
        let end = tail
            .find(|c: char| c.is_whitespace() || c.is_control() || matches!(c, '"' | '\'' | '<' | '>' | '`'))
            .unwrap_or(tail.len());
        let (url, next) = tail.split_at(end);
        out.push_str(&redact_url(url));
        rest = next;
    }
    out.push_str(rest);
    out
}

/// One URL behind its `://`.
fn redact_url(url: &str) -> String {
    let authority_end = url.find(['/', '?', '#']).unwrap_or(url.len());
    let authority = &url[..authority_end];
    let userinfo_end = match authority.rfind('@') {
        Some(at) => Some(at),
        // `admin:pa/ss@host`: what stands before the slash is no `host:port`, so the `@` further on still belongs to us.
        None if looks_like_credentials(authority) => url.rfind('@'),
        None => None,
    };
    let shown = match (userinfo_end, url.find("://")) {
        (Some(at), _) => format!("{HIDDEN}{}", &url[at..]),
        (None, Some(nested)) => format!("{}{}", &url[..nested], redact(&url[nested..])),
        (None, None) => url.to_owned(),
    };
    redact_parameters(&shown)
}

/// `name:word` where `word` is no port number.
fn looks_like_credentials(authority: &str) -> bool {
    match authority.rsplit_once(':') {
        Some((name, port)) => {
            !name.starts_with('[') && (port.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit()))
        }
        None => false,
    }
}

fn redact_parameters(url: &str) -> String {
    // ASCII lower case keeps byte positions.
    let lower = url.to_ascii_lowercase();
    let mut out = String::with_capacity(url.len());
    let mut done = 0;
    while let Some((start, length)) = SECRET_PARAMETERS
        .iter()
        .filter_map(|name| lower[done..].find(name).map(|at| (done + at, name.len())))
        .min_by_key(|(at, _)| *at)
    {
        let value = start + length;
        let end = url[value..].find(['&', '/', '?', '#', ';']).map_or(url.len(), |at| value + at);
        out.push_str(&url[done..value]);
        if end > value {
            out.push_str(HIDDEN);
        }
        done = end;
    }
    out.push_str(&url[done..]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_in_urls_are_hidden() {
        for (text, expected) in [
            ("rtsp://admin:pw@10.0.0.5/1", "rtsp://***@10.0.0.5/1"),
            ("cannot open rtsp://a:b@c:554/x?y=1: refused", "cannot open rtsp://***@c:554/x?y=1: refused"),
            ("\"mqtts://u:p@h\" and rtsp://q:r@s", "\"mqtts://***@h\" and rtsp://***@s"),
            ("rtsp://admin:p@ss@host/", "rtsp://***@host/"),
            ("rtsp://admin:pa/ss@host/live", "rtsp://***@host/live"),
            ("rtsp://user@host", "rtsp://***@host"),
            ("rtsp://h/?user=admin&password=x1&ch=1", "rtsp://h/?user=admin&password=***&ch=1"),
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
            "rtsp://host:554/path@2x.jpg",
            "rtsp://[::1]:8554/gate",
            "rtsp://host/ä?password=",
            "mqtt://127.0.0.1:1883",
        ] {
            assert_eq!(redact(text), text);
        }
    }

    proptest::proptest! {
        #[test]
        fn a_password_never_survives(prefix in "[ a-z:/]{0,8}", user in "[a-z]{1,8}", suffix in "[^@]{0,12}") {
            let shown = redact(&format!("{prefix}rtsp://{user}:S3CRET@host/{suffix}"));
            proptest::prop_assert!(!shown.contains("S3CRET"), "{}", shown);
        }

        #[test]
        fn any_text_is_taken(text in "(://|@|:|/|password=|ä|[ -~]){0,20}") {
            redact(&text);
        }
    }
}
