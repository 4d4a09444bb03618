//! One running Ocelli per state folder.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Write as _};
use std::path::Path;

use super::AppError;

/// Name of the file whose lock is held.
const FILE: &str = "ocelli.lock";

/// Holds the lock of a state folder until it is dropped, or until the process ends, however it ends.
pub(super) struct StateLock {
    _file: File,
}

/// What came of locking a folder.
pub(super) enum Locked {
    /// It is ours.
    Held(StateLock),
    /// The folder cannot be written: why, for people. A box with a full or read-only disk shall still detect.
    Unwritable(String),
}

impl StateLock {
    /// Locks `folder`, which is made when it is absent.
    ///
    /// # Errors
    /// [`AppError::SecondInstance`].
    pub(super) fn acquire(folder: &Path) -> Result<Locked, AppError> {
        let opened = std::fs::create_dir_all(folder).and_then(|()| {
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(folder.join(FILE))
        });
        let mut file = match opened {
            Ok(file) => file,
            Err(error) => {
                return Ok(Locked::Unwritable(format!(
                    "the state folder {} cannot be used: {error}",
                    folder.display()
                )));
            }
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = (&file).take(32).read_to_string(&mut holder);
                let holder = match holder.trim() {
                    pid if !pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit()) => format!("process {pid}"),
                    _ => "of an unknown process".into(),
                };
                return Err(AppError::SecondInstance { folder: folder.to_owned(), holder });
            }
            Err(TryLockError::Error(error)) => {
                return Ok(Locked::Unwritable(format!(
                    "the state folder {} cannot be locked: {error}",
                    folder.display()
                )));
            }
        }
        // The number is for the message above only: a full disk is no reason to stop here.
        let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(Locked::Held(Self { _file: file }))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    #[test]
    fn the_second_one_is_told_who_is_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let first = StateLock::acquire(&state).unwrap();
        let Err(error) = StateLock::acquire(&state) else { panic!("two at once") };
        let text = error.to_string();
        assert!(text.contains(&format!("process {}", std::process::id())), "{text}");
        assert!(text.contains("state_dir") && text.contains(&*state.to_string_lossy()), "{text}");
        drop(first);
        assert!(matches!(StateLock::acquire(&state), Ok(Locked::Held(_))), "free again");
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_no_end() {
        // A file is in the way: also root cannot make a folder there.
        let file = tempfile::NamedTempFile::new().unwrap();
        let Ok(Locked::Unwritable(why)) = StateLock::acquire(&file.path().join("state")) else { panic!("it was made") };
        assert!(why.contains("cannot be used"), "{why}");
    }
}
