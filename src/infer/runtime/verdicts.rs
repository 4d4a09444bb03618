//! Good verdicts of probing children, kept on disk, so that a restart need not probe again.
//!
//! A verdict holds for exactly the files, the loader's settings and the program that it was found with. Bad ones are not
//! kept: somebody may have mended the machine meanwhile.

use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::infer::cache::{check_owner, hex, read_text, write_json};
use crate::infer::runtime::child;
use crate::infer::runtime::gpu;
use crate::infer::runtime::openvino_library;
use crate::infer::runtime::places;
use crate::types::BackendKind;

/// Most verdicts in the folder; the oldest go first. There is one for each library and provider that is in use.
const MOST: usize = 32;
/// Longest version that is believed.
const LONGEST_VERSION: usize = 64;
/// What the loader's own list of libraries says changes with each package that brings one.
const LOADER_CACHE: &str = "/etc/ld.so.cache";
/// What changes which libraries and devices a runtime finds.
const ENVIRONMENT: [&str; 3] = ["LD_LIBRARY_PATH", "LD_PRELOAD", "CUDA_VISIBLE_DEVICES"];
/// The driver's version.
const DRIVER: &str = "/proc/driver/nvidia/version";
/// What the processor is and can do: a disk may be moved to another box.
const PROCESSOR: &str = "/proc/cpuinfo";

/// A file as it lies there: another one, or the same one written again, differs in something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct FileIdentity {
    path: PathBuf,
    device: u64,
    inode: u64,
    size: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    /// The same; unlike the time above, no program can set it.
    changed: (i64, i64),
}

impl FileIdentity {
    fn of(path: &Path) -> Option<Self> {
        let meta = std::fs::metadata(path).ok()?;
        Some(Self {
            // A running program whose file was replaced has no such path any more, but still has the file.
            path: path.canonicalize().unwrap_or_else(|_| path.to_owned()),
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        })
    }
}

/// All that a verdict depends on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Subject {
    library: FileIdentity,
    /// Of ONNX Runtime; or OpenVINO, whose library it is.
    provider: Option<BackendKind>,
    /// Libraries of the provider, or of OpenVINO, beside the runtime's.
    beside: Vec<FileIdentity>,
    /// The program whose child has probed.
    program: FileIdentity,
    program_version: String,
    loader: Option<FileIdentity>,
    environment: Vec<(String, String)>,
    processor: Vec<String>,
    /// Of a provider: GPU, driver, the names of NVIDIA's libraries with their versions.
    device: Vec<String>,
}

/// Model and abilities of the first processor.
fn processor(text: &str) -> Vec<String> {
    let first = text.split("\n\n").next().unwrap_or_default();
    let told = ["model name", "flags", "Features", "CPU part"];
    let lines = first.lines().filter(|line| told.iter().any(|word| line.starts_with(word)));
    lines.map(str::to_owned).collect()
}

impl Subject {
    fn of(library: &Path, provider: Option<BackendKind>, program: &Path) -> Option<Self> {
        let library = FileIdentity::of(library)?;
        let mut beside = Vec::new();
        let mut device = Vec::new();
        if provider == Some(BackendKind::Openvino) {
            beside.extend(openvino_library::parts(&library.path).iter().filter_map(|part| FileIdentity::of(part)));
        } else if let Some(kind) = provider {
            // TensorRT leaves nodes to CUDA, so its provider is opened with it.
            for part in ["shared", "cuda", &kind.to_string()] {
                let name = format!("libonnxruntime_providers_{part}.so");
                beside.extend(FileIdentity::of(&library.path.with_file_name(name)));
            }
            device.push(gpu::name());
            device.push(std::fs::read_to_string(DRIVER).unwrap_or_default());
            device.extend(gpu::libraries(&library.path));
        }
        let given = |name: &str| Some((name.to_owned(), std::env::var_os(name)?.to_string_lossy().into_owned()));
        Some(Self {
            library,
            provider,
            beside,
            program: FileIdentity::of(program)?,
            program_version: env!("CARGO_PKG_VERSION").into(),
            loader: FileIdentity::of(Path::new(LOADER_CACHE)),
            environment: ENVIRONMENT.iter().filter_map(|name| given(name)).collect(),
            processor: processor(&std::fs::read_to_string(PROCESSOR).unwrap_or_default()),
            device,
        })
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    v: u32,
    subject: Subject,
    /// What the library says of itself.
    version: String,
}

/// The verdicts in one folder; without a folder nothing is kept.
#[derive(Debug, Clone)]
pub(in crate::infer) struct Verdicts {
    folder: Option<PathBuf>,
    /// The program whose children probe.
    program: Option<PathBuf>,
}

impl Verdicts {
    /// Those in the usual folder.
    pub(in crate::infer) fn usual() -> Self {
        Self { folder: places::probe_folder(), program: child::prober().ok() }
    }

    /// The version that an earlier `probe` gave for the same files; where there is none, that of `probe`.
    ///
    /// # Errors
    /// Those of `probe`.
    pub(in crate::infer) fn recall_or<E>(
        &self,
        library: &Path,
        provider: Option<BackendKind>,
        probe: impl FnOnce() -> Result<String, E>,
    ) -> Result<String, E> {
        match self.recall(library, provider) {
            Some(version) => Ok(version),
            None => self.renew(library, provider, probe),
        }
    }

    /// What `probe` says, kept when it is good; an older verdict is forgotten.
    ///
    /// # Errors
    /// Those of `probe`.
    pub(in crate::infer) fn renew<E>(
        &self,
        library: &Path,
        provider: Option<BackendKind>,
        probe: impl FnOnce() -> Result<String, E>,
    ) -> Result<String, E> {
        let (Some(folder), Some(program)) = (&self.folder, &self.program) else { return probe() };
        let before = Subject::of(library, provider, program);
        let verdict = probe();
        let Some(before) = before else { return verdict };
        let file = file_of(folder, &before.library.path, provider);
        // What was exchanged while the child ran is not what the child has opened.
        let same = || Subject::of(library, provider, program).as_ref() == Some(&before);
        match &verdict {
            Ok(version) if same() => keep(folder, &file, &Kept { v: 1, subject: before, version: version.clone() }),
            _ => drop(std::fs::remove_file(&file)),
        }
        verdict
    }

    fn recall(&self, library: &Path, provider: Option<BackendKind>) -> Option<String> {
        let folder = self.folder.as_ref()?;
        let subject = Subject::of(library, provider, self.program.as_ref()?)?;
        // Whoever can write here decides what this process opens.
        check_owner(folder).ok()?;
        let file = file_of(folder, &subject.library.path, provider);
        let kept: Kept = serde_json::from_str(&read_text(&file).ok()?).ok()?;
        let sound = !kept.version.is_empty() && kept.version.len() <= LONGEST_VERSION;
        (kept.v == 1 && kept.subject == subject && sound).then_some(kept.version)
    }
}

/// One file for each library and provider: a new verdict takes the old one's place.
fn file_of(folder: &Path, library: &Path, provider: Option<BackendKind>) -> PathBuf {
    let text = format!("{} {}", provider.map(|kind| kind.to_string()).unwrap_or_default(), library.display());
    folder.join(format!("{}.json", &hex(&Sha256::digest(text.as_bytes()))[..32]))
}

/// A verdict that cannot be kept is found again at the next start.
fn keep(folder: &Path, file: &Path, kept: &Kept) {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    let written = made
        .map_err(|error| error.to_string())
        .and_then(|()| check_owner(folder))
        .and_then(|()| write_json(file, kept).map_err(|error| error.to_string()));
    match written {
        Ok(()) => shrink(folder),
        Err(reason) => tracing::debug!("the verdict on {} is not kept: {reason}", kept.subject.library.path.display()),
    }
}

fn shrink(folder: &Path) {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<(SystemTime, PathBuf)> =
        entries.filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path()))).collect();
    files.sort();
    for (_, path) in files.iter().rev().skip(MOST) {
        let _ = std::fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::cell::Cell;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A library, a folder for verdicts, and a count of probes.
    struct Bench {
        dir: tempfile::TempDir,
        verdicts: Verdicts,
        probes: Cell<u32>,
    }

    impl Bench {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            for name in ["lib.so", "program"] {
                std::fs::write(dir.path().join(name), b"one").unwrap();
            }
            let verdicts =
                Verdicts { folder: Some(dir.path().join("cache/probes")), program: Some(dir.path().join("program")) };
            Self { dir, verdicts, probes: Cell::new(0) }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        fn probe(&self, verdict: Result<&str, &'static str>) -> Result<String, &'static str> {
            self.probes.set(self.probes.get() + 1);
            verdict.map(str::to_owned)
        }

        /// Asks as a start does. Gives the number of probes so far.
        fn start(&self, provider: Option<BackendKind>) -> u32 {
            let version = self.verdicts.recall_or(&self.path("lib.so"), provider, || self.probe(Ok("1.24.4")));
            assert_eq!(version, Ok("1.24.4".into()));
            self.probes.get()
        }

        fn kept(&self) -> Vec<PathBuf> {
            let entries = std::fs::read_dir(self.path("cache/probes")).into_iter().flatten().flatten();
            entries.map(|entry| entry.path()).collect()
        }
    }

    #[test]
    fn a_good_verdict_holds_until_the_file_is_another() {
        let bench = Bench::new();
        assert_eq!((bench.start(None), bench.start(None)), (1, 1));
        // A link to it is the same file.
        std::os::unix::fs::symlink("lib.so", bench.path("link.so")).unwrap();
        let linked = bench.verdicts.recall_or(&bench.path("link.so"), None, || bench.probe(Err("probed")));
        assert_eq!(linked, Ok("1.24.4".into()));
        // Of the same size and, as far as programs can set that, of the same time.
        let time = std::fs::metadata(bench.path("lib.so")).unwrap().modified().unwrap();
        std::fs::write(bench.path("other.so"), b"two").unwrap();
        std::fs::File::options().write(true).open(bench.path("other.so")).unwrap().set_modified(time).unwrap();
        std::fs::rename(bench.path("other.so"), bench.path("lib.so")).unwrap();
        assert_eq!((bench.start(None), bench.start(None)), (2, 2));
        assert_eq!(bench.kept().len(), 1, "the new verdict stands in the old one's place");
        // Another release of this program may ask for more.
        std::fs::write(bench.path("program"), b"another").unwrap();
        assert_eq!((bench.start(None), bench.start(None)), (3, 3));
    }

    #[test]
    fn a_bad_verdict_is_not_kept_and_takes_a_good_one_away() {
        let bench = Bench::new();
        let bad = || bench.verdicts.recall_or(&bench.path("lib.so"), None, || bench.probe(Err("broken")));
        assert_eq!((bad(), bad(), bench.probes.get()), (Err("broken"), Err("broken"), 2));
        assert_eq!((bench.start(None), bad()), (3, Ok("1.24.4".into())));
        // Somebody wants to know.
        assert!(bench.verdicts.renew(&bench.path("lib.so"), None, || bench.probe(Err("broken"))).is_err());
        assert_eq!((bench.kept().len(), bench.start(None)), (0, 5));
    }

    #[test]
    fn a_provider_has_a_verdict_of_its_own_that_depends_on_its_libraries() {
        let bench = Bench::new();
        let cuda = Some(BackendKind::Cuda);
        assert_eq!((bench.start(None), bench.start(cuda), bench.start(cuda)), (1, 2, 2));
        std::fs::write(bench.path("libonnxruntime_providers_cuda.so"), b"").unwrap();
        assert_eq!((bench.start(cuda), bench.start(cuda), bench.start(None)), (3, 3, 3));
        std::fs::write(bench.path("libonnxruntime_providers_shared.so"), b"").unwrap();
        assert_eq!((bench.start(cuda), bench.start(None)), (4, 4));
        // CUDA's is opened with TensorRT's.
        let tensorrt = Some(BackendKind::Tensorrt);
        assert_eq!((bench.start(tensorrt), bench.start(tensorrt)), (5, 5));
        std::fs::write(bench.path("libonnxruntime_providers_cuda.so"), b"cut").unwrap();
        assert_eq!((bench.start(tensorrt), bench.start(tensorrt)), (6, 6));
    }

    #[test]
    fn the_processor_is_told_by_what_it_can_do() {
        let text = "processor\t: 0\nmodel name\t: A\nflags\t\t: avx avx2\ncpu MHz\t: 2000\n\nprocessor\t: 1\nmodel name\t: A\n";
        assert_eq!(processor(text), ["model name\t: A", "flags\t\t: avx avx2"]);
        assert_eq!(processor("Features\t: asimd\nCPU part\t: 0xd42\n"), ["Features\t: asimd", "CPU part\t: 0xd42"]);
    }

    #[test]
    fn openvino_s_verdict_depends_on_its_parts() {
        let bench = Bench::new();
        let openvino = Some(BackendKind::Openvino);
        assert_eq!((bench.start(openvino), bench.start(openvino), bench.start(None)), (1, 1, 2));
        let plugin = bench.path("libopenvino_intel_cpu_plugin.so");
        std::fs::write(&plugin, b"one").unwrap();
        assert_eq!((bench.start(openvino), bench.start(openvino), bench.start(None)), (3, 3, 3));
        std::fs::remove_file(&plugin).unwrap();
        std::fs::write(&plugin, b"two").unwrap();
        assert_eq!((bench.start(openvino), bench.start(None)), (4, 4));
        assert_eq!(bench.kept().len(), 2);
    }

    #[test]
    fn what_is_damaged_foreign_or_absent_is_no_verdict() {
        let bench = Bench::new();
        bench.start(None);
        let file = bench.kept().pop().unwrap();
        let good = std::fs::read_to_string(&file).unwrap();
        for text in ["", "{", "null", &good.replace("\"v\": 1", "\"v\": 2"), &good.replace("1.24.4", ""), &good[..200]]
        {
            let before = bench.probes.get();
            std::fs::write(&file, text).unwrap();
            assert_eq!(bench.start(None), before + 1, "{text}");
        }
        let before = bench.probes.get();
        assert_eq!(bench.start(None), before, "the last one was good");
        // A folder that others may write to says nothing, and is told nothing.
        std::fs::set_permissions(bench.path("cache/probes"), std::fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!((bench.start(None), bench.start(None)), (before + 1, before + 2));
        for folder in [None, Some("/proc/nowhere".into())] {
            let verdicts = Verdicts { folder, ..bench.verdicts.clone() };
            let before = bench.probes.get();
            let probe = || verdicts.recall_or(&bench.path("lib.so"), None, || bench.probe(Ok("1")));
            assert_eq!((probe(), probe(), bench.probes.get()), (Ok("1".into()), Ok("1".into()), before + 2));
        }
    }

    #[test]
    fn a_library_that_is_exchanged_under_the_probe_is_not_trusted() {
        let bench = Bench::new();
        let exchanged = bench.verdicts.recall_or(&bench.path("lib.so"), None, || {
            std::fs::write(bench.path("new.so"), b"new").unwrap();
            std::fs::rename(bench.path("new.so"), bench.path("lib.so")).unwrap();
            bench.probe(Ok("1.24.4"))
        });
        assert!(exchanged.is_ok());
        assert_eq!((bench.kept().len(), bench.start(None)), (0, 2));
    }

    #[test]
    fn the_folder_does_not_grow_for_ever() {
        let bench = Bench::new();
        for n in 0..MOST + 5 {
            let library = bench.path(&format!("lib{n}.so"));
            std::fs::write(&library, b"").unwrap();
            bench.verdicts.renew(&library, None, || bench.probe(Ok("1"))).unwrap();
        }
        assert_eq!(bench.kept().len(), MOST);
    }
}
