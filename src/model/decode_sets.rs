//! Families whose rows are boxes, not cells of a grid.

use super::candidate::{Candidate, DecodeParams, best, push};
use super::decode_heads::sigmoid;
use super::spec::ModelSpec;
use crate::types::PixelBox;

/// A class number that is stored as f32; `None` when there is no such class.
fn class(spec: &ModelSpec, number: f32) -> Option<usize> {
    // Some exporters pad with class -1.
    (number >= 0.0 && number < spec.output.classes as f32).then_some(number as usize)
}

/// A box in fractions of the input's sides.
fn part_of(spec: &ModelSpec, cx: f32, cy: f32, w: f32, h: f32) -> PixelBox {
    let (width, height) = (spec.input.size.w as f32, spec.input.size.h as f32);
    PixelBox::from_cxcywh(cx * width, cy * height, w * width, h * height)
}

/// `[N, 6]`: x1, y1, x2, y2, score, class.
pub(super) fn end_to_end(spec: &ModelSpec, output: &[f32], params: &DecodeParams, out: &mut Vec<Candidate>) {
    for row in output.as_chunks::<6>().0 {
        let [x1, y1, x2, y2, score, number] = *row;
        if score > params.threshold
            && let Some(class) = class(spec, number)
        {
            push(params, class, score, PixelBox::new(x1, y1, x2, y2), out);
        }
    }
}

/// `[n, 7]`: image, x1, y1, x2, y2, then class and score in either order.
pub(super) fn nms_rows(
    spec: &ModelSpec,
    output: &[f32],
    score_first: bool,
    params: &DecodeParams,
    out: &mut Vec<Candidate>,
) {
    for row in output.as_chunks::<7>().0 {
        let [image, x1, y1, x2, y2, a, b] = *row;
        let (number, score) = if score_first { (b, a) } else { (a, b) };
        // The batch is one: rows of other images are padding.
        if image == 0.0
            && score > params.threshold
            && let Some(class) = class(spec, number)
        {
            push(params, class, score, PixelBox::new(x1, y1, x2, y2), out);
        }
    }
}

/// `[N, 4]` of corners and `[N, nc]` of scores.
pub(super) fn corners(
    spec: &ModelSpec,
    boxes: &[f32],
    scores: &[f32],
    params: &DecodeParams,
    out: &mut Vec<Candidate>,
) {
    for (corners, scores) in boxes.as_chunks::<4>().0.iter().zip(scores.chunks_exact(spec.output.classes)) {
        if let Some((class, score)) = best(scores)
            && score > params.threshold
        {
            let [x1, y1, x2, y2] = *corners;
            push(params, class, score, PixelBox::new(x1, y1, x2, y2), out);
        }
    }
}

/// `[N, 4 + nc]`: fractions of the input's sides, and scores.
pub(super) fn parts(spec: &ModelSpec, output: &[f32], params: &DecodeParams, out: &mut Vec<Candidate>) {
    for row in output.chunks_exact(4 + spec.output.classes) {
        if let [cx, cy, w, h, scores @ ..] = row
            && let Some((class, score)) = best(scores)
            && score > params.threshold
        {
            push(params, class, score, part_of(spec, *cx, *cy, *w, *h), out);
        }
    }
}

/// `[N, nc]` before the sigmoid, and `[N, 4]` in fractions of the input's sides.
pub(super) fn logits(spec: &ModelSpec, logits: &[f32], boxes: &[f32], params: &DecodeParams, out: &mut Vec<Candidate>) {
    for (logits, bbox) in logits.chunks_exact(spec.output.classes).zip(boxes.as_chunks::<4>().0) {
        if let Some((class, logit)) = best(logits) {
            let [cx, cy, w, h] = *bbox;
            push(params, class, sigmoid(logit), part_of(spec, cx, cy, w, h), out);
        }
    }
}

/// `[N]` of classes, `[N, 4]` of corners, `[N]` of scores.
pub(super) fn labelled(
    spec: &ModelSpec,
    labels: &[f32],
    boxes: &[f32],
    scores: &[f32],
    params: &DecodeParams,
    out: &mut Vec<Candidate>,
) {
    for ((number, corners), score) in labels.iter().zip(boxes.as_chunks::<4>().0).zip(scores) {
        if let Some(class) = class(spec, *number) {
            let [x1, y1, x2, y2] = *corners;
            push(params, class, *score, PixelBox::new(x1, y1, x2, y2), out);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::spec_tests::spec;
    use super::super::{Family, decode};
    use super::*;
    use crate::types::Size;

    /// What one family finds in `outputs`, as class, score and box.
    fn run(family: Family, outputs: &[&[f32]]) -> Vec<(u32, f32, [f32; 4])> {
        let model = spec(family, Size::new(200, 100), &[], 2);
        let mut out = vec![Candidate { class_id: 9, score: 9.0, bbox: PixelBox::default() }];
        decode(&model, outputs, &DecodeParams { threshold: 0.25, classes: None }, &mut out);
        out.iter().map(|c| (c.class_id, c.score, [c.bbox.x1, c.bbox.y1, c.bbox.x2, c.bbox.y2])).collect()
    }

    #[test]
    fn every_set_layout_decodes_one_box() {
        let corners = [10.0, 20.0, 30.0, 60.0];
        let parts = [0.1, 0.4, 0.1, 0.4];
        let expected = [(1, 0.75, corners)];
        let one = |family, outputs: &[&[f32]]| assert_eq!(run(family, outputs), expected, "{family:?}");
        let logit = 3.0_f32.ln();
        let low = -5.0;
        one(Family::EndToEnd, &[&[10.0, 20.0, 30.0, 60.0, 0.75, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]]);
        one(Family::NmsClassScore, &[&[0.0, 10.0, 20.0, 30.0, 60.0, 1.0, 0.75, 1.0, 0.0, 0.0, 9.0, 9.0, 1.0, 0.9]]);
        one(Family::NmsScoreClass, &[&[0.0, 10.0, 20.0, 30.0, 60.0, 0.75, 1.0]]);
        one(Family::YoloNas, &[&corners, &[0.5, 0.75]]);
        one(Family::DetrBoxes, &[&[1.0, 0.0], &[10.0, 20.0, 30.0, 60.0, 0.0, 0.0, 5.0, 5.0], &[0.75, 0.2]]);
        let near = |family, outputs: &[&[f32]]| {
            let found = run(family, outputs);
            assert_eq!((found.len(), found[0].0), (1, 1), "{family:?}");
            assert!((found[0].1 - 0.75).abs() < 1e-6, "{family:?}");
            assert!(found[0].2.iter().zip(corners).all(|(a, b)| (a - b).abs() < 1e-4), "{family:?} {found:?}");
        };
        near(Family::RtDetr, &[&[0.1, 0.4, 0.1, 0.4, 0.5, 0.75, 0.5, 0.5, 1.0, 1.0, 0.1, 0.2]]);
        near(Family::DetrLogits, &[&[low, logit, low, low], &[parts, parts].concat()]);
    }

    #[test]
    fn empty_frames_and_classes_that_do_not_exist() {
        for family in [Family::EndToEnd, Family::NmsClassScore, Family::NmsScoreClass, Family::RtDetr] {
            assert_eq!(run(family, &[&[]]), [], "{family:?}");
        }
        for family in [Family::YoloNas, Family::DetrLogits, Family::DetrBoxes] {
            assert_eq!(run(family, &[&[], &[], &[]]), [], "{family:?}");
            assert_eq!(run(family, &[&[1.0]]), [], "{family:?}: an output is missing");
        }
        for number in [-1.0, 2.0, f32::NAN, f32::INFINITY] {
            assert_eq!(run(Family::EndToEnd, &[&[1.0, 1.0, 2.0, 2.0, 0.9, number]]), []);
            assert_eq!(run(Family::NmsClassScore, &[&[0.0, 1.0, 1.0, 2.0, 2.0, number, 0.9]]), []);
            assert_eq!(run(Family::DetrBoxes, &[&[number], &[1.0, 1.0, 2.0, 2.0], &[0.9]]), []);
        }
        assert_eq!(run(Family::NmsClassScore, &[&[f32::NAN, 1.0, 1.0, 2.0, 2.0, 1.0, 0.9]]), []);
        assert_eq!(run(Family::EndToEnd, &[&[f32::NAN, 1.0, 2.0, 2.0, 0.9, 1.0]]), []);
    }
}
