//! Cameras on the box itself: USB and a Jetson's CSI connector. A plugin (`pretend_cameras.c`) replaces their elements;
//! everything behind them is real.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::{Guard, Lines, free_port, http_get, ocelli, signal, skip, wait_exit};

/// Plugins that the pipelines need besides the stand-in; the real `v4l2src` must not be among them.
const PLUGINS: [&str; 8] = [
    "coreelements",
    "app",
    "videoconvertscale",
    "videoconvert",
    "videotestsrc",
    "jpeg",
    "typefindfunctions",
    "videoscale",
];

/// A folder with the stand-in, the plugins, and devices that are plain files.
struct Place {
    folder: tempfile::TempDir,
    http: u16,
}

impl Place {
    /// `None`, reported as a skip, where the plugin cannot be built.
    fn new() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let config = |args: &[&str]| {
            let output =
                Command::new("pkg-config").args(args).output().ok().filter(|output| output.status.success())?;
            Some(String::from_utf8(output.stdout).unwrap().trim().to_owned())
        };
        let flags = config(&["--cflags", "--libs", "gstreamer-1.0", "gstreamer-base-1.0"]);
        let real = config(&["--variable=pluginsdir", "gstreamer-1.0"]);
        let (Some(flags), Some(real)) = (flags, real) else {
            skip("no pkg-config for GStreamer: USB and CSI cameras are not tried");
            return None;
        };
        let plugins = folder.path().join("plugins");
        std::fs::create_dir(&plugins).unwrap();
        for name in PLUGINS {
            let file = format!("libgst{name}.so");
            let from = Path::new(&real).join(&file);
            if from.exists() {
                std::os::unix::fs::symlink(from, plugins.join(file)).unwrap();
            }
        }
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/pretend_cameras.c");
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-o"])
            .args([plugins.join("libgstpretend.so"), source])
            .args(flags.split_whitespace())
            .status();
        if !built.is_ok_and(|status| status.success()) {
            skip("no C compiler: USB and CSI cameras are not tried");
            return None;
        }
        Some(Self { folder, http: free_port() })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Ocelli on the stand-in's elements.
    fn ocelli(&self, cameras: &str) -> Command {
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/marker.onnx");
        let text = format!(
            "model: {{file: {}, backend: tract}}\nrtsp: {{enabled: false}}\nhttp: \"127.0.0.1:{}\"\n\
             jsonl: out.jsonl\ndefaults: {{reconnect: {{no_frame: 2s, first: 200ms, max: 500ms}}}}\ncameras:\n{cameras}",
            model.display(),
            self.http
        );
        std::fs::write(self.path("ocelli.yaml"), text).unwrap();
        let mut command = ocelli();
        command
            .env("GST_PLUGIN_SYSTEM_PATH_1_0", self.path("plugins"))
            .env("GST_PLUGIN_PATH_1_0", "")
            .env("GST_REGISTRY_1_0", self.path("registry"))
            .current_dir(self.folder.path());
        command
    }

    /// Sizes of the frames of a camera so far.
    fn frames(&self, camera: &str) -> Vec<(u64, u64)> {
        let text = std::fs::read_to_string(self.path("out.jsonl")).unwrap_or_default();
        let lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        let frames = lines.map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        frames
            .filter(|json| json["camera"] == camera)
            .map(|json| (json["frame"]["w"].as_u64().unwrap(), json["frame"]["h"].as_u64().unwrap()))
            .collect()
    }

    fn wait_frames(&self, camera: &str, more_than: usize) -> Vec<(u64, u64)> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let frames = self.frames(camera);
            if frames.len() > more_than {
                return frames;
            }
            assert!(Instant::now() < deadline, "{camera}: {} frames", frames.len());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn wait_health(&self, what: &str) -> String {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let health = http_get(self.http, "/api/v1/health");
            if health.contains(what) {
                return health;
            }
            assert!(Instant::now() < deadline, "never {what}: {health}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

#[test]
fn usb_and_csi_cameras_deliver_the_configured_format_and_recover() {
    let Some(place) = Place::new() else { return };
    for device in ["video-raw", "video-mjpeg"] {
        std::fs::write(place.path(device), "").unwrap();
    }
    let mut run = place.ocelli(
        "  bench: {usb: video-raw, size: 320x240, framerate: 15}\n  desk: {usb: video-mjpeg, format: mjpeg}\n  \
         dock: {csi: 1, size: 640x360, framerate: 15}\n  none: {csi: 7}\n",
    );
    let mut child = Guard(run.args(["run", "-c", "ocelli.yaml"]).stderr(Stdio::piped()).spawn().unwrap());
    let log = Lines::of(child.0.stderr.take().unwrap());
    for (camera, size) in [("bench", Some((320, 240))), ("desk", None), ("dock", Some((640, 360)))] {
        let frames = place.wait_frames(camera, 5);
        if let Some(size) = size {
            assert!(frames.iter().all(|frame| *frame == size), "{camera}: {frames:?}");
        }
    }
    assert!(place.frames("none").is_empty());
    place.wait_health("No cameras available");

    // Pulled out, and put in again.
    std::fs::remove_file(place.path("video-raw")).unwrap();
    let health = place.wait_health("plugged in");
    assert!(health.contains("video-raw"), "{health}");
    let before = place.frames("bench").len();
    std::fs::write(place.path("video-raw"), "").unwrap();
    place.wait_frames("bench", before + 5);
    signal(child.0.id(), "TERM");
    assert_eq!(wait_exit(&mut child.0, 20), Some(0), "{:#?}", log.all());
}

#[test]
fn doctor_probes_them_and_names_missing_elements() {
    let Some(place) = Place::new() else { return };
    std::fs::write(place.path("video-mjpeg"), "").unwrap();
    let mut doctor = place.ocelli("  desk: {usb: video-mjpeg}\n  dock: {csi: 0, size: 640x360}\n");
    let output = doctor.args(["doctor", "--json", "-c", "ocelli.yaml"]).output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = report.to_string();
    for words in ["input.usb", "input.csi", "640×360", "MJPEG"] {
        assert!(text.contains(words), "no {words}: {text}");
    }
    // Without the stand-in, a box that is no Jetson.
    std::fs::remove_file(place.path("plugins").join("libgstpretend.so")).unwrap();
    std::fs::remove_file(place.path("registry")).unwrap();
    let output = place.ocelli("  dock: {csi: 0}\n").args(["doctor", "-c", "ocelli.yaml"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("nvarguscamerasrc is not installed") && text.contains("nvidia-l4t-gstreamer"), "{text}");
}
