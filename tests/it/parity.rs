//! Boxes against those of the reference code, on real pictures and trained models, with every CPU backend. The shipped model's
//! data are in the repository (`shipped`); those of other models are in the larger test data.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use image::ImageDecoder;
use ocelli::config::BackendChoice;
use ocelli::infer::{Session, load};
use ocelli::model::{DecodeParams, Family, Input, ModelSpec, Nms, decode};
use ocelli::preprocess::Preprocessor;
use ocelli::types::{Detection, ImageView, PixelBox, Plane, Size};
use serde_json::Value;

use crate::common::test_data;
use crate::openvino::openvino_library;
use crate::runtime::{model_config, ort_library};

mod document;
mod shipped;

/// How far a box may lie from the reference's.
struct Tolerance {
    score: f32,
    iou: f32,
    /// A box without a counterpart may exceed the confidence threshold by this much.
    extra: f32,
    /// The reference reports a box once per class above the threshold, Ocelli only for its best class. So a reference box that
    /// overlaps a more confident one of another class may be missing.
    second_labels: bool,
}

const STRICT: Tolerance = Tolerance { score: 0.01, iou: 0.98, extra: 0.02, second_labels: false };
/// f16 weights and activations; the reference is the same model in f32.
const HALF: Tolerance = Tolerance { score: 0.02, iou: 0.96, extra: 0.03, second_labels: false };

const MANY_LABELS: Tolerance = Tolerance { second_labels: true, ..STRICT };

const CONFIDENCE: f32 = 0.25;
const IOU: f32 = 0.45;

struct Picture {
    size: Size,
    rgb: Vec<u8>,
}

impl Picture {
    /// Reads a picture and applies its EXIF orientation.
    fn open(path: &Path) -> Self {
        let mut decoder = image::ImageReader::open(path).unwrap().into_decoder().unwrap();
        let orientation = decoder.orientation().unwrap();
        let mut picture = image::DynamicImage::from_decoder(decoder).unwrap();
        picture.apply_orientation(orientation);
        let rgb = picture.into_rgb8();
        Self { size: Size::new(rgb.width(), rgb.height()), rgb: rgb.into_raw() }
    }

    fn view(&self) -> ImageView<'_> {
        ImageView::Rgb { size: self.size, rgb: Plane { data: &self.rgb, stride: self.size.w as usize * 3 } }
    }
}

/// A loaded model with its preprocessing and NMS.
struct Detector {
    spec: ModelSpec,
    session: Box<dyn Session>,
    preprocessor: Preprocessor,
    nms: Nms,
}

impl Detector {
    fn open(model: &Path, size: Option<Size>, backend: Backend) -> Self {
        let spec = ModelSpec::open(model, size).unwrap();
        let (session, info) = load(&spec, &model_config(backend.choice, backend.library.as_deref())).unwrap();
        assert_eq!(info.fallbacks, Vec::<String>::new());
        Self { preprocessor: Preprocessor::new(&spec.input), nms: Nms::new(), spec, session }
    }

    fn detect(&mut self, picture: &Picture) -> Vec<Detection> {
        let mut tensor = vec![f32::NAN; 3 * self.spec.input.size.w as usize * self.spec.input.size.h as usize];
        let letterbox = self.preprocessor.run(&picture.view(), &mut tensor).unwrap();
        let params = DecodeParams { threshold: CONFIDENCE, classes: None };
        let (mut candidates, mut detections) = (Vec::new(), Vec::new());
        let spec = &self.spec;
        self.session
            .run_one(Input::Planes(&tensor), &mut |outputs| decode(spec, outputs, &params, &mut candidates))
            .unwrap();
        self.nms.run(&mut candidates, spec.nms_iou(IOU), 300, &letterbox, &mut detections);
        detections
    }
}

/// A CPU backend.
#[derive(Clone)]
struct Backend {
    choice: BackendChoice,
    library: Option<PathBuf>,
}

fn tract() -> Option<Backend> {
    Some(Backend { choice: BackendChoice::Tract, library: None })
}

fn onnx_runtime() -> Option<Backend> {
    ort_library().map(|library| Backend { choice: BackendChoice::Cpu, library: Some(library) })
}

fn openvino() -> Option<Backend> {
    openvino_library().map(|library| Backend { choice: BackendChoice::Openvino, library: Some(library) })
}

fn reference_boxes(boxes: &Value) -> Vec<Detection> {
    let number = |value: &Value| value.as_f64().unwrap() as f32;
    let one = |entry: &Value| {
        let edge = |n: usize| number(&entry["box"][n]);
        Detection {
            class_id: entry["cls"].as_u64().unwrap() as u32,
            score: number(&entry["conf"]),
            bbox: PixelBox::new(edge(0), edge(1), edge(2), edge(3)),
        }
    };
    boxes.as_array().unwrap().iter().map(one).collect()
}

/// Pairs each reference box with the best of ours and collects the differences.
fn compare(ours: &[Detection], theirs: &[Detection], tolerance: &Tolerance, what: &str, complaints: &mut String) {
    let mut partners = vec![false; ours.len()];
    for wanted in theirs {
        let same = |n: &usize| ours[*n].class_id == wanted.class_id && !partners[*n];
        let overlap = |n: &usize| ours[*n].bbox.iou(&wanted.bbox);
        let best =
            (0..ours.len()).filter(same).filter(|n| overlap(n) > IOU).max_by(|a, b| overlap(a).total_cmp(&overlap(b)));
        match best.map(|n| (n, overlap(&n), (ours[n].score - wanted.score).abs())) {
            Some((n, iou, score)) if iou >= tolerance.iou && score <= tolerance.score => partners[n] = true,
            Some((n, iou, score)) => {
                partners[n] = true;
                writeln!(complaints, "{what}: {wanted:?} has IoU {iou:.4}, |Δscore| {score:.4} with {:?}", ours[n])
                    .unwrap();
            }
            None if tolerance.second_labels && theirs.iter().any(|other| is_second(wanted, other)) => {}
            None => writeln!(complaints, "{what}: {wanted:?} is missing").unwrap(),
        }
    }
    for (extra, _) in ours.iter().zip(&partners).filter(|(d, found)| !**found && d.score > CONFIDENCE + tolerance.extra)
    {
        writeln!(complaints, "{what}: {extra:?} is one too many").unwrap();
    }
}

/// Whether `one` may be a second label of the object that `other` shows.
fn is_second(one: &Detection, other: &Detection) -> bool {
    other.score > one.score && other.class_id != one.class_id && other.bbox.iou(&one.bbox) > IOU
}

fn reference(name: &str) -> Option<Value> {
    let text = std::fs::read_to_string(test_data(&format!("reference/{name}"))?).unwrap();
    Some(serde_json::from_str(&text).unwrap())
}

/// The size of a run's input: the reference writes height first.
fn input_size(run: &Value) -> Size {
    let side = |n: usize| run["input_hw"][n].as_u64().unwrap() as u32;
    Size::new(side(1), side(0))
}

/// All pictures, square at 640 and 320 and with the least border ("rect").
fn yolov5(backend: Option<Backend>) {
    let (Some(backend), Some(reference)) = (backend, reference("yolov5n_coco.json")) else { return };
    let (Some(fixed), Some(dynamic)) =
        (test_data("models/yolov5n_coco_640.onnx"), test_data("families/yolov5n_coco_dynamic.onnx"))
    else {
        return;
    };
    let mut detectors = BTreeMap::new();
    let (mut complaints, mut compared) = (String::new(), 0);
    for result in reference["results"].as_array().unwrap() {
        let name = result["image"].as_str().unwrap();
        let Some(path) = test_data(&format!("images/{name}")) else { return };
        let picture = Picture::open(&path);
        for run in result["runs"].as_array().unwrap() {
            let size = input_size(run);
            let detector = detectors.entry((size.w, size.h)).or_insert_with(|| {
                let square = size == Size::new(640, 640);
                Detector::open(if square { &fixed } else { &dynamic }, Some(size), backend.clone())
            });
            let theirs = reference_boxes(&run["torch"]);
            let what = format!("{name} {} {size}", run["mode"]);
            compare(&detector.detect(&picture), &theirs, &STRICT, &what, &mut complaints);
            compared += theirs.len();
        }
    }
    assert!(compared > 20, "only {compared} boxes were compared");
    assert!(complaints.is_empty(), "\n{complaints}");
}

#[test]
fn yolov5_on_tract() {
    yolov5(tract());
}

#[test]
fn yolov5_on_onnx_runtime() {
    yolov5(onnx_runtime());
}

#[test]
fn yolov5_on_openvino() {
    yolov5(openvino());
}

/// One model at one size. `boxes` finds a picture's reference boxes in its entry of the reference.
fn single(
    backend: Option<Backend>,
    model: &Path,
    reference: Option<Value>,
    picture: impl Fn(&str) -> Option<PathBuf>,
    boxes: impl Fn(&Value) -> &Value,
    tolerance: &Tolerance,
) {
    let (Some(backend), Some(reference)) = (backend, reference) else { return };
    let mut detector = Detector::open(model, None, backend);
    let (mut complaints, mut compared) = (String::new(), 0);
    for result in reference["results"].as_array().unwrap() {
        let name = result["image"].as_str().unwrap();
        let Some(path) = picture(name) else { return };
        let theirs = reference_boxes(boxes(result));
        compare(&detector.detect(&Picture::open(&path)), &theirs, tolerance, name, &mut complaints);
        compared += theirs.len();
    }
    assert!(compared > 5, "only {compared} boxes were compared");
    assert!(complaints.is_empty(), "\n{complaints}");
}

/// A model of the larger test data against its reference there.
fn large(backend: Option<Backend>, model: &str, reference_name: &str, tolerance: &Tolerance) {
    let Some(model) = test_data(model) else { return };
    large_at(backend, &model, reference_name, tolerance);
}

fn large_at(backend: Option<Backend>, model: &Path, reference_name: &str, tolerance: &Tolerance) {
    let picture = |name: &str| test_data(&format!("images/{name}"));
    let square = |run: &&Value| run["mode"] == "square640";
    single(
        backend,
        model,
        reference(reference_name),
        picture,
        |result| match &result["runs"] {
            Value::Array(runs) => &runs.iter().find(square).unwrap()["torch"],
            _ if result["dets"].is_array() => &result["dets"],
            _ => &result["yolox_nano_416"],
        },
        tolerance,
    );
}

#[test]
fn f16_on_tract() {
    large(tract(), "models/yolov5n_coco_640_fp16.onnx", "yolov5n_coco.json", &HALF);
}

#[test]
fn f16_on_onnx_runtime() {
    large(onnx_runtime(), "models/yolov5n_coco_640_fp16.onnx", "yolov5n_coco.json", &HALF);
}

#[test]
fn f16_on_openvino() {
    large(openvino(), "models/yolov5n_coco_640_fp16.onnx", "yolov5n_coco.json", &HALF);
}

#[test]
fn yolov8_on_tract() {
    large(tract(), "families/yolov8n_coco_640.onnx", "yolov8n_coco.json", &STRICT);
}

#[test]
fn yolov8_on_onnx_runtime() {
    large(onnx_runtime(), "families/yolov8n_coco_640.onnx", "yolov8n_coco.json", &STRICT);
}

#[test]
fn yolov8_on_openvino() {
    large(openvino(), "families/yolov8n_coco_640.onnx", "yolov8n_coco.json", &STRICT);
}

/// The three raw heads, which the reference decodes in its last layer.
#[test]
fn raw_heads_on_tract() {
    large(tract(), "families/yolov5n_coco_640_raw_heads.onnx", "yolov5n_coco.json", &STRICT);
}

#[test]
fn raw_heads_on_onnx_runtime() {
    large(onnx_runtime(), "families/yolov5n_coco_640_raw_heads.onnx", "yolov5n_coco.json", &STRICT);
}

#[test]
fn raw_heads_on_openvino() {
    large(openvino(), "families/yolov5n_coco_640_raw_heads.onnx", "yolov5n_coco.json", &STRICT);
}

/// An end-to-end model with random weights: each valid output row becomes exactly one box.
fn end_to_end(backend: Option<Backend>) {
    let (Some(backend), Some(model), Some(picture)) =
        (backend, test_data("families/yolov10n_random_640.onnx"), test_data("images/bus.jpg"))
    else {
        return;
    };
    let mut detector = Detector::open(&model, None, backend);
    assert_eq!(detector.spec.output.family, Family::EndToEnd);
    let picture = Picture::open(&picture);
    let mut tensor = vec![0.0; 3 * 640 * 640];
    detector.preprocessor.run(&picture.view(), &mut tensor).unwrap();
    let spec = &detector.spec;
    let mut candidates = Vec::new();
    let params = DecodeParams { threshold: 0.0, classes: None };
    detector
        .session
        .run_one(Input::Planes(&tensor), &mut |outputs| {
            let rows = outputs[0].as_chunks::<6>().0;
            assert_eq!(rows.len(), 300);
            decode(spec, outputs, &params, &mut candidates);
            let sound = rows.iter().filter(|row| row[4] > 0.0 && row[0] <= row[2] && row[1] <= row[3]);
            let sound: Vec<(f32, f32)> = sound.map(|row| (row[0], row[4])).collect();
            assert!(sound.len() > 100, "{} rows", sound.len());
            assert_eq!(candidates.iter().map(|c| (c.bbox.x1, c.score)).collect::<Vec<_>>(), sound);
        })
        .unwrap();
}

#[test]
fn end_to_end_on_tract() {
    end_to_end(tract());
}

#[test]
fn end_to_end_on_onnx_runtime() {
    end_to_end(onnx_runtime());
}

#[test]
fn end_to_end_on_openvino() {
    end_to_end(openvino());
}

/// A YOLOX export has no metadata: a manifest beside it names the family.
fn yolox(backend: Option<Backend>) {
    let Some(model) = test_data("models/yolox_nano_coco_416.onnx") else { return };
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(model, dir.path().join("yolox.onnx")).unwrap();
    std::fs::write(dir.path().join("model.yaml"), "file: yolox.onnx\nfamily: yolox\n").unwrap();
    large_at(backend, dir.path(), "yolox_nano_coco.json", &MANY_LABELS);
}

#[test]
fn yolox_on_tract() {
    yolox(tract());
}

#[test]
fn yolox_on_onnx_runtime() {
    yolox(onnx_runtime());
}

#[test]
fn yolox_on_openvino() {
    yolox(openvino());
}
