//! A frame number painted into the frame, so that tests recognise frames after lossy coding.
//!
//! Eighteen cells of 8×8 pixels in the bottom left corner, luma only: one white, one black (so that a frame without a
//! counter is not read as one), then the sixteen bits of the number, most significant first, white for 1.

use crate::types::ImageViewMut;

/// Side of one cell in pixels: a whole block of the transform, so that coding keeps it.
const CELL: usize = 8;
/// Two marks and sixteen bits.
const CELLS: usize = 18;
const BLACK: u8 = 16;
const WHITE: u8 = 235;

/// Paints `number`. Returns false, and paints nothing, when the frame is smaller than 144×8 or has no luma plane.
pub fn write_counter(view: &mut ImageViewMut<'_>, number: u16) -> bool {
    let size = view.size();
    let (ImageViewMut::I420 { y, .. } | ImageViewMut::Nv12 { y, .. }) = view else {
        return false;
    };
    let Some(top) = first_row(size.w, size.h) else {
        return false;
    };
    let bits = cells(number);
    for row in top..top + CELL {
        let start = row * y.stride;
        let Some(line) = y.data.get_mut(start..start + CELL * CELLS) else {
            return false;
        };
        for (cell, white) in line.chunks_exact_mut(CELL).zip(bits) {
            cell.fill(if white { WHITE } else { BLACK });
        }
    }
    true
}

fn cells(number: u16) -> [bool; CELLS] {
    let bits = 0b10 << 16 | u32::from(number);
    std::array::from_fn(|n| bits >> (CELLS - 1 - n) & 1 == 1)
}

fn first_row(w: u32, h: u32) -> Option<usize> {
    (w as usize >= CELL * CELLS).then(|| (h as usize).checked_sub(CELL)).flatten()
}
