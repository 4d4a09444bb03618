//! The tensors that go into a model and come out of it.

use serde::{Deserialize, Serialize};

use super::{Anchor, Family};
use crate::types::{Padding, Size};

/// Most output tensors that a family's decoder reads.
pub const MAX_OUTPUTS: usize = 4;

/// Type of a tensor's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Elem {
    /// Single precision.
    #[default]
    Float32,
    /// Half precision.
    Float16,
    /// Bytes 0 … 255.
    Uint8,
    /// Class numbers and counts.
    Int32,
    /// Class numbers and counts.
    Int64,
}

impl Elem {
    /// From `TensorProto.DataType`; `None`: a type that Ocelli does not read.
    pub const fn from_onnx(elem: u64) -> Option<Self> {
        match elem {
            1 => Some(Self::Float32),
            2 => Some(Self::Uint8),
            6 => Some(Self::Int32),
            7 => Some(Self::Int64),
            10 => Some(Self::Float16),
            _ => None,
        }
    }

    /// The name for people and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Float32 => "float32",
            Self::Float16 => "float16",
            Self::Uint8 => "uint8",
            Self::Int32 => "int32",
            Self::Int64 => "int64",
        }
    }
}

/// Order of the colour planes in the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChannelOrder {
    /// Red first.
    #[default]
    Rgb,
    /// Blue first, as OpenCV reads pictures.
    Bgr,
}

/// The input: one picture of three planes.
#[derive(Debug, Clone, PartialEq)]
pub struct InputSpec {
    /// Name in the graph.
    pub name: String,
    /// Width and height in pixels.
    pub size: Size,
    /// What its numbers are in the file; the session converts single floats.
    pub elem: Elem,
    /// `[1, h, w, 3]` instead of `[1, 3, h, w]`; the session turns the planes into pixels.
    pub channels_last: bool,
    /// Order of the colour planes.
    pub order: ChannelOrder,
    /// Pixels 0 … 255 are divided by this: 255 or 1.
    pub scale: f32,
    /// Where the letterbox puts its border.
    pub padding: Padding,
    /// Grey level of the border, 0 … 255, before the division.
    pub pad_value: u8,
    /// A second input `[1, 2]` of int64, which takes width and height of the first one ([`Family::DetrBoxes`]).
    pub size_input: Option<String>,
}

impl InputSpec {
    /// Its shape.
    pub fn shape(&self) -> [usize; 4] {
        let (h, w) = (self.size.h as usize, self.size.w as usize);
        if self.channels_last { [1, h, w, 3] } else { [1, 3, h, w] }
    }
}

/// One tensor that the decoder reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// Name in the graph.
    pub name: String,
    /// Its shape with a batch of one. A leading 0: as many rows as the frame has boxes.
    pub shape: Vec<usize>,
    /// What its numbers are in the file; the session hands out single floats.
    pub elem: Elem,
}

impl TensorSpec {
    /// How many numbers it holds; 0 when that differs from frame to frame.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// True when the number of rows differs from frame to frame.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a tensor of `len` numbers can be this one.
    pub fn takes(&self, len: usize) -> bool {
        match self.shape.as_slice() {
            [0, rest @ ..] => len.is_multiple_of(rest.iter().product::<usize>().max(1)),
            _ => len == self.len(),
        }
    }
}

/// What comes out.
#[derive(Debug, Clone, PartialEq)]
pub struct OutputSpec {
    /// The layout.
    pub family: Family,
    /// N: boxes before the threshold.
    pub rows: usize,
    /// nc.
    pub classes: usize,
    /// What the decoder reads, in its order; [`MAX_OUTPUTS`] at most. There may be other outputs in the file.
    pub tensors: Vec<TensorSpec>,
    /// Per head its anchors, for [`Family::YoloV5Heads`]; else empty.
    pub anchors: Vec<Vec<Anchor>>,
}

impl OutputSpec {
    /// Of a family that has one output tensor, in single precision.
    pub fn single(name: &str, family: Family, rows: usize, classes: usize) -> Self {
        let shape = family.shape(rows, classes).to_vec();
        let tensors = vec![TensorSpec { name: name.to_owned(), shape, elem: Elem::Float32 }];
        Self { family, rows, classes, tensors, anchors: Vec::new() }
    }

    /// How many numbers all tensors hold together.
    pub fn len(&self) -> usize {
        self.tensors.iter().map(TensorSpec::len).sum()
    }

    /// True when the number of rows differs from frame to frame.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
