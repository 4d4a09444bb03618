//! Options of ONNX Runtime's execution providers from the configuration.

use std::path::Path;

use ort::ep::{self, ArenaExtendStrategy, ExecutionProvider};

use crate::config::{Arena, BatchProfile, CudnnSearch, ModelConfig};
use crate::model::ModelSpec;
use crate::types::BackendKind;

const MB: usize = 1_000_000;

/// The provider's name in the runtime's profile.
pub(in crate::infer) fn name(kind: BackendKind) -> &'static str {
    match kind {
        BackendKind::Cuda => ep::CUDA::NAME,
        BackendKind::Tensorrt => ep::TensorRT::NAME,
        _ => "CPUExecutionProvider",
    }
}

/// CUDA as configured. Only values that differ from the provider's default are set, because an old provider refuses
/// options that it does not know.
pub(in crate::infer) fn cuda(model: &ModelConfig) -> ep::CUDA {
    let config = &model.cuda;
    let mut cuda = ep::CUDA::default().with_device_id(model.device as i32);
    if let Some(megabytes) = config.memory_mb {
        cuda = cuda.with_memory_limit(megabytes as usize * MB);
    }
    if config.arena == Arena::AsRequested {
        cuda = cuda.with_arena_extend_strategy(ArenaExtendStrategy::SameAsRequested);
    }
    cuda = match config.cudnn_search {
        CudnnSearch::Exhaustive => cuda,
        CudnnSearch::Heuristic => cuda.with_conv_algorithm_search(ep::cuda::ConvAlgorithmSearch::Heuristic),
        CudnnSearch::Default => cuda.with_conv_algorithm_search(ep::cuda::ConvAlgorithmSearch::Default),
    };
    if !config.tf32 {
        cuda = cuda.with_tf32(false);
    }
    if config.cuda_graph {
        cuda = cuda.with_cuda_graph(true);
    }
    cuda
}

/// TensorRT as configured, with its engine in the folder from the cache.
pub(in crate::infer) fn tensorrt(model: &ModelConfig, engine: Option<&Path>, spec: Option<&ModelSpec>) -> ep::TensorRT {
    let config = &model.tensorrt;
    let mut tensorrt = ep::TensorRT::default().with_device_id(model.device as i32);
    if config.fp16 {
        tensorrt = tensorrt.with_fp16(true);
    }
    if config.int8 {
        tensorrt = tensorrt.with_int8(true);
    }
    if let Some(table) = &config.calibration {
        tensorrt = tensorrt.with_int8_calibration_table_name(table.display());
    }
    if let Some(core) = config.dla_core {
        tensorrt = tensorrt.with_dla(true).with_dla_core(core);
    }
    if let Some(megabytes) = config.workspace_mb {
        tensorrt = tensorrt.with_max_workspace_size(megabytes as usize * MB);
    }
    if let Some(level) = config.builder_level {
        tensorrt = tensorrt.with_builder_optimization_level(level);
    }
    if config.cuda_graph {
        tensorrt = tensorrt.with_cuda_graph(true);
    }
    if let Some(folder) = engine {
        tensorrt = tensorrt.with_engine_cache(true).with_engine_cache_path(folder.display());
        if config.timing_cache {
            // Beside the engines, because builds of other models and options use it too.
            let timing = folder.with_file_name(".timing");
            tensorrt = tensorrt.with_timing_cache(true).with_timing_cache_path(timing.display());
        }
    }
    if let Some(spec) = spec.filter(|spec| spec.dynamic) {
        let [min, opt, max] = shapes(spec, config.profile, config.cuda_graph);
        tensorrt = tensorrt.with_profile_min_shapes(min).with_profile_opt_shapes(opt).with_profile_max_shapes(max);
    }
    tensorrt
}

/// The smallest, the usual and the largest input in the syntax of TensorRT's options: `images:1x3x640x640`. Height and
/// width are fixed; an open batch goes from one frame to the configured size. `fixed`: whole batches run, as a CUDA graph
/// needs it.
fn shapes(spec: &ModelSpec, profile: Option<BatchProfile>, fixed: bool) -> [String; 3] {
    let batch = spec.input.batch;
    let size = batch.size as u32;
    let profile = profile.filter(|_| batch.open);
    // A single frame may come, unless whole batches run.
    let least = match (batch.open, fixed) {
        (true, false) => 1,
        (true, true) => profile.map_or(size, |profile| profile.min).min(size),
        (false, _) => size,
    };
    let usual = profile.and_then(|profile| profile.opt);
    // The batches that Ocelli runs must fit, whatever the profile is.
    let most = profile.and_then(|profile| profile.max).unwrap_or(size).max(usual.unwrap_or(size)).max(least).max(size);
    [least, usual.unwrap_or(most), most].map(|frames| {
        let shape = spec.input.shape(frames as usize).map(|n| n.to_string());
        // The profile must name all dynamic inputs; the second one never changes.
        let second = spec.input.size_input.as_ref().map(|name| format!(",{name}:1x2")).unwrap_or_default();
        format!("{}:{}{second}", spec.input.name, shape.join("x"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::backend::fake::spec;
    use crate::model::{Batch, InputSpec};
    use crate::types::Size;

    #[test]
    fn a_profile_changes_the_batch_and_nothing_else() {
        let mut spec = spec();
        (spec.input.name, spec.input.size) = ("images".into(), Size::new(640, 384));
        assert_eq!(shapes(&spec, None, false), ["images:1x3x384x640"; 3]);
        spec.input.batch = Batch { size: 4, open: true };
        assert_eq!(shapes(&spec, None, false)[0], "images:1x3x384x640");
        assert_eq!(shapes(&spec, None, false)[1..], ["images:4x3x384x640"; 2]);
        let profile = BatchProfile { min: 1, opt: Some(4), max: Some(8) };
        let expected = ["images:1x3x384x640", "images:4x3x384x640", "images:8x3x384x640"];
        assert_eq!(shapes(&spec, Some(profile), false), expected);
        // What comes must fit, and a batch that the model fixes is the only one.
        let small = BatchProfile { min: 1, opt: Some(2), max: Some(2) };
        assert_eq!(shapes(&spec, Some(small), false)[1..], ["images:2x3x384x640", "images:4x3x384x640"]);
        let fixed = InputSpec { batch: Batch { size: 4, open: false }, ..spec.input.clone() };
        let fixed = ModelSpec { input: fixed, ..spec.clone() };
        assert_eq!(shapes(&fixed, Some(profile), false), ["images:4x3x384x640"; 3]);
        // Whatever is asked for, a lone frame must fit, unless whole batches run.
        let large = BatchProfile { min: 3, opt: Some(4), max: Some(8) };
        assert_eq!(shapes(&spec, Some(large), false)[0], "images:1x3x384x640");
        assert_eq!(shapes(&spec, Some(large), true)[0], "images:3x3x384x640");
        assert_eq!(shapes(&spec, None, true), ["images:4x3x384x640"; 3]);
        let two = InputSpec { size_input: Some("sizes".into()), ..spec.input.clone() };
        let two = ModelSpec { input: two, ..spec.clone() };
        assert_eq!(shapes(&two, None, false)[0], "images:1x3x384x640,sizes:1x2");
        let last = InputSpec { channels_last: true, ..spec.input.clone() };
        let spec = ModelSpec { input: last, ..spec };
        assert_eq!(shapes(&spec, Some(profile), false)[2], "images:8x384x640x3");
    }
}
