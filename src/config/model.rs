//! The keys of `model:` and `models.<name>:`.

use std::path::PathBuf;
use std::time::Duration;

use super::macros::{scalars, section, words};
use super::read::{Entry, Field, Keys, Parse, Reader, Report};
use super::section::{Key, Kind, Section};
use super::value;
use crate::types::Size;

section! {
    /// The detector.
    pub struct ModelConfig("model" in "model", short "file") derive(serde::Serialize, serde::Deserialize) {
        /// An `.onnx` file, or a folder with a `model.yaml`. Default: the model shipped with Ocelli.
        pub file: Option<PathBuf> = Path, example "models/yolo.onnx";
        /// Expected SHA-256 of the `.onnx` file. Default: not compared.
        pub sha256: Option<String> = Sha256, example "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
        /// What runs the model. `auto` takes the fastest that works; any other either works or is an error.
        pub backend: BackendChoice = Word(BackendChoice::WORDS), default "auto", example "cpu";
        /// ONNX Runtime's library. Default: `ORT_DYLIB_PATH`, else the usual places.
        pub ort_library: Option<PathBuf> = Path, example "/usr/lib/libonnxruntime.so";
        /// CPU threads: of the one ONNX Runtime session, or the number of tract sessions (at most 4), which have one thread
        /// each. Default: chosen from the machine, several sessions side by side.
        pub threads: Option<usize> = Integer(1, 256), example "2";
        /// Width and height of the input, for models that leave them open: `640` or `640x384`. Default: the model's own.
        pub input_size: Option<Size> = Size(32, 4096), example "640x384";
        /// Frames per inference at most, for models whose batch is open. Default: the model's own, 1 where it is open.
        pub batch: Option<usize> = Integer(1, 64), example "8";
        /// Longest time that a frame waits for others to fill a batch. At 0 a batch holds only frames that wait anyway.
        pub batch_wait: Duration = Duration(0, 1_000), default "0ms", example "5ms";
        /// ONNX Runtime's threads wait busily: a little faster alone, much slower beside other programs.
        pub spinning: bool = Bool, default "false", example "true";
        /// Number of the GPU.
        pub device: u32 = Integer(0, 63), default "0", example "1";
        /// Folder for GPU engines. Default: `engines` in `CACHE_DIRECTORY`, else in the user's cache folder.
        pub cache: Option<PathBuf> = Path, example "/var/cache/ocelli/engines";
        /// Size of that folder at most, MB; the least recently used engines are removed first.
        pub cache_mb: u64 = Integer(16, 1_000_000), default "4096", example "1024";
        /// Share of the objects on the pictures in the model's folder `golden` on which a newly built GPU engine, or OpenVINO in
        /// another precision than `f32`, must agree with the reference before it is used; 0: not compared.
        pub min_agreement: f64 = Number(0.0, 1.0), default "0.95", example "0.99";
        /// Options of TensorRT.
        pub tensorrt: TensorrtConfig = Section(TensorrtConfig::SECTION), example "{fp16: true}";
        /// Options of CUDA, also for the parts of a model that TensorRT leaves to it.
        pub cuda: CudaConfig = Section(CudaConfig::SECTION), example "{tf32: false}";
        /// Options of OpenVINO.
        pub openvino: OpenvinoConfig = Section(OpenvinoConfig::SECTION), example "{precision: bf16}";
    }
}

section! {
    /// Options of TensorRT. Changing one builds another engine.
    pub struct TensorrtConfig("tensorrt" in "model.tensorrt") derive(Eq, serde::Serialize, serde::Deserialize) {
        /// Compute in f16: about twice as fast; boxes move by fractions of a pixel.
        pub fp16: bool = Bool, default "false", example "true";
        /// Compute in 8-bit integers; needs `calibration` or a quantised model.
        pub int8: bool = Bool, default "false", example "true";
        /// Calibration table for `int8`. Default: none.
        pub calibration: Option<PathBuf> = Path, example "calibration.flatbuffers";
        /// Run on this DLA core (Jetson). Default: on the GPU.
        pub dla_core: Option<u32> = Integer(0, 7), example "0";
        /// Memory at most while the engine is built, MB. Default: TensorRT's.
        pub workspace_mb: Option<u64> = Integer(1, 1_000_000), example "1024";
        /// Keep measured kernel times; later builds are faster.
        pub timing_cache: bool = Bool, default "true", example "false";
        /// How hard the builder tries: 0 builds fast, 5 makes the fastest engine. Default: TensorRT's, 3.
        pub builder_level: Option<u8> = Integer(0, 5), example "5";
        /// Launch all kernels at once, from a recording. Works only for models that run wholly on the GPU with fixed sizes.
        pub cuda_graph: bool = Bool, default "false", example "true";
        /// Batch sizes that the engine is made for, where the model leaves the batch open. Default: the batch that Ocelli uses.
        pub profile: Option<BatchProfile> = Optional(BatchProfile::SECTION), example "{min: 1, opt: 4, max: 8}";
    }
}

section! {
    /// Frames per inference that a TensorRT engine is made for. Height and width are always those of the input.
    pub struct BatchProfile("profile" in "model.tensorrt.profile") derive(Copy, Eq, serde::Serialize, serde::Deserialize) {
        /// Smallest batch. Used only with `cuda_graph`, where whole batches run; else the engine must take a single frame.
        pub min: u32 = Integer(1, 64), default "1", example "1";
        /// The batch that it is fastest for. Default: `max`.
        pub opt: Option<u32> = Integer(1, 64), example "4";
        /// Largest batch. Default: the batch that Ocelli uses.
        pub max: Option<u32> = Integer(1, 64), example "8";
    }
}

section! {
    /// Options of CUDA.
    pub struct CudaConfig("cuda" in "model.cuda") derive(Eq, serde::Serialize, serde::Deserialize) {
        /// GPU memory at most, MB. Default: no limit.
        pub memory_mb: Option<u64> = Integer(16, 1_000_000), example "2048";
        /// How the memory pool grows; `as_requested` takes less memory and more time.
        pub arena: Arena = Word(Arena::WORDS), default "power_of_two", example "as_requested";
        /// How cuDNN chooses its kernels; `exhaustive` measures all of them when the model is loaded.
        pub cudnn_search: CudnnSearch = Word(CudnnSearch::WORDS), default "exhaustive", example "heuristic";
        /// TensorFloat-32 (10 bits of precision) inside matrix products, on GPUs that have it.
        pub tf32: bool = Bool, default "true", example "false";
        /// Launch all kernels at once, from a recording. Works only for models that run wholly on the GPU with fixed sizes.
        pub cuda_graph: bool = Bool, default "false", example "true";
    }
}

section! {
    /// Options of OpenVINO. Its number of threads is `model.threads`.
    pub struct OpenvinoConfig("openvino" in "model.openvino") derive(Eq, serde::Serialize, serde::Deserialize) {
        /// OpenVINO's library. Default: below `OPENVINO_INSTALL_DIR` or `INTEL_OPENVINO_DIR`, else the usual places. `auto` looks
        /// for it only when `precision` is not `f32`.
        pub library: Option<PathBuf> = Path, example "/usr/lib/libopenvino_c.so";
        /// What it computes in. On a processor that cannot, OpenVINO is an error, or under `auto` the next backend is used.
        /// `bf16` is faster with AMX or AVX-512, and moves boxes by pixels. In `f32` OpenVINO is hardly faster than `cpu`, so
        /// `auto` takes it only in another precision.
        pub precision: Precision = Word(Precision::WORDS), default "f32", example "bf16";
    }
}

words! {
    /// Which backend was asked for.
    pub enum BackendChoice {
        /// The fastest that works, with a warning for each faster one that does not.
        Auto = "auto",
        /// ONNX Runtime with TensorRT, or an error.
        Tensorrt = "tensorrt",
        /// ONNX Runtime with CUDA, or an error.
        Cuda = "cuda",
        /// OpenVINO on the CPU, or an error.
        Openvino = "openvino",
        /// ONNX Runtime on the CPU, or an error.
        Cpu = "cpu",
        /// tract, or an error.
        Tract = "tract",
    }
}

words! {
    /// How CUDA's memory pool grows.
    pub enum Arena {
        /// By the next power of two: few, large steps.
        PowerOfTwo = "power_of_two",
        /// By the size that is requested.
        AsRequested = "as_requested",
    }
}

words! {
    /// How cuDNN chooses its kernels.
    pub enum CudnnSearch {
        /// Measure all.
        Exhaustive = "exhaustive",
        /// Follow cuDNN's rules.
        Heuristic = "heuristic",
        /// Take the one that always works.
        Default = "default",
    }
}

words! {
    /// What a runtime computes in.
    pub enum Precision {
        /// f32: the boxes of the reference.
        F32 = "f32",
        /// f16.
        F16 = "f16",
        /// f16 with the range of f32 and 8 bits of precision.
        Bf16 = "bf16",
    }
}
