//! Rewriting a model for the box that runs it: bytes as input, a fixed size, half floats, NMS inside, nothing unused.
//!
//! The graph is edited as protobuf fields: what is not touched is copied byte for byte.

mod fp16;
mod graph;
mod nms;
#[cfg(test)]
mod tests;
mod weights;

use std::collections::HashSet;

use half::f16;

use super::ModelSpec;
use super::onnx::OnnxError;
use super::protobuf::{Slice, Value, put_bytes};
use super::tensors::{Elem, InputSpec};
use graph::{FLOAT, HALF, Names, UINT8, each, int, ints, makes, name_of, put_node, put_port, put_tensor, takes};
pub use nms::GraphNms;

/// What is to be done.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Prepare {
    /// The model takes bytes 0 … 255 and divides them itself.
    pub bytes_input: bool,
    /// With bytes: it takes `[1, h, w, 3]` and turns pixels into planes itself.
    pub channels_last: bool,
    /// Weights are stored as half floats, and widened when the model is loaded.
    pub half_weights: bool,
    /// It computes in half floats, but for what comes behind the last convolution; input and outputs stay as they are.
    pub fp16: bool,
    /// Boxes come out as [`Family::EndToEnd`](super::Family::EndToEnd): NMS is a part of the graph.
    pub nms: Option<GraphNms>,
}

/// Why a model cannot be prepared.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PrepareError {
    /// The file is damaged.
    #[error(transparent)]
    Onnx(#[from] OnnxError),
    /// Something is done already, or cannot be done.
    #[error("{0}")]
    Cannot(String),
}

/// The model of `bytes` ([`ModelSpec::bytes`]), rewritten. The input has the size of `spec`, fixed, and only the outputs
/// that its decoder reads are left, with what they need.
///
/// # Errors
/// [`PrepareError`] when it takes bytes already, or is not ONNX.
pub fn prepare(bytes: &[u8], spec: &ModelSpec, how: Prepare) -> Result<Vec<u8>, PrepareError> {
    let info = super::onnx::read(bytes)?;
    let opset = info.opsets.iter().find(|(domain, _)| matches!(domain.as_str(), "" | "ai.onnx")).map_or(0, |(_, n)| *n);
    if info.ir_version < 4 {
        return Err(PrepareError::Cannot("its format is from before 2018 (IR version below 4); export it anew".into()));
    }
    let takes_bytes = spec.input.elem == Elem::Uint8;
    if how.bytes_input && (takes_bytes || spec.input.channels_last) {
        return Err(PrepareError::Cannot(format!(
            "input `{}` is {} {:?} already: only planes of floats can be replaced by bytes",
            spec.input.name,
            spec.input.elem.as_str(),
            spec.input.shape(spec.input.batch.size)
        )));
    }
    if how.channels_last && !how.bytes_input {
        return Err(PrepareError::Cannot("pixels with the channels last go with bytes only".into()));
    }
    if how.half_weights && how.fp16 {
        return Err(PrepareError::Cannot("a model that computes in half floats has half weights already".into()));
    }
    let mut out = Vec::with_capacity(bytes.len());
    each(Slice { data: bytes, at: 0 }, |field, value, raw| {
        match (field, value) {
            (7, Value::Bytes(graph)) => {
                let mut graph = rewrite(graph, spec, how)?;
                if how.fp16 {
                    graph = fp16::convert(&graph)?;
                }
                if let Some(nms) = &how.nms {
                    graph = nms::append(&graph, spec, nms, opset)?;
                }
                put_bytes(7, &graph, &mut out);
            }
            _ => out.extend_from_slice(raw),
        }
        Ok(())
    })?;
    Ok(out)
}

/// GraphProto {node = 1, initializer = 5, input = 11, output = 12, value_info = 13, sparse_initializer = 15}
fn rewrite(graph: Slice<'_>, spec: &ModelSpec, how: Prepare) -> Result<Vec<u8>, PrepareError> {
    let (needed, names) = (needed(graph, spec)?, Names::of(graph)?);
    // First what makes values, then the nodes: those of the input come before all that use them.
    let (mut head, mut nodes, mut ports) = (Vec::new(), Vec::new(), Vec::new());
    if how.bytes_input {
        input_nodes(&spec.input, how.channels_last, &names, &mut head, &mut nodes);
    }
    let dropped = |name: &str| !needed.contains(name);
    each(graph, |field, value, raw| {
        match (field, value) {
            (1, Value::Bytes(node)) if !makes(node)?.iter().any(|name| !dropped(name)) => {}
            (1, Value::Bytes(_)) => nodes.extend_from_slice(raw),
            (5, Value::Bytes(tensor)) if dropped(&name_of(tensor, 8)?) => {}
            (5, Value::Bytes(tensor)) if how.half_weights => weights::half(tensor, raw, &names, &mut head, &mut nodes)?,
            (11, Value::Bytes(port)) => {
                if name_of(port, 1)? == spec.input.name {
                    put_input(&spec.input, how, &names, &mut ports);
                } else if spec.input.size_input.as_ref() == Some(&name_of(port, 1)?) {
                    ports.extend_from_slice(raw);
                }
                // The others are initializers that old exporters list as inputs too.
            }
            (12, Value::Bytes(port)) => {
                let name = name_of(port, 1)?;
                if spec.output.tensors.iter().any(|tensor| tensor.name == name) {
                    ports.extend_from_slice(raw);
                }
            }
            // Shapes of values in between may have been made for another size; runtimes infer them anew.
            (13, _) => {}
            _ => head.extend_from_slice(raw),
        }
        Ok(())
    })?;
    head.extend(nodes);
    head.extend(ports);
    Ok(head)
}

/// Names of values that the wanted outputs need.
fn needed(graph: Slice<'_>, spec: &ModelSpec) -> Result<HashSet<String>, PrepareError> {
    let mut nodes: Vec<Slice<'_>> = Vec::new();
    each(graph, |field, value, _| {
        if let (1, Value::Bytes(node)) = (field, value) {
            nodes.push(node);
        }
        Ok(())
    })?;
    let mut needed: HashSet<String> = spec.output.tensors.iter().map(|tensor| tensor.name.clone()).collect();
    // Nodes stand in the order in which they run, so one walk from the end finds all.
    for node in nodes.into_iter().rev() {
        if makes(node)?.iter().any(|name| needed.contains(name)) {
            takes(node, &mut needed)?;
        }
    }
    Ok(needed)
}

/// The name of the new input.
fn bytes_name(input: &InputSpec, names: &Names) -> String {
    names.free(&format!("{}_bytes", input.name))
}

/// The input, with all axes fixed.
fn put_input(input: &InputSpec, how: Prepare, names: &Names, out: &mut Vec<u8>) {
    let taken = InputSpec { channels_last: how.channels_last || input.channels_last, ..input.clone() };
    let (name, elem) = match (how.bytes_input, input.elem) {
        (true, _) => (bytes_name(input, names), UINT8),
        (false, Elem::Uint8) => (input.name.clone(), UINT8),
        (false, Elem::Float16) => (input.name.clone(), HALF),
        (false, _) => (input.name.clone(), FLOAT),
    };
    put_port(11, &name, elem, &taken.shape(taken.batch.size), out);
}

/// From bytes to what the graph took so far, under its old name.
fn input_nodes(input: &InputSpec, channels_last: bool, names: &Names, head: &mut Vec<u8>, nodes: &mut Vec<u8>) {
    let old = input.name.clone();
    let float = if input.elem == Elem::Float16 { HALF } else { FLOAT };
    let divide = (input.scale - 1.0).abs() > f32::EPSILON;
    let mut value = bytes_name(input, names);
    if channels_last {
        let planes = names.free(&format!("{old}_planes"));
        // Turned as bytes: a quarter of the memory of floats.
        put_node("Transpose", &[&value], &[&planes], &[ints("perm", &[0, 3, 1, 2])], nodes);
        value = planes;
    }
    let cast = if divide { names.free(&format!("{old}_floats")) } else { old.clone() };
    put_node("Cast", &[&value], &[&cast], &[int("to", float as i64)], nodes);
    if divide {
        let scale = names.free(&format!("{old}_scale"));
        let raw = match float {
            HALF => f16::from_f32(input.scale).to_le_bytes().to_vec(),
            _ => input.scale.to_le_bytes().to_vec(),
        };
        put_tensor(&scale, &[], float, &raw, head);
        put_node("Div", &[&cast, &scale], &[&old], &[], nodes);
    }
}
