//! Converts a graph to f16.
//!
//! These stay f32: the input and the outputs; operators that count, or whose inputs must be f32 ([`SINGLE`]); what does
//! not depend on the picture (shapes, anchors); and what follows the last convolution, because there boxes are in
//! pixels, and f16 above 512 has steps of half a pixel.

use std::collections::{HashMap, HashSet};

use super::PrepareError;
use super::graph::{Names, attributes, cast, decoded, encoded};
use super::weights::halved;
use crate::onnx::messages::data_type::{BOOL, FLOAT, HALF, INT64};
use crate::onnx::messages::{ATTRIBUTE_INT, ATTRIBUTE_INTS, Bytes, Graph, Node, Tensor, Value};

/// Operators that stay in f32.
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
/// Operators that begin a new layer: nodes with none of them after them decode boxes.
const LAYERS: [&str; 4] = ["Conv", "ConvTranspose", "Gemm", "MatMul"];

/// The type that a node's attributes give its output: of `Cast`, `Constant`, `ConstantOfShape`.
///
/// # Errors
/// For nodes that cannot be a part of an f16 graph.
fn declared_type(node: &Node) -> Result<Option<u64>, PrepareError> {
    let op = &node.op_type;
    let cannot = |why| Err(PrepareError::Cannot(format!("cannot compute in f16, because of operator {op}: {why}")));
    if op.ends_with("QuantizeLinear")
        || op.ends_with("DequantizeLinear")
        || op.starts_with("QLinear")
        || op.ends_with("Integer")
    {
        return cannot("the model is quantised");
    }
    let mut declared = None;
    for attribute in attributes(node)? {
        if attribute.g.is_some() || !attribute.graphs.is_empty() {
            return cannot("it holds a graph of its own; export the model without loops and conditions");
        }
        declared = match (op.as_str(), attribute.t) {
            (_, Some(tensor)) => Some(tensor.data_type),
            ("Cast", None) if attribute.name == "to" => attribute.i.map(|to| to as u64),
            ("Constant", None) if [ATTRIBUTE_INT, ATTRIBUTE_INTS].contains(&attribute.kind) => Some(INT64),
            _ => declared,
        };
    }
    Ok(declared)
}

/// The type of output `n` of a node.
fn output_type(node: &Node, declared: Option<u64>, n: usize, types: &HashMap<String, u64>) -> u64 {
    let of = |n: usize| node.input.get(n).and_then(|name| types.get(name)).copied().unwrap_or(FLOAT);
    match node.op_type.as_str() {
        "Shape" | "Size" | "NonZero" | "ArgMax" | "ArgMin" | "NonMaxSuppression" => INT64,
        "Equal" | "Less" | "LessOrEqual" | "Greater" | "GreaterOrEqual" | "Not" | "And" | "Or" | "Xor" | "IsNaN"
        | "IsInf" => BOOL,
        "Cast" | "Constant" | "ConstantOfShape" => declared.unwrap_or(FLOAT),
        "TopK" | "MaxPool" if n > 0 => INT64,
        "Where" => of(1),
        "OneHot" => of(2),
        _ => of(0),
    }
}

/// Converts all that loses nothing by it.
pub(super) fn convert(graph: &mut Graph) -> Result<(), PrepareError> {
    let plan = Plan::of(graph)?;
    if !plan.half.contains(&true) {
        return super::cannot("no layer of it computes in f32: it may be an f16 model already");
    }
    let mut writer = Writer { plan: &plan, made: HashSet::new(), nodes: Vec::new() };
    for (initializer, weight) in graph.initializer.iter_mut().zip(decoded::<Tensor>(&plan.initializers)?) {
        let name = plan.halved(&weight.name);
        if plan.weights.contains(&weight.name)
            && let Some(half) = halved(&weight, &name)
        {
            *initializer = half;
            writer.made.insert(name);
        }
    }
    for (node, half) in plan.nodes.iter().zip(&plan.half) {
        writer.node(node, *half);
    }
    graph.node = writer.nodes;
    Ok(())
}

/// Which nodes and weights become f16.
struct Plan {
    initializers: Vec<Bytes>,
    nodes: Vec<Node>,
    half: Vec<bool>,
    /// Values that are f32 now.
    floats: HashSet<String>,
    /// Those of them that will be made in f16.
    narrow: HashSet<String>,
    outputs: HashSet<String>,
    /// Weights that are stored as f16: all nodes that take them compute in f16.
    weights: HashSet<String>,
    names: Names,
}

impl Plan {
    fn of(graph: &Graph) -> Result<Self, PrepareError> {
        let nodes: Vec<Node> = decoded(&graph.node)?;
        let mut types = HashMap::new();
        let (mut weights, mut pictures) = (HashSet::new(), HashSet::new());
        for weight in decoded::<Tensor>(&graph.initializer)? {
            types.insert(weight.name.clone(), weight.data_type);
            weights.insert(weight.name);
        }
        for input in decoded(&graph.input)? {
            let port = crate::onnx::port(input);
            types.insert(port.name.clone(), port.elem);
            pictures.insert(port.name);
        }
        let outputs = decoded::<Value>(&graph.output)?.into_iter().map(|value| value.name).collect();
        follow(&nodes, &mut pictures, &mut types)?;
        let floats: HashSet<String> =
            types.into_iter().filter(|(_, elem)| *elem == FLOAT).map(|(name, _)| name).collect();
        let half: Vec<bool> = nodes
            .iter()
            .zip(before_layers(&nodes))
            .map(|(node, before)| {
                before
                    && !SINGLE.contains(&node.op_type.as_str())
                    && node.input.iter().any(|name| floats.contains(name) && pictures.contains(name))
                    && node.output.iter().all(|name| name.is_empty() || floats.contains(name))
            })
            .collect();
        for (node, half) in nodes.iter().zip(&half) {
            for name in node.input.iter().filter(|name| !half || !floats.contains(*name)) {
                weights.remove(name);
            }
        }
        let made = nodes.iter().zip(&half).filter(|(_, half)| **half);
        let narrow = made.flat_map(|(node, _)| node.output.iter().cloned()).collect();
        let (initializers, names) = (graph.initializer.clone(), Names::of(graph)?);
        Ok(Self { initializers, nodes, half, floats, narrow, outputs, weights, names })
    }

    /// The name of a value in f16.
    fn halved(&self, name: &str) -> String {
        self.names.free(&format!("{name}_fp16"))
    }
}

/// Finds the types of all values, and which of them depend on the picture. `pictures` begins with the inputs.
fn follow(
    nodes: &[Node],
    pictures: &mut HashSet<String>,
    types: &mut HashMap<String, u64>,
) -> Result<(), PrepareError> {
    for node in nodes {
        let declared = declared_type(node)?;
        // An output that is left out has an empty name.
        for (n, name) in node.output.iter().enumerate().filter(|(_, name)| !name.is_empty()) {
            let elem = output_type(node, declared, n, types);
            types.insert(name.clone(), elem);
        }
        let depends = node.input.iter().any(|name| pictures.contains(name));
        if depends && !matches!(node.op_type.as_str(), "Shape" | "Size") {
            pictures.extend(node.output.iter().cloned());
        }
    }
    Ok(())
}

/// Which nodes are layers, or have one after them.
fn before_layers(nodes: &[Node]) -> Vec<bool> {
    let mut needed: HashSet<&str> = HashSet::new();
    let mut before: Vec<bool> = nodes
        .iter()
        .rev()
        .map(|node| {
            let layer = LAYERS.contains(&node.op_type.as_str())
                || node.output.iter().any(|name| needed.contains(name.as_str()));
            if layer {
                needed.extend(node.input.iter().map(String::as_str));
            }
            layer
        })
        .collect();
    before.reverse();
    before
}

struct Writer<'p> {
    plan: &'p Plan,
    /// Values that exist besides those of the original graph: f16 ones ([`Plan::halved`]), and f32 ones that were
    /// widened.
    made: HashSet<String>,
    nodes: Vec<Bytes>,
}

impl Writer<'_> {
    fn node(&mut self, node: &Node, half: bool) {
        let floats = &self.plan.floats;
        for name in node.input.iter().filter(|name| floats.contains(*name)) {
            let other = self.plan.halved(name);
            if half && self.made.insert(other.clone()) {
                self.nodes.push(encoded(&cast(name, &other, HALF)));
            } else if !half && self.plan.narrow.contains(name) && self.made.insert(name.clone()) {
                self.nodes.push(encoded(&cast(&other, name, FLOAT)));
            }
        }
        let mut written = node.clone();
        for name in written.input.iter_mut().chain(&mut written.output) {
            if half && floats.contains(name) {
                *name = self.plan.halved(name);
            }
        }
        self.nodes.push(encoded(&written));
        for name in node.output.iter().filter(|name| half && !name.is_empty()) {
            let halved = self.plan.halved(name);
            self.made.insert(halved.clone());
            if self.plan.outputs.contains(name) && self.made.insert(name.clone()) {
                self.nodes.push(encoded(&cast(&halved, name, FLOAT)));
            }
        }
    }
}
