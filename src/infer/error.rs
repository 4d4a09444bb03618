//! What can go wrong between a model file and its output.

use std::path::PathBuf;
use std::time::Duration;

use super::CacheError;
use crate::types::BackendKind;

/// Why a model cannot be run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InferError {
    /// No library in any of the searched folders.
    #[error("no {runtime} library found (looked in {searched}); {hint}")]
    NoLibrary { runtime: &'static str, searched: String, hint: String },
    /// A library is there, but it cannot be used.
    #[error("{} cannot be used as {runtime}: {reason}; {hint}", path.display())]
    Library {
        /// Which runtime it was to be, `ONNX Runtime`.
        runtime: &'static str,
        /// The file.
        path: PathBuf,
        /// What happened.
        reason: String,
        /// What to try.
        hint: String,
    },
    /// The library cannot be tried in a child process, so it is not opened at all.
    #[error("{} was not opened, because it could not be tried in a child process first: {reason}", path.display())]
    Prober {
        /// The file.
        path: PathBuf,
        /// Why there was no child.
        reason: String,
    },
    /// This process has opened another library already, and there can be only one.
    #[error("this process already runs {}; restart it to use {}", open.display(), wanted.display())]
    OtherLibrary {
        /// The library in use.
        open: PathBuf,
        /// The library asked for.
        wanted: PathBuf,
    },
    /// An execution provider refuses.
    #[error("{backend}: {reason}")]
    Provider {
        /// Which backend.
        backend: BackendKind,
        /// The runtime's own words.
        reason: String,
    },
    /// The backend is not part of this build.
    #[error("backend {0} is not part of this build; build with --features {0} or choose another backend")]
    NotBuilt(BackendKind),
    /// The model cannot be loaded.
    #[error("{backend} cannot load {}: {reason}", model.display())]
    Load {
        /// Which backend.
        backend: BackendKind,
        /// The `.onnx` file.
        model: PathBuf,
        /// The backend's own words.
        reason: String,
    },
    /// The backend failed while running the model.
    #[error("{backend} failed to run the model: {reason}")]
    Run {
        /// Which backend.
        backend: BackendKind,
        /// The backend's own words.
        reason: String,
    },
    /// An inference, or the loading of a model, did not come back in time. Its thread is left alone.
    #[error("{backend} did not come back within {} s; its thread is left alone, and a new session is made", limit.as_secs_f32())]
    Hung {
        /// Which backend.
        backend: BackendKind,
        /// How long it was waited for.
        limit: Duration,
    },
    /// A GPU engine could not be built.
    #[error("{backend}: its engine could not be built: {reason}")]
    Build {
        /// For which backend.
        backend: BackendKind,
        /// What happened.
        reason: String,
    },
    /// A GPU engine is not built on its own any more.
    #[error("{backend}: its engine is not built again, because {reason}; `ocelli models build` tries it once more")]
    BuildRefused {
        /// For which backend.
        backend: BackendKind,
        /// How often it failed, and why.
        reason: String,
    },
    /// There is no GPU engine for this model, and nobody is building one.
    #[error("{backend}: no engine is built for this model with these options; build it with `ocelli models build`")]
    NoEngine {
        /// For which backend.
        backend: BackendKind,
    },
    /// The cache of GPU engines cannot be used.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// Nothing can infer any more, and a new process is needed.
    #[error("inference has ended in this process: {reason}")]
    Ended {
        /// What happened.
        reason: String,
    },
    /// The input has the wrong length.
    #[error("the input tensor has {got} values, the model takes {expected}")]
    Input {
        /// `3·h·w`.
        expected: usize,
        /// What was given.
        got: usize,
    },
    /// More frames than one run takes, or none.
    #[error("a run of {got} frames was asked for, the session takes 1 … {most}")]
    Batch {
        /// Frames that it takes.
        most: usize,
        /// What was given.
        got: usize,
    },
    /// The output has not the shape that the model declares.
    #[error("the model put out {got} values, its declared shape has {expected}; is the file damaged?")]
    Output {
        /// From the model's declared shape.
        expected: usize,
        /// What came.
        got: usize,
    },
    /// The lane has as many jobs in flight as it may have.
    #[error("lane {lane} already has {depth} jobs in flight; wait for one first")]
    LaneFull {
        /// Which lane.
        lane: String,
        /// Jobs in flight at most.
        depth: usize,
    },
    /// The engine has stopped.
    #[error("the inference engine has stopped")]
    Stopped,
    /// A thread could not be started.
    #[error("cannot start thread {name}: {reason}")]
    Thread {
        /// Its name.
        name: String,
        /// The system's own words.
        reason: String,
    },
}

/// What the runtimes say when the GPU is lost to this process: by number (700 illegal address, 719 launch failure, 999
/// unknown), by name, and in the words that TensorRT passes on.
const LOST: [&str; 5] = [
    "cudaerrorillegaladdress",
    "cudaerrorlaunchfailure",
    "cudaerrorunknown",
    "illegal memory access was encountered",
    "unspecified launch failure",
];

impl InferError {
    /// True for GPU errors that stay until the process ends (CUDA 700, 719, 999): only a restart helps.
    pub fn device_lost(&self) -> bool {
        let (Self::Run { reason, .. } | Self::Load { reason, .. } | Self::Provider { reason, .. }) = self else {
            return false;
        };
        let reason = reason.to_ascii_lowercase();
        let numbered = ["cuda failure ", "cuda error ", "cuda error: "].iter().any(|words| {
            reason.match_indices(words).any(|(at, words)| {
                let number: String = reason[at + words.len()..].chars().take_while(char::is_ascii_digit).collect();
                matches!(number.as_str(), "700" | "719" | "999")
            })
        });
        numbered || LOST.iter().any(|sign| reason.contains(sign))
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

    #[test]
    fn sticky_gpu_errors_are_told_from_others() {
        let run = |reason: &str| InferError::Run { backend: BackendKind::Cuda, reason: reason.into() };
        assert!(run("CUDA failure 700: an illegal memory access was encountered ; GPU=0").device_lost());
        assert!(run("Non-zero status code. CUDNN failure ... CUDA error 719").device_lost());
        assert!(run("Error Code 1: Cuda Runtime (unspecified launch failure)").device_lost());
        assert!(run("cudaErrorIllegalAddress").device_lost());
        assert!(!run("CUDA failure 2: out of memory").device_lost());
        assert!(!run("CUDA failure 7001: not known").device_lost());
        assert!(!InferError::Stopped.device_lost());
    }
}
