//! Rewrites a model for the box that runs it: input as bytes, a fixed size, f16, NMS inside, nothing unused.

mod fp16;
mod graph;
mod nms;
#[cfg(test)]
mod tests;
mod weights;

use std::collections::HashSet;

use half::f16;

use super::spec::ModelSpec;
use super::tensors::{Elem, InputSpec};
use crate::onnx::messages::data_type::{FLOAT, HALF, UINT8};
use crate::onnx::messages::{Bytes, Graph, Message, Model, Node, Tensor, Value};
use crate::onnx::{OnnxError, OnnxInfo};
use graph::{Names, add_inputs, cast, decoded, encoded, ints, node, tensor, value};
pub use nms::GraphNms;

#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Prepare {
    /// The model takes bytes 0 … 255 and divides them itself.
    pub bytes_input: bool,
    /// With bytes: it takes `[1, h, w, 3]` and transposes the pixels into planes itself.
    pub channels_last: bool,
    /// Weights are stored as f16, and widened to f32 when the model is loaded.
    pub half_weights: bool,
    /// It computes in f16 up to the last convolution; input and outputs stay as they are.
    pub fp16: bool,
    /// Boxes come out as [`Family::EndToEnd`](super::Family::EndToEnd): NMS is a part of the graph.
    pub nms: Option<GraphNms>,
}

/// Why a model cannot be prepared.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PrepareError {
    #[error(transparent)]
    Onnx(#[from] OnnxError),
    /// What was asked for is done already, or impossible.
    #[error("{0}")]
    Cannot(String),
}

impl From<prost::DecodeError> for PrepareError {
    fn from(error: prost::DecodeError) -> Self {
        Self::Onnx(error.into())
    }
}

/// Rewrites the model of `bytes` ([`ModelSpec::bytes`]). The input size is fixed to that of `spec`; outputs that its
/// decoder does not read are removed, with all that only they need.
///
/// # Errors
/// [`PrepareError`] when the model takes bytes already, or is not ONNX.
pub fn prepare(bytes: &[u8], spec: &ModelSpec, how: Prepare) -> Result<Vec<u8>, PrepareError> {
    let bytes = Bytes::copy_from_slice(bytes);
    let info = crate::onnx::read(bytes.clone())?;
    check(&info, spec, how)?;
    let mut model = Model::decode(bytes)?;
    let mut graph = Graph::decode(model.graph.unwrap_or_default())?;
    rewrite(&mut graph, spec, how)?;
    if how.fp16 {
        fp16::convert(&mut graph)?;
    }
    if let Some(nms) = &how.nms {
        nms::append(&mut graph, spec, nms, info.opset())?;
    }
    model.graph = Some(encoded(&graph));
    Ok(model.encode_to_vec())
}

fn check(info: &OnnxInfo, spec: &ModelSpec, how: Prepare) -> Result<(), PrepareError> {
    if info.ir_version < 4 {
        return cannot("its format is from before 2018 (IR version below 4); export it again");
    }
    if how.bytes_input && (spec.input.elem == Elem::Uint8 || spec.input.channels_last) {
        return cannot(format!(
            "input `{}` is {} {:?} already: only planes of floats can be replaced by bytes",
            spec.input.name,
            spec.input.elem.as_str(),
            spec.input.shape(spec.input.batch.size)
        ));
    }
    if how.channels_last && !how.bytes_input {
        return cannot("channels-last pixels need a bytes input");
    }
    if how.half_weights && how.fp16 {
        return cannot("a model that computes in f16 has f16 weights already");
    }
    Ok(())
}

fn cannot<T>(reason: impl Into<String>) -> Result<T, PrepareError> {
    Err(PrepareError::Cannot(reason.into()))
}

/// Fixes the input and drops what the outputs of `spec` do not need.
fn rewrite(graph: &mut Graph, spec: &ModelSpec, how: Prepare) -> Result<(), PrepareError> {
    let names = Names::of(graph)?;
    // New nodes come first: nodes stand in the order in which they run.
    let mut nodes = Vec::new();
    let mut added = Vec::new();
    if how.bytes_input {
        input_nodes(&spec.input, how.channels_last, &names, &mut added, &mut nodes);
    }
    prune(graph, spec)?;
    if how.half_weights {
        weights::store_as_half(&mut graph.initializer, &mut nodes, &names)?;
    }
    graph.initializer.extend(added);
    graph.node.splice(0..0, nodes.iter().map(encoded));
    let mut inputs = Vec::new();
    for input in graph.input.drain(..) {
        let name = Value::decode(input.clone())?.name;
        if name == spec.input.name {
            inputs.push(fixed_input(&spec.input, how, &names));
        } else if spec.input.size_input.as_ref() == Some(&name) {
            inputs.push(input);
        }
        // The others are initializers that old exporters list as inputs too.
    }
    graph.input = inputs;
    // Shapes of values in between may have been made for another size; runtimes infer them again.
    graph.value_info.clear();
    Ok(())
}

/// Drops outputs that the decoder does not read, and the nodes and initializers that only they need.
fn prune(graph: &mut Graph, spec: &ModelSpec) -> Result<(), PrepareError> {
    let mut needed: HashSet<String> = spec.output.tensors.iter().map(|tensor| tensor.name.clone()).collect();
    let nodes: Vec<Node> = decoded(&graph.node)?;
    // Nodes stand in the order in which they run, so one walk from the end finds all.
    for node in nodes.iter().rev() {
        if node.output.iter().any(|name| needed.contains(name)) {
            add_inputs(node, &mut needed)?;
        }
    }
    let mut keep = nodes.iter().map(|node| node.output.iter().any(|name| needed.contains(name)));
    graph.node.retain(|_| keep.next().unwrap_or(false));
    let mut keep = decoded::<Tensor>(&graph.initializer)?.into_iter().map(|tensor| needed.contains(&tensor.name));
    graph.initializer.retain(|_| keep.next().unwrap_or(false));
    let read = |value: &Value| spec.output.tensors.iter().any(|tensor| tensor.name == value.name);
    let mut keep = decoded(&graph.output)?.into_iter().map(|value| read(&value));
    graph.output.retain(|_| keep.next().unwrap_or(false));
    Ok(())
}

/// The name of the new input.
fn bytes_name(input: &InputSpec, names: &Names) -> String {
    names.free(&format!("{}_bytes", input.name))
}

/// The input with all axes fixed.
fn fixed_input(input: &InputSpec, how: Prepare, names: &Names) -> Bytes {
    let taken = InputSpec { channels_last: how.channels_last || input.channels_last, ..input.clone() };
    let (name, elem) = match (how.bytes_input, input.elem) {
        (true, _) => (bytes_name(input, names), UINT8),
        (false, Elem::Uint8) => (input.name.clone(), UINT8),
        (false, Elem::Float16) => (input.name.clone(), HALF),
        (false, _) => (input.name.clone(), FLOAT),
    };
    value(&name, elem, &taken.shape(taken.batch.size))
}

/// Nodes from bytes to what the graph took before, under its old name.
fn input_nodes(
    input: &InputSpec,
    channels_last: bool,
    names: &Names,
    initializers: &mut Vec<Bytes>,
    nodes: &mut Vec<Node>,
) {
    let old = &input.name;
    let float = if input.elem == Elem::Float16 { HALF } else { FLOAT };
    let divide = (input.scale - 1.0).abs() > f32::EPSILON;
    let mut value = bytes_name(input, names);
    if channels_last {
        let planes = names.free(&format!("{old}_planes"));
        // Transposed as bytes: a quarter of the memory of floats.
        nodes.push(node("Transpose", &[&value], &[&planes], &[ints("perm", &[0, 3, 1, 2])]));
        value = planes;
    }
    if !divide {
        return nodes.push(cast(&value, old, float));
    }
    let [floats, scale] = ["floats", "scale"].map(|part| names.free(&format!("{old}_{part}")));
    nodes.push(cast(&value, &floats, float));
    let raw = match float {
        HALF => f16::from_f32(input.scale).to_le_bytes().to_vec(),
        _ => input.scale.to_le_bytes().to_vec(),
    };
    initializers.push(tensor(&scale, &[], float, raw));
    nodes.push(node("Div", &[&floats, &scale], &[old], &[]));
}
