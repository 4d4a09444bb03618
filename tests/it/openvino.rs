//! OpenVINO, good and bad: named and under `auto`; a broken library gives a clear message, and only the probing child
//! crashes.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use ocelli::config::{BackendChoice, ModelConfig, Precision};
use ocelli::infer::{
    BuildRequest, InferError, LibrarySource, OPENVINO, build_here, load, openvino_computes, probe, set_prober,
};
use ocelli::types::{BackendInfo, BackendKind};

use crate::runtime::{Restarts, break_code, compile, fetched, marker, model_config, other_library, write};

/// A library that works: the one of the environment, else the one that `tests/fetch-openvino.sh` puts into the cache;
/// `None`, reported as skipped, when it cannot be had. `REQUIRE_OPENVINO=1` turns that into a failure.
pub fn openvino_library() -> Option<PathBuf> {
    static LIBRARY: OnceLock<Option<PathBuf>> = OnceLock::new();
    let library = LIBRARY.get_or_init(|| {
        set_prober(env!("CARGO_BIN_EXE_ocelli").into());
        match OPENVINO.candidates(None) {
            (LibrarySource::Environment, found) => found.into_iter().next(),
            _ => fetched("fetch-openvino.sh", "openvino-2026.4.1", &[]),
        }
    });
    if library.is_none() {
        assert!(std::env::var_os("REQUIRE_OPENVINO").is_none(), "REQUIRE_OPENVINO is set, but there is no OpenVINO");
        crate::common::skip("no OpenVINO library; set OPENVINO_INSTALL_DIR to an installation");
    }
    library.clone()
}

/// `auto` with this OpenVINO named.
fn auto(library: &Path, precision: Precision) -> ModelConfig {
    let mut config = model_config(BackendChoice::Openvino, Some(library));
    (config.backend, config.openvino.precision) = (BackendChoice::Auto, precision);
    config
}

/// `library` must be refused with a message that has `words` and the path; `auto` must run the next backend and repeat it.
fn refuses(library: &Path, words: &str) {
    set_prober(env!("CARGO_BIN_EXE_ocelli").into());
    let spec = marker();
    let error = load(&spec, &model_config(BackendChoice::Openvino, Some(library))).err().expect("it must not load");
    let text = error.to_string();
    assert!(matches!(error, InferError::Library { .. }), "{error:?}");
    for words in [words, "cannot be used as OpenVINO", &*library.to_string_lossy(), "2025.1"] {
        assert!(text.contains(words), "{text:?} does not contain {words:?}");
    }
    let (_, info) = load(&spec, &auto(library, Precision::Bf16)).unwrap();
    assert!(matches!(info.kind, BackendKind::Cpu | BackendKind::Tract), "{}", info.kind);
    assert_eq!(info.fallbacks.first(), Some(&format!("openvino: {text}")));
}

/// Links to all libraries of the folder of `library` except those whose names begin with `without`.
fn linked(library: &Path, without: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(library.parent().unwrap()).unwrap() {
        let entry = entry.unwrap();
        if !entry.file_name().to_string_lossy().starts_with(without) {
            std::os::unix::fs::symlink(entry.path(), dir.path().join(entry.file_name())).unwrap();
        }
    }
    dir
}

fn name(library: &Path) -> &str {
    library.file_name().unwrap().to_str().unwrap()
}

#[test]
fn files_that_are_no_library_are_refused_with_a_clear_message() {
    let dir = tempfile::tempdir().unwrap();
    refuses(Path::new("/nowhere/libopenvino_c.so"), "no such file");
    refuses(&write(&dir, "empty.so", b""), "truncated");
    refuses(&write(&dir, "text.so", "not a library\n".repeat(100).as_bytes()), "not an ELF");
    refuses(&other_library(), "not OpenVINO");
}

#[test]
fn a_truncated_library_or_one_for_another_machine_is_refused() {
    let Some(library) = openvino_library() else { return };
    let whole = std::fs::read(&library).unwrap();
    let dir = linked(&library, "libopenvino_c.");
    for percent in [10, 99] {
        refuses(&write(&dir, &format!("cut{percent}.so"), &whole[..whole.len() * percent / 100]), "truncated");
    }
    let mut other = whole;
    other[18] = 183;
    refuses(&write(&dir, "other.so", &other), "built for aarch64");
}

#[test]
fn a_library_whose_parts_are_missing_or_cut_names_them() {
    let Some(library) = openvino_library() else { return };
    let whole = std::fs::read(&library).unwrap();
    let alone = tempfile::tempdir().unwrap();
    refuses(&write(&alone, name(&library), &whole), "libopenvino.so.");

    let dir = linked(&library, "libopenvino_");
    let core = write(&dir, name(&library), &whole);
    refuses(&core, "it cannot run a model");
    write(&dir, "libopenvino_intel_cpu_plugin.so", &whole[..9000]);
    refuses(&core, "libopenvino_intel_cpu_plugin.so: it is truncated");
}

#[test]
fn a_library_with_damaged_code_crashes_only_the_child() {
    let Some(library) = openvino_library() else { return };
    let mut bytes = std::fs::read(&library).unwrap();
    break_code(&mut bytes);
    let dir = linked(&library, "libopenvino_c.");
    refuses(&write(&dir, "damaged.so", &bytes), "crashed with SIG");
}

#[test]
fn a_library_that_is_too_old_or_incomplete_or_crashes_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let old = r#"
        struct version { const char *build, *description; };
        int ov_get_openvino_version(struct version *v) { v->build = "2024.6.0-17404-abc"; v->description = ""; return 0; }
        void ov_version_free(struct version *v) { (void)v; }
    "#;
    let Some(library) = compile(&dir, "old", old) else { return };
    refuses(&library, "2024.6.0, which is too old");
    refuses(&compile(&dir, "hollow", &old.replace("2024.6.0", "2026.1.0")).unwrap(), "not OpenVINO");
    refuses(&compile(&dir, "odd", &old.replace("2024.6.0-17404-abc", "custom")).unwrap(), "not OpenVINO");
    let crashes = "__attribute__((constructor)) static void die(void) { *(volatile int *)8 = 1; }";
    refuses(&compile(&dir, "crashes", crashes).unwrap(), "crashed with SIGSEGV");
}

#[test]
fn a_good_library_runs_when_named_and_reports_its_precision() {
    let Some(library) = openvino_library() else { return };
    let version = probe(&OPENVINO, &library).unwrap();
    let (_, info) = load(&marker(), &model_config(BackendChoice::Openvino, Some(&library))).unwrap();
    assert_eq!(info.kind, BackendKind::Openvino);
    assert!(info.version.starts_with(&format!("OpenVINO {version} (CPU ")), "{}", info.version);
    assert!(info.version.ends_with(", f32)"), "{}", info.version);
}

/// In f32 it is no faster than ONNX Runtime and takes more memory.
#[test]
fn auto_leaves_it_out_in_f32_without_a_message() {
    let Some(library) = openvino_library() else { return };
    let (_, info) = load(&marker(), &auto(&library, Precision::F32)).unwrap();
    assert_ne!(info.kind, BackendKind::Openvino);
    assert!(!info.fallbacks.iter().any(|line| line.starts_with("openvino")), "{:?}", info.fallbacks);
}

/// The runtime itself would take f32 silently.
#[test]
fn a_precision_that_the_processor_lacks_is_an_error() {
    let Some(library) = openvino_library() else { return };
    let mut config = auto(&library, Precision::Bf16);
    config.backend = BackendChoice::Openvino;
    let flags = std::fs::read_to_string("/proc/cpuinfo").unwrap();
    match load(&marker(), &config) {
        Ok((_, info)) => assert!(info.version.ends_with(", bf16)"), "{}", info.version),
        Err(error) => {
            assert!(!flags.contains("avx512_bf16"), "{error}");
            let text = error.to_string();
            assert!(text.contains("does not compute in bf16") && text.contains("precision: f32"), "{text}");
            config.backend = BackendChoice::Auto;
            let (_, info) = load(&marker(), &config).unwrap();
            assert_eq!(info.fallbacks.first(), Some(&text));
        }
    }
}

/// A backend whose boxes may differ is compared on the model's own pictures before it serves, in a child that does this.
#[test]
fn a_session_with_different_boxes_is_refused() {
    let Some(library) = openvino_library() else { return };
    let config = ModelConfig { file: Some(marker().path), ..model_config(BackendChoice::Openvino, Some(&library)) };
    let request = BuildRequest { backend: BackendKind::Openvino, config };
    let kind = std::cell::Cell::new(None);
    let prove = |_, info: BackendInfo| {
        kind.set(Some(info.kind));
        Err("others".to_owned())
    };
    let refused = build_here(marker().into(), &request, &|_| {}, &prove).unwrap_err();
    assert_eq!(refused, InferError::Provider { backend: BackendKind::Openvino, reason: "others".into() });
    assert_eq!(kind.get(), Some(BackendKind::Openvino));
    build_here(marker().into(), &request, &|_| {}, &|_, _| Ok(())).unwrap();
}

#[test]
fn a_restart_starts_no_probe_until_a_part_is_replaced() {
    let Some(library) = openvino_library() else { return };
    let dir = linked(&library, "libopenvino_c.");
    std::fs::copy(&library, dir.path().join("libopenvino_c.so")).unwrap();
    let restarts = Restarts::new(dir, "openvino");
    assert!(restarts.start() && restarts.start());
    assert_eq!(restarts.probes(), 1, "the second start uses the stored probe result");

    // `doctor` always probes, and stores the result for the service.
    let config = restarts.dir.path().join("ocelli.yaml");
    std::fs::write(&config, "model: {backend: openvino}\ncameras: {one: rtsp://127.0.0.1:9/}\n").unwrap();
    let doctor = || {
        let output = restarts.command().args(["doctor", "--json", "--config"]).arg(&config).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let report = doctor();
    assert!(report.contains("`backend: openvino` gives openvino (OpenVINO "), "{report}");
    assert_eq!(restarts.probes(), 2);
    assert!(restarts.start());
    assert_eq!(restarts.probes(), 2);

    // The same library, but the plugin crashes at its first call: only a child may find that out.
    let plugin = restarts.dir.path().join("libopenvino_intel_cpu_plugin.so");
    let mut bytes = std::fs::read(&plugin).unwrap();
    break_code(&mut bytes);
    std::fs::remove_file(&plugin).unwrap();
    std::fs::write(&plugin, &bytes).unwrap();
    assert!(!restarts.start() && !restarts.start());
    assert_eq!(restarts.probes(), 4, "a bad probe result is not stored");
    assert!(doctor().contains("crashed with SIG"));
}

/// The backend that `doctor` reports for `auto` is the one that `auto` takes.
#[test]
fn doctor_reports_whether_the_processor_supports_the_precision() {
    let Some(library) = openvino_library() else { return };
    let computes = openvino_computes(&library, Precision::Bf16);
    let loads = load(&marker(), &{
        let mut config = auto(&library, Precision::Bf16);
        config.backend = BackendChoice::Openvino;
        config
    });
    match (computes, loads) {
        (Ok(()), Ok(_)) => {}
        (Err(reason), Err(error)) => assert!(error.to_string().contains(&reason), "{reason:?} is not {error}"),
        (computes, loads) => panic!("{computes:?}, but loading: {:?}", loads.err()),
    }
    assert_eq!(openvino_computes(&library, Precision::F32), Ok(()));
}
