//! The picture that is shown while a camera has none.

use crate::types::ImageViewMut;

use super::canvas::{Canvas, Rect};
use super::text::{Font, Line};

const BACKGROUND: [u8; 3] = [22, 26, 32];
const ACCENT: [u8; 3] = [255, 159, 28];
const TITLE: [u8; 3] = [240, 240, 240];
const DETAIL: [u8; 3] = [168, 176, 186];

/// Fills the picture with a dark card: `title` large in the middle, `detail` below it. Text that is too wide is cut.
pub fn slate(view: &mut ImageViewMut<'_>, title: &str, detail: &str) {
    let mut canvas = Canvas::new(view);
    let (w, h) = (canvas.size().w as usize, canvas.size().h as usize);
    let whole = Rect::new(0, 0, i32::MAX, i32::MAX);
    canvas.fill(whole, canvas.ink(BACKGROUND));
    let small = Font::for_height(canvas.size().h);
    let large = if h < 400 { small } else { Font::LARGE };
    let gap = small.height() / 2;
    let block = large.height() + gap + 4 + gap + small.height();
    let top = h.saturating_sub(block) / 2;
    write_centred(&mut canvas, large, top, title, TITLE);
    let bar = top + large.height() + gap;
    let (left, half) = ((w / 2) as i32, (w / 16) as i32);
    canvas.fill(Rect::new(left - half, bar as i32, left + half, bar as i32 + 4), canvas.ink(ACCENT));
    write_centred(&mut canvas, small, bar + 4 + gap, detail, DETAIL);
}

fn write_centred(canvas: &mut Canvas<'_, '_>, font: Font, y: usize, text: &str, rgb: [u8; 3]) {
    let mut line = Line::new();
    line.push(text, canvas.size().w as usize / font.width().max(1));
    let x = (canvas.size().w as usize).saturating_sub(line.chars().len() * font.width()) / 2;
    font.write(canvas, x, y, line.chars(), canvas.ink(rgb));
}
