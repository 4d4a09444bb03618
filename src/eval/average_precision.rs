//! Average precision as `pycocotools.COCOeval` computes it for boxes of all areas: IoU 0.50 … 0.95, 101 recall points, its
//! order of equal scores, its treatment of crowds. Equal input gives equal numbers; a golden file holds that.

/// IoU thresholds: 0.50, 0.55, … 0.95.
pub const IOU_STEPS: usize = 10;
/// Recalls at which precision is read: 0, 0.01, … 1.
pub const CURVE_POINTS: usize = 101;
/// Detections that count per picture and class, the best ones: COCOeval's default, and what `ocelli_train eval` takes.
pub const MAX_PER_CLASS: usize = 100;

/// A box in pixels as COCO writes it. Double precision, because thresholds are compared with `<`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rect {
    /// Left edge.
    pub x: f64,
    /// Top edge.
    pub y: f64,
    /// Width, not negative.
    pub w: f64,
    /// Height, not negative.
    pub h: f64,
}

impl Rect {
    /// The box of a detection, its edges widened before they are subtracted.
    pub fn of(b: &crate::types::PixelBox) -> Self {
        let [x1, y1, x2, y2] = [b.x1, b.y1, b.x2, b.y2].map(f64::from);
        Self { x: x1, y: y1, w: x2 - x1, h: y2 - y1 }
    }

    /// Overlap of a detection with a labelled box: over the union, or, for a crowd, over the detection alone.
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

/// A labelled object.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Truth {
    /// Class of the model.
    pub class: usize,
    /// Its box.
    pub rect: Rect,
    /// Many objects in one box: nobody has to find it, and any number of detections on it are neither right nor wrong.
    pub crowd: bool,
}

/// A detected object.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Found {
    /// Class of the model.
    pub class: usize,
    /// Confidence.
    pub score: f64,
    /// Its box.
    pub rect: Rect,
}

/// One picture: what is on it, and what was found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ImageTruths {
    /// Labelled objects.
    pub truths: Vec<Truth>,
    /// Detections, in the order in which equal scores are to be ranked.
    pub found: Vec<Found>,
}

/// One class's figures.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassScore {
    /// Class of the model.
    pub class: usize,
    /// Labelled objects without crowds, at least 1.
    pub boxes: usize,
    /// Labelled crowds.
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

/// The figures of a whole data set.
#[derive(Debug, Clone, PartialEq)]
pub struct Score {
    /// Mean over the classes at IoU 0.5.
    pub map50: f64,
    /// Mean over the classes and IoU 0.50 … 0.95.
    pub map: f64,
    /// The classes that have labelled objects; the others have no average precision and no part in the means.
    pub classes: Vec<ClassScore>,
}

/// The `step`-th IoU threshold, to the last bit as NumPy's `linspace(.5, .95, 10)` makes it.
pub fn iou_threshold(step: usize) -> f64 {
    if step + 1 == IOU_STEPS { 0.95 } else { 0.5 + step as f64 * ((0.95 - 0.5) / (IOU_STEPS - 1) as f64) }
}

fn recall_point(n: usize) -> f64 {
    if n + 1 == CURVE_POINTS { 1.0 } else { n as f64 * (1.0 / (CURVE_POINTS - 1) as f64) }
}

/// What became of a detection at one threshold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    Right,
    Wrong,
    /// On a crowd.
    Ignored,
}

/// What one class collects over all pictures.
#[derive(Debug, Default)]
struct Tally {
    boxes: usize,
    crowds: usize,
    ranked: Vec<(f64, [Mark; IOU_STEPS])>,
}

/// The figures of `classes` classes over `images`, which come in the order of their ids. At most `max_per_class`
/// detections of a picture and class count ([`MAX_PER_CLASS`]).
///
/// Means over no class at all are 0.
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
        // A detection takes a labelled object before it takes a crowd.
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

/// Gives a detection the free labelled object that it overlaps most; of equal overlaps the last one, as COCOeval.
fn mark(truths: &[&Truth], overlaps: &[f64], threshold: f64, taken: &mut [bool]) -> Mark {
    let mut least = threshold.min(1.0 - 1e-10);
    let mut best: Option<usize> = None;
    for (n, (truth, overlap)) in truths.iter().zip(overlaps).enumerate() {
        if taken[n] && !truth.crowd {
            continue;
        }
        // Crowds come last: whoever has an object does not look at them.
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
