//! Borrowed pixels in the decoder's own layout.

use super::geometry::Size;

/// Rows begin `stride` bytes apart.
#[derive(Debug, Clone, Copy)]
pub struct Plane<'a> {
    /// The last row may end before a full stride.
    pub data: &'a [u8],
    pub stride: usize,
}

#[derive(Debug)]
pub struct PlaneMut<'a> {
    /// The last row may end before a full stride.
    pub data: &'a mut [u8],
    pub stride: usize,
}

/// How Y'CbCr is converted to R'G'B'.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ColorMatrix {
    /// ITU-R BT.601 (SD video, JPEG).
    #[default]
    Bt601,
    /// ITU-R BT.709 (HD video).
    Bt709,
    /// ITU-R BT.2020 non-constant luminance.
    Bt2020,
}

impl ColorMatrix {
    /// Weights of red and blue in luma, from the standards.
    pub(crate) const fn red_and_blue(self) -> (f32, f32) {
        match self {
            Self::Bt601 => (0.299, 0.114),
            Self::Bt709 => (0.2126, 0.0722),
            Self::Bt2020 => (0.2627, 0.0593),
        }
    }
}

/// Which code values are black and white.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ColorRange {
    /// 16 … 235 luma, 16 … 240 chroma.
    #[default]
    Limited,
    /// 0 … 255.
    Full,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ColorSpec {
    pub matrix: ColorMatrix,
    pub range: ColorRange,
}

/// A picture of planes `P`. Chroma planes hold `ceil(w/2)` × `ceil(h/2)` samples.
#[derive(Debug, Clone, Copy)]
pub enum Image<P> {
    I420 {
        size: Size,
        y: P,
        u: P,
        v: P,
        color: ColorSpec,
    },
    Nv12 {
        size: Size,
        y: P,
        uv: P,
        color: ColorSpec,
    },
    /// Still pictures only, never video.
    Rgb {
        size: Size,
        rgb: P,
    },
}

pub type ImageView<'a> = Image<Plane<'a>>;
/// What boxes are drawn into.
pub type ImageViewMut<'a> = Image<PlaneMut<'a>>;

impl<P> Image<P> {
    pub fn size(&self) -> Size {
        match self {
            Self::I420 { size, .. } | Self::Nv12 { size, .. } | Self::Rgb { size, .. } => *size,
        }
    }
}
