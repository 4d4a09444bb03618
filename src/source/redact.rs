//! Keeps user names and passwords out of everything that people see.

/// What stands in place of a secret.
const MASK: &str = "***";

/// `url` without `user:password@`, and the two, percent-decoded, if they were there.
pub(super) fn split_credentials(url: &str) -> (String, Option<(String, String)>) {
    let Some((scheme, rest)) = url.split_once("://") else {
        return (url.to_owned(), None);
    };
    let authority = &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())];
    // The last `@`: a password written carelessly may hold one itself.
    let Some(at) = authority.rfind('@') else {
        return (url.to_owned(), None);
    };
    let (user, password) = authority[..at].split_once(':').unwrap_or((&authority[..at], ""));
    (format!("{scheme}://{}", &rest[at + 1..]), Some((percent_decoded(user), percent_decoded(password))))
}

/// `text` without the given secrets (as they are and percent-encoded) and without the user part of any URL.
pub(super) fn redacted(text: &str, secrets: &[String]) -> String {
    let mut text = text.to_owned();
    for secret in secrets.iter().filter(|s| !s.is_empty()) {
        text = text.replace(secret.as_str(), MASK);
        text = text.replace(&percent_encoded(secret), MASK);
    }
    let mut clean = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some(start) = rest.find("://") {
        let (before, after) = rest.split_at(start + 3);
        clean.push_str(before);
        let end = after.find(|c: char| c.is_whitespace() || matches!(c, '/' | '"' | '\'')).unwrap_or(after.len());
        rest = match after[..end].rfind('@') {
            Some(at) => {
                clean.push_str(MASK);
                &after[at..]
            }
            None => after,
        };
    }
    clean + rest
}

fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let hex = bytes.get(at + 1..at + 3).and_then(|h| std::str::from_utf8(h).ok());
        match hex.and_then(|h| u8::from_str_radix(h, 16).ok()) {
            Some(value) if *byte == b'%' => {
                out.push(value);
                at += 3;
            }
            _ => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn percent_encoded(text: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(b).to_string(),
            _ => format!("%{b:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_leave_the_url() {
        let split = |url| split_credentials(url);
        assert_eq!(split("rtsp://h/a"), ("rtsp://h/a".into(), None));
        assert_eq!(split("rtsp://u:p@h:1/a@b"), ("rtsp://h:1/a@b".into(), Some(("u".into(), "p".into()))));
        assert_eq!(split("rtsp://u@h"), ("rtsp://h".into(), Some(("u".into(), String::new()))));
        assert_eq!(split("rtsp://u:p%40s@s@h/x"), ("rtsp://h/x".into(), Some(("u".into(), "p@s@s".into()))));
        assert_eq!(split("no url"), ("no url".into(), None));
        assert_eq!(split("rtsp://u:%4@h").1, Some(("u".into(), "%4".into())));
    }

    #[test]
    fn secrets_leave_any_text() {
        let secrets = ["top secret".to_owned(), String::new()];
        assert_eq!(redacted("a top secret, top%20secret.", &secrets), "a ***, ***.");
        assert_eq!(redacted("open rtsp://u:bad@h/x and 'rtsp://v@i'", &[]), "open rtsp://***@h/x and 'rtsp://***@i'");
        assert_eq!(redacted("mail a@b, rtsp://h/x", &[]), "mail a@b, rtsp://h/x");
    }
}
