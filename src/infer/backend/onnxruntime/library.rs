//! ONNX Runtime's library: where it is looked for, and opening it in this process, once and for ever.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::infer::InferError;
use crate::infer::backend::convert::chain;
use crate::infer::runtime::library::Runtime;

/// ONNX Runtime: backends `cpu`, `cuda` and `tensorrt`.
pub static ONNX_RUNTIME: Runtime = Runtime {
    name: "ONNX Runtime",
    oldest: "1.17",
    file: "libonnxruntime.so",
    named_by: "model.ort_library or ORT_DYLIB_PATH",
    instead: "tract",
    variables: &["ORT_DYLIB_PATH"],
    inside: &[],
    installed: None,
    parts: |_| Vec::new(),
    probe_args: &[],
    timeout: Duration::from_secs(10),
};

/// The library that this process has opened. ONNX Runtime allows one per process.
static OPENED: Mutex<Option<(PathBuf, ort::environment::Environment)>> = Mutex::new(None);

/// The environment of this process on `library`, made at the first call. A child process must have probed the library.
pub(in crate::infer) fn environment(library: &Path) -> Result<ort::environment::Environment, InferError> {
    let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
    match &*opened {
        Some((path, environment)) if path == library => Ok(environment.clone()),
        Some((open, _)) => Err(InferError::OtherLibrary { open: open.clone(), wanted: library.to_owned() }),
        None => {
            let environment = open(library).map_err(|reason| ONNX_RUNTIME.unusable(library, reason))?;
            *opened = Some((library.to_owned(), environment.clone()));
            Ok(environment)
        }
    }
}

pub(in crate::infer) fn open(library: &Path) -> Result<ort::environment::Environment, String> {
    let builder = ort::init_from(library).map_err(|error| load_error(&error))?;
    let environment = builder
        .with_name("ocelli")
        .with_telemetry(false)
        .with_logger(Arc::new(|level, category, _, _, message| match level {
            ort::logging::LogLevel::Fatal | ort::logging::LogLevel::Error => {
                tracing::warn!(target: "onnxruntime", "{category}: {message}");
            }
            ort::logging::LogLevel::Warning => tracing::debug!(target: "onnxruntime", "{category}: {message}"),
            _ => tracing::trace!(target: "onnxruntime", "{category}: {message}"),
        }))
        .build()
        .map_err(|error| chain(&error))?;
    environment.set_log_level(ort::logging::LogLevel::Warning);
    Ok(environment)
}

fn load_error(error: &ort::LoadDynamicError) -> String {
    match error {
        ort::LoadDynamicError::Dlopen { error, .. } => format!("the system cannot load it ({})", chain(error)),
        ort::LoadDynamicError::MissingApi { .. } => {
            "it is a library, but not ONNX Runtime (it does not export OrtGetApiBase)".into()
        }
        ort::LoadDynamicError::BadVersion { version_str, .. } => {
            format!("it is version {version_str}, which is too old")
        }
        other => chain(other),
    }
}
