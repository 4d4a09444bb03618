//! From the model's output to candidate boxes.
//!
//! The rules are those of the reference code: objectness above the threshold first, then objectness × best class; the
//! best class only; rows that are not numbers are skipped.

use super::{Family, ModelSpec};
use crate::types::PixelBox;

/// Which candidates are wanted.
#[derive(Debug, Clone, PartialEq)]
pub struct DecodeParams {
    /// Scores must be above this, 0 ..= 1.
    pub threshold: f32,
    /// Which classes are let through, by `class_id`; `None`: all. A box belongs to its best class alone, so another
    /// class never takes the place of one that is filtered out.
    pub classes: Option<Vec<bool>>,
}

impl DecodeParams {
    fn wants(&self, class: usize) -> bool {
        self.classes.as_ref().is_none_or(|mask| mask.get(class).copied().unwrap_or(false))
    }
}

/// A box before NMS.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// Index into the model's labels.
    pub class_id: u32,
    /// Confidence 0 ..= 1.
    pub score: f32,
    /// In pixels of the model's input.
    pub bbox: PixelBox,
}

/// Collects the candidates of one image's whole `output` ([`super::OutputSpec::len`] numbers) into `out`, which is
/// cleared first.
///
/// Allocates only on the first call with a given `out`. A shorter output yields what its whole rows hold; the session
/// checks lengths.
pub fn decode(spec: &ModelSpec, output: &[f32], params: &DecodeParams, out: &mut Vec<Candidate>) {
    out.clear();
    out.reserve(spec.output.rows);
    match spec.output.family {
        Family::YoloV5 => decoded_rows(spec, output, params, out),
        Family::YoloV8 | Family::YoloX => {}
    }
}

/// `[N, 5 + nc]`, decoded.
fn decoded_rows(spec: &ModelSpec, output: &[f32], params: &DecodeParams, out: &mut Vec<Candidate>) {
    for row in output.chunks_exact(5 + spec.output.classes) {
        // Nearly all rows end here. NaN is not above anything.
        if let [cx, cy, w, h, objectness, scores @ ..] = row
            && *objectness > params.threshold
            && let Some((class, score)) = best(scores)
        {
            push(params, class, objectness * score, PixelBox::from_cxcywh(*cx, *cy, *w, *h), out);
        }
    }
}

fn push(params: &DecodeParams, class: usize, score: f32, bbox: PixelBox, out: &mut Vec<Candidate>) {
    let sound = [bbox.x1, bbox.y1, bbox.x2, bbox.y2, score].iter().all(|v| v.is_finite());
    if score > params.threshold && sound && bbox.x1 <= bbox.x2 && bbox.y1 <= bbox.y2 && params.wants(class) {
        out.push(Candidate { class_id: class as u32, score, bbox });
    }
}

/// The first of the greatest scores. `None` when one is NaN, as the reference's maximum then is.
fn best(scores: &[f32]) -> Option<(usize, f32)> {
    // Eight maxima side by side are one SIMD instruction per step; a single one is a chain of branches.
    let mut lanes = [f32::NEG_INFINITY; 8];
    let mut nan = [false; 8];
    let chunks = scores.chunks_exact(8);
    let rest = chunks.remainder();
    for chunk in chunks {
        for ((lane, nan), v) in lanes.iter_mut().zip(&mut nan).zip(chunk) {
            *lane = if *v > *lane { *v } else { *lane };
            *nan |= v.is_nan();
        }
    }
    let greatest = lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |m, v| if *v > m { *v } else { m });
    if nan.contains(&true) || rest.iter().any(|v| v.is_nan()) {
        return None;
    }
    scores.iter().position(|v| *v == greatest).map(|class| (class, greatest))
}
