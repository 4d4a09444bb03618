//! Families with several outputs, sets of boxes and raw heads: what is recognised, and what the error asks for.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;

use super::*;
use crate::onnx::tests::tiny::Tiny;
use crate::types::Size;

const SQUARE: &[&str] = &["1", "3", "640", "640"];

fn open(model: &Tiny, manifest: &str) -> Result<ModelSpec, ModelError> {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("model.onnx"), model.bytes()).unwrap();
    fs::write(folder.path().join(MANIFEST), format!("file: model.onnx\n{manifest}")).unwrap();
    ModelSpec::open(folder.path(), None)
}

/// The family, and the read outputs with their shapes.
#[track_caller]
fn is(model: &Tiny, manifest: &str, family: Family, tensors: &[(&str, &[usize])]) -> ModelSpec {
    let spec = open(model, manifest).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(spec.output.family, family);
    let found: Vec<(&str, &[usize])> =
        spec.output.tensors.iter().map(|t| (t.name.as_str(), t.shape.as_slice())).collect();
    assert_eq!(found, tensors);
    spec
}

#[track_caller]
fn refused(model: &Tiny, manifest: &str, parts: &[&str]) {
    let error = open(model, manifest).expect_err("this model must be refused").to_string();
    for part in parts {
        assert!(error.contains(part), "`{part}` is missing in: {error}");
    }
}

fn empty() -> Tiny {
    Tiny::new(SQUARE, &[])
}

fn coco(model: Tiny) -> Tiny {
    let names: Vec<String> = (0..80).map(|n| format!("{n}: 'c{n}'")).collect();
    model.meta("names", &format!("{{{}}}", names.join(", ")))
}

#[test]
fn raw_heads() {
    let heads = || {
        empty().output("p5", 1, &["1", "3", "20", "20", "85"]).output("p3", 1, &["1", "3", "80", "80", "85"]).output(
            "p4",
            1,
            &["1", "3", "40", "40", "85"],
        )
    };
    let expected: &[(&str, &[usize])] =
        &[("p3", &[1, 3, 80, 80, 85]), ("p4", &[1, 3, 40, 40, 85]), ("p5", &[1, 3, 20, 20, 85])];
    let spec = is(&heads(), "", Family::YoloV5Heads, expected);
    assert_eq!((spec.strides.as_slice(), spec.output.rows, spec.output.classes), (&[8, 16, 32][..], 25200, 80));
    assert_eq!(spec.output.anchors[2][2], [373.0, 326.0]);
    assert_eq!(spec.nms_iou(0.5), 0.5);
    let manifest = "anchors: [[[1, 2], [3, 4], [5, 6]], [[1, 2], [3, 4], [5, 6]], [[1, 2], [3, 4], [7, 8]]]\n";
    let spec = is(&heads(), manifest, Family::YoloV5Heads, expected);
    assert_eq!(spec.output.anchors[2][2], [7.0, 8.0]);
    refused(&heads(), "anchors: [[[1, 2]]]\n", &["3 heads", "lists 1"]);
    refused(&heads(), "anchors: [[[1, 2]], [[1, 2]], [[1, 2]]]\n", &["3 anchors per cell", "lists 1"]);
    // The document's detector has strides and anchors of its own.
    let coarse = || {
        empty().output("a", 1, &["1", "3", "40", "40", "85"]).output("b", 1, &["1", "3", "20", "20", "85"]).output(
            "c",
            1,
            &["1", "3", "10", "10", "85"],
        )
    };
    refused(&coarse(), "", &["[16, 32, 64]", "`anchors`"]);
    assert_eq!(open(&coarse(), manifest).unwrap().strides, [16, 32, 64]);
    let open_shape = Tiny::new(&["b", "3", "h", "w"], &[])
        .output("x", 1, &["b", "3", "h8", "w8", "7"])
        .output("y", 1, &["b", "3", "h16", "w16", "7"])
        .output("z", 1, &["b", "3", "h32", "w32", "7"]);
    assert_eq!(open(&open_shape, "input: {width: 320, height: 192}\n").unwrap().output.rows, 3 * (960 + 240 + 60));
}

#[test]
fn six_columns_need_names_or_a_family() {
    let model = || empty().output("output0", 1, &["1", "300", "6"]);
    let shape: &[(&str, &[usize])] = &[("output0", &[1, 300, 6])];
    let spec = is(&coco(model()), "", Family::EndToEnd, shape);
    assert_eq!((spec.output.rows, spec.output.classes, spec.nms_iou(0.5)), (300, 80, f32::INFINITY));
    assert!(spec.strides.is_empty());
    is(&model().meta("names", "{0: 'a'}"), "", Family::EndToEnd, shape);
    is(&model(), "family: end_to_end\nlabels: [a, b]\n", Family::EndToEnd, shape);
    is(&model(), "family: rtdetr\nlabels: [a, b]\n", Family::RtDetr, shape);
    refused(&model(), "labels: [a, b]\n", &["family: end_to_end", "family: rtdetr", "model.yaml"]);
    refused(&model(), "family: end_to_end\n", &["labels"]);
    refused(&model(), "family: rtdetr\nlabels: [a]\n", &["2 classes", "1 are named"]);
    let both = |text: &str| model().meta("names", "{0: 'a', 1: 'b'}").meta("description", text);
    is(&both("Ultralytics YOLOv10n model"), "", Family::EndToEnd, shape);
    is(&both("Ultralytics RTDETR-l model"), "", Family::RtDetr, shape);
    let detr = coco(empty().output("output0", 1, &["1", "300", "84"]));
    is(&detr, "", Family::RtDetr, &[("output0", &[1, 300, 84])]);
}

#[test]
fn rows_after_nms() {
    let model = || empty().output("output", 1, &["n", "7"]);
    refused(&model(), "labels: [a]\n", &["nms_class_score", "nms_score_class"]);
    let spec = is(&model(), "family: nms_class_score\nlabels: [a]\n", Family::NmsClassScore, &[("output", &[0, 7])]);
    assert!(spec.output.tensors[0].takes(0) && spec.output.tensors[0].takes(21) && !spec.output.tensors[0].takes(20));
    is(&model(), "family: nms_score_class\nlabels: [a]\n", Family::NmsScoreClass, &[("output", &[0, 7])]);
    refused(&model(), "family: nms_score_class\n", &["labels"]);
}

#[test]
fn boxes_and_scores_in_two_outputs() {
    let nas = |a: &[&str], b: &[&str]| empty().output("graph2_pred_0", 1, a).output("graph2_pred_1", 1, b);
    let boxes = &["1", "8400", "4"];
    let spec = is(
        &nas(&["1", "8400", "80"], boxes),
        "",
        Family::YoloNas,
        &[("graph2_pred_1", &[1, 8400, 4]), ("graph2_pred_0", &[1, 8400, 80])],
    );
    assert_eq!((spec.output.rows, spec.output.classes, spec.strides.len()), (8400, 80, 3));
    refused(&nas(boxes, boxes), "", &["`outputs`"]);
    let listed = "outputs: [graph2_pred_1, graph2_pred_0]\n";
    is(
        &nas(boxes, boxes),
        listed,
        Family::YoloNas,
        &[("graph2_pred_1", &[1, 8400, 4]), ("graph2_pred_0", &[1, 8400, 4])],
    );
    refused(&nas(boxes, boxes), "outputs: [x]\n", &["`x`"]);
    let detr = empty().output("logits", 1, &["b", "300", "80"]).output("pred_boxes", 1, &["b", "300", "4"]);
    is(&detr, "", Family::DetrLogits, &[("logits", &[1, 300, 80]), ("pred_boxes", &[1, 300, 4])]);
    refused(&nas(&["1", "300", "4"], &["1", "300", "80"]), "", &["yolonas", "detr_logits"]);
}

#[test]
fn boxes_in_the_pixels_of_a_second_input() {
    let outputs = |model: Tiny| {
        model.output("labels", 7, &["N", "300"]).output("boxes", 1, &["N", "300", "4"]).output(
            "scores",
            1,
            &["N", "300"],
        )
    };
    let model = outputs(empty()).input("orig_target_sizes", 7, &["N", "2"]);
    let spec = is(
        &coco(model),
        "",
        Family::DetrBoxes,
        &[("labels", &[1, 300]), ("boxes", &[1, 300, 4]), ("scores", &[1, 300])],
    );
    assert_eq!((spec.input.name.as_str(), spec.input.size_input.as_deref()), ("images", Some("orig_target_sizes")));
    assert_eq!(spec.output.tensors[0].elem, Elem::Int64);
    refused(&coco(outputs(empty())), "", &["orig_target_sizes"]);
    let plain = Tiny::new(SQUARE, &[&["1", "25200", "7"]]).input("size", 7, &["1", "2"]);
    refused(&plain, "", &["second input", "size"]);
}

#[test]
fn pixels_and_bytes() {
    let model = Tiny::new(&["1", "480", "640", "3"], &[&["1", "18900", "7"]]).elem(1);
    let spec = open(&model, "").unwrap();
    assert!(spec.input.channels_last);
    assert_eq!((spec.input.size, spec.input.shape(1)), (Size::new(640, 480), [1, 480, 640, 3]));
    let model = Tiny::new(&["1", "3", "640", "640"], &[]).elem(2).output("output0", 1, &["1", "25200", "7"]);
    let spec = open(&model, "").unwrap();
    assert_eq!((spec.input.elem, spec.input.scale), (Elem::Uint8, 1.0));
}
