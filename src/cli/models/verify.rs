//! `ocelli models verify`: compares a model's file with its model.yaml, and a backend's detections with those of a reference.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::ensure;
use indicatif::ProgressBar;
use serde_json::json;

use super::super::eval::mean_average_precision;
use super::super::options::{ModelOptions, parse_backend, parse_share, start_engine};
use super::super::pictures::{Picture, detect_all, is_picture, list, read_picture};
use super::super::terminal::decimal;
use super::super::{Failure, log_warnings};
use super::chosen;
use crate::app::open_model;
use crate::cancel::Cancel;
use crate::config::{BackendChoice, DetectConfig, ModelConfig};
use crate::eval::{Agreement, Tolerance, Worst};
use crate::infer::{Engine, Session, backend};
use crate::model::ModelSpec;
use crate::types::{BackendInfo, Detection};

/// Two runs without a detection always agree.
const NOTHING: &str = "nothing was found on these pictures: nothing is proven";

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ocelli models verify
  ocelli models verify yolo.onnx --backend tensorrt --pictures street.jpg --min-iou 0.95")]
pub(super) struct Args {
    /// An .onnx file or a model folder [default: the model that `run` and `detect` use]
    path: Option<PathBuf>,
    #[command(flatten)]
    model: ModelOptions,
    /// Backend to compare with [default: tract; cpu (ONNX Runtime) when tract itself is verified]
    #[arg(long, value_parser = parse_backend, value_name = "tract|cpu")]
    reference: Option<BackendChoice>,
    /// A picture or a folder of pictures; may be repeated [default: the folder `golden` of the model folder]
    #[arg(long, value_name = "FILE|DIR")]
    pictures: Vec<PathBuf>,
    /// Labelled pictures as for `ocelli eval`: both must also reach the same mean average precision
    #[arg(long, value_name = "DIR|FILE.json")]
    data: Option<PathBuf>,
    /// Part of the labelled pictures to use
    #[arg(long, default_value = "test", value_name = "NAME")]
    split: String,
    /// Take only the first N labelled pictures
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// Objects of this confidence and more are compared, 0 to 1
    #[arg(long, default_value_t = 0.25, value_parser = parse_share)]
    conf: f32,
    /// Two boxes agree from this intersection over union on
    #[arg(long, default_value_t = 0.9, value_parser = parse_share)]
    min_iou: f32,
    /// Two scores agree up to this difference
    #[arg(long, default_value_t = 0.05, value_parser = parse_share)]
    max_score_delta: f32,
    /// Share of the objects on which both must agree
    #[arg(long, default_value_t = 0.98, value_parser = parse_share)]
    min_agreement: f32,
    /// Mean average precision (IoU 0.50 to 0.95) that may be lost
    #[arg(long, default_value_t = 0.01, value_parser = parse_share)]
    max_map_loss: f32,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

struct Comparison {
    spec: Arc<ModelSpec>,
    deployed: BackendInfo,
    reference: BackendInfo,
    pictures: Vec<PathBuf>,
    agreement: Agreement,
    /// Mean average precision (IoU 0.50 to 0.95) of the reference and of the deployed backend.
    map: Option<[f64; 2]>,
    /// Limits that are not met.
    faults: Vec<String>,
}

/// Returns the text to print, and whether all limits are met.
pub(super) fn run(args: &Args) -> Result<(String, bool), Failure> {
    log_warnings()?;
    let model = config(args)?;
    // Opening the model compares its SHA-256 with the one in model.yaml.
    let spec = Arc::new(open_model(&model)?);
    let pictures = pictures(args, &spec)?;
    if pictures.is_empty() && args.data.is_none() {
        let note = "none: name some with --pictures, or put some into golden/ beside the model".to_owned();
        return Ok((file_only(&spec, &note, args.json), true));
    }
    let Some(comparison) = compare(args, &model, &spec, pictures)? else {
        let note = "not compared: tract runs it, and there is no ONNX Runtime to compare with";
        return Ok((file_only(&spec, note, args.json), true));
    };
    let text = if args.json { format!("{:#}\n", comparison.json(args)) } else { comparison.text(args) };
    Ok((text, comparison.faults.is_empty()))
}

/// How the model is run.
fn config(args: &Args) -> Result<ModelConfig, Failure> {
    Ok(args.model.config(Some(chosen(args.path.clone())?)))
}

/// The pictures named, else those of the model's folder.
fn pictures(args: &Args, spec: &ModelSpec) -> anyhow::Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for place in &args.pictures {
        let found = pictures_in(place)?;
        ensure!(!found.is_empty(), "{}: no picture (.jpg, .jpeg, .png) there", place.display());
        all.extend(found);
    }
    if args.pictures.is_empty() {
        let golden = spec.golden();
        if golden.is_dir() {
            all = pictures_in(&golden)?;
        }
    }
    Ok(all)
}

fn pictures_in(place: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if !place.is_dir() {
        return Ok(vec![place.to_owned()]);
    }
    list(place, is_picture)
}

/// `None`: tract runs the model, and there is no ONNX Runtime to compare it with.
fn compare(
    args: &Args,
    model: &ModelConfig,
    spec: &Arc<ModelSpec>,
    pictures: Vec<PathBuf>,
) -> Result<Option<Comparison>, Failure> {
    let tolerance = Tolerance { threshold: args.conf, iou: args.min_iou, score: args.max_score_delta };
    // Lower than `--conf`, so that an object at the threshold is no difference.
    let config = DetectConfig { threshold: (args.conf - args.max_score_delta).max(0.001), ..DetectConfig::default() };
    let deployed = start_engine(spec.clone(), model)?;
    let info = deployed.info();
    let found = detect(&deployed, &pictures, &config)?;
    let map = |engine: &Engine| {
        let Some(data) = &args.data else { return Ok(None) };
        mean_average_precision(engine, data, &args.split, args.limit.map(|limit| limit as usize)).map(Some)
    };
    let found_map = map(&deployed)?;
    // Frees its memory before the reference is loaded: small machines cannot hold both.
    drop(deployed);
    let choice = args.reference.unwrap_or(backend(info.kind).reference);
    let compared_with = ModelConfig { backend: choice, ..model.clone() };
    let reference = match start_engine(spec.clone(), &compared_with) {
        Ok(reference) => reference,
        Err(_) if args.reference.is_none() && choice == BackendChoice::Cpu => return Ok(None),
        Err(Failure { code, error }) => {
            let error = error.map(|error| error.context("the reference cannot run; name another with --reference"));
            return Err(Failure { code, error });
        }
    };
    let wanted = detect(&reference, &pictures, &config)?;
    let agreement = agreement(&wanted, &found, &tolerance);
    let map = map(&reference)?.zip(found_map).map(|(wanted, found)| [wanted, found]);
    let reference = reference.info();
    let mut faults = Vec::new();
    if agreement.share() < f64::from(args.min_agreement) {
        faults.push(format!(
            "{} and {} agree on {} of {} objects, {:.1} %; at least {:.1} % must",
            info.kind,
            reference.kind,
            agreement.agreed,
            agreement.objects,
            100.0 * agreement.share(),
            100.0 * args.min_agreement
        ));
    }
    if let Some([wanted, found]) = map
        && wanted - found > f64::from(args.max_map_loss)
    {
        faults.push(format!(
            "{} loses {:.4} of mAP; at most {} may be lost",
            info.kind,
            wanted - found,
            args.max_map_loss
        ));
    }
    Ok(Some(Comparison { spec: spec.clone(), deployed: info, reference, pictures, agreement, map, faults }))
}

/// Compares a new session with the reference on the golden pictures of its model; the error is the reason for a user. A model
/// without golden pictures is not compared.
pub(in crate::cli) fn agrees(
    spec: &Arc<ModelSpec>,
    session: Box<dyn Session>,
    info: BackendInfo,
    config: &ModelConfig,
) -> Result<(), String> {
    let golden = spec.golden();
    if config.min_agreement <= 0.0 || !golden.is_dir() {
        return Ok(());
    }
    let pictures = pictures_in(&golden).map_err(|error| format!("{error:#}"))?;
    let tolerance = Tolerance::default();
    let detection = DetectConfig { threshold: tolerance.threshold - tolerance.score, ..DetectConfig::default() };
    let failed = |error: anyhow::Error| format!("the golden pictures cannot be compared: {error:#}");
    let kind = info.kind;
    let engine = Engine::with_session(spec.clone(), session, info, 1).map_err(|error| failed(error.into()))?;
    let found = detect(&engine, &pictures, &detection).map_err(failed)?;
    drop(engine);
    // tract lacks some operators; ONNX Runtime's CPU provider has them all.
    let reference = [BackendChoice::Tract, BackendChoice::Cpu].into_iter().find_map(|backend| {
        Engine::start(spec.clone(), &ModelConfig { backend, ..config.clone() }, &Cancel::new()).ok()
    });
    let reference = reference.ok_or("the golden pictures cannot be compared: no CPU backend runs this model")?;
    let wanted = detect(&reference, &pictures, &detection).map_err(failed)?;
    let agreement = agreement(&wanted, &found, &tolerance);
    if agreement.objects == 0 {
        let golden = golden.display();
        tracing::warn!(
            "{kind} was compared on the pictures in {golden}, but {NOTHING}; give it some with objects on them"
        );
    }
    if agreement.share() >= config.min_agreement {
        return Ok(());
    }
    Err(format!(
        "{kind} agrees with {} on {} of {} objects in {}, {:.1} %; at least {:.1} % must (`model.min_agreement`)",
        reference.info().kind,
        agreement.agreed,
        agreement.objects,
        golden.display(),
        100.0 * agreement.share(),
        100.0 * config.min_agreement
    ))
}

fn agreement(wanted: &[Vec<Detection>], found: &[Vec<Detection>], tolerance: &Tolerance) -> Agreement {
    let mut agreement = Agreement::default();
    for (wanted, found) in wanted.iter().zip(found) {
        agreement.add(wanted, found, tolerance);
    }
    agreement
}

/// The detections of each picture.
fn detect(engine: &Engine, pictures: &[PathBuf], config: &DetectConfig) -> anyhow::Result<Vec<Vec<Detection>>> {
    let mut all = Vec::with_capacity(pictures.len());
    let read = (0..)
        .zip(pictures)
        .map(|(seq, path)| Ok(Picture { path, camera: "pictures".into(), seq, rgb: read_picture(path)?, extra: () }));
    detect_all(engine, config, &ProgressBar::hidden(), read, |_, result| {
        all.push(result.detections);
        Ok(())
    })?;
    Ok(all)
}

fn checksum(spec: &ModelSpec) -> &'static str {
    let promised = spec.manifest.as_ref().and_then(|manifest| manifest.sha256.as_ref());
    if promised.is_some() { "matches model.yaml" } else { "nothing to compare with" }
}

fn file_only(spec: &ModelSpec, note: &str, json: bool) -> String {
    if json {
        let all =
            json!({"path": spec.path, "sha256": spec.id.sha256, "pictures": 0, "note": note, "faults": [], "ok": true});
        return format!("{all:#}\n");
    }
    let (path, sha256, checksum) = (spec.path.display(), &spec.id.sha256, checksum(spec));
    format!("{path}: ok\nsha256 {sha256} ({checksum})\nboxes {note}\n")
}

impl Comparison {
    fn text(&self, args: &Args) -> String {
        let mut text = String::new();
        let mut line = |key: &str, value: String| text += &format!("{key:<10} {value}\n");
        let named = |info: &BackendInfo| format!("{} ({})", info.kind, info.version);
        line("file", self.spec.path.display().to_string());
        line("sha256", format!("{} ({})", self.spec.id.sha256, checksum(&self.spec)));
        line("deployed", named(&self.deployed));
        for why in &self.deployed.fallbacks {
            line("", format!("because {why}"));
        }
        line("reference", named(&self.reference));
        if !self.pictures.is_empty() {
            let a = &self.agreement;
            line(
                "boxes",
                format!(
                    "{} of {} agree on {} pictures (IoU ≥ {}, scores within {}); {} missing, {} extra",
                    a.agreed, a.objects, a.pictures, args.min_iou, args.max_score_delta, a.missing, a.extra
                ),
            );
            if let (Some(iou), Some(score)) = (&a.worst_iou, &a.worst_score) {
                line("worst IoU", format!("{:.4} ({})", iou.value, self.place(iou)));
                line("worst score", format!("{:.4} ({})", score.value, self.place(score)));
            }
        }
        if let Some([wanted, found]) = self.map {
            line("mAP50-95", format!("{found:.4}, reference {wanted:.4}, at most {} may be lost", args.max_map_loss));
        }
        if let Some(note) = self.note() {
            line("note", note.into());
        }
        for fault in &self.faults {
            line("fault", fault.clone());
        }
        line("verdict", if self.faults.is_empty() { "ok".into() } else { "not fit to be deployed".into() });
        text
    }

    fn note(&self) -> Option<&'static str> {
        (!self.pictures.is_empty() && self.agreement.objects == 0).then_some(NOTHING)
    }

    fn place(&self, worst: &Worst) -> String {
        let file = self.pictures.get(worst.picture).and_then(|path| path.file_name()).unwrap_or_default();
        let class = worst.detection.class_id as usize;
        let label = self.spec.id.labels.get(class).map_or_else(|| format!("class {class}"), Clone::clone);
        format!("{}: {label} {:.2}", file.to_string_lossy(), worst.detection.score)
    }

    fn json(&self, args: &Args) -> serde_json::Value {
        let backend = |info: &BackendInfo| json!({"backend": info.kind.to_string(), "version": info.version, "fallbacks": info.fallbacks});
        json!({
            "path": self.spec.path,
            "sha256": self.spec.id.sha256,
            "deployed": backend(&self.deployed),
            "reference": backend(&self.reference),
            "pictures": self.agreement.pictures,
            "objects": self.agreement.objects,
            "agreed": self.agreement.agreed,
            "missing": self.agreement.missing,
            "extra": self.agreement.extra,
            "worst_iou": self.agreement.worst_iou.map(|worst| worst.value),
            "worst_score": self.agreement.worst_score.map(|worst| worst.value),
            "map50_95": self.map.map(|[wanted, found]| json!({"reference": wanted, "deployed": found})),
            "limits": {
                "min_iou": decimal(args.min_iou), "max_score_delta": decimal(args.max_score_delta),
                "min_agreement": decimal(args.min_agreement), "max_map_loss": decimal(args.max_map_loss),
            },
            "note": self.note(),
            "faults": self.faults,
            "ok": self.faults.is_empty(),
        })
    }
}

#[cfg(test)]
#[path = "verify_tests.rs"]
mod tests;
