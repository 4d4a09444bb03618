//! Options that several verbs share, and the parsers of their values.

use std::path::PathBuf;
use std::sync::Arc;

use super::{Failure, exit};
use crate::cancel::Cancel;
use crate::config::{BackendChoice, ModelConfig, Precision};
use crate::infer::Engine;
use crate::model::ModelSpec;
use crate::types::Size;

/// Where the configuration comes from.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct ConfigFiles {
    /// Configuration file; repeat it to merge several, later ones win [default: ./ocelli.yaml, else /etc/ocelli/ocelli.yaml]
    #[arg(short, long, value_name = "FILE")]
    pub(super) config: Vec<PathBuf>,
    /// Set one key, for example `--set mqtt.url=mqtt://broker`; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub(super) set: Vec<String>,
}

/// How a model is run, for verbs that name the model themselves.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Model options")]
pub(super) struct ModelOptions {
    /// Backend that runs the model; `auto` takes the best one that works, any other name is strict [default: auto]
    #[arg(short, long, value_parser = parse_backend, value_name = "auto|tract|cpu|openvino|cuda|tensorrt")]
    pub(super) backend: Option<BackendChoice>,
    /// Input size for models whose height and width are dynamic
    #[arg(long, value_parser = parse_size, value_name = "N|WxH")]
    pub(super) input_size: Option<Size>,
    /// Threads for inference [default: chosen from the machine]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Precision in which OpenVINO computes [default: f32]
    #[arg(long, value_parser = parse_precision, value_name = "f32|f16|bf16")]
    precision: Option<Precision>,
    /// Path of libonnxruntime.so [default: ORT_DYLIB_PATH, then the usual places]
    #[arg(long, value_name = "FILE")]
    ort_library: Option<PathBuf>,
    /// Path of libopenvino_c.so [default: OPENVINO_INSTALL_DIR or INTEL_OPENVINO_DIR, then the usual places]
    #[arg(long, value_name = "FILE")]
    openvino_library: Option<PathBuf>,
}

/// Which model, and how it is run.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct NamedModel {
    /// An .onnx file or a model folder [default: the model shipped with Ocelli]
    #[arg(short, long, value_name = "FILE|DIR")]
    pub(super) model: Option<PathBuf>,
    #[command(flatten)]
    pub(super) options: ModelOptions,
}

impl ModelOptions {
    /// The configuration for the model in `file`; `None`: the shipped one.
    pub(super) fn config(&self, file: Option<PathBuf>) -> ModelConfig {
        let backend = self.backend.unwrap_or(BackendChoice::Auto);
        let mut model = ModelConfig { file, backend, ..ModelConfig::default() };
        self.apply(&mut model);
        model
    }

    /// Sets what the command line names, except for the backend.
    pub(super) fn apply(&self, model: &mut ModelConfig) {
        fn set<T: Clone>(given: &Option<T>, value: &mut Option<T>) {
            if given.is_some() {
                value.clone_from(given);
            }
        }
        set(&self.ort_library, &mut model.ort_library);
        set(&self.threads.map(usize::from), &mut model.threads);
        set(&self.input_size, &mut model.input_size);
        set(&self.openvino_library, &mut model.openvino.library);
        model.openvino.precision = self.precision.unwrap_or(model.openvino.precision);
    }
}

impl NamedModel {
    pub(super) fn config(&self) -> ModelConfig {
        self.options.config(self.model.clone())
    }
}

/// Starts the engine. A named backend that cannot run exits with [`exit::UNAVAILABLE`].
pub(super) fn start_engine(spec: Arc<ModelSpec>, model: &ModelConfig) -> Result<Engine, Failure> {
    let code = if model.backend == BackendChoice::Auto { exit::ERROR } else { exit::UNAVAILABLE };
    Engine::start(spec, model, &Cancel::new()).map_err(|error| Failure::new(code, error))
}

pub(super) fn parse_backend(text: &str) -> Result<BackendChoice, String> {
    word(text).ok_or_else(|| "expected auto, tract, cpu, openvino, cuda or tensorrt".into())
}

pub(super) fn parse_precision(text: &str) -> Result<Precision, String> {
    word(text).ok_or_else(|| "expected f32, f16 or bf16".into())
}

/// The value that has this word in the configuration.
fn word<T: serde::de::DeserializeOwned>(text: &str) -> Option<T> {
    serde_json::from_value(text.into()).ok()
}

pub(super) fn parse_share(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("expected a number from 0 to 1".into()),
    }
}

pub(super) fn parse_size(text: &str) -> Result<Size, String> {
    let number = |part: &str| part.parse::<u32>().ok().filter(|n| (1..=16384).contains(n));
    let size = match text.split_once('x') {
        Some((w, h)) => number(w).zip(number(h)),
        None => number(text).map(|n| (n, n)),
    };
    size.map(|(w, h)| Size::new(w, h)).ok_or_else(|| "expected a size such as 640 or 640x384 (width x height)".into())
}
