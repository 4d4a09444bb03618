//! Candidates: boxes before NMS.

use crate::types::PixelBox;

#[derive(Debug, Clone, PartialEq)]
pub struct DecodeParams {
    /// Scores must be above this, 0 ..= 1. Where there is an objectness, it must be too.
    pub threshold: f32,
    /// Whether a class passes, by `class_id`; `None`: all. A box belongs to its best class only, so it does not become
    /// another class when its own is filtered out.
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
    /// Index of the model's labels.
    pub class_id: u32,
    /// Confidence 0 ..= 1.
    pub score: f32,
    /// In pixels of the model's input.
    pub bbox: PixelBox,
}

/// Adds a candidate that passes, and whose values are finite.
pub(super) fn push(params: &DecodeParams, class: usize, score: f32, bbox: PixelBox, out: &mut Vec<Candidate>) {
    let sound = [bbox.x1, bbox.y1, bbox.x2, bbox.y2, score].iter().all(|v| v.is_finite());
    if score > params.threshold && sound && bbox.x1 <= bbox.x2 && bbox.y1 <= bbox.y2 && params.wants(class) {
        out.push(Candidate { class_id: class as u32, score, bbox });
    }
}

/// The first of the greatest scores. `None` when one is NaN, as the reference's maximum then is.
pub(super) fn best(scores: &[f32]) -> Option<(usize, f32)> {
    // Eight maxima compile to one SIMD instruction per step; a single one compiles to branches.
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
