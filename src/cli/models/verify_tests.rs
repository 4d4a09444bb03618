#![allow(clippy::unwrap_used)]
use super::*;
use crate::infer::{Consume, Fork, InferError};
use crate::model::Input;
use crate::types::BackendKind;

/// Finds nothing, whatever it sees.
struct Blind(Arc<ModelSpec>);

impl Session for Blind {
    fn run(&mut self, _: &[Input<'_>], consume: &mut Consume<'_>) -> Result<(), InferError> {
        consume(0, &[&vec![0.0; self.0.output.len()]]);
        Ok(())
    }

    fn fork(&self) -> Fork {
        let spec = self.0.clone();
        Arc::new(move || Ok(Box::new(Self(spec.clone()))))
    }
}

#[test]
fn an_engine_that_lost_the_boxes_does_not_serve() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/yolov5s-efficientnetv2");
    let config = ModelConfig { file: Some(folder), backend: BackendChoice::Tract, ..ModelConfig::default() };
    let spec = Arc::new(open_model(&config).unwrap());
    let info = || BackendInfo {
        kind: BackendKind::Tensorrt,
        version: "pretended".into(),
        fallbacks: Vec::new(),
        nodes: Default::default(),
    };
    let why = agrees(&spec, Box::new(Blind(spec.clone())), info(), &config).unwrap_err();
    assert!(why.contains("agrees with tract on 0 of") && why.contains("min_agreement"), "{why}");
    let lenient = ModelConfig { min_agreement: 0.0, ..config.clone() };
    assert_eq!(agrees(&spec, Box::new(Blind(spec.clone())), info(), &lenient), Ok(()));
    let session = crate::infer::load(&spec, &config).unwrap().0;
    assert_eq!(agrees(&spec, session, info(), &config), Ok(()), "the reference itself");
}

/// The command line of the verb.
#[derive(clap::Parser)]
struct Line {
    #[command(flatten)]
    args: Args,
}

#[test]
fn pictures_without_detections_are_noted() {
    let folder = tempfile::tempdir().unwrap();
    let grey = folder.path().join("grey.png");
    image::RgbImage::from_pixel(320, 320, image::Rgb([114; 3])).save(&grey).unwrap();
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/marker.onnx");
    let words = ["verify", model, "--backend", "tract", "--reference", "tract", "--openvino-library", "/nowhere/ov.so"];
    let args = <Line as clap::Parser>::parse_from(words).args;
    let config = config(&args).ok().unwrap();
    assert_eq!(config.openvino.library.as_deref(), Some(Path::new("/nowhere/ov.so")));
    let spec = Arc::new(open_model(&config).unwrap());
    let mut comparison = compare(&args, &config, &spec, vec![grey]).ok().flatten().unwrap();
    assert!(comparison.faults.is_empty());
    let note = "note       nothing was found on these pictures: nothing is proven";
    assert!(comparison.text(&args).contains(note), "{}", comparison.text(&args));
    assert_eq!(comparison.json(&args)["note"], NOTHING);
    comparison.agreement.objects = 1;
    assert!(!comparison.text(&args).contains("note") && comparison.json(&args)["note"].is_null());
}

/// The log of a test.
#[derive(Clone, Default)]
struct Log(Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn golden_pictures_without_detections_log_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("marker.onnx");
    std::fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/marker.onnx"), &model).unwrap();
    std::fs::create_dir(folder.path().join("golden")).unwrap();
    let grey = image::RgbImage::from_pixel(320, 320, image::Rgb([114; 3]));
    grey.save(folder.path().join("golden/grey.png")).unwrap();
    let config = ModelConfig { file: Some(model), backend: BackendChoice::Tract, ..ModelConfig::default() };
    let spec = Arc::new(open_model(&config).unwrap());
    let (session, info) = crate::infer::load(&spec, &config).unwrap();
    let log = Log::default();
    let into = log.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || into.clone()).finish();
    let agreed = tracing::subscriber::with_default(subscriber, || agrees(&spec, session, info, &config));
    assert_eq!(agreed, Ok(()));
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(text.contains("WARN") && text.contains("nothing is proven") && text.contains("golden"), "{text}");
}
