//! Non-maximum suppression, and the way back into the source frame.

use super::candidate::Candidate;
use crate::types::{Detection, Letterbox, PixelBox};

/// At most this many of the best candidates enter NMS, as in the reference code.
const MAX_NMS: usize = 30_000;

/// Greedy NMS within each class, with its own scratch memory.
#[derive(Debug, Default)]
pub struct Nms {
    order: Vec<u32>,
    kept: Vec<(u32, PixelBox)>,
}

impl Nms {
    /// Allocates on the first run.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reduces `candidates` to at most `max_detections` detections in `out` (cleared first), best score first; of equal
    /// scores the earlier candidate first.
    ///
    /// A candidate is dropped when a better one of the same class overlaps it by more than `iou`. Boxes are mapped back
    /// to the source frame and clipped to it. A box entirely in the letterbox's border has no area then and is left out.
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
        // The caller's buffer has room for all rows of the model from the first frame on. The same room here keeps a
        // crowded frame from allocating later.
        self.order.reserve(candidates.capacity());
        self.kept.reserve(candidates.capacity().min(MAX_NMS));
        out.reserve(max_detections.min(candidates.capacity()));
        self.order.extend(0..candidates.len() as u32);
        let all = candidates.as_slice();
        let score = |n: u32| all.get(n as usize).map_or(f32::NEG_INFINITY, |c| c.score);
        // Sorting indices, with the index as the second key, is stable without the memory of a stable sort.
        self.order.sort_unstable_by(|a, b| score(*b).total_cmp(&score(*a)).then(a.cmp(b)));
        self.order.truncate(MAX_NMS);
        for candidate in self.order.iter().filter_map(|n| all.get(*n as usize)) {
            // The best come first, so the rest cannot displace what is kept.
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use proptest::prelude::*;

    use super::*;
    use crate::types::{Padding, Size};

    fn same_size() -> Letterbox {
        Letterbox::new(Size::new(640, 640), Size::new(640, 640), Padding::Centered)
    }

    fn run(candidates: &[Candidate], iou: f32, max: usize) -> Vec<Detection> {
        let mut out = vec![Detection { class_id: 7, score: 7.0, bbox: PixelBox::default() }];
        Nms::new().run(&mut candidates.to_vec(), iou, max, &same_size(), &mut out);
        out
    }

    fn candidate(class_id: u32, score: f32, x1: f32, x2: f32) -> Candidate {
        Candidate { class_id, score, bbox: PixelBox::new(x1, 0.0, x2, 10.0) }
    }

    #[test]
    fn nms_drops_boxes_of_the_same_class_above_the_iou_threshold() {
        let a = candidate(0, 0.9, 0.0, 10.0);
        let half = candidate(0, 0.8, 0.0, 5.0); // IoU 0.5 with a
        let other = candidate(1, 0.7, 0.0, 10.0);
        let scores = |list: &[Detection]| list.iter().map(|d| d.score).collect::<Vec<_>>();
        assert_eq!(scores(&run(&[other, half, a], 0.5, 300)), [0.9, 0.8, 0.7], "0.5 is not above 0.5");
        assert_eq!(scores(&run(&[other, half, a], 0.49, 300)), [0.9, 0.7]);
        assert_eq!(scores(&run(&[other, half, a], 0.49, 1)), [0.9]);
        assert_eq!(scores(&run(&[other, half, a], 0.49, 0)), [0.0_f32; 0]);
        assert_eq!(scores(&run(&[], 0.5, 300)), [0.0_f32; 0]);
    }

    #[test]
    fn equal_scores_keep_their_order() {
        let list: Vec<Candidate> = (0..100).map(|n| candidate(n, 0.5, 0.0, 10.0)).collect();
        let classes: Vec<u32> = run(&list, 0.5, 300).iter().map(|d| d.class_id).collect();
        assert_eq!(classes, (0..100).collect::<Vec<u32>>());
    }

    #[test]
    fn a_box_at_the_edge_is_clipped_and_one_in_the_border_is_dropped() {
        // 640 × 360 in 640 × 640: border of 140 above and below.
        let letterbox = Letterbox::new(Size::new(1280, 720), Size::new(640, 640), Padding::Centered);
        let at = |y1, y2| Candidate { class_id: 0, score: 0.5, bbox: PixelBox::new(-20.0, y1, 20.0, y2) };
        let mut out = Vec::new();
        Nms::new().run(&mut vec![at(100.0, 160.0), at(10.0, 130.0), at(480.0, 640.0)], 0.45, 300, &letterbox, &mut out);
        let boxes: Vec<PixelBox> = out.iter().map(|d| d.bbox).collect();
        assert_eq!(boxes, [PixelBox::new(0.0, 0.0, 40.0, 40.0), PixelBox::new(0.0, 680.0, 40.0, 720.0)]);
    }

    #[test]
    fn at_most_30000_candidates_enter_nms() {
        let mut list: Vec<Candidate> = (0..MAX_NMS as u32).map(|_| candidate(0, 0.9, 0.0, 10.0)).collect();
        list.push(candidate(1, 0.1, 20.0, 30.0));
        assert_eq!(run(&list, 0.5, 300).len(), 1, "number 30001 is not looked at");
        list.remove(0);
        assert_eq!(run(&list, 0.5, 300).len(), 2);
    }

    /// The rule, in the simplest form: repeat { take the best that is left, drop what it suppresses }.
    fn naive(candidates: &[Candidate], iou: f32, max: usize) -> Vec<Detection> {
        let mut left = candidates.to_vec();
        let mut found = Vec::new();
        while !left.is_empty() && found.len() < max {
            let mut best = 0;
            for n in 1..left.len() {
                if left[n].score > left[best].score {
                    best = n;
                }
            }
            let taken = left.remove(best);
            left.retain(|c| c.class_id != taken.class_id || c.bbox.iou(&taken.bbox) <= iou);
            let bbox = same_size().undo(&taken.bbox);
            found.push(Detection { class_id: taken.class_id, score: taken.score, bbox });
        }
        found
    }

    proptest! {
        #[test]
        fn equals_a_naive_implementation(
            list in proptest::collection::vec(
                (0_u32..4, 0_u8..20, 0.0_f32..600.0, 0.0_f32..600.0, 1.0_f32..300.0, 1.0_f32..300.0), 0..150),
            iou in 0.0_f32..1.0,
            max in 0_usize..60,
        ) {
            let list: Vec<Candidate> = list
                .into_iter()
                // Few different scores, so that ties are common.
                .map(|(class_id, score, x, y, w, h)| Candidate {
                    class_id, score: f32::from(score) / 20.0, bbox: PixelBox::new(x, y, x + w, y + h),
                })
                .collect();
            prop_assert_eq!(run(&list, iou, max), naive(&list, iou, max));
        }
    }
}
