//! `ocelli models prepare`: rewrites a model for the machine that runs it, and checks that its results stay the same.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};

use super::super::Failure;
use super::super::options::ModelOptions;
use crate::config::ModelConfig;
use crate::eval::{Agreement, Tolerance, Worst};
use crate::infer::{Session, load};
use crate::model::{
    DecodeParams, Family, GraphNms, InputTensor, MANIFEST, Manifest, ManifestInput, ModelSpec, Nms, Prepare, decode,
    prepare,
};
use crate::preprocess::Preprocessor;
use crate::types::{Detection, ImageView, Plane, Size};

/// Largest relative difference of output values: the arithmetic is the same, its order may differ.
const SAME: f32 = 1e-3;
/// Least IoU of a box computed in f16 with the original's; scores may differ by [`SCORE`].
const OVERLAP: f32 = 0.9;
const SCORE: f32 = 0.03;
/// The same for NMS in the graph, which only selects boxes.
const SAME_OVERLAP: f32 = 0.99;
const SAME_SCORE: f32 = 0.001;
const THRESHOLD: f32 = 0.25;
const IOU: f32 = 0.45;
const MAX: usize = 300;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ocelli models prepare yolo.onnx yolo-u8.onnx --bytes --input-size 640x384
  ocelli models prepare yolo.onnx yolo-fp16.onnx --fp16 --pictures street.jpg")]
pub(super) struct Args {
    /// An .onnx file or a model folder
    input: PathBuf,
    /// The file to write
    output: PathBuf,
    /// The new model takes bytes and scales them itself
    #[arg(long)]
    bytes: bool,
    /// With --bytes: channels last (NHWC)
    #[arg(long, requires = "bytes")]
    channels_last: bool,
    /// Store weights as f16: a file of half the size
    #[arg(long)]
    half_weights: bool,
    /// Compute in f16: half the size and, where the hardware supports it, faster; input, outputs and everything after the last
    /// convolution stay f32
    #[arg(long, conflicts_with = "half_weights")]
    fp16: bool,
    /// Append NMS: the model puts out the boxes that are kept, as [1, N, 6] of corners, score and class
    #[arg(long)]
    nms: bool,
    /// With --nms: of two boxes of a class that overlap by more than this IoU, the one with the higher score is kept
    #[arg(long, default_value_t = IOU, value_name = "0..1", requires = "nms")]
    nms_iou: f32,
    /// With --nms: boxes of lower score are dropped; cameras cannot set a lower threshold afterwards
    #[arg(long, default_value_t = 0.1, value_name = "0..1", requires = "nms")]
    nms_score: f32,
    /// With --nms: boxes at most, 1 … 1000
    #[arg(long, default_value_t = MAX, value_name = "N", requires = "nms")]
    nms_max: usize,
    /// Fix a dynamic batch to this many frames per run
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// Pictures on which both models are compared, besides synthetic ones; f16 and NMS need some with objects on them
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pictures: Vec<PathBuf>,
    #[command(flatten)]
    model: ModelOptions,
    /// Write the new model without comparing it
    #[arg(long)]
    no_verify: bool,
}

pub(super) fn run(args: &Args) -> Result<String, Failure> {
    let before = ModelSpec::open(&args.input, args.model.input_size)?.held_to(args.batch, None)?;
    let nms = GraphNms { iou: args.nms_iou, score: args.nms_score, max: args.nms_max };
    let how = Prepare {
        bytes_input: args.bytes,
        channels_last: args.channels_last,
        half_weights: args.half_weights,
        fp16: args.fp16,
        nms: args.nms.then_some(nms),
    };
    let bytes = before.bytes()?;
    let prepared =
        prepare(&bytes, &before, how).with_context(|| format!("cannot prepare {}", before.path.display()))?;
    let folder = args.output.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Checked in a folder of its own, then moved: an unchecked model never lies at the output path.
    let scratch = tempfile::Builder::new().prefix(".ocelli-prepare-").tempdir_in(folder);
    let scratch = scratch.with_context(|| format!("cannot create a folder in {}", folder.display()))?;
    let name = args.output.file_name().context("the output needs a file name")?;
    let candidate = scratch.path().join(name);
    fs::write(&candidate, &prepared).with_context(|| format!("cannot write {}", candidate.display()))?;
    let manifest = manifest_of(&before, &name.to_string_lossy(), how);
    if let Some(manifest) = &manifest {
        let text = serde_json::to_string_pretty(manifest)?;
        fs::write(scratch.path().join(MANIFEST), text + "\n").context("cannot write the manifest")?;
    }
    let after = ModelSpec::open(&candidate, None)?;
    let outcome = if args.no_verify { "not compared".into() } else { verify(&before, &after, how, args)? };
    fs::rename(&candidate, &args.output).with_context(|| format!("cannot write {}", args.output.display()))?;
    let mut text = format!(
        "{}: {} bytes, was {}; input {} {:?}; {outcome}\n",
        args.output.display(),
        prepared.len(),
        bytes.len(),
        after.input.elem.as_str(),
        after.input.shape(after.input.batch.size)
    );
    if manifest.is_some() {
        let manifest = folder.join(MANIFEST);
        if manifest.exists() {
            text += &format!(
                "{} is there already: name the new file in it, or move the file to a folder of its own\n",
                manifest.display()
            );
        } else {
            fs::rename(scratch.path().join(MANIFEST), &manifest)
                .with_context(|| format!("cannot write {}", manifest.display()))?;
            text += &format!("{}: written\n", manifest.display());
        }
    }
    Ok(text)
}

/// The manifest of the prepared model, if it needs one. JSON is valid YAML.
fn manifest_of(before: &ModelSpec, file: &str, how: Prepare) -> Option<Manifest> {
    // Several families have six columns, so the family is written down.
    let fresh = || how.nms.and_then(|_| Manifest::parse(&format!("file: {file:?}")).ok());
    let manifest = before.manifest.clone().or_else(fresh)?;
    let mut manifest = Manifest { file: file.to_owned(), sha256: None, ..manifest };
    if how.nms.is_some() {
        manifest.family = Some(Family::EndToEnd);
        (manifest.strides, manifest.anchors, manifest.outputs) = (None, None, None);
        let labels = &before.id.labels;
        manifest.labels = manifest.labels.or_else(|| (!labels.is_empty()).then(|| labels.clone()));
        // Values that were implied by the old family.
        let input = &before.input;
        manifest.input = ManifestInput {
            width: None,
            height: None,
            color: Some(input.order),
            scale: Some(input.scale),
            pad: Some(input.padding),
            pad_value: Some(input.pad_value),
        };
    }
    // Measured on another file.
    manifest.accuracy.clear();
    manifest.allow_external_data = false;
    if how.bytes_input {
        manifest.input.scale = None;
    }
    Some(manifest)
}

/// One of the two models that are compared.
struct Side<'a> {
    spec: &'a ModelSpec,
    session: Box<dyn Session>,
    preprocessor: Preprocessor,
    outputs: Vec<Vec<f32>>,
    detections: Vec<Detection>,
}

impl<'a> Side<'a> {
    fn new(spec: &'a ModelSpec, config: &ModelConfig) -> anyhow::Result<(Self, String)> {
        let (session, info) = load(spec, config)?;
        let preprocessor = Preprocessor::new(&spec.input);
        Ok((Self { spec, session, preprocessor, outputs: Vec::new(), detections: Vec::new() }, info.version))
    }

    fn run(&mut self, size: Size, rgb: &[u8], criteria: &Criteria) -> anyhow::Result<()> {
        let mut tensor = InputTensor::new(&self.spec.input);
        let view = ImageView::Rgb { size, rgb: Plane { data: rgb, stride: size.w as usize * 3 } };
        let letterbox = self.preprocessor.fill(&view, &mut tensor)?;
        // Below the threshold too: f16 may move a score across it.
        let params = DecodeParams { threshold: criteria.tolerance.threshold - criteria.tolerance.score, classes: None };
        let (spec, outputs) = (self.spec, &mut self.outputs);
        let mut candidates = Vec::new();
        self.session.run_one(tensor.view(), &mut |tensors| {
            *outputs = tensors.iter().map(|tensor| tensor.to_vec()).collect();
            decode(spec, tensors, &params, &mut candidates);
        })?;
        Nms::new().run(&mut candidates, spec.nms_iou(criteria.iou), criteria.max, &letterbox, &mut self.detections);
        Ok(())
    }
}

/// How two models are compared.
struct Criteria {
    /// By boxes instead of output values.
    boxes: bool,
    tolerance: Tolerance,
    iou: f32,
    max: usize,
}

impl Criteria {
    fn of(how: Prepare) -> Self {
        let half = how.half_weights || how.fp16;
        let (least, iou, score) = if half { (THRESHOLD, OVERLAP, SCORE) } else { (0.0, SAME_OVERLAP, SAME_SCORE) };
        let nms = how.nms.unwrap_or(GraphNms { iou: IOU, score: THRESHOLD, max: MAX });
        // NMS in the graph drops what is below its own limit.
        let threshold = least.max(nms.score + if how.nms.is_some() { 2.0 * score } else { 0.0 });
        let tolerance = Tolerance { threshold, iou, score };
        Self { boxes: half || how.nms.is_some(), tolerance, iou: nms.iou, max: nms.max }
    }
}

/// Runs both models on the same pictures; an error when they differ.
fn verify(before: &ModelSpec, after: &ModelSpec, how: Prepare, args: &Args) -> anyhow::Result<String> {
    let config = args.model.config(None);
    let criteria = Criteria::of(how);
    let (mut old, _) = Side::new(before, &config).context("the original model")?;
    let (mut new, backend) = Side::new(after, &config).context("the prepared model")?;
    let mut pictures = synthetic(before.input.size);
    for path in &args.pictures {
        let picture = image::open(path).with_context(|| format!("cannot read {}", path.display()))?.into_rgb8();
        pictures.push((path.display().to_string(), Size::new(picture.width(), picture.height()), picture.into_raw()));
    }
    let (mut worst, mut boxes, mut agreement) = (0.0_f32, 0, Agreement::default());
    for (name, size, rgb) in &pictures {
        old.run(*size, rgb, &criteria)?;
        new.run(*size, rgb, &criteria)?;
        if criteria.boxes {
            agreement.add(&old.detections, &new.detections, &criteria.tolerance);
            if agreement.agreed < agreement.objects {
                bail!("{}: {}", not_same(name), summary(&agreement));
            }
        } else {
            worst = worst.max(difference(&old.outputs, &new.outputs).with_context(|| not_same(name))?);
        }
        boxes += old.detections.len();
    }
    if worst > SAME {
        bail!("the prepared model's outputs differ (by {worst}, relatively); it is not written");
    }
    if criteria.boxes && agreement.objects == 0 {
        bail!(
            "nothing was found on the pictures, so the new model is not proven: give --pictures with objects on them"
        );
    }
    let count = pictures.len();
    Ok(if criteria.boxes {
        format!("the same as before on {count} pictures with {backend}: {}", summary(&agreement))
    } else {
        format!("the same as before on {count} pictures ({boxes} boxes) with {backend}")
    })
}

fn summary(agreement: &Agreement) -> String {
    let Agreement { objects, agreed, worst_iou, worst_score, .. } = agreement;
    let value = |worst: &Option<Worst>| worst.map_or("none".into(), |worst| format!("{:.4}", worst.value));
    format!(
        "{agreed} of {objects} boxes, worst overlap {}, largest difference of scores {}",
        value(worst_iou),
        value(worst_score)
    )
}

fn not_same(picture: &str) -> String {
    format!("the prepared model is not the same on {picture}; it is not written")
}

/// Noise, a gradient and grey; the same ones each time.
fn synthetic(size: Size) -> Vec<(String, Size, Vec<u8>)> {
    let count = 3 * size.w * size.h;
    let noise = |n: u32| (n.wrapping_mul(2_654_435_761) >> 13) as u8;
    let gradient = |n: u32| (u64::from(n) * 255 / u64::from(count)) as u8;
    let picture = |name: &str, pixel: &dyn Fn(u32) -> u8| (name.to_owned(), size, (0..count).map(pixel).collect());
    vec![picture("noise", &noise), picture("a gradient", &gradient), picture("grey", &|_| 114)]
}

/// The largest relative difference of output values.
fn difference(old: &[Vec<f32>], new: &[Vec<f32>]) -> anyhow::Result<f32> {
    if old.iter().map(Vec::len).ne(new.iter().map(Vec::len)) {
        return Err(anyhow!("its outputs have different lengths"));
    }
    if new.iter().flatten().any(|v| !v.is_finite()) && old.iter().flatten().all(|v| v.is_finite()) {
        return Err(anyhow!("its outputs are not finite"));
    }
    let pairs = old.iter().flatten().zip(new.iter().flatten());
    Ok(pairs.map(|(a, b)| (a - b).abs() / (1.0 + a.abs())).fold(0.0, f32::max))
}
