//! The configuration as the program uses it: defaults filled in, secrets resolved, durations typed, everything checked.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::resolved_camera::CameraConfig;
use crate::types::{DEFAULT_MODEL, Size};

/// Everything that `ocelli run` needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// This box's name in topics (`ocelli/<node>/…`): `node:` of the file, else the host name.
    pub node: String,
    /// The detector of the cameras that name no other.
    pub model: ModelConfig,
    /// Further detectors by name.
    pub models: BTreeMap<String, ModelConfig>,
    /// MQTT sink.
    pub mqtt: Option<MqttConfig>,
    /// RTSP server for annotated streams; on by default at 127.0.0.1:8554.
    pub rtsp: Option<RtspConfig>,
    /// Health and metrics over HTTP.
    pub http: Option<HttpConfig>,
    /// JSON Lines sink.
    pub jsonl: Option<JsonlConfig>,
    /// Cameras, sorted by name, disabled ones included.
    pub cameras: Vec<CameraConfig>,
    /// How often statistics are published; 10 s by default.
    pub stats_interval: Duration,
    /// Folder of what must survive a restart: `state_dir:` of the file, else systemd's `STATE_DIRECTORY`.
    pub state_dir: Option<PathBuf>,
}

impl Config {
    /// The detectors that enabled cameras use, by name; the default one when no camera is enabled.
    pub fn used_models(&self) -> BTreeMap<&str, &ModelConfig> {
        let cameras = self.cameras.iter().filter(|camera| camera.enabled);
        let mut used: BTreeMap<&str, &ModelConfig> =
            cameras.filter_map(|camera| Some((camera.detect.model.as_str(), self.model_of(camera)?))).collect();
        if used.is_empty() {
            used.insert(DEFAULT_MODEL, &self.model);
        }
        used
    }

    /// Folder in which the starts of the model `name` are recorded: each has a record of its own.
    pub fn starts_folder(&self, name: &str) -> Option<PathBuf> {
        let folder = self.state_dir.as_ref()?;
        Some(if name == DEFAULT_MODEL { folder.clone() } else { folder.join("models").join(name) })
    }

    /// The detector of a camera. `None`: there is none of that name, which no checked configuration has.
    pub fn model_of(&self, camera: &CameraConfig) -> Option<&ModelConfig> {
        match camera.detect.model.as_str() {
            DEFAULT_MODEL => Some(&self.model),
            name => self.models.get(name),
        }
    }
}

/// What was asked of the ladder of backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BackendChoice {
    /// The best that works, with a warning for each better one that does not.
    #[default]
    Auto,
    /// ONNX Runtime with TensorRT, or an error.
    Tensorrt,
    /// ONNX Runtime with CUDA, or an error.
    Cuda,
    /// OpenVINO on the CPU, or an error.
    Openvino,
    /// ONNX Runtime on the CPU, or an error.
    Cpu,
    /// tract, or an error.
    Tract,
}

/// The detector.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct ModelConfig {
    /// An `.onnx` file, or a model folder with a `model.yaml`. `None`: the model shipped with Ocelli.
    pub file: Option<PathBuf>,
    /// Expected SHA-256 of the `.onnx`, lower-case hex.
    pub sha256: Option<String>,
    /// Which backend.
    pub backend: BackendChoice,
    /// Path of `libonnxruntime.so`; else `ORT_DYLIB_PATH`, else the usual places.
    pub ort_library: Option<PathBuf>,
    /// Threads inside one inference; `None`: chosen from the machine.
    pub threads: Option<usize>,
    /// Input size for models whose height and width are dynamic.
    pub input_size: Option<Size>,
    /// Frames that run together at most; `None`: the model's own batch, 1 where it is open.
    pub batch: Option<usize>,
    /// Longest time that a frame waits for others to run with.
    pub batch_wait: Duration,
    /// ONNX Runtime's threads wait busily for work.
    pub spinning: bool,
    /// Number of the GPU.
    pub device: u32,
    /// Folder for GPU engines; `None`: `engines` in the cache folder of the service, else of the user.
    pub cache: Option<PathBuf>,
    /// Size of that folder at most, MB.
    pub cache_mb: u64,
    /// Share of the objects on the model's golden pictures on which what moves boxes (a GPU engine, another
    /// precision) must agree with the reference, 0 ..= 1.
    pub min_agreement: f64,
    /// Options of TensorRT.
    pub tensorrt: TensorrtConfig,
    /// Options of CUDA.
    pub cuda: CudaConfig,
    /// Options of OpenVINO.
    pub openvino: OpenvinoConfig,
}

impl Default for ModelConfig {
    fn default() -> Self {
        Self {
            file: None,
            sha256: None,
            backend: BackendChoice::Auto,
            ort_library: None,
            threads: None,
            input_size: None,
            batch: None,
            batch_wait: Duration::ZERO,
            spinning: false,
            device: 0,
            cache: None,
            cache_mb: 4096,
            min_agreement: 0.95,
            tensorrt: TensorrtConfig::default(),
            cuda: CudaConfig::default(),
            openvino: OpenvinoConfig::default(),
        }
    }
}

/// Options of TensorRT; each other choice is another engine.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct TensorrtConfig {
    /// Half floats.
    pub fp16: bool,
    /// 8-bit integers.
    pub int8: bool,
    /// Calibration table for `int8`.
    pub calibration: Option<PathBuf>,
    /// DLA core to run on, in the place of the GPU.
    pub dla_core: Option<u32>,
    /// Memory at most during the build, MB.
    pub workspace_mb: Option<u64>,
    /// Keep measured kernel times for later builds.
    pub timing_cache: bool,
    /// 0 ..= 5, how hard the builder tries.
    pub builder_level: Option<u8>,
    /// Launch all kernels at once.
    pub cuda_graph: bool,
    /// Batches that the engine is made for; `None`: those that Ocelli uses.
    pub profile: Option<BatchProfile>,
}

/// Frames in one run that an engine is made for: 1 ≤ `min` ≤ `opt` ≤ `max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct BatchProfile {
    /// Fewest that can come.
    pub min: u32,
    /// What it is fastest for; `None`: `max`.
    pub opt: Option<u32>,
    /// Most that can come; `None`: what Ocelli uses.
    pub max: Option<u32>,
}

impl Default for TensorrtConfig {
    fn default() -> Self {
        Self {
            fp16: false,
            int8: false,
            calibration: None,
            dla_core: None,
            workspace_mb: None,
            timing_cache: true,
            builder_level: None,
            cuda_graph: false,
            profile: None,
        }
    }
}

/// Options of CUDA.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct CudaConfig {
    /// GPU memory at most, MB.
    pub memory_mb: Option<u64>,
    /// How the memory pool grows.
    pub arena: Arena,
    /// How cuDNN chooses its kernels.
    pub cudnn_search: CudnnSearch,
    /// TensorFloat-32 inside matrix products.
    pub tf32: bool,
    /// Launch all kernels at once.
    pub cuda_graph: bool,
}

impl Default for CudaConfig {
    fn default() -> Self {
        Self {
            memory_mb: None,
            arena: Arena::default(),
            cudnn_search: CudnnSearch::default(),
            tf32: true,
            cuda_graph: false,
        }
    }
}

/// How CUDA's memory pool grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arena {
    /// By the next power of two: few, large steps.
    #[default]
    PowerOfTwo,
    /// By what is asked for.
    AsRequested,
}

/// How cuDNN chooses its kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CudnnSearch {
    /// Measure all.
    #[default]
    Exhaustive,
    /// Take what its rules say.
    Heuristic,
    /// Take the one that always works.
    Default,
}

/// Options of OpenVINO.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct OpenvinoConfig {
    /// Path of `libopenvino_c.so`; else below `OPENVINO_INSTALL_DIR` or `INTEL_OPENVINO_DIR`, else the usual places.
    pub library: Option<PathBuf>,
    /// What it computes in.
    pub precision: Precision,
}

/// What a runtime computes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// Single floats: the boxes of the reference.
    #[default]
    F32,
    /// Half floats.
    F16,
    /// Half floats with the range of single ones and 8 bits of precision.
    Bf16,
}

impl Precision {
    /// As the configuration writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }
}

/// The MQTT sink.
#[derive(Clone, PartialEq)]
pub struct MqttConfig {
    /// Broker's host.
    pub host: String,
    /// Broker's port.
    pub port: u16,
    /// `mqtts://`.
    pub tls: bool,
    /// User name.
    pub username: Option<String>,
    /// Password, resolved.
    pub password: Option<String>,
    /// CA certificates (PEM) for TLS; `None`: the system's.
    pub ca_file: Option<PathBuf>,
    /// First part of all topics, `ocelli` by default.
    pub prefix: String,
    /// One message per frame on `…/<camera>/frame`; on by default.
    pub frames: bool,
    /// Messages that may wait for the broker; the oldest goes first.
    pub queue: usize,
}

impl std::fmt::Debug for MqttConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MqttConfig")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("tls", &self.tls)
            .field("username", &self.username)
            .field("password", &self.password.as_ref().map(|_| "***"))
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

/// The RTSP server.
#[derive(Debug, Clone, PartialEq)]
pub struct RtspConfig {
    /// Address to listen on; port 0 takes a free one.
    pub listen: SocketAddr,
    /// H.264 bit rate in kbit/s.
    pub bitrate_kbps: u32,
    /// Longest time that a frame waits for its own boxes.
    pub max_delay: Duration,
}

/// The HTTP server.
#[derive(Debug, Clone, PartialEq)]
pub struct HttpConfig {
    /// Address to listen on; port 0 takes a free one.
    pub listen: SocketAddr,
}

/// The JSON Lines sink.
#[derive(Debug, Clone, PartialEq)]
pub struct JsonlConfig {
    /// A path, or `-` for standard output.
    pub file: PathBuf,
}
