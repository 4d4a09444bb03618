//! Where an ONNX Runtime library may be.

use std::cmp::Reverse;
use std::path::{Path, PathBuf};

use crate::infer::runtime::probe::{probe, probe_or_recall};
use crate::infer::{InferError, OLDEST_ORT};

/// Who named the library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LibrarySource {
    /// `model.ort_library` of the configuration.
    Config,
    /// The environment variable `ORT_DYLIB_PATH`.
    Environment,
    /// Nobody: it was found in a usual place.
    Usual,
}

/// What the library is of.
pub(in crate::infer) const NAME: &str = "ONNX Runtime";
/// Folders that are searched, besides the one of the executable.
const PLACES: [&str; 5] = ["/usr/local/lib", "/usr/lib/ocelli", "/opt/onnxruntime/lib", "/usr/lib64", "/usr/lib"];

/// The libraries to try, best first. A library that somebody named is the only one to try, whether it exists or not.
pub fn candidates(config: Option<&Path>) -> (LibrarySource, Vec<PathBuf>) {
    if let Some(path) = config {
        return (LibrarySource::Config, vec![path.to_owned()]);
    }
    if let Some(path) = std::env::var_os("ORT_DYLIB_PATH").filter(|p| !p.is_empty()) {
        return (LibrarySource::Environment, vec![path.into()]);
    }
    (LibrarySource::Usual, found_in(&places(), "libonnxruntime.so"))
}

/// The libraries called `name` in these folders, folder by folder, each file once.
pub(in crate::infer) fn found_in(places: &[PathBuf], name: &str) -> Vec<PathBuf> {
    let mut seen = Vec::new();
    let mut found = Vec::new();
    for library in places.iter().flat_map(|place| libraries_in(place, name)) {
        // The plain name is a link to the versioned one: one file, one try.
        let real = library.canonicalize().unwrap_or_else(|_| library.clone());
        if !seen.contains(&real) {
            seen.push(real);
            found.push(library);
        }
    }
    found
}

/// What was found, and what a child process said of it.
#[derive(Debug, Clone)]
pub struct Survey {
    /// Who named the library.
    pub source: LibrarySource,
    /// Libraries in the order in which they were tried, with their version; nothing follows the first that works.
    pub tried: Vec<(PathBuf, Result<String, InferError>)>,
}

impl Survey {
    /// The library that works, and its version.
    ///
    /// # Errors
    /// [`InferError::NoLibrary`] when there is no candidate, else the reason of the first one that failed.
    pub fn outcome(&self) -> Result<(PathBuf, String), InferError> {
        if let Some((path, Ok(version))) = self.tried.last() {
            return Ok((path.clone(), version.clone()));
        }
        let first = self.tried.iter().find_map(|(_, outcome)| outcome.clone().err());
        Err(first.unwrap_or_else(|| InferError::NoLibrary { searched: places_text() }))
    }
}

/// Tries the candidates in child processes, up to the first that works, whatever earlier probes found.
pub fn survey(config: Option<&Path>) -> Survey {
    survey_by(config, probe)
}

fn survey_by(config: Option<&Path>, probe: impl Fn(&Path) -> Result<String, InferError>) -> Survey {
    let (source, found) = candidates(config);
    Survey { source, tried: try_all(found, probe) }
}

/// Up to the first that works.
pub(in crate::infer) fn try_all(
    found: Vec<PathBuf>,
    probe: impl Fn(&Path) -> Result<String, InferError>,
) -> Vec<(PathBuf, Result<String, InferError>)> {
    let mut tried = Vec::new();
    for path in found {
        let outcome = probe(&path);
        let works = outcome.is_ok();
        tried.push((path, outcome));
        if works {
            break;
        }
    }
    tried
}

/// The first candidate that a child process could open, now or at an earlier start, with its version.
///
/// # Errors
/// Those of [`Survey::outcome`].
pub(in crate::infer) fn locate(config: Option<&Path>) -> Result<(PathBuf, String), InferError> {
    let survey = survey_by(config, probe_or_recall);
    survey.warn();
    survey.outcome()
}

impl Survey {
    /// Says which libraries are passed over that nobody named.
    pub(in crate::infer) fn warn(&self) {
        if self.source == LibrarySource::Usual {
            for error in self.tried.iter().filter_map(|(_, outcome)| outcome.as_ref().err()) {
                tracing::warn!("{error}");
            }
        }
    }
}

/// The usual folders.
pub(in crate::infer) fn places() -> Vec<PathBuf> {
    let beside = std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_owned));
    let mut places: Vec<PathBuf> = beside.into_iter().collect();
    places.extend(PLACES.iter().map(PathBuf::from));
    // Debian and Ubuntu keep libraries in one folder per architecture.
    places.push(format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH).into());
    places
}

pub(in crate::infer) fn places_text() -> String {
    let mut text = String::new();
    for place in places() {
        if !text.is_empty() {
            text.push_str(", ");
        }
        text.push_str(&place.to_string_lossy());
    }
    text
}

/// `libonnxruntime.so` and `libonnxruntime.so.1.*` of one folder: the plain `name` first, then the newest version.
fn libraries_in(folder: &Path, name: &str) -> Vec<PathBuf> {
    let mut found: Vec<(Reverse<Vec<u64>>, PathBuf)> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let file = entry.file_name();
            let rest = file.to_str()?.strip_prefix(name)?;
            let version: Vec<u64> = match rest {
                "" => vec![u64::MAX],
                _ => rest.strip_prefix('.')?.split('.').map(|part| part.parse().ok()).collect::<Option<_>>()?,
            };
            Some((Reverse(version), entry.path()))
        })
        .collect();
    found.sort();
    found.into_iter().map(|(_, path)| path).collect()
}

/// What to try when a library does not work.
pub(in crate::infer) fn hint() -> String {
    format!(
        "install ONNX Runtime {OLDEST_ORT} or newer for {} and name its libonnxruntime.so in model.ort_library \
         or ORT_DYLIB_PATH, or use backend: tract",
        std::env::consts::ARCH
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_folder_gives_its_libraries_newest_first_and_no_providers() {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "libonnxruntime.so.1.9.0",
            "libonnxruntime.so.1.24.4",
            "libonnxruntime.so",
            "libonnxruntime_providers_cuda.so",
            "libonnxruntime.so.1.24.4.bak",
            "libonnx.so",
        ] {
            std::fs::write(dir.path().join(name), b"").unwrap();
        }
        let names: Vec<_> = libraries_in(dir.path(), "libonnxruntime.so")
            .iter()
            .map(|p| p.file_name().unwrap().to_string_lossy().into_owned())
            .collect();
        assert_eq!(names, ["libonnxruntime.so", "libonnxruntime.so.1.24.4", "libonnxruntime.so.1.9.0"]);
    }

    #[test]
    fn a_named_library_is_the_only_candidate() {
        let path = Path::new("/nowhere/libonnxruntime.so");
        assert_eq!(candidates(Some(path)), (LibrarySource::Config, vec![path.to_owned()]));
    }
}
