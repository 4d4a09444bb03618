//! A runtime's shared library: where it may be, and what error messages say about it.

use std::cmp::Reverse;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::infer::InferError;
use crate::infer::runtime::elf;

/// Folders that are searched, besides the one of the executable.
const FOLDERS: [&str; 5] = ["/usr/local/lib", "/usr/lib/ocelli", "/opt/onnxruntime/lib", "/usr/lib64", "/usr/lib"];

/// A runtime whose shared library is found and opened at run time.
#[derive(Debug)]
pub struct Runtime {
    pub name: &'static str,
    /// The oldest version that works.
    pub oldest: &'static str,
    /// The library's file name; its version may follow.
    pub file: &'static str,
    /// The configuration keys and variables that name a library, for error messages.
    pub(in crate::infer) named_by: &'static str,
    /// A backend that works without this runtime.
    pub(in crate::infer) instead: &'static str,
    /// Environment variables that name the library, or the installation if [`Self::inside`] has folders.
    pub(in crate::infer) variables: &'static [&'static str],
    /// Folders of an installation in which the library may lie.
    pub(in crate::infer) inside: &'static [&'static str],
    /// Where the runtime's own installer puts it.
    pub(in crate::infer) installed: Option<&'static str>,
    /// Libraries beside the first one that the runtime opens later.
    pub(in crate::infer) parts: fn(&Path) -> Vec<PathBuf>,
    /// What the probing child gets besides the library's path.
    pub(in crate::infer) probe_args: &'static [&'static str],
    pub(in crate::infer) timeout: Duration,
}

/// What named the library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LibrarySource {
    Config,
    Environment,
    /// Nothing: it was found in one of the searched folders.
    Usual,
}

impl Runtime {
    /// The libraries to try, best first. A library that is named is the only one to try, whether it exists or not.
    pub fn candidates(&self, named: Option<&Path>) -> (LibrarySource, Vec<PathBuf>) {
        if let Some(path) = named {
            return (LibrarySource::Config, vec![path.to_owned()]);
        }
        let variable = self.variables.iter().find_map(|name| std::env::var_os(name).filter(|path| !path.is_empty()));
        match variable {
            Some(path) if self.inside.is_empty() => (LibrarySource::Environment, vec![path.into()]),
            Some(folder) => (LibrarySource::Environment, self.in_installation(Path::new(&folder))),
            None => (LibrarySource::Usual, found_in(&self.folders(), self.file)),
        }
    }

    /// The libraries of one installation, or the expected path where there is none.
    fn in_installation(&self, folder: &Path) -> Vec<PathBuf> {
        let folders = self.inside_of(folder);
        let mut found = found_in(&folders, self.file);
        if found.is_empty() {
            found.extend(folders.first().map(|folder| folder.join(self.file)));
        }
        found
    }

    fn inside_of(&self, folder: &Path) -> Vec<PathBuf> {
        self.inside.iter().map(|inside| folder.join(inside)).collect()
    }

    /// The folders that are searched when no library is named.
    fn folders(&self) -> Vec<PathBuf> {
        let beside = std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_owned));
        let mut folders: Vec<PathBuf> = beside.into_iter().collect();
        folders.extend(FOLDERS.iter().map(PathBuf::from));
        // Debian and Ubuntu keep libraries in one folder per architecture.
        folders.push(format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH).into());
        folders.extend(self.installed.iter().flat_map(|folder| self.inside_of(Path::new(folder))));
        folders
    }

    /// The library and its parts.
    pub(in crate::infer) fn files(&self, library: &Path) -> Vec<PathBuf> {
        let mut files = vec![library.to_owned()];
        files.extend((self.parts)(library));
        files
    }

    /// Checks the headers of the library and of its parts.
    pub(in crate::infer) fn check(&self, library: &Path) -> Result<(), String> {
        elf::check(library)?;
        (self.parts)(library)
            .iter()
            .try_for_each(|part| elf::check(part).map_err(|reason| format!("{}: {reason}", part.display())))
    }

    pub(in crate::infer) fn none_found(&self) -> InferError {
        let folders: Vec<_> = self.folders().iter().map(|folder| folder.to_string_lossy().into_owned()).collect();
        InferError::NoLibrary { runtime: self.name, searched: folders.join(", "), hint: self.hint() }
    }

    pub(in crate::infer) fn unusable(&self, path: &Path, reason: String) -> InferError {
        InferError::Library { runtime: self.name, path: path.to_owned(), reason, hint: self.hint() }
    }

    fn hint(&self) -> String {
        format!(
            "install {} {} or newer for {} and name its {} in {}, or use backend: {}",
            self.name,
            self.oldest,
            std::env::consts::ARCH,
            self.file,
            self.named_by,
            self.instead
        )
    }
}

/// The libraries called `name` in these folders, folder by folder, each file once.
pub(in crate::infer) fn found_in(folders: &[PathBuf], name: &str) -> Vec<PathBuf> {
    let mut seen = Vec::new();
    let mut found = Vec::new();
    for library in folders.iter().flat_map(|folder| libraries_in(folder, name)) {
        // The plain name is a link to the versioned file.
        let real = library.canonicalize().unwrap_or_else(|_| library.clone());
        if !seen.contains(&real) {
            seen.push(real);
            found.push(library);
        }
    }
    found
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const TEST: Runtime = Runtime {
        name: "Test",
        oldest: "1",
        file: "libtest.so",
        named_by: "a.key",
        instead: "tract",
        variables: &[],
        inside: &["runtime/lib", "libs", ""],
        installed: None,
        parts: |_| Vec::new(),
        probe_args: &[],
        timeout: Duration::ZERO,
    };

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
        let path = Path::new("/nowhere/libtest.so");
        assert_eq!(TEST.candidates(Some(path)), (LibrarySource::Config, vec![path.to_owned()]));
    }

    #[test]
    fn an_installation_is_searched_in_all_its_folders() {
        for inside in ["runtime/lib", "libs", "."] {
            let dir = tempfile::tempdir().unwrap();
            let folder = dir.path().join(inside);
            std::fs::create_dir_all(&folder).unwrap();
            for name in ["libtest.so.2641", "libtest.so.2510", "libother.so.2641"] {
                std::fs::write(folder.join(name), name).unwrap();
            }
            let found = TEST.in_installation(dir.path());
            let names: Vec<_> = found.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
            assert_eq!(names, ["libtest.so.2641", "libtest.so.2510"]);
        }
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(TEST.in_installation(dir.path()), [dir.path().join("runtime/lib/libtest.so")]);
    }
}
