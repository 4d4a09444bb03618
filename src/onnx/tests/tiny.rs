//! Tiny ONNX files for tests: declarations without a network, and raw fields for hostile ones.

use super::super::messages::{
    Axis, Bytes, Entry, Graph, Length, Message, Model, Node, OperatorSet, Shape, Tensor, TensorType, Type, Value,
};
use super::super::protobuf::{put_bytes, put_number};

pub(crate) fn varint_field(field: u32, n: u64) -> Vec<u8> {
    let mut out = Vec::new();
    put_number(field, n, &mut out);
    out
}

/// A field with bytes or a message.
pub(crate) fn bytes_field(field: u32, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_bytes(field, body, &mut out);
    out
}

pub(crate) fn encoded(message: &impl Message) -> Bytes {
    message.encode_to_vec().into()
}

/// Builds a model file. Axes that are not numbers are symbolic.
pub(crate) struct Tiny {
    graph: Graph,
    meta: Vec<Bytes>,
    /// Raw fields of the graph.
    extra: Vec<u8>,
    /// Type of the input that takes the picture, and of the outputs of `new`.
    elem: u64,
    input: Vec<String>,
    outputs: Vec<Vec<String>>,
}

impl Tiny {
    pub(crate) fn new(input: &[&str], outputs: &[&[&str]]) -> Self {
        let own = |dims: &[&str]| dims.iter().map(|d| (*d).to_owned()).collect();
        Self {
            graph: Graph::default(),
            meta: Vec::new(),
            extra: Vec::new(),
            elem: 1,
            input: own(input),
            outputs: outputs.iter().map(|dims| own(dims)).collect(),
        }
    }

    pub(crate) fn elem(mut self, elem: u64) -> Self {
        self.elem = elem;
        self
    }

    pub(crate) fn meta(mut self, key: &str, value: &str) -> Self {
        let (key, value) = (Bytes::copy_from_slice(key.as_bytes()), Bytes::copy_from_slice(value.as_bytes()));
        self.meta.push(encoded(&Entry { key, value }));
        self
    }

    /// Adds an initializer of 4 weights; `listed`: as an input too.
    pub(crate) fn initializer(mut self, name: &str, listed: bool) -> Self {
        let raw_data = Some(Bytes::from_static(&[0; 16]));
        let tensor = Tensor { dims: vec![4], data_type: 1, name: name.into(), raw_data, ..Tensor::default() };
        self.graph.initializer.push(encoded(&tensor));
        if listed {
            self.graph.input.push(value(name, 1, &["4"]));
        }
        self
    }

    pub(crate) fn output(mut self, name: &str, elem: u64, dims: &[&str]) -> Self {
        self.graph.output.push(value(name, elem, dims));
        self
    }

    pub(crate) fn input(mut self, name: &str, elem: u64, dims: &[&str]) -> Self {
        self.graph.input.push(value(name, elem, dims));
        self
    }

    pub(crate) fn extra_graph(mut self, part: Vec<u8>) -> Self {
        self.extra.extend(part);
        self
    }

    /// The first output is made by a `Concat` of `parts` tensors.
    pub(crate) fn concat(mut self, parts: usize) -> Self {
        let input = vec!["part".to_owned(); parts];
        let output = vec!["output0".to_owned()];
        self.graph.node.push(encoded(&Node { input, output, op_type: "Concat".into(), ..Node::default() }));
        self
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut graph = self.graph.clone();
        graph.input.push(value("images", self.elem, &self.input));
        let named = |(n, dims): (usize, &Vec<String>)| value(&format!("output{n}"), self.elem, dims);
        graph.output.splice(0..0, self.outputs.iter().enumerate().map(named));
        let graph = [graph.encode_to_vec(), self.extra.clone()].concat();
        let model = Model {
            ir_version: 8,
            producer_name: "tests".into(),
            graph: Some(graph.into()),
            opset_import: vec![encoded(&OperatorSet { domain: String::new(), version: 17 })],
            metadata_props: self.meta.clone(),
            ..Model::default()
        };
        model.encode_to_vec()
    }
}

fn value(name: &str, elem: u64, dims: &[impl AsRef<str>]) -> Bytes {
    let length = |d: &str| d.parse().map_or_else(|_| Length::Symbolic(d.to_owned()), Length::Fixed);
    let dim = dims.iter().map(|d| Axis { length: Some(length(d.as_ref())) }).collect();
    let tensor = TensorType { elem_type: elem, shape: Some(Shape { dim }) };
    encoded(&Value { name: name.into(), kind: Some(Type { tensor: Some(tensor) }) })
}
