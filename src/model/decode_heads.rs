//! YOLOv5's raw heads.

use super::candidate::{Candidate, DecodeParams, best, push};
use super::spec::ModelSpec;
use crate::types::PixelBox;

/// One `[a, H/s, W/s, 5 + nc]` per stride, before the sigmoid.
pub(super) fn heads(spec: &ModelSpec, outputs: &[&[f32]], params: &DecodeParams, out: &mut Vec<Candidate>) {
    // Nearly all rows end at a comparison without an exponential. The slack is for its rounding.
    let surely_below = logit(params.threshold) - 1e-3;
    for ((head, stride), anchors) in outputs.iter().zip(&spec.strides).zip(&spec.output.anchors) {
        let (across, down) = ((spec.input.size.w / stride) as usize, (spec.input.size.h / stride) as usize);
        let cells = across * down;
        let stride = *stride as f32;
        for (n, row) in head.chunks_exact(5 + spec.output.classes).enumerate() {
            if let [x, y, w, h, objectness, scores @ ..] = row
                && *objectness > surely_below
                && let Some((class, score)) = best(scores)
                && let Some([anchor_w, anchor_h]) = anchors.get(n / cells)
            {
                let objectness = sigmoid(*objectness);
                let (column, line) = ((n % cells % across) as f32, (n % cells / across) as f32);
                let centre = |v: f32, cell: f32| (sigmoid(v) * 2.0 - 0.5 + cell) * stride;
                let side = |v: f32, anchor: f32| (sigmoid(v) * 2.0).powi(2) * anchor;
                let bbox = PixelBox::from_cxcywh(
                    centre(*x, column),
                    centre(*y, line),
                    side(*w, *anchor_w),
                    side(*h, *anchor_h),
                );
                if objectness > params.threshold {
                    push(params, class, objectness * sigmoid(score), bbox, out);
                }
            }
        }
    }
}

pub(super) fn sigmoid(v: f32) -> f32 {
    1.0 / (1.0 + (-v).exp())
}

/// The inverse of the sigmoid; not finite for 0 and 1.
fn logit(p: f32) -> f32 {
    (p / (1.0 - p)).ln()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::anchors::usual_anchors;
    use super::super::family::Family;
    use super::super::spec_tests::spec;
    use super::*;
    use crate::types::Size;

    #[test]
    fn raw_heads_decode_cell_anchor_and_class() {
        let mut model = spec(Family::YoloV5Heads, Size::new(64, 32), &[8, 16, 32], 2);
        model.output.anchors = usual_anchors(&model.strides).unwrap();
        let mut empty: Vec<Vec<f32>> = [8_usize, 16, 32].map(|s| vec![-9.0; 3 * (64 / s) * (32 / s) * 7]).into();
        // Stride 16 has 4 × 2 cells: second anchor, line 1, column 3.
        empty[1][(8 + 4 + 3) * 7..][..7].copy_from_slice(&[0.0, 0.0, 0.0, 0.0, 4.0, -1.0, 3.0]);
        let mut out = Vec::new();
        let mut run = |threshold: f32| {
            let slices: Vec<&[f32]> = empty.iter().map(Vec::as_slice).collect();
            heads(&model, &slices, &DecodeParams { threshold, classes: None }, &mut out);
            std::mem::take(&mut out)
        };
        let found = run(0.25);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].class_id, 1);
        assert!((found[0].score - sigmoid(4.0) * sigmoid(3.0)).abs() < 1e-6);
        let expected = PixelBox::from_cxcywh(3.5 * 16.0, 1.5 * 16.0, 62.0, 45.0);
        assert!(found[0].bbox.iou(&expected) > 0.9999, "{:?}", found[0].bbox);
        assert_eq!(run(0.99).len(), 0);
        assert!(usual_anchors(&[16, 32, 64]).is_none());
    }
}
