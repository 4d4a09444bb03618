//! Non-maximum suppression, and the way back into the source frame.

use super::Candidate;
use crate::types::{Detection, Letterbox, PixelBox};

/// At most this many candidates, the best ones, enter NMS, as in the reference code.
pub const MAX_NMS: usize = 30_000;

/// Greedy class-aware NMS with its own scratch memory.
#[derive(Debug, Default)]
pub struct Nms {
    order: Vec<u32>,
    kept: Vec<(u32, PixelBox)>,
}

impl Nms {
    /// No memory is taken before the first run.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reduces `candidates` to at most `max_detections` detections in `out` (cleared first), best score first; of equal
    /// scores the earlier candidate first.
    ///
    /// A candidate is dropped when a better one of the same class overlaps it by more than `iou`. Boxes are mapped back
    /// to the source frame and clipped to it. A box that lies in the letterbox's border altogether has no area in the
    /// frame, and there is nothing to show or count: it alone is left out.
    pub fn run(
        &mut self,
        candidates: &mut Vec<Candidate>,
        iou: f32,
        max_detections: usize,
        letterbox: &Letterbox,
        out: &mut Vec<Detection>,
    ) {
        out.clear();
        self.kept.clear();
        self.order.clear();
        self.order.extend(0..candidates.len() as u32);
        let all = candidates.as_slice();
        let score = |n: u32| all.get(n as usize).map_or(f32::NEG_INFINITY, |c| c.score);
        // Sorting indices with the index as the second key is stable without the memory that a stable sort takes.
        self.order.sort_unstable_by(|a, b| score(*b).total_cmp(&score(*a)).then(a.cmp(b)));
        self.order.truncate(MAX_NMS);
        for candidate in self.order.iter().filter_map(|n| all.get(*n as usize)) {
            // The best come first, so what is kept now cannot be displaced later.
            if out.len() >= max_detections {
                break;
            }
            let class = candidate.class_id;
            if self.kept.iter().any(|(c, b)| *c == class && b.iou(&candidate.bbox) > iou) {
                continue;
            }
            self.kept.push((class, candidate.bbox));
            let bbox = letterbox.undo(&candidate.bbox);
            if bbox.area() > 0.0 {
                out.push(Detection { class_id: class, score: candidate.score, bbox });
            }
        }
    }
}
