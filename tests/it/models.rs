//! `ocelli models` on real files.

use std::fs;
use std::path::Path;
use std::process::Output;

use ocelli::model::{Batch, Elem, Family, ModelSpec};
use ocelli::types::Size;

use crate::common::{ocelli, test_data};

fn models(args: &[&str]) -> Output {
    ocelli().arg("models").args(args).env_remove("OCELLI_MODEL").output().unwrap()
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// A folder with `x/model.onnx` (the real YOLOv5n) and a manifest.
fn folder(model: &Path, manifest: &str) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let inner = root.path().join("x");
    fs::create_dir(&inner).unwrap();
    fs::copy(model, inner.join("model.onnx")).unwrap();
    fs::write(inner.join("model.yaml"), format!("file: model.onnx\n{manifest}")).unwrap();
    root
}

#[test]
fn real_models_are_recognised() {
    for (file, family, size, rows, strides, f16, dynamic) in [
        ("models/yolov5n_coco_640.onnx", Family::YoloV5, 640, 25200, &[8_u32, 16, 32][..], false, false),
        ("models/yolov5n_coco_640_fp16.onnx", Family::YoloV5, 640, 25200, &[8, 16, 32], true, false),
        ("families/yolov5n_coco_dynamic.onnx", Family::YoloV5, 640, 25200, &[8, 16, 32], false, true),
        ("families/yolov5s_efficientnetv2_document_640.onnx", Family::YoloV5, 640, 6300, &[16, 32, 64], false, false),
        ("families/yolov8n_coco_640.onnx", Family::YoloV8, 640, 8400, &[8, 16, 32], false, false),
    ] {
        let Some(path) = test_data(file) else { return };
        let spec = ModelSpec::open(&path, None).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((spec.output.family, spec.output.rows, spec.output.classes), (family, rows, 80), "{file}");
        assert_eq!((spec.input.size, spec.input.elem == Elem::Float16), (Size::new(size, size), f16), "{file}");
        assert_eq!((spec.strides.as_slice(), spec.dynamic), (strides, dynamic), "{file}");
        assert_eq!((spec.id.labels.len(), spec.id.labels[0].as_str()), (80, "person"), "{file}");
        assert_eq!((spec.input.name.as_str(), spec.output.tensors[0].name.as_str()), ("images", "output0"), "{file}");
    }
    let Some(ends) = test_data("families/yolov10n_random_640.onnx") else { return };
    let spec = ModelSpec::open(&ends, None).unwrap();
    assert_eq!((spec.output.family, spec.output.rows, spec.output.classes), (Family::EndToEnd, 300, 80));
    let Some(heads) = test_data("families/yolov5n_coco_640_raw_heads.onnx") else { return };
    let spec = ModelSpec::open(&heads, None).unwrap();
    assert_eq!(
        (spec.output.family, spec.output.rows, spec.strides.as_slice()),
        (Family::YoloV5Heads, 25200, &[8, 16, 32][..])
    );
    let Some(dynamic) = test_data("families/yolov5n_coco_dynamic.onnx") else { return };
    let spec = ModelSpec::open(&dynamic, Some(Size::new(320, 192))).unwrap();
    assert_eq!((spec.input.size, spec.output.rows), (Size::new(320, 192), 3 * (40 * 24 + 20 * 12 + 10 * 6)));
}

#[test]
fn models_of_other_layouts_get_a_clear_error() {
    for (file, part) in
        [("models/fastestdet_coco_352.onnx", "[1, 85, 22, 22]"), ("models/yolox_nano_coco_416.onnx", "family: yolox")]
    {
        let Some(path) = test_data(file) else { return };
        let error = ModelSpec::open(&path, None).unwrap_err().to_string();
        assert!(error.contains(part), "{file}: {error}");
        let output = models(&["show", path.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(1), "{file}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(part), "{output:?}");
    }
}

#[test]
fn list_show_and_verify() {
    let Some(model) = test_data("models/yolov5n_coco_640.onnx") else { return };
    let sha = ocelli::model::file_sha256(&model).unwrap();
    let root = folder(
        &model,
        &format!("name: street\nsha256: \"{sha}\"\nlicense: MIT\nsource: a test\naccuracy: {{map50: 0.457}}\n"),
    );
    fs::create_dir(root.path().join("broken")).unwrap();
    fs::write(root.path().join("broken/model.yaml"), "file: gone.onnx\n").unwrap();
    let (root, model) = (root.path().to_str().unwrap(), format!("{}/x", root.path().display()));

    let list = stdout(&models(&["list", root]));
    assert!(list.contains("street") && list.contains("640x640") && list.contains("80 classes"), "{list}");
    assert!(list.contains("broken") && list.contains("gone.onnx"), "one broken model is listed too: {list}");
    let list: serde_json::Value = serde_json::from_str(&stdout(&models(&["list", "--json", root]))).unwrap();
    assert_eq!(list.as_array().map(Vec::len), Some(2));

    let show = stdout(&models(&["show", &model]));
    for part in
        ["street", &sha, "yolov5", "[1, 3, 640, 640]", "[1, 25200, 85]", "[8, 16, 32]", "bicycle", "MIT", "map50 0.457"]
    {
        assert!(show.contains(part), "`{part}` is missing in:\n{show}");
    }
    let show: serde_json::Value = serde_json::from_str(&stdout(&models(&["show", "--json", &model]))).unwrap();
    assert_eq!(show["strides"], serde_json::json!([8, 16, 32]));
    assert_eq!(show["rows"], 25200);
    assert_eq!(show["labels"][2], "car");
    assert_eq!(show["accuracy"]["map50"], 0.457);

    assert!(stdout(&models(&["verify", &model])).contains("matches model.yaml"));
    // One changed byte in the weights: still a model, but with another SHA-256.
    let file = format!("{model}/model.onnx");
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, bytes).unwrap();
    let output = models(&["verify", &model]);
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(message.contains(&sha) && message.contains("SHA-256"), "{message}");
}

/// Refused in an address space of 600 MB: the program does not allocate what a file claims.
#[test]
fn hostile_files_allocate_no_memory() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    // A sparse file takes no disk space.
    fs::File::create(path("long.onnx")).unwrap().set_len((1 << 30) + 1).unwrap();
    // A graph that claims 2^62 bytes, and an initializer that claims 2^40 elements.
    fs::write(path("graph.onnx"), [&[0x08, 8, 0x3a][..], &[0xff; 8], &[0x3f, 1, 2, 3]].concat()).unwrap();
    let tensor = [&[0x08][..], &[0x80, 0x80, 0x80, 0x80, 0x80, 0x20], &[0x10, 1, 0x42, 1, b'w']].concat();
    let graph = [&[0x2a, tensor.len() as u8][..], &tensor].concat();
    fs::write(path("tensor.onnx"), [&[0x08, 8, 0x3a, graph.len() as u8][..], &graph].concat()).unwrap();
    let noise: Vec<u8> = (0..1_u32 << 22).map(|n| (n.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
    fs::write(path("noise.onnx"), noise).unwrap();
    for (file, part) in [
        (path("long.onnx"), "limit of 1 GiB"),
        (path("graph.onnx"), "past the end"),
        (path("tensor.onnx"), "`w` has a shape"),
        (path("noise.onnx"), "not an ONNX model"),
        ("/dev/zero".to_owned(), "regular file"),
    ] {
        let mut small = std::process::Command::new("sh");
        small.args(["-c", "ulimit -v 600000; exec \"$0\" models show \"$1\"", env!("CARGO_BIN_EXE_ocelli"), &file]);
        let output = small.output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{file}: {message}");
        assert!(message.contains(part), "{file}: `{part}` is missing in: {message}");
    }
}

/// The prepared model is another file with the same results; a model that fails the comparison is not written.
#[test]
fn prepare_verifies_the_model_before_writing_it() {
    let (Some(model), Some(bus)) = (test_data("families/yolov5n_coco_dynamic.onnx"), test_data("images/bus.jpg"))
    else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("small.onnx");
    let (model, bus, path) = (model.to_str().unwrap(), bus.to_str().unwrap(), out.to_str().unwrap());
    let common = ["--input-size", "320", "--backend", "tract"];
    let text = stdout(&models(&[&["prepare", model, path, "--bytes", "--channels-last"], &common[..]].concat()));
    assert!(text.contains("the same as before"), "{text}");
    let spec = ModelSpec::open(&out, None).unwrap();
    assert_eq!((spec.input.elem, spec.input.shape(1), spec.dynamic), (Elem::Uint8, [1, 320, 320, 3], false));
    assert_eq!((spec.output.rows, spec.output.classes), (6300, 80));

    let fixed = folder.path().join("fixed.onnx");
    let batch = ["prepare", model, fixed.to_str().unwrap(), "--batch", "2"];
    assert!(stdout(&models(&[&batch[..], &common].concat())).contains("the same as before"));
    let spec = ModelSpec::open(&fixed, None).unwrap();
    assert_eq!(spec.input.batch, Batch { size: 2, open: false });
    fs::remove_file(&fixed).unwrap();

    let long = fs::metadata(&out).unwrap().len();
    fs::remove_file(&out).unwrap();
    let half = ["prepare", model, path, "--half-weights"];
    let output = models(&[&half[..], &common].concat());
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("not proven"), "{output:?}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left behind");
    let text = stdout(&models(&[&half[..], &common, &["--pictures", bus]].concat()));
    assert!(text.contains("boxes"), "{text}");
    assert!(fs::metadata(&out).unwrap().len() < long * 6 / 10);
}

/// NMS in the graph keeps the boxes that Ocelli's NMS keeps, and f16 finds the same objects.
#[test]
fn prepare_appends_nms_and_converts_to_f16() {
    let (Some(library), Some(bus)) = (crate::runtime::ort_library(), test_data("images/bus.jpg")) else { return };
    let sized: (&str, &[&str]) = ("families/yolov5n_coco_dynamic.onnx", &["--input-size", "320"]);
    for (model, size) in [sized, ("families/yolov8n_coco_640.onnx", &[])] {
        let Some(model) = test_data(model) else { return };
        let run = |out: &Path, options: &[&str]| {
            let mut command = ocelli();
            command
                .args(["models", "prepare"])
                .arg(&model)
                .arg(out)
                .args(["--backend", "cpu"])
                .args(size)
                .args(options);
            stdout(&command.arg("--pictures").arg(&bus).env("ORT_DYLIB_PATH", &library).output().unwrap())
        };
        let folder = tempfile::tempdir().unwrap();
        let text = run(&folder.path().join("out.onnx"), &["--nms", "--nms-max", "50", "--bytes"]);
        assert!(text.contains("the same as before") && text.contains("worst overlap"), "{text}");
        let spec = ModelSpec::open(folder.path(), None).unwrap();
        assert_eq!((spec.output.family, spec.output.rows, spec.input.elem), (Family::EndToEnd, 50, Elem::Uint8));
        assert_eq!((spec.output.classes, spec.id.labels.len()), (80, 80));

        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out.onnx");
        let text = run(&out, &["--fp16", "--nms"]);
        assert!(text.contains("the same as before"), "{text}");
        let (before, after) = (fs::metadata(&model).unwrap().len(), fs::metadata(&out).unwrap().len());
        assert!(after * 100 < before * 60, "{after} of {before}");
    }
}

/// tract computes f16 operators in f32, so such a model runs there at the speed of the original, not for minutes.
#[test]
fn f16_models_are_verified_on_tract_too() {
    let (Some(model), Some(bus)) = (test_data("families/yolov5n_coco_dynamic.onnx"), test_data("images/bus.jpg"))
    else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.onnx");
    let (model, bus, path) = (model.to_str().unwrap(), bus.to_str().unwrap(), out.to_str().unwrap());
    let options = ["--fp16", "--input-size", "320", "--backend", "tract", "--pictures", bus];
    let text = stdout(&models(&[&["prepare", model, path], &options[..]].concat()));
    assert!(text.contains("the same as before") && text.contains("tract"), "{text}");
}

#[test]
fn bad_paths_are_errors_not_panics() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    fs::write(path("empty.onnx"), "").unwrap();
    fs::write(path("text.onnx"), "this is a text").unwrap();
    for (args, part) in [
        (["show", &path("none.onnx")], "no model at"),
        (["show", &path("empty.onnx")], "is empty"),
        (["show", &path("text.onnx")], "not an ONNX model"),
        (["verify", &path("")], "model.yaml"),
        (["list", &path("none")], "cannot list"),
    ] {
        let output = models(&args);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {message}");
        assert!(message.contains(part) && !message.contains("panicked"), "{args:?}: {message}");
    }
    assert!(stdout(&models(&["list", &path("")])).contains("no model folders"));
}

/// The deployed backend's boxes against the reference's: equal for the shipped model; a changed model is reported with exit
/// code 1.
#[test]
fn verify_compares_a_backend_with_the_reference() {
    let Some(library) = crate::runtime::ort_library() else { return };
    let run = |arguments: &[&str]| {
        let output =
            ocelli().args(["models", "verify"]).args(arguments).arg("--ort-library").arg(&library).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.code(), text)
    };
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/models/yolov5s-efficientnetv2");
    let (code, text) = run(&[shipped, "--backend", "cpu", "--json"]);
    assert_eq!(code, Some(0), "{text}");
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["deployed"]["backend"], "cpu");
    assert_eq!(json["reference"]["backend"], "tract");
    assert!(json["objects"].as_u64().unwrap() >= 10, "{text}");
    assert_eq!(json["agreed"], json["objects"], "{text}");
    assert!(json["worst_score"].as_f64().unwrap() < 0.01, "{text}");

    // Limits that nothing can meet: the check fails, with its exit code.
    let (code, text) = run(&[shipped, "--backend", "cpu", "--min-iou", "1", "--max-score-delta", "0"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("not fit to be deployed") && text.contains("agree on"), "{text}");
}
