//! Average precision as `pycocotools.COCOeval` computes it for boxes of all areas: IoU 0.50 … 0.95, 101 recall points, its
//! order of equal scores, its treatment of crowds. A golden file proves that results are equal.

/// IoU thresholds: 0.50, 0.55, … 0.95.
pub const IOU_STEPS: usize = 10;
/// Recalls at which precision is read: 0, 0.01, … 1.
pub const CURVE_POINTS: usize = 101;
/// The best detections that count per picture and class: the default of COCOeval and of `ocelli_train eval`.
pub const MAX_PER_CLASS: usize = 100;

/// A box in pixels as COCO writes it; sides are not negative. f64, because thresholds are compared with `<`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rect {
    pub x: f64,
    pub y: f64,
    pub w: f64,
    pub h: f64,
}

impl Rect {
    /// Converts to f64 before subtracting.
    pub fn of(b: &crate::types::PixelBox) -> Self {
        let [x1, y1, x2, y2] = [b.x1, b.y1, b.x2, b.y2].map(f64::from);
        Self { x: x1, y: y1, w: x2 - x1, h: y2 - y1 }
    }

    /// Intersection with a labelled box over the union, or, for a crowd, over the detection alone.
    fn overlap(&self, truth: &Truth) -> f64 {
        let g = &truth.rect;
        let w = (self.x + self.w).min(g.x + g.w) - self.x.max(g.x);
        let h = (self.y + self.h).min(g.y + g.h) - self.y.max(g.y);
        if w <= 0.0 || h <= 0.0 {
            return 0.0;
        }
        let (inner, own) = (w * h, self.w * self.h);
        inner / if truth.crowd { own } else { own + g.w * g.h - inner }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Truth {
    pub class: usize,
    pub rect: Rect,
    /// Many objects in one box: need not be found, and detections on it count neither as right nor as wrong.
    pub crowd: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Found {
    pub class: usize,
    pub score: f64,
    pub rect: Rect,
}

/// One picture.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ImageTruths {
    pub truths: Vec<Truth>,
    /// In the order in which equal scores are ranked.
    pub found: Vec<Found>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ClassScore {
    pub class: usize,
    /// Without crowds, at least 1.
    pub boxes: usize,
    pub crowds: usize,
    /// Average precision at IoU 0.5.
    pub ap50: f64,
    /// Mean of the average precisions at IoU 0.50 … 0.95.
    pub ap: f64,
    /// Share of the labelled objects found at IoU 0.5.
    pub recall50: f64,
    /// Precision at IoU 0.5 for the recalls 0 … 1.
    pub curve50: Vec<f64>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Score {
    /// Mean over the classes at IoU 0.5.
    pub map50: f64,
    /// Mean over the classes and IoU 0.50 … 0.95.
    pub map: f64,
    /// The classes that have labelled objects. The others have no average precision and do not count in the means.
    pub classes: Vec<ClassScore>,
}

/// The `step`-th IoU threshold, bit for bit as in NumPy's `linspace(.5, .95, 10)`.
pub fn iou_threshold(step: usize) -> f64 {
    if step + 1 == IOU_STEPS { 0.95 } else { 0.5 + step as f64 * ((0.95 - 0.5) / (IOU_STEPS - 1) as f64) }
}

fn recall_point(n: usize) -> f64 {
    if n + 1 == CURVE_POINTS { 1.0 } else { n as f64 * (1.0 / (CURVE_POINTS - 1) as f64) }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    Right,
    Wrong,
    /// On a crowd.
    Ignored,
}

/// Of one class over all pictures.
#[derive(Debug, Default)]
struct Tally {
    boxes: usize,
    crowds: usize,
    ranked: Vec<(f64, [Mark; IOU_STEPS])>,
}

/// Scores `images`, in the order of their ids. At most `max_per_class` detections of a picture and class count
/// ([`MAX_PER_CLASS`]). Means over no class are 0.
pub fn score(images: &[ImageTruths], classes: usize, max_per_class: usize) -> Score {
    let classes: Vec<ClassScore> = (0..classes).filter_map(|class| class_score(images, class, max_per_class)).collect();
    let mean = |value: fn(&ClassScore) -> f64| {
        if classes.is_empty() { 0.0 } else { classes.iter().map(value).sum::<f64>() / classes.len() as f64 }
    };
    Score { map50: mean(|c| c.ap50), map: mean(|c| c.ap), classes }
}

fn class_score(images: &[ImageTruths], class: usize, max_per_class: usize) -> Option<ClassScore> {
    let mut tally = Tally::default();
    for image in images {
        tally.add(image, class, max_per_class);
    }
    if tally.boxes == 0 {
        return None;
    }
    // Stable: of equal scores the earlier picture first, as COCOeval's merge sort.
    tally.ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
    let curves: Vec<(Vec<f64>, f64)> = (0..IOU_STEPS)
        .map(|step| precision_curve(tally.ranked.iter().map(|(_, marks)| marks[step]), tally.boxes))
        .collect();
    let mean = |curve: &[f64]| curve.iter().sum::<f64>() / CURVE_POINTS as f64;
    let ap = curves.iter().map(|(curve, _)| mean(curve)).sum::<f64>() / IOU_STEPS as f64;
    let (curve50, recall50) = curves.into_iter().next()?;
    Some(ClassScore { class, boxes: tally.boxes, crowds: tally.crowds, ap50: mean(&curve50), ap, recall50, curve50 })
}

impl Tally {
    fn add(&mut self, image: &ImageTruths, class: usize, max_per_class: usize) {
        let mut truths: Vec<&Truth> = image.truths.iter().filter(|truth| truth.class == class).collect();
        let mut found: Vec<&Found> = image.found.iter().filter(|found| found.class == class).collect();
        // Objects are matched before crowds.
        truths.sort_by_key(|truth| truth.crowd);
        found.sort_by(|a, b| b.score.total_cmp(&a.score));
        found.truncate(max_per_class);
        let crowds = truths.iter().filter(|truth| truth.crowd).count();
        self.crowds += crowds;
        self.boxes += truths.len() - crowds;
        let overlaps: Vec<Vec<f64>> =
            found.iter().map(|found| truths.iter().map(|truth| found.rect.overlap(truth)).collect()).collect();
        let first = self.ranked.len();
        self.ranked.extend(found.iter().map(|found| (found.score, [Mark::Wrong; IOU_STEPS])));
        for step in 0..IOU_STEPS {
            let mut taken = vec![false; truths.len()];
            for ((_, marks), overlaps) in self.ranked[first..].iter_mut().zip(&overlaps) {
                marks[step] = mark(&truths, overlaps, iou_threshold(step), &mut taken);
            }
        }
    }
}

/// Matches a detection with the free object that it overlaps most; of equal overlaps the last one, as COCOeval does.
fn mark(truths: &[&Truth], overlaps: &[f64], threshold: f64, taken: &mut [bool]) -> Mark {
    let mut least = threshold.min(1.0 - 1e-10);
    let mut best: Option<usize> = None;
    for (n, (truth, overlap)) in truths.iter().zip(overlaps).enumerate() {
        if taken[n] && !truth.crowd {
            continue;
        }
        // Crowds come last: they do not matter once an object matches.
        if truth.crowd && best.is_some_and(|best| !truths[best].crowd) {
            break;
        }
        if *overlap < least {
            continue;
        }
        (least, best) = (*overlap, Some(n));
    }
    match best {
        None => Mark::Wrong,
        Some(n) => {
            taken[n] = true;
            if truths[n].crowd { Mark::Ignored } else { Mark::Right }
        }
    }
}

/// Precision at the 101 recalls, and the recall reached.
fn precision_curve(marks: impl Iterator<Item = Mark>, boxes: usize) -> (Vec<f64>, f64) {
    let (mut right, mut wrong) = (0.0, 0.0);
    let mut points: Vec<(f64, f64)> = marks
        .map(|mark| {
            match mark {
                Mark::Right => right += 1.0,
                Mark::Wrong => wrong += 1.0,
                Mark::Ignored => {}
            }
            (right / boxes as f64, right / (wrong + right + f64::EPSILON))
        })
        .collect();
    // Precision at a recall is the best one at that recall or any higher one.
    let mut best = 0.0_f64;
    for (_, precision) in points.iter_mut().rev() {
        best = best.max(*precision);
        *precision = best;
    }
    let at = |n: usize| {
        let first = points.partition_point(|(recall, _)| *recall < recall_point(n));
        points.get(first).map_or(0.0, |(_, precision)| *precision)
    };
    let recall = points.last().map_or(0.0, |(recall, _)| *recall);
    ((0..CURVE_POINTS).map(at).collect(), recall)
}

#[cfg(test)]
#[path = "average_precision_tests.rs"]
mod tests;
