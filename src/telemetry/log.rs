//! The log: to standard error as text or JSON, or to the journal.

use std::io::IsTerminal as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::journal::{self, Journal};

/// Environment variable that overrides the level, for example `debug` or `ocelli::sink=trace,warn`.
pub const VARIABLE: &str = "OCELLI_LOG";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// Text; when standard error is the journal, entries with fields (`CAMERA=gate`), or lines with sd-daemon's `<N>`
    /// prefixes where the journal's socket cannot be reached.
    #[default]
    Auto,
    /// Text; coloured on a terminal.
    Text,
    /// One JSON object per line.
    Json,
}

impl std::str::FromStr for LogFormat {
    type Err = LogError;

    fn from_str(text: &str) -> Result<Self, LogError> {
        match text {
            "auto" => Ok(Self::Auto),
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            other => Err(LogError::Format(other.to_owned())),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("unknown log format `{0}`: one of auto, text, json")]
    Format(String),
    #[error("unknown log level `{level}`: {source}; try error, warn, info, debug or trace")]
    Level { level: String, source: tracing_subscriber::filter::ParseError },
    #[error("the log is set up already")]
    Twice,
}

/// Sets up the log of the process. `level` is a level for Ocelli's own lines (`info`) or a whole filter
/// (`ocelli::source=debug,warn`); `OCELLI_LOG` overrides it.
pub fn init(level: &str, format: LogFormat) -> Result<(), LogError> {
    let asked = std::env::var(VARIABLE).ok().filter(|value| !value.trim().is_empty());
    let filter = filter(asked.as_deref().unwrap_or(level))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let done = match format {
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(false).try_init(),
        LogFormat::Auto if stderr_is_journal() => match Journal::connect(Path::new(journal::SOCKET)) {
            Ok(journal) => {
                let filter = self::filter(asked.as_deref().unwrap_or(level))?;
                tracing_subscriber::registry().with(filter).with(journal).try_init().map_err(Into::into)
            }
            Err(_) => builder.event_format(Prefixed).try_init(),
        },
        LogFormat::Auto | LogFormat::Text => {
            builder.with_ansi(std::io::stderr().is_terminal()).with_target(false).try_init()
        }
    };
    done.map_err(|_| LogError::Twice)
}

fn filter(level: &str) -> Result<EnvFilter, LogError> {
    let level = level.trim();
    // A single level is for Ocelli; other crates log warnings only.
    let directives = match level.parse::<tracing::level_filters::LevelFilter>() {
        Ok(word) => format!("warn,ocelli={word}"),
        Err(_) => level.to_owned(),
    };
    EnvFilter::builder().parse(directives).map_err(|source| LogError::Level { level: level.to_owned(), source })
}

/// Compares standard error with device and inode in `JOURNAL_STREAM`: a child whose standard error was redirected inherits
/// the variable but not the socket.
fn stderr_is_journal() -> bool {
    let Some(stream) = std::env::var("JOURNAL_STREAM").ok() else { return false };
    let Ok(stderr) = std::fs::metadata("/dev/stderr") else { return false };
    is_stream(&stream, stderr.dev(), stderr.ino())
}

fn is_stream(stream: &str, device: u64, inode: u64) -> bool {
    let Some((dev, ino)) = stream.split_once(':') else { return false };
    dev.parse() == Ok(device) && ino.parse() == Ok(inode)
}

/// `<4>message key=value`: the journal takes the number as the priority and has its own clock.
struct Prefixed;

impl<S, N> FormatEvent<S, N> for Prefixed
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> std::fmt::Result {
        let prefix = journal::prefix(*event.metadata().level());
        let mut text = String::new();
        context.field_format().format_fields(Writer::new(&mut text), event)?;
        // In the journal each line is an entry of its own and needs a priority.
        for line in text.lines() {
            writeln!(writer, "{prefix}{line}")?;
        }
        if text.is_empty() { writer.write_char('\n') } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::{Arc, Mutex};

    use tracing::Level;

    use super::*;

    #[test]
    fn levels_and_formats_are_read_or_refused() {
        assert_eq!(filter("info").unwrap().to_string(), "ocelli=info,warn");
        assert_eq!(filter(" DEBUG ").unwrap().to_string(), "ocelli=debug,warn");
        assert!(filter("ocelli::sink=trace,error").unwrap().to_string().contains("ocelli::sink=trace"));
        assert!(filter("ocelli=loud").unwrap_err().to_string().contains("ocelli=loud"));
        assert_eq!("json".parse::<LogFormat>().unwrap(), LogFormat::Json);
        assert!("xml".parse::<LogFormat>().unwrap_err().to_string().contains("text, json"));
    }

    #[test]
    fn the_journal_is_known_by_device_and_inode() {
        assert!(is_stream("8:1234", 8, 1234));
        assert!(!is_stream("8:1234", 8, 1235) && !is_stream("9:1234", 8, 1234));
        assert!(!is_stream("", 0, 0) && !is_stream("8", 8, 0) && !is_stream("a:b", 0, 0));
    }

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn journal_lines_carry_their_priority() {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(Level::TRACE)
            .event_format(Prefixed)
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(camera = "gate", "lost\nand found");
            tracing::error!("gone");
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text, "<4>lost\n<4>and found camera=\"gate\"\n<3>gone\n");
    }
}
