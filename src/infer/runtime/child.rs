//! A child process of this very program that may crash or hang in the parent's stead.

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// How often the child is asked whether it has ended.
const POLL: Duration = Duration::from_millis(5);
/// Longest answer that is read; a pipe holds as much, so a child never waits for its reader.
const ANSWER: u64 = 64 * 1024;

/// The program that was named by [`set_prober`].
static PROBER: OnceLock<PathBuf> = OnceLock::new();

/// Why there is no answer of a child.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChildError {
    /// No child could be started.
    #[error("{0}")]
    NotStarted(String),
    /// It was killed, because it took too long.
    #[error("did not end within {} s", .0.as_secs_f32())]
    Hung(Duration),
    /// The system lost it.
    #[error("ended in a process that was lost ({0})")]
    Lost(String),
}

/// How a child ended, and what it printed.
#[derive(Debug)]
pub struct Answer {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output, 64 KiB at most.
    pub stdout: String,
}

impl Answer {
    /// `SIGSEGV` and the like, when a signal ended the child.
    pub fn crash(&self) -> Option<String> {
        self.status.signal().map(signal_name)
    }

    /// The last line that is JSON of this type: what the child loads may print on its own.
    pub fn report<T: serde::de::DeserializeOwned>(&self) -> Option<T> {
        self.stdout.lines().rev().find_map(|line| serde_json::from_str(line).ok())
    }
}

/// Names the `ocelli` program that tries things, for programs other than `ocelli` that use this crate. The first call
/// counts.
pub fn set_prober(program: PathBuf) {
    let _ = PROBER.set(program);
}

/// Runs `ocelli ARGS…`, waits at most `timeout`, and gives what it printed on standard output.
///
/// The child is this very program, or the one named by [`set_prober`] or by the environment variable `OCELLI_EXE`.
///
/// # Errors
/// [`ChildError`]; that the child crashed or failed is no error but an [`Answer`].
pub fn ask(args: &[&OsStr], timeout: Duration) -> Result<Answer, ChildError> {
    let program = prober().map_err(ChildError::NotStarted)?;
    let child = Command::new(&program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| ChildError::NotStarted(format!("cannot start {}: {error}", program.display())))?;
    wait(child, timeout)
}

/// The program that can be asked: only Ocelli itself knows the verbs, and another program might do anything with them.
pub(in crate::infer) fn prober() -> Result<PathBuf, String> {
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
pub(in crate::infer) fn wait(mut child: Child, timeout: Duration) -> Result<Answer, ChildError> {
    let deadline = Instant::now() + timeout;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < deadline => std::thread::sleep(POLL),
            Ok(None) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(ChildError::Hung(timeout));
            }
            Err(error) => return Err(ChildError::Lost(error.to_string())),
        }
    };
    let mut bytes = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        let _ = stdout.take(ANSWER).read_to_end(&mut bytes);
    }
    Ok(Answer { status, stdout: String::from_utf8_lossy(&bytes).into_owned() })
}

pub(in crate::infer) fn signal_name(signal: i32) -> String {
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
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::path::Path;

    #[test]
    fn a_child_that_hangs_is_ended() {
        let child = Command::new("sleep").arg("600").stdout(Stdio::piped()).spawn().unwrap();
        let id = child.id();
        assert!(wait(child, Duration::from_millis(50)).unwrap_err().to_string().contains("did not end"));
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
