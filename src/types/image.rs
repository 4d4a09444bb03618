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

/// Chroma planes hold `ceil(w/2)` × `ceil(h/2)` samples.
#[derive(Debug, Clone, Copy)]
pub enum ImageView<'a> {
    I420 {
        size: Size,
        y: Plane<'a>,
        u: Plane<'a>,
        v: Plane<'a>,
        color: ColorSpec,
    },
    Nv12 {
        size: Size,
        y: Plane<'a>,
        uv: Plane<'a>,
        color: ColorSpec,
    },
    /// Still pictures only, never video.
    Rgb {
        size: Size,
        rgb: Plane<'a>,
    },
}

impl ImageView<'_> {
    pub fn size(&self) -> Size {
        match self {
            Self::I420 { size, .. } | Self::Nv12 { size, .. } | Self::Rgb { size, .. } => *size,
        }
    }
}

/// What boxes are drawn into.
#[derive(Debug)]
pub enum ImageViewMut<'a> {
    I420 {
        size: Size,
        y: PlaneMut<'a>,
        u: PlaneMut<'a>,
        v: PlaneMut<'a>,
        color: ColorSpec,
    },
    Nv12 {
        size: Size,
        y: PlaneMut<'a>,
        uv: PlaneMut<'a>,
        color: ColorSpec,
    },
    /// Still pictures only.
    Rgb {
        size: Size,
        rgb: PlaneMut<'a>,
    },
}

impl ImageViewMut<'_> {
    pub fn size(&self) -> Size {
        match self {
            Self::I420 { size, .. } | Self::Nv12 { size, .. } | Self::Rgb { size, .. } => *size,
        }
    }
}
