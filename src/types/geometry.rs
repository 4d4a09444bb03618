//! Typed coordinates. All boxes are half-open: the width is `x2 - x1`.

use serde::{Deserialize, Serialize};

/// In pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Size {
    pub w: u32,
    pub h: u32,
}

impl Size {
    pub const fn new(w: u32, h: u32) -> Self {
        Self { w, h }
    }
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}x{}", self.w, self.h)
    }
}

/// A box in pixels of the source frame (or, before [`Letterbox::undo`], of the model's input), `x1 ≤ x2`, `y1 ≤ y2`.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct PixelBox {
    pub x1: f32,
    pub y1: f32,
    pub x2: f32,
    pub y2: f32,
}

impl PixelBox {
    pub const fn new(x1: f32, y1: f32, x2: f32, y2: f32) -> Self {
        Self { x1, y1, x2, y2 }
    }

    /// From centre, width and height.
    pub fn from_cxcywh(cx: f32, cy: f32, w: f32, h: f32) -> Self {
        Self::new(cx - w / 2.0, cy - h / 2.0, cx + w / 2.0, cy + h / 2.0)
    }

    /// Area in square pixels; 0 for an empty box.
    pub fn area(&self) -> f32 {
        (self.x2 - self.x1).max(0.0) * (self.y2 - self.y1).max(0.0)
    }

    /// Intersection over union in 0 ..= 1; 0 when both boxes are empty.
    pub fn iou(&self, other: &Self) -> f32 {
        let w = (self.x2.min(other.x2) - self.x1.max(other.x1)).max(0.0);
        let h = (self.y2.min(other.y2) - self.y1.max(other.y1)).max(0.0);
        let intersection = w * h;
        let union = self.area() + other.area() - intersection;
        if union > 0.0 { intersection / union } else { 0.0 }
    }

    /// The part of the box inside the frame `0 ..= w`, `0 ..= h`; may be empty.
    pub fn clipped(&self, frame: Size) -> Self {
        let (w, h) = (frame.w as f32, frame.h as f32);
        Self::new(self.x1.clamp(0.0, w), self.y1.clamp(0.0, h), self.x2.clamp(0.0, w), self.y2.clamp(0.0, h))
    }

    pub fn normalized(&self, frame: Size) -> NormBox {
        let (w, h) = (frame.w.max(1) as f32, frame.h.max(1) as f32);
        NormBox { x1: self.x1 / w, y1: self.y1 / h, x2: self.x2 / w, y2: self.y2 / h }
    }
}

/// A box in fractions 0 ..= 1 of the frame: the same on the main stream and on a sub-stream.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct NormBox {
    pub x1: f32,
    pub y1: f32,
    pub x2: f32,
    pub y2: f32,
}

impl NormBox {
    pub fn to_pixels(self, frame: Size) -> PixelBox {
        let (w, h) = (frame.w as f32, frame.h as f32);
        PixelBox::new(self.x1 * w, self.y1 * h, self.x2 * w, self.y2 * h)
    }
}

/// Where the letterbox puts its border.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Padding {
    /// Half on each side (YOLOv5 and its descendants).
    #[default]
    Centered,
    /// Right and bottom only (YOLOX).
    TopLeft,
}

/// How a frame was fitted into the model's input: scaled by `scale`, then padded.
///
/// Rounds like the reference implementation: `r = min(h'/h, w'/w)`, the scaled size is rounded to nearest (ties to even,
/// as Python does; down for [`Padding::TopLeft`], as YOLOX does), and the border is split by `round(d - 0.1)` /
/// `round(d + 0.1)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Letterbox {
    pub source: Size,
    pub target: Size,
    /// Size of the picture inside the border, at least 1×1.
    pub scaled: Size,
    /// Target pixels per source pixel.
    pub scale: f32,
    /// Columns of border on the left.
    pub left: u32,
    /// Rows of border at the top.
    pub top: u32,
    /// Border on the left, as the reference undoes it: not rounded to whole pixels.
    pad_x: f32,
    /// Border at the top, likewise.
    pad_y: f32,
}

impl Letterbox {
    /// Fits `source` into `target`. Both must be at least 1×1.
    pub fn new(source: Size, target: Size, padding: Padding) -> Self {
        let ratio =
            (f64::from(target.h) / f64::from(source.h.max(1))).min(f64::from(target.w) / f64::from(source.w.max(1)));
        // As in each family's training code.
        let whole_pixels = |length: f64| match padding {
            Padding::Centered => length.round_ties_even(),
            Padding::TopLeft => length.floor(),
        };
        let fit = |length: u32, limit: u32| (whole_pixels(f64::from(length) * ratio) as u32).clamp(1, limit.max(1));
        let scaled = Size::new(fit(source.w, target.w), fit(source.h, target.h));
        let border = |whole: u32, part: u32| match padding {
            Padding::Centered => (f64::from(whole - part.min(whole)) / 2.0 - 0.1).round_ties_even().max(0.0) as u32,
            Padding::TopLeft => 0,
        };
        // Boxes must equal those of the training code, which maps them back with the unrounded border and one ratio for
        // both axes. The difference to whole pixels is under half a target pixel.
        let unrounded = |whole: u32, length: u32| match padding {
            Padding::Centered => ((f64::from(whole) - f64::from(length) * ratio) / 2.0) as f32,
            Padding::TopLeft => 0.0,
        };
        Self {
            pad_x: unrounded(target.w, source.w),
            pad_y: unrounded(target.h, source.h),
            source,
            target,
            scaled,
            scale: ratio as f32,
            left: border(target.w, scaled.w),
            top: border(target.h, scaled.h),
        }
    }

    /// From the model's input back to the source frame, clipped to it. No other function undoes the letterbox.
    pub fn undo(&self, b: &PixelBox) -> PixelBox {
        let (left, top) = (self.pad_x, self.pad_y);
        PixelBox::new(
            (b.x1 - left) / self.scale,
            (b.y1 - top) / self.scale,
            (b.x2 - left) / self.scale,
            (b.y2 - top) / self.scale,
        )
        .clipped(self.source)
    }

    /// From the source frame into the model's input.
    pub fn apply(&self, b: &PixelBox) -> PixelBox {
        let (left, top) = (self.pad_x, self.pad_y);
        PixelBox::new(
            b.x1 * self.scale + left,
            b.y1 * self.scale + top,
            b.x2 * self.scale + left,
            b.y2 * self.scale + top,
        )
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_letterbox_rounds_like_the_reference_code() {
        // Source, target → scaled, (left, top): printed by the reference implementation's `letterbox`, auto=False.
        for (source, target, scaled, border) in [
            ((1920, 1080), (640, 640), (640, 360), (0, 140)),
            ((1080, 810), (640, 640), (640, 480), (0, 80)),
            ((810, 1080), (640, 640), (480, 640), (80, 0)),
            ((768, 576), (640, 640), (640, 480), (0, 80)),
            ((640, 272), (640, 640), (640, 272), (0, 184)),
            ((1, 1), (640, 640), (640, 640), (0, 0)),
            ((7680, 4320), (640, 640), (640, 360), (0, 140)),
            ((641, 479), (640, 640), (640, 478), (0, 81)),
            ((333, 1001), (416, 416), (138, 416), (139, 0)),
            ((1366, 768), (640, 384), (640, 360), (0, 12)),
            ((2, 3), (32, 64), (32, 48), (0, 8)),
            ((640, 640), (640, 640), (640, 640), (0, 0)),
            ((1281, 721), (640, 640), (640, 360), (0, 140)),
            ((500, 375), (416, 320), (416, 312), (0, 4)),
            // Here the reference scales to no pixels at all and fails; one column is the least that shows anything.
            ((1, 7680), (640, 640), (1, 640), (319, 0)),
        ] {
            let size = |(w, h)| Size::new(w, h);
            let l = Letterbox::new(size(source), size(target), Padding::Centered);
            assert_eq!((l.scaled, (l.left, l.top)), (size(scaled), border), "{source:?} in {target:?}");
        }
    }

    fn size(limit: u32) -> impl Strategy<Value = Size> {
        (1..=limit, 1..=limit).prop_map(|(w, h)| Size::new(w, h))
    }

    proptest! {
        #[test]
        fn the_letterbox_fits_and_is_undone(
            source in size(8192),
            target in size(2048),
            corner: bool,
            (a, b) in ((0.0_f32..=1.0, 0.0_f32..=1.0), (0.0_f32..=1.0, 0.0_f32..=1.0)),
        ) {
            let padding = if corner { Padding::TopLeft } else { Padding::Centered };
            let l = Letterbox::new(source, target, padding);
            prop_assert!(l.left + l.scaled.w <= target.w && l.top + l.scaled.h <= target.h, "{l:?}");
            // The cut may take one pixel off a side that fits, when the product falls a hair short of it.
            let cut = u32::from(corner);
            prop_assert!(l.scaled.w + cut >= target.w || l.scaled.h + cut >= target.h, "one side is filled: {l:?}");
            if corner {
                prop_assert_eq!((l.left, l.top), (0, 0));
            } else {
                let (right, bottom) = (target.w - l.scaled.w - l.left, target.h - l.scaled.h - l.top);
                prop_assert!(right - l.left <= 1 && bottom - l.top <= 1, "{l:?}");
            }
            let corners = NormBox { x1: a.0.min(b.0), y1: a.1.min(b.1), x2: a.0.max(b.0), y2: a.1.max(b.1) };
            let original = corners.to_pixels(source);
            let back = l.undo(&l.apply(&original));
            // f32 holds 24 bits: in the target that is 2⁻¹² pixels, and one of them may be thousands in the source.
            let tolerance = (target.w.max(target.h) as f32 * 1e-6 / l.scale).max(source.w.max(source.h) as f32 * 1e-6);
            for (was, is) in [(original.x1, back.x1), (original.y1, back.y1), (original.x2, back.x2), (original.y2, back.y2)] {
                prop_assert!((was - is).abs() <= tolerance, "{was} came back as {is}; {l:?}");
            }
        }

        #[test]
        fn undone_boxes_lie_in_the_frame(
            source in size(8192),
            target in size(2048),
            edges in proptest::array::uniform4(-1e6_f32..1e6),
        ) {
            let b = PixelBox::new(edges[0].min(edges[2]), edges[1].min(edges[3]), edges[0].max(edges[2]), edges[1].max(edges[3]));
            let u = Letterbox::new(source, target, Padding::Centered).undo(&b);
            prop_assert!(0.0 <= u.x1 && u.x1 <= u.x2 && u.x2 <= source.w as f32, "{u:?}");
            prop_assert!(0.0 <= u.y1 && u.y1 <= u.y2 && u.y2 <= source.h as f32, "{u:?}");
        }

        #[test]
        fn iou_is_a_share(a in proptest::array::uniform4(0.0_f32..100.0), b in proptest::array::uniform4(0.0_f32..100.0)) {
            let [a, b] = [a, b].map(|e| PixelBox::from_cxcywh(e[0], e[1], e[2], e[3]));
            prop_assert!((0.0..=1.0).contains(&a.iou(&b)));
            prop_assert_eq!(a.iou(&b), b.iou(&a));
            prop_assert!(a.area() == 0.0 || (a.iou(&a) - 1.0).abs() < 1e-5);
        }
    }

    #[test]
    fn iou_counts_no_extra_pixel() {
        let a = PixelBox::new(0.0, 0.0, 2.0, 2.0);
        assert_eq!(a.iou(&PixelBox::new(1.0, 0.0, 3.0, 2.0)), 2.0 / 6.0);
        assert_eq!(a.iou(&PixelBox::new(2.0, 0.0, 4.0, 2.0)), 0.0, "half-open boxes that touch do not overlap");
    }
}
