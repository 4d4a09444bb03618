//! Pictures; each is written with its boxes drawn.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use image::RgbImage;

use super::super::Failure;
use super::super::pictures::{Picture, detect_all, read_picture};
use super::super::terminal::progress;
use super::output::Output;
use crate::annotate;
use crate::config::DetectConfig;
use crate::infer::Engine;
use crate::sink::message::{FrameMessage, Run};
use crate::types::{FrameResult, ImageViewMut, PlaneMut, Size};

pub(super) fn run(
    files: &[PathBuf],
    engine: &Engine,
    config: &DetectConfig,
    output: &mut Output,
) -> Result<(), Failure> {
    let bar = progress(files.len() as u64);
    let mut broken = 0usize;
    let pictures = (0..).zip(files).filter_map(|(seq, path)| match read_picture(path) {
        Ok(rgb) => Some(Ok(Picture { path: path.as_path(), camera: camera_name(path), seq, rgb, extra: () })),
        // A broken picture in a folder does not stop the others; a single one is the error.
        Err(error) if files.len() > 1 => {
            bar.suspend(|| tracing::error!("{error:#}"));
            broken += 1;
            None
        }
        Err(error) => Some(Err(error)),
    });
    detect_all(engine, config, &bar, pictures, |Picture { path, mut rgb, .. }, result| {
        output.table(&path.display().to_string(), &result);
        output.frame(&result)?;
        match output.folder() {
            Some(folder) => write(folder, path, &mut rgb, &result),
            None => Ok(()),
        }
    })?;
    if broken > 0 {
        return Err(anyhow::anyhow!("{broken} of {} pictures could not be read", files.len()).into());
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
