//! Probing ONNX Runtime and its execution providers: what the child process does, and how it is asked.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ort::session::Session as Inner;
use ort::value::TensorRef;

use crate::infer::InferError;
use crate::infer::backend::convert::chain;
use crate::infer::backend::onnxruntime::library::open;
use crate::infer::backend::onnxruntime::profile::Profile;
use crate::infer::backend::onnxruntime::{OrtBackend, providers};
use crate::infer::backend::tiny;
use crate::infer::runtime::elf;
use crate::infer::runtime::probe::in_child;
use crate::infer::runtime::probe_cache::ProbeCache;
use crate::types::BackendKind;

/// Longest time that an execution provider may take: CUDA and TensorRT are gigabytes to open on a small box.
const PROVIDER_TIMEOUT: Duration = Duration::from_secs(60);

/// One execution provider of a library.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderReport {
    pub kind: BackendKind,
    /// Its own library beside the runtime's; `None` for the CPU, which is built in.
    pub library: Option<PathBuf>,
    /// Whether that library is there.
    pub present: bool,
    /// Libraries that it needs and that the loader would not find.
    pub missing: Vec<String>,
    /// Why it does not run a tiny model here; `None`: it does.
    pub error: Option<String>,
}

/// Probes one execution provider of a library that works, in a child process: registers it as the service does and runs
/// a tiny model on it. A good result is stored for later starts.
pub fn probe_provider(path: &Path, kind: BackendKind) -> ProviderReport {
    let library = provider_library(path, kind);
    let present = library.as_ref().is_some_and(|library| library.is_file());
    let missing = library.as_ref().filter(|_| present).map(|library| elf::missing(library)).unwrap_or_default();
    let error = ask(path, kind, false).err().map(|error| error.to_string());
    ProviderReport { kind, library, present, missing, error }
}

/// Makes sure that opening a provider does not kill this process: a child opens it first, now or at an earlier start.
/// A missing library is no error here: the runtime itself reports it.
pub(in crate::infer) fn provider_works(path: &Path, kind: BackendKind) -> Result<(), InferError> {
    match provider_library(path, kind).filter(|library| library.is_file()) {
        Some(_) => ask(path, kind, true).map(|_| ()),
        None => Ok(()),
    }
}

/// The provider's own library, beside the runtime's.
pub(in crate::infer) fn provider_library(path: &Path, kind: BackendKind) -> Option<PathBuf> {
    (kind != BackendKind::Cpu).then(|| beside(path, &kind.to_string()))
}

fn beside(path: &Path, word: &str) -> PathBuf {
    let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    real.with_file_name(format!("libonnxruntime_providers_{word}.so"))
}

fn ask(path: &Path, kind: BackendKind, reuse: bool) -> Result<String, InferError> {
    let word = &kind.to_string();
    let failed = |reason| InferError::Provider { backend: kind, reason };
    // TensorRT leaves nodes to CUDA, so CUDA's library is opened with it.
    let files = || vec![path.to_owned(), beside(path, "shared"), beside(path, "cuda"), beside(path, word)];
    ProbeCache::usual().version(&format!("{} {word}", super::ONNX_RUNTIME.name), files, reuse, || {
        if let Some(library) = provider_library(path, kind).filter(|library| library.is_file()) {
            elf::check(&library).map_err(|reason| failed(format!("{}: {reason}", library.display())))?;
        }
        in_child(path, &["--provider", word], PROVIDER_TIMEOUT, failed)
    })
}

/// Opens `library` in this process, runs the tiny model on the provider of `kind` (registered as the service does), and returns the
/// version. For the probing child only.
pub(in crate::infer) fn try_library(library: &Path, kind: Option<BackendKind>) -> Result<String, String> {
    elf::check(library)?;
    let Some(kind) = kind else {
        let builder = Inner::builder(&open(library)?).and_then(|builder| Ok(builder.with_intra_threads(1)?));
        run(&mut commit(builder.map_err(|error| chain(&error))?)?)?;
        return Ok(version(library));
    };
    let version = version(library);
    let backend = OrtBackend::proven(kind, library.to_owned(), version.clone(), 1);
    let builder = backend.builder(None).map_err(|error| error.to_string())?;
    let (builder, profile) = Profile::start(builder);
    let mut session = commit(builder)?;
    run(&mut session)?;
    match profile.map(|profile| profile.read(&mut session)) {
        Some(Ok(nodes)) if !nodes.contains_key(providers::name(kind)) => {
            Err("it registers, but the CPU ran the model in its place".into())
        }
        // Without a profile the placement is unknown.
        _ => Ok(version),
    }
}

fn commit(mut builder: ort::session::builder::SessionBuilder) -> Result<Inner, String> {
    builder.commit_from_memory(tiny::MODEL).map_err(|error| format!("it cannot load a model ({})", chain(&error)))
}

fn run(session: &mut Inner) -> Result<(), String> {
    let outputs = TensorRef::from_array_view(([4_i64], tiny::INPUT.as_slice()))
        .and_then(|tensor| session.run(ort::inputs![tensor]))
        .map_err(|error| format!("it cannot run a model ({})", chain(&error)))?;
    match outputs.get("y").map(|value| value.try_extract_tensor::<f32>()) {
        Some(Ok((_, output))) if *output == tiny::OUTPUT => Ok(()),
        _ => Err("it runs a model, but the result is wrong".into()),
    }
}

/// The library's version. The crate does not offer it, but each build carries it as the name of its symbol version,
/// `VERS_1.24.4`; failing that, the file name has it.
fn version(library: &Path) -> String {
    let text = std::fs::read(library).ok().and_then(|bytes| {
        let at = bytes.windows(7).position(|window| window == b"VERS_1.")? + 5;
        version_at(bytes.get(at..at + 24)?)
    });
    let real = library.canonicalize().unwrap_or_else(|_| library.to_owned());
    let named = || real.to_string_lossy().split_once(".so.").and_then(|(_, v)| version_at(v.as_bytes()));
    text.or_else(named).unwrap_or_else(|| "of unknown version".into())
}

fn version_at(bytes: &[u8]) -> Option<String> {
    let length = bytes.iter().take_while(|b| b.is_ascii_digit() || **b == b'.').count();
    std::str::from_utf8(&bytes[..length]).ok().filter(|v| !v.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_their_first_digits() {
        assert_eq!(version_at(b"1.24.4\0OrtGet"), Some("1.24.4".into()));
        assert_eq!(version_at(b"\0"), None);
    }
}
