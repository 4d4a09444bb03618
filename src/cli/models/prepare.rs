//! `ocelli models prepare`: rewrites a model for the box that runs it, and proves that it still does the same.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};

use super::super::{Failure, detect};
use crate::config::{BackendChoice, ModelConfig};
use crate::eval::{Agreement, Tolerance, Worst};
use crate::infer::{Session, load};
use crate::model::{
    DecodeParams, Family, GraphNms, InputTensor, MANIFEST, Manifest, ManifestInput, ModelSpec, Nms, Prepare, decode,
    prepare,
};
use crate::preprocess::Preprocessor;
use crate::types::{Detection, ImageView, Plane, Size};

/// Numbers may differ by this, relative to their size: the arithmetic is the same, its order may not be.
const SAME: f32 = 1e-3;
/// Boxes of half floats must overlap those of the original by this, and scores may differ by [`SCORE`].
const OVERLAP: f32 = 0.9;
const SCORE: f32 = 0.03;
/// The same for boxes that are only chosen elsewhere.
const SAME_OVERLAP: f32 = 0.99;
const SAME_SCORE: f32 = 0.001;
const THRESHOLD: f32 = 0.25;
const IOU: f32 = 0.45;
const MAX: usize = 300;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// An .onnx file or a model folder
    input: PathBuf,
    /// The file to write
    output: PathBuf,
    /// The new model takes bytes and divides them itself
    #[arg(long)]
    bytes: bool,
    /// With --bytes: it takes pixels, channels last
    #[arg(long, requires = "bytes")]
    channels_last: bool,
    /// Store weights as half floats: a file of half the size
    #[arg(long)]
    half_weights: bool,
    /// Compute in half floats: half the size and, where the hardware has them, faster; input and outputs stay as they are, and
    /// so does what comes behind the last convolution
    #[arg(long, conflicts_with = "half_weights")]
    fp16: bool,
    /// Append NMS: the model puts out the boxes that are kept, as [1, N, 6] of corners, score and class
    #[arg(long)]
    nms: bool,
    /// With --nms: of two boxes of a class that overlap by more than this, the better one is kept
    #[arg(long, default_value_t = IOU, value_name = "0..1", requires = "nms")]
    nms_iou: f32,
    /// With --nms: boxes of no higher score are dropped; no camera can ask for less afterwards
    #[arg(long, default_value_t = 0.1, value_name = "0..1", requires = "nms")]
    nms_score: f32,
    /// With --nms: boxes at most, 1 … 1000
    #[arg(long, default_value_t = MAX, value_name = "N", requires = "nms")]
    nms_max: usize,
    /// Fix the input size of a dynamic model, for example 640 or 640x384
    #[arg(long, value_name = "SIZE", value_parser = detect::parse_size)]
    input_size: Option<Size>,
    /// Fix the batch of a model that leaves it open: so many frames in each run, for engines that want it fixed
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// Pictures to compare both models on, besides made-up ones; half floats and NMS need some with objects on them
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pictures: Vec<PathBuf>,
    /// Backend to compare on
    #[arg(long, default_value = "auto", value_parser = detect::parse_backend, value_name = "auto|tract|cpu|openvino|cuda|tensorrt")]
    backend: BackendChoice,
    /// Write the new model without comparing it
    #[arg(long)]
    no_verify: bool,
}

pub(super) fn run(args: &Args) -> Result<String, Failure> {
    let before = ModelSpec::open(&args.input, args.input_size)?.held_to(args.batch, None)?;
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
    // Proven in a folder of its own, then moved: a model that is not proven never lies at its place.
    let scratch = Scratch::new(folder)?;
    let name = args.output.file_name().context("the output needs a file name")?;
    let candidate = scratch.0.join(name);
    fs::write(&candidate, &prepared).with_context(|| format!("cannot write {}", candidate.display()))?;
    let manifest = manifest_of(&before, &name.to_string_lossy(), how);
    if let Some(manifest) = &manifest {
        let text = serde_json::to_string_pretty(manifest)?;
        fs::write(scratch.0.join(MANIFEST), text + "\n").context("cannot write the manifest")?;
    }
    let after = ModelSpec::open(&candidate, None)?;
    let verdict = if args.no_verify { "not compared".into() } else { verify(&before, &after, how, args)? };
    fs::rename(&candidate, &args.output).with_context(|| format!("cannot write {}", args.output.display()))?;
    let mut text = format!(
        "{}: {} bytes, was {}; input {} {:?}; {verdict}\n",
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
            fs::rename(scratch.0.join(MANIFEST), &manifest)
                .with_context(|| format!("cannot write {}", manifest.display()))?;
            text += &format!("{}: written\n", manifest.display());
        }
    }
    Ok(text)
}

/// A folder that is gone when it is dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new(folder: &Path) -> Result<Self, Failure> {
        let path = folder.join(format!(".ocelli-prepare-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left over is a hidden folder; there is nobody to tell.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The manifest of the prepared model, where the file alone does not say it all. JSON is YAML too.
fn manifest_of(before: &ModelSpec, file: &str, how: Prepare) -> Option<Manifest> {
    // Six columns may mean other things too, so the family is written down.
    let fresh = || how.nms.and_then(|_| Manifest::parse(&format!("file: {file:?}")).ok());
    let manifest = before.manifest.clone().or_else(fresh)?;
    let mut manifest = Manifest { file: file.to_owned(), sha256: None, ..manifest };
    if how.nms.is_some() {
        manifest.family = Some(Family::EndToEnd);
        (manifest.strides, manifest.anchors, manifest.outputs) = (None, None, None);
        let labels = &before.id.labels;
        manifest.labels = manifest.labels.or_else(|| (!labels.is_empty()).then(|| labels.clone()));
        // What followed from the old family.
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

/// A model with all that lies around it.
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

    fn run(&mut self, size: Size, rgb: &[u8], proof: &Proof) -> anyhow::Result<()> {
        let mut tensor = InputTensor::new(&self.spec.input);
        let view = ImageView::Rgb { size, rgb: Plane { data: rgb, stride: size.w as usize * 3 } };
        let letterbox = self.preprocessor.fill(&view, &mut tensor)?;
        // What is nearly sure is looked at too: at the threshold itself, half floats may fall on either side.
        let params = DecodeParams { threshold: proof.tolerance.threshold - proof.tolerance.score, classes: None };
        let (spec, outputs) = (self.spec, &mut self.outputs);
        let mut candidates = Vec::new();
        self.session.run_one(tensor.view(), &mut |tensors| {
            *outputs = tensors.iter().map(|tensor| tensor.to_vec()).collect();
            decode(spec, tensors, &params, &mut candidates);
        })?;
        Nms::new().run(&mut candidates, spec.nms_iou(proof.iou), proof.max, &letterbox, &mut self.detections);
        Ok(())
    }
}

/// How two models are compared.
struct Proof {
    /// By their boxes, not by their numbers.
    boxes: bool,
    tolerance: Tolerance,
    iou: f32,
    max: usize,
}

impl Proof {
    fn of(how: Prepare) -> Self {
        let half = how.half_weights || how.fp16;
        let (least, iou, score) = if half { (THRESHOLD, OVERLAP, SCORE) } else { (0.0, SAME_OVERLAP, SAME_SCORE) };
        let nms = how.nms.unwrap_or(GraphNms { iou: IOU, score: THRESHOLD, max: MAX });
        // Below its own limit, NMS in the graph has nothing to compare.
        let threshold = least.max(nms.score + if how.nms.is_some() { 2.0 * score } else { 0.0 });
        let tolerance = Tolerance { threshold, iou, score };
        Self { boxes: half || how.nms.is_some(), tolerance, iou: nms.iou, max: nms.max }
    }
}

/// Runs both models on the same pictures. An error when they do not agree.
fn verify(before: &ModelSpec, after: &ModelSpec, how: Prepare, args: &Args) -> anyhow::Result<String> {
    let config = ModelConfig { backend: args.backend, ..ModelConfig::default() };
    let proof = Proof::of(how);
    let (mut old, _) = Side::new(before, &config).context("the original model")?;
    let (mut new, backend) = Side::new(after, &config).context("the prepared model")?;
    let mut pictures = made_up(before.input.size);
    for path in &args.pictures {
        let picture = image::open(path).with_context(|| format!("cannot read {}", path.display()))?.into_rgb8();
        pictures.push((path.display().to_string(), Size::new(picture.width(), picture.height()), picture.into_raw()));
    }
    let (mut worst, mut boxes, mut agreement) = (0.0_f32, 0, Agreement::default());
    for (name, size, rgb) in &pictures {
        old.run(*size, rgb, &proof)?;
        new.run(*size, rgb, &proof)?;
        if proof.boxes {
            agreement.add(&old.detections, &new.detections, &proof.tolerance);
            if agreement.agreed < agreement.objects {
                bail!("{}: {}", not_same(name), words(&agreement));
            }
        } else {
            worst = worst.max(difference(&old.outputs, &new.outputs).with_context(|| not_same(name))?);
        }
        boxes += old.detections.len();
    }
    if worst > SAME {
        bail!("the prepared model puts out other numbers (off by {worst}, relatively); it is not written");
    }
    if proof.boxes && agreement.objects == 0 {
        bail!(
            "nothing was found on the pictures, so the new model is not proven: give --pictures with objects on them"
        );
    }
    let count = pictures.len();
    Ok(if proof.boxes {
        format!("the same as before on {count} pictures with {backend}: {}", words(&agreement))
    } else {
        format!("the same as before on {count} pictures ({boxes} boxes) with {backend}")
    })
}

/// What was compared, box by box.
fn words(agreement: &Agreement) -> String {
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

/// Noise, a gradient and grey, the same ones each time.
fn made_up(size: Size) -> Vec<(String, Size, Vec<u8>)> {
    let count = 3 * size.w * size.h;
    let noise = |n: u32| (n.wrapping_mul(2_654_435_761) >> 13) as u8;
    let gradient = |n: u32| (u64::from(n) * 255 / u64::from(count)) as u8;
    let picture = |name: &str, pixel: &dyn Fn(u32) -> u8| (name.to_owned(), size, (0..count).map(pixel).collect());
    vec![picture("noise", &noise), picture("a gradient", &gradient), picture("grey", &|_| 114)]
}

/// The greatest difference, relative to the numbers' size.
fn difference(old: &[Vec<f32>], new: &[Vec<f32>]) -> anyhow::Result<f32> {
    if old.iter().map(Vec::len).ne(new.iter().map(Vec::len)) {
        return Err(anyhow!("its outputs have other lengths"));
    }
    if new.iter().flatten().any(|v| !v.is_finite()) && old.iter().flatten().all(|v| v.is_finite()) {
        return Err(anyhow!("it puts out numbers that are not finite"));
    }
    let pairs = old.iter().flatten().zip(new.iter().flatten());
    Ok(pairs.map(|(a, b)| (a - b).abs() / (1.0 + a.abs())).fold(0.0, f32::max))
}
