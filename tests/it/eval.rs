//! `ocelli eval` as users call it: the figures, the files it writes, errors for bad labels.

use std::path::{Path, PathBuf};
use std::process::Output;

use crate::common::ocelli;

const SIDE: u32 = 60;

fn marker_model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/marker.onnx")
}

/// A grey picture, optionally with a red square at (x, y).
fn write_picture(path: &Path, square: Option<(u32, u32)>) {
    let mut picture = image::RgbImage::from_pixel(640, 480, image::Rgb([70, 70, 70]));
    if let Some((x, y)) = square {
        for (dx, dy) in (0..SIDE).flat_map(|dx| (0..SIDE).map(move |dy| (dx, dy))) {
            picture.put_pixel(x + dx, y + dy, image::Rgb([255, 0, 0]));
        }
    }
    picture.save(path).unwrap();
}

/// The label line of such a square, moved to the right by `off` pixels.
fn line(class: u32, x: u32, y: u32, off: f64) -> String {
    let half = f64::from(SIDE) / 2.0;
    let (cx, cy) = ((f64::from(x) + half + off) / 640.0, (f64::from(y) + half) / 480.0);
    format!("{class} {cx} {cy} {} {}\n", f64::from(SIDE) / 640.0, f64::from(SIDE) / 480.0)
}

/// Three pictures with a square, one with nothing on it and no label file.
fn data_set() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let (pictures, labels) = (folder.path().join("images/test"), folder.path().join("labels/test"));
    std::fs::create_dir_all(&pictures).unwrap();
    std::fs::create_dir_all(&labels).unwrap();
    for (name, x, y) in [("a", 40, 200), ("b", 300, 100), ("c", 500, 380)] {
        write_picture(&pictures.join(format!("{name}.png")), Some((x, y)));
        std::fs::write(labels.join(format!("{name}.txt")), line(0, x, y, 0.0)).unwrap();
    }
    write_picture(&pictures.join("d.png"), None);
    folder
}

fn eval(folder: &Path, args: &[&str]) -> Output {
    let model = marker_model();
    let mut command = ocelli();
    command.current_dir(folder).args(["eval", "--data", ".", "--backend", "tract", "--model"]).arg(model).args(args);
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn figures(folder: &Path, args: &[&str]) -> serde_json::Value {
    let output = eval(folder, &[&["--json", "-"], args].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", text(&output.stdout)))
}

#[test]
fn a_perfect_detector_scores_1_and_the_backend_is_reported() {
    let data = data_set();
    let output = eval(data.path(), &["--plot", "pr.svg", "--detections", "found.json", "--json", "eval.json"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let table = text(&output.stdout);
    for word in ["1 images have no label file", "marker", "all", "images/s", "backend tract"] {
        assert!(table.contains(word), "`{word}` is not in {table}");
    }
    let read = |name: &str| std::fs::read_to_string(data.path().join(name)).unwrap();
    let json: serde_json::Value = serde_json::from_str(&read("eval.json")).unwrap();
    for key in ["map50", "map50_95"] {
        assert!(json[key].as_f64().unwrap() > 0.999, "{json:#}");
    }
    assert_eq!((&json["images"], &json["boxes"], &json["images_without_labels"]), (&4.into(), &3.into(), &1.into()));
    assert_eq!(json["backend"]["kind"], "tract");
    assert_eq!(json["model"]["sha256"].as_str().unwrap().len(), 64);
    assert!(read("pr.svg").starts_with("<svg") && read("pr.svg").contains("marker 1.000"));
    let found: Vec<serde_json::Value> = serde_json::from_str(&read("found.json")).unwrap();
    let first = &found[0];
    assert_eq!((first["image_id"].as_i64(), first["category_id"].as_i64()), (Some(1), Some(1)), "{first}");
    let want = [40.0, 200.0, 60.0, 60.0];
    for (got, want) in first["bbox"].as_array().unwrap().iter().zip(want) {
        assert!((got.as_f64().unwrap() - want).abs() < 3.0, "{first}");
    }
}

#[test]
fn misplaced_boxes_and_missed_objects_lower_the_score() {
    let data = data_set();
    let labels = data.path().join("labels/test");
    // Moved by 25 of its 60 pixels, a square has an IoU of 35/85 with itself: less than 0.5.
    std::fs::write(labels.join("a.txt"), line(0, 40, 200, 25.0)).unwrap();
    // An object that is not there.
    std::fs::write(labels.join("d.txt"), line(0, 100, 100, 0.0)).unwrap();
    let json = figures(data.path(), &[]);
    let map50 = json["map50"].as_f64().unwrap();
    // Two right and one wrong of four objects. All scores are equal, and the wrong one comes first: precision 2/3 up to
    // recall 1/2, that is at 51 of 101 points.
    assert!((map50 - 51.0 / 101.0 * 2.0 / 3.0).abs() < 1e-6, "{map50}");
    assert_eq!(json["classes"][0]["recall50"], 0.5);
    let limited = figures(data.path(), &["--limit", "2"]);
    assert_eq!((&limited["images"], &limited["boxes"]), (&2.into(), &2.into()));
}

#[test]
fn classes_are_matched_by_name() {
    let data = data_set();
    std::fs::write(data.path().join("data.yaml"), "names: [bird, other, marker]\n").unwrap();
    for (name, x, y) in [("a", 40, 200), ("b", 300, 100), ("c", 500, 380)] {
        std::fs::write(data.path().join(format!("labels/test/{name}.txt")), line(2, x, y, 0.0)).unwrap();
    }
    std::fs::write(data.path().join("labels/test/d.txt"), line(0, 9, 9, 0.0)).unwrap();
    let json = figures(data.path(), &[]);
    assert!(json["map50"].as_f64().unwrap() > 0.999, "{json:#}");
    assert_eq!(json["classes_left_out"], serde_json::json!(["bird"]));
    assert_eq!((&json["boxes_left_out"], &json["boxes"]), (&1.into(), &3.into()));
}

#[test]
fn coco_json_gives_the_same_score_as_yolo_labels() {
    let data = data_set();
    std::fs::remove_dir_all(data.path().join("labels")).unwrap();
    std::fs::create_dir(data.path().join("annotations")).unwrap();
    let json = serde_json::json!({
        "images": [
            {"id": 30, "file_name": "a.png", "width": 640, "height": 480},
            {"id": 20, "file_name": "b.png", "width": 640, "height": 480},
        ],
        "categories": [{"id": 5, "name": "marker"}, {"id": 1, "name": "bird"}],
        "annotations": [
            {"id": 1, "image_id": 30, "category_id": 5, "bbox": [40, 200, 60, 60], "iscrowd": 0},
            {"id": 2, "image_id": 20, "category_id": 5, "bbox": [300, 100, 60, 60], "iscrowd": 0},
        ],
    });
    let path = data.path().join("annotations/instances_test.json");
    std::fs::write(&path, json.to_string()).unwrap();
    let got = figures(data.path(), &["--detections", "found.json"]);
    assert!(got["map50"].as_f64().unwrap() > 0.999, "{got:#}");
    assert_eq!(got["settings"]["labels"], "coco");
    let found = std::fs::read(data.path().join("found.json")).unwrap();
    let found: Vec<serde_json::Value> = serde_json::from_slice(&found).unwrap();
    let ids: Vec<_> = found.iter().map(|f| (f["image_id"].as_i64(), f["category_id"].as_i64())).collect();
    assert_eq!(ids, [(Some(20), Some(5)), (Some(30), Some(5))]);
    std::fs::write(&path, json.to_string().replace("\"width\":640", "\"width\":320")).unwrap();
    let output = eval(data.path(), &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("the picture is 640x480"), "{}", text(&output.stderr));
}

#[test]
fn bad_input_is_a_clear_error_with_the_right_exit_code() {
    type Spoil = fn(&Path);
    let cases: &[(&str, Spoil, &[&str], i32)] = &[
        ("labels/test/b.txt:2: height: is missing", |d| append(d, "b", "0 0.5 0.5 0.1\n"), &[], 1),
        ("labels/test/b.txt:2: class: 2 is no class of 0 … 1", |d| append(d, "b", "2 0.5 0.5 0.1 0.1\n"), &[], 1),
        ("labels/test/b.txt:2: x: `nan`", |d| append(d, "b", "0 nan 0.5 0.1 0.1\n"), &[], 1),
        ("labels/test/b.txt:2: width: 320", |d| append(d, "b", "0 0.5 0.5 320 0.1\n"), &[], 1),
        ("z.txt: its picture is missing", |d| append(d, "z", "0 0.5 0.5 0.1 0.1\n"), &[], 1),
        ("c.png", |d| std::fs::write(d.join("images/test/c.png"), "no picture").unwrap(), &[], 1),
        ("no split `valid`", |_| (), &["--split", "valid"], 1),
        ("no picture", |d| std::fs::rename(d.join("images/test"), d.join("x")).unwrap(), &[], 1),
        ("0 to 1", |_| (), &["--conf", "7"], 2),
        ("--limit", |_| (), &["--limit", "0"], 2),
        ("absent/x.json", |_| (), &["--json", "absent/x.json"], 1),
    ];
    for (word, spoil, args, code) in cases {
        let data = data_set();
        spoil(data.path());
        if *word == "no picture" {
            std::fs::create_dir(data.path().join("images/test")).unwrap();
        }
        let output = eval(data.path(), args);
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(*code), "{word}: {message}");
        assert!(message.contains(word), "`{word}` is not in: {message}");
        assert!(!message.contains("panicked"), "{message}");
    }
    let data = data_set();
    std::fs::remove_dir_all(data.path().join("labels/test")).unwrap();
    std::fs::create_dir(data.path().join("labels/test")).unwrap();
    assert!(text(&eval(data.path(), &[]).stderr).contains("no labelled object"));
}

fn append(data: &Path, name: &str, line: &str) {
    let path = data.join(format!("labels/test/{name}.txt"));
    let before = std::fs::read_to_string(&path).unwrap_or_default();
    std::fs::write(path, before + line).unwrap();
}
