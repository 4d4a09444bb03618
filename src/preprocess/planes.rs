//! Planes whose extents were checked.

use crate::types::{ImageView, Plane, Size};

/// Why a picture cannot become a tensor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PreprocessError {
    #[error("a picture of {0} cannot be scaled: its sides must be 1 … 32768 pixels")]
    Size(Size),
    #[error(
        "the {plane} plane of a {size} picture is too short: {have} bytes with a stride of {stride}, expected {need} bytes"
    )]
    Plane { plane: &'static str, size: Size, have: usize, stride: usize, need: usize },
    #[error("the tensor holds {have} elements, the model's input needs {need}")]
    Tensor { have: usize, need: usize },
}

/// Longest side: four times that of 8K.
const MAX_SIDE: u32 = 32_768;

/// Rows of one plane; every row exists.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    data: &'a [u8],
    stride: usize,
    width: usize,
}

impl<'a> Rows<'a> {
    fn new(
        plane: Plane<'a>,
        name: &'static str,
        size: Size,
        width: usize,
        height: u32,
    ) -> Result<Self, PreprocessError> {
        let last = (height as usize).saturating_sub(1);
        let need = plane.stride.checked_mul(last).and_then(|n| n.checked_add(width)).unwrap_or(usize::MAX);
        if plane.stride < width || plane.data.len() < need {
            let (have, stride, need) = (plane.data.len(), plane.stride, need.max(width));
            return Err(PreprocessError::Plane { plane: name, size, have, stride, need });
        }
        Ok(Self { data: plane.data, stride: plane.stride, width })
    }

    /// The samples of row `y`, without padding.
    pub(super) fn row(&self, y: usize) -> &'a [u8] {
        &self.data[y * self.stride..][..self.width]
    }
}

/// The planes of a picture, checked.
pub(super) enum Planes<'a> {
    I420([Rows<'a>; 3]),
    Nv12([Rows<'a>; 2]),
    Rgb(Rows<'a>),
}

impl<'a> Planes<'a> {
    pub(super) fn new(image: &ImageView<'a>) -> Result<Self, PreprocessError> {
        let size = image.size();
        if !(1..=MAX_SIDE).contains(&size.w) || !(1..=MAX_SIDE).contains(&size.h) {
            return Err(PreprocessError::Size(size));
        }
        let (w, half_w, half_h) = (size.w as usize, size.w.div_ceil(2) as usize, size.h.div_ceil(2));
        Ok(match *image {
            ImageView::I420 { y, u, v, .. } => Self::I420([
                Rows::new(y, "Y", size, w, size.h)?,
                Rows::new(u, "U", size, half_w, half_h)?,
                Rows::new(v, "V", size, half_w, half_h)?,
            ]),
            ImageView::Nv12 { y, uv, .. } => {
                Self::Nv12([Rows::new(y, "Y", size, w, size.h)?, Rows::new(uv, "UV", size, half_w * 2, half_h)?])
            }
            ImageView::Rgb { rgb, .. } => Self::Rgb(Rows::new(rgb, "RGB", size, w * 3, size.h)?),
        })
    }
}
