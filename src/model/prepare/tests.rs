#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;
use crate::onnx::tests::tiny::{Tiny, bytes_field};

/// An f32 initializer, as a field of a graph.
fn weight(name: &str, dims: &[u64], value: f32) -> Vec<u8> {
    let raw = value.to_le_bytes().repeat(dims.iter().product::<u64>() as usize);
    bytes_field(5, &tensor(name, dims, FLOAT, raw))
}

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
fn unused_nodes_weights_and_outputs_are_removed() {
    let model = Tiny::new(&["b", "3", "h", "w"], &[&["b", "n", "7"], &["1", "3", "80", "80", "7"]])
        .meta("names", "['a', 'b']")
        .initializer("useful", true)
        .initializer("idle", true)
        .extra_graph(
            [
                part("Relu", &["useful"], "between"),
                part("Relu", &["between"], "output0"),
                part("Relu", &["idle"], "output1"),
            ]
            .concat(),
        );
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
fn large_weights_are_stored_as_f16() {
    let uses = |name| part("Relu", &[name], "output0");
    let graph = [weight("fits", &[10, 100], 0.5), weight("huge", &[10, 100], 1e6), uses("fits"), uses("huge")].concat();
    let bytes = Tiny::new(&["1", "3", "640", "640"], &[&["1", "25200", "7"]]).extra_graph(graph).bytes();
    let spec = open(&bytes);
    let out = prepare(&bytes, &spec, Prepare { half_weights: true, ..Prepare::default() }).unwrap();
    assert!(contains(&out, "fits_half") && !contains(&out, "huge_half"));
    assert!(out.len() + 1900 < bytes.len(), "{} of {}", out.len(), bytes.len());
    open(&out);
}

/// Exporters write nodes before initializers.
#[test]
fn nodes_that_widen_weights_come_before_their_users() {
    let graph = [part("Relu", &["w"], "output0"), weight("w", &[10, 100], 0.5)].concat();
    let bytes = Tiny::new(&["1", "3", "640", "640"], &[&["1", "25200", "7"]]).extra_graph(graph).bytes();
    let out = prepare(&bytes, &open(&bytes), Prepare { half_weights: true, ..Prepare::default() }).unwrap();
    assert_eq!(nodes(&out), ["Cast(w_half)->w", "Relu(w)->output0"]);
}

/// From opset 19 on, a cast has the attribute `saturate` too.
#[test]
fn the_type_of_a_cast_is_its_attribute_to() {
    let to_int = node("Cast", &["images"], &["ints"], &[graph::int("to", 7), graph::int("saturate", 1)]);
    let graph = [
        weight("w", &[4], 0.5),
        bytes_field(1, &encoded(&to_int)),
        part("Add", &["ints", "ints"], "sum"),
        bytes_field(1, &encoded(&cast("sum", "floats", FLOAT))),
        part("Conv", &["floats", "w"], "output0"),
    ];
    let bytes = Tiny::new(&["1", "3", "640", "640"], &[&["1", "25200", "7"]]).extra_graph(graph.concat()).bytes();
    let out = prepare(&bytes, &open(&bytes), Prepare { fp16: true, ..Prepare::default() }).unwrap();
    assert!(nodes(&out).contains(&"Add(ints,ints)->sum".to_owned()), "{:?}", nodes(&out));
}

/// A node as a field of a graph.
fn part(op: &str, takes: &[&str], makes: &str) -> Vec<u8> {
    bytes_field(1, &encoded(&node(op, takes, &[makes], &[])))
}

fn graph(model: &[u8]) -> Graph {
    let model = Model::decode(Bytes::copy_from_slice(model)).unwrap();
    Graph::decode(model.graph.unwrap()).unwrap()
}

/// Each node as `Op(inputs)->outputs`.
fn nodes(model: &[u8]) -> Vec<String> {
    let nodes: Vec<Node> = decoded(&graph(model).node).unwrap();
    nodes.iter().map(|n| format!("{}({})->{}", n.op_type, n.input.join(","), n.output.join(","))).collect()
}

#[test]
fn f16_ends_after_the_last_convolution_and_skips_operators_that_need_f32() {
    let weight = |name: &str| weight(name, &[4], 0.5);
    let graph = [
        weight("w"),
        weight("sizes"),
        weight("factor"),
        part("Shape", &["images"], "shape"),
        part("Conv", &["images", "w"], "a"),
        part("Resize", &["a", "", "sizes"], "b"),
        part("Conv", &["b", "w"], "c"),
        part("Mul", &["c", "factor"], "output0"),
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
    let graph = [weight("w"), part("Conv", &["images", "w"], "output0")].concat();
    let bytes = Tiny::new(&["1", "3", "640", "640"], &[&["1", "25200", "7"]]).extra_graph(graph).bytes();
    let out = prepare(&bytes, &open(&bytes), how).unwrap();
    assert_eq!(nodes(&out).last().unwrap(), "Cast(output0_fp16)->output0");
    for (op, words) in [("Relu", "no layer"), ("QLinearConv", "quantised"), ("DequantizeLinear", "quantised")] {
        let node = part(op, &["images"], "output0");
        let bytes = Tiny::new(&["1", "3", "640", "640"], &[&["1", "25200", "7"]]).extra_graph(node).bytes();
        let error = prepare(&bytes, &open(&bytes), how).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn nms_replaces_the_output_of_families_with_decoded_boxes() {
    let nms = GraphNms { iou: 0.45, score: 0.1, max: 100 };
    let how = Prepare { nms: Some(nms), ..Prepare::default() };
    let bytes = Tiny::new(&["1", "3", "640", "640"], &[&["1", "25200", "7"]])
        .extra_graph(part("Relu", &["images"], "output0"))
        .bytes();
    let spec = open(&bytes);
    let out = prepare(&bytes, &spec, how).unwrap();
    let info = crate::onnx::read(out.clone().into()).unwrap();
    assert_eq!(info.outputs.iter().map(|port| port.name.as_str()).collect::<Vec<_>>(), ["detections"]);
    assert_eq!(nodes(&out).iter().filter(|node| node.starts_with("NonMaxSuppression")).count(), 1);
    for wrong in [GraphNms { max: 0, ..nms }, GraphNms { iou: 1.5, ..nms }, GraphNms { score: f32::NAN, ..nms }] {
        assert!(prepare(&bytes, &spec, Prepare { nms: Some(wrong), ..how }).is_err(), "{wrong:?}");
    }
    let mut heads = spec.clone();
    heads.output.family = super::super::Family::YoloX;
    assert!(prepare(&bytes, &heads, how).unwrap_err().to_string().contains("`yolox`"));
}

/// The names of all values: inputs, weights, outputs of nodes.
fn made(model: &[u8]) -> Vec<String> {
    let graph = graph(model);
    let weights = decoded::<Tensor>(&graph.initializer).unwrap().into_iter().map(|tensor| tensor.name);
    let inputs = decoded::<Value>(&graph.input).unwrap().into_iter().map(|value| value.name);
    let outputs = decoded::<Node>(&graph.node).unwrap().into_iter().flat_map(|node| node.output);
    let mut names: Vec<String> = weights.chain(inputs).chain(outputs).collect();
    names.sort();
    names
}

/// Fields of the model, the graph, a node, an attribute and a tensor that no message here reads: prost would drop them
/// if they were not declared, or not passed on as bytes.
#[test]
fn fields_that_are_not_rewritten_are_kept() {
    let kept = |name: &str| name.as_bytes().to_vec();
    let node_fields = [3, 6, 8, 9, 10].map(|field| bytes_field(field, &kept(&format!("node-{field}"))));
    let attribute =
        [bytes_field(1, b"alpha"), bytes_field(13, b"attribute-13"), bytes_field(4, b"attribute-4")].concat();
    let relu = [
        bytes_field(1, b"w"),
        bytes_field(2, b"output0"),
        bytes_field(4, b"Relu"),
        bytes_field(5, &attribute),
        bytes_field(7, b"ai.onnx"),
        node_fields.concat(),
    ];
    let entry = |value: &str| [bytes_field(1, b"key"), bytes_field(2, value.as_bytes())].concat();
    let mut initializer = tensor("w", &[1], FLOAT, vec![0; 4]).to_vec();
    initializer.extend(bytes_field(12, b"tensor-12"));
    let graph = [
        bytes_field(1, &relu.concat()),
        bytes_field(2, b"graph-2"),
        bytes_field(5, &initializer),
        bytes_field(10, b"graph-10"),
        bytes_field(14, &bytes_field(1, b"graph-14")),
        bytes_field(16, &entry("graph-16")),
    ];
    let mut bytes = Tiny::new(&["1", "3", "640", "640"], &[&["1", "25200", "7"]])
        .meta("key", "model-14")
        .extra_graph(graph.concat())
        .bytes();
    let spec = open(&bytes);
    for field in [3, 4, 6, 26] {
        bytes.extend(bytes_field(field, &kept(&format!("model-{field}"))));
    }
    let out = prepare(&bytes, &spec, Prepare::default()).unwrap();
    let parts = ["node-3", "node-6", "node-8", "node-9", "node-10", "attribute-4", "attribute-13", "tensor-12"];
    let others =
        ["graph-2", "graph-10", "graph-14", "graph-16", "model-3", "model-4", "model-6", "model-14", "model-26"];
    for part in parts.iter().chain(&others).chain(&["ai.onnx", "alpha", "Relu"]) {
        assert!(contains(&out, part), "{part} is lost");
    }
    assert_eq!(nodes(&out), nodes(&bytes));
}

/// The graph has the names already that the new values would have.
#[test]
fn added_values_get_free_names() {
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
    let mut graph = weight("w", &[10, 100], 0.5);
    let mut last = "images";
    for name in names {
        graph.extend(part("Relu", &[last], name));
        last = name;
    }
    graph.extend(part("Conv", &[last, "w"], "detections"));
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
        let after = crate::onnx::read(out.clone().into()).unwrap();
        assert_eq!(after.inputs[0].name, "images_bytes_3");
        assert_eq!(after.outputs[0].name, if how.nms.is_some() { "detections_2" } else { "detections" });
    }
}

proptest! {
    /// A file may change after it has passed the gate.
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
