//! A child process of this program for work that may crash or hang.

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use serde::de::DeserializeOwned;

/// How often the parent looks at the child.
const POLL: Duration = Duration::from_millis(5);
/// Bytes of a child's output that are kept, from its end.
const KEPT: usize = 64 * 1024;

/// How the names of children's folders for temporary files begin.
const TEMPORARY: &str = "ocelli-child-";

static PROBER: OnceLock<PathBuf> = OnceLock::new();

/// Why a child gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChildError {
    #[error("{0}")]
    NotStarted(String),
    /// The child was killed after this time.
    #[error("did not end within {} s", .0.as_secs_f32())]
    Hung(Duration),
    #[error("was cancelled")]
    Cancelled,
    /// Waiting for the child failed.
    #[error("ended in a process that was lost ({0})")]
    Lost(String),
}

/// How a child ended, and what it printed.
#[derive(Debug)]
pub struct Answer {
    pub status: ExitStatus,
    /// The end of its standard output, at least the last 64 KiB.
    pub stdout: Vec<u8>,
}

impl Answer {
    /// `SIGSEGV` and the like, when a signal ended the child.
    pub fn crash(&self) -> Option<String> {
        self.status.signal().map(signal_name)
    }

    pub fn report<T: DeserializeOwned>(&self) -> Option<T> {
        last_report(&self.stdout)
    }
}

/// The last line that is JSON of this type. A library that the child loads may print lines of its own.
pub(in crate::infer) fn last_report<T: DeserializeOwned>(output: &[u8]) -> Option<T> {
    output.rsplit(|byte| *byte == b'\n').find_map(|line| serde_json::from_slice(line).ok())
}

/// Names the `ocelli` program that runs as the child, for other programs that use this crate. The first call counts.
pub fn set_prober(program: PathBuf) {
    let _ = PROBER.set(program);
}

/// Runs `ocelli ARGS…`, waits at most `timeout`, and returns what it printed on standard output. The program is this one,
/// or the one named by [`set_prober`] or by the environment variable `OCELLI_EXE`. A child that crashed or failed is not an
/// error but an [`Answer`].
pub fn ask(args: &[&OsStr], timeout: Duration) -> Result<Answer, ChildError> {
    let (child, _temporary) = start(args, Stdio::null(), Stdio::null()).map_err(ChildError::NotStarted)?;
    wait(child, timeout, |_| true)
}

/// Starts the program as a child. Returns its folder for temporary files too: a child that crashes cannot remove what it
/// left there, so the parent does.
pub(in crate::infer) fn start(
    args: &[&OsStr],
    stdin: Stdio,
    stderr: Stdio,
) -> Result<(Child, Option<tempfile::TempDir>), String> {
    let program = prober()?;
    let mut command = Command::new(&program);
    let temporary = tempfile::Builder::new().prefix(TEMPORARY).tempdir().ok();
    if let Some(folder) = &temporary {
        command.env("TMPDIR", folder.path());
    }
    let child = command.args(args).stdin(stdin).stdout(Stdio::piped()).stderr(stderr).spawn();
    Ok((child.map_err(|error| format!("cannot start {}: {error}", program.display()))?, temporary))
}

/// Removes this child's folder for temporary files: for a child whose parent has ended and cannot do it.
pub fn remove_temporary_folder() {
    let folder = std::env::temp_dir();
    if folder.file_name().is_some_and(|name| name.to_string_lossy().starts_with(TEMPORARY)) {
        let _ = std::fs::remove_dir_all(folder);
    }
}

/// The program to run: only Ocelli itself knows the verbs, and another program might do anything with them.
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

/// Waits for the child's end, at most `timeout`, and reads what it prints meanwhile. `go_on` is called again and again
/// with the end of that output; when it returns false, the child is killed.
pub(in crate::infer) fn wait(
    mut child: Child,
    timeout: Duration,
    mut go_on: impl FnMut(&[u8]) -> bool,
) -> Result<Answer, ChildError> {
    let deadline = Instant::now() + timeout;
    let mut stdout = child.stdout.take();
    if let Some(stdout) = &stdout {
        // Reading must not wait: a process that the child started may keep the pipe open for ever.
        let set = fcntl_getfl(stdout).and_then(|flags| fcntl_setfl(stdout, flags | OFlags::NONBLOCK));
        set.map_err(|error| ChildError::Lost(error.to_string()))?;
    }
    let mut output = Vec::new();
    let status = loop {
        let ended = child.try_wait();
        drain(stdout.as_mut(), &mut output);
        let go_on = go_on(&output);
        let why = match ended {
            Ok(Some(status)) => break status,
            Err(error) => return Err(ChildError::Lost(error.to_string())),
            Ok(None) if !go_on => ChildError::Cancelled,
            Ok(None) if Instant::now() >= deadline => ChildError::Hung(timeout),
            Ok(None) => {
                std::thread::sleep(POLL);
                continue;
            }
        };
        let _ = child.kill();
        let _ = child.wait();
        return Err(why);
    };
    Ok(Answer { status, stdout: output })
}

/// Reads what is in the pipe now. The number of reads is bounded, so that a child that never stops writing is still timed.
fn drain(stdout: Option<&mut ChildStdout>, output: &mut Vec<u8>) {
    let Some(stdout) = stdout else { return };
    let mut part = [0; 16 * 1024];
    for _ in 0..16 {
        let Ok(count @ 1..) = stdout.read(&mut part) else { return };
        output.extend_from_slice(&part[..count]);
        if output.len() > 2 * KEPT {
            output.drain(..output.len() - KEPT);
        }
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
    #![allow(clippy::unwrap_used)]
    use std::path::Path;

    use super::*;

    #[test]
    fn a_child_that_hangs_is_ended() {
        let child = Command::new("sleep").arg("600").stdout(Stdio::piped()).spawn().unwrap();
        let id = child.id();
        assert!(wait(child, Duration::from_millis(50), |_| true).unwrap_err().to_string().contains("did not end"));
        assert!(!Path::new(&format!("/proc/{id}")).exists(), "the child was not reaped");
    }

    #[test]
    fn a_child_that_writes_more_than_a_pipe_holds_is_read_to_its_report() {
        let script = "head -c 300000 /dev/zero | tr '\\0' x; echo; echo '[1, 2]'";
        let child = Command::new("sh").args(["-c", script]).stdout(Stdio::piped()).spawn().unwrap();
        let answer = wait(child, Duration::from_secs(10), |_| true).unwrap();
        assert!(answer.status.success());
        assert_eq!(answer.report(), Some([1, 2]));
    }

    #[test]
    fn another_program_is_never_run() {
        // This test binary is not ocelli, and it would answer `probe-runtime` by running tests.
        if std::env::var_os("OCELLI_EXE").is_none() {
            assert!(prober().unwrap_err().contains("OCELLI_EXE"));
        }
    }
}
