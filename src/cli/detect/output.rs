//! Where `detect` writes: the table on the terminal, the output folder, the JSON lines.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::super::terminal::{describe, plural};
use crate::infer::Engine;
use crate::sink::message::{FrameMessage, Run};
use crate::types::FrameResult;

/// One line of JSON per frame.
pub(super) struct JsonLines {
    out: Box<dyn Write>,
    line: Vec<u8>,
}

impl JsonLines {
    pub(super) fn create(path: &Path) -> anyhow::Result<Self> {
        let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { out: Box::new(file), line: Vec::new() })
    }

    fn stdout() -> Self {
        Self { out: Box::new(std::io::stdout()), line: Vec::new() }
    }

    pub(super) fn push(&mut self, result: &FrameResult) -> anyhow::Result<()> {
        self.line.clear();
        FrameMessage::new(result, Run::of_process()).write(&mut self.line);
        self.line.push(b'\n');
        self.out.write_all(&self.line).and_then(|()| self.out.flush()).context("cannot write the JSON")
    }
}

pub(super) struct Output {
    /// `None` when standard output carries the JSON and `--out` is not given.
    folder: Option<PathBuf>,
    json: Option<JsonLines>,
    /// False when standard output carries the JSON.
    table: bool,
    objects: u64,
    frames: u64,
    infer_s: f64,
    started: std::time::Instant,
}

impl Output {
    /// Creates the folder and the JSON file first, so that a full or read-only disk is reported before any inference.
    pub(super) fn create(out: Option<&Path>, json: Option<&Path>) -> anyhow::Result<Self> {
        let to_stdout = json.is_some_and(|path| path.as_os_str() == "-");
        let folder = match out {
            Some(folder) => Some(folder.to_owned()),
            None if to_stdout => None,
            None => Some(next_folder(Path::new("runs/detect"))?),
        };
        if let Some(folder) = &folder {
            std::fs::create_dir_all(folder)
                .with_context(|| format!("cannot create the folder {}", folder.display()))?;
        }
        let json = match json {
            Some(_) if to_stdout => Some(JsonLines::stdout()),
            path => path.map(JsonLines::create).transpose()?,
        };
        Ok(Self {
            folder,
            json,
            table: !to_stdout,
            objects: 0,
            frames: 0,
            infer_s: 0.0,
            started: std::time::Instant::now(),
        })
    }

    pub(super) fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// Prints the model and the backend.
    pub(super) fn begin(&self, engine: &Engine) {
        self.say(describe(engine).trim_end());
    }

    /// One line per object, for pictures.
    pub(super) fn table(&self, name: &str, result: &FrameResult) {
        let head = format!(
            "{name}: {}, {}, {:.1} ms in the session",
            result.meta.size,
            plural(result.detections.len(), "object"),
            result.latency.infer.as_secs_f64() * 1e3
        );
        self.say(&head);
        for d in &result.detections {
            let b = d.bbox;
            self.say(&format!(
                "  {:<16} {:>5.3}  x {:>6.1} … {:<6.1}  y {:>6.1} … {:<6.1}",
                result.model.label(d.class_id),
                d.score,
                b.x1,
                b.x2,
                b.y1,
                b.y2
            ));
        }
    }

    /// One JSON line, and the totals.
    pub(super) fn frame(&mut self, result: &FrameResult) -> anyhow::Result<()> {
        self.frames += 1;
        self.objects += result.detections.len() as u64;
        self.infer_s += result.latency.infer.as_secs_f64();
        self.json.as_mut().map_or(Ok(()), |json| json.push(result))
    }

    pub(super) fn finish(&self) {
        let seconds = self.started.elapsed().as_secs_f64();
        self.say(&format!(
            "{}, {} objects, {:.1} s, {:.1} frames/s, {:.1} ms in the session per frame",
            plural(self.frames as usize, "frame"),
            self.objects,
            seconds,
            self.frames as f64 / seconds.max(1e-9),
            self.infer_s * 1e3 / self.frames.max(1) as f64
        ));
        if let Some(folder) = &self.folder {
            self.say(&format!("written to {}", folder.display()));
        }
    }

    #[allow(clippy::print_stdout)] // the table is the output of this command
    fn say(&self, line: &str) {
        if self.table {
            println!("{line}");
        }
    }
}

/// Creates `001`, `002`, …: the first that does not exist.
fn next_folder(root: &Path) -> anyhow::Result<PathBuf> {
    std::fs::create_dir_all(root)
        .with_context(|| format!("cannot create {}; give a writable folder with --out", root.display()))?;
    for number in 1..100_000 {
        let folder = root.join(format!("{number:03}"));
        match std::fs::create_dir(&folder) {
            Ok(()) => return Ok(folder),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(|| format!("cannot create {}", folder.display())),
        }
    }
    anyhow::bail!("{} is full of old runs; remove some or give --out", root.display())
}
