//! Where an OpenVINO library may be, and whether it works.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::{BackendChoice, ModelConfig, Precision};
use crate::infer::runtime::elf;
use crate::infer::runtime::library::{LibrarySource, Survey, found_in, places, try_all};
use crate::infer::runtime::probe::in_child;
use crate::infer::runtime::verdicts::Verdicts;
use crate::infer::{InferError, OLDEST_OPENVINO};
use crate::types::BackendKind;

/// The library with the C interface; its versions stand behind the name.
const FILE: &str = "libopenvino_c.so";
/// What OpenVINO's own installers, and the scripts that they put beside, call the folder of an installation.
const VARIABLES: [&str; 2] = ["OPENVINO_INSTALL_DIR", "INTEL_OPENVINO_DIR"];
/// Folder of the libraries in an installation: of the archive, of the Python package, of a plain copy.
const INSIDE: [&str; 6] =
    ["runtime/lib/intel64", "runtime/lib/aarch64", "runtime/lib/arm64", "openvino/libs", "libs", ""];
/// Where the archive is unpacked.
const INSTALLED: &str = "/opt/intel/openvino";
/// Parts that are opened later, by the first model: what is wrong with them is better known before.
const PARTS: [&str; 5] = [
    "libopenvino.so",
    "libopenvino_onnx_frontend.so",
    "libopenvino_intel_cpu_plugin.so",
    "libopenvino_arm_cpu_plugin.so",
    "libtbb.so.12",
];
/// How the folders begin that Debian's packages put some of them into, beside the library.
const PARTS_FOLDER: &str = "openvino-";
/// Longest time that the library may take to open its parts and to run a tiny model.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The libraries to try, best first. A library that somebody named is the only one to try, whether it exists or not.
pub fn openvino_candidates(config: Option<&Path>) -> (LibrarySource, Vec<PathBuf>) {
    if let Some(path) = config {
        return (LibrarySource::Config, vec![path.to_owned()]);
    }
    let named = VARIABLES.into_iter().find_map(|name| std::env::var_os(name).filter(|value| !value.is_empty()));
    if let Some(folder) = named {
        return (LibrarySource::Environment, installation(Path::new(&folder)));
    }
    (LibrarySource::Usual, found_in(&usual(), FILE))
}

/// The libraries of one installation; the place where one was to be expected when there is none.
fn installation(folder: &Path) -> Vec<PathBuf> {
    let mut found = found_in(&inside(folder), FILE);
    if found.is_empty() {
        found.push(folder.join(INSIDE[0]).join(FILE));
    }
    found
}

fn inside(folder: &Path) -> Vec<PathBuf> {
    INSIDE.iter().map(|inside| folder.join(inside)).collect()
}

fn usual() -> Vec<PathBuf> {
    let mut folders = places();
    folders.extend(inside(Path::new(INSTALLED)));
    folders
}

/// Whether OpenVINO has a place on the ladder. In f32 it is no faster than ONNX Runtime and takes more memory, so `auto` goes
/// past it unless another precision is asked for.
pub fn wants_openvino(config: &ModelConfig) -> bool {
    match config.backend {
        BackendChoice::Auto => config.openvino.precision != Precision::F32,
        choice => choice == BackendChoice::Openvino,
    }
}

/// The same, and there is a library to try, or somebody says that there is.
pub(in crate::infer) fn is_rung(config: &ModelConfig) -> bool {
    wants_openvino(config) && !openvino_candidates(config.openvino.library.as_deref()).1.is_empty()
}

/// Tries the candidates in child processes, up to the first that works, whatever earlier probes found.
pub fn openvino_survey(config: Option<&Path>) -> Survey {
    survey_by(config, probe_openvino)
}

fn survey_by(config: Option<&Path>, probe: impl Fn(&Path) -> Result<String, InferError>) -> Survey {
    let (source, found) = openvino_candidates(config);
    Survey { source, tried: try_all(found, probe) }
}

/// The first candidate that a child process could open, now or at an earlier start, with its version.
///
/// # Errors
/// [`InferError::NoOpenvino`] when there is no candidate, else the reason of the first one that failed.
pub(in crate::infer) fn locate(config: Option<&Path>) -> Result<(PathBuf, String), InferError> {
    let survey = survey_by(config, probe_or_recall);
    if survey.tried.is_empty() {
        let searched: Vec<_> = usual().iter().map(|place| place.to_string_lossy().into_owned()).collect();
        return Err(InferError::NoOpenvino { searched: searched.join(", ") });
    }
    survey.warn();
    survey.outcome()
}

/// Tries the library in a child process (`ocelli probe-runtime --provider openvino LIB`) and gives its version. A good verdict
/// is kept for later starts.
///
/// # Errors
/// [`InferError::Library`] with what happened, or [`InferError::Prober`] when no child could be started.
pub fn probe_openvino(path: &Path) -> Result<String, InferError> {
    Verdicts::usual().renew(path, Some(BackendKind::Openvino), || ask_library(path))
}

/// The same, but the verdict of an earlier start on the same files is enough.
fn probe_or_recall(path: &Path) -> Result<String, InferError> {
    Verdicts::usual().recall_or(path, Some(BackendKind::Openvino), || ask_library(path))
}

fn ask_library(path: &Path) -> Result<String, InferError> {
    // Reading the heads of the files is harmless, and its verdict is clearer than the loader's.
    check(path).map_err(|reason| unusable(path, reason))?;
    ask(path, Precision::F32)
}

fn ask(path: &Path, precision: Precision) -> Result<String, InferError> {
    let words = ["probe-runtime", "--provider", "openvino", "--precision", precision.as_str()];
    let mut args = words.map(OsStr::new).to_vec();
    args.push(path.as_os_str());
    in_child(path, &args, TIMEOUT, unusable)
}

/// Sees in a child process whether a library that works computes in `precision` on this processor.
///
/// # Errors
/// Why not, for people.
pub fn openvino_computes(path: &Path, precision: Precision) -> Result<(), String> {
    match ask(path, precision) {
        Ok(_) => Ok(()),
        Err(InferError::Library { reason, .. } | InferError::Prober { reason, .. }) => Err(reason),
        Err(other) => Err(other.to_string()),
    }
}

/// The head of the library, and of its parts as far as they lie beside it.
pub(in crate::infer) fn check(path: &Path) -> Result<(), String> {
    elf::check(path)?;
    for part in parts(path) {
        elf::check(&part).map_err(|reason| format!("{}: {reason}", part.display()))?;
    }
    Ok(())
}

/// The parts of the library as far as they lie beside it.
pub(in crate::infer) fn parts(path: &Path) -> Vec<PathBuf> {
    let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let Some(folder) = real.parent() else { return Vec::new() };
    let below = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let packaged = below.filter(|entry| entry.file_name().to_string_lossy().starts_with(PARTS_FOLDER));
    let mut folders: Vec<PathBuf> = packaged.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    folders.push(folder.to_owned());
    folders.sort();
    PARTS.iter().flat_map(|part| found_in(&folders, part)).collect()
}

pub(in crate::infer) fn unusable(path: &Path, reason: String) -> InferError {
    let hint = format!(
        "install OpenVINO {OLDEST_OPENVINO} or newer for {} and name its {FILE} in model.openvino.library, with its other \
         libraries beside it, or use backend: cpu",
        std::env::consts::ARCH
    );
    InferError::Library { runtime: "OpenVINO", path: path.to_owned(), reason, hint }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_named_library_is_the_only_candidate_and_a_rung_when_it_is_of_use() {
        let path = Path::new("/nowhere/libopenvino_c.so");
        assert_eq!(openvino_candidates(Some(path)), (LibrarySource::Config, vec![path.to_owned()]));
        let mut config = ModelConfig::default();
        config.openvino.library = Some(path.to_owned());
        assert!(!is_rung(&config), "in f32 there is nothing to gain");
        for precision in [Precision::Bf16, Precision::F16] {
            config.openvino.precision = precision;
            assert!(is_rung(&config));
        }
        config.backend = BackendChoice::Cpu;
        assert!(!is_rung(&config));
        config = ModelConfig { backend: BackendChoice::Openvino, ..ModelConfig::default() };
        assert!(wants_openvino(&config), "somebody asks for it by name");
    }

    #[test]
    fn the_parts_are_found_beside_and_where_packages_put_them() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("openvino-2025.1.0")).unwrap();
        let mut names = [
            "libopenvino.so.2510",
            "libopenvino_onnx_frontend.so.2510",
            "libtbb.so.12",
            "openvino-2025.1.0/libopenvino_intel_cpu_plugin.so",
        ];
        for name in names.iter().chain(&["libopenvino_c.so", "libtbb.so", "libother.so"]) {
            std::fs::write(dir.path().join(name), name).unwrap();
        }
        let mut found = parts(&dir.path().join("libopenvino_c.so"));
        found.sort();
        names.sort_unstable();
        assert_eq!(found, names.map(|name| dir.path().join(name)));
    }

    #[test]
    fn an_installation_is_searched_as_archive_and_as_python_package() {
        for inside in ["runtime/lib/intel64", "openvino/libs", "libs", "."] {
            let dir = tempfile::tempdir().unwrap();
            let folder = dir.path().join(inside);
            std::fs::create_dir_all(&folder).unwrap();
            for name in ["libopenvino_c.so.2641", "libopenvino_c.so.2510", "libopenvino.so.2641"] {
                std::fs::write(folder.join(name), name).unwrap();
            }
            let found = installation(dir.path());
            let names: Vec<_> = found.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
            assert_eq!(names, ["libopenvino_c.so.2641", "libopenvino_c.so.2510"]);
        }
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(installation(dir.path()), [dir.path().join("runtime/lib/intel64/libopenvino_c.so")]);
    }
}
