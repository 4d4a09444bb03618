//! ONNX Runtime with its execution providers, and OpenVINO, tried in child processes exactly as the service tries them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Root;
use super::limit::Task;
use crate::config::{ModelConfig, OpenvinoConfig, Precision};
use crate::infer::{self, LibrarySource, NVIDIA_DEVICES, OrtProvider, ProviderReport};
use crate::types::BackendKind;

/// Less than all of this together has ([`super::gather::RUNTIME`]): it starts later, and what it gave is told if it is late.
const OPENVINO: Duration = Duration::from_secs(75);

/// What runs models here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runtime {
    /// Who named the library.
    pub source: LibrarySource,
    /// Libraries that were tried: version, or what is wrong.
    pub tried: Vec<(PathBuf, Result<String, String>)>,
    /// The providers that were asked, best first; none without a library that works.
    pub providers: Vec<ProviderReport>,
    /// OpenVINO; without libraries where none is, or where the configuration does not use it.
    pub openvino: Openvino,
    /// `tract 0.23.9`; `None` when it is not part of this build.
    pub tract: Option<String>,
}

/// OpenVINO's libraries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Openvino {
    /// Who named the library.
    pub source: LibrarySource,
    /// Libraries that were tried: version, or what is wrong.
    pub tried: Vec<(PathBuf, Result<String, String>)>,
    /// Why the library that works does not compute as the configuration wants.
    pub refused: Option<String>,
    /// Why nobody knows whether there is one: it hung, or the check itself failed.
    pub silent: Option<String>,
}

impl Default for Openvino {
    fn default() -> Self {
        Self { source: LibrarySource::Usual, tried: Vec::new(), refused: None, silent: None }
    }
}

impl Openvino {
    /// The library that works, and its version.
    pub fn library(&self) -> Option<(&Path, &str)> {
        works(&self.tried)
    }
}

fn works(tried: &[(PathBuf, Result<String, String>)]) -> Option<(&Path, &str)> {
    tried.iter().find_map(|(path, outcome)| Some((path.as_path(), outcome.as_deref().ok()?)))
}

impl Runtime {
    /// The library that works, and its version.
    pub fn library(&self) -> Option<(&Path, &str)> {
        works(&self.tried)
    }

    /// What became of a provider; `None` when it was not asked.
    pub fn provider(&self, kind: BackendKind) -> Option<&ProviderReport> {
        self.providers.iter().find(|provider| provider.kind == kind)
    }
}

/// Nodes that stand for an NVIDIA GPU with its driver.
pub(super) fn gpu(root: &Root) -> Vec<String> {
    NVIDIA_DEVICES.into_iter().filter(|node| root.exists(node)).map(str::to_owned).collect()
}

/// Looks for a library and tries it; then each of its providers when `gpu` says so, or when the provider's own library
/// lies beside it; and OpenVINO, where the configuration uses it.
pub(super) fn runtime(model: &ModelConfig, gpu: bool) -> Runtime {
    // At the same time: each tries its libraries in children of its own.
    let openvino = infer::wants_openvino(model).then(|| {
        let config = model.openvino.clone();
        Task::start("openvino", OPENVINO, move || openvino(&config))
    });
    let survey = infer::survey(&infer::ONNX_RUNTIME, model.ort_library.as_deref());
    let outcome = survey.outcome();
    let providers = match &outcome {
        Ok((library, _)) => providers(library, gpu),
        Err(_) => Vec::new(),
    };
    Runtime {
        source: survey.source,
        tried: shortened(survey.tried),
        providers,
        openvino: openvino.map(answer).unwrap_or_default(),
        tract: tract(),
    }
}

fn openvino(config: &OpenvinoConfig) -> Openvino {
    let survey = infer::survey(&infer::OPENVINO, config.library.as_deref());
    let works = survey.outcome().ok().filter(|_| config.precision != Precision::F32);
    let refused = works.and_then(|(library, _)| infer::openvino_computes(&library, config.precision).err());
    Openvino { source: survey.source, tried: shortened(survey.tried), refused, silent: None }
}

/// What came of it: no answer is not the same as no library.
fn answer(task: Task<Openvino>) -> Openvino {
    task.wait().unwrap_or_else(|why| Openvino { silent: Some(why), ..Openvino::default() })
}

fn shortened(tried: Vec<(PathBuf, Result<String, infer::InferError>)>) -> Vec<(PathBuf, Result<String, String>)> {
    tried.into_iter().map(|(path, verdict)| (path, verdict.map_err(short))).collect()
}

/// Only the reason: path and hint are said elsewhere.
fn short(error: infer::InferError) -> String {
    match error {
        infer::InferError::Library { reason, .. } | infer::InferError::Prober { reason, .. } => reason,
        other => other.to_string(),
    }
}

/// Each in a child of its own, all at the same time: opening CUDA or TensorRT takes seconds.
fn providers(library: &Path, gpu: bool) -> Vec<ProviderReport> {
    let library = library.canonicalize().unwrap_or_else(|_| library.to_owned());
    let beside = |kind: BackendKind| library.with_file_name(format!("libonnxruntime_providers_{kind}.so")).is_file();
    let accelerated = [(OrtProvider::Tensorrt, BackendKind::Tensorrt), (OrtProvider::Cuda, BackendKind::Cuda)];
    let asked = accelerated.into_iter().filter(|(_, kind)| gpu || beside(*kind)).map(|(provider, _)| provider);
    let tasks: Vec<_> = asked
        .chain([OrtProvider::Cpu])
        .map(|provider| {
            let library = library.clone();
            // The child has a limit of its own; this one only guards the guard.
            Task::start("provider", super::gather::RUNTIME, move || infer::probe_provider(&library, provider))
        })
        .collect();
    tasks.into_iter().filter_map(|task| task.wait().ok()).collect()
}

#[cfg(feature = "tract")]
fn tract() -> Option<String> {
    use crate::infer::Backend;
    infer::TractBackend.probe().ok()
}

#[cfg(not(feature = "tract"))]
fn tract() -> Option<String> {
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::panic)]
    use super::*;

    #[test]
    fn no_answer_of_openvino_is_not_the_same_as_no_library() {
        let dead: Task<Openvino> = Task::start("openvino", OPENVINO, || panic!("told to panic"));
        let seen = answer(dead);
        assert!(seen.silent.is_some_and(|why| why.contains("report")));
        assert_eq!(answer(Task::start("openvino", OPENVINO, Openvino::default)), Openvino::default());
        assert!(OPENVINO < crate::doctor::gather::RUNTIME);
    }
}
