//! What the rest of the program must know about a backend.

use std::path::{Path, PathBuf};

use crate::config::{BackendChoice, ModelConfig, Precision};
use crate::infer::runtime::library::Runtime;
use crate::infer::{Backend, InferError};
use crate::types::BackendKind;

/// What a backend computes on. Faults of a GPU can outlive a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    Cpu,
    Gpu,
}

/// How many sessions run side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::infer) enum Sessions {
    One,
    /// A session has one thread; `model.threads` is the number of sessions.
    OneThreadEach,
    /// One per core, or one session that uses all cores, whichever is faster. With `model.threads`, one session.
    Measured,
}

/// What a backend is made from.
pub(in crate::infer) struct Setup<'a> {
    pub(in crate::infer) config: &'a ModelConfig,
    /// Path and version of the runtime's library, which a child process has probed; `None`: the backend is built in.
    pub(in crate::infer) library: Option<(PathBuf, String)>,
    /// Threads (≥ 1) inside one inference.
    pub(in crate::infer) threads: usize,
    /// Folder of the engine, for a backend that needs one.
    pub(in crate::infer) engine: Option<PathBuf>,
}

/// What the machine has, as far as `auto` depends on it.
#[derive(Debug, Clone, Copy)]
pub struct Machine {
    /// One of [`NVIDIA_DEVICES`](crate::infer::NVIDIA_DEVICES).
    pub gpu: bool,
    /// OpenVINO's library, and a precision in which it is worth using.
    pub openvino: bool,
}

/// A backend's entry in the table of [`backends`](crate::infer::backends).
pub struct Descriptor {
    pub kind: BackendKind,
    /// The value of `model.backend` that names it.
    pub choice: BackendChoice,
    pub device: Device,
    /// The backend that its boxes are compared with by default.
    pub reference: BackendChoice,
    /// The library that it needs; `None`: it is built in.
    pub runtime: Option<&'static Runtime>,
    /// The path of that library in the configuration.
    pub(in crate::infer) named_library: fn(&ModelConfig) -> Option<&Path>,
    /// Whether `auto` tries it.
    pub(in crate::infer) in_auto: fn(Machine) -> bool,
    /// An engine must be built for it first.
    pub(in crate::infer) needs_engine: bool,
    /// For a backend whose boxes may differ from the reference's: whether they may with this configuration.
    pub(in crate::infer) moves_boxes: Option<fn(&ModelConfig) -> bool>,
    pub(in crate::infer) sessions: Sessions,
    /// Opens the library in this process and runs a tiny model: what the probing child does.
    pub(in crate::infer) probe_here: fn(BackendKind, &Path, Precision) -> Result<String, String>,
    /// Probes in a child process what the library opens later for this backend.
    pub(in crate::infer) probe_parts: fn(BackendKind, &Path) -> Result<(), InferError>,
    pub(in crate::infer) make: fn(BackendKind, Setup<'_>) -> Result<Box<dyn Backend>, InferError>,
}
