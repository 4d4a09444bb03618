//! A graph that computes in half floats.
//!
//! What stays in single floats: the input and the outputs; operators whose inputs must be, or that count ([`SINGLE`]);
//! what does not depend on the picture (shapes, anchors); and what comes behind the last convolution, because there
//! boxes are pixels, and half floats above 512 have steps of half a pixel.

use std::collections::{HashMap, HashSet};

use super::super::protobuf::{Slice, Value, put_bytes};
use super::PrepareError;
use super::graph::{BOOL, FLOAT, HALF, INT64, Names, each, int, name_of, put_node};
use super::weights::Weight;

/// Operators that stay in single floats.
const SINGLE: [&str; 20] = [
    "Resize",
    "Upsample",
    "NonMaxSuppression",
    "RoiAlign",
    "GridSample",
    "Range",
    "CumSum",
    "TopK",
    "Cast",
    "Constant",
    "ConstantOfShape",
    "EyeLike",
    "OneHot",
    "Shape",
    "Size",
    "NonZero",
    "ArgMax",
    "ArgMin",
    "RandomNormal",
    "RandomUniform",
];
/// Operators that begin a new layer: what has none of them behind it is the decoding of boxes.
const LAYERS: [&str; 4] = ["Conv", "ConvTranspose", "Gemm", "MatMul"];

/// NodeProto {input = 1, output = 2, op_type = 4, attribute = 5}
struct Node<'a> {
    body: Slice<'a>,
    op: String,
    inputs: Vec<String>,
    outputs: Vec<String>,
    /// What its attributes say of the type of its output: of `Cast`, `Constant`, `ConstantOfShape`.
    said: Option<u64>,
}

impl<'a> Node<'a> {
    fn read(body: Slice<'a>) -> Result<Self, PrepareError> {
        let mut node = Self { body, op: name_of(body, 4)?, inputs: Vec::new(), outputs: Vec::new(), said: None };
        let mut inner = false;
        each(body, |field, value, _| {
            match (field, value) {
                (1, Value::Bytes(name)) => node.inputs.push(name.text()),
                (2, Value::Bytes(name)) => node.outputs.push(name.text()),
                (5, Value::Bytes(attribute)) => each(attribute, |field, value, _| {
                    match (field, value) {
                        (6 | 11, Value::Bytes(_)) => inner = true,
                        // AttributeProto {i = 3, t = 5 {data_type = 2}, ints = 8}
                        (3, Value::Varint(to)) if node.op == "Cast" => node.said = Some(to),
                        (5, Value::Bytes(tensor)) => each(tensor, |field, value, _| {
                            if let (2, Value::Varint(elem)) = (field, value) {
                                node.said = Some(elem);
                            }
                            Ok(())
                        })?,
                        (3 | 8, Value::Varint(_)) | (8, Value::Bytes(_)) if node.op == "Constant" => {
                            node.said = Some(INT64);
                        }
                        _ => {}
                    }
                    Ok(())
                })?,
                _ => {}
            }
            Ok(())
        })?;
        if inner {
            return Err(cannot(&node.op, "it holds a graph of its own; export the model without loops and conditions"));
        }
        let quantised = ["QuantizeLinear", "DequantizeLinear"].iter().any(|op| node.op.ends_with(op));
        if quantised || node.op.starts_with("QLinear") || node.op.ends_with("Integer") {
            return Err(cannot(&node.op, "the model is quantised"));
        }
        Ok(node)
    }

    /// The type of its output number `n`.
    fn makes(&self, n: usize, types: &HashMap<String, u64>) -> u64 {
        let of = |n: usize| self.inputs.get(n).and_then(|name| types.get(name)).copied().unwrap_or(FLOAT);
        match self.op.as_str() {
            "Shape" | "Size" | "NonZero" | "ArgMax" | "ArgMin" | "NonMaxSuppression" => INT64,
            "Equal" | "Less" | "LessOrEqual" | "Greater" | "GreaterOrEqual" | "Not" | "And" | "Or" | "Xor"
            | "IsNaN" | "IsInf" => BOOL,
            "Cast" | "Constant" | "ConstantOfShape" => self.said.unwrap_or(FLOAT),
            "TopK" | "MaxPool" if n > 0 => INT64,
            "Where" => of(1),
            "OneHot" => of(2),
            _ => of(0),
        }
    }
}

fn cannot(op: &str, why: &str) -> PrepareError {
    PrepareError::Cannot(format!("cannot compute in half floats, because of operator {op}: {why}"))
}

/// The graph, with half floats where they do no harm.
pub(super) fn convert(graph: &[u8]) -> Result<Vec<u8>, PrepareError> {
    let graph = Slice { data: graph, at: 0 };
    let plan = Plan::of(graph)?;
    if !plan.half.contains(&true) {
        let reason = "no layer of it computes in single floats: it may be one of half floats already";
        return Err(PrepareError::Cannot(reason.into()));
    }
    let mut writer = Writer { plan: &plan, made: HashSet::new(), head: Vec::new(), nodes: Vec::new() };
    each(graph, |field, value, raw| {
        match (field, value) {
            (1, Value::Bytes(_)) => {}
            (5, Value::Bytes(tensor)) => {
                let weight = Weight::read(tensor)?;
                let halved = plan.halved(&weight.name);
                if plan.weights.contains(&weight.name) && weight.put_half(&halved, &mut writer.head) {
                    writer.made.insert(halved);
                } else {
                    writer.head.extend_from_slice(raw);
                }
            }
            _ => writer.head.extend_from_slice(raw),
        }
        Ok(())
    })?;
    for (node, half) in plan.nodes.iter().zip(&plan.half) {
        writer.node(node, *half)?;
    }
    let Writer { head: mut out, nodes, .. } = writer;
    out.extend(nodes);
    Ok(out)
}

/// Which nodes and weights become half floats.
struct Plan<'a> {
    nodes: Vec<Node<'a>>,
    half: Vec<bool>,
    /// Values that are single floats now.
    floats: HashSet<String>,
    /// Those of them that will be made in half floats.
    narrow: HashSet<String>,
    outputs: HashSet<String>,
    /// Weights that are stored in half floats: all that need them compute so.
    weights: HashSet<String>,
    names: Names,
}

impl<'a> Plan<'a> {
    fn of(graph: Slice<'a>) -> Result<Self, PrepareError> {
        let (mut nodes, mut types) = (Vec::new(), HashMap::new());
        let (mut weights, mut pictures, mut outputs) = (HashSet::new(), HashSet::new(), HashSet::new());
        each(graph, |field, value, _| {
            match (field, value) {
                (1, Value::Bytes(node)) => nodes.push(Node::read(node)?),
                (5, Value::Bytes(tensor)) => {
                    let weight = Weight::read(tensor)?;
                    types.insert(weight.name.clone(), weight.elem);
                    weights.insert(weight.name);
                }
                (11, Value::Bytes(port)) => {
                    let port = super::super::onnx::port(port)?;
                    types.insert(port.name.clone(), port.elem);
                    pictures.insert(port.name);
                }
                (12, Value::Bytes(port)) => {
                    outputs.insert(name_of(port, 1)?);
                }
                _ => {}
            }
            Ok(())
        })?;
        let pictures = seen(&nodes, pictures, &mut types);
        let floats: HashSet<String> =
            types.into_iter().filter(|(_, elem)| *elem == FLOAT).map(|(name, _)| name).collect();
        let before = before_layers(&nodes);
        let half: Vec<bool> = nodes
            .iter()
            .zip(before)
            .map(|(node, before)| {
                before
                    && !SINGLE.contains(&node.op.as_str())
                    && node.inputs.iter().any(|name| floats.contains(name) && pictures.contains(name))
                    && node.outputs.iter().all(|name| name.is_empty() || floats.contains(name))
            })
            .collect();
        for (node, half) in nodes.iter().zip(&half) {
            for name in node.inputs.iter().filter(|name| !half || !floats.contains(*name)) {
                weights.remove(name);
            }
        }
        let made =
            nodes.iter().zip(&half).filter(|(_, half)| **half).flat_map(|(node, _)| node.outputs.iter().cloned());
        let narrow = made.collect();
        Ok(Self { nodes, half, floats, narrow, outputs, weights, names: Names::of(graph)? })
    }

    /// The name of a value in half floats.
    fn halved(&self, name: &str) -> String {
        self.names.free(&format!("{name}_fp16"))
    }
}

/// The values that depend on the picture, of which `pictures` are the first; finds out the types of all values.
fn seen(nodes: &[Node<'_>], mut pictures: HashSet<String>, types: &mut HashMap<String, u64>) -> HashSet<String> {
    for node in nodes {
        // An output that is left out has an empty name.
        for (n, name) in node.outputs.iter().enumerate().filter(|(_, name)| !name.is_empty()) {
            let elem = node.makes(n, types);
            types.insert(name.clone(), elem);
        }
        let depends = node.inputs.iter().any(|name| pictures.contains(name));
        if depends && !matches!(node.op.as_str(), "Shape" | "Size") {
            pictures.extend(node.outputs.iter().cloned());
        }
    }
    pictures
}

/// Which nodes are layers, or have one behind them.
fn before_layers(nodes: &[Node<'_>]) -> Vec<bool> {
    let mut needed: HashSet<&str> = HashSet::new();
    let mut before: Vec<bool> = nodes
        .iter()
        .rev()
        .map(|node| {
            let layer =
                LAYERS.contains(&node.op.as_str()) || node.outputs.iter().any(|name| needed.contains(name.as_str()));
            if layer {
                needed.extend(node.inputs.iter().map(String::as_str));
            }
            layer
        })
        .collect();
    before.reverse();
    before
}

struct Writer<'p, 'a> {
    plan: &'p Plan<'a>,
    /// Values that there are, besides those of the graph as it was: the half ones of [`Plan::halved`], and the single ones
    /// that were widened.
    made: HashSet<String>,
    head: Vec<u8>,
    nodes: Vec<u8>,
}

impl Writer<'_, '_> {
    fn node(&mut self, node: &Node<'_>, half: bool) -> Result<(), PrepareError> {
        let floats = &self.plan.floats;
        for name in node.inputs.iter().filter(|name| floats.contains(*name)) {
            let other = self.plan.halved(name);
            if half && self.made.insert(other.clone()) {
                put_node("Cast", &[name], &[&other], &[int("to", HALF as i64)], &mut self.nodes);
            } else if !half && self.plan.narrow.contains(name) && self.made.insert(name.clone()) {
                put_node("Cast", &[&other], &[name], &[int("to", FLOAT as i64)], &mut self.nodes);
            }
        }
        let named = |name: &str| if half && floats.contains(name) { self.plan.halved(name) } else { name.to_owned() };
        let mut body = Vec::new();
        each(node.body, |field, value, raw| {
            match (field, value) {
                (1 | 2, Value::Bytes(name)) => put_bytes(field, named(&name.text()).as_bytes(), &mut body),
                _ => body.extend_from_slice(raw),
            }
            Ok(())
        })?;
        put_bytes(1, &body, &mut self.nodes);
        for name in node.outputs.iter().filter(|name| half && !name.is_empty()) {
            let halved = self.plan.halved(name);
            self.made.insert(halved.clone());
            if self.plan.outputs.contains(name) && self.made.insert(name.clone()) {
                put_node("Cast", &[&halved], &[name], &[int("to", FLOAT as i64)], &mut self.nodes);
            }
        }
        Ok(())
    }
}
