//! ONNX Runtime with its execution providers, and OpenVINO, tried in child processes as the service does.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Root;
use super::limit::Task;
use crate::config::{ModelConfig, OpenvinoConfig, Precision};
use crate::infer::{self, InferError, LibrarySource, NVIDIA_DEVICES, ProviderReport};
use crate::types::BackendKind;

/// ONNX Runtime, its providers and OpenVINO together.
pub(super) const TIMEOUT: Duration = Duration::from_secs(90);
/// Shorter than [`TIMEOUT`], so that the other results are reported when OpenVINO times out.
const OPENVINO: Duration = Duration::from_secs(75);

/// The backends and what they need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runtime {
    pub onnxruntime: Search,
    /// The providers that were tried, best first; none without a working library.
    pub providers: Vec<ProviderReport>,
    pub openvino: Openvino,
    /// `tract 0.23.9`; `None` when it is not part of this build.
    pub tract: Option<String>,
}

/// The search for a runtime's library.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Search {
    pub source: LibrarySource,
    /// Libraries that were tried: version, or what is wrong.
    pub tried: Vec<(PathBuf, Result<String, String>)>,
}

/// OpenVINO; the search is empty where the configuration does not use it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Openvino {
    pub search: Search,
    /// Why the working library does not compute as configured.
    pub refused: Option<String>,
    /// Why the search has no result: a timeout, or a fault of the check itself.
    pub unknown: Option<String>,
}

impl Default for Search {
    fn default() -> Self {
        Self { source: LibrarySource::Usual, tried: Vec::new() }
    }
}

impl Search {
    fn of(survey: infer::Survey) -> Self {
        // Path and hint are part of the report already.
        let reason = |error| match error {
            InferError::Library { reason, .. } | InferError::Prober { reason, .. } => reason,
            other => other.to_string(),
        };
        let tried = survey.tried.into_iter().map(|(path, outcome)| (path, outcome.map_err(reason))).collect();
        Self { source: survey.source, tried }
    }

    /// The library that works, and its version.
    pub fn library(&self) -> Option<(&Path, &str)> {
        self.tried.iter().find_map(|(path, outcome)| Some((path.as_path(), outcome.as_deref().ok()?)))
    }

    /// The libraries that do not work, each with its reason.
    pub fn broken(&self) -> Vec<String> {
        let reason = |(path, outcome): &(PathBuf, Result<String, String>)| {
            outcome.as_ref().err().map(|reason| format!("{}: {reason}", path.display()))
        };
        self.tried.iter().filter_map(reason).collect()
    }
}

impl Runtime {
    /// `None` when the provider was not tried.
    pub fn provider(&self, kind: BackendKind) -> Option<&ProviderReport> {
        self.providers.iter().find(|provider| provider.kind == kind)
    }
}

/// Device nodes of an NVIDIA GPU with its driver.
pub(super) fn gpu(root: &Root) -> Vec<String> {
    NVIDIA_DEVICES.into_iter().filter(|node| root.exists(node)).map(str::to_owned).collect()
}

/// Searches and tries ONNX Runtime; then its GPU providers if `gpu` is set or the provider's library lies beside it; and OpenVINO,
/// where the configuration uses it.
pub(super) fn runtime(model: &ModelConfig, gpu: bool) -> Runtime {
    // At the same time: each search tries its libraries in child processes of its own.
    let openvino = infer::wants_openvino(model).then(|| {
        let config = model.openvino.clone();
        Task::start("openvino", OPENVINO, move || openvino(&config))
    });
    let survey = infer::survey(&infer::ONNX_RUNTIME, model.ort_library.as_deref());
    let providers = survey.outcome().map_or_else(|_| Vec::new(), |(library, _)| providers(&library, gpu));
    let onnxruntime = Search::of(survey);
    Runtime { onnxruntime, providers, openvino: openvino.map(answer).unwrap_or_default(), tract: tract() }
}

fn openvino(config: &OpenvinoConfig) -> Openvino {
    let survey = infer::survey(&infer::OPENVINO, config.library.as_deref());
    let works = survey.outcome().ok().filter(|_| config.precision != Precision::F32);
    let refused = works.and_then(|(library, _)| infer::openvino_computes(&library, config.precision).err());
    Openvino { search: Search::of(survey), refused, unknown: None }
}

fn answer(task: Task<Openvino>) -> Openvino {
    task.wait().unwrap_or_else(|why| Openvino { unknown: Some(why), ..Openvino::default() })
}

/// Each in a child process of its own, all at the same time: opening CUDA or TensorRT takes seconds.
fn providers(library: &Path, gpu: bool) -> Vec<ProviderReport> {
    let library = library.canonicalize().unwrap_or_else(|_| library.to_owned());
    let beside = |kind: BackendKind| library.with_file_name(format!("libonnxruntime_providers_{kind}.so")).is_file();
    let asked = [BackendKind::Tensorrt, BackendKind::Cuda].into_iter().filter(|kind| gpu || beside(*kind));
    let tasks: Vec<_> = asked
        .chain([BackendKind::Cpu])
        .map(|kind| {
            let library = library.clone();
            // The child process has a shorter timeout of its own.
            Task::start("provider", TIMEOUT, move || infer::probe_provider(&library, kind))
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
    fn a_timeout_of_openvino_differs_from_no_library() {
        let panicked: Task<Openvino> = Task::start("openvino", OPENVINO, || panic!("on purpose"));
        let seen = answer(panicked);
        assert!(seen.unknown.is_some_and(|why| why.contains("report")));
        assert_eq!(answer(Task::start("openvino", OPENVINO, Openvino::default)), Openvino::default());
        assert!(OPENVINO < TIMEOUT);
    }
}
