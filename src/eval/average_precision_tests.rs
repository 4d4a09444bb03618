#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use proptest::prelude::*;

use super::super::{ClassMap, CocoSet, ResultRow};
use super::*;

fn rect(x: f64, y: f64, w: f64, h: f64) -> Rect {
    Rect { x, y, w, h }
}

fn truth(class: usize, x: f64) -> Truth {
    Truth { class, rect: rect(x, 0.0, 10.0, 10.0), crowd: false }
}

fn found(class: usize, score: f64, x: f64) -> Found {
    Found { class, score, rect: rect(x, 0.0, 10.0, 10.0) }
}

#[test]
fn iou_thresholds_equal_those_of_numpy() {
    // Printed by `numpy.linspace(.5, .95, 10)`.
    let want = [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95];
    for (step, want) in want.into_iter().enumerate() {
        assert!((iou_threshold(step) - want).abs() < 1e-12, "{step}");
    }
}

#[test]
fn a_perfect_detector_scores_1_and_an_empty_one_0() {
    let truths = vec![truth(0, 0.0), truth(0, 100.0), truth(2, 50.0)];
    let all = vec![found(0, 0.9, 0.0), found(0, 0.8, 100.0), found(2, 0.1, 50.0)];
    let perfect = score(&[ImageTruths { truths: truths.clone(), found: all }], 3, MAX_PER_CLASS);
    // COCOeval divides by the count plus 2⁻⁵², so "1" is a hair less.
    assert!((perfect.map - 1.0).abs() < 1e-12 && (perfect.map50 - 1.0).abs() < 1e-12, "{perfect:?}");
    assert_eq!(perfect.classes.iter().map(|c| c.class).collect::<Vec<_>>(), [0, 2], "a class without objects is out");
    let blind = score(&[ImageTruths { truths, found: vec![] }], 3, MAX_PER_CLASS);
    assert_eq!((blind.map, blind.map50, blind.classes.len()), (0.0, 0.0, 2));
}

#[test]
fn half_of_two_found_is_51_of_101_points() {
    let image = ImageTruths { truths: vec![truth(0, 0.0), truth(0, 50.0)], found: vec![found(0, 0.5, 0.0)] };
    let score = score(&[image], 1, MAX_PER_CLASS);
    assert!((score.map50 - 51.0 / 101.0).abs() < 1e-12, "{}", score.map50);
    assert_eq!(score.classes[0].recall50, 0.5);
}

#[test]
fn detections_per_class_are_limited() {
    let found = vec![found(0, 0.9, 500.0), found(0, 0.8, 0.0)];
    let images = [ImageTruths { truths: vec![truth(0, 0.0)], found }];
    assert!((score(&images, 1, 2).map50 - 0.5).abs() < 1e-12);
    assert_eq!(score(&images, 1, 1).map50, 0.0);
}

/// The definition, in the simplest form: for each recall, the best precision of any cut-off that reaches it.
fn naive_ap(images: &[ImageTruths], class: usize, threshold: f64) -> Option<f64> {
    let boxes = images.iter().flat_map(|i| &i.truths).filter(|t| t.class == class && !t.crowd).count();
    let mut outcomes: Vec<(f64, Option<bool>)> = Vec::new();
    for image in images {
        let mut found: Vec<_> = image.found.iter().filter(|f| f.class == class).collect();
        found.sort_by(|a, b| b.score.partial_cmp(&a.score).unwrap());
        let mut free: Vec<_> = image.truths.iter().filter(|t| t.class == class && !t.crowd).collect();
        for f in found {
            let best = (0..free.len()).filter(|n| f.rect.overlap(free[*n]) >= threshold).max_by(|a, b| {
                let (a, b) = (f.rect.overlap(free[*a]), f.rect.overlap(free[*b]));
                a.partial_cmp(&b).unwrap()
            });
            let on_crowd = image.truths.iter().any(|t| t.class == class && t.crowd && f.rect.overlap(t) >= threshold);
            let outcome = match best {
                Some(n) => {
                    free.remove(n);
                    Some(true)
                }
                None if on_crowd => None,
                None => Some(false),
            };
            outcomes.push((f.score, outcome));
        }
    }
    outcomes.sort_by(|a, b| b.0.partial_cmp(&a.0).unwrap());
    let points: Vec<(f64, f64)> = (1..=outcomes.len())
        .map(|cut| {
            let right = outcomes[..cut].iter().filter(|o| o.1 == Some(true)).count() as f64;
            let wrong = outcomes[..cut].iter().filter(|o| o.1 == Some(false)).count() as f64;
            (right / boxes as f64, if right > 0.0 { right / (right + wrong) } else { 0.0 })
        })
        .collect();
    let at = |n: usize| {
        let enough = points.iter().filter(|p| p.0 >= recall_point(n));
        enough.map(|p| p.1).fold(0.0, f64::max)
    };
    (boxes > 0).then(|| (0..101).map(at).sum::<f64>() / 101.0)
}

fn any_rect() -> impl Strategy<Value = Rect> {
    // A coarse grid, so that boxes overlap and overlaps are often equal or just on a threshold.
    (0..6_i32, 0..6_i32, 1..5_i32, 1..5_i32)
        .prop_map(|(x, y, w, h)| rect(f64::from(x), f64::from(y), f64::from(w), f64::from(h)))
}

fn any_image() -> impl Strategy<Value = ImageTruths> {
    let truth = (0..3_usize, any_rect(), proptest::bool::weighted(0.2));
    let found = (0..3_usize, 1..8_i32, any_rect());
    (proptest::collection::vec(truth, 0..8), proptest::collection::vec(found, 0..12)).prop_map(|(truths, found)| {
        ImageTruths {
            truths: truths.into_iter().map(|(class, rect, crowd)| Truth { class, rect, crowd }).collect(),
            found: found
                .into_iter()
                .map(|(class, score, rect)| Found { class, score: f64::from(score) / 8.0, rect })
                .collect(),
        }
    })
}

proptest! {
    #[test]
    fn equals_the_plain_definition(images in proptest::collection::vec(any_image(), 1..6)) {
        let got = score(&images, 3, MAX_PER_CLASS);
        for class in 0..3 {
            let mine = got.classes.iter().find(|c| c.class == class);
            let wanted: Option<Vec<f64>> =
                (0..IOU_STEPS).map(|step| naive_ap(&images, class, iou_threshold(step))).collect();
            prop_assert_eq!(mine.is_some(), wanted.is_some());
            if let (Some(mine), Some(wanted)) = (mine, wanted) {
                prop_assert!((mine.ap50 - wanted[0]).abs() < 1e-9, "{} {}", mine.ap50, wanted[0]);
                let mean = wanted.iter().sum::<f64>() / 10.0;
                prop_assert!((mine.ap - mean).abs() < 1e-9, "{} {}", mine.ap, mean);
            }
        }
    }
}

#[derive(serde::Deserialize)]
struct Case {
    name: String,
    truth: serde_json::Value,
    found: Vec<ResultRow>,
    map50: f64,
    map50_95: f64,
    /// Category id → AP50, AP50-95; `null` without labelled objects.
    by_category: std::collections::BTreeMap<i64, Option<(f64, f64)>>,
}

#[test]
fn equals_pycocotools() {
    let cases: Vec<Case> = serde_json::from_str(include_str!("../../tests/golden/eval.json")).unwrap();
    assert!(cases.len() >= 6);
    for case in cases {
        let set = CocoSet::parse(&case.truth.to_string(), "truth.json").unwrap();
        let classes = set.categories.len();
        let index = |id: i64| set.categories.iter().position(|c| c.id == id).unwrap();
        let labels: Vec<String> = set.categories.iter().map(|c| c.name.clone()).collect();
        let map = ClassMap::by_name(&labels, &labels, "truth.json").unwrap();
        let images: Vec<ImageTruths> = set
            .images
            .iter()
            .map(|image| ImageTruths {
                truths: image.truths.iter().filter_map(|t| t.to_truth(&map)).collect(),
                found: case
                    .found
                    .iter()
                    .filter(|f| f.image_id == image.id)
                    .map(|f| f.to_found(index(f.category_id)))
                    .collect(),
            })
            .collect();
        let got = score(&images, classes, MAX_PER_CLASS);
        assert!((got.map50 - case.map50).abs() < 1e-6, "{}: {} for {}", case.name, got.map50, case.map50);
        assert!((got.map - case.map50_95).abs() < 1e-6, "{}: {} for {}", case.name, got.map, case.map50_95);
        for (id, want) in &case.by_category {
            let class = got.classes.iter().find(|c| c.class == index(*id)).map(|c| (c.ap50, c.ap));
            match (class, want) {
                (None, None) => {}
                (Some(got), Some(want)) => {
                    assert!(
                        (got.0 - want.0).abs() < 1e-6 && (got.1 - want.1).abs() < 1e-6,
                        "{}: {got:?} {want:?}",
                        case.name
                    );
                }
                other => panic!("{}: category {id}: {other:?}", case.name),
            }
        }
    }
}
