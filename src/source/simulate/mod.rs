//! A simulated camera: a video file served over RTSP as a live H.264 stream, at the pace of the wall clock, over and over,
//! the same frames for every viewer.
//!
//! An ordinary [`Source`] decodes the file again and again into a small queue; the thread `simulate-feed` takes frames out
//! on time and pushes them into the encoder while a viewer watches. The source rebases times, so the seam of a loop is
//! invisible.

mod config;
mod feed;
mod server;
mod slot;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use gstreamer as gst;
use gstreamer::glib;
use gstreamer_rtsp_server::prelude::*;

pub use self::config::SimulatorConfig;
use self::feed::{Feed, number_frame};
use self::server::{encoder, host, listen};
use self::slot::Shared;
use super::error::SourceError;
use super::first;
use super::handle::Source;
use crate::cancel::Cancel;
use crate::config::{CameraConfig, DetectConfig, ReconnectConfig, SourceConfig};
use crate::queue::{self, DropPolicy};

/// Longest wait for the source's thread in a stop.
const STOP: Duration = Duration::from_secs(2);
/// Decoded frames kept ready: they hide the seam of a loop.
const AHEAD: usize = 6;

/// A running simulated camera. Dropping it stops serving and joins all threads.
pub struct Simulator {
    cancel: Cancel,
    url: String,
    main_loop: glib::MainLoop,
    server: Option<JoinHandle<()>>,
    feeder: Option<JoinHandle<()>>,
    source: Option<Source>,
}

impl Simulator {
    /// Opens the file, waits for its first frame, then listens.
    ///
    /// # Errors
    /// The file has no video, the address is in use, or no H.264 encoder is installed.
    pub fn start(config: &SimulatorConfig) -> Result<Self, SourceError> {
        gst::init().map_err(|e| SourceError::Init(e.to_string()))?;
        let encoder = encoder()?;
        let (frames, received) = queue::bounded("simulate", AHEAD, DropPolicy::Block);
        let cancel = Cancel::new();
        let (source, mut first) = first::start(&played(config), frames, &received, config.start, &cancel)?;
        let zero_ns = std::mem::take(&mut first.meta.pts_ns);
        number_frame(&mut first, 0, config.counter);
        let declared = first.info().fps();
        let fps = config.fps.unwrap_or_else(|| f64::from(declared.numer()) / f64::from(declared.denom().max(1)));
        let context = glib::MainContext::new();
        let main_loop = glib::MainLoop::new(Some(&context), false);
        let shared = Arc::new(Shared::new(first, cancel.clone()));
        let server = listen(config, &shared, encoder, fps, &context)?;
        let port = server.bound_port();
        let host = if config.listen.ip().is_unspecified() { "127.0.0.1".into() } else { host(&config.listen) };
        let mut simulator = Self {
            cancel,
            url: format!("rtsp://{host}:{port}/{}", config.path),
            main_loop: main_loop.clone(),
            server: None,
            feeder: None,
            source: Some(source),
        };
        let thread = |e: std::io::Error| SourceError::Thread(e.to_string());
        let serve = move || {
            // The server lives as long as its loop.
            let _server = server;
            let _ = context.with_thread_default(|| main_loop.run());
        };
        simulator.server = Some(std::thread::Builder::new().name("simulate-rtsp".into()).spawn(serve).map_err(thread)?);
        let feed = Feed { shared, received, zero_ns, config: config.clone() };
        let feeder = std::thread::Builder::new().name("simulate-feed".into()).spawn(move || feed.run());
        simulator.feeder = Some(feeder.map_err(thread)?);
        Ok(simulator)
    }

    /// Address of the stream, without credentials.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// True when a file played once is over, or can no longer be read.
    pub fn finished(&self) -> bool {
        self.feeder.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        self.cancel.cancel(STOP);
        // From inside the loop: a quit before the thread runs it would be lost.
        let main_loop = self.main_loop.clone();
        let quit = glib::idle_source_new(None, glib::Priority::DEFAULT, move || {
            main_loop.quit();
            glib::ControlFlow::Break
        });
        quit.attach(Some(&self.main_loop.context()));
        drop(self.source.take());
        for thread in [self.feeder.take(), self.server.take()].into_iter().flatten() {
            let _ = thread.join();
        }
    }
}

/// The file as a source of frames, as fast as the queue takes them.
fn played(config: &SimulatorConfig) -> CameraConfig {
    CameraConfig {
        name: "simulated".into(),
        enabled: true,
        source: SourceConfig::File { path: config.file.clone(), looped: !config.once, realtime: false },
        detect: DetectConfig::default(),
        reconnect: ReconnectConfig::default(),
    }
}
