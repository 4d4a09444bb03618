//! ONNX Runtime's library in this process: opened once, and for ever.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::infer::InferError;
use crate::infer::runtime::library;

/// The library that this process has opened. ONNX Runtime allows one, and for ever.
struct Opened {
    path: PathBuf,
    environment: Option<ort::environment::Environment>,
}

static OPENED: Mutex<Option<Opened>> = Mutex::new(None);

/// The environment of this process on `library`, made at the first call. The library must have passed
/// [`probe`](crate::infer::runtime::probe()).
pub(in crate::infer) fn environment(library: &Path) -> Result<ort::environment::Environment, InferError> {
    let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
    let unusable = |reason: String| InferError::Library {
        runtime: library::NAME,
        path: library.to_owned(),
        reason,
        hint: library::hint(),
    };
    if let Some(Opened { path, environment }) = &*opened {
        return match environment {
            Some(environment) if path == library => Ok(environment.clone()),
            _ => Err(InferError::OtherLibrary { open: path.clone(), wanted: library.to_owned() }),
        };
    }
    let (path, outcome) = (library.to_owned(), open(library));
    let environment = outcome.map_err(unusable)?;
    *opened = Some(Opened { path, environment: Some(environment.clone()) });
    Ok(environment)
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

/// An error and what caused it, on one line.
pub(in crate::infer) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text.replace('\n', " ").trim().to_owned()
}
