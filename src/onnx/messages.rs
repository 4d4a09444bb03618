//! The messages of `onnx.proto3` that Ocelli reads or writes, and the only place with ONNX field numbers (ONNX promises
//! never to reuse one).
//!
//! Messages are decoded one level at a time: graphs, nodes and tensors inside of a message are slices of the file
//! ([`Bytes`]). Weights are therefore not copied, and what a caller does not decode is written back byte for byte.
//! [`Model`], [`Graph`] and [`Node`] declare every field of IR version 12, because prost drops fields that it does not
//! know and these three are written back.

pub(crate) use prost::Message;
pub(crate) use prost::bytes::Bytes;

/// `TensorProto.DataType`.
pub(crate) mod data_type {
    pub(crate) const FLOAT: u64 = 1;
    pub(crate) const UINT8: u64 = 2;
    pub(crate) const INT32: u64 = 6;
    pub(crate) const INT64: u64 = 7;
    pub(crate) const BOOL: u64 = 9;
    pub(crate) const HALF: u64 = 10;
}

/// ModelProto.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Model {
    #[prost(uint64, tag = "1")]
    pub(crate) ir_version: u64,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) producer_name: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    pub(crate) producer_version: Bytes,
    #[prost(bytes = "bytes", tag = "4")]
    pub(crate) domain: Bytes,
    #[prost(uint64, tag = "5")]
    pub(crate) model_version: u64,
    #[prost(bytes = "bytes", tag = "6")]
    pub(crate) doc_string: Bytes,
    #[prost(bytes = "bytes", optional, tag = "7")]
    pub(crate) graph: Option<Bytes>,
    #[prost(bytes = "bytes", repeated, tag = "8")]
    pub(crate) opset_import: Vec<Bytes>,
    #[prost(bytes = "bytes", repeated, tag = "14")]
    pub(crate) metadata_props: Vec<Bytes>,
    #[prost(bytes = "bytes", repeated, tag = "20")]
    pub(crate) training_info: Vec<Bytes>,
    #[prost(bytes = "bytes", repeated, tag = "25")]
    pub(crate) functions: Vec<Bytes>,
    #[prost(bytes = "bytes", repeated, tag = "26")]
    pub(crate) configuration: Vec<Bytes>,
}

/// OperatorSetIdProto.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct OperatorSet {
    /// Empty: ONNX itself.
    #[prost(string, tag = "1")]
    pub(crate) domain: String,
    #[prost(uint64, tag = "2")]
    pub(crate) version: u64,
}

/// StringStringEntryProto. Exporters write any text here, so it need not be UTF-8.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Entry {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) value: Bytes,
}

/// FunctionProto: only what the gate needs.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Function {
    #[prost(string, tag = "10")]
    pub(crate) domain: String,
}

/// GraphProto.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Graph {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub(crate) node: Vec<Bytes>,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) name: Bytes,
    #[prost(bytes = "bytes", repeated, tag = "5")]
    pub(crate) initializer: Vec<Bytes>,
    #[prost(bytes = "bytes", tag = "10")]
    pub(crate) doc_string: Bytes,
    #[prost(bytes = "bytes", repeated, tag = "11")]
    pub(crate) input: Vec<Bytes>,
    #[prost(bytes = "bytes", repeated, tag = "12")]
    pub(crate) output: Vec<Bytes>,
    #[prost(bytes = "bytes", repeated, tag = "13")]
    pub(crate) value_info: Vec<Bytes>,
    #[prost(bytes = "bytes", repeated, tag = "14")]
    pub(crate) quantization_annotation: Vec<Bytes>,
    #[prost(bytes = "bytes", repeated, tag = "15")]
    pub(crate) sparse_initializer: Vec<Bytes>,
    #[prost(bytes = "bytes", repeated, tag = "16")]
    pub(crate) metadata_props: Vec<Bytes>,
}

/// NodeProto.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Node {
    #[prost(string, repeated, tag = "1")]
    pub(crate) input: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    pub(crate) output: Vec<String>,
    #[prost(bytes = "bytes", tag = "3")]
    pub(crate) name: Bytes,
    #[prost(string, tag = "4")]
    pub(crate) op_type: String,
    #[prost(bytes = "bytes", repeated, tag = "5")]
    pub(crate) attribute: Vec<Bytes>,
    #[prost(bytes = "bytes", tag = "6")]
    pub(crate) doc_string: Bytes,
    #[prost(string, tag = "7")]
    pub(crate) domain: String,
    #[prost(bytes = "bytes", tag = "8")]
    pub(crate) overload: Bytes,
    #[prost(bytes = "bytes", repeated, tag = "9")]
    pub(crate) metadata_props: Vec<Bytes>,
    #[prost(bytes = "bytes", repeated, tag = "10")]
    pub(crate) device_configurations: Vec<Bytes>,
}

/// AttributeProto: not all fields, so it is read, or written anew, but never written back.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Attribute {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(int64, optional, tag = "3")]
    pub(crate) i: Option<i64>,
    #[prost(message, optional, tag = "5")]
    pub(crate) t: Option<Tensor>,
    #[prost(bytes = "bytes", optional, tag = "6")]
    pub(crate) g: Option<Bytes>,
    #[prost(int64, repeated, packed = "false", tag = "8")]
    pub(crate) ints: Vec<i64>,
    #[prost(bytes = "bytes", repeated, tag = "11")]
    pub(crate) graphs: Vec<Bytes>,
    #[prost(uint64, tag = "20")]
    pub(crate) kind: u64,
}

/// `AttributeProto.AttributeType`.
pub(crate) const ATTRIBUTE_INT: u64 = 2;
pub(crate) const ATTRIBUTE_INTS: u64 = 7;

/// TensorProto of floats or raw bytes: not all fields, so it is read, or written anew, but never written back.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Tensor {
    #[prost(uint64, repeated, packed = "false", tag = "1")]
    pub(crate) dims: Vec<u64>,
    #[prost(uint64, tag = "2")]
    pub(crate) data_type: u64,
    #[prost(float, repeated, tag = "4")]
    pub(crate) float_data: Vec<f32>,
    #[prost(string, tag = "8")]
    pub(crate) name: String,
    #[prost(bytes = "bytes", optional, tag = "9")]
    pub(crate) raw_data: Option<Bytes>,
}

/// SparseTensorProto: its name is that of its values.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct SparseTensor {
    #[prost(message, optional, tag = "1")]
    pub(crate) values: Option<Tensor>,
}

/// ValueInfoProto.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Value {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(message, optional, tag = "2")]
    pub(crate) kind: Option<Type>,
}

/// TypeProto.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Type {
    #[prost(message, optional, tag = "1")]
    pub(crate) tensor: Option<TensorType>,
}

/// TypeProto.Tensor.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct TensorType {
    #[prost(uint64, tag = "1")]
    pub(crate) elem_type: u64,
    #[prost(message, optional, tag = "2")]
    pub(crate) shape: Option<Shape>,
}

/// TensorShapeProto.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Shape {
    #[prost(message, repeated, tag = "1")]
    pub(crate) dim: Vec<Axis>,
}

/// TensorShapeProto.Dimension.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Axis {
    #[prost(oneof = "Length", tags = "1, 2")]
    pub(crate) length: Option<Length>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum Length {
    #[prost(uint64, tag = "1")]
    Fixed(u64),
    #[prost(string, tag = "2")]
    Symbolic(String),
}

/// The messages that may hold a tensor, a graph or a shape: what the raw walks of the gate and of external data follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Model,
    Training,
    Function,
    Graph,
    Node,
    Attribute,
    Sparse,
    Tensor,
    Value,
    Type,
    TensorType,
    Shape,
    Axis,
}

impl Kind {
    /// What `field` of this message holds, if the walks follow it.
    pub(crate) const fn part(self, field: u32) -> Option<Self> {
        Some(match (self, field) {
            (Self::Model, 7) | (Self::Training, 1 | 2) | (Self::Attribute, 6 | 11) => Self::Graph,
            (Self::Model, 20) => Self::Training,
            (Self::Model, 25) => Self::Function,
            (Self::Graph, 1) | (Self::Function, 7) => Self::Node,
            (Self::Node, 5) => Self::Attribute,
            (Self::Graph, 5) | (Self::Attribute, 5 | 10) | (Self::Sparse, 1 | 2) => Self::Tensor,
            (Self::Graph, 15) | (Self::Attribute, 22 | 23) => Self::Sparse,
            (Self::Graph, 11..=13) => Self::Value,
            (Self::Value, 2) => Self::Type,
            (Self::Type, 1) => Self::TensorType,
            (Self::TensorType, 2) => Self::Shape,
            (Self::Shape, 1) => Self::Axis,
            _ => return None,
        })
    }
}

/// Fields that the raw walks read themselves.
pub(crate) mod field {
    pub(crate) const NODE_OP_TYPE: u32 = 4;
    pub(crate) const NODE_DOMAIN: u32 = 7;
    pub(crate) const SPARSE_DIMS: u32 = 3;
    pub(crate) const VALUE_NAME: u32 = 1;
    pub(crate) const AXIS_LENGTH: u32 = 1;
    pub(crate) const TENSOR_DIMS: u32 = 1;
    pub(crate) const TENSOR_DATA_TYPE: u32 = 2;
    pub(crate) const TENSOR_FLOATS: u32 = 4;
    pub(crate) const TENSOR_INT32S: u32 = 5;
    pub(crate) const TENSOR_STRINGS: u32 = 6;
    pub(crate) const TENSOR_INT64S: u32 = 7;
    pub(crate) const TENSOR_NAME: u32 = 8;
    pub(crate) const TENSOR_RAW: u32 = 9;
    pub(crate) const TENSOR_DOUBLES: u32 = 10;
    pub(crate) const TENSOR_UINT64S: u32 = 11;
    pub(crate) const TENSOR_EXTERNAL: u32 = 13;
    pub(crate) const TENSOR_LOCATION: u32 = 14;
}
