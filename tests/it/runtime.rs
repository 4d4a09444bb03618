//! ONNX Runtime libraries, good and bad: a bad one gives a clear message, `auto` falls back to tract, and only the probing
//! child crashes.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use ocelli::config::{BackendChoice, ModelConfig};
use ocelli::infer::{InferError, ONNX_RUNTIME, ProbeReport, load, probe, set_prober};
use ocelli::model::ModelSpec;
use ocelli::types::BackendKind;

use crate::common::ocelli;

/// The version that is fetched when the environment names no library.
const VERSION: &str = "1.24.4";

/// A library that works: `ORT_DYLIB_PATH`, else the one that `tests/fetch-ort.sh` puts into the cache; `None`, reported
/// as skipped, when it cannot be had. `REQUIRE_ORT=1` turns that into a failure.
pub fn ort_library() -> Option<PathBuf> {
    static LIBRARY: OnceLock<Option<PathBuf>> = OnceLock::new();
    let library = LIBRARY.get_or_init(|| {
        set_prober(env!("CARGO_BIN_EXE_ocelli").into());
        if let Some(path) = std::env::var_os("ORT_DYLIB_PATH").filter(|p| !p.is_empty()) {
            return Some(path.into());
        }
        fetched("fetch-ort.sh", &format!("onnxruntime-{VERSION}"), &[VERSION])
    });
    if library.is_none() {
        assert!(std::env::var_os("REQUIRE_ORT").is_none(), "REQUIRE_ORT is set, but there is no ONNX Runtime library");
        crate::common::skip("no ONNX Runtime library; set ORT_DYLIB_PATH to one");
    }
    library.clone()
}

/// What a script of `tests/` puts into `folder` of the cache; `None` if it fails.
pub fn fetched(script: &str, folder: &str, args: &[&str]) -> Option<PathBuf> {
    let cache = match (std::env::var_os("OCELLI_CACHE"), std::env::var_os("HOME")) {
        (Some(cache), _) => PathBuf::from(cache),
        (None, Some(home)) => Path::new(&home).join(".cache/ocelli"),
        (None, None) => std::env::temp_dir().join("ocelli"),
    };
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(script);
    let output = Command::new("sh").arg(path).arg(cache.join(folder)).args(args).output().unwrap();
    if !output.status.success() {
        eprintln!("tests/{script}: {}", String::from_utf8_lossy(&output.stderr));
        return None;
    }
    Some(String::from_utf8(output.stdout).unwrap().trim().into())
}

/// `library` is the one of the runtime that `backend` names.
pub fn model_config(backend: BackendChoice, library: Option<&Path>) -> ModelConfig {
    let mut config = ModelConfig { backend, ..ModelConfig::default() };
    match backend {
        BackendChoice::Openvino => config.openvino.library = library.map(Path::to_owned),
        _ => config.ort_library = library.map(Path::to_owned),
    }
    config
}

pub fn marker() -> ModelSpec {
    ModelSpec::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/marker.onnx"), None).unwrap()
}

/// `library` must be refused with a message that has `words` and the path; `auto` must run tract and repeat the message.
fn refuses(library: &Path, words: &str) {
    set_prober(env!("CARGO_BIN_EXE_ocelli").into());
    let spec = marker();
    let error = load(&spec, &model_config(BackendChoice::Cpu, Some(library))).err().expect("it must not load");
    let text = error.to_string();
    assert!(matches!(error, InferError::Library { .. }), "{error:?}");
    assert!(text.contains(words), "{text:?} does not contain {words:?}");
    assert!(text.contains(&*library.to_string_lossy()), "{text:?} does not name the file");
    assert!(text.contains("1.17"), "{text:?} does not say which version is needed");

    let (_, info) = load(&spec, &model_config(BackendChoice::Auto, Some(library))).unwrap();
    assert_eq!(info.kind, BackendKind::Tract);
    assert!(info.version.starts_with("tract 0."), "{}", info.version);
    assert_eq!(info.fallbacks.last(), Some(&format!("cpu: {text}")));
}

pub fn write(dir: &tempfile::TempDir, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

/// A shared library of the system that is not ONNX Runtime: the C library of this very process.
pub fn other_library() -> PathBuf {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let path = maps.lines().filter_map(|line| line.split_whitespace().nth(5)).find(|path| path.contains("/libc"));
    path.expect("this binary is linked to the C library").into()
}

#[test]
fn files_that_are_no_library_are_refused_with_a_clear_message() {
    let dir = tempfile::tempdir().unwrap();
    refuses(Path::new("/nowhere/libonnxruntime.so"), "no such file");
    refuses(dir.path(), "folder");
    refuses(&write(&dir, "empty.so", b""), "truncated");
    refuses(&write(&dir, "text.so", "not a library\n".repeat(100).as_bytes()), "not an ELF");
    let noise: Vec<u8> = (0_u32..100_000).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    refuses(&write(&dir, "noise.so", &noise), "not an ELF");
    refuses(&other_library(), "not ONNX Runtime");
}

#[test]
fn a_truncated_library_or_one_for_another_machine_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    // The real library if there is one: only a library of that size shows what the loader does with its end.
    let whole = std::fs::read(ort_library().unwrap_or_else(other_library)).unwrap();
    for percent in [10, 50, 90, 99] {
        let cut = &whole[..whole.len() * percent / 100];
        refuses(&write(&dir, &format!("cut{percent}.so"), cut), "truncated");
    }
    let mut other = whole;
    other[18] = if cfg!(target_arch = "x86_64") { 183 } else { 62 };
    refuses(&write(&dir, "other.so", &other), "built for");
}

/// Fills the executable segment with zeros: the first call into it crashes.
pub fn break_code(bytes: &mut [u8]) {
    let number = |at: usize, length: usize| {
        bytes[at..at + length].iter().rev().fold(0_usize, |sum, byte| sum << 8 | usize::from(*byte))
    };
    let segment = (0..number(56, 2))
        .map(|index| number(32, 8) + index * 56)
        .find(|at| number(*at, 4) == 1 && number(at + 4, 4) & 1 == 1)
        .map(|at| (number(at + 8, 8), number(at + 32, 8)));
    let (offset, length) = segment.expect("a library has an executable segment");
    bytes[offset..offset + length].fill(0);
}

#[test]
fn a_library_with_damaged_code_crashes_only_the_child() {
    let Some(library) = ort_library() else { return };
    let mut bytes = std::fs::read(library).unwrap();
    break_code(&mut bytes);
    let dir = tempfile::tempdir().unwrap();
    refuses(&write(&dir, "damaged.so", &bytes), "crashed with SIG");
}

/// Compiles a library; `None`, reported as skipped, without a C compiler.
pub fn compile(dir: &tempfile::TempDir, name: &str, code: &str) -> Option<PathBuf> {
    let source = write(dir, &format!("{name}.c"), code.as_bytes());
    let library = dir.path().join(format!("{name}.so"));
    match Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source]).status() {
        Ok(status) => assert!(status.success(), "cc failed on {name}"),
        Err(error) => {
            crate::common::skip(&format!("no C compiler ({error})"));
            return None;
        }
    }
    Some(library)
}

#[test]
fn a_library_that_is_too_old_or_crashes_in_its_constructor_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let old = r#"
        static const char *version(void) { return "1.2.0"; }
        static const void *api(unsigned level) { (void)level; return 0; }
        static const struct { const void *(*api)(unsigned); const char *(*version)(void); } base = { api, version };
        const void *OrtGetApiBase(void) { return &base; }
    "#;
    let Some(library) = compile(&dir, "old", old) else { return };
    refuses(&library, "1.2.0, which is too old");
    let crashes = "__attribute__((constructor)) static void die(void) { *(volatile int *)8 = 1; }";
    refuses(&compile(&dir, "crashes", crashes).unwrap(), "crashed with SIGSEGV");
    // It claims to be new enough, but has no functions.
    refuses(&compile(&dir, "hollow", &old.replace("1.2.0", "1.24.0")).unwrap(), "gave no report");
    let missing = "extern int not_there; int *OrtGetApiBase(void) { return &not_there; }";
    refuses(&compile(&dir, "unresolved", missing).unwrap(), "not_there");
}

#[test]
fn the_prober_prints_one_line_and_an_exit_code() {
    let output = ocelli().arg("probe-runtime").arg("/nowhere/libonnxruntime.so").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let report: ProbeReport = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report, ProbeReport { version: None, error: Some("there is no such file".into()) });

    let Some(library) = ort_library() else { return };
    let output = ocelli().arg("probe-runtime").arg(&library).output().unwrap();
    assert!(output.status.success());
    let report: ProbeReport = serde_json::from_slice(&output.stdout).unwrap();
    let version = report.version.unwrap();
    assert_eq!(probe(&ONNX_RUNTIME, &library).unwrap(), version);
    assert!(version.starts_with("1."), "{version}");
}

#[test]
fn a_good_library_is_taken_by_auto_and_a_gpu_that_is_not_there_is_an_error() {
    let Some(library) = ort_library() else { return };
    let spec = marker();
    let (_, info) = load(&spec, &model_config(BackendChoice::Auto, Some(&library))).unwrap();
    assert_eq!(info.kind, BackendKind::Cpu);
    assert!(info.version.starts_with("ONNX Runtime 1."), "{}", info.version);
    if Path::new("/dev/nvidiactl").exists() {
        crate::common::skip("this machine has a GPU; the error without one is not tested");
        return;
    }
    assert!(info.fallbacks.is_empty(), "{:?}", info.fallbacks);
    for (choice, kind) in [(BackendChoice::Cuda, BackendKind::Cuda), (BackendChoice::Tensorrt, BackendKind::Tensorrt)] {
        let error = load(&spec, &model_config(choice, Some(&library))).err().expect("there is no GPU");
        assert!(matches!(error, InferError::Provider { backend, .. } if backend == kind), "{error}");
    }
}

/// A folder with a library, a cache, and a prober that counts its calls.
pub struct Restarts {
    pub dir: tempfile::TempDir,
    backend: &'static str,
}

impl Restarts {
    /// `dir` has the library of `backend`: ONNX Runtime's as `lib.so`, OpenVINO's under its own name.
    pub fn new(dir: tempfile::TempDir, backend: &'static str) -> Self {
        use std::os::unix::fs::PermissionsExt;
        let script = format!(
            "#!/bin/sh\necho \"$*\" >> '{}/asked'\nexec '{}' \"$@\"\n",
            dir.path().display(),
            env!("CARGO_BIN_EXE_ocelli")
        );
        let prober = dir.path().join("prober");
        std::fs::write(&prober, script).unwrap();
        std::fs::set_permissions(&prober, std::fs::Permissions::from_mode(0o755)).unwrap();
        Self { dir, backend }
    }

    pub fn command(&self) -> Command {
        let mut command = ocelli();
        command.env("CACHE_DIRECTORY", self.dir.path()).env("OCELLI_EXE", self.dir.path().join("prober"));
        command.env("ORT_DYLIB_PATH", self.dir.path().join("lib.so")).env("OPENVINO_INSTALL_DIR", self.dir.path());
        command
    }

    /// Runs a model; true when that works.
    pub fn start(&self) -> bool {
        let marker = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/marker.onnx");
        let output = self.command().args(["models", "show", "--backend", self.backend]).arg(marker).output().unwrap();
        assert!(output.status.code().is_some(), "it crashed: {output:?}");
        output.status.success()
    }

    pub fn probes(&self) -> usize {
        let asked = std::fs::read_to_string(self.dir.path().join("asked")).unwrap_or_default();
        asked.lines().filter(|line| line.starts_with("probe-runtime")).count()
    }
}

#[test]
fn a_restart_starts_no_probe_until_the_library_is_replaced() {
    let Some(library) = ort_library() else { return };
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(&library, dir.path().join("lib.so")).unwrap();
    let restarts = Restarts::new(dir, "cpu");
    assert!(restarts.start() && restarts.start());
    assert_eq!(restarts.probes(), 1, "the second start uses the stored probe result");

    // `doctor` always probes.
    let before = restarts.probes();
    let _ = restarts.command().args(["doctor", "--json"]).output().unwrap();
    assert!(restarts.probes() > before);
    let before = restarts.probes();
    assert!(restarts.start());
    assert_eq!(restarts.probes(), before);

    // Another file of the same size that crashes at its first call: only a child may find that out.
    let mut bytes = std::fs::read(&library).unwrap();
    let size = bytes.len();
    break_code(&mut bytes);
    std::fs::write(restarts.dir.path().join("new.so"), &bytes).unwrap();
    std::fs::rename(restarts.dir.path().join("new.so"), restarts.dir.path().join("lib.so")).unwrap();
    assert_eq!(std::fs::metadata(restarts.dir.path().join("lib.so")).unwrap().len(), size as u64);
    assert!(!restarts.start() && !restarts.start());
    assert_eq!(restarts.probes(), before + 2, "a bad probe result is not stored");
}
