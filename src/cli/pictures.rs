//! Pictures on the disk, and their way through a detector.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use image::{DynamicImage, ImageDecoder, ImageReader, RgbImage};
use indicatif::ProgressBar;

use crate::config::DetectConfig;
use crate::infer::Engine;
use crate::pipeline::{Detector, DetectorError};
use crate::types::{FrameMeta, FrameResult, ImageView, Plane, Size};

/// The engine must answer for a picture within this time.
pub(super) const DEADLINE: Duration = Duration::from_secs(120);

/// File name extensions of the formats that can be read.
pub(super) const EXTENSIONS: [&str; 3] = ["jpg", "jpeg", "png"];

pub(super) fn is_picture(path: &Path) -> bool {
    path.extension().is_some_and(|ext| EXTENSIONS.iter().any(|known| ext.eq_ignore_ascii_case(known)))
}

/// The files of a folder that `wanted` accepts, sorted by name.
pub(super) fn list(folder: &Path, wanted: impl Fn(&Path) -> bool) -> anyhow::Result<Vec<PathBuf>> {
    let failed = || format!("{}: cannot list the folder", folder.display());
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(failed)? {
        let path = entry.with_context(failed)?.path();
        if wanted(&path) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Reads a JPEG or PNG as RGB and applies its EXIF orientation, as the reference implementation does.
pub(super) fn read_picture(path: &Path) -> anyhow::Result<RgbImage> {
    let name = path.display();
    let reader = ImageReader::open(path).with_context(|| format!("{name}: cannot open"))?;
    let reader = reader.with_guessed_format().with_context(|| format!("{name}: cannot read"))?;
    let mut decoder = reader.into_decoder().with_context(|| format!("{name}: not a JPEG or PNG picture"))?;
    let orientation = decoder.orientation().unwrap_or(image::metadata::Orientation::NoTransforms);
    let mut picture = DynamicImage::from_decoder(decoder).with_context(|| format!("{name}: the picture is damaged"))?;
    picture.apply_orientation(orientation);
    Ok(picture.into_rgb8())
}

/// A picture on its way through the detector.
pub(super) struct Picture<'a, T> {
    pub(super) path: &'a Path,
    pub(super) camera: Arc<str>,
    pub(super) seq: u64,
    pub(super) rgb: RgbImage,
    /// What the caller needs with the result.
    pub(super) extra: T,
}

/// Detects in all pictures, as many at a time as the engine has sessions, plus one that is being read. `done` receives
/// them in their order.
pub(super) fn detect_all<'a, T>(
    engine: &Engine,
    config: &DetectConfig,
    bar: &ProgressBar,
    pictures: impl Iterator<Item = anyhow::Result<Picture<'a, T>>>,
    mut done: impl FnMut(Picture<'a, T>, FrameResult) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut detector = Detector::new(engine, "pictures", config, 1)?;
    let mut waiting = VecDeque::new();
    let mut finish_one = |detector: &mut Detector, waiting: &mut VecDeque<Picture<'a, T>>| {
        let Some(picture) = waiting.pop_front() else { return Ok(()) };
        let result = match detector.finish(DEADLINE) {
            Some(outcome) => outcome.with_context(|| picture.path.display().to_string())?,
            None => anyhow::bail!("{}: no answer within {DEADLINE:?}", picture.path.display()),
        };
        bar.inc(1);
        done(picture, result)
    };
    for picture in pictures {
        let picture = picture?;
        if !detector.has_room() {
            finish_one(&mut detector, &mut waiting)?;
        }
        submit(&mut detector, &picture)?;
        waiting.push_back(picture);
    }
    while !waiting.is_empty() {
        finish_one(&mut detector, &mut waiting)?;
    }
    bar.finish_and_clear();
    Ok(())
}

fn submit<T>(detector: &mut Detector, picture: &Picture<'_, T>) -> Result<(), DetectorError> {
    let size = Size::new(picture.rgb.width(), picture.rgb.height());
    let (captured_at, captured) = (SystemTime::now(), Instant::now());
    let camera = picture.camera.clone();
    let meta = FrameMeta { camera, seq: picture.seq, pts_ns: 0, captured_at, captured, size };
    let rgb = Plane { data: picture.rgb.as_raw(), stride: 3 * size.w as usize };
    detector.submit(meta, &ImageView::Rgb { size, rgb })
}
