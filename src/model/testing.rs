//! Tiny ONNX files for tests: a description without a network.

use std::sync::Arc;

use super::protobuf::{put_bytes, put_number};
use super::{Batch, ChannelOrder, Elem, Family, InputSpec, ModelSpec, OutputSpec};
use crate::types::{ModelId, Padding, Size};

/// A model that is known without a file.
pub(crate) fn spec(family: Family, size: Size, strides: &[u32], classes: usize) -> ModelSpec {
    let cells: u32 = strides.iter().map(|s| (size.w / s) * (size.h / s)).sum();
    let rows = match family.anchors() {
        0 => 300,
        anchors => anchors as usize * cells as usize,
    };
    ModelSpec {
        id: Arc::new(ModelId { name: "test".into(), sha256: String::new(), labels: Vec::new() }),
        path: "test.onnx".into(),
        input: InputSpec {
            name: "images".into(),
            size,
            elem: Elem::Float32,
            channels_last: false,
            order: ChannelOrder::Rgb,
            scale: 255.0,
            padding: Padding::Centered,
            pad_value: 114,
            size_input: None,
            batch: Batch::ONE,
        },
        output: OutputSpec::single("output0", family, rows, classes),
        strides: strides.to_vec(),
        dynamic: false,
        content_sha256: String::new(),
        manifest: None,
    }
}

/// A field that holds a number.
pub(crate) fn varint_field(field: u32, n: u64) -> Vec<u8> {
    let mut out = Vec::new();
    put_number(field, n, &mut out);
    out
}

/// A field that holds bytes or a message.
pub(crate) fn bytes_field(field: u32, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_bytes(field, body, &mut out);
    out
}

/// Builds the description of a model. Axes that are no numbers are symbolic.
pub(crate) struct Tiny {
    input: Vec<String>,
    outputs: Vec<Vec<String>>,
    named: Vec<u8>,
    elem: u64,
    meta: Vec<(String, String)>,
    graph: Vec<u8>,
    inputs: Vec<u8>,
}

impl Tiny {
    pub(crate) fn new(input: &[&str], outputs: &[&[&str]]) -> Self {
        let own = |dims: &[&str]| dims.iter().map(|d| (*d).to_owned()).collect();
        Self {
            input: own(input),
            outputs: outputs.iter().map(|o| own(o)).collect(),
            named: Vec::new(),
            elem: 1,
            meta: Vec::new(),
            graph: Vec::new(),
            inputs: Vec::new(),
        }
    }

    pub(crate) fn elem(mut self, elem: u64) -> Self {
        self.elem = elem;
        self
    }

    pub(crate) fn meta(mut self, key: &str, value: &str) -> Self {
        self.meta.push((key.into(), value.into()));
        self
    }

    /// Adds an initializer of 16 weights, and lists it as an input too if wished.
    pub(crate) fn initializer(mut self, name: &str, listed: bool) -> Self {
        let tensor =
            [varint_field(1, 4), varint_field(2, 1), bytes_field(8, name.as_bytes()), bytes_field(9, &[0; 16])];
        self.graph.extend(bytes_field(5, &tensor.concat()));
        if listed {
            self.inputs.extend(bytes_field(11, &port(name, 1, &["4".to_owned()])));
        }
        self
    }

    /// Adds an output with a name and a type of its own.
    pub(crate) fn output(mut self, name: &str, elem: u64, dims: &[&str]) -> Self {
        let dims: Vec<String> = dims.iter().map(|d| (*d).to_owned()).collect();
        self.named.extend(bytes_field(12, &port(name, elem, &dims)));
        self
    }

    /// Adds a second input.
    pub(crate) fn input(mut self, name: &str, elem: u64, dims: &[&str]) -> Self {
        let dims: Vec<String> = dims.iter().map(|d| (*d).to_owned()).collect();
        self.named.extend(bytes_field(11, &port(name, elem, &dims)));
        self
    }

    /// Adds raw fields to the graph.
    pub(crate) fn extra_graph(mut self, part: Vec<u8>) -> Self {
        self.graph.extend(part);
        self
    }

    /// Makes the first output by a `Concat` of `parts` tensors.
    pub(crate) fn concat(mut self, parts: usize) -> Self {
        let mut node: Vec<u8> = (0..parts).flat_map(|_| bytes_field(1, b"part")).collect();
        node.extend(bytes_field(2, b"output0"));
        node.extend(bytes_field(4, b"Concat"));
        self.graph.extend(bytes_field(1, &node));
        self
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut graph = self.graph.clone();
        graph.extend(&self.inputs);
        graph.extend(bytes_field(11, &port("images", self.elem, &self.input)));
        for (n, dims) in self.outputs.iter().enumerate() {
            graph.extend(bytes_field(12, &port(&format!("output{n}"), self.elem, dims)));
        }
        graph.extend(&self.named);
        let mut model = varint_field(1, 8);
        model.extend(bytes_field(2, b"tests"));
        model.extend(bytes_field(7, &graph));
        model.extend(bytes_field(8, &varint_field(2, 17)));
        for (key, value) in &self.meta {
            model.extend(bytes_field(14, &[bytes_field(1, key.as_bytes()), bytes_field(2, value.as_bytes())].concat()));
        }
        model
    }
}

fn port(name: &str, elem: u64, dims: &[String]) -> Vec<u8> {
    let shape: Vec<u8> = dims
        .iter()
        .flat_map(|d| {
            let axis = d.parse().map_or_else(|_| bytes_field(2, d.as_bytes()), |n| varint_field(1, n));
            bytes_field(1, &axis)
        })
        .collect();
    let tensor = [varint_field(1, elem), bytes_field(2, &shape)].concat();
    [bytes_field(1, name.as_bytes()), bytes_field(2, &bytes_field(1, &tensor))].concat()
}
