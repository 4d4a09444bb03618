//! The detector of the document: its raw output against PyTorch's.

use std::path::Path;
use std::process::Command;

use ocelli::model::Input;

use super::{Backend, Detector, onnx_runtime, openvino, tract};
use crate::common::{skip, test_data};

/// A `.npy` file of 32-bit floats.
fn read_npy(path: &Path) -> Vec<f32> {
    let bytes = std::fs::read(path).unwrap();
    assert!(bytes.starts_with(b"\x93NUMPY\x01"), "{} is no .npy of version 1", path.display());
    let header = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let text = String::from_utf8_lossy(&bytes[10..10 + header]).into_owned();
    assert!(text.contains("'<f4'") && text.contains("'fortran_order': False"), "{text}");
    bytes[10 + header..].chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// The detector of the document, random weights: the raw output against PyTorch's, for the same input tensor.
fn document(backend: Option<Backend>) {
    let (Some(backend), Some(model), Some(npz)) = (
        backend,
        test_data("families/yolov5s_efficientnetv2_document_640.onnx"),
        test_data("reference/yolov5s_efficientnetv2_document_640.npz"),
    ) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let unpack = "import sys, zipfile; zipfile.ZipFile(sys.argv[1]).extractall(sys.argv[2])";
    match Command::new("python3").args(["-c", unpack]).args([npz.as_path(), dir.path()]).status() {
        Ok(status) => assert!(status.success(), "python3 cannot unpack {}", npz.display()),
        Err(error) => {
            skip(&format!("no python3 to unpack the reference ({error})"));
            return;
        }
    }
    let (input, wanted) = (read_npy(&dir.path().join("images.npy")), read_npy(&dir.path().join("output0.npy")));
    let mut detector = Detector::open(&model, None, backend);
    assert_eq!((detector.spec.output.rows, detector.spec.strides.as_slice()), (6300, [16, 32, 64].as_slice()));
    let columns = 5 + detector.spec.output.classes;
    let (mut pixels, mut scores) = (0.0_f32, 0.0_f32);
    detector
        .session
        .run_one(Input::Planes(&input), &mut |outputs| {
            let output = outputs[0];
            assert_eq!(output.len(), wanted.len());
            for (ours, theirs) in output.chunks_exact(columns).zip(wanted.chunks_exact(columns)) {
                for (n, (a, b)) in ours.iter().zip(theirs).enumerate() {
                    let worst = if n < 4 { &mut pixels } else { &mut scores };
                    *worst = worst.max((a - b).abs());
                }
            }
        })
        .unwrap();
    assert!(pixels < 1.0 && scores < 2e-3, "off by {pixels} pixels, {scores} in scores");
}

#[test]
fn the_document_s_detector_on_tract() {
    document(tract());
}

#[test]
fn the_document_s_detector_on_onnx_runtime() {
    document(onnx_runtime());
}

#[test]
fn the_document_s_detector_on_openvino() {
    document(openvino());
}
