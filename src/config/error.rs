//! Problems with their place: `file:line:column`, the source line with a caret, and what to try.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use super::mask;
use crate::types::redact;

/// Problems printed at most; a file that is something else altogether would fill screens.
const SHOWN: usize = 50;

/// Characters of a source line that are shown; longer lines are cut around the caret.
const LINE_WIDTH: usize = 110;

/// Where settings were written: a file, a `--set` argument or an environment variable.
#[derive(PartialEq)]
pub(crate) struct Origin {
    /// Orders the origins: later ones win.
    pub(crate) index: usize,
    /// The path as given, `--set KEY` or the variable's name.
    pub(crate) label: String,
    /// The text that was parsed; holds secrets, so it is shown only through `mask`.
    pub(crate) text: String,
    /// Relative paths start here.
    pub(crate) base: PathBuf,
}

// The text may hold secrets, and `Debug` goes to logs and panics.
impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Origin").field("label", &self.label).finish_non_exhaustive()
    }
}

/// A place in an origin.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Pos {
    pub(crate) origin: Arc<Origin>,
    /// Counts from 1.
    pub(crate) line: usize,
    /// In characters, counts from 1.
    pub(crate) column: usize,
    /// Characters to underline, at least 1.
    pub(crate) width: usize,
}

impl fmt::Display for Pos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.origin.label, self.line, self.column)
    }
}

/// One thing that is wrong or doubtful in the configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Problem {
    pos: Option<Pos>,
    message: String,
    hint: Option<String>,
}

impl Problem {
    /// What failed and which one; without a place.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { pos: None, message: mask::printable(&redact(&message.into())), hint: None }
    }

    /// The same at a place.
    pub(crate) fn at(mut self, pos: &Pos) -> Self {
        self.pos = Some(pos.clone());
        self
    }

    /// What to try.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(mask::printable(&redact(&hint.into())));
        self
    }

    /// What failed and which one, in one line without place and hint, credentials hidden.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(pos) = &self.pos {
            write!(f, "{pos}: ")?;
        }
        f.write_str(&self.message)?;
        let mut margin = 4;
        if let Some(pos) = &self.pos
            && let Some((line, caret, width)) =
                mask::source_line(&pos.origin.text, pos.line, pos.column, pos.width, LINE_WIDTH)
        {
            let number = pos.line.to_string();
            margin = number.len().max(4);
            write!(f, "\n {number:>margin$} | {line}\n {:margin$} | {:caret$}{}", "", "", "^".repeat(width))?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n {:margin$} = {}", "", hint)?;
        }
        Ok(())
    }
}

/// Everything that is wrong with a configuration, all at once.
#[derive(Debug, PartialEq)]
pub struct ConfigErrors {
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
}

impl ConfigErrors {
    /// `problems` in the order of their places.
    pub(crate) fn new(mut problems: Vec<Problem>, warnings: Vec<Problem>) -> Self {
        problems.sort_by_key(|problem| problem.pos.as_ref().map(|pos| (pos.origin.index, pos.line, pos.column)));
        Self { problems, warnings }
    }

    /// The errors, at least one.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// What is doubtful besides.
    pub fn warnings(&self) -> &[Problem] {
        &self.warnings
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.problems.len() {
            1 => f.write_str("1 error in the configuration")?,
            count => write!(f, "{count} errors in the configuration")?,
        }
        for warning in self.warnings.iter().take(SHOWN) {
            write!(f, "\nwarning: {warning}")?;
        }
        for problem in self.problems.iter().take(SHOWN) {
            write!(f, "\n{problem}")?;
        }
        match self.problems.len().checked_sub(SHOWN) {
            Some(more) if more > 0 => write!(f, "\n… and {more} more"),
            _ => Ok(()),
        }
    }
}

impl std::error::Error for ConfigErrors {}
