//! What an ONNX file declares about itself: format, inputs, outputs, metadata.
//!
//! Weights are skipped without being copied. What a file must not contain is the gate's concern.

use super::error::OnnxError;
use super::messages::{Bytes, Entry, Graph, Length, Message, Model, Node, OperatorSet, SparseTensor, Tensor, Value};

/// Inputs, outputs, metadata entries and operator sets: real exports stay below a hundred.
const MAX_ENTRIES: usize = 4096;

/// One axis of a declared shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dim {
    Static(u64),
    /// Known only at run time; the name may be empty.
    Symbolic(String),
}

impl Dim {
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
    pub name: String,
    /// `TensorProto.DataType`; 0: not declared.
    pub elem: u64,
    /// `None`: not declared.
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
    let name = match elem {
        1 => "float32",
        2 => "uint8",
        3 => "int8",
        6 => "int32",
        7 => "int64",
        10 => "float16",
        11 => "float64",
        16 => "bfloat16",
        other => return format!("type {other}"),
    };
    name.to_owned()
}

/// What the file declares about itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OnnxInfo {
    pub ir_version: u64,
    /// Operator sets: domain (empty: ONNX itself) and version.
    pub opsets: Vec<(String, u64)>,
    pub producer: String,
    /// Without those that are initializers too.
    pub inputs: Vec<Port>,
    pub outputs: Vec<Port>,
    /// `metadata_props`, in order.
    pub metadata: Vec<(String, String)>,
    /// For each output that a `Concat` node makes: how many parts it joins; else 0. Detection heads join one part per
    /// stride, which distinguishes 16/32/64 from 8/16/32/64 when the shape is dynamic.
    pub concat_parts: Vec<usize>,
}

impl OnnxInfo {
    /// A metadata entry; of several with one key the last, as in the runtimes.
    pub fn meta(&self, key: &str) -> Option<&str> {
        self.metadata.iter().rev().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// Version of ONNX' own operators; 0: not declared.
    pub fn opset(&self) -> u64 {
        self.opsets.iter().find(|(domain, _)| matches!(domain.as_str(), "" | "ai.onnx")).map_or(0, |(_, n)| *n)
    }
}

/// Reads a model's declarations from the bytes of its file.
pub(crate) fn read(bytes: Bytes) -> Result<OnnxInfo, OnnxError> {
    let model = Model::decode(bytes)?;
    // Text and other formats sometimes parse as protobuf; no real model lacks these two.
    let graph = Graph::decode(model.graph.ok_or(OnnxError::Missing("graph"))?)?;
    if model.ir_version == 0 {
        return Err(OnnxError::Missing("IR version"));
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let opset = |OperatorSet { domain, version }| (domain, version);
    let entry = |Entry { key, value }| (text(&key), text(&value));
    let mut info = OnnxInfo {
        ir_version: model.ir_version,
        producer: text(&model.producer_name),
        opsets: decoded(model.opset_import, "operator sets", opset)?,
        metadata: decoded(model.metadata_props, "metadata entries", entry)?,
        inputs: decoded(graph.input, "inputs", port)?,
        outputs: decoded(graph.output, "outputs", port)?,
        concat_parts: Vec::new(),
    };
    info.concat_parts = concat_parts(graph.node, &info.outputs)?;
    // Before IR 4 every initializer had to be listed as an input too.
    for tensor in graph.initializer {
        let name = Tensor::decode(tensor)?.name;
        info.inputs.retain(|input| input.name != name);
    }
    for sparse in graph.sparse_initializer {
        let name = SparseTensor::decode(sparse)?.values.unwrap_or_default().name;
        info.inputs.retain(|input| input.name != name);
    }
    Ok(info)
}

fn decoded<M: Message + Default, T>(
    parts: Vec<Bytes>,
    what: &'static str,
    convert: impl Fn(M) -> T,
) -> Result<Vec<T>, OnnxError> {
    if parts.len() > MAX_ENTRIES {
        return Err(OnnxError::Limit { what, limit: MAX_ENTRIES });
    }
    parts.into_iter().map(|part| Ok(convert(M::decode(part)?))).collect()
}

fn concat_parts(nodes: Vec<Bytes>, outputs: &[Port]) -> Result<Vec<usize>, OnnxError> {
    let mut parts = vec![0; outputs.len()];
    for node in nodes {
        let node = Node::decode(node)?;
        if node.op_type != "Concat" {
            continue;
        }
        let made = outputs.iter().position(|output| node.output.contains(&output.name));
        if let Some(slot) = made.and_then(|n| parts.get_mut(n)) {
            *slot = node.input.len();
        }
    }
    Ok(parts)
}

/// A declared input or output. Lengths of 0 and less are how some exporters write "unknown".
pub(crate) fn port(value: Value) -> Port {
    let tensor = value.kind.and_then(|kind| kind.tensor).unwrap_or_default();
    let dims = tensor.shape.map(|shape| {
        let dim = |length| match length {
            Some(Length::Fixed(n)) if n != 0 && n <= i64::MAX as u64 => Dim::Static(n),
            Some(Length::Symbolic(name)) => Dim::Symbolic(name),
            _ => Dim::Symbolic(String::new()),
        };
        shape.dim.into_iter().map(|axis| dim(axis.length)).collect()
    });
    Port { name: value.name, elem: tensor.elem_type, dims }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use proptest::prelude::*;

    use super::super::tests::tiny::Tiny;
    use super::*;

    #[test]
    fn ports_and_metadata_are_read() {
        let bytes = Tiny::new(&["1", "3", "640", "w"], &[&["1", "25200", "85"]])
            .meta("stride", "32")
            .meta("names", "{0: 'a'}")
            .initializer("weights", true)
            .bytes();
        let info = read(bytes.into()).unwrap();
        assert_eq!(info.ir_version, 8);
        assert_eq!(info.opsets, [(String::new(), 17)]);
        assert_eq!(info.inputs.len(), 1, "an initializer is no input: {:?}", info.inputs);
        assert_eq!(info.inputs[0].to_string(), "images: float32 [1, 3, 640, w]");
        assert_eq!(info.outputs[0].to_string(), "output0: float32 [1, 25200, 85]");
        assert_eq!(info.meta("stride"), Some("32"));
        assert_eq!(info.meta("names"), Some("{0: 'a'}"));
    }

    #[test]
    fn other_files_are_refused() {
        for bytes in [&b""[..], b"hello world, this is a text file\n", b"\x89PNG\r\n\x1a\n", &[0_u8; 64], &[0xff; 64]] {
            assert!(read(Bytes::from_static(bytes)).is_err(), "{bytes:?}");
        }
        let good = Tiny::new(&["1", "3", "8", "8"], &[&["1", "1", "6"]]).bytes();
        for cut in 1..good.len() {
            let _ = read(Bytes::copy_from_slice(&good[..cut])); // must not panic; a cut between two fields of the model may even be valid
        }
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = read(bytes.into());
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
            let _ = read(bytes.into());
        }
    }
}
