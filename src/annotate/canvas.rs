//! Filled rectangles and glyphs, written straight into the planes of a picture.
//!
//! Every write goes through a checked slice: on a plane that is too short, pixels are missing, and nothing else happens.

use crate::types::{ColorSpec, ImageViewMut, PlaneMut, Size};

use super::palette::to_ycbcr;

/// Half-open, in pixels; may lie outside of the picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rect {
    pub(super) x1: i32,
    pub(super) y1: i32,
    pub(super) x2: i32,
    pub(super) y2: i32,
}

impl Rect {
    pub(super) const fn new(x1: i32, y1: i32, x2: i32, y2: i32) -> Self {
        Self { x1, y1, x2, y2 }
    }
}

/// A colour in the code values of one picture: Y, Cb, Cr or R, G, B.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ink([u8; 3]);

pub(super) struct Canvas<'v, 'a> {
    view: &'v mut ImageViewMut<'a>,
    size: Size,
    color: Option<ColorSpec>,
}

impl<'v, 'a> Canvas<'v, 'a> {
    pub(super) fn new(view: &'v mut ImageViewMut<'a>) -> Self {
        let size = view.size();
        let color = match view {
            ImageViewMut::I420 { color, .. } | ImageViewMut::Nv12 { color, .. } => Some(*color),
            ImageViewMut::Rgb { .. } => None,
        };
        Self { view, size, color }
    }

    pub(super) fn size(&self) -> Size {
        self.size
    }

    /// True when four pixels share one chroma sample.
    pub(super) fn subsampled(&self) -> bool {
        self.color.is_some()
    }

    /// `rgb` as this picture stores it.
    pub(super) fn ink(&self, rgb: [u8; 3]) -> Ink {
        Ink(self.color.map_or(rgb, |color| to_ycbcr(rgb, color)))
    }

    /// Fills the part of `rect` that lies in the picture.
    pub(super) fn fill(&mut self, rect: Rect, ink: Ink) {
        let limit = |v: i32, length: u32| v.clamp(0, i32::try_from(length).unwrap_or(i32::MAX)) as usize;
        let (x1, x2) = (limit(rect.x1, self.size.w), limit(rect.x2, self.size.w));
        let (y1, y2) = (limit(rect.y1, self.size.h), limit(rect.y2, self.size.h));
        if x1 >= x2 || y1 >= y2 {
            return;
        }
        let Ink([luma, ..]) = ink;
        match self.view {
            ImageViewMut::I420 { y, .. } | ImageViewMut::Nv12 { y, .. } => {
                for row in y1..y2 {
                    if let Some(span) = span(y, row, x1, x2) {
                        span.fill(luma);
                    }
                }
            }
            ImageViewMut::Rgb { rgb, .. } => {
                for row in y1..y2 {
                    for pixel in span(rgb, row, x1 * 3, x2 * 3).into_iter().flat_map(|s| s.chunks_exact_mut(3)) {
                        pixel.copy_from_slice(&ink.0);
                    }
                }
                return;
            }
        }
        // The last chroma sample of an odd picture covers one column (or row) only.
        let x2 = if x2 == self.size.w as usize { x2.next_multiple_of(2) } else { x2 };
        let y2 = if y2 == self.size.h as usize { y2.next_multiple_of(2) } else { y2 };
        for cy in y1 / 2..y2.div_ceil(2) {
            let high = covered(cy, y1, y2);
            for cx in x1 / 2..x2.div_ceil(2) {
                self.tint(cx, cy, ink, high * covered(cx, x1, x2) * 255);
            }
        }
    }

    /// Draws a glyph, given as rows of coverage 0 ..= 255, with its top left corner at `x`, `y`.
    pub(super) fn glyph(&mut self, x: usize, y: usize, raster: &[&[u8]], ink: Ink) {
        let (w, h) = (self.size.w as usize, self.size.h as usize);
        let Ink(codes) = ink;
        let channels = if self.subsampled() { 1 } else { 3 };
        let plane = match self.view {
            ImageViewMut::I420 { y, .. } | ImageViewMut::Nv12 { y, .. } => y,
            ImageViewMut::Rgb { rgb, .. } => rgb,
        };
        for (row, coverage) in (y..h).zip(raster) {
            let end = w.min(x.saturating_add(coverage.len()));
            let Some(span) = span(plane, row, x.min(end) * channels, end * channels) else { continue };
            for (pixel, alpha) in span.chunks_exact_mut(channels).zip(*coverage) {
                for (value, code) in pixel.iter_mut().zip(codes) {
                    *value = mix(*value, code, u32::from(*alpha), 255);
                }
            }
        }
        if self.subsampled() {
            self.glyph_chroma(x, y, raster, ink);
        }
    }

    fn glyph_chroma(&mut self, x: usize, y: usize, raster: &[&[u8]], ink: Ink) {
        let width = raster.first().map_or(0, |row| row.len());
        let (w, h) = (self.size.w as usize, self.size.h as usize);
        let (x2, y2) = (w.min(x.saturating_add(width)), h.min(y.saturating_add(raster.len())));
        let alpha = |px: usize, py: usize| -> u32 {
            let (Some(col), Some(row)) = (px.checked_sub(x), py.checked_sub(y)) else { return 0 };
            raster.get(row).and_then(|r| r.get(col)).map_or(0, |a| u32::from(*a))
        };
        for cy in y / 2..y2.div_ceil(2) {
            for cx in x / 2..x2.div_ceil(2) {
                let (px, py) = (cx * 2, cy * 2);
                let sum = alpha(px, py) + alpha(px + 1, py) + alpha(px, py + 1) + alpha(px + 1, py + 1);
                if sum > 0 {
                    self.tint(cx, cy, ink, sum);
                }
            }
        }
    }

    /// Moves one chroma sample towards `ink` by `weight` / 1020 (four pixels of full coverage).
    fn tint(&mut self, cx: usize, cy: usize, ink: Ink, weight: u32) {
        let Ink([_, cb, cr]) = ink;
        let pair = match self.view {
            ImageViewMut::I420 { u, v, .. } => (u.data.get_mut(cy * u.stride + cx), v.data.get_mut(cy * v.stride + cx)),
            ImageViewMut::Nv12 { uv, .. } => match span(uv, cy, cx * 2, cx * 2 + 2) {
                Some([u, v]) => (Some(u), Some(v)),
                _ => (None, None),
            },
            ImageViewMut::Rgb { .. } => (None, None),
        };
        if let (Some(u), Some(v)) = pair {
            *u = mix(*u, cb, weight, 4 * 255);
            *v = mix(*v, cr, weight, 4 * 255);
        }
    }
}

/// Bytes `from..to` of a row; `None`: the plane is too short.
fn span<'p>(plane: &'p mut PlaneMut<'_>, row: usize, from: usize, to: usize) -> Option<&'p mut [u8]> {
    if to > plane.stride {
        return None;
    }
    let start = row.checked_mul(plane.stride)?;
    plane.data.get_mut(start.checked_add(from)?..start.checked_add(to)?)
}

/// How many of the two columns (rows) of chroma sample `c` lie in `from..to`.
fn covered(c: usize, from: usize, to: usize) -> u32 {
    ((c * 2 + 2).min(to).saturating_sub((c * 2).max(from))) as u32
}

fn mix(from: u8, to: u8, weight: u32, whole: u32) -> u8 {
    ((u32::from(from) * (whole - weight.min(whole)) + u32::from(to) * weight.min(whole) + whole / 2) / whole) as u8
}
