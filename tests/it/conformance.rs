//! One suite over all backends that this machine has: what a session promises, it keeps on each of them.

use std::path::Path;

use ocelli::config::BackendChoice;
use ocelli::infer::{build_engine, check_session, load};
use ocelli::model::ModelSpec;
use ocelli::types::BackendKind;

use crate::common::{skipped, test_data};
use crate::runtime::{model_config, ort_library};

/// Models that are there: the tests' own, the shipped one, and one of each family of the test data.
fn models() -> Vec<ModelSpec> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = vec![root.join("tests/data/marker.onnx"), root.join("models/yolov5s-efficientnetv2")];
    if let Some(families) = test_data("families") {
        let files = std::fs::read_dir(families).unwrap().map(|entry| entry.unwrap().path());
        paths.extend(files.filter(|path| path.extension().is_some_and(|ext| ext == "onnx")));
    }
    let opened = paths.iter().filter_map(|path| match ModelSpec::open(path, None) {
        Ok(spec) => Some(spec),
        // A family that is not known yet is another test's business.
        Err(error) => {
            skipped(&format!("{}: {error}", path.display()));
            None
        }
    });
    opened.collect()
}

fn keeps_its_promises(choice: BackendChoice, kind: BackendKind, library: Option<&Path>) {
    let mut checked = 0;
    for spec in models() {
        let (mut session, info) = load(&spec, &model_config(choice, library)).unwrap();
        assert_eq!(info.kind, kind);
        if let Err(broken) = check_session(session.as_mut(), &spec) {
            panic!("{kind} with {}: {broken}", spec.path.display());
        }
        checked += 1;
    }
    assert!(checked >= 2, "{checked} models");
}

#[test]
fn tract_keeps_its_promises() {
    keeps_its_promises(BackendChoice::Tract, BackendKind::Tract, None);
}

#[test]
fn onnx_runtime_keeps_its_promises() {
    let Some(library) = ort_library() else { return };
    keeps_its_promises(BackendChoice::Cpu, BackendKind::Cpu, Some(&library));
}

#[test]
fn gpus_keep_their_promises() {
    if std::env::var_os("REQUIRE_GPU").is_none() {
        skipped("CUDA and TensorRT are not tried; REQUIRE_GPU=1 does");
        return;
    }
    let library = ort_library().expect("REQUIRE_GPU is set, but there is no ONNX Runtime library");
    keeps_its_promises(BackendChoice::Cuda, BackendKind::Cuda, Some(&library));
    for spec in models() {
        let config = model_config(BackendChoice::Tensorrt, Some(&library));
        build_engine(spec.into(), &config, BackendKind::Tensorrt, &|_| {}).unwrap();
    }
    keeps_its_promises(BackendChoice::Tensorrt, BackendKind::Tensorrt, Some(&library));
}
