//! NMS as a part of the graph.

use super::super::{Family, ModelSpec};
use super::PrepareError;
use super::graph::{FLOAT, INT64, Names, each, int, ints, put_node, put_port, put_tensor};
use crate::model::Elem;
use crate::model::protobuf::{Slice, Value};

/// First set of operators that has all that is needed, with the types that are needed.
const OLDEST_OPSET: u64 = 11;
/// From this one on, `ReduceMax` takes its axes as an input.
const AXES_AS_INPUT: u64 = 18;
/// The output, if no value of the graph has that name.
const OUTPUT: &str = "detections";

/// What NMS in the graph keeps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GraphNms {
    /// A box is dropped when a better one of its class overlaps it by more than this, 0 … 1.
    pub iou: f32,
    /// Boxes of no higher score are dropped, 0 … 1. No camera can ask for less afterwards.
    pub score: f32,
    /// Rows of the output, best first; those that are left over are zeros. 1 … 1000.
    pub max: usize,
}

/// The graph with NMS behind its output, which is taken away: `detections` of `[1, max, 6]` comes in its place.
pub(super) fn append(graph: &[u8], spec: &ModelSpec, nms: &GraphNms, opset: u64) -> Result<Vec<u8>, PrepareError> {
    let cannot = |reason: String| Err(PrepareError::Cannot(reason));
    if opset < OLDEST_OPSET {
        return cannot(format!(
            "its operators are of set {opset}, and NMS needs {OLDEST_OPSET} or newer: export it anew with a newer opset"
        ));
    }
    if !(1..=1000).contains(&nms.max) || !(0.0..=1.0).contains(&nms.iou) || !(0.0..1.0).contains(&nms.score) {
        return cannot("NMS takes 1 … 1000 boxes, and an overlap and a score of 0 … 1".into());
    }
    if spec.input.batch.size > 1 {
        return cannot("NMS is appended to models of one frame: export it with batch 1 or a dynamic one".into());
    }
    let family = spec.output.family;
    let (Family::YoloV5 | Family::YoloV8, [tensor]) = (family, spec.output.tensors.as_slice()) else {
        return cannot(format!(
            "NMS can be appended to `yolov5` and `yolov8`, one output of decoded boxes; this one is `{}`",
            family.as_str()
        ));
    };
    let mut out = Vec::with_capacity(graph.len());
    each(Slice { data: graph, at: 0 }, |field, value, raw| {
        if !matches!((field, value), (12, Value::Bytes(_))) {
            out.extend_from_slice(raw);
        }
        Ok(())
    })?;
    let names = Names::of(Slice { data: graph, at: 0 })?;
    let output = names.free(OUTPUT);
    let mut tail = Tail { opset, names, head: Vec::new(), nodes: Vec::new() };
    let mut grid = tensor.name.clone();
    if tensor.elem != Elem::Float32 {
        grid = tail.op("Cast", &[&grid], "floats", &[int("to", FLOAT as i64)]);
    }
    let (corners, scores) = tail.boxes(&grid, family, spec.output.classes);
    tail.select(&corners, &scores, nms, &output);
    out.extend(tail.head);
    out.extend(tail.nodes);
    put_port(12, &output, FLOAT, &[1, nms.max, 6], &mut out);
    Ok(out)
}

/// What is appended.
struct Tail {
    opset: u64,
    names: Names,
    head: Vec<u8>,
    nodes: Vec<u8>,
}

impl Tail {
    fn name(&self, name: &str) -> String {
        self.names.free(&format!("ocelli_nms_{name}"))
    }

    fn op(&mut self, op: &str, inputs: &[&str], name: &str, attributes: &[Vec<u8>]) -> String {
        let output = self.name(name);
        put_node(op, inputs, &[&output], attributes, &mut self.nodes);
        output
    }

    fn whole(&mut self, name: &str, dims: &[u64], values: &[i64]) -> String {
        let raw: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.constant(name, dims, INT64, &raw)
    }

    fn floats(&mut self, name: &str, dims: &[u64], values: &[f32]) -> String {
        let raw: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.constant(name, dims, FLOAT, &raw)
    }

    fn constant(&mut self, name: &str, dims: &[u64], elem: u64, raw: &[u8]) -> String {
        let name = self.name(name);
        put_tensor(&name, dims, elem, raw, &mut self.head);
        name
    }

    /// `from` … `to` of an axis.
    fn slice(&mut self, value: &str, name: &str, axis: i64, from: usize, to: usize) -> String {
        let limits = [("from", from as i64), ("to", to as i64), ("axis", axis)];
        let [from, to, axis] = limits.map(|(part, n)| self.whole(&format!("{name}_{part}"), &[1], &[n]));
        self.op("Slice", &[value, &from, &to, &axis], name, &[])
    }

    /// Corners `[1, N, 4]` and scores `[1, nc, N]`, of which each box keeps its best one only, as the decoder does.
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
                let axes = self.whole("class_axis", &[1], &[1]);
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

    /// NMS, then the best `max` rows. NMS gives as many as it keeps, so zeros are put behind them before the best are
    /// taken: the output has the same shape each time.
    fn select(&mut self, corners: &str, scores: &str, nms: &GraphNms, output: &str) {
        let max = nms.max as u64;
        // Lists of one, not single numbers: that is what tract takes, and ONNX Runtime takes both.
        let most = self.whole("most", &[1], &[nms.max as i64]);
        let (iou, score) = (self.floats("iou", &[1], &[nms.iou]), self.floats("score", &[1], &[nms.score]));
        let chosen = self.op("NonMaxSuppression", &[corners, scores, &most, &iou, &score], "chosen", &[]);
        // Rows of image, class, box.
        let (one, two) = (self.whole("one", &[], &[1]), self.whole("two", &[], &[2]));
        let class = self.op("Gather", &[&chosen, &one], "class", &[int("axis", 1)]);
        let class = self.op("Cast", &[&class], "class_number", &[int("to", FLOAT as i64)]);
        let place = self.op("Gather", &[&chosen, &two], "place", &[int("axis", 1)]);
        let four = self.whole("rows_of_four", &[2], &[-1, 4]);
        let flat = self.op("Reshape", &[corners, &four], "flat", &[]);
        let boxes = self.op("Gather", &[&flat, &place], "kept_boxes", &[int("axis", 0)]);
        let scores = self.op("GatherND", &[scores, &chosen], "kept_scores", &[]);

        let zeros = self.floats("no_score", &[max], &vec![0.0; nms.max]);
        let no_boxes = self.floats("no_box", &[max, 4], &vec![0.0; 4 * nms.max]);
        let padded = [int("axis", 0)];
        let scores = self.op("Concat", &[&scores, &zeros], "all_scores", &padded);
        let classes = self.op("Concat", &[&class, &zeros], "all_classes", &padded);
        let boxes = self.op("Concat", &[&boxes, &no_boxes], "all_boxes", &padded);

        let count = self.whole("count", &[1], &[nms.max as i64]);
        let (best, order) = (self.name("best_of_all"), self.name("order"));
        put_node("TopK", &[&scores, &count], &[&best, &order], &[], &mut self.nodes);
        let boxes = self.op("Gather", &[&boxes, &order], "best_boxes", &padded);
        let classes = self.op("Gather", &[&classes, &order], "best_classes", &padded);
        let column = self.whole("column", &[2], &[nms.max as i64, 1]);
        let best = self.op("Reshape", &[&best, &column], "score_column", &[]);
        let classes = self.op("Reshape", &[&classes, &column], "class_column", &[]);
        let rows = self.op("Concat", &[&boxes, &best, &classes], "rows", &[int("axis", 1)]);
        let shape = self.whole("shape", &[3], &[1, nms.max as i64, 6]);
        put_node("Reshape", &[&rows, &shape], &[output], &[], &mut self.nodes);
    }
}
