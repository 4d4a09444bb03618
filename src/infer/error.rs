//! What can go wrong between a model file and its output.

use std::path::PathBuf;
use std::time::Duration;

use super::CacheError;
use crate::types::BackendKind;

/// Why a model cannot be run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InferError {
    #[error("no {runtime} library found (looked in {searched}); {hint}")]
    NoLibrary { runtime: &'static str, searched: String, hint: String },
    #[error("{} cannot be used as {runtime}: {reason}; {hint}", path.display())]
    Library { runtime: &'static str, path: PathBuf, reason: String, hint: String },
    /// The library could not be probed in a child process, so it was not opened at all.
    #[error("{} was not opened, because it could not be probed in a child process first: {reason}", path.display())]
    Prober { path: PathBuf, reason: String },
    /// This process has opened another library already, and there can be only one.
    #[error("this process already runs {}; restart it to use {}", open.display(), wanted.display())]
    OtherLibrary { open: PathBuf, wanted: PathBuf },
    #[error("{backend}: {reason}")]
    Provider { backend: BackendKind, reason: String },
    #[error("backend {0} is not part of this build; build with --features {0} or choose another backend")]
    NotBuilt(BackendKind),
    #[error("{backend} cannot load {}: {reason}", model.display())]
    Load { backend: BackendKind, model: PathBuf, reason: String },
    #[error("{backend} failed to run the model: {reason}")]
    Run { backend: BackendKind, reason: String },
    /// An inference, or the loading of a model, did not come back in time. Its thread is abandoned.
    #[error("{backend} did not come back within {} s; its thread is abandoned", limit.as_secs_f32())]
    Hung { backend: BackendKind, limit: Duration },
    #[error("{backend}: its engine could not be built: {reason}")]
    Build { backend: BackendKind, reason: String },
    #[error("{backend}: its engine is not built again, because {reason}; `ocelli models build` tries it once more")]
    BuildRefused { backend: BackendKind, reason: String },
    /// There is no GPU engine for this model, and this program does not build one.
    #[error("{backend}: no engine is built for this model with these options; build it with `ocelli models build`")]
    NoEngine { backend: BackendKind },
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// Nothing can infer in this process any more.
    #[error("inference has ended in this process: {reason}")]
    Ended { reason: String },
    /// `expected` is `3·h·w`.
    #[error("the input tensor has {got} values, the model takes {expected}")]
    Input { expected: usize, got: usize },
    #[error("a run of {got} frames was asked for, the session takes 1 … {most}")]
    Batch { most: usize, got: usize },
    #[error("the model's output has {got} values, its declared shape has {expected}; is the file damaged?")]
    Output { expected: usize, got: usize },
    #[error("camera {camera} already has {depth} jobs in flight; wait for one first")]
    QueueFull { camera: String, depth: usize },
    /// The engine has stopped, or its start was cancelled.
    #[error("the inference engine has stopped")]
    Stopped,
    #[error("cannot start thread {name}: {reason}")]
    Thread { name: String, reason: String },
}

/// Texts of errors after which CUDA does not work any more in this process (700 illegal address, 719 launch failure, 999
/// unknown), in lower case.
const LOST: [&str; 5] = [
    "cudaerrorillegaladdress",
    "cudaerrorlaunchfailure",
    "cudaerrorunknown",
    "illegal memory access was encountered",
    "unspecified launch failure",
];

/// Texts of errors that may be gone a minute later: memory or the device is used by others.
const TRANSIENT: [&str; 9] = [
    "out of memory",
    "outofmemory",
    "bad_alloc",
    "failed to allocate memory",
    "cannot allocate memory",
    "could not be allocated",
    "cudaerrormemoryallocation",
    "alloc_failed",
    "busy or unavailable",
];

/// Texts of errors that blame the file of a GPU engine: ONNX Runtime's own, and TensorRT's where it passes them on.
const BAD_ENGINE: [&str; 6] = [
    "could not deserialize engine",
    "engine deserialization failed",
    "serialization assertion",
    "version tag does not match",
    "engine plan file is not compatible",
    "generated on an incompatible device",
];

/// Numbers of CUDA errors that ONNX Runtime reports as `CUDA failure 700: …` or `CUDA error 719`.
fn has_cuda_error(reason: &str, numbers: &[&str]) -> bool {
    ["cuda failure ", "cuda error ", "cuda error: "].iter().any(|words| {
        reason.match_indices(words).any(|(at, words)| {
            let number: String = reason[at + words.len()..].chars().take_while(char::is_ascii_digit).collect();
            numbers.contains(&number.as_str())
        })
    })
}

impl InferError {
    /// The runtime's own text, in lower case.
    fn runtime_text(&self) -> Option<String> {
        match self {
            Self::Run { reason, .. } | Self::Load { reason, .. } | Self::Provider { reason, .. } => {
                Some(reason.to_ascii_lowercase())
            }
            _ => None,
        }
    }

    /// A GPU error that stays until the process ends (CUDA 700, 719, 999): only a restart helps.
    pub fn device_lost(&self) -> bool {
        self.runtime_text().is_some_and(|text| {
            has_cuda_error(&text, &["700", "719", "999"]) || LOST.iter().any(|sign| text.contains(sign))
        })
    }

    /// Memory or the device was used by others: the same call may work later.
    pub(super) fn is_transient(&self) -> bool {
        self.runtime_text()
            .is_some_and(|text| has_cuda_error(&text, &["2", "46"]) || TRANSIENT.iter().any(|sign| text.contains(sign)))
    }

    /// The file of a GPU engine is at fault, so it must be built once more.
    pub(super) fn is_bad_engine(&self) -> bool {
        let loading = matches!(self, Self::Load { .. } | Self::Provider { .. });
        let text = self.runtime_text().filter(|_| loading && !self.is_transient());
        text.is_some_and(|text| BAD_ENGINE.iter().any(|sign| text.contains(sign)))
    }

    /// The error as one sentence that begins with the backend's name.
    pub(super) fn sentence(&self, kind: BackendKind) -> String {
        match self {
            // These begin with the backend's name already.
            Self::Provider { .. }
            | Self::Load { .. }
            | Self::Run { .. }
            | Self::Hung { .. }
            | Self::Build { .. }
            | Self::BuildRefused { .. }
            | Self::NoEngine { .. } => self.to_string(),
            _ => format!("{kind}: {self}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(reason: &str) -> InferError {
        InferError::Run { backend: BackendKind::Cuda, reason: reason.into() }
    }

    fn load(reason: &str) -> InferError {
        InferError::Load { backend: BackendKind::Tensorrt, model: "model.onnx".into(), reason: reason.into() }
    }

    #[test]
    fn sticky_gpu_errors_are_distinguished_from_others() {
        assert!(run("CUDA failure 700: an illegal memory access was encountered ; GPU=0").device_lost());
        assert!(run("Non-zero status code. CUDNN failure ... CUDA error 719").device_lost());
        assert!(run("Error Code 1: Cuda Runtime (unspecified launch failure)").device_lost());
        assert!(run("cudaErrorIllegalAddress").device_lost());
        assert!(!run("CUDA failure 2: out of memory").device_lost());
        assert!(!run("CUDA failure 7001: not known").device_lost());
        assert!(!InferError::Stopped.device_lost());
    }

    #[test]
    fn only_errors_about_the_engine_file_reject_it() {
        // Texts of ONNX Runtime, TensorRT, CUDA and cuDNN: (text, the engine is bad, it may work later).
        let table = [
            ("EP_FAIL : TensorRT EP could not deserialize engine from cache: /cache/x.engine", true, false),
            ("EP_FAIL : TensorRT EP could not deserialize engine from binary data", true, false),
            (
                "[runtime.cpp::deserializeCudaEngine::50] Error Code 4: Internal Error (Engine deserialization failed.)",
                true,
                false,
            ),
            (
                "IRuntime::deserializeCudaEngine: Error Code 1: Serialization (Serialization assertion stdVersionRead == \
              kSERIALIZATION_VERSION failed.Version tag does not match. Note: Current Version: 237, Serialized Engine Version: 239)",
                true,
                false,
            ),
            (
                "Error Code 6: API Usage Error (The engine plan file is not compatible with this version of TensorRT, \
              expecting library version 10.14.1.48 got 10.3.0.26, please rebuild.)",
                true,
                false,
            ),
            (
                "The engine plan file is generated on an incompatible device, expecting compute 8.7 got compute 8.6, please rebuild.",
                true,
                false,
            ),
            ("CUDA failure 2: out of memory ; GPU=0 ; hostname=box", false, true),
            ("CUDA failure 46: all CUDA-capable devices are busy or unavailable", false, true),
            ("Error Code 2: OutOfMemory (Requested size was 1073741824 bytes.)", false, true),
            ("TensorRT EP could not deserialize engine from cache: x.engine (Error Code 2: OutOfMemory)", false, true),
            ("Failed to allocate memory for requested buffer of size 13107200", false, true),
            ("CUDNN failure 4001: CUDNN_STATUS_ALLOC_FAILED ; GPU=0", false, true),
            ("CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED", false, true),
            ("std::bad_alloc", false, true),
            ("CUDA failure 100: no CUDA-capable device is detected", false, false),
            ("CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version", false, false),
            ("CUDA failure 700: an illegal memory access was encountered", false, false),
            ("the process that did it crashed with SIGSEGV (loading the engine and running it)", false, false),
            ("the backend panicked over this model", false, false),
        ];
        for (text, bad, transient) in table {
            assert_eq!((load(text).is_bad_engine(), load(text).is_transient()), (bad, transient), "{text}");
        }
        assert!(!run(table[0].0).is_bad_engine(), "an engine that was loaded is sound");
        assert!(!InferError::Stopped.is_bad_engine() && !InferError::Stopped.is_transient());
    }
}
