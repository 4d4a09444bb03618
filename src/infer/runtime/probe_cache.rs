//! Good probe results, kept in one small file, so that a restart does not probe again.
//!
//! A result holds while the same files are in the same places and this program has the same version and architecture: a
//! folder may be shared, and a machine may run both. Failed probes are not stored, because the machine may be repaired
//! meanwhile.

use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::infer::cache::{atomic, check_owner};
use crate::infer::runtime::places;

/// Longest version that is believed, bytes.
const LONGEST_VERSION: usize = 64;

/// A file as it lies there. A replaced file differs in at least one of these.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct FileIdentity {
    path: PathBuf,
    size: u64,
    inode: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
}

impl FileIdentity {
    fn of(path: &Path) -> Option<Self> {
        let meta = std::fs::metadata(path).ok()?;
        let path = path.canonicalize().ok()?;
        Some(Self { path, size: meta.len(), inode: meta.ino(), modified: (meta.mtime(), meta.mtime_nsec()) })
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Probed {
    /// The runtime or the provider that was probed.
    what: String,
    /// The library and what it opens; never empty.
    files: Vec<FileIdentity>,
    version: String,
}

impl Probed {
    fn is_of(&self, what: &str, library: &Path) -> bool {
        self.what == what && self.files.first().is_some_and(|file| file.path == library)
    }

    fn holds(&self) -> bool {
        self.files.iter().all(|file| FileIdentity::of(&file.path).as_ref() == Some(file))
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Stored {
    program: String,
    probed: Vec<Probed>,
}

/// The stored results. Without a cache folder nothing is stored.
#[derive(Debug, Clone)]
pub(in crate::infer) struct ProbeCache {
    file: Option<PathBuf>,
}

impl ProbeCache {
    pub(in crate::infer) fn usual() -> Self {
        Self { file: places::cache_folder().map(|folder| folder.join("probes.json")) }
    }

    /// The version that `probe` returns for `what`, which depends on `files` (the library first). With `reuse`, a stored
    /// result for the same files is enough.
    pub(in crate::infer) fn version<E>(
        &self,
        what: &str,
        files: impl Fn() -> Vec<PathBuf>,
        reuse: bool,
        probe: impl FnOnce() -> Result<String, E>,
    ) -> Result<String, E> {
        let identify = || files().iter().filter_map(|file| FileIdentity::of(file)).collect::<Vec<_>>();
        let before = identify();
        let (Some(file), Some(library)) = (&self.file, before.first().map(|library| library.path.clone())) else {
            return probe();
        };
        let mut stored = read(file);
        let known = stored.probed.iter().find(|probed| probed.is_of(what, &library) && probed.files == before);
        if let Some(known) = known.filter(|_| reuse) {
            return Ok(known.version.clone());
        }
        let outcome = probe();
        stored.probed.retain(|probed| !probed.is_of(what, &library) && probed.holds());
        // Files that were replaced while the child ran are not those that it opened.
        if let Ok(version) = &outcome
            && identify() == before
        {
            stored.probed.push(Probed { what: what.into(), files: before, version: version.clone() });
        }
        if let Err(error) = write(file, &stored) {
            tracing::debug!("probe results are not stored: {error}");
        }
        outcome
    }
}

/// Nothing, if others may have written the file: it decides what this process opens.
fn read(file: &Path) -> Stored {
    let text = check_owner(file).ok().and_then(|()| atomic::read(file).ok()).unwrap_or_default();
    let mut stored: Stored = serde_json::from_str(&text).unwrap_or_default();
    let program = format!("{} {}", env!("CARGO_PKG_VERSION"), std::env::consts::ARCH);
    if stored.program != program {
        stored = Stored { program, probed: Vec::new() };
    }
    stored.probed.retain(|probed| !probed.version.is_empty() && probed.version.len() <= LONGEST_VERSION);
    stored
}

fn write(file: &Path, stored: &Stored) -> std::io::Result<()> {
    if let Some(folder) = file.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    atomic::write(file, serde_json::to_string_pretty(stored)?.as_bytes())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::cell::Cell;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A library, a file for results, and a count of probes.
    struct Bench {
        dir: tempfile::TempDir,
        cache: ProbeCache,
        probes: Cell<u32>,
    }

    impl Bench {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join("lib.so"), b"one").unwrap();
            let cache = ProbeCache { file: Some(dir.path().join("cache/probes.json")) };
            Self { dir, cache, probes: Cell::new(0) }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        fn file(&self) -> PathBuf {
            self.path("cache/probes.json")
        }

        fn probe(&self, outcome: Result<&str, &'static str>) -> Result<String, &'static str> {
            self.probes.set(self.probes.get() + 1);
            outcome.map(str::to_owned)
        }

        fn ask(&self, library: &str, reuse: bool, outcome: Result<&str, &'static str>) -> Result<String, &'static str> {
            self.cache.version("runtime", || vec![self.path(library)], reuse, || self.probe(outcome))
        }

        /// Asks as a start does. Returns the number of probes so far.
        fn start(&self, what: &str) -> u32 {
            // A part may be missing.
            let files = || vec![self.path("lib.so"), self.path("part.so")];
            let version = self.cache.version(what, files, true, || self.probe(Ok("1.24.4")));
            assert_eq!(version, Ok("1.24.4".into()));
            self.probes.get()
        }

        fn stored(&self) -> usize {
            read(&self.file()).probed.len()
        }
    }

    #[test]
    fn a_good_result_holds_until_the_file_is_replaced() {
        let bench = Bench::new();
        let start = || bench.ask("lib.so", true, Ok("1.24.4")).map(|_| bench.probes.get());
        assert_eq!((start(), start()), (Ok(1), Ok(1)));
        // A link to it is the same file.
        std::os::unix::fs::symlink("lib.so", bench.path("link.so")).unwrap();
        assert_eq!(bench.ask("link.so", true, Err("probed")), Ok("1.24.4".into()));
        // The same size and the same time.
        let time = std::fs::metadata(bench.path("lib.so")).unwrap().modified().unwrap();
        std::fs::write(bench.path("other.so"), b"two").unwrap();
        std::fs::File::options().write(true).open(bench.path("other.so")).unwrap().set_modified(time).unwrap();
        std::fs::rename(bench.path("other.so"), bench.path("lib.so")).unwrap();
        assert_eq!((start(), start()), (Ok(2), Ok(2)));
        assert_eq!(bench.stored(), 1, "the new result takes the old one's place");
    }

    #[test]
    fn a_bad_result_is_not_stored_and_removes_a_good_one() {
        let bench = Bench::new();
        let bad = |reuse| bench.ask("lib.so", reuse, Err("broken"));
        assert_eq!((bad(true), bad(true), bench.probes.get()), (Err("broken"), Err("broken"), 2));
        assert_eq!((bench.ask("lib.so", true, Ok("1")), bad(true)), (Ok("1".into()), Ok("1".into())));
        assert_eq!((bad(false), bench.stored(), bad(true)), (Err("broken"), 0, Err("broken")));
    }

    #[test]
    fn a_result_depends_on_what_was_probed_and_on_all_its_files() {
        let bench = Bench::new();
        assert_eq!((bench.start("runtime"), bench.start("cuda"), bench.start("cuda")), (1, 2, 2));
        std::fs::write(bench.path("part.so"), b"one").unwrap();
        assert_eq!((bench.start("cuda"), bench.start("cuda")), (3, 3));
        std::fs::write(bench.path("part.so"), b"other").unwrap();
        assert_eq!((bench.start("cuda"), bench.start("runtime")), (4, 5));
        std::fs::remove_file(bench.path("part.so")).unwrap();
        assert_eq!((bench.start("cuda"), bench.stored()), (6, 1), "results on files that are gone are removed");
    }

    #[test]
    fn a_damaged_or_foreign_file_is_ignored() {
        let bench = Bench::new();
        bench.start("runtime");
        let good = std::fs::read_to_string(bench.file()).unwrap();
        let (version, arch) = (env!("CARGO_PKG_VERSION"), std::env::consts::ARCH);
        let others = [good.replace(version, "0.0.0"), good.replace(arch, "another")];
        for text in ["", "{", "null", &others[0], &others[1], &good.replace("1.24.4", ""), &good[..200]] {
            let before = bench.probes.get();
            std::fs::write(bench.file(), text).unwrap();
            assert_eq!(bench.start("runtime"), before + 1, "{text}");
        }
        let before = bench.probes.get();
        assert_eq!(bench.start("runtime"), before, "the last one was good");
        std::fs::set_permissions(bench.file(), std::fs::Permissions::from_mode(0o666)).unwrap();
        assert_eq!((bench.start("runtime"), bench.start("runtime")), (before + 1, before + 1), "it is written anew");
        for file in [None, Some("/proc/nowhere/probes.json".into())] {
            let (bench, before) = (Bench { cache: ProbeCache { file }, ..Bench::new() }, 0);
            assert_eq!((bench.start("runtime"), bench.start("runtime")), (before + 1, before + 2));
        }
    }

    #[test]
    fn a_library_that_is_replaced_during_its_probe_is_not_trusted() {
        let bench = Bench::new();
        let replaced = bench.cache.version(
            "runtime",
            || vec![bench.path("lib.so")],
            true,
            || {
                std::fs::write(bench.path("new.so"), b"new").unwrap();
                std::fs::rename(bench.path("new.so"), bench.path("lib.so")).unwrap();
                bench.probe(Ok("1.24.4"))
            },
        );
        assert!(replaced.is_ok());
        assert_eq!((bench.stored(), bench.start("runtime")), (0, 2));
    }
}
