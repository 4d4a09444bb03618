//! The promises of `Session`, checked on every backend that this machine has.

mod check;

use std::path::Path;
use std::time::Instant;

use ocelli::config::{BackendChoice, ModelConfig};
use ocelli::infer::{build_engine, load};
use ocelli::model::{Input, ModelSpec};
use ocelli::types::BackendKind;

use check::check_session;

use crate::common::{ocelli, skip, test_data};
use crate::openvino::openvino_library;
use crate::runtime::{model_config, ort_library};

/// The available models: the tests' own, the shipped one, and one of each family of the test data.
fn models() -> Vec<ModelSpec> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = vec![root.join("tests/data/marker.onnx"), root.join("models/yolov5s-efficientnetv2")];
    if let Some(families) = test_data("families") {
        let files = std::fs::read_dir(families).unwrap().map(|entry| entry.unwrap().path());
        paths.extend(files.filter(|path| path.extension().is_some_and(|ext| ext == "onnx")));
    }
    let opened = paths.iter().filter_map(|path| match ModelSpec::open(path, None) {
        Ok(spec) => Some(spec),
        // An unknown family is checked by other tests.
        Err(error) => {
            skip(&format!("{}: {error}", path.display()));
            None
        }
    });
    opened.collect()
}

fn check_backend(choice: BackendChoice, kind: BackendKind, library: Option<&Path>) {
    let models = models();
    assert!(models.len() >= 2, "{} models", models.len());
    for spec in &models {
        check_with(spec, &model_config(choice, library), kind, "");
    }
}

/// `how`: what is special about this run, to be printed.
fn check_with(spec: &ModelSpec, config: &ModelConfig, kind: BackendKind, how: &str) {
    let (mut session, info) = load(spec, config).unwrap();
    assert_eq!(info.kind, kind);
    if let Err(broken) = check_session(session.as_mut(), spec) {
        panic!("{kind}{how} with {}: {broken}", spec.path.display());
    }
    // A recorded run must use the frame of the current call.
    let outputs = [0.0, 0.8].map(|value| {
        let mut frame = vec![0.0; spec.input.frame_len()];
        let plane = frame.len() / 3;
        frame[..plane].fill(value);
        let mut output = Vec::new();
        session.run_one(Input::Planes(&frame), &mut |tensors| output = tensors.concat()).unwrap();
        output
    });
    assert!(outputs[0] != outputs[1], "{kind}{how} with {}: black and red give the same", spec.path.display());
    // For information only.
    let frame = spec.input.empty_frame();
    let mut times = [(); 7].map(|()| {
        let start = Instant::now();
        session.run_one(Input::Planes(&frame), &mut |_| {}).unwrap();
        start.elapsed()
    });
    times.sort();
    let ms = times[3].as_secs_f64() * 1e3;
    println!("{kind}{how}, {}: {ms:.2} ms, {:.1} frames/s", spec.path.display(), 1e3 / ms);
}

/// Prints how well the boxes of the shipped model agree with tract's.
fn agrees(backend: &str, library: &Path) {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/yolov5s-efficientnetv2");
    let mut verify = ocelli();
    verify.args(["models", "verify", "--backend", backend, "--ort-library"]).arg(library).arg(model);
    let output = verify.output().unwrap();
    println!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn tract_conforms() {
    check_backend(BackendChoice::Tract, BackendKind::Tract, None);
}

#[test]
fn onnx_runtime_conforms() {
    let Some(library) = ort_library() else { return };
    check_backend(BackendChoice::Cpu, BackendKind::Cpu, Some(&library));
    agrees("cpu", &library);
}

#[test]
fn openvino_conforms() {
    let Some(library) = openvino_library() else { return };
    check_backend(BackendChoice::Openvino, BackendKind::Openvino, Some(&library));
}

#[test]
fn gpus_conform() {
    if std::env::var_os("REQUIRE_GPU").is_none() {
        skip("CUDA and TensorRT are not tried; REQUIRE_GPU=1 does");
        return;
    }
    let library = ort_library().expect("REQUIRE_GPU is set, but there is no ONNX Runtime library");
    check_backend(BackendChoice::Cuda, BackendKind::Cuda, Some(&library));
    for spec in models() {
        let config = model_config(BackendChoice::Tensorrt, Some(&library));
        build_engine(spec.into(), &config, BackendKind::Tensorrt, &|_| {}).unwrap();
    }
    check_backend(BackendChoice::Tensorrt, BackendKind::Tensorrt, Some(&library));
    agrees("cuda", &library);
    agrees("tensorrt", &library);
    let shipped = ModelSpec::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("models/yolov5s-efficientnetv2"), None);
    let shipped = shipped.unwrap();
    let mut config = model_config(BackendChoice::Cuda, Some(&library));
    config.cuda.cuda_graph = true;
    check_with(&shipped, &config, BackendKind::Cuda, " with cuda_graph");
    let mut config = model_config(BackendChoice::Tensorrt, Some(&library));
    config.tensorrt.cuda_graph = true;
    build_engine(shipped.clone().into(), &config, BackendKind::Tensorrt, &|_| {}).unwrap();
    check_with(&shipped, &config, BackendKind::Tensorrt, " with cuda_graph");
}
