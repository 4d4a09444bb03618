//! The tensors that go into a model and come out of it.

use serde::{Deserialize, Serialize};

use super::family::Family;
use crate::onnx::messages::data_type;
use crate::types::{Padding, Size, named};

/// Width and height of one anchor in input pixels.
pub type Anchor = [f32; 2];

/// Most output tensors that a family's decoder reads.
pub const MAX_OUTPUTS: usize = 4;

named! {
    /// Type of a tensor's elements.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
    pub enum Elem {
        #[default]
        Float32 = "float32",
        Float16 = "float16",
        Uint8 = "uint8",
        Int32 = "int32",
        Int64 = "int64",
    }
}

impl Elem {
    /// From `TensorProto.DataType`; `None`: a type that Ocelli does not read.
    pub const fn from_onnx(elem: u64) -> Option<Self> {
        match elem {
            data_type::FLOAT => Some(Self::Float32),
            data_type::UINT8 => Some(Self::Uint8),
            data_type::INT32 => Some(Self::Int32),
            data_type::INT64 => Some(Self::Int64),
            data_type::HALF => Some(Self::Float16),
            _ => None,
        }
    }
}

/// Most frames in one run.
pub const MAX_BATCH: usize = 64;

/// How many frames one run of the model takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch {
    /// At most this many, 1 … [`MAX_BATCH`].
    pub size: usize,
    /// Any number up to that, because the batch is a symbolic axis of the input and of every output. Else exactly that
    /// many.
    pub open: bool,
}

impl Batch {
    pub const ONE: Self = Self { size: 1, open: false };
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChannelOrder {
    #[default]
    Rgb,
    /// As OpenCV reads pictures.
    Bgr,
}

/// One picture of three planes.
#[derive(Debug, Clone, PartialEq)]
pub struct InputSpec {
    pub name: String,
    pub size: Size,
    /// Type in the file; the session converts from f32.
    pub elem: Elem,
    /// `[1, h, w, 3]` instead of `[1, 3, h, w]`; the session transposes the planes.
    pub channels_last: bool,
    pub order: ChannelOrder,
    /// Pixels 0 … 255 are divided by this: 255 or 1.
    pub scale: f32,
    /// Where the letterbox puts its border.
    pub padding: Padding,
    /// Grey level of the border, 0 … 255, before the division.
    pub pad_value: u8,
    /// A second input `[1, 2]` of int64 for width and height of the first one ([`Family::DetrBoxes`]).
    pub size_input: Option<String>,
    pub batch: Batch,
}

impl InputSpec {
    pub fn shape(&self, frames: usize) -> [usize; 4] {
        let (h, w) = (self.size.h as usize, self.size.w as usize);
        if self.channels_last { [frames, h, w, 3] } else { [frames, 3, h, w] }
    }

    /// Grey level of the border in the model's range.
    pub fn border(&self) -> f32 {
        f32::from(self.pad_value) / self.scale
    }

    /// The planes of an empty letterbox, for warm-up and measuring.
    pub fn empty_frame(&self) -> Vec<f32> {
        vec![self.border(); self.frame_len()]
    }

    /// Elements of one frame: 3·h·w.
    pub fn frame_len(&self) -> usize {
        3 * self.size.w as usize * self.size.h as usize
    }
}

/// One frame's input tensor, borrowed.
#[derive(Debug, Clone, Copy)]
pub enum Input<'a> {
    /// Planes `[3, h, w]` in the model's range. Every session takes them and converts to the model's type and layout.
    Planes(&'a [f32]),
    /// Bytes in the model's own layout, `[3, h, w]` or `[h, w, 3]`; for models that take bytes ([`Elem::Uint8`]).
    Bytes(&'a [u8]),
}

impl Input<'_> {
    /// Elements.
    pub fn len(&self) -> usize {
        match self {
            Self::Planes(values) => values.len(),
            Self::Bytes(values) => values.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One frame's input tensor, owned: what a frame is preprocessed into.
#[derive(Debug, Clone, PartialEq)]
pub enum InputTensor {
    /// See [`Input::Planes`].
    Planes(Vec<f32>),
    /// See [`Input::Bytes`].
    Bytes(Vec<u8>),
}

impl InputTensor {
    /// One frame of zeros, in the form that its session need not convert, where possible.
    pub fn new(spec: &InputSpec) -> Self {
        match spec.elem {
            Elem::Uint8 => Self::Bytes(vec![0; spec.frame_len()]),
            _ => Self::Planes(vec![0.0; spec.frame_len()]),
        }
    }

    /// A buffer that did not come back from the engine.
    pub const fn lost() -> Self {
        Self::Planes(Vec::new())
    }

    pub fn view(&self) -> Input<'_> {
        match self {
            Self::Planes(values) => Input::Planes(values),
            Self::Bytes(values) => Input::Bytes(values),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.view().is_empty()
    }
}

/// One tensor that the decoder reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    pub name: String,
    /// For one frame. A leading 0: as many rows as the frame has boxes.
    pub shape: Vec<usize>,
    /// Type in the file; the session returns f32.
    pub elem: Elem,
}

impl TensorSpec {
    /// Elements; 0 when that differs from frame to frame.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a tensor of `len` elements can be this one.
    pub fn takes(&self, len: usize) -> bool {
        match self.shape.as_slice() {
            [0, rest @ ..] => len.is_multiple_of(rest.iter().product::<usize>().max(1)),
            _ => len == self.len(),
        }
    }
}

/// What the decoder reads.
#[derive(Debug, Clone, PartialEq)]
pub struct OutputSpec {
    pub family: Family,
    /// N: boxes before the threshold.
    pub rows: usize,
    pub classes: usize,
    /// In the decoder's order; at most [`MAX_OUTPUTS`]. The file may have more outputs.
    pub tensors: Vec<TensorSpec>,
    /// The anchors of each head of [`Family::YoloV5Heads`]; else empty.
    pub anchors: Vec<Vec<Anchor>>,
}

impl OutputSpec {
    /// One output tensor of f32.
    pub fn single(name: &str, family: Family, rows: usize, classes: usize) -> Self {
        let shape = family.shape(rows, classes).to_vec();
        let tensors = vec![TensorSpec { name: name.to_owned(), shape, elem: Elem::Float32 }];
        Self { family, rows, classes, tensors, anchors: Vec::new() }
    }

    /// Elements of all tensors; 0 when that differs from frame to frame.
    pub fn len(&self) -> usize {
        self.tensors.iter().map(TensorSpec::len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
