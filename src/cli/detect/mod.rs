//! `ocelli detect`: a picture, a folder, a video or a stream, without a configuration file.

mod output;
mod stills;
mod video;

use std::path::PathBuf;
use std::sync::Arc;

use self::output::Output;
use super::options::{NamedModel, parse_share, start_engine};
use super::pictures::{is_picture, list};
use super::{Failure, log_warnings};
use crate::app::open_model;
use crate::config::DetectConfig;
use crate::types::{Url, redact};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ocelli detect street.jpg --label car,truck
  ocelli detect rtsp://192.0.2.7/stream --frames 100 --json -")]
pub(crate) struct Args {
    /// A picture (JPEG, PNG), a folder of pictures, a video file, or an rtsp:// address
    #[arg(value_name = "IMAGE|DIR|VIDEO|URL")]
    input: String,
    /// Lowest confidence that is reported, 0 to 1
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
    /// Folder for annotated pictures or video and the JSON [default: runs/detect/001, 002, …]
    #[arg(short, long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// One JSON line per frame into FILE, or `-` for standard output with nothing else on it and no output folder
    #[arg(long, value_name = "FILE|-")]
    json: Option<PathBuf>,
    /// Stop after this many frames of a video or stream
    #[arg(long, value_name = "N")]
    frames: Option<u64>,
    #[command(flatten)]
    model: NamedModel,
}

/// What the input is; decided before a model is loaded.
enum Input {
    Stills(Vec<PathBuf>),
    Video(PathBuf),
    Stream(String),
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
            let files = list(&path, is_picture)?;
            anyhow::ensure!(!files.is_empty(), "{text}: the folder holds no picture (.jpg, .jpeg, .png)");
            return Ok(Self::Stills(files));
        }
        anyhow::ensure!(meta.len() > 0, "{text}: the file is empty");
        Ok(if is_picture(&path) { Self::Stills(vec![path]) } else { Self::Video(path) })
    }
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    log_warnings()?;
    let input = Input::of(&args.input)?;
    let model = args.model.config();
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
    output.begin(&engine);
    match input {
        Input::Stills(files) => stills::run(&files, &engine, &detect, &mut output),
        Input::Video(path) => video::run(video::file(&path), &engine, &detect, args.frames, &mut output),
        Input::Stream(url) => video::run(video::stream(&url), &engine, &detect, args.frames, &mut output),
    }?;
    output.finish();
    Ok(())
}
