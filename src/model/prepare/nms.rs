//! NMS as a part of the graph.

use super::graph::{Names, cast, encoded, int, ints, node, tensor, value};
use super::{PrepareError, cannot};
use crate::model::family::Family;
use crate::model::spec::ModelSpec;
use crate::model::tensors::Elem;
use crate::onnx::messages::data_type::{FLOAT, INT64};
use crate::onnx::messages::{Attribute, Bytes, Graph};

/// First opset that has all operators and types that are needed.
const OLDEST_OPSET: u64 = 11;
/// From this opset on, `ReduceMax` takes its axes as an input.
const AXES_AS_INPUT: u64 = 18;
/// The name of the output, if it is free.
const OUTPUT: &str = "detections";

/// What NMS in the graph keeps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GraphNms {
    /// A box is dropped when a better one of its class overlaps it by more than this IoU, 0 … 1.
    pub iou: f32,
    /// Boxes must score higher than this, 0 … 1. No camera can ask for less afterwards.
    pub score: f32,
    /// Rows of the output, 1 … 1000: best first, the rest zeros.
    pub max: usize,
}

/// Replaces the output with NMS and its output `detections` of `[1, max, 6]`.
pub(super) fn append(graph: &mut Graph, spec: &ModelSpec, nms: &GraphNms, opset: u64) -> Result<(), PrepareError> {
    if opset < OLDEST_OPSET {
        return cannot(format!(
            "its opset is {opset}, and NMS needs {OLDEST_OPSET} or newer: export it again with a newer opset"
        ));
    }
    if !(1..=1000).contains(&nms.max) || !(0.0..=1.0).contains(&nms.iou) || !(0.0..1.0).contains(&nms.score) {
        return cannot("NMS takes 1 … 1000 boxes, and an overlap and a score of 0 … 1");
    }
    if spec.input.batch.size > 1 {
        return cannot("NMS is appended to models of one frame: export it with batch 1 or a dynamic one");
    }
    let family = spec.output.family;
    let (Family::YoloV5 | Family::YoloV8, [tensor]) = (family, spec.output.tensors.as_slice()) else {
        return cannot(format!(
            "NMS can be appended to `yolov5` and `yolov8`, one output of decoded boxes; this one is `{}`",
            family.as_str()
        ));
    };
    let names = Names::of(graph)?;
    let output = names.free(OUTPUT);
    let mut tail = Tail { opset, names, graph };
    let mut grid = tensor.name.clone();
    if tensor.elem != Elem::Float32 {
        let floats = tail.name("floats");
        tail.graph.node.push(encoded(&cast(&grid, &floats, FLOAT)));
        grid = floats;
    }
    let (corners, scores) = tail.boxes(&grid, family, spec.output.classes);
    tail.select(&corners, &scores, nms, &output);
    graph.output = vec![value(&output, FLOAT, &[1, nms.max, 6])];
    Ok(())
}

/// Appends nodes to a graph.
struct Tail<'g> {
    opset: u64,
    names: Names,
    graph: &'g mut Graph,
}

impl Tail<'_> {
    fn name(&self, name: &str) -> String {
        self.names.free(&format!("ocelli_nms_{name}"))
    }

    fn op(&mut self, op: &str, inputs: &[&str], name: &str, attributes: &[Attribute]) -> String {
        let output = self.name(name);
        self.push(op, inputs, &[&output], attributes);
        output
    }

    fn push(&mut self, op: &str, inputs: &[&str], outputs: &[&str], attributes: &[Attribute]) {
        self.graph.node.push(encoded(&node(op, inputs, outputs, attributes)));
    }

    fn integers(&mut self, name: &str, dims: &[u64], values: &[i64]) -> String {
        let raw = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.constant(name, |name| tensor(name, dims, INT64, raw))
    }

    fn floats(&mut self, name: &str, dims: &[u64], values: &[f32]) -> String {
        let raw = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.constant(name, |name| tensor(name, dims, FLOAT, raw))
    }

    fn constant(&mut self, name: &str, make: impl FnOnce(&str) -> Bytes) -> String {
        let name = self.name(name);
        self.graph.initializer.push(make(&name));
        name
    }

    /// `from` … `to` of an axis.
    fn slice(&mut self, value: &str, name: &str, axis: i64, from: usize, to: usize) -> String {
        let limits = [("from", from as i64), ("to", to as i64), ("axis", axis)];
        let [from, to, axis] = limits.map(|(part, n)| self.integers(&format!("{name}_{part}"), &[1], &[n]));
        self.op("Slice", &[value, &from, &to, &axis], name, &[])
    }

    /// Corners `[1, N, 4]` and scores `[1, nc, N]`. Each box keeps only its best score, as in the decoder.
    fn boxes(&mut self, grid: &str, family: Family, classes: usize) -> (String, String) {
        let turn = [ints("perm", &[0, 2, 1])];
        let (boxes, mut scores) = if family == Family::YoloV8 {
            let lines = self.slice(grid, "lines", 1, 0, 4);
            (self.op("Transpose", &[&lines], "boxes", &turn), self.slice(grid, "scores", 1, 4, 4 + classes))
        } else {
            let boxes = self.slice(grid, "boxes", 2, 0, 4);
            let objectness = self.slice(grid, "objectness", 2, 4, 5);
            let classes = self.slice(grid, "classes", 2, 5, 5 + classes);
            let product = self.op("Mul", &[&objectness, &classes], "product", &[]);
            (boxes, self.op("Transpose", &[&product], "scores", &turn))
        };
        if classes > 1 {
            let best = if self.opset < AXES_AS_INPUT {
                self.op("ReduceMax", &[&scores], "best", &[ints("axes", &[1]), int("keepdims", 1)])
            } else {
                let axes = self.integers("class_axis", &[1], &[1]);
                self.op("ReduceMax", &[&scores, &axes], "best", &[int("keepdims", 1)])
            };
            let is_best = self.op("Equal", &[&scores, &best], "is_best", &[]);
            let zero = self.floats("zero", &[], &[0.0]);
            scores = self.op("Where", &[&is_best, &scores, &zero], "best_scores", &[]);
        }
        let centre = self.slice(&boxes, "centre", 2, 0, 2);
        let sides = self.slice(&boxes, "sides", 2, 2, 4);
        let half = self.floats("half", &[], &[0.5]);
        let half = self.op("Mul", &[&sides, &half], "half_sides", &[]);
        let first = self.op("Sub", &[&centre, &half], "first", &[]);
        let last = self.op("Add", &[&centre, &half], "last", &[]);
        (self.op("Concat", &[&first, &last], "corners", &[int("axis", 2)]), scores)
    }

    /// NMS, then the best `max` rows. NMS returns as many rows as it keeps, so zeros are appended before the best are
    /// taken: the output has a fixed shape.
    fn select(&mut self, corners: &str, scores: &str, nms: &GraphNms, output: &str) {
        let max = nms.max as u64;
        // Vectors of one element, not scalars: tract takes only these, ONNX Runtime takes both.
        let most = self.integers("most", &[1], &[nms.max as i64]);
        let (iou, score) = (self.floats("iou", &[1], &[nms.iou]), self.floats("score", &[1], &[nms.score]));
        let chosen = self.op("NonMaxSuppression", &[corners, scores, &most, &iou, &score], "chosen", &[]);
        // Rows of image, class, box.
        let (one, two) = (self.integers("one", &[], &[1]), self.integers("two", &[], &[2]));
        let class = self.op("Gather", &[&chosen, &one], "class", &[int("axis", 1)]);
        let class = self.op("Cast", &[&class], "class_number", &[int("to", FLOAT as i64)]);
        let place = self.op("Gather", &[&chosen, &two], "place", &[int("axis", 1)]);
        let four = self.integers("rows_of_four", &[2], &[-1, 4]);
        let flat = self.op("Reshape", &[corners, &four], "flat", &[]);
        let boxes = self.op("Gather", &[&flat, &place], "kept_boxes", &[int("axis", 0)]);
        let scores = self.op("GatherND", &[scores, &chosen], "kept_scores", &[]);

        let zeros = self.floats("no_score", &[max], &vec![0.0; nms.max]);
        let no_boxes = self.floats("no_box", &[max, 4], &vec![0.0; 4 * nms.max]);
        let padded = [int("axis", 0)];
        let scores = self.op("Concat", &[&scores, &zeros], "all_scores", &padded);
        let classes = self.op("Concat", &[&class, &zeros], "all_classes", &padded);
        let boxes = self.op("Concat", &[&boxes, &no_boxes], "all_boxes", &padded);

        let count = self.integers("count", &[1], &[nms.max as i64]);
        let (best, order) = (self.name("best_of_all"), self.name("order"));
        self.push("TopK", &[&scores, &count], &[&best, &order], &[]);
        let boxes = self.op("Gather", &[&boxes, &order], "best_boxes", &padded);
        let classes = self.op("Gather", &[&classes, &order], "best_classes", &padded);
        let column = self.integers("column", &[2], &[nms.max as i64, 1]);
        let best = self.op("Reshape", &[&best, &column], "score_column", &[]);
        let classes = self.op("Reshape", &[&classes, &column], "class_column", &[]);
        let rows = self.op("Concat", &[&boxes, &best, &classes], "rows", &[int("axis", 1)]);
        let shape = self.integers("shape", &[3], &[1, nms.max as i64, 6]);
        self.push("Reshape", &[&rows, &shape], &[output], &[]);
    }
}
