//! Trying a library in a child process. A truncated library kills the process that opens it (SIGBUS), a damaged one may
//! crash it later: so the first process that opens a library is one that may die.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::infer::runtime::child::{Answer, ChildError, ask};
use crate::infer::runtime::elf;
use crate::infer::runtime::library;
use crate::infer::runtime::needs;
use crate::infer::runtime::trial;
use crate::infer::runtime::verdicts::Verdicts;
use crate::infer::{InferError, OrtProvider};
use crate::types::BackendKind;

/// Longest time that a library may take to open and to run a tiny model.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Longest time that an execution provider may take: CUDA and TensorRT alone are gigabytes to open on a small box.
const PROVIDER_TIMEOUT: Duration = Duration::from_secs(60);

/// What the child prints: one line of JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeReport {
    /// The library's version, when it works.
    pub version: Option<String>,
    /// Why it does not work.
    pub error: Option<String>,
}

/// One execution provider of a library.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderReport {
    /// Which one.
    pub kind: BackendKind,
    /// Its own library beside the runtime's; `None` for the CPU, which is built in.
    pub library: Option<PathBuf>,
    /// True when that library is there.
    pub present: bool,
    /// Libraries that it needs and that the loader would not find.
    pub missing: Vec<String>,
    /// Why it does not run a tiny model here; `None`: it does.
    pub error: Option<String>,
}

/// Opens the library in *this* process and runs a tiny model with it, on `provider` if one is given: what the child
/// does. Never call this in a process that must live.
pub fn check_here(path: &Path, provider: Option<OrtProvider>) -> ProbeReport {
    let outcome = elf::check(path).and_then(|()| match provider {
        Some(provider) => trial::try_provider(path, provider),
        None => trial::try_library(path),
    });
    match outcome {
        Ok(version) => ProbeReport { version: Some(version), error: None },
        Err(error) => ProbeReport { version: None, error: Some(error) },
    }
}

/// Tries the library in a child process (`ocelli probe-runtime LIB`) and gives its version. A good verdict is kept for later
/// starts.
///
/// # Errors
/// [`InferError::Library`] with what happened, or [`InferError::Prober`] when no child could be started.
pub fn probe(path: &Path) -> Result<String, InferError> {
    Verdicts::usual().renew(path, None, || ask_library(path))
}

/// The same, but the verdict of an earlier start on the same file is enough.
pub(in crate::infer) fn probe_or_recall(path: &Path) -> Result<String, InferError> {
    Verdicts::usual().recall_or(path, None, || ask_library(path))
}

fn ask_library(path: &Path) -> Result<String, InferError> {
    // Reading the head of a file is harmless, and its verdict is clearer than the loader's.
    elf::check(path).map_err(|reason| unusable(path, reason))?;
    in_child(path, &["probe-runtime".as_ref(), path.as_os_str()], TIMEOUT, unusable)
}

fn unusable(path: &Path, reason: String) -> InferError {
    InferError::Library { runtime: library::NAME, path: path.to_owned(), reason, hint: library::hint() }
}

/// Has a child process open `path`, and gives the version that it says. `unusable` makes an error of what happened.
pub(in crate::infer) fn in_child(
    path: &Path,
    args: &[&OsStr],
    timeout: Duration,
    unusable: impl Fn(&Path, String) -> InferError,
) -> Result<String, InferError> {
    let unusable = |reason: String| unusable(path, reason);
    match ask(args, timeout) {
        Ok(answer) => judge(&answer).map_err(unusable),
        Err(ChildError::NotStarted(reason)) => Err(InferError::Prober { path: path.to_owned(), reason }),
        Err(error) => Err(unusable(format!("opening it {error}"))),
    }
}

/// Tries one execution provider of a library that works, in a child process of its own: registers it as the service
/// does, runs a tiny model, and looks who ran it. A good verdict is kept for later starts.
pub fn probe_provider(path: &Path, provider: OrtProvider) -> ProviderReport {
    let kind = provider.kind();
    let library = provider_library(path, provider);
    let present = library.as_ref().is_some_and(|library| library.is_file());
    let missing = library.as_ref().filter(|_| present).map(|library| needs::missing(library)).unwrap_or_default();
    let outcome = Verdicts::usual().renew(path, Some(kind), || ask_provider(path, kind));
    ProviderReport { kind, library, present, missing, error: outcome.err() }
}

/// Sees that opening a provider does not kill the process that does it: a child tries it, now or at an earlier start.
///
/// # Errors
/// [`InferError::Provider`]. That there is no such library is none: the runtime itself says so, and dies of nothing.
pub(in crate::infer) fn provider_works(path: &Path, provider: OrtProvider) -> Result<(), InferError> {
    let kind = provider.kind();
    let Some(library) = provider_library(path, provider).filter(|library| library.is_file()) else { return Ok(()) };
    let damaged = |reason| format!("{}: {reason}", library.display());
    let outcome = Verdicts::usual()
        .recall_or(path, Some(kind), || elf::check(&library).map_err(damaged).and_then(|()| ask_provider(path, kind)));
    outcome.map(|_| ()).map_err(|reason| InferError::Provider { backend: kind, reason })
}

/// The provider's own library, beside the runtime's.
fn provider_library(path: &Path, provider: OrtProvider) -> Option<PathBuf> {
    let real = || path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let name = || format!("libonnxruntime_providers_{}.so", provider.kind());
    (provider != OrtProvider::Cpu).then(|| real().with_file_name(name()))
}

fn ask_provider(path: &Path, kind: BackendKind) -> Result<String, String> {
    let word = kind.to_string();
    let args: [&OsStr; 4] = ["probe-runtime".as_ref(), "--provider".as_ref(), word.as_ref(), path.as_os_str()];
    match ask(&args, PROVIDER_TIMEOUT) {
        Ok(answer) => judge(&answer),
        Err(error) => Err(error.to_string()),
    }
}

/// Makes a verdict of how the child ended and what it said.
fn judge(answer: &Answer) -> Result<String, String> {
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
    #![allow(clippy::unwrap_used, clippy::panic)]
    use std::process::{Command, Stdio};

    use super::*;
    use crate::infer::runtime::child::wait;

    fn verdict(script: &str) -> Result<String, String> {
        let child =
            Command::new("sh").args(["-c", script]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        judge(&wait(child, Duration::from_secs(30)).unwrap())
    }

    #[test]
    fn a_report_is_found_behind_the_librarys_own_chatter() {
        let said = verdict(r#"echo hello; echo '{"version":"1.24.4","error":null}'"#);
        assert_eq!(said, Ok("1.24.4".into()));
    }

    #[test]
    fn an_error_report_wins_over_the_exit_code() {
        assert_eq!(verdict(r#"echo '{"version":null,"error":"too old"}'; exit 1"#), Err("too old".into()));
    }

    #[test]
    fn crashes_and_silence_are_told() {
        assert!(verdict("kill -BUS $$").unwrap_err().contains("SIGBUS"));
        assert!(verdict("kill -SEGV $$").unwrap_err().contains("SIGSEGV"));
        assert!(verdict("exit 3").unwrap_err().contains("no report"));
        // It printed its report and died while unloading: not a library to trust.
        assert!(verdict(r#"echo '{"version":"1.24.4","error":null}'; kill -SEGV $$"#).is_err());
        assert!(verdict(r#"echo '{"version":"1.24.4","error":null}'; exit 1"#).is_err());
    }
}
