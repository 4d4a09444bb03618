//! A camera for desks without one: a video file served over RTSP as a live H.264 stream, at the pace of the wall clock,
//! over and over, the same picture for every viewer.
//!
//! The file is decoded again and again by an ordinary [`Source`] into a small queue; the thread `simulate-feed` takes
//! frames out on time and pushes them into the encoder while somebody watches. Times are rebased by the source, so a
//! loop's seam cannot be seen.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use gstreamer as gst;
use gstreamer::glib;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use gstreamer_rtsp_server as gst_rtsp_server;
use gstreamer_rtsp_server::gst_rtsp;
use gstreamer_rtsp_server::prelude::*;

use super::error::missing;
use super::{Outcome, Outputs, Source, SourceError, write_counter};
use crate::config::{CameraConfig, DetectConfig, ReconnectConfig, SourceConfig};
use crate::frame::Frame;
use crate::queue::{self, DropPolicy, RecvError};

/// A file's first frame must be there by then.
const FIRST_FRAME: Duration = Duration::from_secs(30);
/// Behind by more than this (the process was stopped for a while), the clock is set anew: a camera does not catch up.
const LATE: Duration = Duration::from_millis(500);
/// Decoded frames kept ready: they hide the seam of a loop.
const AHEAD: usize = 6;
/// Dead connections leave their sessions behind; swept this often.
const SWEEP: Duration = Duration::from_secs(2);
/// The role that the one user of a protected camera has.
const ROLE: &str = "viewer";

/// What to serve, and how.
#[derive(Clone, PartialEq)]
pub struct SimulatorConfig {
    /// The video file.
    pub file: PathBuf,
    /// Address to listen on; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Path of the stream, without the leading slash.
    pub path: String,
    /// Frames per second instead of the file's own rate; must be above 0.
    pub fps: Option<f64>,
    /// Where in the clip to begin; later rounds play it whole.
    pub start: Duration,
    /// User name and password (digest); `None`: open to all.
    pub credentials: Option<(String, String)>,
    /// Start with the first viewer and end with the file, instead of playing for ever.
    pub once: bool,
    /// Paint the frame number into each picture, see [`write_counter`].
    pub counter: bool,
}

/// A running simulated camera. Dropping it stops it.
pub struct Simulator {
    shared: Arc<Shared>,
    url: String,
    main_loop: glib::MainLoop,
    server: Option<JoinHandle<()>>,
    feeder: Option<JoinHandle<()>>,
    source: Option<Source>,
}

struct Shared {
    /// The encoder's input while somebody watches, and the newest frame for whoever comes next.
    slot: Mutex<Slot>,
    changed: Condvar,
    stopping: AtomicBool,
    finished: AtomicBool,
}

#[derive(Default)]
struct Slot {
    viewer: Option<Viewer>,
    newest: Option<Frame>,
}

/// The input of one prepared media: all its viewers share it.
struct Viewer {
    input: gst_app::AppSrc,
    /// Time on the source's line that is 0 in this media.
    zero: Option<u64>,
    caps: Option<gst::Caps>,
}

impl Simulator {
    /// Opens the file, waits for its first frame, then listens. Fails when the file has no video, when the address is
    /// taken, or when no H.264 encoder is installed.
    pub fn start(config: &SimulatorConfig) -> Result<Self, SourceError> {
        gst::init().map_err(|e| SourceError::Init(e.to_string()))?;
        let encoder = encoder()?;
        let (frames, received) = queue::bounded("simulate", AHEAD, DropPolicy::Block);
        let source = play(config, frames)?;
        let mut first = first_frame(&source.0, &source.1, &received, config.start)?;
        let zero_ns = std::mem::take(&mut first.meta.pts_ns);
        number_frame(&mut first, 0, config.counter);
        let fps = config
            .fps
            .unwrap_or_else(|| f64::from(first.info().fps().numer()) / f64::from(first.info().fps().denom().max(1)));
        let context = glib::MainContext::new();
        let main_loop = glib::MainLoop::new(Some(&context), false);
        let shared = Arc::new(Shared {
            slot: Mutex::new(Slot { viewer: None, newest: Some(first) }),
            changed: Condvar::new(),
            stopping: AtomicBool::new(false),
            finished: AtomicBool::new(false),
        });
        let server =
            listen(config, &shared, &encoder.replace("KEY_INTERVAL", &key_interval(fps).to_string()), &context)?;
        let port = server.bound_port();
        let host = if config.listen.ip().is_unspecified() { "127.0.0.1".into() } else { host(&config.listen) };
        let feed = Feed {
            shared: shared.clone(),
            received,
            zero_ns,
            fps: config.fps,
            once: config.once,
            counter: config.counter,
        };
        let thread = |e: std::io::Error| SourceError::Thread(e.to_string());
        let mut simulator = Self {
            shared,
            url: format!("rtsp://{host}:{port}/{}", config.path),
            main_loop: main_loop.clone(),
            server: None,
            feeder: None,
            source: Some(source.0),
        };
        let serve = move || {
            // The server lives as long as its loop.
            let _server = server;
            let _ = context.with_thread_default(|| main_loop.run());
        };
        simulator.server = Some(std::thread::Builder::new().name("simulate-rtsp".into()).spawn(serve).map_err(thread)?);
        let feeder = std::thread::Builder::new().name("simulate-feed".into()).spawn(move || feed.run());
        simulator.feeder = Some(feeder.map_err(thread)?);
        Ok(simulator)
    }

    /// Address of the stream, without credentials.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// True when a file played once has come to its end, or can no longer be read.
    pub fn finished(&self) -> bool {
        self.shared.finished.load(Ordering::Acquire)
    }

    /// Stops serving and joins all threads.
    pub fn stop(mut self) {
        self.shut_down();
    }

    fn shut_down(&mut self) {
        self.shared.stopping.store(true, Ordering::Release);
        self.shared.changed.notify_all();
        if let Some(source) = self.source.take() {
            source.stop();
        }
        // From inside the loop: a quit before the thread runs it would be forgotten.
        let main_loop = self.main_loop.clone();
        let quit = glib::idle_source_new(None, glib::Priority::DEFAULT, move || {
            main_loop.quit();
            glib::ControlFlow::Break
        });
        quit.attach(Some(&self.main_loop.context()));
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

/// Why the file cannot be played, once the source has found out.
type Failure = Arc<Mutex<Option<String>>>;

/// The file as a source of frames, as fast as the queue takes them.
fn play(config: &SimulatorConfig, frames: queue::Sender<Frame>) -> Result<(Source, Failure), SourceError> {
    let failure = Failure::default();
    let said = failure.clone();
    let camera = CameraConfig {
        name: "simulated".into(),
        enabled: true,
        source: SourceConfig::File { path: config.file.clone(), looped: !config.once, realtime: false },
        detect: DetectConfig::default(),
        reconnect: ReconnectConfig::default(),
    };
    let status = Arc::new(move |status: crate::types::CameraStatus| {
        if status.reason.is_some() {
            *said.lock().unwrap_or_else(PoisonError::into_inner) = status.reason;
        }
    });
    Ok((Source::start(&camera, Outputs { frames, tap: None, status })?, failure))
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

/// Frames from one keyframe to the next: a second, so that a new viewer sees a picture soon.
fn key_interval(fps: f64) -> u32 {
    (fps.round() as u32).clamp(1, 30)
}

/// The encoder's part of the launch line. Constant quality: a test reads the picture, nobody pays for the bits.
fn encoder() -> Result<&'static str, SourceError> {
    if gst::ElementFactory::find("x264enc").is_some() {
        return Ok(
            "x264enc speed-preset=ultrafast tune=zerolatency threads=1 pass=qual quantizer=21 key-int-max=KEY_INTERVAL",
        );
    }
    if gst::ElementFactory::find("openh264enc").is_some() {
        return Ok("openh264enc complexity=low bitrate=8000000 gop-size=KEY_INTERVAL");
    }
    Err(missing("x264enc"))
}

fn host(address: &SocketAddr) -> String {
    if address.is_ipv6() { format!("[{}]", address.ip()) } else { address.ip().to_string() }
}

fn listen(
    config: &SimulatorConfig,
    shared: &Arc<Shared>,
    encoder: &str,
    context: &glib::MainContext,
) -> Result<gst_rtsp_server::RTSPServer, SourceError> {
    let server = gst_rtsp_server::RTSPServer::new();
    server.set_address(&config.listen.ip().to_string());
    server.set_service(&config.listen.port().to_string());
    let factory = gst_rtsp_server::RTSPMediaFactory::new();
    factory.set_launch(&format!(
        "( appsrc name=input is-live=true format=time ! {encoder} ! h264parse ! rtph264pay name=pay0 pt=96 config-interval=1 )"
    ));
    factory.set_shared(true);
    factory.set_latency(0);
    if let Some((user, password)) = &config.credentials {
        protect(&server, &factory, user, password);
    }
    let weak = Arc::downgrade(shared);
    factory.connect_media_configure(move |_, media| {
        if let Some(shared) = weak.upgrade() {
            shared.prepared(media);
        }
    });
    let mounts = server.mount_points().ok_or_else(|| SourceError::Build("an RTSP server without mounts".into()))?;
    mounts.add_factory(&format!("/{}", config.path), factory);
    let pool = server.session_pool();
    let sweep = glib::timeout_source_new(SWEEP, None, glib::Priority::DEFAULT, move || {
        if let Some(pool) = &pool {
            pool.cleanup();
        }
        glib::ControlFlow::Continue
    });
    sweep.attach(Some(context));
    server.attach(Some(context)).map_err(|_| {
        SourceError::Build(format!("cannot listen on {}: is the address in use? Try another --listen", config.listen))
    })?;
    Ok(server)
}

fn protect(
    server: &gst_rtsp_server::RTSPServer,
    factory: &gst_rtsp_server::RTSPMediaFactory,
    user: &str,
    password: &str,
) {
    let auth = gst_rtsp_server::RTSPAuth::new();
    auth.set_supported_methods(gst_rtsp::RTSPAuthMethod::Digest);
    let token = gst_rtsp_server::RTSPToken::builder().field("media.factory.role", ROLE).build();
    auth.add_digest(user, password, &token);
    server.set_auth(Some(&auth));
    let allowed = gst::Structure::builder(ROLE)
        .field("media.factory.access", true)
        .field("media.factory.construct", true)
        .build();
    factory.add_role_from_structure(&allowed);
}

impl Shared {
    // The slot's fields are always whole, so a poisoned lock is still good.
    fn lock(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A viewer's media is being prepared: its input is the one to feed, until it is unprepared.
    fn prepared(self: &Arc<Self>, media: &gst_rtsp_server::RTSPMedia) {
        let input = media.element().downcast::<gst::Bin>().ok().and_then(|bin| bin.by_name("input"));
        let Some(input) = input.and_then(|e| e.downcast::<gst_app::AppSrc>().ok()) else {
            return;
        };
        let (weak, gone) = (Arc::downgrade(self), input.downgrade());
        media.connect_unprepared(move |_| {
            if let Some(shared) = weak.upgrade() {
                let mut slot = shared.lock();
                if slot.viewer.as_ref().is_some_and(|v| gone.upgrade().is_some_and(|gone| gone == v.input)) {
                    slot.viewer = None;
                }
                drop(slot);
                shared.changed.notify_all();
            }
        });
        let mut slot = self.lock();
        let mut viewer = Viewer { input, zero: None, caps: None };
        // At once: the answer to DESCRIBE waits for the encoder's first output.
        if let Some(frame) = slot.newest.clone() {
            viewer.push(frame);
        }
        slot.viewer = Some(viewer);
        drop(slot);
        self.changed.notify_all();
    }

    fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Waits until `deadline` (`None`: for ever), a stop or, if asked, a viewer. True: it is time to stop.
    fn wait(&self, deadline: Option<Instant>, enough: impl Fn(&Slot) -> bool) -> bool {
        let mut slot = self.lock();
        while !self.stopping() && !enough(&slot) {
            // Bounded even without a deadline: `stopping` is set without the lock.
            let left = deadline.map_or(LATE, |d| d.saturating_duration_since(Instant::now())).min(LATE);
            if left.is_zero() {
                break;
            }
            slot = self.changed.wait_timeout(slot, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        self.stopping()
    }
}

impl Viewer {
    /// Encodes one frame; drops it when the encoder is two frames behind.
    fn push(&mut self, frame: Frame) {
        let pts = frame.meta.pts_ns;
        let size = frame.info().size() as u64;
        if self.input.current_level_bytes() > 2 * size {
            return;
        }
        let Ok(caps) = frame.info().to_caps() else { return };
        if self.caps.as_ref() != Some(&caps) {
            self.input.set_caps(Some(&caps));
            self.caps = Some(caps);
        }
        let zero = *self.zero.get_or_insert(pts);
        let mut buffer = frame.into_buffer();
        // Shares the pixels; only the times are this buffer's own.
        let writable = buffer.make_mut();
        writable.set_pts(gst::ClockTime::from_nseconds(pts.saturating_sub(zero)));
        writable.set_dts(gst::ClockTime::NONE);
        // Refused only while the media goes away: then the slot is cleared at once.
        let _ = self.input.push_buffer(buffer);
    }
}

/// The thread that hands frames to the encoder on time.
struct Feed {
    shared: Arc<Shared>,
    received: queue::Receiver<Frame>,
    /// The first frame's time in the clip.
    zero_ns: u64,
    fps: Option<f64>,
    once: bool,
    counter: bool,
}

impl Feed {
    /// Starts after the first frame, which is in the slot already.
    fn run(self) {
        if self.once && self.shared.wait(None, |slot| slot.viewer.is_some()) {
            return;
        }
        let mut number = 0u64;
        let mut pace = Pace::default();
        pace.due(0, Instant::now());
        while !self.shared.stopping() {
            let mut frame = match self.received.recv_timeout(LATE) {
                Ok(frame) => frame,
                Err(RecvError::Timeout | RecvError::Woken) => continue,
                Err(RecvError::Closed) => break,
            };
            number += 1;
            frame.meta.pts_ns = frame.meta.pts_ns.saturating_sub(self.zero_ns);
            if let Some(fps) = self.fps {
                frame.meta.pts_ns = (number as f64 * 1e9 / fps) as u64;
            }
            number_frame(&mut frame, number, self.counter);
            let due = pace.due(frame.meta.pts_ns, Instant::now());
            if self.shared.wait(Some(due), |_| false) {
                break;
            }
            let mut slot = self.shared.lock();
            if let Some(viewer) = &mut slot.viewer {
                viewer.push(frame.clone());
            }
            slot.newest = Some(frame);
        }
        self.drain();
        self.shared.finished.store(true, Ordering::Release);
    }

    /// The end of a file played once: the viewers get the end of the stream and a moment to see it.
    fn drain(&self) {
        if let Some(viewer) = &self.shared.lock().viewer {
            let _ = viewer.input.end_of_stream();
        }
        let deadline = Instant::now() + SWEEP;
        self.shared.wait(Some(deadline), |slot| slot.viewer.is_none());
    }
}

/// Paints the frame's number, if that is wanted.
fn number_frame(frame: &mut Frame, number: u64, counter: bool) {
    if !counter {
        return;
    }
    let painted = frame.paint(|view| {
        write_counter(view, number as u16);
    });
    if let Err(error) = painted {
        tracing::debug!("no counter in frame {number}: {error}");
    }
}

/// When each frame is due by the wall clock.
#[derive(Default)]
struct Pace(Option<(Instant, u64)>);

impl Pace {
    fn due(&mut self, pts_ns: u64, now: Instant) -> Instant {
        let (start, zero) = *self.0.get_or_insert((now, pts_ns));
        let due = start + Duration::from_nanos(pts_ns.saturating_sub(zero));
        if now.saturating_duration_since(due) > LATE {
            self.0 = Some((now, pts_ns));
            return now;
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_due_by_their_times_and_a_stopped_camera_does_not_catch_up() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let ms = Duration::from_millis;
        assert_eq!(pace.due(5_000_000, start), start);
        assert_eq!(pace.due(45_000_000, start + ms(1)), start + ms(40));
        assert_eq!(pace.due(85_000_000, start + ms(100)), start + ms(80), "a little late is caught up");
        let later = start + Duration::from_secs(9);
        assert_eq!(pace.due(125_000_000, later), later);
        assert_eq!(pace.due(165_000_000, later), later + ms(40));
    }

    #[test]
    fn keyframes_come_every_second() {
        assert_eq!([0.0, 0.4, 10.0, 25.0, 240.0, f64::NAN].map(key_interval), [1, 1, 10, 25, 30, 1]);
    }
}
