//! Opening a library in a child process first. A truncated library kills the process that opens it (SIGBUS), and a damaged
//! one may crash it later.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::infer::InferError;
use crate::infer::runtime::child::{Answer, ChildError, ask};
use crate::infer::runtime::library::{LibrarySource, Runtime};
use crate::infer::runtime::probe_cache::ProbeCache;

/// What the child prints: one line of JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeReport {
    /// The library's version, if it works.
    pub version: Option<String>,
    /// Why it does not work.
    pub error: Option<String>,
}

/// The libraries of a runtime, and the results of probing them.
#[derive(Debug, Clone)]
pub struct Survey {
    runtime: &'static Runtime,
    pub source: LibrarySource,
    /// Libraries in the order in which they were probed, with their version; nothing follows the first that works.
    pub tried: Vec<(PathBuf, Result<String, InferError>)>,
}

impl Survey {
    /// The library that works, and its version; else the error of the first one that was tried.
    pub fn outcome(&self) -> Result<(PathBuf, String), InferError> {
        if let Some((path, Ok(version))) = self.tried.last() {
            return Ok((path.clone(), version.clone()));
        }
        let first = self.tried.iter().find_map(|(_, outcome)| outcome.clone().err());
        Err(first.unwrap_or_else(|| self.runtime.none_found()))
    }
}

/// Probes the candidates in child processes up to the first that works, whatever earlier probes found.
pub fn survey(runtime: &'static Runtime, named: Option<&Path>) -> Survey {
    survey_with(runtime, named, false)
}

fn survey_with(runtime: &'static Runtime, named: Option<&Path>, reuse: bool) -> Survey {
    let (source, found) = runtime.candidates(named);
    let mut tried = Vec::new();
    for path in found {
        let outcome = probe_with(runtime, &path, reuse);
        let works = outcome.is_ok();
        tried.push((path, outcome));
        if works {
            break;
        }
    }
    Survey { runtime, source, tried }
}

/// The first candidate that a child process could open, now or at an earlier start, with its version. Logs the libraries
/// that do not work, unless one was named.
pub(in crate::infer) fn locate(
    runtime: &'static Runtime,
    named: Option<&Path>,
) -> Result<(PathBuf, String), InferError> {
    let survey = survey_with(runtime, named, true);
    if survey.source == LibrarySource::Usual {
        for error in survey.tried.iter().filter_map(|(_, outcome)| outcome.as_ref().err()) {
            tracing::warn!("{error}");
        }
    }
    survey.outcome()
}

/// Probes one library in a child process and returns its version. A good result is stored for later starts.
pub fn probe(runtime: &Runtime, path: &Path) -> Result<String, InferError> {
    probe_with(runtime, path, false)
}

fn probe_with(runtime: &Runtime, path: &Path, reuse: bool) -> Result<String, InferError> {
    ProbeCache::usual().version(
        runtime.name,
        || runtime.files(path),
        reuse,
        || {
            let unusable = |reason| runtime.unusable(path, reason);
            // Reading the headers is harmless, and the message is clearer than the loader's.
            runtime.check(path).map_err(unusable)?;
            in_child(path, runtime.probe_args, runtime.timeout, unusable)
        },
    )
}

/// Runs `ocelli probe-runtime ARGS… PATH` and returns the version that it reports. `failed` makes an error of a reason.
pub(in crate::infer) fn in_child(
    path: &Path,
    args: &[&str],
    timeout: Duration,
    failed: impl Fn(String) -> InferError,
) -> Result<String, InferError> {
    let mut all = vec![OsStr::new("probe-runtime")];
    all.extend(args.iter().map(OsStr::new));
    all.push(path.as_os_str());
    match ask(&all, timeout) {
        Ok(answer) => version(&answer).map_err(failed),
        Err(ChildError::NotStarted(reason)) => Err(InferError::Prober { path: path.to_owned(), reason }),
        Err(error) => Err(failed(format!("opening it {error}"))),
    }
}

/// The version in a child's report, or why it cannot be trusted.
fn version(answer: &Answer) -> Result<String, String> {
    if let Some(signal) = answer.crash() {
        return Err(format!("opening it crashed with {signal}: the file is truncated or damaged"));
    }
    match answer.report::<ProbeReport>() {
        Some(ProbeReport { error: Some(error), .. }) => Err(error),
        Some(ProbeReport { version: Some(version), .. }) if answer.status.success() => Ok(version),
        _ => Err(format!("the process that opened it ended with {} and gave no report", answer.status)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::process::{Command, Stdio};

    use super::*;
    use crate::infer::runtime::child::wait;

    fn reported(script: &str) -> Result<String, String> {
        let child =
            Command::new("sh").args(["-c", script]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        version(&wait(child, Duration::from_secs(30), |_| true).unwrap())
    }

    #[test]
    fn a_report_is_found_after_the_librarys_own_output() {
        let version = reported(r#"echo hello; echo '{"version":"1.24.4","error":null}'"#);
        assert_eq!(version, Ok("1.24.4".into()));
    }

    #[test]
    fn an_error_report_wins_over_the_exit_code() {
        assert_eq!(reported(r#"echo '{"version":null,"error":"too old"}'; exit 1"#), Err("too old".into()));
    }

    #[test]
    fn crashes_and_missing_reports_are_errors() {
        assert!(reported("kill -BUS $$").unwrap_err().contains("SIGBUS"));
        assert!(reported("kill -SEGV $$").unwrap_err().contains("SIGSEGV"));
        assert!(reported("exit 3").unwrap_err().contains("no report"));
        // It printed its report and crashed while unloading: not a library to trust.
        assert!(reported(r#"echo '{"version":"1.24.4","error":null}'; kill -SEGV $$"#).is_err());
        assert!(reported(r#"echo '{"version":"1.24.4","error":null}'; exit 1"#).is_err());
    }
}
