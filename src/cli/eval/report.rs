//! Where `eval` writes: the table on the terminal, the JSON, the detections, the plot.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::json;

use super::super::terminal::{decimal, describe, print};
use super::data::DataSet;
use super::{Args, Measured};
use crate::eval::{self, MAX_PER_CLASS, Score};
use crate::infer::Engine;

/// The scores of a run, with the settings, model and machine that they belong to.
pub(super) struct Report<'a> {
    pub(super) args: &'a Args,
    pub(super) set: &'a DataSet,
    pub(super) engine: &'a Engine,
    pub(super) score: &'a Score,
    pub(super) measured: &'a Measured,
}

impl Report<'_> {
    fn boxes(&self) -> usize {
        self.score.classes.iter().map(|c| c.boxes).sum()
    }

    fn detections(&self) -> usize {
        self.measured.images.iter().map(|image| image.found.len()).sum()
    }

    fn label(&self, class: usize) -> String {
        self.engine.spec().id.label(class as u32).into_owned()
    }

    /// Pictures, seconds (reading included), pictures per second, and the mean time in the session in milliseconds.
    fn speed(&self) -> (usize, f64, f64, f64) {
        let (images, seconds) = (self.measured.images.len(), self.measured.wall.as_secs_f64());
        let session_ms = self.measured.infer.as_secs_f64() * 1e3 / images.max(1) as f64;
        (images, seconds, images as f64 / seconds.max(1e-9), session_ms)
    }

    fn json(&self) -> serde_json::Value {
        let Self { args, set, engine, score, .. } = self;
        let (spec, info) = (engine.spec(), engine.info());
        let (images, seconds, images_per_s, session_ms) = self.speed();
        let class = |c: &eval::ClassScore| {
            json!({
                "class_id": c.class, "label": self.label(c.class), "boxes": c.boxes, "crowds": c.crowds,
                "ap50": c.ap50, "ap50_95": c.ap, "recall50": c.recall50,
            })
        };
        json!({
            "map50": score.map50,
            "map50_95": score.map,
            "images": images,
            "images_without_labels": set.without_labels,
            "boxes": self.boxes(),
            "crowds": score.classes.iter().map(|c| c.crowds).sum::<usize>(),
            "boxes_left_out": set.boxes_left_out,
            "classes_left_out": set.map.left_out(),
            "detections": self.detections(),
            "classes": score.classes.iter().map(class).collect::<Vec<_>>(),
            "settings": {
                "data": args.data, "split": args.split, "labels": set.format, "conf": decimal(args.conf),
                "iou": decimal(args.iou), "max_detections": args.max_detections,
                "max_detections_per_class": MAX_PER_CLASS, "limit": args.limit,
            },
            "model": {
                "name": spec.id.name, "sha256": spec.id.sha256, "path": spec.path,
                "input": spec.input.size.to_string(),
            },
            "backend": {
                "kind": info.kind, "version": info.version, "fallbacks": info.fallbacks, "sessions": engine.workers(),
            },
            "speed": {"images_per_s": images_per_s, "session_ms": session_ms, "seconds": seconds},
        })
    }

    fn table(&self) -> String {
        let rows: Vec<_> = self.score.classes.iter().map(|c| (self.label(c.class), c.boxes, c.ap50, c.ap)).collect();
        let all = ("all".to_owned(), self.boxes(), self.score.map50, self.score.map);
        let width = rows.iter().map(|(label, ..)| label.chars().count()).max().unwrap_or(0).clamp(12, 32);
        let mut text = format!("{:<width$} {:>7} {:>8} {:>8}\n", "class", "boxes", "AP50", "AP50-95");
        for (name, boxes, ap50, ap) in rows.iter().chain([&all]) {
            text += &format!("{name:<width$} {boxes:>7} {ap50:>8.4} {ap:>8.4}\n");
        }
        let (info, detections) = (self.engine.info(), self.detections());
        let (images, seconds, images_per_s, session_ms) = self.speed();
        text + &format!(
            "{images} images, {detections} detections, {seconds:.1} s, {images_per_s:.1} images/s, \
             {session_ms:.1} ms in the session per image, backend {} ({})\n",
            info.kind, info.version
        )
    }

    /// The names of the classes that have a curve, at their places.
    fn labels_by_class(&self) -> Vec<String> {
        let count = self.score.classes.iter().map(|c| c.class + 1).max().unwrap_or(0);
        let mut labels = vec![String::new(); count];
        for c in &self.score.classes {
            labels[c.class] = self.label(c.class);
        }
        labels
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

    pub(super) fn finish(self, report: &Report<'_>) -> anyhow::Result<()> {
        self.say(&report.table())?;
        if let Some((path, file)) = self.plot {
            let title = format!("{}, {} images", report.engine.spec().id.name, report.measured.images.len());
            let svg = eval::svg(report.score, &report.labels_by_class(), &title);
            write(&path, file, |out| out.write_all(svg.as_bytes()))?;
        }
        if let Some((path, file)) = self.detections {
            write(&path, file, |out| Ok(serde_json::to_writer(out, &report.measured.rows)?))?;
        }
        match self.json {
            None => Ok(()),
            Some(Some((path, file))) => write(&path, file, |out| write!(out, "{:#}", report.json())),
            Some(None) => print(&format!("{:#}\n", report.json())),
        }
    }

    /// Prints nothing where standard output carries the JSON.
    fn say(&self, text: &str) -> anyhow::Result<()> {
        if matches!(self.json, Some(None)) { Ok(()) } else { print(text) }
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
