//! What earlier starts of the program came to, so that a backend which kills the process is not tried for ever.
//!
//! The record stands in the state folder that the service manager gives (`STATE_DIRECTORY`): only where something
//! restarts the program can it die in a loop.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::types::BackendKind;

/// Deaths on a rung that are enough to leave it out.
const ENOUGH: u32 = 2;
/// Service without a death after which everything is forgotten.
const FORGIVEN: Duration = Duration::from_secs(24 * 3600);
/// Largest file that is read.
const LARGEST: u64 = 64 * 1024;
const FILE: &str = "engine-starts.json";

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    /// What the record is about: model, library, asked backend. Another identity starts a new record.
    identity: String,
    /// The rung that is being started and has not served yet.
    starting: Option<BackendKind>,
    /// The process that is starting it.
    process: String,
    /// Starts in a row that died on a rung before it served.
    died: BTreeMap<String, u32>,
    /// When a rung below a deadly one began to serve, seconds since 1970.
    served_since: Option<u64>,
}

impl Record {
    /// A start begins: what the one before left behind is judged.
    fn judge(&mut self, now: u64, process: &str) {
        // A reload starts a further engine in the same process, which is alive.
        let died = self.process != process;
        if let Some(kind) = self.starting.take().filter(|_| died) {
            *self.died.entry(kind.to_string()).or_default() += 1;
            self.served_since = None;
        }
        let quiet = self.served_since.is_some_and(|since| now.saturating_sub(since) >= FORGIVEN.as_secs());
        if quiet {
            self.died.clear();
            self.served_since = None;
        }
    }

    /// The first rung that did not kill the last starts; the last one when all did.
    fn first(&self, kinds: &[BackendKind]) -> usize {
        let deadly = |kind: &BackendKind| self.died.get(&kind.to_string()).is_some_and(|died| *died >= ENOUGH);
        kinds.iter().position(|kind| !deadly(kind)).unwrap_or(kinds.len().saturating_sub(1))
    }

    fn served(&mut self, kind: BackendKind, now: u64) {
        self.starting = None;
        self.died.remove(&kind.to_string());
        if self.died.is_empty() {
            self.served_since = None;
        } else {
            self.served_since.get_or_insert(now);
        }
    }
}

/// The record on disk. Without a folder it forgets everything.
#[derive(Debug, Default)]
pub(in crate::infer) struct Starts {
    file: Option<PathBuf>,
    record: Record,
}

/// This process, told from all others on this machine before and after it.
fn this_process() -> String {
    process(std::process::id())
}

fn process(id: u32) -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    // The time of its start is the 22nd field; the second one is a name that may hold spaces.
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    let started = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(19)).unwrap_or_default();
    format!("{} {id} {started}", boot.trim())
}

/// Whether the process of a record goes on.
fn lives(recorded: &str) -> bool {
    let id = recorded.split(' ').nth(1).and_then(|id| id.parse().ok());
    id.is_some_and(|id| process(id) == recorded) && !recorded.ends_with(' ')
}

impl Starts {
    /// No record is kept.
    pub(in crate::infer) fn none() -> Self {
        Self::default()
    }

    /// The record in `folder` about what `identity` describes, with the verdict on the start before this one.
    pub(in crate::infer) fn open(folder: &Path, identity: String) -> Self {
        Self::open_as(folder, identity, &this_process())
    }

    pub(in crate::infer) fn open_as(folder: &Path, identity: String, process: &str) -> Self {
        let file = folder.join(FILE);
        let before = read(&file).unwrap_or_else(|error| {
            tracing::warn!("how earlier starts ended is not known: {}: {error}", file.display());
            None
        });
        let mut record = before.filter(|record| record.identity == identity).unwrap_or_default();
        record.identity = identity;
        record.judge(now(), process);
        process.clone_into(&mut record.process);
        let mut starts = Self { file: Some(file), record };
        starts.write(Self::store);
        starts
    }

    /// Somebody has mended something: deaths of the model with this SHA-256 do not count any more. Gives the rungs that
    /// would have been left out or were counted. A service that runs forgets them with its next word; what it is starting is
    /// no death.
    ///
    /// # Errors
    /// Those of the file system. A damaged record is removed: it counts nothing.
    pub(in crate::infer) fn forget(folder: &Path, model: &str) -> std::io::Result<Vec<String>> {
        let file = folder.join(FILE);
        let record = match read(&file) {
            Err(error) if error.kind() == ErrorKind::InvalidData => {
                tracing::warn!("the record of starts is removed: {}: {error}", file.display());
                std::fs::remove_file(&file)?;
                None
            }
            record => record?,
        };
        let Some(mut record) = record.filter(|record| record.identity.starts_with(model)) else {
            return Ok(Vec::new());
        };
        if !lives(&record.process) {
            record.judge(now(), "");
        }
        if !record.died.is_empty() {
            // Removed, not written anew: a file of whoever calls this might be one that the service cannot read.
            std::fs::remove_file(&file)?;
        }
        Ok(record.died.into_keys().collect())
    }

    /// The rung to begin with.
    pub(in crate::infer) fn first(&self, kinds: &[BackendKind]) -> usize {
        self.record.first(kinds)
    }

    /// `kind` is about to be loaded; whatever kills the process from now on is its doing.
    pub(in crate::infer) fn starting(&mut self, kind: BackendKind) {
        self.record.starting = Some(kind);
        self.save();
    }

    /// `kind` could not be loaded, but nobody died of it.
    pub(in crate::infer) fn failed(&mut self, kind: BackendKind) {
        if self.record.starting == Some(kind) {
            self.record.starting = None;
            self.save();
        }
    }

    /// `kind` serves.
    pub(in crate::infer) fn served(&mut self, kind: BackendKind) {
        self.record.served(kind, now());
        self.save();
    }

    /// The program ends as it should.
    pub(in crate::infer) fn stopped(&mut self) {
        if self.record.starting.take().is_some() {
            self.save();
        }
    }

    /// What has been taken back meanwhile is not written again.
    fn save(&mut self) {
        self.write(|starts, file| {
            starts.take_back(file)?;
            starts.store(file)
        });
    }

    fn write(&mut self, write: impl FnOnce(&mut Self, &Path) -> std::io::Result<()>) {
        let Some(file) = self.file.clone() else { return };
        if let Err(error) = write(self, &file) {
            tracing::warn!("starts are not recorded any more: {}: {error}", file.display());
            self.file = None;
        }
    }

    /// Deaths that are not in the file any more, because of [`Self::forget`], do not count here either.
    fn take_back(&mut self, file: &Path) -> std::io::Result<()> {
        let there = match read(file) {
            // Nobody has taken anything back: it is written anew.
            Err(error) if error.kind() == ErrorKind::InvalidData => return Ok(()),
            there => there?,
        };
        let counted = match there {
            None => BTreeMap::new(),
            Some(there) if there.identity == self.record.identity => there.died,
            // Of another model, after a reload.
            Some(_) => return Ok(()),
        };
        self.record.died.retain(|kind, _| counted.contains_key(kind));
        if self.record.died.is_empty() {
            self.record.served_since = None;
        }
        Ok(())
    }

    fn store(&mut self, file: &Path) -> std::io::Result<()> {
        let text = serde_json::to_string(&self.record).map_err(std::io::Error::other)?;
        let fresh = file.with_extension("new");
        std::fs::write(&fresh, text)?;
        std::fs::rename(&fresh, file)
    }
}

/// `None`: there is no record.
///
/// # Errors
/// Those of the file system; `InvalidData`: it is damaged.
fn read(file: &Path) -> std::io::Result<Option<Record>> {
    let damaged = |why: String| std::io::Error::new(ErrorKind::InvalidData, why);
    let meta = match std::fs::metadata(file) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        meta => meta?,
    };
    if !meta.is_file() || meta.len() > LARGEST {
        return Err(damaged(format!("it is no record of starts, which is a file of at most {LARGEST} bytes")));
    }
    match std::fs::read_to_string(file) {
        // Taken back between the two.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        text => serde_json::from_str(&text?).map(Some).map_err(|error| damaged(format!("it is damaged ({error})"))),
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use BackendKind::{Cpu, Cuda, Tract};

    const LADDER: [BackendKind; 3] = [Cuda, Cpu, Tract];

    /// A start in a process of its own.
    fn start(folder: &Path) -> Starts {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        Starts::open_as(folder, "model".into(), &NEXT.fetch_add(1, Ordering::Relaxed).to_string())
    }

    #[test]
    fn a_further_start_in_the_same_process_is_no_death() {
        let dir = tempfile::tempdir().unwrap();
        for _ in 0..5 {
            let mut starts = Starts::open(dir.path(), "model".into());
            assert_eq!(starts.first(&LADDER), 0);
            starts.starting(Cuda);
        }
        assert!(this_process().ends_with(|c: char| c.is_ascii_digit()), "{}", this_process());
    }

    #[test]
    fn two_deaths_on_a_rung_leave_it_out_and_service_brings_it_back() {
        let dir = tempfile::tempdir().unwrap();
        for died in 0..2 {
            let mut starts = start(dir.path());
            assert_eq!(starts.first(&LADDER), 0, "after {died} deaths");
            starts.starting(Cuda);
        }
        let mut starts = start(dir.path());
        assert_eq!(starts.first(&LADDER), 1);
        starts.starting(Cpu);
        starts.served(Cpu);
        assert_eq!(start(dir.path()).first(&LADDER), 1, "the GPU is no better for the CPU's service");
        let mut starts = start(dir.path());
        starts.starting(Cuda);
        starts.served(Cuda);
        assert_eq!(start(dir.path()).first(&LADDER), 0);
    }

    #[test]
    fn a_clean_end_and_an_error_are_no_deaths() {
        let dir = tempfile::tempdir().unwrap();
        for _ in 0..5 {
            let mut starts = start(dir.path());
            starts.starting(Cuda);
            starts.failed(Cuda);
            starts.starting(Cpu);
            starts.stopped();
        }
        assert_eq!(start(dir.path()).first(&LADDER), 0);
    }

    #[test]
    fn another_model_and_a_damaged_file_start_anew() {
        let dir = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            start(dir.path()).starting(Cuda);
        }
        assert_eq!(Starts::open(dir.path(), "another".into()).first(&LADDER), 0);
        for _ in 0..2 {
            start(dir.path()).starting(Cuda);
        }
        assert_eq!(start(dir.path()).first(&LADDER), 1);
        std::fs::write(dir.path().join("engine-starts.json"), "{\"identity\":").unwrap();
        assert_eq!(start(dir.path()).first(&LADDER), 0);
    }

    #[test]
    fn what_was_mended_is_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Starts::forget(dir.path(), "model").unwrap(), Vec::<String>::new());
        for _ in 0..2 {
            start(dir.path()).starting(Cuda);
        }
        assert_eq!(start(dir.path()).first(&LADDER), 1);
        assert!(Starts::forget(dir.path(), "another").unwrap().is_empty(), "another model's deaths still count");
        assert_eq!(start(dir.path()).first(&LADDER), 1);
        assert_eq!(Starts::forget(dir.path(), "model").unwrap(), ["cuda"]);
        assert_eq!(start(dir.path()).first(&LADDER), 0);
    }

    #[test]
    fn a_service_that_runs_does_not_bring_back_what_was_mended() {
        let dir = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            start(dir.path()).starting(Cuda);
        }
        let mut service = start(dir.path());
        service.starting(Cpu);
        service.served(Cpu);
        assert_eq!(Starts::forget(dir.path(), "model").unwrap(), ["cuda"]);
        service.starting(Tract);
        service.failed(Tract);
        service.served(Cpu);
        assert_eq!(Starts::forget(dir.path(), "model").unwrap(), Vec::<String>::new());
        assert_eq!(start(dir.path()).first(&LADDER), 0);
    }

    #[test]
    fn what_is_being_started_has_not_died_of_it() {
        let dir = tempfile::tempdir().unwrap();
        Starts::open(dir.path(), "model".into()).starting(Cuda);
        assert_eq!(Starts::forget(dir.path(), "model").unwrap(), Vec::<String>::new());
        let gone = tempfile::tempdir().unwrap();
        start(gone.path()).starting(Cpu);
        assert_eq!(Starts::forget(gone.path(), "model").unwrap(), ["cpu"], "its process is not there");
        assert!(lives(&this_process()) && !lives("") && !lives("boot 1 ") && !lives(&process(u32::MAX)));
    }

    #[test]
    fn a_record_that_cannot_be_read_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(FILE);
        std::fs::write(&file, "{\"identity\":").unwrap();
        assert_eq!(Starts::forget(dir.path(), "model").unwrap(), Vec::<String>::new());
        assert!(!file.exists(), "it counts nothing");
        std::fs::create_dir(&file).unwrap();
        assert!(Starts::forget(dir.path(), "model").is_err());
        assert!(Starts::forget(&dir.path().join("engine-starts.json/no"), "model").is_ok(), "there is none");
        std::fs::remove_dir(&file).unwrap();
        std::fs::write(&file, "").unwrap();
        assert!(Starts::forget(&file, "model").is_err(), "no folder");
    }

    #[test]
    fn a_good_day_is_enough_to_forget() {
        let mut record = Record { died: [("cuda".to_owned(), 2)].into(), ..Record::default() };
        record.served(Cpu, 1000);
        record.judge(1000 + 86_399, "");
        assert_eq!(record.first(&LADDER), 1);
        record.judge(1000 + 86_400, "");
        assert_eq!(record.first(&LADDER), 0);
        assert_eq!(Record { died: LADDER.map(|k| (k.to_string(), 9)).into(), ..record }.first(&LADDER), 2);
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_no_error() {
        let mut starts = start(Path::new("/proc/nowhere"));
        starts.starting(Cuda);
        assert_eq!(starts.first(&LADDER), 0);
    }
}
