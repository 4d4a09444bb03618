//! What an engine of TensorRT depends on.

use std::path::Path;

use crate::config::{ModelConfig, TensorrtConfig};
use crate::infer::InferError;
use crate::infer::backend::onnxruntime::probe::provider_library;
use crate::infer::cache::{EngineKey, digest};
use crate::infer::runtime::gpu;
use crate::model::ModelSpec;
use crate::types::BackendKind;

/// Everything that the engine of `spec` depends on. `library` is ONNX Runtime's, of this `version`.
pub(in crate::infer) fn engine_key(
    spec: &ModelSpec,
    config: &ModelConfig,
    library: &Path,
    version: String,
) -> Result<EngineKey, InferError> {
    let provider = provider_library(library, BackendKind::Tensorrt).unwrap_or_default();
    if !provider.exists() {
        let reason = format!(
            "there is no {}; install a build of ONNX Runtime with TensorRT, or use backend: cpu",
            provider.display()
        );
        return Err(InferError::Provider { backend: BackendKind::Tensorrt, reason });
    }
    let options = &config.tensorrt;
    let calibration = options.calibration.as_deref().map(|path| {
        digest(path).map(|(_, sha256)| sha256).map_err(|error| InferError::Build {
            backend: BackendKind::Tensorrt,
            reason: format!("the calibration table {} cannot be read ({error})", path.display()),
        })
    });
    let precision = match (options.int8, options.fp16) {
        (true, true) => "int8+fp16",
        (true, false) => "int8",
        (false, true) => "fp16",
        (false, false) => "fp32",
    };
    // The content of the table matters, not its path.
    let rest = TensorrtConfig { calibration: None, ..options.clone() };
    Ok(EngineKey {
        model: spec.id.sha256.clone(),
        precision: precision.into(),
        shape: spec.input.shape(spec.input.batch.size).map(|n| n.to_string()).join("x"),
        options: format!("{} device {}", serde_json::to_string(&rest).unwrap_or_default(), config.device),
        calibration: calibration.transpose()?,
        runtime: version,
        libraries: gpu::libraries(library),
        gpu: gpu::name(),
    })
}
