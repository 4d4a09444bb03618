//! One short look at a camera or file: does a picture come, of what codec and size, and who decodes it?

use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use gstreamer_video as gst_video;
use serde::{Deserialize, Serialize};

use super::decoder::CODECS;
use super::pipeline::Fault;
use super::runner::{FIRST_FRAME, Input};
use super::{SourceError, file, pipeline};
use crate::config::CameraConfig;
use crate::types::Size;

/// How long frames are counted after the first one, for cameras that do not say their rate.
const COUNTING: Duration = Duration::from_secs(2);

/// What was seen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CameraProbe {
    /// `H.264`, `H.265`, `MJPEG`; `None` for files in another codec.
    pub codec: Option<String>,
    /// The element that decodes it.
    pub decoder: Option<String>,
    /// Of the picture, in pixels.
    pub width: u32,
    /// Of the picture, in pixels.
    pub height: u32,
    /// Frames per second: as the stream says, else counted.
    pub fps: Option<f64>,
    /// From the start to the first picture, in seconds.
    pub first_frame_s: f64,
}

/// The first picture of a run, or one more.
enum Seen {
    First(gst_video::VideoInfo),
    Next,
}

/// Connects as `ocelli run` does, once, waits for pictures, and closes. Takes about 15 s with a camera that is silent.
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
                // A full channel is a file read at full speed: nobody counts its frames.
                let _ = seen_tx.try_send(news);
                Ok(gst::FlowSuccess::Ok)
            })
            .build()
    };
    let begin = Instant::now();
    let (pipeline, fault) = match &input {
        Input::Rtsp(spec) => pipeline::rtsp(spec, callbacks)?,
        Input::Local(spec) => spec.pipeline(callbacks)?,
        Input::File { path, .. } => file::file(path, true, callbacks)?,
    };
    let outcome = watch(&pipeline, &fault, &input, &seen, begin);
    // In a thread of its own, because a frozen camera can hold it up; the probing process ends soon.
    let closing = std::thread::Builder::new().name("end-probe".into()).spawn(move || {
        let _ = pipeline.set_state(gst::State::Null);
    });
    if let Ok(closing) = closing {
        let deadline = Instant::now() + Duration::from_millis(1500);
        while !closing.is_finished() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    outcome
}

fn watch(
    pipeline: &gst::Pipeline,
    fault: &Fault,
    input: &Input,
    seen: &Receiver<Seen>,
    begin: Instant,
) -> Result<CameraProbe, SourceError> {
    let bus = pipeline.bus().ok_or_else(|| pipeline::build("a pipeline without a bus"))?;
    // A failed start has its reason on the bus.
    let started = pipeline.set_state(gst::State::Playing).is_ok();
    let info = loop {
        if let Some(error) = fault.take() {
            return Err(error);
        }
        if let Ok(Seen::First(info)) = seen.recv_timeout(Duration::from_millis(20)) {
            break info;
        }
        while let Some(message) = bus.pop() {
            if let Some(error) = end(&message, fault, input) {
                return Err(error);
            }
        }
        if !started {
            return Err(pipeline::build("the pipeline does not start"));
        }
        if begin.elapsed() >= FIRST_FRAME {
            return Err(SourceError::NeverAFrame(FIRST_FRAME));
        }
    };
    let first_frame_s = begin.elapsed().as_secs_f64();
    let (codec, decoder) = codec(pipeline);
    let size = Size::new(info.width(), info.height());
    let fps = declared(&info).or_else(|| (!matches!(input, Input::File { .. })).then(|| counted(seen)).flatten());
    Ok(CameraProbe { codec, decoder, width: size.w, height: size.h, fps, first_frame_s })
}

/// The error in a message that ends the run before the first picture.
fn end(message: &gst::Message, fault: &Fault, input: &Input) -> Option<SourceError> {
    match (message.view(), input) {
        (gst::MessageView::Eos(_), Input::Rtsp(_) | Input::Local(_)) => Some(SourceError::StreamEnded),
        (gst::MessageView::Eos(_), Input::File { path, .. }) => {
            Some(SourceError::File { path: path.clone(), reason: "not one picture could be decoded".into() })
        }
        (gst::MessageView::Error(error), input) => Some(fault.explain().unwrap_or_else(|| match input {
            Input::Rtsp(_) | Input::Local(_) => SourceError::from_camera(error, &input.secrets()),
            Input::File { path, .. } => SourceError::from_file(error, path),
        })),
        _ => None,
    }
}

fn declared(info: &gst_video::VideoInfo) -> Option<f64> {
    let fps = info.fps();
    (fps.numer() > 0 && fps.denom() > 0).then(|| f64::from(fps.numer()) / f64::from(fps.denom()))
}

/// Counts frames for [`COUNTING`].
fn counted(seen: &Receiver<Seen>) -> Option<f64> {
    // What waits came before the clock was started.
    while seen.try_recv().is_ok() {}
    let begin = Instant::now();
    let mut frames = 0_u32;
    while let Some(left) = COUNTING.checked_sub(begin.elapsed()) {
        frames += u32::from(seen.recv_timeout(left).is_ok());
    }
    (frames > 0).then(|| f64::from(frames) / COUNTING.as_secs_f64())
}

/// The codec's name and its decoder, by the elements that were put into the pipeline.
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
