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

/// `AttributeProto.AttributeType`.
pub(crate) const ATTRIBUTE_INT: u64 = 2;
pub(crate) const ATTRIBUTE_INTS: u64 = 7;

/// Declares messages, one field a line: name, type, and in brackets what `prost` must know, with the field number.
macro_rules! messages {
    ($($(#[$doc:meta])* $name:ident { $($(#[$about:meta])* $field:ident: $type:ty [$($prost:tt)*];)* })*) => { $(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Message)]
        pub(crate) struct $name {
            $($(#[$about])* #[prost($($prost)*)] pub(crate) $field: $type,)*
        }
    )* };
}

messages! {
    /// ModelProto.
    Model {
        ir_version: u64 [uint64, tag = "1"];
        producer_name: Bytes [bytes = "bytes", tag = "2"];
        producer_version: Bytes [bytes = "bytes", tag = "3"];
        domain: Bytes [bytes = "bytes", tag = "4"];
        model_version: u64 [uint64, tag = "5"];
        doc_string: Bytes [bytes = "bytes", tag = "6"];
        graph: Option<Bytes> [bytes = "bytes", optional, tag = "7"];
        opset_import: Vec<Bytes> [bytes = "bytes", repeated, tag = "8"];
        metadata_props: Vec<Bytes> [bytes = "bytes", repeated, tag = "14"];
        training_info: Vec<Bytes> [bytes = "bytes", repeated, tag = "20"];
        functions: Vec<Bytes> [bytes = "bytes", repeated, tag = "25"];
        configuration: Vec<Bytes> [bytes = "bytes", repeated, tag = "26"];
    }

    /// OperatorSetIdProto.
    OperatorSet {
        /// Empty: ONNX itself.
        domain: String [string, tag = "1"];
        version: u64 [uint64, tag = "2"];
    }

    /// StringStringEntryProto. Exporters write any text here, so it need not be UTF-8.
    Entry {
        key: Bytes [bytes = "bytes", tag = "1"];
        value: Bytes [bytes = "bytes", tag = "2"];
    }

    /// FunctionProto: only what the gate needs.
    Function {
        domain: String [string, tag = "10"];
    }

    /// GraphProto.
    Graph {
        node: Vec<Bytes> [bytes = "bytes", repeated, tag = "1"];
        name: Bytes [bytes = "bytes", tag = "2"];
        initializer: Vec<Bytes> [bytes = "bytes", repeated, tag = "5"];
        doc_string: Bytes [bytes = "bytes", tag = "10"];
        input: Vec<Bytes> [bytes = "bytes", repeated, tag = "11"];
        output: Vec<Bytes> [bytes = "bytes", repeated, tag = "12"];
        value_info: Vec<Bytes> [bytes = "bytes", repeated, tag = "13"];
        quantization_annotation: Vec<Bytes> [bytes = "bytes", repeated, tag = "14"];
        sparse_initializer: Vec<Bytes> [bytes = "bytes", repeated, tag = "15"];
        metadata_props: Vec<Bytes> [bytes = "bytes", repeated, tag = "16"];
    }

    /// NodeProto.
    Node {
        input: Vec<String> [string, repeated, tag = "1"];
        output: Vec<String> [string, repeated, tag = "2"];
        name: Bytes [bytes = "bytes", tag = "3"];
        op_type: String [string, tag = "4"];
        attribute: Vec<Bytes> [bytes = "bytes", repeated, tag = "5"];
        doc_string: Bytes [bytes = "bytes", tag = "6"];
        domain: String [string, tag = "7"];
        overload: Bytes [bytes = "bytes", tag = "8"];
        metadata_props: Vec<Bytes> [bytes = "bytes", repeated, tag = "9"];
        device_configurations: Vec<Bytes> [bytes = "bytes", repeated, tag = "10"];
    }

    /// AttributeProto: not all fields, so it is read, or written anew, but never written back.
    Attribute {
        name: String [string, tag = "1"];
        i: Option<i64> [int64, optional, tag = "3"];
        t: Option<Tensor> [message, optional, tag = "5"];
        g: Option<Bytes> [bytes = "bytes", optional, tag = "6"];
        ints: Vec<i64> [int64, repeated, packed = "false", tag = "8"];
        graphs: Vec<Bytes> [bytes = "bytes", repeated, tag = "11"];
        kind: u64 [uint64, tag = "20"];
    }

    /// TensorProto of floats or raw bytes: not all fields, so it is read, or written anew, but never written back.
    Tensor {
        dims: Vec<u64> [uint64, repeated, packed = "false", tag = "1"];
        data_type: u64 [uint64, tag = "2"];
        float_data: Vec<f32> [float, repeated, tag = "4"];
        name: String [string, tag = "8"];
        raw_data: Option<Bytes> [bytes = "bytes", optional, tag = "9"];
    }

    /// SparseTensorProto: its name is that of its values.
    SparseTensor {
        values: Option<Tensor> [message, optional, tag = "1"];
    }

    /// ValueInfoProto.
    Value {
        name: String [string, tag = "1"];
        kind: Option<Type> [message, optional, tag = "2"];
    }

    /// TypeProto.
    Type {
        tensor: Option<TensorType> [message, optional, tag = "1"];
    }

    /// TypeProto.Tensor.
    TensorType {
        elem_type: u64 [uint64, tag = "1"];
        shape: Option<Shape> [message, optional, tag = "2"];
    }

    /// TensorShapeProto.
    Shape {
        dim: Vec<Axis> [message, repeated, tag = "1"];
    }

    /// TensorShapeProto.Dimension.
    Axis {
        length: Option<Length> [oneof = "Length", tags = "1, 2"];
    }
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
