//! Rewriting a model for the box that runs it: bytes as input, a fixed size, half-sized weights, nothing unused.
//!
//! The graph is edited as protobuf fields: what is not touched is copied byte for byte.

use std::collections::HashSet;

use half::f16;

use super::ModelSpec;
use super::onnx::OnnxError;
use super::protobuf::{Slice, Value, put_bytes, put_number};
use super::tensors::{Elem, InputSpec};

/// What is to be done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Prepare {
    /// The model takes bytes 0 … 255 and divides them itself.
    pub bytes_input: bool,
    /// With bytes: it takes `[1, h, w, 3]` and turns pixels into planes itself.
    pub channels_last: bool,
    /// Weights are stored as half floats, and widened when the model is loaded.
    pub half_weights: bool,
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

/// Smallest weight that is worth a node of its own, in floats.
const SMALL: u64 = 256;

/// `TensorProto.DataType`.
const FLOAT: u64 = 1;
const UINT8: u64 = 2;
const HALF: u64 = 10;

/// The model of `bytes` ([`ModelSpec::bytes`]), rewritten. The input has the size of `spec`, fixed, and only the outputs
/// that its decoder reads are left, with what they need.
///
/// # Errors
/// [`PrepareError`] when it takes bytes already, or is not ONNX.
pub fn prepare(bytes: &[u8], spec: &ModelSpec, how: Prepare) -> Result<Vec<u8>, PrepareError> {
    if super::onnx::read(bytes)?.ir_version < 4 {
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
    let mut out = Vec::with_capacity(bytes.len());
    each(Slice { data: bytes, at: 0 }, |field, value, raw| {
        match (field, value) {
            (7, Value::Bytes(graph)) => put_bytes(7, &rewrite(graph, spec, how)?, &mut out),
            _ => out.extend_from_slice(raw),
        }
        Ok(())
    })?;
    Ok(out)
}

/// Calls `look` with each field of a message, its value, and its bytes as they stand.
fn each<'a>(
    body: Slice<'a>,
    mut look: impl FnMut(u32, Value<'a>, &'a [u8]) -> Result<(), PrepareError>,
) -> Result<(), PrepareError> {
    let mut fields = body.fields();
    let mut begin = fields.at();
    while let Some((field, value)) = fields.next()? {
        let end = fields.at();
        look(field, value, body.data.get(begin - body.at..end - body.at).unwrap_or_default())?;
        begin = end;
    }
    Ok(())
}

/// The first bytes field of this number, as a name.
fn name_of(body: Slice<'_>, wanted: u32) -> Result<String, PrepareError> {
    let mut name = String::new();
    each(body, |field, value, _| {
        if let Value::Bytes(text) = value
            && field == wanted
        {
            name = text.text();
        }
        Ok(())
    })?;
    Ok(name)
}

/// GraphProto {node = 1, initializer = 5, input = 11, output = 12, value_info = 13, sparse_initializer = 15}
fn rewrite(graph: Slice<'_>, spec: &ModelSpec, how: Prepare) -> Result<Vec<u8>, PrepareError> {
    let needed = needed(graph, spec)?;
    // First what makes values, then the nodes: those of the input come before all that use them.
    let (mut head, mut nodes, mut ports) = (Vec::new(), Vec::new(), Vec::new());
    if how.bytes_input {
        input_nodes(&spec.input, how.channels_last, &mut head, &mut nodes);
    }
    let dropped = |name: &str| !needed.contains(name);
    each(graph, |field, value, raw| {
        match (field, value) {
            (1, Value::Bytes(node)) if !makes(node)?.iter().any(|name| !dropped(name)) => {}
            (1, Value::Bytes(_)) => nodes.extend_from_slice(raw),
            (5, Value::Bytes(tensor)) if dropped(&name_of(tensor, 8)?) => {}
            (5, Value::Bytes(tensor)) if how.half_weights => half(tensor, raw, &mut head, &mut nodes)?,
            (11, Value::Bytes(port)) => {
                if name_of(port, 1)? == spec.input.name {
                    put_bytes(11, &input_port(&spec.input, how), &mut ports);
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

/// NodeProto {output = 2}
fn makes(node: Slice<'_>) -> Result<Vec<String>, PrepareError> {
    let mut names = Vec::new();
    each(node, |field, value, _| {
        if let (2, Value::Bytes(name)) = (field, value) {
            names.push(name.text());
        }
        Ok(())
    })?;
    Ok(names)
}

/// NodeProto {input = 1, attribute = 5 {g = 6, graphs = 11 {node = 1, output = 12 {name = 1}}}}: what a node takes, and
/// what its inner graphs may take from outside. The gate has bounded their depth.
fn takes(node: Slice<'_>, names: &mut HashSet<String>) -> Result<(), PrepareError> {
    each(node, |field, value, _| {
        match (field, value) {
            (1, Value::Bytes(name)) => {
                names.insert(name.text());
            }
            (5, Value::Bytes(attribute)) => each(attribute, |field, value, _| match (field, value) {
                (6 | 11, Value::Bytes(graph)) => each(graph, |field, value, _| match (field, value) {
                    (1, Value::Bytes(node)) => takes(node, names),
                    (12, Value::Bytes(port)) => {
                        names.insert(name_of(port, 1)?);
                        Ok(())
                    }
                    _ => Ok(()),
                }),
                _ => Ok(()),
            })?,
            _ => {}
        }
        Ok(())
    })
}

/// The name of the new input.
fn bytes_name(input: &InputSpec) -> String {
    format!("{}_bytes", input.name)
}

/// ValueInfoProto of the input, with all axes fixed.
fn input_port(input: &InputSpec, how: Prepare) -> Vec<u8> {
    let taken = InputSpec { channels_last: how.channels_last || input.channels_last, ..input.clone() };
    let (name, elem) = match (how.bytes_input, input.elem) {
        (true, _) => (bytes_name(input), UINT8),
        (false, Elem::Uint8) => (input.name.clone(), UINT8),
        (false, Elem::Float16) => (input.name.clone(), HALF),
        (false, _) => (input.name.clone(), FLOAT),
    };
    let (mut shape, mut tensor, mut kind, mut port) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for axis in taken.shape(taken.batch.size) {
        let mut dim = Vec::new();
        put_number(1, axis as u64, &mut dim);
        put_bytes(1, &dim, &mut shape);
    }
    put_number(1, elem, &mut tensor);
    put_bytes(2, &shape, &mut tensor);
    put_bytes(1, &tensor, &mut kind);
    put_bytes(1, name.as_bytes(), &mut port);
    put_bytes(2, &kind, &mut port);
    port
}

/// From bytes to what the graph took so far, under its old name.
fn input_nodes(input: &InputSpec, channels_last: bool, head: &mut Vec<u8>, nodes: &mut Vec<u8>) {
    let old = input.name.clone();
    let float = if input.elem == Elem::Float16 { HALF } else { FLOAT };
    let divide = (input.scale - 1.0).abs() > f32::EPSILON;
    let mut value = bytes_name(input);
    if channels_last {
        let planes = format!("{old}_planes");
        // Turned as bytes: a quarter of the memory of floats.
        let mut perm = Vec::new();
        for axis in [0, 3, 1, 2] {
            put_number(8, axis, &mut perm);
        }
        put_node("Transpose", &[&value], &planes, Some(("perm", 7, &perm)), nodes);
        value = planes;
    }
    let cast = if divide { format!("{old}_floats") } else { old.clone() };
    let mut to = Vec::new();
    put_number(3, float, &mut to);
    put_node("Cast", &[&value], &cast, Some(("to", 2, &to)), nodes);
    if divide {
        let scale = format!("{old}_scale");
        let raw = match float {
            HALF => f16::from_f32(input.scale).to_le_bytes().to_vec(),
            _ => input.scale.to_le_bytes().to_vec(),
        };
        put_tensor(&scale, &[], float, &raw, head);
        put_node("Div", &[&cast, &scale], &old, None, nodes);
    }
}

/// NodeProto {input = 1, output = 2, name = 3, op_type = 4, attribute = 5 {name = 1, type = 20}}
fn put_node(op: &str, inputs: &[&str], output: &str, attribute: Option<(&str, u64, &[u8])>, out: &mut Vec<u8>) {
    let mut node = Vec::new();
    for input in inputs {
        put_bytes(1, input.as_bytes(), &mut node);
    }
    put_bytes(2, output.as_bytes(), &mut node);
    put_bytes(3, format!("{output}_{op}").as_bytes(), &mut node);
    put_bytes(4, op.as_bytes(), &mut node);
    if let Some((name, kind, value)) = attribute {
        let mut body = Vec::new();
        put_bytes(1, name.as_bytes(), &mut body);
        body.extend_from_slice(value);
        put_number(20, kind, &mut body);
        put_bytes(5, &body, &mut node);
    }
    put_bytes(1, &node, out);
}

/// An initializer.
fn put_tensor(name: &str, dims: &[u64], elem: u64, raw: &[u8], out: &mut Vec<u8>) {
    let mut tensor = Vec::new();
    for dim in dims {
        put_number(1, *dim, &mut tensor);
    }
    put_number(2, elem, &mut tensor);
    put_bytes(8, name.as_bytes(), &mut tensor);
    put_bytes(9, raw, &mut tensor);
    put_bytes(5, &tensor, out);
}

/// A weight as half floats and the node that widens it, if it is large enough and of single floats; else as it stands.
fn half(tensor: Slice<'_>, raw: &[u8], head: &mut Vec<u8>, nodes: &mut Vec<u8>) -> Result<(), PrepareError> {
    let (mut dims, mut elem, mut data, mut name) = (Vec::new(), 0, None, String::new());
    each(tensor, |field, value, _| {
        match (field, value) {
            (1, Value::Varint(n)) => dims.push(n),
            (1, Value::Bytes(packed)) => {
                let mut numbers = packed.fields();
                while let Some(n) = numbers.number()? {
                    dims.push(n);
                }
            }
            (2, Value::Varint(n)) => elem = n,
            (8, Value::Bytes(text)) => name = text.text(),
            // Packed floats are laid out like raw data.
            (4 | 9, Value::Bytes(bytes)) => data = Some(bytes.data),
            _ => {}
        }
        Ok(())
    })?;
    let count: u64 = dims.iter().product();
    let floats = data.filter(|data| elem == FLOAT && count >= SMALL && data.len() as u64 == 4 * count);
    let Some(floats) = floats else {
        head.extend_from_slice(raw);
        return Ok(());
    };
    let halves: Vec<f16> = floats.as_chunks::<4>().0.iter().map(|b| f16::from_f32(f32::from_le_bytes(*b))).collect();
    if halves.iter().any(|h| !h.is_finite()) {
        // Larger than half floats go: this one stays.
        head.extend_from_slice(raw);
        return Ok(());
    }
    let bytes: Vec<u8> = halves.iter().flat_map(|h| h.to_le_bytes()).collect();
    let stored = format!("{name}_half");
    put_tensor(&stored, &dims, HALF, &bytes, head);
    let mut to = Vec::new();
    put_number(3, FLOAT, &mut to);
    put_node("Cast", &[&stored], &name, Some(("to", 2, &to)), nodes);
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

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
        let out =
            prepare(&bytes, &spec, Prepare { bytes_input: true, channels_last: true, half_weights: false }).unwrap();
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
}
