//! Pictures on the disk, and their way through a detector.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use image::{DynamicImage, ImageDecoder, ImageReader, RgbImage};

use crate::pipeline::{Detector, DetectorError};
use crate::types::{FrameMeta, ImageView, Plane, Size};

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

/// Submits a picture to the detector, which must have room for it.
pub(super) fn submit(
    detector: &mut Detector,
    camera: Arc<str>,
    seq: u64,
    picture: &RgbImage,
) -> Result<(), DetectorError> {
    let size = Size::new(picture.width(), picture.height());
    let (captured_at, captured) = (SystemTime::now(), Instant::now());
    let meta = FrameMeta { camera, seq, pts_ns: 0, captured_at, captured, size };
    let rgb = Plane { data: picture.as_raw(), stride: 3 * size.w as usize };
    detector.submit(meta, &ImageView::Rgb { size, rgb })
}
