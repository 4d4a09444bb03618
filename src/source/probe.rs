//! A short connection to a camera or file: does a frame come, of which codec and size, and which element decodes it?

use std::time::{Duration, Instant};

use gstreamer_video as gst_video;
use serde::{Deserialize, Serialize};

use super::error::SourceError;
use super::first;
use crate::cancel::Cancel;
use crate::config::{CameraConfig, SourceConfig};
use crate::frame::Frame;
use crate::queue::{self, Receiver};

/// How long frames are counted after the first one, for cameras that do not declare their rate.
const COUNTING: Duration = Duration::from_secs(2);
/// Time between two checks of the source's facts.
const TICK: Duration = Duration::from_millis(20);

/// The stream of a camera or file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CameraProbe {
    /// `H.264`, `H.265`, `MJPEG`; `None` for files in another codec.
    pub codec: Option<String>,
    /// Name of the element.
    pub decoder: Option<String>,
    pub width: u32,
    pub height: u32,
    /// Frames per second: as the stream declares, else counted.
    pub fps: Option<f64>,
    /// From the start to the first frame, seconds.
    pub first_frame_s: f64,
}

/// Connects as `ocelli run` does, waits for frames, and closes. Takes about 15 s with a camera that is silent.
///
/// # Errors
/// The reason of the first attempt that failed.
pub fn probe(camera: &CameraConfig) -> Result<CameraProbe, SourceError> {
    let (sender, frames) = queue::latest("probe");
    let begin = Instant::now();
    let (source, first) = first::start(camera, sender, &frames, Duration::ZERO, &Cancel::new())?;
    let first_frame_s = begin.elapsed().as_secs_f64();
    let live = !matches!(camera.source, SourceConfig::File { .. });
    let fps = declared(first.info()).or_else(|| live.then(|| counted(&frames)).flatten());
    // Set by the source's thread soon after the first frame.
    while source.decoding().is_none() && begin.elapsed().as_secs_f64() < first_frame_s + 1.0 {
        std::thread::sleep(TICK);
    }
    let (codec, decoder) = source.decoding().flatten().unzip();
    let size = first.meta.size;
    Ok(CameraProbe { codec: codec.map(str::to_owned), decoder, width: size.w, height: size.h, fps, first_frame_s })
}

fn declared(info: &gst_video::VideoInfo) -> Option<f64> {
    let fps = info.fps();
    (fps.numer() > 0 && fps.denom() > 0).then(|| f64::from(fps.numer()) / f64::from(fps.denom()))
}

/// Counts frames for [`COUNTING`].
fn counted(frames: &Receiver<Frame>) -> Option<f64> {
    let begin = Instant::now();
    let mut count = 0_u32;
    while let Some(left) = COUNTING.checked_sub(begin.elapsed()) {
        count += u32::from(frames.recv_timeout(left).is_ok());
    }
    (count > 0).then(|| f64::from(count) / COUNTING.as_secs_f64())
}
