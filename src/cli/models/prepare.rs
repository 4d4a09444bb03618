//! `ocelli models prepare`: rewrites a model for the box that runs it, and proves that it still does the same.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};

use super::super::{Failure, detect};
use crate::config::{BackendChoice, ModelConfig};
use crate::infer::{Session, load};
use crate::model::{DecodeParams, InputTensor, MANIFEST, Manifest, ModelSpec, Nms, Prepare, decode, prepare};
use crate::preprocess::Preprocessor;
use crate::types::{Detection, ImageView, Plane, Size};

/// Numbers may differ by this, relative to their size: the arithmetic is the same, its order may not be.
const SAME: f32 = 1e-3;
/// Boxes of half-sized weights must overlap those of the original by this, and scores may differ by [`SCORE`].
const OVERLAP: f32 = 0.9;
const SCORE: f32 = 0.03;
const THRESHOLD: f32 = 0.25;
const IOU: f32 = 0.45;

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
    /// Fix the input size of a dynamic model, for example 640 or 640x384
    #[arg(long, value_name = "SIZE", value_parser = detect::parse_size)]
    input_size: Option<Size>,
    /// Pictures to compare both models on, besides made-up ones; --half-weights needs some with objects on them
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pictures: Vec<PathBuf>,
    /// Backend to compare on
    #[arg(long, default_value = "auto", value_parser = detect::parse_backend, value_name = "auto|tract|cpu|cuda|tensorrt")]
    backend: BackendChoice,
    /// Write the new model without comparing it
    #[arg(long)]
    no_verify: bool,
}

pub(super) fn run(args: &Args) -> Result<String, Failure> {
    let before = ModelSpec::open(&args.input, args.input_size)?;
    let how = Prepare { bytes_input: args.bytes, channels_last: args.channels_last, half_weights: args.half_weights };
    let bytes = before.bytes()?;
    let prepared =
        prepare(&bytes, &before, how).with_context(|| format!("cannot prepare {}", before.path.display()))?;
    let folder = args.output.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Proven in a folder of its own, then moved: a model that is not proven never lies at its place.
    let scratch = Scratch::new(folder)?;
    let name = args.output.file_name().context("the output needs a file name")?;
    let candidate = scratch.0.join(name);
    fs::write(&candidate, &prepared).with_context(|| format!("cannot write {}", candidate.display()))?;
    if let Some(manifest) = &before.manifest {
        let text = serde_json::to_string_pretty(&manifest_of(manifest, &name.to_string_lossy(), how))?;
        fs::write(scratch.0.join(MANIFEST), text + "\n").context("cannot write the manifest")?;
    }
    let after = ModelSpec::open(&candidate, None)?;
    let verdict = if args.no_verify { "not compared".into() } else { verify(&before, &after, args)? };
    fs::rename(&candidate, &args.output).with_context(|| format!("cannot write {}", args.output.display()))?;
    let mut text = format!(
        "{}: {} bytes, was {}; input {} {:?}; {verdict}\n",
        args.output.display(),
        prepared.len(),
        bytes.len(),
        after.input.elem.as_str(),
        after.input.shape(after.input.batch.size)
    );
    if before.manifest.is_some() {
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

/// The manifest of the prepared model. JSON is YAML too.
fn manifest_of(manifest: &Manifest, file: &str, how: Prepare) -> Manifest {
    let mut manifest = Manifest { file: file.to_owned(), sha256: None, ..manifest.clone() };
    // Measured on another file.
    manifest.accuracy.clear();
    manifest.allow_external_data = false;
    if how.bytes_input {
        manifest.input.scale = None;
    }
    manifest
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

    fn run(&mut self, size: Size, rgb: &[u8]) -> anyhow::Result<()> {
        let mut tensor = InputTensor::new(&self.spec.input);
        let view = ImageView::Rgb { size, rgb: Plane { data: rgb, stride: size.w as usize * 3 } };
        let letterbox = self.preprocessor.fill(&view, &mut tensor)?;
        let params = DecodeParams { threshold: THRESHOLD, classes: None };
        let (spec, outputs) = (self.spec, &mut self.outputs);
        let mut candidates = Vec::new();
        self.session.run_one(tensor.view(), &mut |tensors| {
            *outputs = tensors.iter().map(|tensor| tensor.to_vec()).collect();
            decode(spec, tensors, &params, &mut candidates);
        })?;
        Nms::new().run(&mut candidates, spec.nms_iou(IOU), 300, &letterbox, &mut self.detections);
        Ok(())
    }
}

/// Runs both models on the same pictures. An error when they do not agree.
fn verify(before: &ModelSpec, after: &ModelSpec, args: &Args) -> anyhow::Result<String> {
    let config = ModelConfig { backend: args.backend, ..ModelConfig::default() };
    let (mut old, backend) = Side::new(before, &config).context("the original model")?;
    let (mut new, _) = Side::new(after, &config).context("the prepared model")?;
    let mut pictures = made_up(before.input.size);
    for path in &args.pictures {
        let picture = image::open(path).with_context(|| format!("cannot read {}", path.display()))?.into_rgb8();
        pictures.push((path.display().to_string(), Size::new(picture.width(), picture.height()), picture.into_raw()));
    }
    let (mut worst, mut boxes) = (0.0_f32, 0);
    for (name, size, rgb) in &pictures {
        old.run(*size, rgb)?;
        new.run(*size, rgb)?;
        if args.half_weights {
            same_boxes(&old.detections, &new.detections).with_context(|| not_same(name))?;
        } else {
            worst = worst.max(difference(&old.outputs, &new.outputs).with_context(|| not_same(name))?);
        }
        boxes += old.detections.len();
    }
    if worst > SAME {
        bail!("the prepared model puts out other numbers (off by {worst}, relatively); it is not written");
    }
    if args.half_weights && boxes == 0 {
        bail!(
            "nothing was found on the pictures, so half weights are not proven: give --pictures with objects on them"
        );
    }
    Ok(format!("the same as before on {} pictures ({boxes} boxes) with {backend}", pictures.len()))
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

/// Each sure box of either model has a partner in the other.
fn same_boxes(old: &[Detection], new: &[Detection]) -> anyhow::Result<()> {
    for (these, those) in [(old, new), (new, old)] {
        for one in these.iter().filter(|d| d.score > THRESHOLD + SCORE) {
            let partner = |other: &&Detection| {
                other.class_id == one.class_id
                    && other.bbox.iou(&one.bbox) >= OVERLAP
                    && (other.score - one.score).abs() <= SCORE
            };
            if !those.iter().any(|other| partner(&other)) {
                bail!("{one:?} has no partner");
            }
        }
    }
    Ok(())
}
