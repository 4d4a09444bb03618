//! A graph's protobuf fields, read and written.

use std::collections::HashSet;

use super::super::protobuf::{Slice, Value, put_bytes, put_number};
use super::PrepareError;

/// `TensorProto.DataType`.
pub(super) const FLOAT: u64 = 1;
pub(super) const UINT8: u64 = 2;
pub(super) const INT64: u64 = 7;
pub(super) const BOOL: u64 = 9;
pub(super) const HALF: u64 = 10;

/// Calls `look` with each field of a message, its value, and its bytes as they stand.
pub(super) fn each<'a>(
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
pub(super) fn name_of(body: Slice<'_>, wanted: u32) -> Result<String, PrepareError> {
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

/// NodeProto {output = 2}
pub(super) fn makes(node: Slice<'_>) -> Result<Vec<String>, PrepareError> {
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
pub(super) fn takes(node: Slice<'_>, names: &mut HashSet<String>) -> Result<(), PrepareError> {
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

/// The names of a graph's values, those of its inner graphs among them: a value that is added must have another one.
pub(super) struct Names(HashSet<String>);

impl Names {
    pub(super) fn of(graph: Slice<'_>) -> Result<Self, PrepareError> {
        let mut names = HashSet::new();
        collect(graph, &mut names)?;
        Ok(Self(names))
    }

    /// `wanted`, or with a number behind it when a value has that name: the same one each time.
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

/// GraphProto {node = 1, initializer = 5 {name = 8}, input = 11, output = 12, sparse_initializer = 15 {values = 1}}. The gate
/// has bounded the depth of inner graphs.
fn collect(graph: Slice<'_>, names: &mut HashSet<String>) -> Result<(), PrepareError> {
    let mut add = |body, field| -> Result<(), PrepareError> {
        names.insert(name_of(body, field)?);
        Ok(())
    };
    let mut nodes = Vec::new();
    each(graph, |field, value, _| match (field, value) {
        (1, Value::Bytes(node)) => {
            nodes.push(node);
            Ok(())
        }
        (5, Value::Bytes(tensor)) => add(tensor, 8),
        (11 | 12, Value::Bytes(port)) => add(port, 1),
        (15, Value::Bytes(sparse)) => each(sparse, |field, value, _| match (field, value) {
            (1, Value::Bytes(tensor)) => add(tensor, 8),
            _ => Ok(()),
        }),
        _ => Ok(()),
    })?;
    for node in nodes {
        each(node, |field, value, _| match (field, value) {
            (1 | 2, Value::Bytes(name)) => {
                names.insert(name.text());
                Ok(())
            }
            (5, Value::Bytes(attribute)) => each(attribute, |field, value, _| match (field, value) {
                (6 | 11, Value::Bytes(inner)) => collect(inner, names),
                _ => Ok(()),
            }),
            _ => Ok(()),
        })?;
    }
    Ok(())
}

/// NodeProto {input = 1, output = 2, name = 3, op_type = 4, attribute = 5}; attributes as of [`int`] and [`ints`].
pub(super) fn put_node(op: &str, inputs: &[&str], outputs: &[&str], attributes: &[Vec<u8>], out: &mut Vec<u8>) {
    let mut node = Vec::new();
    for input in inputs {
        put_bytes(1, input.as_bytes(), &mut node);
    }
    for output in outputs {
        put_bytes(2, output.as_bytes(), &mut node);
    }
    put_bytes(3, format!("{}_{op}", outputs.first().unwrap_or(&"")).as_bytes(), &mut node);
    put_bytes(4, op.as_bytes(), &mut node);
    for attribute in attributes {
        put_bytes(5, attribute, &mut node);
    }
    put_bytes(1, &node, out);
}

/// AttributeProto {name = 1, i = 3, type = 20}
pub(super) fn int(name: &str, value: i64) -> Vec<u8> {
    let mut body = Vec::new();
    put_bytes(1, name.as_bytes(), &mut body);
    put_number(3, value as u64, &mut body);
    put_number(20, 2, &mut body);
    body
}

/// AttributeProto {name = 1, ints = 8, type = 20}
pub(super) fn ints(name: &str, values: &[i64]) -> Vec<u8> {
    let mut body = Vec::new();
    put_bytes(1, name.as_bytes(), &mut body);
    for value in values {
        put_number(8, *value as u64, &mut body);
    }
    put_number(20, 7, &mut body);
    body
}

/// An initializer.
pub(super) fn put_tensor(name: &str, dims: &[u64], elem: u64, raw: &[u8], out: &mut Vec<u8>) {
    let mut tensor = Vec::new();
    for dim in dims {
        put_number(1, *dim, &mut tensor);
    }
    put_number(2, elem, &mut tensor);
    put_bytes(8, name.as_bytes(), &mut tensor);
    put_bytes(9, raw, &mut tensor);
    put_bytes(5, &tensor, out);
}

/// ValueInfoProto of a tensor whose axes are all fixed: an input (`field` 11) or an output (12).
pub(super) fn put_port(field: u32, name: &str, elem: u64, axes: &[usize], out: &mut Vec<u8>) {
    let (mut shape, mut tensor, mut kind, mut port) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for axis in axes {
        let mut dim = Vec::new();
        put_number(1, *axis as u64, &mut dim);
        put_bytes(1, &dim, &mut shape);
    }
    put_number(1, elem, &mut tensor);
    put_bytes(2, &shape, &mut tensor);
    put_bytes(1, &tensor, &mut kind);
    put_bytes(1, name.as_bytes(), &mut port);
    put_bytes(2, &kind, &mut port);
    put_bytes(field, &port, out);
}
