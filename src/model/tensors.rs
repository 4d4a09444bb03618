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

/// Most frames in one run.
pub const MAX_BATCH: usize = 64;

/// How many frames one run of the model takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch {
    /// At most this many, 1 … [`MAX_BATCH`].
    pub size: usize,
    /// Any number up to that: the batch is an open axis of the input and of every output. Else exactly that many.
    pub open: bool,
}

impl Batch {
    /// One frame, as nearly all exports take.
    pub const ONE: Self = Self { size: 1, open: false };
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
    /// Frames in one run.
    pub batch: Batch,
}

impl InputSpec {
    /// Its shape with `frames` in the batch.
    pub fn shape(&self, frames: usize) -> [usize; 4] {
        let (h, w) = (self.size.h as usize, self.size.w as usize);
        if self.channels_last { [frames, h, w, 3] } else { [frames, 3, h, w] }
    }

    /// The border's grey in the model's range.
    pub fn border(&self) -> f32 {
        f32::from(self.pad_value) / self.scale
    }

    /// The planes of an empty letterbox, for runs that only warm up or measure.
    pub fn empty_frame(&self) -> Vec<f32> {
        vec![self.border(); self.frame_len()]
    }

    /// Numbers that one frame takes: 3·h·w.
    pub fn frame_len(&self) -> usize {
        3 * self.size.w as usize * self.size.h as usize
    }
}

/// One frame's input tensor, borrowed.
#[derive(Debug, Clone, Copy)]
pub enum Input<'a> {
    /// Planes `[3, h, w]` in the model's range. Every model takes them; its session converts to the model's type and
    /// layout.
    Planes(&'a [f32]),
    /// Bytes in the model's own layout, `[3, h, w]` or `[h, w, 3]`; for models that take bytes ([`Elem::Uint8`]).
    Bytes(&'a [u8]),
}

impl Input<'_> {
    /// How many numbers.
    pub fn len(&self) -> usize {
        match self {
            Self::Planes(values) => values.len(),
            Self::Bytes(values) => values.len(),
        }
    }

    /// True without any.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The same, owned: what a frame is preprocessed into.
#[derive(Debug, Clone, PartialEq)]
pub enum InputTensor {
    /// See [`Input::Planes`].
    Planes(Vec<f32>),
    /// See [`Input::Bytes`].
    Bytes(Vec<u8>),
}

impl InputTensor {
    /// One frame of zeros, in the form that costs the model's session the least.
    pub fn new(spec: &InputSpec) -> Self {
        match spec.elem {
            Elem::Uint8 => Self::Bytes(vec![0; spec.frame_len()]),
            _ => Self::Planes(vec![0.0; spec.frame_len()]),
        }
    }

    /// Nothing: a buffer that is lost.
    pub const fn lost() -> Self {
        Self::Planes(Vec::new())
    }

    /// Borrowed.
    pub fn view(&self) -> Input<'_> {
        match self {
            Self::Planes(values) => Input::Planes(values),
            Self::Bytes(values) => Input::Bytes(values),
        }
    }

    /// True for a buffer that is lost.
    pub fn is_empty(&self) -> bool {
        self.view().is_empty()
    }
}

/// One tensor that the decoder reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// Name in the graph.
    pub name: String,
    /// Its shape for one frame. A leading 0: as many rows as the frame has boxes.
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
