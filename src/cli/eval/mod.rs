//! `ocelli eval`: the average precision of a model on labelled pictures, through the stages that `detect` and `run` use.

mod data;
mod report;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::data::DataSet;
use self::report::{Outputs, Report};
use super::options::{NamedModel, parse_share, start_engine};
use super::pictures::{Picture, detect_all, read_picture};
use super::terminal::progress;
use super::{Failure, log_warnings};
use crate::app::open_model;
use crate::config::DetectConfig;
use crate::eval::{self, Found, ImageTruths, MAX_PER_CLASS, Rect, ResultRow};
use crate::infer::Engine;
use crate::types::Size;

/// Average precision as `pycocotools` computes it: IoU 0.50 to 0.95, 101 recalls, all areas, the 100 best detections of a
/// picture and class, crowds ignored, classes without a labelled object left out of the mean.
///
/// `--data` is a folder with images/SPLIT and labels/SPLIT (YOLO: a text file per picture, `class x y width height` as
/// fractions), or with images/SPLIT and annotations/SPLIT.json or instances_SPLIT.json (COCO), or such a JSON itself.
/// Classes are matched by name with data.yaml's `names` or COCO's categories, else by number. A picture without a label
/// file has no objects.
#[derive(Debug, clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "\
Examples:
  ocelli eval --data highway --split test
  ocelli eval --data coco/annotations/instances_val.json --model yolo.onnx --json -"
)]
pub(crate) struct Args {
    /// The labelled pictures
    #[arg(short, long, value_name = "DIR|FILE.json")]
    data: PathBuf,
    /// Which part of them
    #[arg(long, default_value = "test", value_name = "NAME")]
    split: String,
    /// Lowest confidence that counts, 0 to 1; a high one cuts the curves short
    #[arg(long, default_value_t = 0.001, value_parser = parse_share)]
    conf: f32,
    /// Boxes of one class that overlap more than this are one object, 0 to 1
    #[arg(long, default_value_t = 0.6, value_parser = parse_share)]
    iou: f32,
    /// Objects per picture at most; of these, the 100 best of each class count
    #[arg(long, default_value_t = 300, value_name = "N")]
    max_detections: usize,
    /// Take only the first N pictures
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// All figures as JSON into FILE, or `-` for standard output with nothing else on it
    #[arg(long, value_name = "FILE|-")]
    json: Option<PathBuf>,
    /// Precision over recall at IoU 0.5 as a picture
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// All detections in COCO's results format; for YOLO labels, pictures count from 1 by name and categories are class + 1
    #[arg(long, value_name = "FILE.json")]
    detections: Option<PathBuf>,
    #[command(flatten)]
    model: NamedModel,
}

/// The results over all pictures.
struct Measured {
    images: Vec<ImageTruths>,
    rows: Vec<ResultRow>,
    /// Sum of the times in the session.
    infer: Duration,
    /// Wall clock, reading included.
    wall: Duration,
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    log_warnings()?;
    let model = args.model.config();
    let spec = Arc::new(open_model(&model)?);
    // All labels are read before the first inference: a bad line shows at once.
    let set = DataSet::open(&args.data, &args.split, &spec, args.limit.map(|limit| limit as usize))?;
    let outputs = Outputs::create(&args)?;
    let engine = start_engine(spec, &model)?;
    let config = DetectConfig {
        threshold: args.conf,
        iou: args.iou,
        max_detections: args.max_detections,
        ..DetectConfig::default()
    };
    outputs.begin(&engine, &set)?;
    let measured = measure(&set, &engine, &config)?;
    let score = eval::score(&measured.images, engine.spec().output.classes, MAX_PER_CLASS);
    let report = Report { args: &args, set: &set, engine: &engine, score: &score, measured: &measured };
    Ok(outputs.finish(&report)?)
}

/// The mean average precision (IoU 0.50 to 0.95, 0 ..= 1) of what `engine` runs on labelled pictures.
pub(super) fn mean_average_precision(
    engine: &Engine,
    data: &Path,
    split: &str,
    limit: Option<usize>,
) -> anyhow::Result<f64> {
    let set = DataSet::open(data, split, engine.spec(), limit)?;
    let config = DetectConfig { fps: None, threshold: 0.001, iou: 0.6, ..DetectConfig::default() };
    let measured = measure(&set, engine, &config)?;
    let score = eval::score(&measured.images, engine.spec().output.classes, MAX_PER_CLASS);
    Ok(score.map)
}

fn measure(set: &DataSet, engine: &Engine, config: &DetectConfig) -> anyhow::Result<Measured> {
    let started = Instant::now();
    let mut images = Vec::with_capacity(set.samples.len());
    let (mut rows, mut infer) = (Vec::new(), Duration::ZERO);
    let pictures = (0..).zip(&set.samples).map(|(seq, sample)| {
        let rgb = read_picture(&sample.path)?;
        let truths = sample.truths(Size::new(rgb.width(), rgb.height()), &set.map)?;
        Ok(Picture { path: &sample.path, camera: "pictures".into(), seq, rgb, extra: (sample.id, truths) })
    });
    let bar = progress(set.samples.len() as u64);
    detect_all(engine, config, &bar, pictures, |Picture { extra: (image_id, truths), .. }, result| {
        infer += result.latency.infer;
        let mut found = Vec::with_capacity(result.detections.len());
        for detection in &result.detections {
            let (class, score) = (detection.class_id as usize, f64::from(detection.score));
            let rect = Rect::of(&detection.bbox);
            found.push(Found { class, score, rect });
            // A class that the data set does not have is no category of it.
            if let Some(category_id) = set.category_id(class) {
                rows.push(ResultRow { image_id, category_id, bbox: [rect.x, rect.y, rect.w, rect.h], score });
            }
        }
        images.push(ImageTruths { truths, found });
        Ok(())
    })?;
    Ok(Measured { images, rows, infer, wall: started.elapsed() })
}
