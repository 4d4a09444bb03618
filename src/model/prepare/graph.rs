//! Parts of a graph: decoded, named, and made anew.

use std::collections::HashSet;

use super::PrepareError;
use crate::onnx::messages::{
    ATTRIBUTE_INT, ATTRIBUTE_INTS, Attribute, Axis, Bytes, Graph, Length, Message, Node, Shape, SparseTensor, Tensor,
    TensorType, Type, Value,
};

pub(super) fn decoded<M: Message + Default>(parts: &[Bytes]) -> Result<Vec<M>, PrepareError> {
    parts.iter().map(|part| Ok(M::decode(part.clone())?)).collect()
}

pub(super) fn encoded(message: &impl Message) -> Bytes {
    message.encode_to_vec().into()
}

pub(super) fn attributes(node: &Node) -> Result<Vec<Attribute>, PrepareError> {
    decoded(&node.attribute)
}

fn inner_graphs(node: &Node) -> Result<Vec<Graph>, PrepareError> {
    let mut graphs = Vec::new();
    for attribute in attributes(node)? {
        graphs.extend(attribute.g);
        graphs.extend(attribute.graphs);
    }
    decoded(&graphs)
}

/// Adds the values that a node takes, and those that its inner graphs may take from outside. The gate has limited their
/// depth.
pub(super) fn add_inputs(node: &Node, names: &mut HashSet<String>) -> Result<(), PrepareError> {
    names.extend(node.input.iter().cloned());
    for graph in inner_graphs(node)? {
        names.extend(decoded::<Value>(&graph.output)?.into_iter().map(|value| value.name));
        for node in decoded(&graph.node)? {
            add_inputs(&node, names)?;
        }
    }
    Ok(())
}

/// The names of a graph's values, those of its inner graphs included: a value that is added must have another one.
pub(super) struct Names(HashSet<String>);

impl Names {
    pub(super) fn of(graph: &Graph) -> Result<Self, PrepareError> {
        let mut names = HashSet::new();
        collect(graph, &mut names)?;
        Ok(Self(names))
    }

    /// `wanted`, or with a number appended when a value has that name. The result is the same for each call.
    pub(super) fn free(&self, wanted: &str) -> String {
        let mut name = wanted.to_owned();
        let mut n = 1;
        while self.0.contains(&name) {
            n += 1;
            name = format!("{wanted}_{n}");
        }
        name
    }
}

fn collect(graph: &Graph, names: &mut HashSet<String>) -> Result<(), PrepareError> {
    names.extend(decoded::<Tensor>(&graph.initializer)?.into_iter().map(|tensor| tensor.name));
    let sparse = decoded::<SparseTensor>(&graph.sparse_initializer)?;
    names.extend(sparse.into_iter().filter_map(|sparse| Some(sparse.values?.name)));
    for port in graph.input.iter().chain(&graph.output) {
        names.insert(Value::decode(port.clone())?.name);
    }
    for node in decoded::<Node>(&graph.node)? {
        for inner in inner_graphs(&node)? {
            collect(&inner, names)?;
        }
        names.extend(node.input);
        names.extend(node.output);
    }
    Ok(())
}

/// A node with attributes as of [`int`] and [`ints`].
pub(super) fn node(op: &str, inputs: &[&str], outputs: &[&str], attributes: &[Attribute]) -> Node {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    Node {
        input: owned(inputs),
        output: owned(outputs),
        name: format!("{}_{op}", outputs.first().unwrap_or(&"")).into(),
        op_type: op.to_owned(),
        attribute: attributes.iter().map(encoded).collect(),
        ..Node::default()
    }
}

/// A conversion to another type.
pub(super) fn cast(input: &str, output: &str, to: u64) -> Node {
    node("Cast", &[input], &[output], &[int("to", to as i64)])
}

pub(super) fn int(name: &str, value: i64) -> Attribute {
    Attribute { name: name.to_owned(), i: Some(value), kind: ATTRIBUTE_INT, ..Attribute::default() }
}

pub(super) fn ints(name: &str, values: &[i64]) -> Attribute {
    Attribute { name: name.to_owned(), ints: values.to_vec(), kind: ATTRIBUTE_INTS, ..Attribute::default() }
}

/// An initializer.
pub(super) fn tensor(name: &str, dims: &[u64], data_type: u64, raw: Vec<u8>) -> Bytes {
    let raw_data = Some(raw.into());
    encoded(&Tensor { dims: dims.to_vec(), data_type, name: name.to_owned(), raw_data, ..Tensor::default() })
}

/// An input or output whose axes are all fixed.
pub(super) fn value(name: &str, elem_type: u64, axes: &[usize]) -> Bytes {
    let dim = axes.iter().map(|n| Axis { length: Some(Length::Fixed(*n as u64)) }).collect();
    let tensor = TensorType { elem_type, shape: Some(Shape { dim }) };
    encoded(&Value { name: name.to_owned(), kind: Some(Type { tensor: Some(tensor) }) })
}
