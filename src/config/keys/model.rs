//! The keys of `model:`.

use super::{Key, Kind, Section, Short, key};

/// The same for both of NVIDIA's providers.
const CUDA_GRAPH: Key = key(
    "cuda_graph",
    Kind::Bool,
    Some("false"),
    "true",
    "Launch all kernels at once, by a recording of them. Not every model can: all nodes on the GPU, sizes that never change.",
);

/// `model:`
pub(crate) static MODEL: Section = Section {
    name: "model",
    doc: "The detector. Short form: its file.",
    short: Short::Key("file"),
    keys: &[
        key(
            "file",
            Kind::Path,
            None,
            "models/yolo.onnx",
            "An `.onnx` file, or a folder with a `model.yaml`. Default: the model shipped with Ocelli.",
        ),
        key(
            "sha256",
            Kind::Sha256,
            None,
            "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
            "Expected SHA-256 of the `.onnx` file. Default: not compared.",
        ),
        key(
            "backend",
            Kind::Word(&["auto", "tensorrt", "cuda", "openvino", "cpu", "tract"]),
            Some("auto"),
            "cpu",
            "What runs the model. `auto` takes the best that works; any other either works or is an error.",
        ),
        key(
            "ort_library",
            Kind::Path,
            None,
            "/usr/lib/libonnxruntime.so",
            "ONNX Runtime's library. Default: `ORT_DYLIB_PATH`, else the usual places.",
        ),
        key(
            "threads",
            Kind::Integer { min: 1, max: 256 },
            None,
            "2",
            "CPU threads: of the one session of ONNX Runtime, or sessions of tract (at most 4), whose inferences take one thread each. Unset: chosen from the machine, several sessions side by side.",
        ),
        key(
            "input_size",
            Kind::Size { min: 32, max: 4096 },
            None,
            "640x384",
            "Width and height of the input, for models that leave them open: `640` or `640x384`. Default: the model's own.",
        ),
        key(
            "batch",
            Kind::Integer { min: 1, max: 64 },
            None,
            "8",
            "Frames that run together at most, for models whose batch is open. Default: the model's own, 1 where it is open.",
        ),
        key(
            "batch_wait",
            Kind::Duration { min: 0, max: 1_000 },
            Some("0ms"),
            "5ms",
            "Longest time that a frame waits for others to run with. At 0 only those that wait anyway run together.",
        ),
        key(
            "spinning",
            Kind::Bool,
            Some("false"),
            "true",
            "ONNX Runtime's threads wait busily: a little faster alone, much slower beside anything else.",
        ),
        key("device", Kind::Integer { min: 0, max: 63 }, Some("0"), "1", "Number of the GPU."),
        key(
            "cache",
            Kind::Path,
            None,
            "/var/cache/ocelli/engines",
            "Folder for GPU engines. Default: `engines` in `CACHE_DIRECTORY`, else in the user's cache folder.",
        ),
        key(
            "cache_mb",
            Kind::Integer { min: 16, max: 1_000_000 },
            Some("4096"),
            "1024",
            "Size of that folder at most, MB; the engines that were not used for longest go first.",
        ),
        key(
            "min_agreement",
            Kind::Number { min: 0.0, max: 1.0 },
            Some("0.95"),
            "0.99",
            "Share of the objects on the pictures in the model's folder `golden` on which a GPU engine that was built, or OpenVINO in another precision than `f32`, must agree with the reference before it serves; 0: not compared.",
        ),
        key("tensorrt", Kind::Section(&TENSORRT), None, "{fp16: true}", "Options of TensorRT."),
        key(
            "cuda",
            Kind::Section(&CUDA),
            None,
            "{tf32: false}",
            "Options of CUDA, also where TensorRT leaves it work.",
        ),
        key("openvino", Kind::Section(&OPENVINO), None, "{precision: bf16}", "Options of OpenVINO."),
    ],
};

/// `model.tensorrt:`
pub(crate) static TENSORRT: Section = Section {
    name: "tensorrt",
    doc: "Options of TensorRT. Each other choice is another engine, which is built anew.",
    short: Short::None,
    keys: &[
        key("fp16", Kind::Bool, Some("false"), "true", "Half floats: about twice as fast, boxes move by fractions."),
        key("int8", Kind::Bool, Some("false"), "true", "8-bit integers; needs `calibration` or a quantised model."),
        key("calibration", Kind::Path, None, "calibration.flatbuffers", "Calibration table for `int8`. Default: none."),
        key(
            "dla_core",
            Kind::Integer { min: 0, max: 7 },
            None,
            "0",
            "Run on this DLA core (Jetson). Default: on the GPU.",
        ),
        key(
            "workspace_mb",
            Kind::Integer { min: 1, max: 1_000_000 },
            None,
            "1024",
            "Memory at most while the engine is built, MB. Default: TensorRT's.",
        ),
        key("timing_cache", Kind::Bool, Some("true"), "false", "Keep measured kernel times; later builds are faster."),
        key(
            "builder_level",
            Kind::Integer { min: 0, max: 5 },
            None,
            "5",
            "How hard the builder tries: 0 builds fast, 5 runs fast. Default: TensorRT's, 3.",
        ),
        CUDA_GRAPH,
        key(
            "profile",
            Kind::Section(&PROFILE),
            None,
            "{min: 1, opt: 4, max: 8}",
            "Batches that the engine is made for, where the model leaves the batch open. Default: the batch that Ocelli uses.",
        ),
    ],
};

/// `model.tensorrt.profile:`
pub(crate) static PROFILE: Section = Section {
    name: "profile",
    doc: "Frames in one run that TensorRT's engine is made for. Height and width are always those of the input.",
    short: Short::None,
    keys: &[
        key(
            "min",
            Kind::Integer { min: 1, max: 64 },
            Some("1"),
            "1",
            "Fewest frames in a run. Read with `cuda_graph` only, where whole batches run; else a lone frame must fit.",
        ),
        key("opt", Kind::Integer { min: 1, max: 64 }, None, "4", "Frames that it is fastest for. Default: `max`."),
        key(
            "max",
            Kind::Integer { min: 1, max: 64 },
            None,
            "8",
            "Most frames that can come. Default: what Ocelli uses.",
        ),
    ],
};

/// `model.cuda:`
pub(crate) static CUDA: Section = Section {
    name: "cuda",
    doc: "Options of CUDA.",
    short: Short::None,
    keys: &[
        key(
            "memory_mb",
            Kind::Integer { min: 16, max: 1_000_000 },
            None,
            "2048",
            "GPU memory at most, MB. Default: no limit.",
        ),
        key(
            "arena",
            Kind::Word(&["power_of_two", "as_requested"]),
            Some("power_of_two"),
            "as_requested",
            "How the memory pool grows; `as_requested` takes less, and longer.",
        ),
        key(
            "cudnn_search",
            Kind::Word(&["exhaustive", "heuristic", "default"]),
            Some("exhaustive"),
            "heuristic",
            "How cuDNN chooses its kernels; `exhaustive` measures all at the start.",
        ),
        key(
            "tf32",
            Kind::Bool,
            Some("true"),
            "false",
            "Shorter floats inside matrix products, on GPUs that have them.",
        ),
        CUDA_GRAPH,
    ],
};

/// `model.openvino:`
pub(crate) static OPENVINO: Section = Section {
    name: "openvino",
    doc: "Options of OpenVINO. Its threads are those of `model.threads`.",
    short: Short::None,
    keys: &[
        key(
            "library",
            Kind::Path,
            None,
            "/usr/lib/libopenvino_c.so",
            "OpenVINO's library. Default: below `OPENVINO_INSTALL_DIR` or `INTEL_OPENVINO_DIR`, else the usual places. `auto` looks for it only when `precision` is not `f32`.",
        ),
        key(
            "precision",
            Kind::Word(&["f32", "f16", "bf16"]),
            Some("f32"),
            "bf16",
            "What it computes in; a processor that cannot is an error, and under `auto` the next backend's turn. `bf16` is faster where there is AMX or AVX-512, and moves boxes by pixels. In `f32` OpenVINO is hardly faster than `cpu`, so `auto` takes it only in another one.",
        ),
    ],
};
