//! Trying a library in a child process. A truncated library kills the process that opens it (SIGBUS), a damaged one may
//! crash it later: so the first process that opens a library is one that may die.

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{InferError, elf, library, ort};

/// Longest time that a library may take to open and to run a tiny model.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How often the child is asked whether it has ended.
const POLL: Duration = Duration::from_millis(5);
/// Longest answer that is read.
const ANSWER: u64 = 64 * 1024;

/// What the child prints: one line of JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeReport {
    /// The library's version, when it works.
    pub version: Option<String>,
    /// Why it does not work.
    pub error: Option<String>,
}

/// The program that was named by [`set_prober`].
static PROBER: OnceLock<PathBuf> = OnceLock::new();

/// Names the `ocelli` program that tries libraries, for programs other than `ocelli` that use this crate. The first call
/// counts.
pub fn set_prober(program: PathBuf) {
    let _ = PROBER.set(program);
}

/// Opens the library in *this* process and runs a tiny model with it: what the child does. Never call this in a process
/// that must live.
pub fn check_here(path: &Path) -> ProbeReport {
    let outcome = elf::check(path).and_then(|()| ort::try_library(path));
    match outcome {
        Ok(version) => ProbeReport { version: Some(version), error: None },
        Err(error) => ProbeReport { version: None, error: Some(error) },
    }
}

/// Tries the library in a child process (`ocelli probe-runtime LIB`) and gives its version.
///
/// The child is this very program, or the one named by [`set_prober`] or by the environment variable `OCELLI_EXE`.
///
/// # Errors
/// [`InferError::Library`] with what happened, or [`InferError::Prober`] when no child could be started.
pub fn probe(path: &Path) -> Result<String, InferError> {
    let unusable = |reason: String| InferError::Library { path: path.to_owned(), reason, hint: library::hint() };
    // Reading the head of a file is harmless, and its verdict is clearer than the loader's.
    elf::check(path).map_err(unusable)?;
    let no_child = |reason: String| InferError::Prober { path: path.to_owned(), reason };
    let prober = prober().map_err(no_child)?;
    let child = Command::new(&prober)
        .arg("probe-runtime")
        .arg(path)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| no_child(format!("cannot start {}: {error}", prober.display())))?;
    let (status, answer) = wait(child, TIMEOUT).map_err(unusable)?;
    judge(status, &answer).map_err(unusable)
}

/// The program that can be asked: only Ocelli itself knows the verb, and another program might do anything with it.
fn prober() -> Result<PathBuf, String> {
    if let Some(exe) = PROBER.get() {
        return Ok(exe.clone());
    }
    if let Some(exe) = std::env::var_os("OCELLI_EXE").filter(|p| !p.is_empty()) {
        return Ok(exe.into());
    }
    let exe = std::env::current_exe().map_err(|error| format!("this program's path is unknown ({error})"))?;
    let name = exe.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    match name.as_str() {
        "ocelli" => Ok(exe),
        // The file was replaced by an upgrade; the running program can still be started through /proc.
        "ocelli (deleted)" => Ok("/proc/self/exe".into()),
        _ => Err("this program is not ocelli; set OCELLI_EXE to the path of one".into()),
    }
}

/// Waits for the child's end, at most `timeout`, and reads what it printed.
fn wait(mut child: Child, timeout: Duration) -> Result<(ExitStatus, String), String> {
    let deadline = Instant::now() + timeout;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < deadline => std::thread::sleep(POLL),
            Ok(None) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("opening it did not end within {} s", timeout.as_secs_f32()));
            }
            Err(error) => return Err(format!("the process that opened it was lost ({error})")),
        }
    };
    let mut answer = String::new();
    if let Some(stdout) = child.stdout.take() {
        let _ = stdout.take(ANSWER).read_to_string(&mut answer);
    }
    Ok((status, answer))
}

/// Makes a verdict of how the child ended and what it said.
fn judge(status: ExitStatus, answer: &str) -> Result<String, String> {
    if let Some(signal) = status.signal() {
        return Err(format!("opening it crashed with {}: the file is truncated or damaged", signal_name(signal)));
    }
    // A library may print on its own when it is loaded: the report is the last line that is one.
    let report = answer.lines().rev().find_map(|line| serde_json::from_str::<ProbeReport>(line).ok());
    match report {
        Some(ProbeReport { error: Some(error), .. }) => Err(error),
        Some(ProbeReport { version: Some(version), .. }) if status.success() => Ok(version),
        _ => Err(format!("the process that opened it ended with {status} and gave no report")),
    }
}

fn signal_name(signal: i32) -> String {
    match signal {
        4 => "SIGILL".into(),
        6 => "SIGABRT".into(),
        7 => "SIGBUS".into(),
        8 => "SIGFPE".into(),
        9 => "SIGKILL".into(),
        11 => "SIGSEGV".into(),
        31 => "SIGSYS".into(),
        other => format!("signal {other}"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    fn shell(script: &str) -> Child {
        Command::new("sh").args(["-c", script]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
    }

    fn verdict(script: &str) -> Result<String, String> {
        wait(shell(script), Duration::from_secs(30)).and_then(|(status, answer)| judge(status, &answer))
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

    #[test]
    fn a_child_that_hangs_is_ended() {
        let child = shell("exec sleep 600");
        let id = child.id();
        assert!(wait(child, Duration::from_millis(50)).unwrap_err().contains("did not end"));
        assert!(!Path::new(&format!("/proc/{id}")).exists(), "the child was not reaped");
    }

    #[test]
    fn another_program_is_never_asked() {
        // This test binary is not ocelli, and it would answer `probe-runtime` by running tests.
        if std::env::var_os("OCELLI_EXE").is_none() {
            assert!(prober().unwrap_err().contains("OCELLI_EXE"));
        }
    }
}
