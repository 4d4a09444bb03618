//! How far two runs of one model agree on the same pictures. Boxes are paired one to one.

use crate::types::Detection;

/// Boxes with a lower IoU are different objects.
const SAME_OBJECT: f32 = 0.5;

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tolerance {
    /// Confidence from which both runs must find a box, 0 ..= 1. Both runs need a threshold that is lower by `score`, so
    /// that a box at this edge does not count as a difference.
    pub threshold: f32,
    /// Lowest IoU of the two boxes, 0.5 ..= 1.
    pub iou: f32,
    /// Largest difference of the two scores, 0 ..= 1.
    pub score: f32,
}

impl Default for Tolerance {
    fn default() -> Self {
        Self { threshold: 0.25, iou: 0.9, score: 0.05 }
    }
}

/// The largest difference.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Worst {
    /// The IoU, or the difference of scores.
    pub value: f32,
    pub picture: usize,
    pub detection: Detection,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Agreement {
    pub pictures: usize,
    /// Objects that at least one run finds above the threshold.
    pub objects: usize,
    /// Objects on which both agree.
    pub agreed: usize,
    /// Above the threshold in the reference, without a partner.
    pub missing: usize,
    /// Above the threshold in the other run, without a partner.
    pub extra: usize,
    /// The pair with the lowest IoU.
    pub worst_iou: Option<Worst>,
    /// The pair with the largest difference of scores.
    pub worst_score: Option<Worst>,
}

impl Agreement {
    /// Share of the objects on which both agree, 0 ..= 1; 1 when there are none.
    pub fn share(&self) -> f64 {
        if self.objects == 0 { 1.0 } else { self.agreed as f64 / self.objects as f64 }
    }

    /// Adds one picture's detections.
    ///
    /// In the order of their scores, the reference's boxes take the box of their class with the highest IoU, at least 0.5;
    /// each box is taken once.
    pub fn add(&mut self, reference: &[Detection], other: &[Detection], tolerance: &Tolerance) {
        let picture = self.pictures;
        self.pictures += 1;
        let mut order: Vec<&Detection> = reference.iter().collect();
        order.sort_by(|a, b| b.score.total_cmp(&a.score));
        let mut free: Vec<Option<&Detection>> = other.iter().map(Some).collect();
        for wanted in order {
            let partner = free
                .iter_mut()
                .filter_map(|slot| {
                    let iou = slot.filter(|found| found.class_id == wanted.class_id)?.bbox.iou(&wanted.bbox);
                    (iou >= SAME_OBJECT).then_some((slot, iou))
                })
                .max_by(|(_, a), (_, b)| a.total_cmp(b))
                .and_then(|(slot, iou)| Some((slot.take()?, iou)));
            match partner {
                Some((found, iou)) if wanted.score.max(found.score) >= tolerance.threshold => {
                    let difference = (wanted.score - found.score).abs();
                    self.objects += 1;
                    self.agreed += usize::from(iou >= tolerance.iou && difference <= tolerance.score);
                    let worst = |value| Worst { value, picture, detection: *wanted };
                    if self.worst_iou.is_none_or(|worst| iou < worst.value) {
                        self.worst_iou = Some(worst(iou));
                    }
                    if self.worst_score.is_none_or(|worst| difference > worst.value) {
                        self.worst_score = Some(worst(difference));
                    }
                }
                None if wanted.score >= tolerance.threshold => {
                    self.objects += 1;
                    self.missing += 1;
                }
                // Below the threshold in both.
                _ => {}
            }
        }
        let extra = free.into_iter().flatten().filter(|found| found.score >= tolerance.threshold).count();
        self.objects += extra;
        self.extra += extra;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::types::PixelBox;

    fn detection(class_id: u32, score: f32, x: f32) -> Detection {
        Detection { class_id, score, bbox: PixelBox::new(x, 0.0, x + 100.0, 100.0) }
    }

    fn compare(reference: &[Detection], other: &[Detection]) -> Agreement {
        let mut agreement = Agreement::default();
        agreement.add(reference, other, &Tolerance::default());
        agreement
    }

    #[test]
    fn equal_detections_agree_and_so_do_empty_ones() {
        let all = [detection(0, 0.9, 0.0), detection(1, 0.3, 300.0)];
        let agreement = compare(&all, &all);
        assert_eq!((agreement.objects, agreement.agreed, agreement.share()), (2, 2, 1.0));
        assert_eq!(agreement.worst_iou.unwrap().value, 1.0);
        assert_eq!(compare(&[], &[]).share(), 1.0);
    }

    #[test]
    fn boxes_of_one_run_are_missing_or_extra_above_the_threshold() {
        let agreement = compare(&[detection(0, 0.9, 0.0)], &[detection(0, 0.8, 500.0)]);
        assert_eq!((agreement.objects, agreement.missing, agreement.extra, agreement.agreed), (2, 1, 1, 0));
        assert_eq!(compare(&[detection(0, 0.24, 0.0)], &[]).objects, 0);
        // Another class is another object.
        assert_eq!(compare(&[detection(0, 0.9, 0.0)], &[detection(1, 0.9, 0.0)]).agreed, 0);
    }

    #[test]
    fn a_box_at_the_edge_of_the_threshold_is_no_difference() {
        let agreement = compare(&[detection(0, 0.26, 0.0)], &[detection(0, 0.23, 0.0)]);
        assert_eq!((agreement.objects, agreement.agreed), (1, 1));
    }

    #[test]
    fn boxes_and_scores_have_separate_limits_and_the_worst_is_kept() {
        let reference = [detection(0, 0.9, 0.0), detection(0, 0.8, 300.0), detection(0, 0.7, 600.0)];
        let other = [detection(0, 0.9, 10.0), detection(0, 0.7, 300.0), detection(0, 0.7, 601.0)];
        let agreement = compare(&reference, &other);
        assert_eq!((agreement.objects, agreement.agreed), (3, 1), "{agreement:?}");
        assert!((agreement.worst_iou.unwrap().value - 90.0 / 110.0).abs() < 1e-5);
        let worst = agreement.worst_score.unwrap();
        assert!((worst.value - 0.1).abs() < 1e-6 && worst.detection.score == 0.8);
    }

    #[test]
    fn each_box_is_matched_once_in_the_order_of_scores() {
        let reference = [detection(0, 0.5, 5.0), detection(0, 0.9, 0.0)];
        let agreement = compare(&reference, &[detection(0, 0.9, 0.0)]);
        assert_eq!((agreement.objects, agreement.agreed, agreement.missing), (2, 1, 1));
    }

    proptest::proptest! {
        #[test]
        fn counts_add_up(
            a in proptest::collection::vec((0u32..2, 0f32..1.0, 0f32..400.0), 0..12),
            b in proptest::collection::vec((0u32..2, 0f32..1.0, 0f32..400.0), 0..12),
        ) {
            let list = |all: &[(u32, f32, f32)]| all.iter().map(|(c, s, x)| detection(*c, *s, *x)).collect::<Vec<_>>();
            let agreement = compare(&list(&a), &list(&b));
            proptest::prop_assert!(agreement.agreed + agreement.missing + agreement.extra <= agreement.objects);
            proptest::prop_assert!((0.0..=1.0).contains(&agreement.share()));
        }
    }
}
