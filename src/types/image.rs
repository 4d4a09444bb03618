//! Borrowed pixels, as the decoder left them.

use super::Size;

/// One plane: `stride` bytes from a row to the next.
#[derive(Debug, Clone, Copy)]
pub struct Plane<'a> {
    /// The plane's bytes; the last row may end before a full stride.
    pub data: &'a [u8],
    /// Bytes from one row's start to the next one's.
    pub stride: usize,
}

/// One writable plane.
#[derive(Debug)]
pub struct PlaneMut<'a> {
    /// The plane's bytes; the last row may end before a full stride.
    pub data: &'a mut [u8],
    /// Bytes from one row's start to the next one's.
    pub stride: usize,
}

/// Which weights turn Y'CbCr into R'G'B'.
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

/// How the planes are to be read as colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ColorSpec {
    /// Matrix of the stream.
    pub matrix: ColorMatrix,
    /// Range of the stream.
    pub range: ColorRange,
}

/// A readable picture, in the decoder's own layout. Chroma planes hold `ceil(w/2)` × `ceil(h/2)` samples.
#[derive(Debug, Clone, Copy)]
pub enum ImageView<'a> {
    /// Three planes Y, U (Cb), V (Cr).
    I420 {
        /// Width and height of the picture.
        size: Size,
        /// Luma.
        y: Plane<'a>,
        /// Cb.
        u: Plane<'a>,
        /// Cr.
        v: Plane<'a>,
        /// Colorimetry.
        color: ColorSpec,
    },
    /// Two planes Y and interleaved UV.
    Nv12 {
        /// Width and height of the picture.
        size: Size,
        /// Luma.
        y: Plane<'a>,
        /// Cb and Cr, interleaved.
        uv: Plane<'a>,
        /// Colorimetry.
        color: ColorSpec,
    },
    /// One plane of R, G, B bytes: still pictures only, never video.
    Rgb {
        /// Width and height of the picture.
        size: Size,
        /// R, G, B, R, G, B, …
        rgb: Plane<'a>,
    },
}

impl ImageView<'_> {
    /// Width and height of the picture.
    pub fn size(&self) -> Size {
        match self {
            Self::I420 { size, .. } | Self::Nv12 { size, .. } | Self::Rgb { size, .. } => *size,
        }
    }
}

/// A writable picture: what boxes are painted into.
#[derive(Debug)]
pub enum ImageViewMut<'a> {
    /// Three planes Y, U, V.
    I420 {
        /// Width and height of the picture.
        size: Size,
        /// Luma.
        y: PlaneMut<'a>,
        /// Cb.
        u: PlaneMut<'a>,
        /// Cr.
        v: PlaneMut<'a>,
        /// Colorimetry.
        color: ColorSpec,
    },
    /// Two planes Y and interleaved UV.
    Nv12 {
        /// Width and height of the picture.
        size: Size,
        /// Luma.
        y: PlaneMut<'a>,
        /// Cb and Cr, interleaved.
        uv: PlaneMut<'a>,
        /// Colorimetry.
        color: ColorSpec,
    },
    /// One plane of R, G, B bytes: still pictures only.
    Rgb {
        /// Width and height of the picture.
        size: Size,
        /// R, G, B, R, G, B, …
        rgb: PlaneMut<'a>,
    },
}

impl ImageViewMut<'_> {
    /// Width and height of the picture.
    pub fn size(&self) -> Size {
        match self {
            Self::I420 { size, .. } | Self::Nv12 { size, .. } | Self::Rgb { size, .. } => *size,
        }
    }
}
