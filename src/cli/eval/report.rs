//! Where `eval` writes: the table on the terminal, the JSON, the detections, the plot.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;

use super::super::terminal::{describe, print};
use super::data::DataSet;
use super::{Args, Measured};
use crate::eval::{self, MAX_PER_CLASS, ResultRow, Score};
use crate::infer::Engine;

/// The scores of a run, with the settings, model and machine that they belong to.
#[derive(Serialize)]
pub(super) struct Report {
    map50: f64,
    map50_95: f64,
    images: usize,
    images_without_labels: usize,
    boxes: usize,
    crowds: usize,
    /// Of classes that the model does not know.
    boxes_left_out: usize,
    classes_left_out: Vec<String>,
    detections: usize,
    classes: Vec<Class>,
    settings: Settings,
    model: Model,
    backend: Backend,
    speed: Speed,
}

#[derive(Serialize)]
struct Class {
    class_id: usize,
    label: String,
    boxes: usize,
    crowds: usize,
    ap50: f64,
    ap50_95: f64,
    recall50: f64,
}

#[derive(Serialize)]
struct Settings {
    data: PathBuf,
    split: String,
    labels: &'static str,
    conf: f32,
    iou: f32,
    max_detections: usize,
    max_detections_per_class: usize,
    limit: Option<u32>,
}

#[derive(Serialize)]
struct Model {
    name: String,
    sha256: String,
    path: PathBuf,
    input: String,
}

#[derive(Serialize)]
struct Backend {
    kind: crate::types::BackendKind,
    version: String,
    fallbacks: Vec<String>,
    sessions: usize,
}

#[derive(Serialize)]
struct Speed {
    /// Reading of the pictures included.
    images_per_s: f64,
    /// Mean time in the session; sessions that run beside each other share the machine.
    session_ms: f64,
    seconds: f64,
}

impl Report {
    pub(super) fn new(args: &Args, set: &DataSet, engine: &Engine, score: &Score, measured: &Measured) -> Self {
        let (spec, info) = (engine.spec(), engine.info());
        let (images, seconds) = (measured.images.len(), measured.wall.as_secs_f64());
        let class = |c: &eval::ClassScore| Class {
            class_id: c.class,
            label: spec.id.label(c.class as u32).into_owned(),
            boxes: c.boxes,
            crowds: c.crowds,
            ap50: c.ap50,
            ap50_95: c.ap,
            recall50: c.recall50,
        };
        Self {
            map50: score.map50,
            map50_95: score.map,
            images,
            images_without_labels: set.without_labels,
            boxes: score.classes.iter().map(|c| c.boxes).sum(),
            crowds: score.classes.iter().map(|c| c.crowds).sum(),
            boxes_left_out: set.boxes_left_out,
            classes_left_out: set.map.left_out().to_vec(),
            detections: measured.images.iter().map(|image| image.found.len()).sum(),
            classes: score.classes.iter().map(class).collect(),
            settings: Settings {
                data: args.data.clone(),
                split: args.split.clone(),
                labels: set.format,
                conf: args.conf,
                iou: args.iou,
                max_detections: args.max_detections,
                max_detections_per_class: MAX_PER_CLASS,
                limit: args.limit,
            },
            model: Model {
                name: spec.id.name.clone(),
                sha256: spec.id.sha256.clone(),
                path: spec.path.clone(),
                input: spec.input.size.to_string(),
            },
            backend: Backend {
                kind: info.kind,
                version: info.version,
                fallbacks: info.fallbacks,
                sessions: engine.workers(),
            },
            speed: Speed {
                images_per_s: images as f64 / seconds.max(1e-9),
                session_ms: measured.infer.as_secs_f64() * 1e3 / images.max(1) as f64,
                seconds,
            },
        }
    }

    fn table(&self) -> String {
        let width = self.classes.iter().map(|c| c.label.chars().count()).max().unwrap_or(0).clamp(12, 32);
        let mut text = format!("{:<width$} {:>7} {:>8} {:>8}\n", "class", "boxes", "AP50", "AP50-95");
        let mut row = |name: &str, boxes: usize, ap50: f64, ap: f64| {
            // Writing into a String cannot fail.
            let _ = writeln!(text, "{name:<width$} {boxes:>7} {ap50:>8.4} {ap:>8.4}");
        };
        for c in &self.classes {
            row(&c.label, c.boxes, c.ap50, c.ap50_95);
        }
        row("all", self.boxes, self.map50, self.map50_95);
        let (backend, speed) = (&self.backend, &self.speed);
        let _ = writeln!(
            text,
            "{} images, {} detections, {:.1} s, {:.1} images/s, {:.1} ms in the session per image, backend {} ({})",
            self.images,
            self.detections,
            speed.seconds,
            speed.images_per_s,
            speed.session_ms,
            backend.kind,
            backend.version
        );
        text
    }
}

pub(super) struct Outputs {
    /// `None` for standard output.
    json: Option<Option<(PathBuf, File)>>,
    plot: Option<(PathBuf, File)>,
    detections: Option<(PathBuf, File)>,
}

fn create(path: &Path) -> anyhow::Result<(PathBuf, File)> {
    let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok((path.to_owned(), file))
}

impl Outputs {
    /// Creates all files first, so that a full or read-only disk is reported before any inference.
    pub(super) fn create(args: &Args) -> anyhow::Result<Self> {
        let json = match args.json.as_deref() {
            Some(path) if path.as_os_str() == "-" => Some(None),
            Some(path) => Some(Some(create(path)?)),
            None => None,
        };
        let plot = args.plot.as_deref().map(create).transpose()?;
        Ok(Self { json, plot, detections: args.detections.as_deref().map(create).transpose()? })
    }

    /// Prints the model, the backend, and what of the data set does not count.
    pub(super) fn begin(&self, engine: &Engine, set: &DataSet) -> anyhow::Result<()> {
        let mut text = describe(engine);
        // Writing into a String cannot fail.
        let _ = writeln!(text, "{} images, {} labels", set.samples.len(), set.format.to_uppercase());
        if set.without_labels > 0 {
            let _ = writeln!(text, "  {} images have no label file and so no objects", set.without_labels);
        }
        if !set.map.left_out().is_empty() {
            let (names, boxes) = (set.map.left_out().join(", "), set.boxes_left_out);
            let _ = writeln!(text, "  left out, because the model does not know them: {names} ({boxes} boxes)");
        }
        self.say(&text)
    }

    pub(super) fn finish(self, report: &Report, score: &Score, rows: &[ResultRow]) -> anyhow::Result<()> {
        self.say(&report.table())?;
        if let Some((path, file)) = self.plot {
            let labels: Vec<String> = report.labels_by_class();
            let title = format!("{}, {} images", report.model.name, report.images);
            write(&path, file, |out| out.write_all(eval::svg(score, &labels, &title).as_bytes()))?;
        }
        if let Some((path, file)) = self.detections {
            write(&path, file, |out| Ok(serde_json::to_writer(out, rows)?))?;
        }
        match self.json {
            None => Ok(()),
            Some(Some((path, file))) => write(&path, file, |out| Ok(serde_json::to_writer_pretty(out, report)?)),
            Some(None) => print(&(serde_json::to_string_pretty(report)? + "\n")),
        }
    }

    /// Prints nothing where standard output carries the JSON.
    fn say(&self, text: &str) -> anyhow::Result<()> {
        if matches!(self.json, Some(None)) { Ok(()) } else { print(text) }
    }
}

impl Report {
    /// The names of the classes that have a curve, at their places.
    fn labels_by_class(&self) -> Vec<String> {
        let count = self.classes.iter().map(|c| c.class_id + 1).max().unwrap_or(0);
        let mut labels = vec![String::new(); count];
        for c in &self.classes {
            labels[c.class_id].clone_from(&c.label);
        }
        labels
    }
}

fn write(
    path: &Path,
    file: File,
    content: impl FnOnce(&mut BufWriter<File>) -> std::io::Result<()>,
) -> anyhow::Result<()> {
    let mut out = BufWriter::new(file);
    content(&mut out).and_then(|()| out.flush()).with_context(|| format!("cannot write {}", path.display()))
}
