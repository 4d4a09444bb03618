//! Reads what an ONNX file says about itself, straight from the protobuf bytes.
//!
//! The reader borrows from the file, skips weights without touching them, and takes any bytes without a panic. What a
//! file must not hold is the matter of `gate`.
//!
//! Field numbers are those of `onnx.proto3`, which ONNX promises never to reuse.

use super::protobuf::{Fields, Slice, Value};

/// Inputs, outputs, metadata entries and operator sets: real exports stay below a hundred.
const MAX_ENTRIES: usize = 4096;

/// Why bytes are not an ONNX model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OnnxError {
    /// A field or a length runs past the end of what encloses it, or has no valid encoding.
    #[error("damaged at byte {at}: {what}")]
    Damaged {
        /// Offset in the file.
        at: usize,
        /// What is wrong there.
        what: &'static str,
    },
    /// Valid protobuf, but without a graph or an IR version.
    #[error("it holds no {0}")]
    Missing(&'static str),
    /// More entries or nesting than any real model has.
    #[error("it holds more than {limit} {what}")]
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
}

/// One axis of a declared shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dim {
    /// Fixed in the file.
    Static(u64),
    /// Known only at run time; the name may be empty.
    Symbolic(String),
}

impl Dim {
    /// The fixed length, if it is fixed.
    pub fn fixed(&self) -> Option<u64> {
        match self {
            Self::Static(n) => Some(*n),
            Self::Symbolic(_) => None,
        }
    }
}

impl std::fmt::Display for Dim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Static(n) => write!(f, "{n}"),
            Self::Symbolic(name) if name.is_empty() => f.write_str("?"),
            Self::Symbolic(name) => f.write_str(name),
        }
    }
}

/// A graph's input or output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// `TensorProto.DataType`: 1 float32, 10 float16; 0 when the file does not say.
    pub elem: u64,
    /// Its axes; `None` when the file does not say.
    pub dims: Option<Vec<Dim>>,
}

impl std::fmt::Display for Port {
    /// `images: float32 [1, 3, 640, 640]`
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} ", self.name, elem_name(self.elem))?;
        match &self.dims {
            None => f.write_str("of unknown shape"),
            Some(dims) => {
                let dims: Vec<String> = dims.iter().map(Dim::to_string).collect();
                write!(f, "[{}]", dims.join(", "))
            }
        }
    }
}

fn elem_name(elem: u64) -> String {
    match elem {
        1 => "float32".into(),
        2 => "uint8".into(),
        3 => "int8".into(),
        6 => "int32".into(),
        7 => "int64".into(),
        10 => "float16".into(),
        11 => "float64".into(),
        16 => "bfloat16".into(),
        other => format!("type {other}"),
    }
}

/// What the file says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OnnxInfo {
    /// Version of the file format.
    pub ir_version: u64,
    /// Operator sets: domain (empty: ONNX itself) and version.
    pub opsets: Vec<(String, u64)>,
    /// What exported it.
    pub producer: String,
    /// True inputs: those that are not initializers too.
    pub inputs: Vec<Port>,
    /// Outputs.
    pub outputs: Vec<Port>,
    /// `metadata_props`, in order.
    pub metadata: Vec<(String, String)>,
    /// For each output that a `Concat` node makes: how many parts it joins, else 0. Detection heads join one part per
    /// stride, which tells 16/32/64 from 8/16/32/64 when the shape is dynamic.
    pub concat_parts: Vec<usize>,
}

impl OnnxInfo {
    /// A metadata entry; the last one wins, as in the runtimes.
    pub fn meta(&self, key: &str) -> Option<&str> {
        self.metadata.iter().rev().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }
}

/// Reads a model's description from the bytes of its file.
pub fn read(bytes: &[u8]) -> Result<OnnxInfo, OnnxError> {
    let mut info = OnnxInfo::default();
    let mut graph = None;
    let mut model = Fields::new(bytes, 0);
    while let Some((field, value)) = model.next()? {
        match (field, value) {
            (1, Value::Varint(version)) => info.ir_version = version,
            (2, Value::Bytes(name)) => info.producer = name.text(),
            (7, Value::Bytes(body)) => graph = Some(body),
            (8, Value::Bytes(body)) => push(&mut info.opsets, opset(body)?, "operator sets")?,
            (14, Value::Bytes(body)) => push(&mut info.metadata, entry(body)?, "metadata entries")?,
            _ => {}
        }
    }
    // Text and other formats happen to parse as protobuf at times; no real model lacks these two.
    let graph = graph.ok_or(OnnxError::Missing("graph"))?;
    if info.ir_version == 0 {
        return Err(OnnxError::Missing("IR version"));
    }
    read_ports(graph, &mut info)?;
    Ok(info)
}

fn push<T>(list: &mut Vec<T>, item: T, what: &'static str) -> Result<(), OnnxError> {
    if list.len() >= MAX_ENTRIES {
        return Err(OnnxError::Limit { what, limit: MAX_ENTRIES });
    }
    list.push(item);
    Ok(())
}

/// OperatorSetIdProto {domain = 1, version = 2}
fn opset(body: Slice<'_>) -> Result<(String, u64), OnnxError> {
    let (mut domain, mut version) = (String::new(), 0);
    let mut fields = body.fields();
    while let Some((field, value)) = fields.next()? {
        match (field, value) {
            (1, Value::Bytes(b)) => domain = b.text(),
            (2, Value::Varint(v)) => version = v,
            _ => {}
        }
    }
    Ok((domain, version))
}

/// StringStringEntryProto {key = 1, value = 2}
pub(super) fn entry(body: Slice<'_>) -> Result<(String, String), OnnxError> {
    let (mut key, mut text) = (String::new(), String::new());
    let mut fields = body.fields();
    while let Some((field, value)) = fields.next()? {
        match (field, value) {
            (1, Value::Bytes(b)) => key = b.text(),
            (2, Value::Bytes(b)) => text = b.text(),
            _ => {}
        }
    }
    Ok((key, text))
}

/// GraphProto {node = 1, initializer = 5, input = 11, output = 12, sparse_initializer = 15}, in two passes so that
/// initializers' names need not be stored: there may be many, inputs are few.
fn read_ports(graph: Slice<'_>, info: &mut OnnxInfo) -> Result<(), OnnxError> {
    let mut fields = graph.fields();
    while let Some((field, value)) = fields.next()? {
        match (field, value) {
            (11, Value::Bytes(body)) => push(&mut info.inputs, port(body)?, "inputs")?,
            (12, Value::Bytes(body)) => push(&mut info.outputs, port(body)?, "outputs")?,
            _ => {}
        }
    }
    info.concat_parts = vec![0; info.outputs.len()];
    let mut fields = graph.fields();
    while let Some((field, value)) = fields.next()? {
        match (field, value) {
            (1, Value::Bytes(body)) => concat(body, info)?,
            // TensorProto.name = 8
            (5, Value::Bytes(body)) => drop_initializer(body, 8, info)?,
            // SparseTensorProto.values = 1, and its name is the initializer's
            (15, Value::Bytes(body)) => {
                let mut sparse = body.fields();
                while let Some((field, value)) = sparse.next()? {
                    if let (1, Value::Bytes(values)) = (field, value) {
                        drop_initializer(values, 8, info)?;
                    }
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Before IR 4 every initializer had to be listed as an input too; it is none.
fn drop_initializer(tensor: Slice<'_>, name_field: u32, info: &mut OnnxInfo) -> Result<(), OnnxError> {
    if info.inputs.is_empty() {
        return Ok(());
    }
    let mut fields = tensor.fields();
    while let Some((field, value)) = fields.next()? {
        if let (f, Value::Bytes(name)) = (field, value)
            && f == name_field
        {
            info.inputs.retain(|input| input.name.as_bytes() != name.data);
        }
    }
    Ok(())
}

/// NodeProto {input = 1, output = 2, op_type = 4}
fn concat(node: Slice<'_>, info: &mut OnnxInfo) -> Result<(), OnnxError> {
    let (mut inputs, mut makes, mut is_concat) = (0_usize, None, false);
    let mut fields = node.fields();
    while let Some((field, value)) = fields.next()? {
        match (field, value) {
            (1, Value::Bytes(_)) => inputs += 1,
            (2, Value::Bytes(name)) => {
                makes = makes.or_else(|| info.outputs.iter().position(|o| o.name.as_bytes() == name.data));
            }
            (4, Value::Bytes(op)) => is_concat = op.data == b"Concat",
            _ => {}
        }
    }
    if is_concat && let Some(parts) = makes.and_then(|n| info.concat_parts.get_mut(n)) {
        *parts = inputs;
    }
    Ok(())
}

/// ValueInfoProto {name = 1, type = 2 {tensor_type = 1 {elem_type = 1, shape = 2 {dim = 1}}}}
pub(super) fn port(body: Slice<'_>) -> Result<Port, OnnxError> {
    let mut port = Port { name: String::new(), elem: 0, dims: None };
    let mut fields = body.fields();
    while let Some((field, value)) = fields.next()? {
        match (field, value) {
            (1, Value::Bytes(b)) => port.name = b.text(),
            (2, Value::Bytes(kind)) => {
                let mut kinds = kind.fields();
                while let Some((field, value)) = kinds.next()? {
                    if let (1, Value::Bytes(tensor)) = (field, value) {
                        tensor_type(tensor, &mut port)?;
                    }
                }
            }
            _ => {}
        }
    }
    Ok(port)
}

fn tensor_type(body: Slice<'_>, port: &mut Port) -> Result<(), OnnxError> {
    let mut fields = body.fields();
    while let Some((field, value)) = fields.next()? {
        match (field, value) {
            (1, Value::Varint(elem)) => port.elem = elem,
            (2, Value::Bytes(shape)) => {
                let mut dims = Vec::new();
                let mut shape = shape.fields();
                while let Some((field, value)) = shape.next()? {
                    if let (1, Value::Bytes(axis)) = (field, value) {
                        if dims.len() >= 64 {
                            return Err(OnnxError::Limit { what: "axes of one shape", limit: 64 });
                        }
                        dims.push(dim(axis)?);
                    }
                }
                port.dims = Some(dims);
            }
            _ => {}
        }
    }
    Ok(())
}

/// TensorShapeProto.Dimension {dim_value = 1, dim_param = 2}. Zero and negative lengths are how some exporters say
/// "unknown".
fn dim(body: Slice<'_>) -> Result<Dim, OnnxError> {
    let mut dim = Dim::Symbolic(String::new());
    let mut fields = body.fields();
    while let Some((field, value)) = fields.next()? {
        match (field, value) {
            (1, Value::Varint(n)) if n != 0 && n <= i64::MAX as u64 => dim = Dim::Static(n),
            (2, Value::Bytes(name)) => dim = Dim::Symbolic(name.text()),
            _ => {}
        }
    }
    Ok(dim)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use proptest::prelude::*;

    use super::super::testing::Tiny;
    use super::*;

    #[test]
    fn a_model_tells_its_ports_and_metadata() {
        let bytes = Tiny::new(&["1", "3", "640", "w"], &[&["1", "25200", "85"]])
            .meta("stride", "32")
            .meta("names", "{0: 'a'}")
            .initializer("weights", true)
            .bytes();
        let info = read(&bytes).unwrap();
        assert_eq!(info.ir_version, 8);
        assert_eq!(info.opsets, [(String::new(), 17)]);
        assert_eq!(info.inputs.len(), 1, "an initializer is no input: {:?}", info.inputs);
        assert_eq!(info.inputs[0].to_string(), "images: float32 [1, 3, 640, w]");
        assert_eq!(info.outputs[0].to_string(), "output0: float32 [1, 25200, 85]");
        assert_eq!(info.meta("stride"), Some("32"));
        assert_eq!(info.meta("names"), Some("{0: 'a'}"));
    }

    #[test]
    fn what_is_no_model_is_an_error() {
        for bytes in [&b""[..], b"hello world, this is a text file\n", b"\x89PNG\r\n\x1a\n", &[0_u8; 64], &[0xff; 64]] {
            assert!(read(bytes).is_err(), "{bytes:?}");
        }
        let good = Tiny::new(&["1", "3", "8", "8"], &[&["1", "1", "6"]]).bytes();
        for cut in 1..good.len() {
            let _ = read(&good[..cut]); // must not panic; a cut between two fields of the model may even be valid
        }
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = read(&bytes);
        }

        #[test]
        fn mutated_models_never_panic(
            edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
            cut in any::<prop::sample::Index>(),
            truncate: bool,
        ) {
            let mut bytes = Tiny::new(&["b", "3", "h", "w"], &[&["b", "25200", "85"], &["1", "3", "80", "80", "85"]])
                .meta("names", "{0: 'a', 1: 'b'}")
                .initializer("w", true)
                .bytes();
            for (at, value) in edits {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            if truncate {
                bytes.truncate(cut.index(bytes.len()));
            }
            let _ = read(&bytes);
        }
    }
}
