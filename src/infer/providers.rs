//! The configuration's words as the options of ONNX Runtime's providers.

use ort::ep::{self, ArenaExtendStrategy};

use super::ort::OrtOptions;
use crate::config::{Arena, CudnnSearch};
use crate::model::ModelSpec;

const MB: usize = 1_000_000;

/// CUDA as asked for. Only what differs from the provider's own default is set, because an option that an old provider does
/// not know is an error there.
pub(super) fn cuda(options: &OrtOptions) -> ep::CUDA {
    let config = &options.cuda;
    let mut cuda = ep::CUDA::default().with_device_id(options.device as i32);
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

/// TensorRT as asked for, with its engine in the folder that the cache gave.
pub(super) fn tensorrt(options: &OrtOptions, spec: Option<&ModelSpec>) -> ep::TensorRT {
    let config = &options.tensorrt;
    let mut tensorrt = ep::TensorRT::default().with_device_id(options.device as i32);
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
    if let Some(folder) = &options.engine {
        tensorrt = tensorrt.with_engine_cache(true).with_engine_cache_path(folder.display());
        if config.timing_cache {
            // Beside the engines, because builds of other models and options gain from it too.
            let timing = folder.with_file_name(".timing");
            tensorrt = tensorrt.with_timing_cache(true).with_timing_cache_path(timing.display());
        }
    }
    if let Some(spec) = spec.filter(|spec| spec.dynamic) {
        // Height and width never change, and the batch goes from one frame to what is configured where it is open.
        let batch = spec.input.batch;
        let shape = |frames: usize| {
            format!("{}:{}", spec.input.name, spec.input.shape(frames).map(|n| n.to_string()).join("x"))
        };
        let (least, most) = (shape(if batch.open { 1 } else { batch.size }), shape(batch.size));
        tensorrt =
            tensorrt.with_profile_min_shapes(least).with_profile_opt_shapes(&most).with_profile_max_shapes(&most);
    }
    tensorrt
}
