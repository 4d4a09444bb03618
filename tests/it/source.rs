//! Cameras and files as sources: the real `ocelli simulate` is the camera, the library's `Source` looks at it.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use gstreamer as gst;
use gstreamer::prelude::*;
use ocelli::cancel::Cancel;
use ocelli::config::{CameraConfig, DetectConfig, ReconnectConfig, SourceConfig, Transport};
use ocelli::frame::Frame;
use ocelli::queue::{self, DropPolicy, Receiver, RecvError};
use ocelli::source::{Outcome, Outputs, Source, SourceError};
use ocelli::types::{CameraState, CameraStatus, Size};

use crate::common::{Guard, free_port, ocelli};
use crate::counter::read_counter;

/// Timeout of every wait. Nothing is timed: this only ends a test that has failed.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A clip in `dir` made by `encode` (from raw video to a muxed stream), so that no test needs a file from elsewhere.
fn clip_as(dir: &Path, name: &str, size: Size, frames: u32, encode: &str) -> PathBuf {
    gst::init().unwrap();
    let path = dir.join(name);
    let line = format!(
        "videotestsrc num-buffers={frames} pattern=ball ! video/x-raw,format=I420,width={},height={},framerate=15/1 \
         ! {encode} ! filesink location={}",
        size.w,
        size.h,
        path.display()
    );
    run_to_end(&line);
    path
}

fn run_to_end(line: &str) {
    let pipeline = gst::parse::launch(line).unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let end = pipeline
        .bus()
        .unwrap()
        .timed_pop_filtered(gst::ClockTime::from_seconds(60), &[gst::MessageType::Eos, gst::MessageType::Error])
        .unwrap();
    assert_eq!(end.type_(), gst::MessageType::Eos, "{line}: {end:?}");
    pipeline.set_state(gst::State::Null).unwrap();
}

const H264: &str = "x264enc speed-preset=ultrafast ! h264parse ! mp4mux";
const SMALL: Size = Size::new(320, 240);

fn clip(dir: &Path, size: Size, frames: u32) -> PathBuf {
    clip_as(dir, &format!("{size}-{frames}.mp4"), size, frames, H264)
}

/// A clip of two seconds for other modules.
pub fn small_clip(dir: &Path) -> PathBuf {
    clip(dir, SMALL, 30)
}

/// `ocelli simulate` as a child, listening.
struct Camera {
    child: Guard,
    url: String,
}

impl Camera {
    fn start(clip: &Path, port: u16, more: &[&str]) -> Self {
        let mut child = Guard(
            ocelli()
                .arg("simulate")
                .arg(clip)
                .args(["--listen", &format!("127.0.0.1:{port}"), "--path", "test", "--counter"])
                .args(more)
                .stdout(Stdio::piped())
                .spawn()
                .unwrap(),
        );
        let mut url = String::new();
        BufReader::new(child.0.stdout.take().unwrap()).read_line(&mut url).unwrap();
        assert!(url.starts_with("rtsp://127.0.0.1:"), "the simulated camera printed {url:?}");
        Self { child, url: url.trim().to_owned() }
    }

    fn signal(&self, name: &str) {
        assert!(Command::new("kill").args([name, &self.child.0.id().to_string()]).status().unwrap().success());
    }
}

fn rtsp(url: &str, transport: Transport, credentials: Option<(&str, &str)>) -> SourceConfig {
    SourceConfig::Rtsp {
        url: url.to_owned(),
        username: credentials.map(|c| c.0.to_owned()),
        password: credentials.map(|c| c.1.to_owned()),
        transport,
        latency: Duration::from_millis(100),
    }
}

fn tcp(url: &str) -> SourceConfig {
    rtsp(url, Transport::Tcp, None)
}

fn file(path: &Path, looped: bool) -> SourceConfig {
    SourceConfig::File { path: path.to_owned(), looped, realtime: false }
}

/// A source under test with every state that it reports.
struct Watch {
    source: Source,
    frames: Receiver<Frame>,
    reported: Arc<Mutex<Vec<CameraStatus>>>,
}

impl Watch {
    fn start(source: SourceConfig) -> Self {
        // Quick retries; a camera that is silent for a second counts as frozen.
        let reconnect = ReconnectConfig {
            no_frame: Duration::from_secs(1),
            first: Duration::from_millis(100),
            max: Duration::from_millis(500),
            jitter: 0.2,
        };
        let live = matches!(source, SourceConfig::Rtsp { .. });
        let (sender, frames) = if live { queue::latest("test") } else { queue::bounded("test", 2, DropPolicy::Block) };
        let reported = Arc::new(Mutex::new(Vec::new()));
        let out = reported.clone();
        let camera =
            CameraConfig { name: "gate".into(), enabled: true, source, detect: DetectConfig::default(), reconnect };
        let status = Arc::new(move |s| out.lock().unwrap().push(s));
        let source = Source::start(&camera, Outputs { frames: sender, tap: None, status }, &Cancel::new()).unwrap();
        Self { source, frames, reported }
    }

    fn reported(&self) -> Vec<CameraStatus> {
        self.reported.lock().unwrap().clone()
    }

    fn states(&self) -> Vec<CameraState> {
        self.reported().iter().map(|s| s.state).collect()
    }

    /// Waits for `state` among the reports from number `from` on; returns it and the number after it.
    fn wait_for(&self, state: CameraState, from: usize) -> (CameraStatus, usize) {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let reported = self.reported();
            if let Some(at) = reported.iter().skip(from).position(|s| s.state == state) {
                return (reported[from + at].clone(), from + at + 1);
            }
            assert!(Instant::now() < deadline, "never {state:?} from {from} on: {reported:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn frame(&self) -> Frame {
        self.frames.recv_timeout(TIMEOUT).unwrap_or_else(|e| panic!("no frame: {e}; {:?}", self.reported()))
    }

    /// All frames up to the end of a file.
    fn rest(&self) -> Vec<Frame> {
        let mut all = Vec::new();
        loop {
            match self.frames.recv_timeout(TIMEOUT) {
                Ok(frame) => all.push(frame),
                Err(RecvError::Closed) => return all,
                Err(other) => panic!("{other}; {:?}", self.reported()),
            }
        }
    }
}

fn counter(frame: &Frame) -> u16 {
    let mapped = frame.map().unwrap();
    read_counter(&mapped.view().unwrap()).expect("the frame carries a counter")
}

fn watch_a_live_camera(transport: Transport) {
    let dir = tempfile::tempdir().unwrap();
    let camera = Camera::start(&clip(dir.path(), SMALL, 20), 0, &[]);
    let watch = Watch::start(rtsp(&camera.url, transport, None));
    // More than one pass through the clip: the seam must not show.
    let frames: Vec<_> = (0..50).map(|_| watch.frame()).map(|f| (f.meta.seq, f.meta.pts_ns, counter(&f), f)).collect();
    for pair in frames.windows(2) {
        let ((seq, pts, number, _), (next_seq, next_pts, next_number, next)) = (&pair[0], &pair[1]);
        assert!(next_seq > seq && next_pts > pts, "{next_seq} at {next_pts} after {seq} at {pts}");
        assert!(next_number > number, "frame {next_number} after {number}");
        assert_eq!(next.meta.size, SMALL);
        assert_eq!(&*next.meta.camera, "gate");
    }
    watch.wait_for(CameraState::Online, 0);
    assert_eq!(watch.states(), [CameraState::Connecting, CameraState::Online]);
    watch.source.stop();
}

#[test]
fn a_camera_over_tcp() {
    watch_a_live_camera(Transport::Tcp);
}

#[test]
fn a_camera_over_udp() {
    watch_a_live_camera(Transport::Udp);
}

#[test]
fn an_absent_camera_is_retried_and_does_not_disturb_others() {
    let dir = tempfile::tempdir().unwrap();
    let (clip, port) = (clip(dir.path(), SMALL, 20), free_port());
    let absent = Watch::start(tcp(&format!("rtsp://127.0.0.1:{port}/test")));
    let (offline, _) = absent.wait_for(CameraState::Offline, 0);
    assert!(offline.reason.as_deref().unwrap().to_lowercase().contains("connect"), "{offline:?}");
    assert_eq!(offline.retries, 1);
    let present = Camera::start(&clip, 0, &[]);
    let other = Watch::start(tcp(&present.url));
    other.frame();
    other.wait_for(CameraState::Online, 0);
    // The same refusal is reported once.
    assert_eq!(absent.states(), [CameraState::Connecting, CameraState::Offline]);
    let _late = Camera::start(&clip, port, &[]);
    absent.wait_for(CameraState::Online, 0);
    absent.frame();
}

#[test]
fn a_restarted_camera_is_connected_again_and_may_have_another_size() {
    let dir = tempfile::tempdir().unwrap();
    let (small, large) = (clip(dir.path(), SMALL, 20), clip(dir.path(), Size::new(640, 362), 20));
    let port = free_port();
    let camera = Camera::start(&small, port, &[]);
    let watch = Watch::start(tcp(&camera.url));
    let before = watch.frame();
    let (_, at) = watch.wait_for(CameraState::Online, 0);
    drop(camera);
    let (offline, at) = watch.wait_for(CameraState::Offline, at);
    assert!(offline.reason.is_some());
    let _camera = Camera::start(&large, port, &[]);
    let (online, _) = watch.wait_for(CameraState::Online, at);
    assert_eq!((online.reason, online.retries), (None, 0));
    let mut last = before.meta;
    assert_eq!(last.size, SMALL);
    let deadline = Instant::now() + TIMEOUT;
    // A frame of the old size may still be in the queue; then the new size follows.
    while last.size == SMALL {
        let frame = watch.frame();
        assert!(frame.meta.seq > last.seq && frame.meta.pts_ns > last.pts_ns, "{:?} after {last:?}", frame.meta);
        if frame.meta.size != SMALL {
            counter(&frame);
        }
        last = frame.meta;
        assert!(Instant::now() < deadline);
    }
    assert_eq!(last.size, Size::new(640, 362));
}

#[test]
fn a_frozen_camera_is_reported_stalled_and_recovers() {
    let dir = tempfile::tempdir().unwrap();
    let camera = Camera::start(&clip(dir.path(), SMALL, 20), 0, &[]);
    let watch = Watch::start(tcp(&camera.url));
    let before = watch.frame().meta;
    let (_, at) = watch.wait_for(CameraState::Online, 0);
    camera.signal("-STOP");
    let (stalled, at) = watch.wait_for(CameraState::Stalled, at);
    assert_eq!(stalled.reason.as_deref(), Some("no frame for 1.0s"));
    watch.wait_for(CameraState::Connecting, at);
    camera.signal("-CONT");
    watch.wait_for(CameraState::Online, at);
    let after = watch.frame().meta;
    assert!(after.seq > before.seq && after.pts_ns > before.pts_ns);
}

#[test]
fn a_wrong_password_has_its_own_state_and_is_never_shown() {
    let dir = tempfile::tempdir().unwrap();
    let camera = Camera::start(&clip(dir.path(), SMALL, 20), 0, &["--user", "admin", "--password", "right one"]);
    let wrong = Watch::start(rtsp(&camera.url, Transport::Tcp, Some(("admin", "s3cret-wrong"))));
    let without = Watch::start(tcp(&camera.url));
    // Also from an address that holds them, as people paste it.
    let pasted = Watch::start(tcp(&camera.url.replace("rtsp://", "rtsp://admin:right%20one@")));
    for refused in [&wrong, &without] {
        let (status, _) = refused.wait_for(CameraState::AuthFailed, 0);
        assert!(status.reason.as_deref().unwrap().contains("credentials"), "{status:?}");
    }
    let right = Watch::start(rtsp(&camera.url, Transport::Tcp, Some(("admin", "right one"))));
    right.frame();
    pasted.frame();
    for status in [wrong.reported(), without.reported(), right.reported(), pasted.reported()].concat() {
        let reason = status.reason.unwrap_or_default();
        assert!(!reason.contains("s3cret") && !reason.contains("right"), "{reason}");
    }
    // Waits a minute before the next attempt; the stop does not.
    wrong.source.stop();
}

#[test]
fn an_unknown_path_is_reported_as_not_found() {
    let dir = tempfile::tempdir().unwrap();
    let camera = Camera::start(&clip(dir.path(), SMALL, 20), 0, &[]);
    let watch = Watch::start(tcp(&camera.url.replace("/test", "/other")));
    let (offline, _) = watch.wait_for(CameraState::Offline, 0);
    assert!(offline.reason.as_deref().unwrap().to_lowercase().contains("not found"), "{offline:?}");
}

#[test]
fn a_file_played_once_gives_every_frame_to_a_slow_reader() {
    let dir = tempfile::tempdir().unwrap();
    let watch = Watch::start(file(&clip(dir.path(), SMALL, 40), false));
    let mut frames = Vec::new();
    loop {
        match watch.frames.recv_timeout(TIMEOUT) {
            Ok(frame) => frames.push(frame.meta),
            Err(RecvError::Closed) => break,
            Err(other) => panic!("{other}"),
        }
        // Slower than the decoder: it has to wait.
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(frames.iter().map(|f| f.seq).collect::<Vec<_>>(), (0..40).collect::<Vec<_>>());
    for (n, frame) in frames.iter().enumerate() {
        assert!((frame.pts_ns as f64 - n as f64 / 15.0 * 1e9).abs() < 2e6, "frame {n} at {}", frame.pts_ns);
    }
    assert_eq!(watch.source.outcome(), Some(Outcome::Ended));
    let (ended, _) = watch.wait_for(CameraState::Ended, 0);
    assert_eq!(ended.reason, None);
    assert_eq!(watch.states(), [CameraState::Connecting, CameraState::Online, CameraState::Ended]);
}

#[test]
fn a_looped_file_has_no_seam() {
    let dir = tempfile::tempdir().unwrap();
    let watch = Watch::start(file(&clip(dir.path(), SMALL, 10), true));
    let times: Vec<_> = (0..35).map(|_| watch.frame().meta).map(|m| (m.seq, m.pts_ns)).collect();
    for (n, (seq, pts)) in times.iter().enumerate() {
        assert_eq!(*seq, n as u64);
        assert!((*pts as f64 - n as f64 / 15.0 * 1e9).abs() < 2e6, "frame {n} at {pts}");
    }
    assert_eq!(watch.states(), [CameraState::Connecting, CameraState::Online]);
    assert_eq!(watch.source.outcome(), None);
    watch.source.stop();
}

#[test]
fn a_file_in_real_time_ends_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = clip(dir.path(), SMALL, 8);
    let watch = Watch::start(SourceConfig::File { path, looped: false, realtime: true });
    assert_eq!(watch.rest().len(), 8);
    assert_eq!(watch.source.outcome(), Some(Outcome::Ended));
}

#[test]
fn other_codecs_and_containers_and_odd_sizes_play_too() {
    let dir = tempfile::tempdir().unwrap();
    for (name, size, encode) in [
        ("mjpeg422.avi", SMALL, "videoconvert ! video/x-raw,format=Y42B ! jpegenc ! avimux"),
        ("ten-bit.mkv", SMALL, "videoconvert ! video/x-raw,format=I420_10LE ! x264enc ! h264parse ! matroskamux"),
        ("vp8.webm", SMALL, "vp8enc deadline=1 ! webmmux"),
        ("mpeg4.avi", SMALL, "avenc_mpeg4 ! avimux"),
        ("odd.avi", Size::new(33, 17), "jpegenc ! avimux"),
        ("one.mkv", Size::new(1, 1), "jpegenc ! matroskamux"),
        ("raw.avi", SMALL, "avimux"),
        ("h264.ts", SMALL, "x264enc ! h264parse ! mpegtsmux"),
        ("raw.y4m", SMALL, "y4menc"),
        ("stream.h264", SMALL, "x264enc ! h264parse ! video/x-h264,stream-format=byte-stream"),
    ] {
        let watch = Watch::start(file(&clip_as(dir.path(), name, size, 6, encode), false));
        let frames = watch.rest();
        assert_eq!(frames.len(), 6, "{name}: {:?}", watch.reported());
        for frame in &frames {
            assert_eq!(frame.meta.size, size, "{name}");
            frame.map().unwrap().view().unwrap();
        }
        assert!(frames.windows(2).all(|w| w[1].meta.pts_ns > w[0].meta.pts_ns), "{name}");
    }
}

#[test]
fn an_8k_file_plays() {
    let dir = tempfile::tempdir().unwrap();
    let size = Size::new(7680, 4320);
    let watch = Watch::start(file(&clip_as(dir.path(), "8k.mkv", size, 2, "jpegenc ! matroskamux"), false));
    let frames = watch.rest();
    assert_eq!(frames.iter().map(|f| f.meta.size).collect::<Vec<_>>(), [size; 2], "{:?}", watch.reported());
}

#[test]
fn files_without_video_are_refused_with_a_reason() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    gst::init().unwrap();
    std::fs::write(at("text.mp4"), "This is a letter to a friend, not a film.\n".repeat(50)).unwrap();
    std::fs::write(at("empty.mp4"), "").unwrap();
    std::fs::write(
        at("noise.mp4"),
        (0..9999u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect::<Vec<_>>(),
    )
    .unwrap();
    let whole = std::fs::read(clip(dir.path(), SMALL, 20)).unwrap();
    // mp4mux writes its table of contents at the end: cut off, nothing can be played.
    std::fs::write(at("cut.mp4"), &whole[..whole.len() / 2]).unwrap();
    run_to_end(&format!("audiotestsrc num-buffers=20 ! wavenc ! filesink location={}", at("sound.wav").display()));
    run_to_end(&format!("audiotestsrc num-buffers=20 ! matroskamux ! filesink location={}", at("sound.mkv").display()));
    for (name, word) in [
        ("absent.mp4", "no such file"),
        (".", "directory"),
        ("empty.mp4", "empty"),
        ("text.mp4", "text"),
        ("noise.mp4", ""),
        ("cut.mp4", ""),
        ("sound.wav", "no video"),
        ("sound.mkv", "no video"),
    ] {
        let watch = Watch::start(file(&at(name), false));
        assert!(watch.rest().is_empty(), "{name}");
        let outcome = watch.source.outcome();
        assert!(matches!(outcome, Some(Outcome::Failed(SourceError::File { .. }))), "{name}: {outcome:?}");
        let (ended, _) = watch.wait_for(CameraState::Ended, 0);
        let reason = ended.reason.unwrap();
        println!("{name}: {reason}");
        assert!(reason.contains(name) && reason.to_lowercase().contains(word), "{name}: {reason}");
        assert_eq!(watch.states(), [CameraState::Connecting, CameraState::Ended], "{name}");
    }
}

#[test]
fn a_damaged_file_neither_panics_nor_hangs() {
    let dir = tempfile::tempdir().unwrap();
    let whole = std::fs::read(clip_as(dir.path(), "whole.avi", SMALL, 30, "x264enc ! h264parse ! avimux")).unwrap();
    let mut random = 1u32;
    for round in 0..8 {
        let mut bytes = whole.clone();
        for _ in 0..40 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let at = 5000 + random as usize % (bytes.len() - 5000);
            bytes[at] ^= 1 << (random >> 29);
        }
        let path = dir.path().join(format!("damaged{round}.avi"));
        std::fs::write(&path, bytes).unwrap();
        let watch = Watch::start(file(&path, false));
        let seqs: Vec<_> = watch.rest().iter().map(|f| f.meta.seq).collect();
        assert_eq!(seqs, (0..seqs.len() as u64).collect::<Vec<_>>());
        assert!(watch.source.outcome().is_some());
    }
}

#[test]
fn an_absent_looped_file_is_retried() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("later.mp4");
    let watch = Watch::start(file(&path, true));
    let (offline, _) = watch.wait_for(CameraState::Offline, 0);
    assert!(offline.reason.unwrap().contains("later.mp4"));
    std::fs::rename(clip(dir.path(), SMALL, 10), &path).unwrap();
    assert_eq!(watch.frame().meta.seq, 0);
    watch.wait_for(CameraState::Online, 0);
    assert_eq!(watch.states(), [CameraState::Connecting, CameraState::Offline, CameraState::Online]);
}

#[test]
fn stop_frees_a_decoder_that_waits_for_its_reader() {
    let dir = tempfile::tempdir().unwrap();
    let watch = Watch::start(file(&clip(dir.path(), SMALL, 40), false));
    watch.wait_for(CameraState::Online, 0);
    let Watch { source, frames, .. } = watch;
    source.stop();
    // What waited can still be read; then the end.
    while frames.recv_timeout(TIMEOUT).is_ok() {}
    assert_eq!(frames.try_recv().err(), Some(RecvError::Closed));
}

#[test]
fn closing_the_queue_ends_the_source() {
    let dir = tempfile::tempdir().unwrap();
    let Watch { source, frames, .. } = Watch::start(file(&clip(dir.path(), SMALL, 40), true));
    frames.recv_timeout(TIMEOUT).unwrap();
    frames.close();
    source.stop();
}

#[test]
fn simulate_plays_once_and_ends() {
    let dir = tempfile::tempdir().unwrap();
    let mut camera = Camera::start(&clip(dir.path(), SMALL, 10), 0, &["--once", "--fps", "30"]);
    let watch = Watch::start(tcp(&camera.url));
    let mut numbers = vec![counter(&watch.frame())];
    while let Ok(frame) = watch.frames.recv_timeout(Duration::from_secs(2)) {
        numbers.push(counter(&frame));
    }
    assert!(numbers.windows(2).all(|w| w[0] < w[1]) && numbers.iter().all(|n| *n < 10), "{numbers:?}");
    let deadline = Instant::now() + TIMEOUT;
    let status = loop {
        if let Some(status) = camera.child.0.try_wait().unwrap() {
            break status;
        }
        assert!(Instant::now() < deadline, "the simulated camera does not end");
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(status.success(), "{status}");
}

#[test]
fn simulate_ends_by_signal_and_refuses_wrong_arguments() {
    let dir = tempfile::tempdir().unwrap();
    let path = clip(dir.path(), SMALL, 10);
    let mut camera = Camera::start(&path, 0, &[]);
    let port = camera.url.split([':', '/']).nth(4).unwrap().to_owned();
    let busy = ocelli().arg("simulate").arg(&path).args(["--listen", &format!("127.0.0.1:{port}")]).output().unwrap();
    assert_eq!(busy.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&busy.stderr).contains("cannot listen"), "{busy:?}");
    camera.signal("-TERM");
    assert!(camera.child.0.wait().unwrap().success());
    let absent = ocelli().args(["simulate", "absent.mp4"]).output().unwrap();
    assert_eq!(absent.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&absent.stderr).contains("absent.mp4"), "{absent:?}");
    let usage = ocelli().args(["simulate", "a.mp4", "--path", "with space"]).output().unwrap();
    assert_eq!(usage.status.code(), Some(2));
}
