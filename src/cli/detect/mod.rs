//! `ocelli detect`: a picture, a folder, a video or a stream, without a configuration file.

mod output;
mod stills;
mod video;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::output::Output;
pub(super) use self::stills::{DEADLINE, read_picture, submit};
use super::Failure;
use crate::app::open_model;
use crate::config::{BackendChoice, DetectConfig, ModelConfig, OpenvinoConfig, Precision};
use crate::infer::Engine;
use crate::model::ModelSpec;
use crate::telemetry;
use crate::telemetry::log::LogFormat;
use crate::types::{Size, Url, redact};

/// sysexits(3): a service that is needed is not available.
pub(super) const UNAVAILABLE: u8 = 69;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A picture (JPEG, PNG), a folder of pictures, a video file, or an rtsp:// address
    #[arg(value_name = "IMAGE|DIR|VIDEO|URL")]
    input: String,
    /// An .onnx file or a model folder [default: the model shipped with Ocelli]
    #[arg(short, long, value_name = "FILE|DIR")]
    model: Option<PathBuf>,
    /// What runs the model; `auto` takes the best that works, a name is strict
    #[arg(short, long, default_value = "auto", value_parser = parse_backend, value_name = "auto|tract|cpu|openvino|cuda|tensorrt")]
    backend: BackendChoice,
    /// Lowest confidence reported, 0 to 1
    #[arg(long, default_value_t = 0.25, value_parser = parse_share)]
    conf: f32,
    /// Boxes of one class that overlap more than this are one object, 0 to 1
    #[arg(long, default_value_t = 0.45, value_parser = parse_share)]
    iou: f32,
    /// Report only these labels; repeat it or separate them by commas
    #[arg(long, value_delimiter = ',', value_name = "LABEL")]
    label: Vec<String>,
    /// Objects per frame at most
    #[arg(long, default_value_t = 300, value_name = "N")]
    max_detections: usize,
    /// Input size for models whose height and width are dynamic
    #[arg(long, value_parser = parse_size, value_name = "N|WxH")]
    input_size: Option<Size>,
    /// Folder for annotated pictures or video and the JSON [default: runs/detect/001, 002, …]
    #[arg(short, long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// One JSON line per frame into FILE, or `-` for standard output with nothing else on it and no output folder
    #[arg(long, value_name = "FILE|-")]
    json: Option<PathBuf>,
    /// Stop after this many frames of a video or stream
    #[arg(long, value_name = "N")]
    frames: Option<u64>,
    /// Path of libonnxruntime.so [default: ORT_DYLIB_PATH, then the usual places]
    #[arg(long, value_name = "FILE")]
    ort_library: Option<PathBuf>,
    /// Path of libopenvino_c.so [default: OPENVINO_INSTALL_DIR or INTEL_OPENVINO_DIR, then the usual places]
    #[arg(long, value_name = "FILE")]
    openvino_library: Option<PathBuf>,
}

pub(super) fn parse_backend(text: &str) -> Result<BackendChoice, String> {
    match text {
        "auto" => Ok(BackendChoice::Auto),
        "tract" => Ok(BackendChoice::Tract),
        "cpu" => Ok(BackendChoice::Cpu),
        "openvino" => Ok(BackendChoice::Openvino),
        "cuda" => Ok(BackendChoice::Cuda),
        "tensorrt" => Ok(BackendChoice::Tensorrt),
        _ => Err("expected auto, tract, cpu, openvino, cuda or tensorrt".into()),
    }
}

pub(super) fn parse_precision(text: &str) -> Result<Precision, String> {
    let all = [Precision::F32, Precision::F16, Precision::Bf16];
    all.into_iter().find(|precision| precision.as_str() == text).ok_or_else(|| "expected f32, f16 or bf16".into())
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

/// What the input is, decided before anything is loaded.
enum Input {
    Stills(Vec<PathBuf>),
    Video(PathBuf),
    Stream(String),
}

/// Endings of the pictures that can be read.
pub(super) const PICTURES: [&str; 3] = ["jpg", "jpeg", "png"];

pub(super) fn is_picture(path: &Path) -> bool {
    path.extension().is_some_and(|ext| PICTURES.iter().any(|known| ext.eq_ignore_ascii_case(known)))
}

impl Input {
    fn of(text: &str) -> anyhow::Result<Self> {
        if let Some((scheme, _)) = text.split_once("://") {
            anyhow::ensure!(
                matches!(scheme, "rtsp" | "rtsps"),
                "{}: only rtsp:// and rtsps:// addresses can be read; for a file give its path",
                redact(text)
            );
            if let Err(reason) = Url::parse(text) {
                anyhow::bail!("{}: this is not an address: {reason}", redact(text));
            }
            return Ok(Self::Stream(text.to_owned()));
        }
        let path = PathBuf::from(text);
        let meta = std::fs::metadata(&path).map_err(|error| {
            anyhow::anyhow!("{text}: {error}; give a picture, a folder, a video or an rtsp:// address")
        })?;
        if meta.is_dir() {
            let entries = std::fs::read_dir(&path).map_err(|error| anyhow::anyhow!("{text}: {error}"))?;
            let mut files: Vec<_> =
                entries.filter_map(Result::ok).map(|entry| entry.path()).filter(|path| is_picture(path)).collect();
            files.sort();
            anyhow::ensure!(!files.is_empty(), "{text}: the folder holds no picture (.jpg, .jpeg, .png)");
            return Ok(Self::Stills(files));
        }
        anyhow::ensure!(meta.len() > 0, "{text}: the file is empty");
        Ok(if is_picture(&path) { Self::Stills(vec![path]) } else { Self::Video(path) })
    }
}

/// Starts the engine; a named backend that cannot run is a service that is not available.
pub(super) fn start_engine(spec: Arc<ModelSpec>, model: &ModelConfig) -> Result<Engine, Failure> {
    let code = if model.backend == BackendChoice::Auto { 1 } else { UNAVAILABLE };
    Engine::start(spec, model).map_err(|error| Failure::new(code, error))
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    telemetry::log::init("warn", LogFormat::Auto).map_err(|error| Failure::new(2, error))?;
    let input = Input::of(&args.input)?;
    let model = ModelConfig {
        file: args.model.clone(),
        backend: args.backend,
        ort_library: args.ort_library.clone(),
        input_size: args.input_size,
        openvino: OpenvinoConfig { library: args.openvino_library.clone(), ..OpenvinoConfig::default() },
        ..ModelConfig::default()
    };
    let spec = Arc::new(open_model(&model)?);
    let detect = DetectConfig {
        threshold: args.conf,
        iou: args.iou,
        max_detections: args.max_detections,
        labels: (!args.label.is_empty()).then(|| args.label.clone()),
        ..DetectConfig::default()
    };
    let engine = start_engine(spec, &model)?;
    let mut output = Output::create(args.out.as_deref(), args.json.as_deref())?;
    output.engine(&engine);
    match input {
        Input::Stills(files) => stills::run(&files, &engine, &detect, &mut output),
        Input::Video(path) => video::run(video::file(&path), &engine, &detect, args.frames, &mut output),
        Input::Stream(url) => video::run(video::stream(&url), &engine, &detect, args.frames, &mut output),
    }?;
    output.finish()?;
    Ok(())
}
