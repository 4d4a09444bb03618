//! The report as text.

use super::{Report, Section, Status};

/// Columns before the text, besides the name: two spaces, the sign, a space; two spaces after the name.
const MARGIN: usize = 6;
/// Least width.
const NARROW: usize = 40;

/// Lays the report out in lines of `width` characters at most; `colour`: with ANSI colours.
pub fn render(report: &Report, width: usize, colour: bool) -> String {
    let column = report.checks.iter().map(|check| check.name.chars().count()).max().unwrap_or(0);
    let indent = column + MARGIN;
    let room = width.max(NARROW).max(indent + NARROW / 2) - indent;
    let paint = |code: &str, text: &str| if colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() };
    let mut text = String::new();
    let mut section: Option<Section> = None;
    for check in &report.checks {
        if section != Some(check.section) {
            let gap = if section.is_some() { "\n" } else { "" };
            text += &format!("{gap}{}\n", paint("1", check.section.title()));
            section = Some(check.section);
        }
        let (sign, code) = look(check.status);
        let mut lines = wrapped(&check.detail, room).into_iter();
        let first = lines.next().unwrap_or_default();
        let padding = " ".repeat(column - check.name.chars().count());
        let quiet = |line: &str| if check.status == Status::Skipped { paint("2", line) } else { line.to_owned() };
        text += &format!("  {} {}{padding}  {}\n", paint(code, sign), quiet(&check.name), quiet(&first));
        for line in lines {
            text += &format!("{}{}\n", " ".repeat(indent), quiet(&line));
        }
        for (number, line) in check.fix.iter().flat_map(|fix| wrapped(fix, room - 2)).enumerate() {
            let arrow = if number == 0 { "→ " } else { "  " };
            text += &format!("{}{}\n", " ".repeat(indent), paint("36", &format!("{arrow}{line}")));
        }
    }
    text + &format!("\n{}\n", summary(report, &paint))
}

fn look(status: Status) -> (&'static str, &'static str) {
    match status {
        Status::Ok => ("✓", "32"),
        Status::Warning => ("⚠", "33"),
        Status::Failed => ("✗", "31"),
        Status::Skipped => ("–", "2"),
    }
}

fn summary(report: &Report, paint: &dyn Fn(&str, &str) -> String) -> String {
    let counts = &report.counts;
    let plural = |count: usize, one: &str| format!("{count} {one}{}", if count == 1 { "" } else { "s" });
    let fine = format!("{} fine", counts.ok);
    let mut parts = Vec::new();
    if counts.failed > 0 {
        parts.push(paint("1;31", &plural(counts.failed, "problem")));
    }
    if counts.warning > 0 {
        parts.push(paint("33", &plural(counts.warning, "warning")));
    }
    parts.push(paint("32", &fine));
    parts.join(", ")
}

/// Breaks at spaces; a word that is too long gets a line of its own. Lines of the text itself stay lines.
fn wrapped(text: &str, room: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for paragraph in text.lines().filter(|line| !line.trim().is_empty()) {
        let mut line = String::new();
        for word in paragraph.split_whitespace() {
            if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > room {
                lines.push(std::mem::take(&mut line));
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.extend(word.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }));
        }
        lines.push(line);
    }
    lines
}
