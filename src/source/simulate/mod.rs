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

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use gstreamer as gst;
use gstreamer::glib;
use gstreamer_rtsp_server::prelude::*;

pub use self::config::SimulatorConfig;
use self::feed::{Feed, number_frame};
use self::server::{encoder, host, listen};
use self::slot::Shared;
use super::error::SourceError;
use super::handle::Source;
use super::outputs::{Outcome, Outputs};
use crate::cancel::Cancel;
use crate::config::{CameraConfig, DetectConfig, ReconnectConfig, SourceConfig};
use crate::frame::Frame;
use crate::queue::{self, DropPolicy, RecvError};
use crate::types::CameraStatus;

/// Timeout for a file's first frame.
const FIRST_FRAME: Duration = Duration::from_secs(30);
/// Longest wait for the source's thread in a stop.
const STOP: Duration = Duration::from_secs(2);
/// Decoded frames kept ready: they hide the seam of a loop.
const AHEAD: usize = 6;

/// A running simulated camera. Dropping it stops it.
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
        let (source, failure) = play(config, frames, &cancel)?;
        let mut first = first_frame(&source, &failure, &received, config.start)?;
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

    /// Stops serving and joins all threads.
    pub fn stop(mut self) {
        self.shut_down();
    }

    fn shut_down(&mut self) {
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

impl Drop for Simulator {
    fn drop(&mut self) {
        self.shut_down();
    }
}

/// Why the file cannot be played, once the source has reported it.
type Failure = Arc<Mutex<Option<String>>>;

/// The file as a source of frames, as fast as the queue takes them.
fn play(
    config: &SimulatorConfig,
    frames: queue::Sender<Frame>,
    cancel: &Cancel,
) -> Result<(Source, Failure), SourceError> {
    let failure = Failure::default();
    let reported = failure.clone();
    let camera = CameraConfig {
        name: "simulated".into(),
        enabled: true,
        source: SourceConfig::File { path: config.file.clone(), looped: !config.once, realtime: false },
        detect: DetectConfig::default(),
        reconnect: ReconnectConfig::default(),
    };
    let status = Arc::new(move |status: CameraStatus| {
        if status.reason.is_some() {
            *reported.lock().unwrap_or_else(PoisonError::into_inner) = status.reason;
        }
    });
    Ok((Source::start(&camera, Outputs { frames, tap: None, status }, cancel)?, failure))
}

fn first_frame(
    source: &Source,
    failure: &Failure,
    frames: &queue::Receiver<Frame>,
    from: Duration,
) -> Result<Frame, SourceError> {
    let deadline = Instant::now() + FIRST_FRAME;
    loop {
        match frames.recv_timeout(Duration::from_millis(50)) {
            Ok(frame) if u128::from(frame.meta.pts_ns) < from.as_nanos() => {}
            Ok(frame) => return Ok(frame),
            Err(RecvError::Closed) => {
                return Err(match source.outcome() {
                    Some(Outcome::Failed(error)) => error,
                    _ => SourceError::NoVideo("the file ended without a frame".into()),
                });
            }
            Err(RecvError::Timeout | RecvError::Woken) => {}
        }
        if let Some(reason) = failure.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Err(SourceError::Stream(reason));
        }
        if Instant::now() >= deadline {
            return Err(SourceError::NeverAFrame(FIRST_FRAME));
        }
    }
}
