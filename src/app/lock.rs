//! One running Ocelli per state folder.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Write as _};
use std::path::Path;

use super::error::AppError;

/// Name of the file whose lock is held.
const FILE: &str = "ocelli.lock";

pub(super) enum Locked {
    /// Locked until the file is closed, or until the process ends, however it ends.
    Held(File),
    /// The folder cannot be written, and why. Detection must go on with a full or read-only disk.
    Unwritable(String),
}

/// Locks `folder`, which is created if absent.
///
/// # Errors
/// [`AppError::SecondInstance`].
pub(super) fn lock(folder: &Path) -> Result<Locked, AppError> {
    let unwritable = |error: std::io::Error| {
        Ok(Locked::Unwritable(format!("the state folder {} cannot be used: {error}", folder.display())))
    };
    let opened = std::fs::create_dir_all(folder)
        .and_then(|()| OpenOptions::new().read(true).write(true).create(true).truncate(false).open(folder.join(FILE)));
    let mut file = match opened {
        Ok(file) => file,
        Err(error) => return unwritable(error),
    };
    match file.try_lock() {
        // The process id is only for the message below: a full disk is no reason to stop here.
        Ok(()) => _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())),
        Err(TryLockError::Error(error)) => return unwritable(error),
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            let _ = (&file).take(32).read_to_string(&mut text);
            let pid = text.trim().parse::<u32>();
            let holder = pid.map_or_else(|_| "of an unknown process".into(), |pid| format!("process {pid}"));
            return Err(AppError::SecondInstance { folder: folder.to_owned(), holder });
        }
    }
    Ok(Locked::Held(file))
}
#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    #[test]
    fn a_second_instance_learns_the_first_ones_process_id() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let first = lock(&state).unwrap();
        let Err(error) = lock(&state) else { panic!("two at once") };
        let text = error.to_string();
        assert!(text.contains(&format!("process {}", std::process::id())), "{text}");
        assert!(text.contains("state_dir") && text.contains(&*state.to_string_lossy()), "{text}");
        drop(first);
        assert!(matches!(lock(&state), Ok(Locked::Held(_))), "free again");
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_reported() {
        // A file is in the way: not even root can create a folder there.
        let file = tempfile::NamedTempFile::new().unwrap();
        let Ok(Locked::Unwritable(why)) = lock(&file.path().join("state")) else { panic!("it was made") };
        assert!(why.contains("cannot be used"), "{why}");
    }
}
