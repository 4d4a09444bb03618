//! From the model's output to candidate boxes, by the rules of the reference code.

use super::candidate::{Candidate, DecodeParams, best, push};
use super::family::Family;
use super::spec::ModelSpec;
use super::{decode_heads, decode_sets as sets};
use crate::types::PixelBox;

/// Collects the candidates of one frame's `outputs` ([`super::OutputSpec::tensors`]) into `out`, which is cleared first.
///
/// Allocates only on the first call with a given `out`. Of a shorter output only whole rows are read; the session
/// checks lengths.
pub fn decode(spec: &ModelSpec, outputs: &[&[f32]], params: &DecodeParams, out: &mut Vec<Candidate>) {
    out.clear();
    out.reserve(spec.output.rows);
    match (spec.output.family, outputs) {
        (Family::YoloV5, [output, ..]) => decoded_rows(spec, output, params, out),
        (Family::YoloV8, [output, ..]) => columns(spec, output, params, out),
        (Family::YoloX, [output, ..]) => grid_rows(spec, output, params, out),
        (Family::YoloV5Heads, heads) => decode_heads::heads(spec, heads, params, out),
        (Family::EndToEnd, [output, ..]) => sets::end_to_end(spec, output, params, out),
        (Family::NmsClassScore, [output, ..]) => sets::nms_rows(spec, output, false, params, out),
        (Family::NmsScoreClass, [output, ..]) => sets::nms_rows(spec, output, true, params, out),
        (Family::RtDetr, [output, ..]) => sets::parts(spec, output, params, out),
        (Family::YoloNas, [boxes, scores, ..]) => sets::corners(spec, boxes, scores, params, out),
        (Family::DetrLogits, [scores, boxes, ..]) => sets::logits(spec, scores, boxes, params, out),
        (Family::DetrBoxes, [labels, boxes, scores, ..]) => sets::labelled(spec, labels, boxes, scores, params, out),
        // Sessions return exactly the outputs of the specification.
        _ => {}
    }
}

/// `[N, 5 + nc]`, decoded.
fn decoded_rows(spec: &ModelSpec, output: &[f32], params: &DecodeParams, out: &mut Vec<Candidate>) {
    for row in output.chunks_exact(5 + spec.output.classes) {
        // Nearly all rows end here; NaN does too.
        if let [cx, cy, w, h, objectness, scores @ ..] = row
            && *objectness > params.threshold
            && let Some((class, score)) = best(scores)
        {
            push(params, class, objectness * score, PixelBox::from_cxcywh(*cx, *cy, *w, *h), out);
        }
    }
}

/// `[N, 5 + nc]`, undecoded: x and y are offsets from the cell in units of its stride, w and h are logarithms. Heads come
/// in ascending order of strides, each row by row.
fn grid_rows(spec: &ModelSpec, output: &[f32], params: &DecodeParams, out: &mut Vec<Candidate>) {
    let size = spec.input.size;
    let mut rows = output.chunks_exact(5 + spec.output.classes);
    for stride in &spec.strides {
        let (across, down) = (size.w / stride, size.h / stride);
        let stride = *stride as f32;
        for (cell, row) in (0..across * down).zip(&mut rows) {
            if let [x, y, w, h, objectness, scores @ ..] = row
                && *objectness > params.threshold
                && let Some((class, score)) = best(scores)
            {
                let (column, line) = ((cell % across) as f32, (cell / across) as f32);
                let centre = ((x + column) * stride, (y + line) * stride);
                let bbox = PixelBox::from_cxcywh(centre.0, centre.1, w.exp() * stride, h.exp() * stride);
                push(params, class, objectness * score, bbox, out);
            }
        }
    }
}

/// `[4 + nc, N]`: the values of one box lie N apart.
fn columns(spec: &ModelSpec, output: &[f32], params: &DecodeParams, out: &mut Vec<Candidate>) {
    /// Boxes per block: each line of scores is read in whole cache lines, and the maxima stay in registers.
    const BLOCK: usize = 16;
    let rows = spec.output.rows;
    let Some((boxes, scores)) = output.split_at_checked(4 * rows) else { return };
    for from in (0..rows).step_by(BLOCK) {
        let count = BLOCK.min(rows - from);
        let mut greatest = [f32::NEG_INFINITY; BLOCK];
        let mut class = [0_u32; BLOCK];
        for (n, line) in scores.chunks_exact(rows).enumerate() {
            for ((greatest, class), v) in greatest.iter_mut().zip(&mut class).zip(&line[from..from + count]) {
                // NaN wins and stays, so that the box fails the threshold.
                let wins = *v > *greatest || v.is_nan();
                *greatest = if wins { *v } else { *greatest };
                *class = if wins { n as u32 } else { *class };
            }
        }
        for (n, (score, class)) in greatest.iter().zip(class).take(count).enumerate() {
            if *score > params.threshold {
                let value = |line: usize| boxes[line * rows + from + n];
                let bbox = PixelBox::from_cxcywh(value(0), value(1), value(2), value(3));
                push(params, class as usize, *score, bbox, out);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use proptest::prelude::*;

    use super::super::spec_tests::spec;
    use super::*;
    use crate::types::Size;

    fn run(spec: &ModelSpec, output: &[f32], threshold: f32, classes: Option<Vec<bool>>) -> Vec<Candidate> {
        let mut out = vec![Candidate { class_id: 9, score: 9.0, bbox: PixelBox::default() }];
        decode(spec, &[output], &DecodeParams { threshold, classes }, &mut out);
        out
    }

    #[track_caller]
    fn check(rows: &[[f32; 7]], expected: &[(u32, f32)]) {
        let model = spec(Family::YoloV5, Size::new(32, 32), &[8, 16, 32], 2);
        let found: Vec<(u32, f32)> =
            run(&model, rows.as_flattened(), 0.25, None).iter().map(|c| (c.class_id, c.score)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn objectness_is_checked_before_the_product() {
        check(&[[5.0, 5.0, 2.0, 2.0, 0.5, 0.75, 0.5]], &[(0, 0.375)]);
        check(&[[5.0, 5.0, 2.0, 2.0, 0.25, 1.0, 1.0]], &[]); // not above
        check(&[[5.0, 5.0, 2.0, 2.0, 0.5, 0.25, 0.5]], &[]); // 0.25 is not above
        check(&[[5.0, 5.0, 2.0, 2.0, 0.9, 0.0, 1.0]], &[(1, 0.9)]);
        check(&[[5.0, 5.0, 2.0, 2.0, 1.0, 0.5, 0.5]], &[(0, 0.5)]); // equal: the first
    }

    #[test]
    fn rows_with_nan_or_infinity_are_skipped() {
        let good = [5.0, 5.0, 2.0, 2.0, 1.0, 0.5, 0.75];
        for at in 0..7 {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut row = good;
                row[at] = bad;
                // Minus infinity is a sound score of a class that is not there.
                let expected: &[(u32, f32)] = if at == 5 && bad == f32::NEG_INFINITY {
                    &[(1, 0.75), (1, 0.75)]
                } else if at == 6 && bad == f32::NEG_INFINITY {
                    &[(0, 0.5), (1, 0.75)]
                } else {
                    &[(1, 0.75)]
                };
                check(&[row, good], expected);
            }
        }
        check(&[[5.0, 5.0, -2.0, 2.0, 1.0, 0.5, 0.75]], &[]);
    }

    #[test]
    fn a_filtered_box_does_not_become_its_second_best_class() {
        let model = spec(Family::YoloV5, Size::new(32, 32), &[8, 16, 32], 2);
        let row = [5.0, 5.0, 2.0, 2.0, 1.0, 0.5, 0.75];
        assert_eq!(run(&model, &row, 0.25, Some(vec![true, false])), []);
        assert_eq!(run(&model, &row, 0.25, Some(vec![false, true])).len(), 1);
        assert_eq!(run(&model, &row, 0.25, Some(vec![])), []);
    }

    #[test]
    fn yolox_cells() {
        let model = spec(Family::YoloX, Size::new(64, 32), &[8, 16, 32], 1);
        assert_eq!(model.output.rows, 32 + 8 + 2);
        let mut output = vec![0.0; model.output.len()];
        // Head 16 (cells 4 × 2): column 3, line 1. Head 32 (cells 2 × 1): column 1.
        output[(32 + 7) * 6..][..6].copy_from_slice(&[0.5, 0.25, 0.0, (2.0_f32).ln(), 1.0, 0.5]);
        output[(40 + 1) * 6..][..6].copy_from_slice(&[-0.5, 0.5, 0.0, 0.0, 1.0, 1.0]);
        let found = run(&model, &output, 0.25, None);
        assert_eq!(found.len(), 2);
        let near = |b: PixelBox, c: PixelBox| {
            [b.x1 - c.x1, b.y1 - c.y1, b.x2 - c.x2, b.y2 - c.y2].iter().all(|d| d.abs() < 1e-3)
        };
        assert!(near(found[0].bbox, PixelBox::from_cxcywh(56.0, 20.0, 16.0, 32.0)), "{:?}", found[0]);
        assert!(near(found[1].bbox, PixelBox::from_cxcywh(16.0, 16.0, 32.0, 32.0)), "{:?}", found[1]);
        output[(40 + 1) * 6 + 2] = 1000.0; // overflows: no box
        assert_eq!(run(&model, &output, 0.25, None).len(), 1);
    }

    /// What `decode` must find, in the simplest form; `rows` as `[cx, cy, w, h, objectness, scores…]`.
    fn naive(rows: &[Vec<f32>], threshold: f32, mask: Option<&[bool]>) -> Vec<Candidate> {
        let mut found = Vec::new();
        for row in rows {
            let mut best = 5;
            for n in 5..row.len() {
                if row[n] > row[best] {
                    best = n;
                }
            }
            let score = row[4] * row[best];
            let sound = row[..4].iter().all(|v| v.is_finite()) && row[2] >= 0.0 && row[3] >= 0.0 && score.is_finite();
            let nan = row[4..].iter().any(|v| v.is_nan());
            let wanted = mask.is_none_or(|m| m[best - 5]);
            if row[4] > threshold && score > threshold && sound && !nan && wanted {
                let bbox = PixelBox::from_cxcywh(row[0], row[1], row[2], row[3]);
                found.push(Candidate { class_id: (best - 5) as u32, score, bbox });
            }
        }
        found
    }

    fn number() -> impl Strategy<Value = f32> {
        prop_oneof![8 => 0.0_f32..1.0, 1 => Just(f32::NAN), 1 => Just(f32::INFINITY), 1 => Just(-1.0_f32)]
    }

    proptest! {
        #[test]
        fn both_layouts_equal_a_naive_implementation(
            classes in 1_usize..20,
            seed in proptest::collection::vec(number(), 84 * 25),
            threshold in 0.0_f32..0.6,
            mask in proptest::option::of(proptest::collection::vec(any::<bool>(), 20)),
        ) {
            let mut rows: Vec<Vec<f32>> = seed.chunks_exact(25).map(|c| c[..5 + classes].to_vec()).collect();
            let v5 = spec(Family::YoloV5, Size::new(32, 32), &[8, 16, 32], classes);
            prop_assert_eq!(v5.output.rows, 63);
            rows.truncate(63);
            let expected = naive(&rows, threshold, mask.as_deref());
            prop_assert_eq!(run(&v5, &rows.concat(), threshold, mask.clone()), expected);

            let v8 = spec(Family::YoloV8, Size::new(64, 32), &[8, 16, 32], classes);
            prop_assert_eq!(v8.output.rows, 42);
            rows.truncate(42);
            rows.iter_mut().for_each(|r| r[4] = 1.0);
            let lines = (0..5 + classes).filter(|line| *line != 4);
            let turned: Vec<f32> = lines.flat_map(|line| rows.iter().map(move |r| r[line])).collect();
            let expected = naive(&rows, threshold, mask.as_deref());
            prop_assert_eq!(run(&v8, &turned, threshold, mask), expected);
        }

        #[test]
        fn any_output_of_any_length(output in proptest::collection::vec(any::<f32>(), 0..400)) {
            for family in [Family::YoloV5, Family::YoloV8, Family::YoloX] {
                run(&spec(family, Size::new(32, 32), &[8, 16, 32], 2), &output, 0.1, None);
            }
        }
    }
}
