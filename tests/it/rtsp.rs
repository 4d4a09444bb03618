//! A real server with synthetic frames, and real clients that decode the stream.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use gstreamer_video as gst_video;
use gstreamer_video::prelude::*;
use ocelli::annotate::class_color;
use ocelli::config::RtspConfig;
use ocelli::frame::Frame;
use ocelli::sink::Sink;
use ocelli::sink::rtsp::{RtspError, RtspServer, View};
use ocelli::sink::video_file::{VideoFile, VideoFileError};
use ocelli::source::FrameTap;
use ocelli::types::{
    BackendKind, CameraName, CameraState, CameraStatus, Detection, FrameMeta, FrameResult, Latency, ModelId, PixelBox,
    Size,
};

/// Longest wait for one event; far more than any needs.
const DEADLINE: Duration = Duration::from_secs(20);
const VGA: Size = Size::new(640, 480);

fn start(cameras: &[&str]) -> RtspServer {
    let cameras: Vec<CameraName> = cameras.iter().map(|name| CameraName::from(*name)).collect();
    let listen = "127.0.0.1:0".parse().unwrap();
    let config = RtspConfig { listen, bitrate_kbps: 3000, max_delay: Duration::from_secs(5), ..RtspConfig::default() };
    RtspServer::start(&config, &cameras).unwrap()
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < end, "not within {DEADLINE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

// ---- what the camera sends ----

/// Left edge of the white square in frame `seq`.
fn square_x(seq: u64, size: Size) -> u32 {
    64 + (seq as u32 * 8) % (size.w - 192)
}

fn frame(camera: &str, seq: u64, size: Size, format: gst_video::VideoFormat) -> Frame {
    let info = gst_video::VideoInfo::builder(format, size.w, size.h).fps(gst::Fraction::new(25, 1)).build().unwrap();
    let mut buffer = gst::Buffer::with_size(info.size()).unwrap();
    {
        let mut picture = gst_video::VideoFrameRef::from_buffer_ref_writable(buffer.get_mut().unwrap(), &info).unwrap();
        let stride = picture.plane_stride()[0] as usize;
        for plane in picture.planes_data_mut() {
            plane.fill(128);
        }
        let left = square_x(seq, size) as usize;
        let luma = picture.plane_data_mut(0).unwrap();
        for y in 200..216 {
            luma[y * stride + left..][..16].fill(235);
        }
    }
    let meta = FrameMeta {
        camera: camera.into(),
        seq,
        pts_ns: seq * 40_000_000,
        captured_at: SystemTime::now(),
        captured: Instant::now(),
        size,
    };
    Frame::new(meta, buffer, info).unwrap()
}

/// One box, 24 pixels around the white square.
fn result(meta: &FrameMeta) -> Arc<FrameResult> {
    let left = square_x(meta.seq, meta.size) as f32;
    let bbox = PixelBox::new(left - 24.0, 176.0, left + 40.0, 240.0);
    Arc::new(FrameResult {
        meta: meta.clone(),
        model: Arc::new(ModelId { name: "test".into(), sha256: String::new(), labels: vec!["person".into()] }),
        backend: BackendKind::Tract,
        batch: 1,
        detections: vec![Detection { class_id: 0, score: 0.87, bbox }],
        latency: Latency::default(),
    })
}

/// A camera at 25 fps with results two frames late. Dropping it ends it.
struct Feed {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Feed {
    fn start(
        view: Arc<View>,
        camera: &'static str,
        format: gst_video::VideoFormat,
        sizes: &'static [(u64, Size)],
    ) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count) = (stop.clone(), sent.clone());
        let thread = std::thread::spawn(move || {
            status(&view, camera, CameraState::Online);
            let mut metas = std::collections::VecDeque::new();
            let begin = Instant::now();
            for seq in 0.. {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let size = sizes.iter().rev().find(|(from, _)| seq >= *from).unwrap().1;
                let frame = frame(camera, seq, size, format);
                view.frame(&frame);
                count.store(seq + 1, Ordering::Relaxed);
                metas.push_back(frame.meta.clone());
                if metas.len() > 2 {
                    view.result(&result(&metas.pop_front().unwrap()));
                }
                let next = begin + Duration::from_millis(40) * (seq as u32 + 1);
                std::thread::sleep(next.saturating_duration_since(Instant::now()));
            }
        });
        Self { stop, sent, thread: Some(thread) }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn status(view: &View, camera: &str, state: CameraState) {
    view.status(&CameraStatus { camera: camera.into(), state, since: SystemTime::now(), reason: None, retries: 0 });
}

// ---- what a viewer gets ----

struct Client {
    pipeline: gst::Pipeline,
    sink: gst_app::AppSink,
}

struct Picture {
    rgb: Vec<u8>,
    stride: usize,
    size: Size,
}

impl Client {
    fn open(addr: SocketAddr, path: &str, transport: &str) -> Self {
        gst::init().unwrap();
        let pipeline = gst::parse::launch(&format!(
            "rtspsrc location=rtsp://{addr}/{path} protocols={transport} latency=50 timeout=0 ! rtph264depay ! \
             h264parse ! avdec_h264 ! videoconvert ! video/x-raw,format=RGB ! appsink name=sink sync=false"
        ))
        .unwrap()
        .downcast::<gst::Pipeline>()
        .unwrap();
        let sink = pipeline.by_name("sink").unwrap().downcast().unwrap();
        pipeline.set_state(gst::State::Playing).unwrap();
        Self { pipeline, sink }
    }

    fn try_next(&self, timeout: Duration) -> Result<Picture, String> {
        let end = Instant::now() + timeout;
        while Instant::now() < end {
            if let Some(sample) = self.sink.try_pull_sample(gst::ClockTime::from_mseconds(20)) {
                let info = gst_video::VideoInfo::from_caps(sample.caps().unwrap()).unwrap();
                let map = sample.buffer().unwrap().map_readable().unwrap();
                let size = Size::new(info.width(), info.height());
                return Ok(Picture { rgb: map.to_vec(), stride: info.stride()[0] as usize, size });
            }
            let bus = self.pipeline.bus().unwrap();
            if let Some(message) = bus.pop_filtered(&[gst::MessageType::Error, gst::MessageType::Eos]) {
                return Err(format!("{message:?}"));
            }
        }
        Err(format!("no picture within {timeout:?}"))
    }

    fn next(&self) -> Picture {
        self.try_next(DEADLINE).unwrap()
    }

    /// The first picture that `accept` accepts, and the number of pictures before it.
    fn find(&self, what: &str, accept: impl Fn(&Picture) -> bool) -> (Picture, usize) {
        let end = Instant::now() + DEADLINE;
        for n in 0.. {
            let picture = self.next();
            if accept(&picture) {
                return (picture, n);
            }
            assert!(Instant::now() < end, "no picture in time with {what}");
        }
        unreachable!()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.pipeline.set_state(gst::State::Null);
    }
}

impl Picture {
    fn at(&self, x: u32, y: u32) -> [i32; 3] {
        let at = y as usize * self.stride + x as usize * 3;
        [self.rgb[at], self.rgb[at + 1], self.rgb[at + 2]].map(i32::from)
    }

    fn is(&self, x: u32, y: u32, colour: [u8; 3]) -> bool {
        self.at(x, y).iter().zip(colour).all(|(got, want)| (got - i32::from(want)).abs() < 70)
    }

    /// Left edge of the white square.
    fn square(&self) -> Option<u32> {
        let white = |x: &u32| self.at(*x, 208).iter().all(|c| *c > 200);
        let columns: Vec<_> = (0..self.size.w).filter(white).collect();
        (14..=18).contains(&columns.len()).then(|| columns[columns.len() / 2].saturating_sub(8))
    }

    /// True when the box is around the square of this picture, in the colour of its class.
    fn has_own_box(&self) -> bool {
        let Some(left) = self.square() else { return false };
        let green = |x: i64, y: u32| (-1..=1).any(|d| self.is((x + d) as u32, y, class_color(0)));
        let left = i64::from(left);
        green(left - 23, 208)
            && green(left + 38, 208)
            && green(left + 8, 177)
            && green(left + 8, 238)
            && self.is(left as u32 - 12, 225, [128; 3])
    }

    fn is_slate(&self) -> bool {
        self.is(4, 4, [22, 26, 32]) && self.at(4, 4).iter().all(|c| *c < 60)
    }
}

// ---- tests ----

#[test]
fn viewers_see_each_frame_with_its_own_box_over_tcp_and_udp() {
    let server = start(&["gate"]);
    for format in [gst_video::VideoFormat::I420, gst_video::VideoFormat::Nv12] {
        for transport in ["tcp", "udp"] {
            let _feed = Feed::start(server.view("gate").unwrap(), "gate", format, &[(0, VGA)]);
            let client = Client::open(server.addr(), "gate", transport);
            client.find("a box", Picture::has_own_box);
            // From the first one on, every picture has its own box.
            let own = (0..40).filter(|_| client.next().has_own_box()).count();
            assert!(own >= 38, "{own} of 40 pictures carry their own box over {transport}");
        }
    }
    server.stop();
}

#[test]
fn two_viewers_share_one_encode_and_without_viewers_nothing_is_encoded() {
    let server = start(&["gate"]);
    let view = server.view("gate").unwrap();
    let feed = Feed::start(view.clone(), "gate", gst_video::VideoFormat::I420, &[(0, VGA)]);
    until("10 frames", || feed.sent.load(Ordering::Relaxed) >= 10);
    assert!(!view.is_watched());
    assert_eq!(view.encoded(), 0, "nobody watches");

    let (first, second) = (Client::open(server.addr(), "gate", "tcp"), Client::open(server.addr(), "gate", "tcp"));
    first.find("a box", Picture::has_own_box);
    second.find("a box", Picture::has_own_box);
    assert_eq!(server.sessions(), 2);
    let before = (view.encoded(), feed.sent.load(Ordering::Relaxed));
    for _ in 0..25 {
        first.next();
        second.next();
    }
    let encoded = view.encoded() - before.0;
    let sent = feed.sent.load(Ordering::Relaxed) - before.1;
    assert!(encoded <= sent + 3, "{encoded} pictures encoded of {sent} frames: not one encode for both");

    drop(first);
    second.next();
    drop(second);
    until("the encoder stops", || !view.is_watched());
    until("the sessions end", || server.sessions() == 0 && server.clients() == 0);
    let (encoded, sent) = (view.encoded(), feed.sent.load(Ordering::Relaxed));
    until("10 frames more", || feed.sent.load(Ordering::Relaxed) >= sent + 10);
    assert_eq!(view.encoded(), encoded, "nobody watches any more");

    let again = Client::open(server.addr(), "gate", "tcp");
    again.find("a box", Picture::has_own_box);
    server.stop();
}

#[test]
fn an_offline_camera_shows_the_no_signal_picture_at_once_and_then_its_frames() {
    let server = start(&["gate"]);
    let begin = Instant::now();
    let answer = request(server.addr(), "DESCRIBE rtsp://127.0.0.1/gate RTSP/1.0\r\nCSeq: 1\r\n\r\n");
    assert!(answer.starts_with("RTSP/1.0 200"), "{answer}");
    assert!(answer.contains("H264"), "{answer}");
    // rtspsrc would give up after 20 s; this is far from both ends.
    assert!(begin.elapsed() < Duration::from_secs(10), "DESCRIBE hung for {:?}", begin.elapsed());

    let view = server.view("gate").unwrap();
    let client = Client::open(server.addr(), "gate", "tcp");
    let first = client.next();
    assert!(first.is_slate() && first.size == Size::new(1280, 720));
    // It is repeated, so that viewers do not time out.
    assert!(client.next().is_slate());
    assert!(client.next().is_slate());

    // The camera comes online, in another size, while the viewer stays connected.
    let feed = Feed::start(view.clone(), "gate", gst_video::VideoFormat::I420, &[(0, VGA)]);
    let (picture, _) = client.find("a box", Picture::has_own_box);
    assert_eq!(picture.size, VGA);
    // The camera goes offline: the picture is shown again, in the size of the stream.
    drop(feed);
    status(&view, "gate", CameraState::Offline);
    let (picture, _) = client.find("a slate", Picture::is_slate);
    assert_eq!(picture.size, VGA);
    server.stop();
}

#[test]
fn a_change_of_resolution_reaches_the_viewer_in_the_running_stream() {
    let server = start(&["gate"]);
    let view = server.view("gate").unwrap();
    const SIZES: &[(u64, Size)] = &[(0, VGA), (60, Size::new(800, 600)), (120, Size::new(321, 241))];
    let _feed = Feed::start(view, "gate", gst_video::VideoFormat::I420, SIZES);
    let client = Client::open(server.addr(), "gate", "tcp");
    client.find("the first size", |p| p.size == VGA && p.has_own_box());
    client.find("the second size", |p| p.size == Size::new(800, 600) && p.has_own_box());
    // Odd sizes are scaled by one pixel: H.264 has even sizes only.
    client.find("the third size", |p| p.size.w.abs_diff(321) <= 1 && p.size.h.abs_diff(241) <= 1);
    server.stop();
}

#[test]
fn a_camera_without_detector_is_streamed_without_boxes() {
    let server = start(&["gate"]);
    let view = server.view("gate").unwrap();
    let client = Client::open(server.addr(), "gate", "tcp");
    let stop = Arc::new(AtomicBool::new(false));
    let (stopped, fed) = (stop.clone(), view.clone());
    let feeder = std::thread::spawn(move || {
        for seq in 0.. {
            if stopped.load(Ordering::Relaxed) {
                return;
            }
            fed.frame(&frame("gate", seq, VGA, gst_video::VideoFormat::I420));
            std::thread::sleep(Duration::from_millis(40));
        }
    });
    let (picture, _) = client.find("a square", |p| p.square().is_some());
    assert!(!picture.has_own_box());
    for _ in 0..20 {
        assert!(client.next().square().is_some());
    }
    stop.store(true, Ordering::Relaxed);
    feeder.join().unwrap();
    server.stop();
}

#[test]
fn each_camera_has_its_mount_and_other_paths_are_not_found() {
    let server = start(&["dock", "gate"]);
    let _gate = Feed::start(server.view("gate").unwrap(), "gate", gst_video::VideoFormat::I420, &[(0, VGA)]);
    let gate = Client::open(server.addr(), "gate", "tcp");
    let dock = Client::open(server.addr(), "dock", "tcp");
    gate.find("a box", Picture::has_own_box);
    assert!(dock.next().is_slate());
    for path in ["yard", "", "../gate", "gat"] {
        let answer = request(server.addr(), &format!("DESCRIBE rtsp://127.0.0.1/{path} RTSP/1.0\r\nCSeq: 1\r\n\r\n"));
        assert!(answer.starts_with("RTSP/1.0 404"), "{path}: {answer}");
    }
    assert!(server.view("yard").is_none());
    server.stop();
}

#[test]
fn the_session_of_a_killed_viewer_is_removed() {
    let server = start(&["gate"]);
    let view = server.view("gate").unwrap();
    let _feed = Feed::start(view.clone(), "gate", gst_video::VideoFormat::I420, &[(0, VGA)]);
    for _ in 0..3 {
        let mut viewer = RawViewer::play(server.addr(), "gate");
        viewer.read_some(5_000);
        assert!(view.is_watched());
        assert_eq!(server.sessions(), 1);
        // Without TEARDOWN.
        drop(viewer);
        until("the session ends", || server.sessions() == 0 && server.clients() == 0);
        until("the encoder stops", || !view.is_watched());
    }
    server.stop();
}

#[test]
fn a_viewer_that_connects_while_the_last_one_disconnects_gets_a_picture() {
    let server = start(&["gate"]);
    let _feed = Feed::start(server.view("gate").unwrap(), "gate", gst_video::VideoFormat::I420, &[(0, VGA)]);
    for n in 0..15 {
        let client = Client::open(server.addr(), "gate", "tcp");
        client.try_next(DEADLINE).unwrap_or_else(|reason| panic!("viewer {n}: {reason}"));
    }
    server.stop();
}

#[test]
fn a_viewer_that_never_reads_does_not_stop_the_others() {
    let server = start(&["gate"]);
    let view = server.view("gate").unwrap();
    let _feed = Feed::start(view, "gate", gst_video::VideoFormat::I420, &[(0, VGA)]);
    let stuck: Vec<_> = (0..3).map(|_| RawViewer::play(server.addr(), "gate")).collect();
    let client = Client::open(server.addr(), "gate", "tcp");
    client.find("a box", Picture::has_own_box);
    // More than the buffers of the stuck viewers' sockets hold.
    for _ in 0..150 {
        assert!(client.next().square().is_some());
    }
    drop(stuck);
    server.stop();
}

#[test]
fn the_server_survives_malformed_requests() {
    let server = start(&["gate"]);
    let addr = server.addr();
    let mut random = 0x2545_f491_4f6c_dd1du64;
    for length in [1, 10, 1000, 100_000] {
        let bytes: Vec<u8> = (0..length)
            .map(|_| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                random as u8
            })
            .collect();
        let mut stream = TcpStream::connect(addr).unwrap();
        // The server may close the connection meanwhile.
        let _ = stream.write_all(&bytes);
    }
    let long = "A".repeat(100_000);
    for text in [
        "GET / HTTP/1.1\r\n\r\n",
        "DESCRIBE\r\n\r\n",
        "$\0\u{1}x",
        long.as_str(),
        "PLAY rtsp://x/gate RTSP/1.0\r\nCSeq: 1\r\nSession: 1\r\n\r\n",
    ] {
        let mut stream = TcpStream::connect(addr).unwrap();
        let _ = stream.write_all(text.as_bytes());
    }
    let half_open: Vec<_> = (0..50).map(|_| TcpStream::connect(addr).unwrap()).collect();
    let client = Client::open(addr, "gate", "tcp");
    assert!(client.next().is_slate());
    drop(half_open);
    drop(client);
    until("all connections end", || server.clients() == 0 && server.sessions() == 0);
    server.stop();
}

#[test]
fn a_busy_port_is_an_error_that_names_the_address() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap();
    let config = RtspConfig { listen, bitrate_kbps: 1000, max_delay: Duration::ZERO, ..RtspConfig::default() };
    let error = RtspServer::start(&config, &[]).err().unwrap();
    assert!(matches!(error, RtspError::Bind { addr, .. } if addr == listen));
    let text = error.to_string();
    assert!(text.contains(&listen.to_string()) && text.contains("rtsp.listen"), "{text}");
}

#[test]
fn stopping_disconnects_viewers_and_frees_the_port() {
    let server = start(&["gate"]);
    let addr = server.addr();
    let view = server.view("gate").unwrap();
    let feed = Feed::start(view.clone(), "gate", gst_video::VideoFormat::I420, &[(0, VGA)]);
    let mut viewer = RawViewer::play(addr, "gate");
    viewer.read_some(5_000);
    server.stop();
    viewer.read_to_end();
    until("the port is free", || std::net::TcpListener::bind(addr).is_ok());
    // Later frames from the source are ignored.
    let sent = feed.sent.load(Ordering::Relaxed);
    until("5 frames more", || feed.sent.load(Ordering::Relaxed) >= sent + 5);
    let config = RtspConfig { listen: addr, bitrate_kbps: 1000, max_delay: Duration::ZERO, ..RtspConfig::default() };
    RtspServer::start(&config, &["gate".into()]).unwrap().stop();
}

#[test]
fn ffprobe_sees_the_stream() {
    if std::process::Command::new("ffprobe").arg("-version").output().is_err() {
        crate::common::skip("ffprobe is not installed (Debian package ffmpeg)");
        return;
    }
    let server = start(&["gate"]);
    let _feed = Feed::start(server.view("gate").unwrap(), "gate", gst_video::VideoFormat::I420, &[(0, VGA)]);
    let url = format!("rtsp://{}/gate", server.addr());
    let output = std::process::Command::new("ffprobe")
        .args([
            "-v",
            "error",
            "-rtsp_transport",
            "tcp",
            "-show_entries",
            "stream=codec_name,width,height",
            "-of",
            "csv=p=0",
            &url,
        ])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(text.trim(), "h264,640,480", "{}", String::from_utf8_lossy(&output.stderr));
    server.stop();
}

// ---- the protocol by hand ----

fn request(addr: SocketAddr, text: &str) -> String {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(text.as_bytes()).unwrap();
    read_answer(&mut stream)
}

/// Headers and body of one response. Media packets before it are skipped: a playing stream shares the connection with the
/// responses, and its first packets may precede the response to PLAY (RFC 2326, 10.12).
fn read_answer(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let mut byte = [0];
    stream.read_exact(&mut byte).unwrap();
    while byte == *b"$" {
        let mut head = [0; 3];
        stream.read_exact(&mut head).unwrap();
        stream.read_exact(&mut vec![0; u16::from_be_bytes([head[1], head[2]]).into()]).unwrap();
        stream.read_exact(&mut byte).unwrap();
    }
    answer.push(byte[0]);
    while !answer.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&answer).into_owned();
    let length = head.lines().find_map(|l| l.strip_prefix("Content-Length: ")).map_or(0, |n| n.trim().parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    head + &String::from_utf8_lossy(&body)
}

/// A viewer with hand-written RTSP, so that it can misbehave.
struct RawViewer(TcpStream);

impl RawViewer {
    fn play(addr: SocketAddr, camera: &str) -> Self {
        let mut stream = TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let url = format!("rtsp://{addr}/{camera}");
        let mut ask = |text: String| {
            stream.write_all(text.as_bytes()).unwrap();
            let answer = read_answer(&mut stream);
            assert!(answer.starts_with("RTSP/1.0 200"), "{answer}");
            answer
        };
        let sdp = ask(format!("DESCRIBE {url} RTSP/1.0\r\nCSeq: 1\r\nAccept: application/sdp\r\n\r\n"));
        let control = sdp.lines().rev().find_map(|l| l.strip_prefix("a=control:")).unwrap();
        let control = if control.starts_with("rtsp:") { control.to_owned() } else { format!("{url}/{control}") };
        let setup = ask(format!(
            "SETUP {control} RTSP/1.0\r\nCSeq: 2\r\nTransport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n\r\n"
        ));
        let session = setup.lines().find_map(|l| l.strip_prefix("Session: ")).unwrap();
        let session = session.split(';').next().unwrap().trim().to_owned();
        ask(format!("PLAY {url} RTSP/1.0\r\nCSeq: 3\r\nSession: {session}\r\n\r\n"));
        Self(stream)
    }

    fn read_some(&mut self, bytes: usize) {
        self.0.read_exact(&mut vec![0; bytes]).unwrap();
    }

    /// Reads until the server closes the connection.
    fn read_to_end(&mut self) {
        let mut buffer = [0; 4096];
        let end = Instant::now() + DEADLINE;
        while matches!(self.0.read(&mut buffer), Ok(1..)) {
            assert!(Instant::now() < end, "the server does not hang up");
        }
    }
}

// ---- video files ----

/// Frames of a file, decoded.
fn read_back(path: &std::path::Path) -> Vec<(Size, Duration)> {
    let pipeline =
        gst::parse::launch("filesrc name=file ! qtdemux ! h264parse ! avdec_h264 ! appsink name=sink sync=false")
            .unwrap()
            .downcast::<gst::Pipeline>()
            .unwrap();
    pipeline.by_name("file").unwrap().set_property("location", path);
    let sink: gst_app::AppSink = pipeline.by_name("sink").unwrap().downcast().unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let mut frames = Vec::new();
    while let Some(sample) = sink.try_pull_sample(gst::ClockTime::from_seconds(20)) {
        let info = gst_video::VideoInfo::from_caps(sample.caps().unwrap()).unwrap();
        let segment = sample.segment().unwrap().downcast_ref::<gst::ClockTime>().unwrap();
        let time = segment.to_stream_time(sample.buffer().unwrap().pts()).unwrap();
        frames.push((Size::new(info.width(), info.height()), time.into()));
    }
    pipeline.set_state(gst::State::Null).unwrap();
    frames
}

#[test]
fn a_video_file_holds_every_frame_at_its_time() {
    let folder = tempfile::tempdir().unwrap();
    for (format, name) in
        [(gst_video::VideoFormat::I420, "plain.mp4"), (gst_video::VideoFormat::Nv12, "with space \" ! ü.mp4")]
    {
        let path = folder.path().join(name);
        let mut file = VideoFile::create(&path, VGA, 25.0).unwrap();
        // It begins at frame 1000, and one frame is missing.
        for seq in (1000..1060).filter(|seq| *seq != 1030) {
            file.push(frame("gate", seq, VGA, format)).unwrap();
        }
        assert_eq!(file.frames(), 59);
        file.finish().unwrap();
        let frames = read_back(&path);
        assert_eq!(frames.len(), 59);
        for (n, (size, time)) in frames.iter().enumerate() {
            assert_eq!(*size, VGA);
            let want = Duration::from_millis(40) * if n < 30 { n as u32 } else { n as u32 + 1 };
            assert!(time.abs_diff(want) <= Duration::from_millis(1), "frame {n} is at {time:?}, not {want:?}");
        }
    }
}

#[test]
fn errors_of_a_video_file_name_their_cause() {
    gst::init().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let error = VideoFile::create(&folder.path().join("no/such/folder.mp4"), VGA, 25.0).err().unwrap().to_string();
    assert!(error.contains("folder.mp4") && error.contains("No such file"), "{error}");

    let path = folder.path().join("sizes.mp4");
    let mut file = VideoFile::create(&path, VGA, 0.0).unwrap();
    file.push(frame("gate", 0, VGA, gst_video::VideoFormat::I420)).unwrap();
    let other = frame("gate", 1, Size::new(320, 240), gst_video::VideoFormat::I420);
    assert!(matches!(file.push(other), Err(VideoFileError::Size { .. })));
    // Time stamps that repeat or go back are accepted.
    file.push(frame("gate", 0, VGA, gst_video::VideoFormat::I420)).unwrap();
    file.finish().unwrap();
    assert_eq!(read_back(&path).len(), 2);

    let path = folder.path().join("empty.mp4");
    VideoFile::create(&path, VGA, 25.0).unwrap().finish().unwrap();
    assert!(!path.exists(), "a video without a frame is no video");
}

#[test]
fn a_full_disk_is_an_error_not_a_hang() {
    if !std::path::Path::new("/dev/full").exists() {
        crate::common::skip("this system has no /dev/full");
        return;
    }
    gst::init().unwrap();
    let mut file = VideoFile::create("/dev/full".as_ref(), VGA, 25.0).unwrap();
    let pushed = (0..2000).try_for_each(|seq| file.push(frame("gate", seq, VGA, gst_video::VideoFormat::I420)));
    let error = pushed.and_then(|()| file.finish()).err().unwrap();
    assert!(matches!(error, VideoFileError::Write { .. }), "{error}");
}
