//! Boxes and their labels.

use std::fmt::Write;

use crate::types::{Detection, ImageViewMut, ModelId, PixelBox, Size};

use super::canvas::{Canvas, Rect};
use super::palette::{class_color, text_color};
use super::text::{Font, Line};

/// Labels are cut to this many characters; the score is always shown.
const LABEL_CHARS: usize = 32;
/// Columns left and right of the text.
const PADDING: usize = 4;

/// Draws each detection's box and a plate with its label and score. Boxes are in pixels of the picture and cut to it; a
/// box without area or with NaN is left out. The best score (first in the list) is on top.
///
/// Lines are 2 … 4 pixels wide and inside the box, so that a box at the picture's edge is visible. On subsampled chroma
/// the box grows to even pixels, which keeps the colour pure.
pub fn draw(view: &mut ImageViewMut<'_>, detections: &[Detection], model: &ModelId) {
    let mut canvas = Canvas::new(view);
    for detection in detections.iter().rev() {
        if let Some(outline) = outline(&detection.bbox, canvas.size(), canvas.subsampled()) {
            frame(&mut canvas, outline, class_color(detection.class_id));
        }
    }
    // Plates in a second pass: no line crosses a label.
    for detection in detections.iter().rev() {
        if let Some(outline) = outline(&detection.bbox, canvas.size(), canvas.subsampled()) {
            plate(&mut canvas, outline, detection, model);
        }
    }
}

/// The pixels that a box touches, cut to the picture.
fn outline(bbox: &PixelBox, size: Size, even: bool) -> Option<Rect> {
    if [bbox.x1, bbox.y1, bbox.x2, bbox.y2].iter().any(|v| v.is_nan()) {
        return None;
    }
    let inside = bbox.clipped(size);
    if inside.x2 <= inside.x1 || inside.y2 <= inside.y1 {
        return None;
    }
    let low = |v: f32| if even { v.floor() as i32 & !1 } else { v.floor() as i32 };
    let high = |v: f32| if even { (v.ceil() as i32 + 1) & !1 } else { v.ceil() as i32 };
    Some(Rect::new(low(inside.x1), low(inside.y1), high(inside.x2), high(inside.y2)))
}

/// 2 pixels up to about 750 rows, 4 from 1050 on.
fn line_width(size: Size) -> i32 {
    ((size.h.min(4096) as i32 + 150) / 300).clamp(2, 4)
}

fn frame(canvas: &mut Canvas<'_, '_>, r: Rect, rgb: [u8; 3]) {
    let ink = canvas.ink(rgb);
    let line = line_width(canvas.size());
    // Lines of a box thinner than two of them meet in its middle.
    let (x1, x2) = ((r.x1 + line).min(r.x2), (r.x2 - line).max(r.x1));
    let (y1, y2) = ((r.y1 + line).min(r.y2), (r.y2 - line).max(r.y1));
    canvas.fill(Rect::new(r.x1, r.y1, r.x2, y1), ink);
    canvas.fill(Rect::new(r.x1, y2, r.x2, r.y2), ink);
    canvas.fill(Rect::new(r.x1, y1, x1, y2), ink);
    canvas.fill(Rect::new(x2, y1, r.x2, y2), ink);
}

fn plate(canvas: &mut Canvas<'_, '_>, at: Rect, detection: &Detection, model: &ModelId) {
    let font = Font::for_height(canvas.size().h);
    let (w, h) = (canvas.size().w as usize, canvas.size().h as usize);
    let room = w.saturating_sub(2 * PADDING) / font.width().max(1);
    let line = caption(detection, model, room);
    let (width, height) = (line.chars().len() * font.width() + 2 * PADDING, font.height().next_multiple_of(2));
    if line.chars().is_empty() || width > w || height > h {
        return;
    }
    let x = (at.x1 as usize).min(w - width) & !1;
    // Above the box; inside when there is no room above.
    let y = (at.y1 as usize).checked_sub(height).unwrap_or(at.y1 as usize).min(h - height) & !1;
    let rgb = class_color(detection.class_id);
    let (x2, y2) = ((x + width) as i32, (y + height) as i32);
    canvas.fill(Rect::new(x as i32, y as i32, x2, y2), canvas.ink(rgb));
    font.write(canvas, x + PADDING, y, line.chars(), canvas.ink(text_color(rgb)));
}

/// `person 0.87` in at most `room` characters: the label is cut, the score is not; empty when even that has no room.
fn caption(detection: &Detection, model: &ModelId, room: usize) -> Line {
    let mut score = Line::new();
    // Writing into a line cannot fail; it cuts.
    let _ = write!(score, " {:.2}", detection.score);
    let mut line = Line::new();
    let Some(left) = room.checked_sub(score.chars().len()) else { return line };
    match model.labels.get(detection.class_id as usize) {
        Some(label) => line.push(label, left.min(LABEL_CHARS)),
        None => {
            let _ = write!(line, "class{}", detection.class_id);
        }
    }
    line.truncate(left);
    line.append(&score);
    line
}

#[cfg(test)]
#[path = "draw_tests.rs"]
mod tests;
