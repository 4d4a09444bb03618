//! The crash counter: how many starts in a row ended without an orderly end while a backend was being started, so that a
//! backend which crashes the process is not started for ever.
//!
//! It is kept in the state folder that the service manager provides (`STATE_DIRECTORY`), because only a program that is
//! restarted can crash in a loop. A start is counted before it begins and taken back when it ends in an orderly way: by an
//! error, by a stop request, or by service. The file is read before each change, so `ocelli models build` can reset the
//! counter under a running service.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::types::BackendKind;

/// Crashes in a row after which a backend is left out.
pub(super) const CRASHES: u32 = 2;
const FILE: &str = "engine-starts.json";

/// What has happened to the start of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    /// It begins: whatever kills the process from now on counts as a crash.
    Started(BackendKind),
    /// It has ended, and not by a crash.
    Orderly(BackendKind),
    /// The backend serves: earlier crashes do not count any more.
    Served(BackendKind),
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Record {
    /// Model, library and options: another identity starts at zero.
    identity: String,
    #[serde(default)]
    crashes: BTreeMap<String, u32>,
}

/// Without a folder it counts nothing.
#[derive(Debug, Default)]
pub(in crate::infer) struct CrashCounter {
    file: Option<PathBuf>,
    identity: String,
}

impl CrashCounter {
    pub(super) fn none() -> Self {
        Self::default()
    }

    pub(super) fn open(folder: &Path, identity: String) -> Self {
        Self { file: Some(folder.join(FILE)), identity }
    }

    /// Crashes of each backend.
    pub(super) fn counts(&mut self, kinds: &[BackendKind]) -> Vec<u32> {
        let record = self.attempt(|counter, file| counter.read(file)).unwrap_or_default();
        kinds.iter().map(|kind| record.crashes.get(&kind.to_string()).copied().unwrap_or_default()).collect()
    }

    pub(super) fn mark(&mut self, mark: Mark) {
        self.attempt(|counter, file| {
            let before = counter.read(file)?;
            let mut crashes = before.crashes.clone();
            match mark {
                Mark::Started(kind) => *crashes.entry(kind.to_string()).or_default() += 1,
                Mark::Orderly(kind) => {
                    crashes.entry(kind.to_string()).and_modify(|count| *count = count.saturating_sub(1));
                }
                Mark::Served(kind) => drop(crashes.remove(&kind.to_string())),
            }
            crashes.retain(|_, count| *count > 0);
            if crashes == before.crashes {
                return Ok(());
            }
            let record = Record { identity: counter.identity.clone(), crashes };
            let fresh = file.with_extension("new");
            std::fs::write(&fresh, serde_json::to_string(&record)?)?;
            std::fs::rename(&fresh, file)
        });
    }

    /// Sets the counter of the model with this SHA-256 to zero. Returns the backends that had crashes.
    ///
    /// # Errors
    /// Those of the file system. A damaged record is removed: it counts nothing.
    pub(in crate::infer) fn reset(folder: &Path, model: &str) -> std::io::Result<Vec<String>> {
        let file = folder.join(FILE);
        let record = match read(&file) {
            Err(error) if error.kind() == ErrorKind::InvalidData => {
                tracing::warn!("the crash counter is removed: {}: {error}", file.display());
                std::fs::remove_file(&file)?;
                None
            }
            record => record?.filter(|record| record.identity.starts_with(model) && !record.crashes.is_empty()),
        };
        let Some(record) = record else { return Ok(Vec::new()) };
        // Removed, not rewritten: the service might not be able to read a file of the user who calls this.
        std::fs::remove_file(&file)?;
        Ok(record.crashes.into_keys().collect())
    }

    /// The record of this identity; empty when there is none, or a damaged one.
    fn read(&self, file: &Path) -> std::io::Result<Record> {
        match read(file) {
            Err(error) if error.kind() == ErrorKind::InvalidData => {
                tracing::warn!("the crash counter starts at zero: {}: {error}", file.display());
                Ok(Record::default())
            }
            record => Ok(record?.filter(|record| record.identity == self.identity).unwrap_or_default()),
        }
    }

    fn attempt<T>(&mut self, run: impl FnOnce(&Self, &Path) -> std::io::Result<T>) -> Option<T> {
        let file = self.file.clone()?;
        run(self, &file)
            .inspect_err(|error| {
                tracing::warn!("crashes are not counted any more: {}: {error}", file.display());
                self.file = None;
            })
            .ok()
    }
}

/// `None`: there is no record.
///
/// # Errors
/// Those of the file system; `InvalidData`: the record is damaged.
fn read(file: &Path) -> std::io::Result<Option<Record>> {
    match std::fs::read_to_string(file) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        text => {
            serde_json::from_str(&text?).map(Some).map_err(|error| std::io::Error::new(ErrorKind::InvalidData, error))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use BackendKind::{Cpu, Cuda, Tract};

    fn open(folder: &Path) -> CrashCounter {
        CrashCounter::open(folder, "model".into())
    }

    fn crashes(folder: &Path) -> Vec<u32> {
        open(folder).counts(&[Cuda, Cpu, Tract])
    }

    #[test]
    fn a_start_without_an_orderly_end_is_a_crash_and_service_resets_the_counter() {
        let dir = tempfile::tempdir().unwrap();
        for count in 1..=3 {
            open(dir.path()).mark(Mark::Started(Cuda));
            assert_eq!(crashes(dir.path()), [count, 0, 0]);
        }
        open(dir.path()).mark(Mark::Started(Cpu));
        open(dir.path()).mark(Mark::Served(Cpu));
        assert_eq!(crashes(dir.path()), [3, 0, 0], "the GPU is no better because the CPU serves");
        open(dir.path()).mark(Mark::Started(Cuda));
        open(dir.path()).mark(Mark::Served(Cuda));
        assert_eq!(crashes(dir.path()), [0, 0, 0]);
    }

    #[test]
    fn an_orderly_end_is_not_a_crash_and_leaves_earlier_ones_counted() {
        let dir = tempfile::tempdir().unwrap();
        open(dir.path()).mark(Mark::Started(Cuda));
        for _ in 0..5 {
            let mut counter = open(dir.path());
            counter.mark(Mark::Started(Cuda));
            assert_eq!(crashes(dir.path()), [2, 0, 0]);
            counter.mark(Mark::Orderly(Cuda));
            counter.mark(Mark::Orderly(Cpu));
        }
        assert_eq!(crashes(dir.path()), [1, 0, 0]);
    }

    #[test]
    fn another_model_and_a_damaged_file_start_at_zero() {
        let dir = tempfile::tempdir().unwrap();
        open(dir.path()).mark(Mark::Started(Cuda));
        assert_eq!(CrashCounter::open(dir.path(), "another".into()).counts(&[Cuda]), [0]);
        std::fs::write(dir.path().join(FILE), "{\"identity\":").unwrap();
        assert_eq!(crashes(dir.path()), [0, 0, 0]);
        open(dir.path()).mark(Mark::Started(Cuda));
        assert_eq!(crashes(dir.path()), [1, 0, 0]);
        let earlier = r#"{"identity":"model","starting":null,"process":"","died":{"cuda":2},"served_since":null}"#;
        std::fs::write(dir.path().join(FILE), earlier).unwrap();
        assert_eq!(crashes(dir.path()), [0, 0, 0], "a record of an earlier version");
    }

    #[test]
    fn a_reset_holds_under_a_running_service() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(CrashCounter::reset(dir.path(), "model").unwrap(), Vec::<String>::new());
        let mut service = open(dir.path());
        for _ in 0..2 {
            service.mark(Mark::Started(Cuda));
        }
        assert!(CrashCounter::reset(dir.path(), "another").unwrap().is_empty(), "another model's crashes still count");
        assert_eq!(crashes(dir.path()), [2, 0, 0]);
        assert_eq!(CrashCounter::reset(dir.path(), "model").unwrap(), ["cuda"]);
        service.mark(Mark::Orderly(Cuda));
        service.mark(Mark::Started(Tract));
        service.mark(Mark::Served(Tract));
        assert_eq!(crashes(dir.path()), [0, 0, 0]);
        assert_eq!(CrashCounter::reset(dir.path(), "model").unwrap(), Vec::<String>::new());
    }

    #[test]
    fn a_record_that_cannot_be_read_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(FILE);
        std::fs::write(&file, "{\"identity\":").unwrap();
        assert_eq!(CrashCounter::reset(dir.path(), "model").unwrap(), Vec::<String>::new());
        assert!(!file.exists(), "it counts nothing");
        std::fs::create_dir(&file).unwrap();
        assert!(CrashCounter::reset(dir.path(), "model").is_err());
        std::fs::remove_dir(&file).unwrap();
        std::fs::write(&file, "").unwrap();
        assert!(CrashCounter::reset(&file, "model").is_err(), "no folder");
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_no_error() {
        let mut counter = open(Path::new("/proc/nowhere"));
        counter.mark(Mark::Started(Cuda));
        assert_eq!(counter.counts(&[Cuda]), [0]);
    }
}
