//! Pictures: two at a time in the engine; each is written with its boxes drawn.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use image::RgbImage;

use super::super::Failure;
use super::super::pictures::{DEADLINE, read_picture, submit};
use super::super::terminal::progress;
use super::output::Output;
use crate::annotate;
use crate::config::DetectConfig;
use crate::infer::Engine;
use crate::pipeline::Detector;
use crate::sink::message::{FrameMessage, Run};
use crate::types::{FrameResult, ImageViewMut, PlaneMut, Size};

pub(super) fn run(
    files: &[PathBuf],
    engine: &Engine,
    config: &DetectConfig,
    output: &mut Output,
) -> Result<(), Failure> {
    let mut detector = Detector::new(engine, "pictures", config, 1)?;
    let bar = progress(files.len() as u64);
    let mut waiting: VecDeque<(&Path, RgbImage)> = VecDeque::new();
    let mut broken = 0usize;
    for (seq, path) in files.iter().enumerate() {
        let picture = match read_picture(path) {
            Ok(picture) => picture,
            // A broken picture in a folder does not stop the others; a single one is the error.
            Err(error) if files.len() > 1 => {
                bar.suspend(|| tracing::error!("{error:#}"));
                broken += 1;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        if !detector.has_room() {
            next(&mut detector, &mut waiting, output)?;
            bar.inc(1);
        }
        submit(&mut detector, camera_name(path), seq as u64, &picture)?;
        waiting.push_back((path, picture));
    }
    while !waiting.is_empty() {
        next(&mut detector, &mut waiting, output)?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    if broken > 0 {
        return Err(anyhow::anyhow!("{broken} of {} pictures could not be read", files.len()).into());
    }
    Ok(())
}

fn next(
    detector: &mut Detector,
    waiting: &mut VecDeque<(&Path, RgbImage)>,
    output: &mut Output,
) -> Result<(), Failure> {
    let Some((path, mut picture)) = waiting.pop_front() else { return Ok(()) };
    let result = match detector.finish(DEADLINE) {
        Some(Ok(result)) => result,
        Some(Err((_, error))) => return Err(error.into()),
        None => return Err(anyhow::anyhow!("{}: no answer within {DEADLINE:?}", path.display()).into()),
    };
    output.table(&path.display().to_string(), &result);
    output.frame(&result)?;
    if let Some(folder) = output.folder() {
        write(folder, path, &mut picture, &result)?;
    }
    Ok(())
}

fn write(folder: &Path, path: &Path, picture: &mut RgbImage, result: &FrameResult) -> anyhow::Result<()> {
    let size = Size::new(picture.width(), picture.height());
    let stride = 3 * size.w as usize;
    annotate::draw(
        &mut ImageViewMut::Rgb { size, rgb: PlaneMut { data: picture, stride } },
        &result.detections,
        &result.model,
    );
    let file = folder.join(path.file_name().unwrap_or("picture.jpg".as_ref()));
    picture.save(&file).with_context(|| format!("cannot write {}", file.display()))?;
    let json = file.with_extension("json");
    let mut text = serde_json::to_string_pretty(&FrameMessage::new(result, Run::of_process()))?;
    text.push('\n');
    std::fs::write(&json, text).with_context(|| format!("cannot write {}", json.display()))
}

/// The file's stem as a valid camera name for the JSON.
pub(super) fn camera_name(path: &Path) -> Arc<str> {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().to_lowercase();
    let clean: String = stem
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '_' })
        .take(63)
        .collect();
    let clean = clean.trim_start_matches(['-', '_']);
    if clean.is_empty() { "picture".into() } else { clean.into() }
}
