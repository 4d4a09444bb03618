//! What the user sees on the terminal.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write};

use anyhow::Context;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::infer::Engine;

/// Writes to standard output. A reader that closes its pipe early is no error; `print!` would panic.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome.context("cannot write to standard output"),
    }
}

/// A progress bar on a terminal, else a hidden one. `length` 0: unknown.
pub(super) fn progress(length: u64) -> ProgressBar {
    let visible = std::io::stderr().is_terminal() && length != 1;
    let target = if visible { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target((length > 0).then_some(length), target);
    let style =
        if length > 0 { "{bar:40} {pos}/{len} {per_sec} {eta} left" } else { "{spinner} {pos} frames {per_sec}" };
    match ProgressStyle::with_template(style) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// The model and the backend that runs it; one line, and one per better backend that does not run.
pub(super) fn describe(engine: &Engine) -> String {
    let (spec, info) = (engine.spec(), engine.info());
    let mut text = format!(
        "model {} ({} classes, {}), backend {} ({})\n",
        spec.id.name, spec.output.classes, spec.input.size, info.kind, info.version
    );
    for fallback in &info.fallbacks {
        // Writing into a String cannot fail.
        let _ = writeln!(text, "  not on the best backend: {fallback}");
    }
    text
}

pub(super) fn plural(count: usize, one: &str) -> String {
    format!("{count} {one}{}", if count == 1 { "" } else { "s" })
}

/// For JSON: an f32 with no more digits than it was given with.
pub(super) fn decimal(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}
