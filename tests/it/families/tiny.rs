//! Tiny models of every layout (`tests/data/families`): the whole way from a picture to boxes on every CPU backend,
//! against boxes that an independent decoder in NumPy found.

use std::collections::BTreeMap;

use ocelli::model::{DecodeParams, InputTensor, Nms, decode};
use ocelli::preprocess::Preprocessor;
use ocelli::types::{ImageView, PixelBox, Plane, Size};
use serde::Deserialize;

use super::{on_each, open};
use crate::common::fixture;

#[derive(Deserialize)]
struct Expected {
    family: String,
    manifest: String,
    detections: Vec<ExpectedBox>,
}

#[derive(Debug, Deserialize)]
struct ExpectedBox {
    class: u32,
    score: f32,
    #[serde(rename = "box")]
    corners: [f32; 4],
}

fn check(name: &str, expected: &Expected) {
    let bytes = std::fs::read(fixture(&format!("families/{name}.onnx"))).unwrap();
    let opened = open(&bytes, &expected.manifest);
    let spec = &opened.spec;
    assert_eq!(spec.output.family.as_str(), expected.family, "{name}");
    let picture = image::open(fixture("families/picture.png")).unwrap().into_rgb8();
    let size = Size::new(picture.width(), picture.height());
    let view = ImageView::Rgb { size, rgb: Plane { data: picture.as_raw(), stride: size.w as usize * 3 } };
    let mut tensor = InputTensor::new(&spec.input);
    let letterbox = Preprocessor::new(&spec.input).fill(&view, &mut tensor).unwrap();
    on_each(spec, tensor.view(), false, |backend, outputs| {
        let (mut candidates, mut found) = (Vec::new(), Vec::new());
        decode(spec, outputs, &DecodeParams { threshold: 0.25, classes: None }, &mut candidates);
        Nms::new().run(&mut candidates, spec.nms_iou(0.45), 300, &letterbox, &mut found);
        assert_eq!(found.len(), expected.detections.len(), "{name} on {backend}: {found:?}");
        for (found, wanted) in found.iter().zip(&expected.detections) {
            let [x1, y1, x2, y2] = wanted.corners;
            let iou = found.bbox.iou(&PixelBox::new(x1, y1, x2, y2));
            let same = found.class_id == wanted.class && (found.score - wanted.score).abs() < 0.005 && iou > 0.99;
            assert!(same, "{name} on {backend}: {found:?} is not {wanted:?}");
        }
    });
}

fn expected() -> BTreeMap<String, Expected> {
    serde_json::from_slice(&std::fs::read(fixture("families/expected.json")).unwrap()).unwrap()
}

#[test]
fn tiny_models_of_every_family_find_the_reference_boxes() {
    for (name, expected) in expected() {
        check(&name, &expected);
    }
}

#[test]
fn there_is_a_tiny_model_of_every_family() {
    let families: std::collections::BTreeSet<String> = expected().into_values().map(|model| model.family).collect();
    for &family in ocelli::model::Family::ALL {
        assert!(families.contains(family.as_str()), "no tiny model of {}", family.as_str());
    }
}
