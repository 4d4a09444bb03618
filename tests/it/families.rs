//! Model families on every CPU backend: graphs with constant outputs here, tiny real graphs in `tiny`. Real exports are
//! in `parity`.

use std::fs;
use std::path::Path;

use half::f16;
use ocelli::config::BackendChoice;
use ocelli::infer::{Backend, InferError, OrtBackend, load};
use ocelli::model::{Candidate, DecodeParams, Family, Input, ModelSpec, Nms, decode};
use ocelli::types::{BackendKind, Letterbox, Padding, Size};

use crate::common::skip;
use crate::openvino::openvino_library;
use crate::runtime::{model_config, ort_library};

mod tiny;

const FLOAT: u64 = 1;
const UINT8: u64 = 2;
const INT64: u64 = 7;
const HALF: u64 = 10;

fn varint(mut n: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while n >= 0x80 {
        out.push((n as u8 & 0x7f) | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
    out
}

fn number(field: u64, n: u64) -> Vec<u8> {
    [varint(field << 3), varint(n)].concat()
}

fn message(field: u64, body: &[u8]) -> Vec<u8> {
    [varint(field << 3 | 2), varint(body.len() as u64), body.to_vec()].concat()
}

/// ValueInfoProto; axes that are no numbers are symbolic.
fn port(field: u64, name: &str, elem: u64, dims: &str) -> Vec<u8> {
    let axis = |d: &str| message(1, &d.parse().map_or_else(|_| message(2, d.as_bytes()), |n| number(1, n)));
    let shape: Vec<u8> = dims.split_whitespace().flat_map(axis).collect();
    let tensor = [number(1, elem), message(2, &shape)].concat();
    message(field, &[message(1, name.as_bytes()), message(2, &message(1, &tensor))].concat())
}

/// TensorProto as an initializer.
fn initializer(name: &str, elem: u64, dims: &[u64], raw: &[u8]) -> Vec<u8> {
    let dims: Vec<u8> = dims.iter().flat_map(|n| number(1, *n)).collect();
    message(5, &[dims, number(2, elem), message(8, name.as_bytes()), message(9, raw)].concat())
}

fn node(op: &str, inputs: &[&str], output: &str, attributes: &[u8]) -> Vec<u8> {
    let inputs: Vec<u8> = inputs.iter().flat_map(|i| message(1, i.as_bytes())).collect();
    message(1, &[inputs, message(2, output.as_bytes()), message(4, op.as_bytes()), attributes.to_vec()].concat())
}

fn model(graph: &[u8], names: usize) -> Vec<u8> {
    let names: Vec<String> = (0..names).map(|n| format!("{n}: 'c{n}'")).collect();
    let names = [message(1, b"names"), message(2, format!("{{{}}}", names.join(", ")).as_bytes())].concat();
    [
        number(1, 8),
        message(7, &[message(2, b"g"), graph.to_vec()].concat()),
        message(8, &number(2, 17)),
        message(14, &names),
    ]
    .concat()
}

/// An output that is the same for every frame.
struct Constant {
    name: &'static str,
    elem: u64,
    declared: &'static str,
    dims: Vec<u64>,
    values: Vec<f32>,
}

fn constant(name: &'static str, elem: u64, declared: &'static str, dims: &[u64], values: &[f32]) -> Constant {
    Constant { name, elem, declared, dims: dims.to_vec(), values: values.to_vec() }
}

impl Constant {
    fn raw(&self) -> Vec<u8> {
        let bytes = |v: &f32| match self.elem {
            HALF => f16::from_f32(*v).to_le_bytes().to_vec(),
            INT64 => (*v as i64).to_le_bytes().to_vec(),
            _ => v.to_le_bytes().to_vec(),
        };
        self.values.iter().flat_map(bytes).collect()
    }
}

/// A model of 200 × 100 pixels with these outputs.
fn constants(outputs: &[Constant], names: usize, size_input: bool) -> Vec<u8> {
    let mut graph = port(11, "images", FLOAT, "1 3 100 200");
    if size_input {
        graph.extend(port(11, "orig_target_sizes", INT64, "1 2"));
    }
    for output in outputs {
        let from = format!("c_{}", output.name);
        graph.extend(initializer(&from, output.elem, &output.dims, &output.raw()));
        graph.extend(node("Identity", &[&from], output.name, &[]));
        graph.extend(port(12, output.name, output.elem, output.declared));
    }
    model(&graph, names)
}

struct Opened {
    _folder: tempfile::TempDir,
    spec: ModelSpec,
}

fn open(bytes: &[u8], manifest: &str) -> Opened {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("m.onnx"), bytes).unwrap();
    fs::write(folder.path().join("model.yaml"), format!("file: m.onnx\n{manifest}")).unwrap();
    let spec = ModelSpec::open(folder.path(), None).unwrap_or_else(|e| panic!("{e}"));
    Opened { _folder: folder, spec }
}

/// Runs the model once on each backend there is; `look` sees the outputs. `no_rows`: one of them is an initializer without
/// values.
fn on_each(spec: &ModelSpec, input: Input<'_>, no_rows: bool, mut look: impl FnMut(&str, &[&[f32]])) {
    let run = |choice, library: Option<&Path>, look: &mut dyn FnMut(&str, &[&[f32]])| {
        let (mut session, info) = match load(spec, &model_config(choice, library)) {
            Ok(loaded) => loaded,
            // Outputs without rows that are computed are right.
            Err(InferError::Output { expected: 0, got: 1 }) if no_rows && choice == BackendChoice::Openvino => {
                return skip("OpenVINO's reader takes an initializer without values for one value");
            }
            Err(error) => panic!("{error}"),
        };
        // Twice: a session is for many frames; and once more through a further session.
        session.run_one(input, &mut |_| {}).unwrap();
        session.run_one(input, &mut |outputs| look(&info.version, outputs)).unwrap();
        session.fork()().unwrap().run_one(input, &mut |outputs| look(&info.version, outputs)).unwrap();
    };
    run(BackendChoice::Tract, None, &mut look);
    if let Some(library) = ort_library() {
        run(BackendChoice::Cpu, Some(&library), &mut look);
        // With its tensors bound, as sessions on a GPU are.
        for fixed in [false, true] {
            let backend = OrtBackend::new(BackendKind::Cpu, Some(&library), 1).unwrap().bound(fixed);
            let mut session = match backend.load(spec) {
                Ok(session) => session,
                Err(error) if fixed && error.to_string().contains("whose size never changes") => continue,
                Err(error) => panic!("{error}"),
            };
            session.run_one(Input::Planes(&vec![0.0; input.len()]), &mut |_| {}).unwrap();
            session.run_one(input, &mut |outputs| look("bound tensors", outputs)).unwrap();
        }
    }
    if let Some(library) = openvino_library() {
        run(BackendChoice::Openvino, Some(&library), &mut look);
    }
}

/// Candidates as class, score and box.
fn found(candidates: &[Candidate]) -> Vec<(u32, f32, [f32; 4])> {
    let round = |v: f32| (v * 100.0).round() / 100.0;
    candidates
        .iter()
        .map(|c| (c.class_id, round(c.score), [c.bbox.x1, c.bbox.y1, c.bbox.x2, c.bbox.y2].map(round)))
        .collect()
}

#[track_caller]
fn check(family: Family, manifest: &str, names: usize, outputs: &[Constant], expected: &[(u32, f32, [f32; 4])]) {
    let opened = open(&constants(outputs, names, family == Family::DetrBoxes), manifest);
    let spec = &opened.spec;
    assert_eq!(spec.output.family, family);
    let no_rows = outputs.iter().any(|output| output.values.is_empty());
    on_each(spec, Input::Planes(&[0.5; 3 * 200 * 100]), no_rows, |backend, tensors| {
        let mut candidates = Vec::new();
        decode(spec, tensors, &DecodeParams { threshold: 0.25, classes: None }, &mut candidates);
        assert_eq!(found(&candidates), expected, "{family:?} on {backend}");
        // Two boxes of one class at one place stay two where the model has chosen already.
        candidates.extend_from_within(..);
        let (mut nms, mut detections) = (Nms::new(), Vec::new());
        let letterbox = Letterbox::new(Size::new(200, 100), Size::new(200, 100), Padding::Centered);
        nms.run(&mut candidates, spec.nms_iou(0.45), 300, &letterbox, &mut detections);
        let times = if family.wants_nms() { 1 } else { 2 };
        assert_eq!(detections.len(), expected.len() * times, "{family:?} on {backend}");
    });
}

const BOX: [f32; 4] = [10.0, 20.0, 30.0, 60.0];
const PARTS: [f32; 4] = [0.1, 0.4, 0.1, 0.4];

/// `rows` rows, the first of them given, the others all zero.
fn padded(first: &[f32], rows: usize) -> Vec<f32> {
    let mut values = vec![0.0; first.len() * rows];
    values[..first.len()].copy_from_slice(first);
    values
}

#[test]
fn end_to_end_models() {
    for elem in [FLOAT, HALF] {
        let rows = padded(&[10.0, 20.0, 30.0, 60.0, 0.75, 2.0], 300);
        let output = |values: &[f32]| [constant("output0", elem, "1 300 6", &[1, 300, 6], values)];
        check(Family::EndToEnd, "", 3, &output(&rows), &[(2, 0.75, BOX)]);
        check(Family::EndToEnd, "", 3, &output(&vec![0.0; 1800]), &[]);
        let one = padded(&[10.0, 20.0, 30.0, 60.0, 0.75, 0.0], 300);
        check(Family::EndToEnd, "", 1, &output(&one), &[(0, 0.75, BOX)]);
    }
}

#[test]
fn rows_of_seven() {
    let rows = [0.0, 10.0, 20.0, 30.0, 60.0, 1.0, 0.75, 0.0, 1.0, 1.0, 2.0, 2.0, 1.0, 0.1];
    let output = |n: u64, values: &[f32]| [constant("output", FLOAT, "n 7", &[n, 7], values)];
    check(Family::NmsClassScore, "family: nms_class_score\n", 2, &output(2, &rows), &[(1, 0.75, BOX)]);
    check(Family::NmsClassScore, "family: nms_class_score\n", 2, &output(0, &[]), &[]);
    let rows = [0.0, 10.0, 20.0, 30.0, 60.0, 0.75, 0.0];
    check(Family::NmsScoreClass, "family: nms_score_class\n", 1, &output(1, &rows), &[(0, 0.75, BOX)]);
}

#[test]
fn rtdetr_of_ultralytics() {
    let output = |nc: u64, declared, values: &[f32]| [constant("output0", FLOAT, declared, &[1, 300, 4 + nc], values)];
    let row = [PARTS.as_slice(), &[0.1, 0.75, 0.0]].concat();
    check(Family::RtDetr, "", 3, &output(3, "1 300 7", &padded(&row, 300)), &[(1, 0.75, BOX)]);
    let row = [PARTS.as_slice(), &[0.75]].concat();
    check(Family::RtDetr, "", 1, &output(1, "1 300 5", &padded(&row, 300)), &[(0, 0.75, BOX)]);
    check(Family::RtDetr, "", 1, &output(1, "1 300 5", &vec![0.0; 1500]), &[]);
}

#[test]
fn yolo_nas() {
    // 200 × 100 is no multiple of 32, and needs to be none: rows are corners.
    let outputs = |nc: u64, scores: &'static str, first: &[f32]| {
        [
            constant("scores", FLOAT, scores, &[1, 375, nc], &padded(first, 375)),
            constant("boxes", FLOAT, "1 375 4", &[1, 375, 4], &padded(&BOX, 375)),
        ]
    };
    check(Family::YoloNas, "family: yolonas\n", 3, &outputs(3, "1 375 3", &[0.1, 0.2, 0.75]), &[(2, 0.75, BOX)]);
    check(Family::YoloNas, "family: yolonas\n", 1, &outputs(1, "1 375 1", &[0.75]), &[(0, 0.75, BOX)]);
    check(Family::YoloNas, "family: yolonas\n", 1, &outputs(1, "1 375 1", &[0.1]), &[]);
}

#[test]
fn detr_of_transformers() {
    let outputs = |logit: f32| {
        [
            constant("logits", FLOAT, "1 300 2", &[1, 300, 2], &[[-9.0, logit].as_slice(), &[-9.0; 598]].concat()),
            constant("pred_boxes", FLOAT, "1 300 4", &[1, 300, 4], &padded(&PARTS, 300)),
        ]
    };
    check(Family::DetrLogits, "", 2, &outputs(3.0_f32.ln()), &[(1, 0.75, BOX)]);
    check(Family::DetrLogits, "", 2, &outputs(-9.0), &[]);
}

#[test]
fn detr_of_the_original_code() {
    let outputs = |score: f32| {
        [
            constant("labels", INT64, "1 300", &[1, 300], &padded(&[1.0], 300)),
            constant("boxes", FLOAT, "1 300 4", &[1, 300, 4], &padded(&BOX, 300)),
            constant("scores", FLOAT, "1 300", &[1, 300], &padded(&[score], 300)),
        ]
    };
    check(Family::DetrBoxes, "", 2, &outputs(0.75), &[(1, 0.75, BOX)]);
    check(Family::DetrBoxes, "", 2, &outputs(0.1), &[]);
}

#[test]
fn the_second_input_takes_width_and_height() {
    let mut graph = [port(11, "images", FLOAT, "1 3 100 200"), port(11, "orig_target_sizes", INT64, "1 2")].concat();
    // The sizes come out again as labels and scores.
    graph.extend(node("Identity", &["orig_target_sizes"], "labels", &[]));
    let to_float = message(5, &[message(1, b"to"), number(3, FLOAT), number(20, 2)].concat());
    graph.extend(node("Cast", &["orig_target_sizes"], "scores", &to_float));
    graph.extend(initializer("c", FLOAT, &[1, 2, 4], &[0; 32]));
    graph.extend(node("Identity", &["c"], "boxes", &[]));
    graph.extend(port(12, "labels", INT64, "1 2"));
    graph.extend(port(12, "boxes", FLOAT, "1 2 4"));
    graph.extend(port(12, "scores", FLOAT, "1 2"));
    let opened = open(&model(&graph, 2), "");
    on_each(&opened.spec, Input::Planes(&[0.5; 3 * 200 * 100]), false, |backend, tensors| {
        assert_eq!((tensors[0], tensors[2]), (&[200.0, 100.0][..], &[200.0, 100.0][..]), "{backend}");
    });
}

/// The input comes out again: bytes and pixels reach the model in its own order.
#[test]
fn bytes_and_pixels() {
    let planes: Vec<f32> = (0..3 * 24 * 10).map(|n| (n * 7 % 256) as f32).collect();
    let pixels: Vec<f32> = (0..240).flat_map(|n| [planes[n], planes[240 + n], planes[480 + n]]).collect();
    for (elem, dims, expected) in [
        (UINT8, "1 3 10 24", &planes),
        (UINT8, "1 10 24 3", &pixels),
        (FLOAT, "1 10 24 3", &pixels),
        (HALF, "1 10 24 3", &pixels),
        (HALF, "1 3 10 24", &planes),
    ] {
        let mut graph = port(11, "images", elem, dims);
        let to_float = message(5, &[message(1, b"to"), number(3, FLOAT), number(20, 2)].concat());
        graph.extend(node("Cast", &["images"], "floats", &to_float));
        let shape: Vec<u8> = [1_i64, 120, 6].iter().flat_map(|n| n.to_le_bytes()).collect();
        graph.extend(initializer("shape", INT64, &[3], &shape));
        graph.extend(node("Reshape", &["floats", "shape"], "output0", &[]));
        graph.extend(port(12, "output0", FLOAT, "1 120 6"));
        let opened = open(&model(&graph, 3), "");
        assert_eq!(opened.spec.input.size, Size::new(24, 10), "{dims}");
        on_each(&opened.spec, Input::Planes(&planes), false, |backend, tensors| {
            assert_eq!(tensors[0], expected.as_slice(), "type {elem} {dims} on {backend}");
        });
    }
}
