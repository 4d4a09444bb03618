//! End to end with real parts: a camera in its own process, mosquitto, `ocelli run`, an RTSP client that decodes.
//!
//! The clip shows a red square on a known path with a frame counter burnt in; the model is `tests/data/marker.onnx`, whose
//! expected output is known. So each decoded frame shows its number, and its drawn box can be compared with the MQTT message
//! of that very frame.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use gstreamer_video as gst_video;
use ocelli::annotate::class_color;
use ocelli::frame::Frame;
use ocelli::sink::video_file::VideoFile;
use ocelli::types::{FrameMeta, ImageView, PixelBox, Size};

use crate::common::{Guard, Lines, free_port, http_get, ocelli, signal, wait_end, wait_exit, wait_for_port};
use crate::counter::read_counter;

const SIZE: Size = Size::new(640, 360);
const SIDE: usize = 64;
const FPS: u64 = 20;
const FRAMES: u64 = 100;

/// Where the square is in frame `n` of the clip: a path that visits no place twice within the clip.
fn square_at(n: u64) -> (usize, usize) {
    let x = 20 + (n * 5) as usize;
    let y = 60 + (n * 2) as usize % 180;
    (x & !1, y & !1)
}

/// A picture of the clip: dark grey, and the red square.
fn picture(n: u64) -> Frame {
    let info = gst_video::VideoInfo::builder(gst_video::VideoFormat::I420, SIZE.w, SIZE.h)
        .fps(gst::Fraction::new(FPS as i32, 1))
        .build()
        .unwrap();
    let (left, top) = square_at(n);
    let mut data = vec![0u8; info.size()];
    let paint = |plane: usize, scale: usize, ground: u8, red: u8, data: &mut [u8]| {
        let (stride, offset) = (info.stride()[plane] as usize, info.offset()[plane]);
        for y in 0..SIZE.h as usize / scale {
            for x in 0..SIZE.w as usize / scale {
                let inside = (left / scale..(left + SIDE) / scale).contains(&x)
                    && (top / scale..(top + SIDE) / scale).contains(&y);
                data[offset + y * stride + x] = if inside { red } else { ground };
            }
        }
    };
    // BT.601, limited range: red is 81, 90, 240.
    paint(0, 1, 60, 81, &mut data);
    paint(1, 2, 128, 90, &mut data);
    paint(2, 2, 128, 240, &mut data);
    let mut buffer = gst::Buffer::from_mut_slice(data);
    buffer.get_mut().unwrap().set_pts(gst::ClockTime::from_nseconds(n * 1_000_000_000 / FPS));
    let meta = FrameMeta {
        camera: "clip".into(),
        seq: n,
        pts_ns: n * 1_000_000_000 / FPS,
        captured_at: SystemTime::now(),
        captured: Instant::now(),
        size: SIZE,
    };
    Frame::new(meta, buffer, info).unwrap()
}

pub fn write_clip(path: &Path) {
    gst::init().unwrap();
    let mut clip = VideoFile::create(path, SIZE, FPS as f64).unwrap();
    for n in 0..FRAMES {
        clip.push(picture(n)).unwrap();
    }
    clip.finish().unwrap();
}

/// mosquitto, camera, subscriber and Ocelli, all on free ports.
struct Box_ {
    ocelli: Guard,
    log: Lines,
    mqtt: Lines,
    rtsp: u16,
    http: u16,
    _others: Vec<Guard>,
    folder: tempfile::TempDir,
}

fn start_box(extra_camera: Option<String>) -> Option<Box_> {
    let folder = tempfile::tempdir().unwrap();
    let clip = folder.path().join("clip.mp4");
    write_clip(&clip);
    let (mqtt_port, rtsp, http) = (free_port(), free_port(), free_port());
    let conf = folder.path().join("mosquitto.conf");
    std::fs::write(&conf, format!("listener {mqtt_port} 127.0.0.1\nallow_anonymous true\n")).unwrap();
    let mosquitto = ["/usr/sbin/mosquitto", "/usr/bin/mosquitto"].into_iter().find(|path| Path::new(path).exists());
    let Some(mosquitto) = mosquitto else {
        crate::common::skip("mosquitto is not installed");
        return None;
    };
    let broker = Command::new(mosquitto).arg("-c").arg(&conf).stderr(Stdio::null()).spawn().unwrap();
    let mut others = vec![Guard(broker)];
    wait_for_port(mqtt_port);
    let mut camera = ocelli();
    camera.arg("simulate").arg(&clip).args(["--listen", "127.0.0.1:0", "--path", "cam", "--counter"]);
    let mut camera = camera.stdout(Stdio::piped()).spawn().unwrap();
    let url =
        Lines::of(camera.stdout.take().unwrap()).wait("the camera's address", 20, |line| line.starts_with("rtsp://"));
    others.push(Guard(camera));
    let mut subscriber = Command::new("mosquitto_sub")
        .args(["-h", "127.0.0.1", "-p", &mqtt_port.to_string(), "-v", "-t", "ocelli/#"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mqtt = Lines::of(subscriber.stdout.take().unwrap());
    others.push(Guard(subscriber));
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/marker.onnx");
    let config = folder.path().join("ocelli.yaml");
    std::fs::write(
        &config,
        format!(
            "node: testbox\nmodel: {{file: {}, backend: tract}}\nmqtt: mqtt://127.0.0.1:{mqtt_port}\n\
             rtsp: {{listen: \"127.0.0.1:{rtsp}\", bitrate_kbps: 8000}}\nhttp: {{listen: \"127.0.0.1:{http}\"}}\n\
             stats_interval: 1s\ncameras:\n  gate: {url}\n{}",
            model.display(),
            extra_camera.unwrap_or_default()
        ),
    )
    .unwrap();
    let mut child = ocelli().arg("run").arg("-c").arg(&config).stderr(Stdio::piped()).spawn().unwrap();
    let log = Lines::of(child.stderr.take().unwrap());
    Some(Box_ { ocelli: Guard(child), log, mqtt, rtsp, http, _others: others, folder })
}

/// One decoded frame of the annotated stream.
struct Seen {
    counter: u16,
    /// Lower half of the drawn box (the label's plate hides the upper edge); `None` when no box was found.
    drawn: Option<PixelBox>,
    /// The red square itself.
    square: PixelBox,
}

/// Decodes the stream as a viewer does, until `enough` accepts a frame.
fn decode(url: &str, mut enough: impl FnMut(&ImageView<'_>) -> bool) {
    gst::init().unwrap();
    let pipeline = gst::parse::launch(&format!(
        "rtspsrc location={url} protocols=tcp latency=100 ! rtph264depay ! h264parse ! avdec_h264 ! videoconvert ! \
         video/x-raw,format=I420 ! appsink name=sink sync=false max-buffers=8"
    ))
    .unwrap()
    .downcast::<gst::Pipeline>()
    .unwrap();
    let sink = pipeline.by_name("sink").unwrap().downcast::<gst_app::AppSink>().unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        assert!(Instant::now() < deadline, "{url}: not enough pictures in 60 s");
        let Some(sample) = sink.try_pull_sample(gst::ClockTime::from_mseconds(500)) else { continue };
        let info = gst_video::VideoInfo::from_caps(sample.caps().unwrap()).unwrap();
        let meta = FrameMeta {
            camera: "viewer".into(),
            seq: 0,
            pts_ns: 0,
            captured_at: SystemTime::now(),
            captured: Instant::now(),
            size: Size::new(info.width(), info.height()),
        };
        let frame = Frame::new(meta, sample.buffer_owned().unwrap(), info).unwrap();
        let mapped = frame.map().unwrap();
        if enough(&mapped.view().unwrap()) {
            break;
        }
    }
    pipeline.set_state(gst::State::Null).unwrap();
}

/// What is to be seen in `count` pictures of the stream.
fn watch(url: &str, count: usize) -> Vec<Seen> {
    let mut seen = Vec::new();
    decode(url, |view| {
        // A slate has neither counter nor square.
        if let (Some(counter), Some(square)) = (read_counter(view), find(view, [255, 0, 0], 70.0, 0.0)) {
            let drawn = find(view, class_color(0), 60.0, (square.y1 + square.y2) / 2.0);
            seen.push(Seen { counter, drawn, square });
        }
        seen.len() >= count
    });
    seen
}

/// The bounding box of the pixels near a colour from row `from` on, found in the chroma planes (2×2 pixels per sample).
fn find(view: &ImageView<'_>, rgb: [u8; 3], tolerance: f32, from: f32) -> Option<PixelBox> {
    let ImageView::I420 { size, u, v, .. } = view else { return None };
    let [r, g, b] = rgb.map(f32::from);
    let cb = 128.0 + (-37.797 * r - 74.203 * g + 112.0 * b) / 255.0;
    let cr = 128.0 + (112.0 * r - 93.786 * g - 18.214 * b) / 255.0;
    let mut found: Option<PixelBox> = None;
    for y in from as usize / 2..size.h as usize / 2 {
        for x in 0..size.w as usize / 2 {
            let du = f32::from(u.data[y * u.stride + x]) - cb;
            let dv = f32::from(v.data[y * v.stride + x]) - cr;
            if du.hypot(dv) < tolerance * 0.5 {
                let (px, py) = (2.0 * x as f32, 2.0 * y as f32);
                let b = found.get_or_insert(PixelBox::new(px, py, px + 2.0, py + 2.0));
                *b = PixelBox::new(b.x1.min(px), b.y1.min(py), b.x2.max(px + 2.0), b.y2.max(py + 2.0));
            }
        }
    }
    found
}

/// Boxes by `seq` of all frame messages of a camera.
fn boxes(lines: &[String], camera: &str) -> BTreeMap<u64, PixelBox> {
    let topic = format!("ocelli/testbox/{camera}/frame ");
    let mut all = BTreeMap::new();
    for line in lines.iter().filter_map(|line| line.strip_prefix(&topic)) {
        let json: serde_json::Value = serde_json::from_str(line).unwrap();
        let size = Size::new(json["frame"]["w"].as_u64().unwrap() as u32, json["frame"]["h"].as_u64().unwrap() as u32);
        if let Some(object) = json["objects"].get(0) {
            assert_eq!(object["label"], "marker");
            assert_eq!(json["backend"], "tract");
            let b: Vec<f32> = object["box"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect();
            let (w, h) = (size.w as f32, size.h as f32);
            all.insert(json["seq"].as_u64().unwrap(), PixelBox::new(b[0] * w, b[1] * h, b[2] * w, b[3] * h));
        }
    }
    all
}

/// Left, right and lower edge are the same.
fn near_below(a: &PixelBox, b: &PixelBox, pixels: f32) -> bool {
    [a.x1 - b.x1, a.x2 - b.x2, a.y2 - b.y2].iter().all(|d| d.abs() <= pixels)
}

fn near(a: &PixelBox, b: &PixelBox, pixels: f32) -> bool {
    [a.x1 - b.x1, a.y1 - b.y1, a.x2 - b.x2, a.y2 - b.y2].iter().all(|d| d.abs() <= pixels)
}

#[test]
fn a_viewer_sees_the_boxes_that_mqtt_reported_for_the_same_frame() {
    let Some(mut b) = start_box(None) else { return };
    b.mqtt.wait("a detection", 30, |line| line.contains("gate/frame") && line.contains("marker"));
    let seen = watch(&format!("rtsp://127.0.0.1:{}/gate", b.rtsp), 60);
    let reported = boxes(&b.mqtt.all(), "gate");
    assert!(reported.len() > 30, "{} frames reported", reported.len());

    // The frame's own object is inside the box drawn on it: no box of another frame (the square moves 5 px a frame).
    let own = seen.iter().filter(|s| s.drawn.is_some_and(|drawn| near_below(&drawn, &s.square, 4.5))).count();
    let pairs: Vec<_> = seen.iter().map(|s| (s.counter, s.drawn, s.square)).take(5).collect();
    assert!(own * 100 >= seen.len() * 95, "{own} of {} pictures carry their own box: {pairs:?}", seen.len());

    // The counter and `seq` differ by a constant; find it, then compare each frame with its message.
    let matches = |offset: i64| {
        let equal = |s: &&Seen| {
            let seq = i64::from(s.counter) - offset;
            let message = u64::try_from(seq).ok().and_then(|seq| reported.get(&seq));
            s.drawn.zip(message).is_some_and(|(drawn, message)| near_below(&drawn, message, 4.5))
        };
        seen.iter().filter(equal).count()
    };
    let best = (-200..=i64::from(u16::MAX)).max_by_key(|offset| matches(*offset)).unwrap();
    let equal = matches(best);
    assert!(equal * 100 >= seen.len() * 90, "{equal} of {} pictures agree with the message of their frame", seen.len());

    // Every output reports the backend that ran.
    b.mqtt.wait("statistics", 10, |line| line.contains("testbox/stats") && line.contains("\"backend\":\"tract\""));
    assert!(http_get(b.http, "/api/v1/health").contains("\"tract\""));
    assert!(http_get(b.http, "/readyz").starts_with("HTTP/1.1 200"));
    assert!(b.log.all().iter().any(|line| line.contains("model ready") && line.contains("tract")));

    // An orderly end: exit code 0 and the word `stopped`.
    signal(b.ocelli.0.id(), "TERM");
    let status = wait_exit(&mut b.ocelli.0, 15);
    assert_eq!(status, Some(0), "{:#?}", b.log.all());
    b.mqtt.wait("the word `stopped`", 10, |line| line == "ocelli/testbox/available stopped");
    drop(b.folder);
}

/// A viewer that does not look at what it gets.
fn player(b: &Box_, camera: &str) -> Guard {
    let url = format!("location=rtsp://127.0.0.1:{}/{camera}", b.rtsp);
    let mut player = Command::new("gst-launch-1.0");
    player.args(["-q", "rtspsrc", &url, "protocols=tcp", "!", "fakesink"]);
    Guard(player.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
}

#[test]
fn a_reload_leaves_the_viewers_of_other_cameras_alone_and_sends_those_of_a_removed_one_away() {
    let clip = "  extra: {file: clip.mp4, loop: true}\n";
    let Some(b) = start_box(Some(clip.into())) else { return };
    b.mqtt.wait("a detection", 30, |line| line.contains("gate/frame") && line.contains("marker"));
    b.mqtt.wait("the other camera", 30, |line| line.contains("extra/frame"));
    let config = b.folder.path().join("ocelli.yaml");
    let text = std::fs::read_to_string(&config).unwrap();
    let mut extra = player(&b, "extra");
    let url = format!("rtsp://127.0.0.1:{}/gate", b.rtsp);
    let viewer = std::thread::spawn(move || watch(&url, 80));
    std::thread::sleep(Duration::from_secs(2));
    std::fs::write(&config, text.replace(clip, "  other: {file: clip.mp4, loop: true}\n")).unwrap();
    signal(b.ocelli.0.id(), "HUP");
    b.log.wait("the reload", 30, |line| line.contains("configuration reloaded"));
    assert!(wait_end(&mut extra.0, 20), "the viewer of the removed camera still waits");
    let seen = viewer.join().unwrap();
    let steps: Vec<i64> = seen.windows(2).map(|pair| i64::from(pair[1].counter) - i64::from(pair[0].counter)).collect();
    // A frame may be missing where the machine is busy; a restarted stream would miss a second of them.
    assert!(steps.iter().all(|step| (1..10).contains(step)), "{steps:?}");
    // No gst-launch with `num-buffers`: its PAUSE and its TEARDOWN race, and whichever comes last fails.
    let mut pictures = 0;
    decode(&format!("rtsp://127.0.0.1:{}/other", b.rtsp), |view| {
        pictures += usize::from(find(view, [255, 0, 0], 70.0, 0.0).is_some());
        pictures == 5
    });
}

#[test]
fn a_killed_process_leaves_its_last_will_and_other_cameras_do_not_care_for_an_absent_one() {
    let absent = format!("  absent: rtsp://127.0.0.1:{}/nothing\n", free_port());
    let Some(mut b) = start_box(Some(absent)) else { return };
    b.mqtt.wait("a detection", 30, |line| line.contains("gate/frame") && line.contains("marker"));
    b.mqtt.wait("the absent camera's state", 20, |line| {
        line.contains("absent/status") && (line.contains("offline") || line.contains("\"retries\":1"))
    });
    b.mqtt.wait("the present camera's state", 20, |line| line.contains("gate/status") && line.contains("online"));
    b.ocelli.0.kill().unwrap();
    let _ = b.ocelli.0.wait();
    b.mqtt.wait("the last will", 20, |line| line == "ocelli/testbox/available offline");
}

/// Files are processed whole, also when two share the engine: as many messages as frames, in order, with the right box;
/// then the service ends by itself.
#[test]
fn two_files_share_the_engine_lose_no_frame_and_end_the_service() {
    let folder = tempfile::tempdir().unwrap();
    let clip = folder.path().join("clip.mp4");
    write_clip(&clip);
    let out: PathBuf = folder.path().join("out.jsonl");
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/marker.onnx");
    let config = folder.path().join("ocelli.yaml");
    std::fs::write(
        &config,
        format!(
            "model: {{file: {}, backend: tract}}\nrtsp: {{enabled: false}}\njsonl: {}\ncameras:\n  \
             one: {{file: clip.mp4, realtime: false}}\n  two: {{file: clip.mp4, realtime: false}}\n",
            model.display(),
            out.display()
        ),
    )
    .unwrap();
    let output = ocelli().arg("run").arg("-c").arg(&config).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = std::fs::read_to_string(&out).unwrap();
    let mut seqs: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for line in text.lines() {
        let json: serde_json::Value = serde_json::from_str(line).unwrap();
        let seq = json["seq"].as_u64().unwrap();
        seqs.entry(json["camera"].as_str().unwrap().to_owned()).or_default().push(seq);
        let b: Vec<f32> =
            json["objects"][0]["box"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect();
        let (x, y) = square_at(seq);
        let want = PixelBox::new(x as f32, y as f32, (x + SIDE) as f32, (y + SIDE) as f32);
        let got = PixelBox::new(b[0] * 640.0, b[1] * 360.0, b[2] * 640.0, b[3] * 360.0);
        assert!(near(&got, &want, 3.0), "frame {seq}: {got:?} instead of {want:?}");
    }
    let whole: Vec<u64> = (0..FRAMES).collect();
    assert_eq!(seqs, BTreeMap::from([("one".to_owned(), whole.clone()), ("two".to_owned(), whole)]));
    // Fair: when one camera is half through, the other has had its turns too.
    let half = text.lines().take(FRAMES as usize).filter(|line| line.contains("\"camera\":\"two\"")).count();
    assert!((20..=80).contains(&half), "of the first {FRAMES} results {half} are the second camera's");
}
