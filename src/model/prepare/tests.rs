#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::LazyLock;

use proptest::prelude::*;

use super::super::testing::{Tiny, bytes_field};
use super::*;

fn open(bytes: &[u8]) -> ModelSpec {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.onnx");
    std::fs::write(&path, bytes).unwrap();
    ModelSpec::open(&path, None).unwrap()
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|w| w == text.as_bytes())
}

#[test]
fn only_what_the_decoder_needs_is_left() {
    let node = |takes: &str, makes: &str| {
        let names = [bytes_field(1, takes.as_bytes()), bytes_field(2, makes.as_bytes())].concat();
        bytes_field(1, &[names, bytes_field(4, b"Relu")].concat())
    };
    let model = Tiny::new(&["b", "3", "h", "w"], &[&["b", "n", "7"], &["1", "3", "80", "80", "7"]])
        .meta("names", "['a', 'b']")
        .initializer("useful", true)
        .initializer("idle", true)
        .extra_graph([node("useful", "between"), node("between", "output0"), node("idle", "output1")].concat());
    let bytes = model.bytes();
    let spec = open(&bytes);
    assert!(spec.dynamic);
    let out = prepare(&bytes, &spec, Prepare { bytes_input: true, channels_last: true, ..Prepare::default() }).unwrap();
    let after = open(&out);
    assert_eq!((after.input.shape(1), after.input.elem), ([1, 640, 640, 3], Elem::Uint8));
    assert_eq!((after.input.scale, after.dynamic, after.input.name.as_str()), (1.0, false, "images_bytes"));
    assert_eq!(after.output, spec.output);
    assert!(contains(&out, "useful") && contains(&out, "Transpose") && contains(&out, "images_scale"));
    assert!(!contains(&out, "idle") && !contains(&out, "output1"));
    let again = prepare(&out, &after, Prepare { bytes_input: true, ..Prepare::default() });
    assert!(matches!(again, Err(PrepareError::Cannot(_))));
}

#[test]
fn large_weights_become_half_as_long() {
    let weight = |name: &str, value: f32| {
        let raw = value.to_le_bytes().repeat(1000);
        let mut out = Vec::new();
        put_tensor(name, &[10, 100], FLOAT, &raw, &mut out);
        out
    };
    let uses = |name: &str| {
        let names = [bytes_field(1, name.as_bytes()), bytes_field(2, b"output0")].concat();
        bytes_field(1, &[names, bytes_field(4, b"Relu")].concat())
    };
    let part = [weight("fits", 0.5), weight("huge", 1e6), uses("fits"), uses("huge")].concat();
    let bytes = Tiny::new(&["1", "3", "640", "640"], &[&["1", "25200", "7"]]).extra_graph(part).bytes();
    let spec = open(&bytes);
    let out = prepare(&bytes, &spec, Prepare { half_weights: true, ..Prepare::default() }).unwrap();
    assert!(contains(&out, "fits_half") && !contains(&out, "huge_half"));
    assert!(out.len() + 1900 < bytes.len(), "{} of {}", out.len(), bytes.len());
    open(&out);
}

fn node(op: &str, takes: &[&str], makes: &str) -> Vec<u8> {
    let mut out = Vec::new();
    put_node(op, takes, &[makes], &[], &mut out);
    out
}

/// Each node as `Op(inputs)->outputs`.
fn nodes(model: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    each(Slice { data: model, at: 0 }, |field, value, _| match (field, value) {
        (7, Value::Bytes(graph)) => each(graph, |field, value, _| {
            if let (1, Value::Bytes(node)) = (field, value) {
                let mut takes = Vec::new();
                each(node, |field, value, _| {
                    if let (1, Value::Bytes(name)) = (field, value) {
                        takes.push(name.text());
                    }
                    Ok(())
                })?;
                found.push(format!("{}({})->{}", name_of(node, 4)?, takes.join(","), makes(node)?.join(",")));
            }
            Ok(())
        }),
        _ => Ok(()),
    })
    .unwrap();
    found
}

#[test]
fn half_floats_end_behind_the_last_convolution_and_go_round_what_needs_single_ones() {
    let weight = |name: &str| {
        let mut out = Vec::new();
        put_tensor(name, &[4], FLOAT, &0.5_f32.to_le_bytes().repeat(4), &mut out);
        out
    };
    let graph = [
        weight("w"),
        weight("sizes"),
        weight("factor"),
        node("Shape", &["images"], "shape"),
        node("Conv", &["images", "w"], "a"),
        node("Resize", &["a", "", "sizes"], "b"),
        node("Conv", &["b", "w"], "c"),
        node("Mul", &["c", "factor"], "output0"),
    ];
    let bytes = Tiny::new(&["1", "3", "640", "640"], &[&["1", "25200", "7"]]).extra_graph(graph.concat()).bytes();
    let spec = open(&bytes);
    let how = Prepare { fp16: true, ..Prepare::default() };
    let out = prepare(&bytes, &spec, how).unwrap();
    assert_eq!(
        nodes(&out),
        [
            "Cast(images)->images_fp16",
            "Conv(images_fp16,w_fp16)->a_fp16",
            "Cast(a_fp16)->a",
            "Resize(a,,sizes)->b",
            "Cast(b)->b_fp16",
            "Conv(b_fp16,w_fp16)->c_fp16",
            "Cast(c_fp16)->c",
            "Mul(c,factor)->output0",
        ]
    );
    let after = open(&out);
    assert_eq!((after.input, after.output), (spec.input, spec.output), "outside it looks the same");

    // An output that a layer makes is widened under its own name; a graph without layers is left alone.
    let graph = [weight("w"), node("Conv", &["images", "w"], "output0")].concat();
    let bytes = Tiny::new(&["1", "3", "640", "640"], &[&["1", "25200", "7"]]).extra_graph(graph).bytes();
    let out = prepare(&bytes, &open(&bytes), how).unwrap();
    assert_eq!(nodes(&out).last().unwrap(), "Cast(output0_fp16)->output0");
    for (op, words) in [("Relu", "no layer"), ("QLinearConv", "quantised"), ("DequantizeLinear", "quantised")] {
        let part = node(op, &["images"], "output0");
        let bytes = Tiny::new(&["1", "3", "640", "640"], &[&["1", "25200", "7"]]).extra_graph(part).bytes();
        let error = prepare(&bytes, &open(&bytes), how).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn nms_takes_the_outputs_place_where_boxes_are_decoded() {
    let nms = GraphNms { iou: 0.45, score: 0.1, max: 100 };
    let how = Prepare { nms: Some(nms), ..Prepare::default() };
    let bytes = Tiny::new(&["1", "3", "640", "640"], &[&["1", "25200", "7"]])
        .extra_graph(node("Relu", &["images"], "output0"))
        .bytes();
    let spec = open(&bytes);
    let out = prepare(&bytes, &spec, how).unwrap();
    let info = super::super::onnx::read(&out).unwrap();
    assert_eq!(info.outputs.iter().map(|port| port.name.as_str()).collect::<Vec<_>>(), ["detections"]);
    assert_eq!(nodes(&out).iter().filter(|node| node.starts_with("NonMaxSuppression")).count(), 1);
    for wrong in [GraphNms { max: 0, ..nms }, GraphNms { iou: 1.5, ..nms }, GraphNms { score: f32::NAN, ..nms }] {
        assert!(prepare(&bytes, &spec, Prepare { nms: Some(wrong), ..how }).is_err(), "{wrong:?}");
    }
    let mut heads = spec.clone();
    heads.output.family = super::super::Family::YoloX;
    assert!(prepare(&bytes, &heads, how).unwrap_err().to_string().contains("`yolox`"));
}

/// All names under which a model makes a value: its inputs, its weights, what its nodes put out.
fn made(model: &[u8]) -> Vec<String> {
    let mut names = Vec::new();
    each(Slice { data: model, at: 0 }, |field, value, _| match (field, value) {
        (7, Value::Bytes(graph)) => each(graph, |field, value, _| {
            match (field, value) {
                (1, Value::Bytes(node)) => names.extend(makes(node)?),
                (5, Value::Bytes(tensor)) => names.push(name_of(tensor, 8)?),
                (11, Value::Bytes(port)) => names.push(name_of(port, 1)?),
                _ => {}
            }
            Ok(())
        }),
        _ => Ok(()),
    })
    .unwrap();
    names.sort();
    names
}

/// The graph has the names already that the new values would have.
#[test]
fn no_name_is_given_twice() {
    let mut weight = Vec::new();
    put_tensor("w", &[10, 100], FLOAT, &0.5_f32.to_le_bytes().repeat(1000), &mut weight);
    let names = [
        "images_bytes",
        "images_bytes_2",
        "images_planes",
        "images_floats",
        "images_scale",
        "images_fp16",
        "w_half",
        "w_fp16",
        "ocelli_nms_boxes",
        "ocelli_nms_order",
    ];
    let mut graph = weight;
    let mut last = "images";
    for name in names {
        graph.extend(node("Relu", &[last], name));
        last = name;
    }
    graph.extend(node("Conv", &[last, "w"], "detections"));
    let model = Tiny::new(&["1", "3", "640", "640"], &[]).output("detections", 1, &["1", "25200", "7"]);
    let bytes = model.extra_graph(graph).bytes();
    let spec = open(&bytes);
    let plain = Prepare::default();
    let nms = Some(GraphNms { iou: 0.45, score: 0.1, max: 100 });
    for how in [
        Prepare { bytes_input: true, channels_last: true, half_weights: true, ..plain },
        Prepare { bytes_input: true, channels_last: true, fp16: true, nms, ..plain },
    ] {
        let out = prepare(&bytes, &spec, how).unwrap();
        let mut once = made(&out);
        once.dedup();
        assert_eq!(once, made(&out), "{how:?}");
        let after = super::super::onnx::read(&out).unwrap();
        assert_eq!(after.inputs[0].name, "images_bytes_3");
        assert_eq!(after.outputs[0].name, if how.nms.is_some() { "detections_2" } else { "detections" });
    }
}

proptest! {
    /// A file that has passed the gate may still be changed before it is read again, and a gate may let something through.
    #[test]
    fn damaged_models_never_panic(
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
        truncate: bool,
    ) {
        static MARKER: &[u8] = include_bytes!("../../../tests/data/marker.onnx");
        static SPEC: LazyLock<ModelSpec> = LazyLock::new(|| open(MARKER));
        let mut bytes = MARKER.to_vec();
        for (at, value) in edits {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if truncate {
            bytes.truncate(cut.index(bytes.len()));
        }
        let plain = Prepare::default();
        for how in [
            plain,
            Prepare { bytes_input: true, channels_last: true, ..plain },
            Prepare { half_weights: true, ..plain },
            Prepare { fp16: true, ..plain },
            Prepare { nms: Some(GraphNms { iou: 0.45, score: 0.1, max: 300 }), ..plain },
        ] {
            let _ = prepare(&bytes, &SPEC, how);
        }
    }
}
