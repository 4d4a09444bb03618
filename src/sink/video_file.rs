//! Annotated video as an .mp4 file.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use gstreamer_video as gst_video;

use super::encoder::{self, ELEMENT_NAME, EncoderError, Purpose};
use crate::frame::Frame;
use crate::types::Size;

/// Frames that may wait for the encoder; beyond that [`VideoFile::push`] blocks.
const QUEUED_FRAMES: u64 = 4;
/// Time without progress after which the encoder is considered hung.
const STUCK: Duration = Duration::from_secs(30);
/// Between two checks of the encoder's queue; an error on the bus ends the wait at once.
const GLANCE: gst::ClockTime = gst::ClockTime::from_mseconds(2);

#[derive(Debug, thiserror::Error)]
pub enum VideoFileError {
    #[error("cannot write {path}: {source}")]
    Create { path: PathBuf, source: std::io::Error },
    #[error("annotated video needs an H.264 encoder: {0}")]
    Encoder(#[from] EncoderError),
    #[error("cannot build the pipeline for {path}: {reason}; is gstreamer1.0-plugins-good (mp4mux) installed?")]
    Pipeline { path: PathBuf, reason: String },
    #[error("{path} is a video of {expected}, but a frame of {got} came: one file holds one size")]
    Size { path: PathBuf, expected: Size, got: Size },
    #[error("writing {path} failed: {reason}; is the disk full?")]
    Write { path: PathBuf, reason: String },
    #[error("writing {path}: the encoder has not moved for {} s", STUCK.as_secs())]
    Stuck { path: PathBuf },
}

/// A video file that is being written, with the frames' own time stamps. Without [`VideoFile::finish`] it cannot be
/// played.
pub struct VideoFile {
    path: PathBuf,
    size: Size,
    fps: f64,
    pipeline: gst::Pipeline,
    appsrc: gst_app::AppSrc,
    encoder: encoder::Encoder,
    format: Option<gst_video::VideoInfo>,
    /// Time stamps of the first and the latest frame in nanoseconds.
    stamps: Option<(u64, u64)>,
    frames: u64,
}

impl VideoFile {
    /// Creates or truncates the file. All frames have `size`. `fps` is the nominal rate; 0: that of the frames.
    pub fn create(path: &Path, size: Size, fps: f64) -> Result<Self, VideoFileError> {
        let encoder = encoder::choose()?;
        std::fs::File::create(path).map_err(|source| VideoFileError::Create { path: path.into(), source })?;
        let failed = |reason: String| VideoFileError::Pipeline { path: path.into(), reason };
        let line = format!(
            "appsrc name=source format=time block=false ! {} ! h264parse ! mp4mux ! filesink name=file",
            encoder.launch(Purpose::File)
        );
        let pipeline = gst::parse::launch(&line)
            .map_err(|e| failed(e.to_string()))?
            .downcast::<gst::Pipeline>()
            .map_err(|_| failed("not a pipeline".into()))?;
        // As a property: a path may hold anything that a launch line would take apart.
        if let Some(file) = pipeline.by_name("file") {
            file.set_property("location", path);
        }
        let appsrc = pipeline
            .by_name("source")
            .and_then(|e| e.downcast::<gst_app::AppSrc>().ok())
            .ok_or_else(|| failed("no appsrc".into()))?;
        let made =
            Self { path: path.into(), size, fps, pipeline, appsrc, encoder, format: None, stamps: None, frames: 0 };
        made.pipeline.set_state(gst::State::Playing).map_err(|e| made.failure(&e.to_string()))?;
        Ok(made)
    }

    /// Appends a frame (I420 or NV12); blocks while the encoder is behind.
    pub fn push(&mut self, frame: Frame) -> Result<(), VideoFileError> {
        if frame.meta.size != self.size {
            return Err(VideoFileError::Size { path: self.path.clone(), expected: self.size, got: frame.meta.size });
        }
        if self.format.as_ref() != Some(frame.info()) {
            self.announce(frame.info().clone())?;
        }
        self.wait_for_room(frame.info().size())?;
        let (first, stamp) = match self.stamps {
            None => (frame.meta.pts_ns, frame.meta.pts_ns),
            // The muxer fails on time stamps that do not increase.
            Some((first, last)) => (first, frame.meta.pts_ns.max(last + 1_000_000)),
        };
        self.stamps = Some((first, stamp));
        let mut buffer = frame.into_buffer();
        {
            // Copies the header with the time stamps; the pixels stay shared.
            let header = buffer.make_mut();
            header.set_pts(gst::ClockTime::from_nseconds(stamp - first));
            header.set_dts(gst::ClockTime::NONE);
            header.set_duration(gst::ClockTime::NONE);
        }
        self.appsrc.push_buffer(buffer).map_err(|e| self.failure(&e.to_string()))?;
        self.frames += 1;
        Ok(())
    }

    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// Writes the remaining frames and the index, without which players refuse the file. A file without frames is removed.
    pub fn finish(self) -> Result<(), VideoFileError> {
        if self.frames == 0 {
            let _ = self.pipeline.set_state(gst::State::Null);
            return std::fs::remove_file(&self.path)
                .map_err(|source| VideoFileError::Create { path: self.path.clone(), source });
        }
        self.appsrc.end_of_stream().map_err(|e| self.failure(&e.to_string()))?;
        let types = [gst::MessageType::Eos, gst::MessageType::Error];
        let wait = gst::ClockTime::try_from(STUCK).unwrap_or(gst::ClockTime::from_seconds(30));
        let end = self.pipeline.bus().and_then(|bus| bus.timed_pop_filtered(wait, &types));
        match end.as_ref().map(|message| message.view()) {
            Some(gst::MessageView::Eos(_)) => Ok(()),
            Some(gst::MessageView::Error(error)) => Err(self.write_error(error)),
            _ => Err(VideoFileError::Stuck { path: self.path.clone() }),
        }
    }

    fn announce(&mut self, info: gst_video::VideoInfo) -> Result<(), VideoFileError> {
        let failed =
            |e: gst::glib::BoolError| VideoFileError::Pipeline { path: self.path.clone(), reason: e.to_string() };
        let mut caps = info.to_caps().map_err(failed)?;
        if self.fps > 0.0 {
            let fps = gst::Fraction::approximate_f64(self.fps).unwrap_or(gst::Fraction::new(25, 1));
            caps.make_mut().set("framerate", fps);
        }
        self.appsrc.set_caps(Some(&caps));
        if let Some(element) = self.pipeline.by_name(ELEMENT_NAME) {
            // A key frame about every two seconds, for seeking.
            let fps = if self.fps.is_finite() && self.fps >= 1.0 { self.fps.min(240.0) } else { 25.0 };
            self.encoder.set_key_interval(&element, (fps * 2.0) as u32);
        }
        self.format = Some(info);
        Ok(())
    }

    /// Waits until the encoder has taken frames. Not `block=true`: that wait does not end when the encoder fails.
    fn wait_for_room(&self, frame_bytes: usize) -> Result<(), VideoFileError> {
        let Some(bus) = self.pipeline.bus() else { return Ok(()) };
        let end = Instant::now() + STUCK;
        let mut wait = gst::ClockTime::ZERO;
        loop {
            if let Some(message) = bus.timed_pop_filtered(wait, &[gst::MessageType::Error])
                && let gst::MessageView::Error(error) = message.view()
            {
                return Err(self.write_error(error));
            }
            if self.appsrc.current_level_bytes() < QUEUED_FRAMES * frame_bytes as u64 {
                return Ok(());
            }
            if Instant::now() > end {
                return Err(VideoFileError::Stuck { path: self.path.clone() });
            }
            wait = GLANCE;
        }
    }

    fn write_error(&self, error: &gst::message::Error) -> VideoFileError {
        VideoFileError::Write { path: self.path.clone(), reason: error.error().to_string() }
    }

    /// The error on the bus, else `fallback`.
    fn failure(&self, fallback: &str) -> VideoFileError {
        let message = self.pipeline.bus().and_then(|bus| bus.pop_filtered(&[gst::MessageType::Error]));
        match message.as_ref().map(|m| m.view()) {
            Some(gst::MessageView::Error(error)) => self.write_error(error),
            _ => VideoFileError::Write { path: self.path.clone(), reason: fallback.to_owned() },
        }
    }
}

impl Drop for VideoFile {
    fn drop(&mut self) {
        let _ = self.pipeline.set_state(gst::State::Null);
    }
}
