//! A short connection to a camera or file: does a frame come, of which codec and size, and which element decodes it?

use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use gstreamer_video as gst_video;
use serde::{Deserialize, Serialize};

use super::decoder::CODECS;
use super::error::{SourceError, build};
use super::input::{FIRST_FRAME, Input};
use super::pipeline::Draft;
use crate::config::CameraConfig;
use crate::types::Size;

/// How long frames are counted after the first one, for cameras that do not declare their rate.
const COUNTING: Duration = Duration::from_secs(2);

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

enum Seen {
    First(gst_video::VideoInfo),
    Next,
}

/// Connects once as `ocelli run` does, waits for frames, and closes. Takes about 15 s with a camera that is silent.
///
/// # Errors
/// The reason that a source would report.
pub fn probe(camera: &CameraConfig) -> Result<CameraProbe, SourceError> {
    gst::init().map_err(|e| SourceError::Init(e.to_string()))?;
    let input = Input::new(&camera.source);
    let (seen_tx, seen) = sync_channel(256);
    let callbacks = |_: gst::Bus| {
        let mut first = true;
        gst_app::AppSinkCallbacks::builder()
            .new_sample(move |sink| {
                let sample = sink.pull_sample().map_err(|_| gst::FlowError::Flushing)?;
                let info = sample.caps().and_then(|caps| gst_video::VideoInfo::from_caps(caps).ok());
                let news = match info {
                    Some(info) if std::mem::take(&mut first) => Seen::First(info),
                    _ => Seen::Next,
                };
                // A full channel means a file read at full speed, whose frames are not counted.
                let _ = seen_tx.try_send(news);
                Ok(gst::FlowSuccess::Ok)
            })
            .build()
    };
    let begin = Instant::now();
    let draft = input.build(callbacks)?;
    let outcome = watch(&draft, &input, &seen, begin);
    // In a thread of its own, because a frozen camera can hold it up; the probing process ends soon.
    let closing = std::thread::Builder::new().name("end-probe".into()).spawn(move || {
        let _ = draft.pipeline.set_state(gst::State::Null);
    });
    if let Ok(closing) = closing {
        let deadline = Instant::now() + Duration::from_millis(1500);
        while !closing.is_finished() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    outcome
}

fn watch(draft: &Draft, input: &Input, seen: &Receiver<Seen>, begin: Instant) -> Result<CameraProbe, SourceError> {
    let Draft { pipeline, fault, .. } = draft;
    let bus = pipeline.bus().ok_or_else(|| build("a pipeline without a bus"))?;
    // A failed start has its reason on the bus.
    let started = pipeline.set_state(gst::State::Playing).is_ok();
    let info = loop {
        if let Some(error) = fault.take() {
            return Err(input.named(error));
        }
        if let Ok(Seen::First(info)) = seen.recv_timeout(Duration::from_millis(20)) {
            break info;
        }
        while let Some(message) = bus.pop() {
            match message.view() {
                gst::MessageView::Error(error) => return Err(input.error(error, fault)),
                gst::MessageView::Eos(_) => return Err(input.ended(0).unwrap_or(SourceError::StreamEnded)),
                _ => {}
            }
        }
        if !started {
            return Err(build("the pipeline does not start"));
        }
        if begin.elapsed() >= FIRST_FRAME {
            return Err(SourceError::NeverAFrame(FIRST_FRAME));
        }
    };
    let first_frame_s = begin.elapsed().as_secs_f64();
    let (codec, decoder) = codec(pipeline);
    let size = Size::new(info.width(), info.height());
    let fps = declared(&info).or_else(|| input.is_live().then(|| counted(seen)).flatten());
    Ok(CameraProbe { codec, decoder, width: size.w, height: size.h, fps, first_frame_s })
}

fn declared(info: &gst_video::VideoInfo) -> Option<f64> {
    let fps = info.fps();
    (fps.numer() > 0 && fps.denom() > 0).then(|| f64::from(fps.numer()) / f64::from(fps.denom()))
}

/// Counts frames for [`COUNTING`].
fn counted(seen: &Receiver<Seen>) -> Option<f64> {
    // Frames in the channel came before the clock was started.
    while seen.try_recv().is_ok() {}
    let begin = Instant::now();
    let mut frames = 0_u32;
    while let Some(left) = COUNTING.checked_sub(begin.elapsed()) {
        frames += u32::from(seen.recv_timeout(left).is_ok());
    }
    (frames > 0).then(|| f64::from(frames) / COUNTING.as_secs_f64())
}

/// The codec's name and its decoder, by the elements in the pipeline.
fn codec(pipeline: &gst::Pipeline) -> (Option<String>, Option<String>) {
    let names: Vec<String> = pipeline
        .iterate_elements()
        .into_iter()
        .flatten()
        .filter_map(|element| Some(element.factory()?.name().to_string()))
        .collect();
    let found = CODECS.iter().find_map(|codec| Some((codec, names.iter().find(|name| codec.decodes_with(name))?)));
    match found {
        Some((codec, decoder)) => (Some(codec.name.to_owned()), Some(decoder.clone())),
        None => (None, None),
    }
}
