//! `ocelli detect` as users call it: output on the terminal, files, errors for bad input.

use std::path::{Path, PathBuf};
use std::process::Output;

use crate::common::{fixture, ocelli, test_data};

fn marker_model() -> PathBuf {
    fixture("marker.onnx")
}

/// A grey picture with a red square at (x, y).
fn write_picture(path: &Path, x: u32, y: u32) {
    let mut picture = image::RgbImage::from_pixel(640, 480, image::Rgb([70, 70, 70]));
    for (dx, dy) in (0..60).flat_map(|dx| (0..60).map(move |dy| (dx, dy))) {
        picture.put_pixel(x + dx, y + dy, image::Rgb([255, 0, 0]));
    }
    picture.save(path).unwrap();
}

fn detect(folder: &Path, args: &[&str]) -> Output {
    ocelli().current_dir(folder).arg("detect").args(args).args(["--backend", "tract"]).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_picture_gives_a_table_a_painted_picture_and_json() {
    let folder = tempfile::tempdir().unwrap();
    write_picture(&folder.path().join("red.png"), 200, 100);
    let model = marker_model();
    let output = detect(folder.path(), &["red.png", "--model", model.to_str().unwrap()]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let table = text(&output.stdout);
    assert!(table.contains("backend tract") && table.contains("marker"), "{table}");
    let out = folder.path().join("runs/detect/001");
    let painted = image::open(out.join("red.png")).unwrap().into_rgb8();
    assert_ne!(painted.get_pixel(200, 130), &image::Rgb([255, 0, 0]), "a line must be painted on the edge of the box");
    assert_eq!(painted.get_pixel(230, 130), &image::Rgb([255, 0, 0]), "the inside is left alone");
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(out.join("red.json")).unwrap()).unwrap();
    assert_eq!(json["objects"][0]["label"], "marker");
    let again = detect(folder.path(), &["red.png", "--model", model.to_str().unwrap()]);
    assert!(text(&again.stdout).contains("runs/detect/002"));
}

#[test]
fn json_on_stdout_is_one_line_per_picture_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    for (name, x) in [("a.png", 40), ("b.png", 300), ("c.png", 500)] {
        write_picture(&folder.path().join(name), x, 200);
    }
    let model = marker_model();
    let output = detect(folder.path(), &[".", "--model", model.to_str().unwrap(), "--json", "-"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let lines: Vec<serde_json::Value> =
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 3);
    for (line, x) in lines.iter().zip([40.0, 300.0, 500.0]) {
        assert_eq!(line["frame"], serde_json::json!({"w": 640, "h": 480}));
        let object = &line["objects"][0];
        assert_eq!((object["label"].as_str(), object["class_id"].as_u64()), (Some("marker"), Some(0)));
        let want = [x / 640.0, 200.0 / 480.0, (x + 60.0) / 640.0, 260.0 / 480.0];
        for (got, want) in object["box"].as_array().unwrap().iter().zip(want) {
            assert!((got.as_f64().unwrap() - want).abs() < 0.004, "{object} against {want}");
        }
    }
    assert!(!folder.path().join("runs").exists());
}

#[test]
fn bad_input_is_a_clear_error_with_the_right_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    write_picture(&at("red.png"), 200, 100);
    std::fs::write(at("empty.onnx"), "").unwrap();
    std::fs::write(at("text.onnx"), "this is not a model\n".repeat(50)).unwrap();
    std::fs::write(at("empty.mp4"), "").unwrap();
    std::fs::write(at("text.mp4"), "this is not a video\n".repeat(500)).unwrap();
    std::fs::write(at("text.jpg"), "this is not a picture").unwrap();
    std::fs::create_dir(at("folder")).unwrap();
    let good = marker_model();
    let good = good.to_str().unwrap();
    let cases: &[(&[&str], i32, &str)] = &[
        (&["absent.png", "--model", good], 1, "absent.png"),
        (&["folder", "--model", good], 1, "no picture"),
        (&["text.jpg", "--model", good], 1, "text.jpg"),
        (&["empty.mp4", "--model", good], 1, "empty"),
        (&["text.mp4", "--model", good], 1, "text.mp4"),
        (&["http://127.0.0.1/x", "--model", good], 1, "rtsp://"),
        (&["red.png", "--model", "absent.onnx"], 1, "absent.onnx"),
        (&["red.png", "--model", "folder"], 1, "model.yaml"),
        (&["red.png", "--model", "empty.onnx"], 1, "empty"),
        (&["red.png", "--model", "text.onnx"], 1, "text.onnx"),
        (&["red.png", "--model", good, "--label", "markr"], 1, "marker"),
        (&["red.png", "--model", good, "--conf", "7"], 2, "0 to 1"),
        (&["red.png", "--model", good, "--out", "red.png/x"], 1, "red.png/x"),
    ];
    for (args, code, word) in cases {
        let output = detect(folder.path(), args);
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(*code), "{args:?}: {message}");
        assert!(message.contains(word), "{args:?}: `{word}` is not in: {message}");
        assert!(!message.contains("panicked"), "{args:?}: {message}");
    }
}

#[test]
fn a_named_backend_that_is_not_there_is_unavailable_and_never_replaced() {
    let folder = tempfile::tempdir().unwrap();
    write_picture(&folder.path().join("red.png"), 200, 100);
    let model = marker_model();
    let output = ocelli()
        .current_dir(folder.path())
        .env("ORT_DYLIB_PATH", "/nonexistent/libonnxruntime.so")
        .args(["detect", "red.png", "--backend", "cpu", "--model"])
        .arg(&model)
        .output()
        .unwrap();
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(69), "{message}");
    assert!(message.contains("/nonexistent/libonnxruntime.so"), "{message}");
    let auto = ocelli()
        .current_dir(folder.path())
        .env("ORT_DYLIB_PATH", "/nonexistent/libonnxruntime.so")
        .args(["detect", "red.png", "--backend", "auto", "--model"])
        .arg(&model)
        .output()
        .unwrap();
    assert!(auto.status.success(), "{}", text(&auto.stderr));
    let table = text(&auto.stdout);
    assert!(table.contains("backend tract") && table.contains("/nonexistent/libonnxruntime.so"), "{table}");
}

#[test]
fn an_unreachable_stream_is_unavailable() {
    let port = crate::common::free_port();
    let folder = tempfile::tempdir().unwrap();
    let model = marker_model();
    let url = format!("rtsp://user:topsecret@127.0.0.1:{port}/cam");
    let output = detect(folder.path(), &[&url, "--model", model.to_str().unwrap()]);
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(69), "{message}");
    assert!(!message.contains("topsecret"), "{message}");
}

/// A password that needs percent-encoding and has none: `/` makes the host end before it, by the standard.
#[test]
fn a_careless_password_reaches_the_camera_and_no_output() {
    let camera = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = camera.local_addr().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let model = marker_model();
    let output = detect(folder.path(), &[&format!("rtsp://u:p/x@{address}"), "--model", model.to_str().unwrap()]);
    let message = text(&output.stderr) + &text(&output.stdout);
    assert_eq!(output.status.code(), Some(69), "{message}");
    camera.set_nonblocking(true).unwrap();
    assert!(camera.accept().is_ok(), "the part behind the last `@` is the host");
    let files = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
    let files: Vec<String> = files.map(|name| name.into_string().unwrap()).collect();
    for secret in ["p/x", "u:p", "u_p"] {
        assert!(!message.contains(secret) && !files.iter().any(|name| name.contains(secret)), "{message} {files:?}");
    }
    let output = detect(folder.path(), &["rtsp://u:p/x@127.0.0.1:x", "--model", model.to_str().unwrap()]);
    let message = text(&output.stderr);
    assert!(message.contains("rtsp://***@127.0.0.1:x: this is not an address: the port"), "{message}");
}

#[test]
fn a_video_gives_a_painted_clip_and_a_line_per_frame() {
    let folder = tempfile::tempdir().unwrap();
    let (clip, model) = (fixture("clip.mp4"), marker_model());
    let args = [clip.to_str().unwrap(), "--model", model.to_str().unwrap(), "--out", "o", "--json", "all.jsonl"];
    let output = detect(folder.path(), &args);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let lines = std::fs::read_to_string(folder.path().join("all.jsonl")).unwrap();
    assert_eq!(lines.lines().count(), 75);
    // `make_clip.py` defines where the square is in each frame.
    for (n, line) in lines.lines().enumerate() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let (x, y) = (40.0 + 6.0 * n as f64, 60.0 + 2.0 * n as f64);
        let want = [x / 640.0, y / 360.0, (x + 48.0) / 640.0, (y + 48.0) / 360.0];
        for (got, want) in line["objects"][0]["box"].as_array().unwrap().iter().zip(want) {
            assert!((got.as_f64().unwrap() - want).abs() < 0.015, "frame {n}: {line} against {want}");
        }
    }
    assert!(folder.path().join("o/clip.mp4").metadata().unwrap().len() > 10_000);
    assert_eq!(std::fs::read_to_string(folder.path().join("o/clip.jsonl")).unwrap().lines().count(), 75);
}

#[test]
fn a_longer_video_gives_a_line_per_frame() {
    let Some(clip) = test_data("clips/bikes.mp4") else { return };
    let folder = tempfile::tempdir().unwrap();
    let model = marker_model();
    let args = [clip.to_str().unwrap(), "--model", model.to_str().unwrap(), "--out", "o", "--json", "all.jsonl"];
    let output = detect(folder.path(), &args);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let lines = std::fs::read_to_string(folder.path().join("all.jsonl")).unwrap();
    assert_eq!(lines.lines().count(), 250);
    assert!(folder.path().join("o/bikes.mp4").metadata().unwrap().len() > 10_000);
    assert_eq!(std::fs::read_to_string(folder.path().join("o/bikes.jsonl")).unwrap().lines().count(), 250);
}
