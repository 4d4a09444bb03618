//! The shipped model on its golden pictures, against `tests/data/shipped/reference.json`: boxes computed without any code of the
//! runtime (`tests/data/make_reference.py`).

use std::fs;
use std::path::Path;

use ocelli::model::{ModelSpec, Prepare, prepare};
use serde_json::Value;

use super::{Backend, HALF, STRICT, Tolerance, onnx_runtime, openvino, single, tract};
use crate::common::{fixture, shipped_model};

/// Decoders of JPEG differ in how they scale colours up; the reference's is libjpeg-turbo.
const JPEG: Tolerance = Tolerance { score: 0.02, iou: 0.98, extra: 0.02, second_labels: false };

/// `ending`: `png` for the pictures with the reference's own pixels, `jpg` for the golden pictures.
fn compare(backend: Option<Backend>, model: &Path, ending: &str, tolerance: &Tolerance) {
    let mut reference: Value = serde_json::from_slice(&fs::read(fixture("shipped/reference.json")).unwrap()).unwrap();
    let results = reference["results"].as_array_mut().unwrap();
    results.retain(|result| result["image"].as_str().unwrap().ends_with(ending));
    let folder = if ending == "png" { fixture("shipped") } else { shipped_model().join("golden") };
    single(backend, model, Some(reference), |name| Some(folder.join(name)), |result| &result["boxes"], tolerance);
}

fn f32(backend: Option<Backend>) {
    compare(backend, &shipped_model(), "png", &STRICT);
}

/// The model that `ocelli models prepare --fp16` makes of the shipped one.
fn f16(backend: Option<Backend>) {
    let spec = ModelSpec::open(&shipped_model(), None).unwrap();
    let bytes = prepare(&spec.bytes().unwrap(), &spec, Prepare { fp16: true, ..Prepare::default() }).unwrap();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("model.onnx"), bytes).unwrap();
    fs::write(folder.path().join("model.yaml"), "file: model.onnx\nfamily: yolov5\n").unwrap();
    compare(backend, folder.path(), "png", &HALF);
}

#[test]
fn f32_on_tract() {
    f32(tract());
}

#[test]
fn f32_on_onnx_runtime() {
    f32(onnx_runtime());
}

#[test]
fn f32_on_openvino() {
    f32(openvino());
}

#[test]
fn f16_on_tract() {
    f16(tract());
}

#[test]
fn f16_on_onnx_runtime() {
    f16(onnx_runtime());
}

#[test]
fn f16_on_openvino() {
    f16(openvino());
}

#[test]
fn jpeg_pictures_on_tract() {
    compare(tract(), &shipped_model(), "jpg", &JPEG);
}
