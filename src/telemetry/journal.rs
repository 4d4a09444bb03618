//! The journal's native protocol: one datagram per event, whose fields become fields of the entry, so that
//! `journalctl -u ocelli CAMERA=gate` works.

use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Where the journal listens.
pub(super) const SOCKET: &str = "/run/systemd/journal/socket";
/// Longest value: larger datagrams may not fit the socket's buffer.
const LONGEST: usize = 48 << 10;

/// The journal as a layer of the log.
pub(super) struct Journal {
    socket: UnixDatagram,
}

impl Journal {
    /// # Errors
    /// When nothing listens at `path`.
    pub(super) fn connect(path: &Path) -> std::io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(path)?;
        // A journal that hangs must not block the cameras.
        socket.set_nonblocking(true)?;
        Ok(Self { socket })
    }
}

impl<S: Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut entry = Entry::default();
        event.record(&mut entry);
        let metadata = event.metadata();
        let datagram = entry.datagram(*metadata.level(), metadata.target());
        if self.socket.send(&datagram).is_err() {
            // Standard error is read by the journal too.
            let _ = writeln!(std::io::stderr(), "{}{}", prefix(*metadata.level()), entry.text());
        }
    }
}

#[derive(Default)]
struct Entry {
    message: String,
    fields: Vec<(&'static str, String)>,
}

impl Visit for Entry {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.message.push_str(value),
            name => self.fields.push((name, value.to_owned())),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        match field.name() {
            // Writing to a String cannot fail.
            "message" => drop(write!(self.message, "{value:?}")),
            name => self.fields.push((name, format!("{value:?}"))),
        }
    }
}

impl Entry {
    /// The message, then `name=value` for each field, as in the text log.
    fn text(&self) -> String {
        let mut text = self.message.clone();
        for (name, value) in &self.fields {
            if !text.is_empty() {
                text.push(' ');
            }
            let _ = write!(text, "{name}={value}");
        }
        text
    }

    fn datagram(&self, level: Level, target: &str) -> Vec<u8> {
        let mut out = Vec::with_capacity(512);
        put(&mut out, "MESSAGE", &self.text());
        put(&mut out, "PRIORITY", &prefix(level)[1..2]);
        put(&mut out, "SYSLOG_IDENTIFIER", "ocelli");
        put(&mut out, "TARGET", target);
        for (name, value) in &self.fields {
            put(&mut out, &field_name(name), value);
        }
        out
    }
}

/// Upper case; the journal takes letters, digits and `_` only, no `_` in front, 64 bytes at most.
fn field_name(name: &str) -> String {
    let name = name.trim_start_matches('_').bytes().take(64);
    name.map(|byte| if byte.is_ascii_alphanumeric() { byte.to_ascii_uppercase() as char } else { '_' }).collect()
}

/// `NAME=value`, or with a length in front of the value when it has line breaks.
fn put(out: &mut Vec<u8>, name: &str, value: &str) {
    let value = &value.as_bytes()[..value.len().min(LONGEST)];
    out.extend_from_slice(name.as_bytes());
    if value.contains(&b'\n') {
        out.push(b'\n');
        out.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        out.push(b'=');
    }
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// The priority as sd-daemon(3) writes it in front of a line.
pub(super) const fn prefix(level: Level) -> &'static str {
    match level {
        Level::ERROR => "<3>",
        Level::WARN => "<4>",
        Level::INFO => "<6>",
        Level::DEBUG | Level::TRACE => "<7>",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tracing_subscriber::layer::SubscriberExt as _;

    #[test]
    fn each_field_of_an_event_is_a_field_of_the_entry() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let journal = UnixDatagram::bind(&path).unwrap();
        let subscriber = tracing_subscriber::registry().with(Journal::connect(&path).unwrap());
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(target: "ocelli::test", camera = "gate", fps = 12.5, "lost");
            tracing::error!(target: "ocelli::test", "two\nlines");
        });
        let mut buffer = [0; 4096];
        let mut next = || {
            let length = journal.recv(&mut buffer).unwrap();
            buffer[..length].to_vec()
        };
        assert_eq!(
            String::from_utf8(next()).unwrap(),
            "MESSAGE=lost camera=gate fps=12.5\nPRIORITY=4\nSYSLOG_IDENTIFIER=ocelli\nTARGET=ocelli::test\nCAMERA=gate\nFPS=12.5\n"
        );
        let second = next();
        assert!(second.starts_with(b"MESSAGE\n\x09\0\0\0\0\0\0\0two\nlines\nPRIORITY=3\n"), "{second:?}");
    }

    #[test]
    fn names_are_made_to_fit() {
        assert_eq!(field_name("latency_ms_p99"), "LATENCY_MS_P99");
        assert_eq!(field_name("__cursor.x"), "CURSOR_X");
    }
}
