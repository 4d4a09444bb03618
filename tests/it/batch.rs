//! Several frames in one run, with real models and runtimes: each frame must get the output that it gets in a run of one.

use std::path::Path;

use ocelli::config::BackendChoice;
use ocelli::infer::{Backend, InferError, OrtBackend, Session, load};
use ocelli::model::{Batch, Input, InputTensor, ModelSpec, Prepare, prepare};
use ocelli::types::{BackendKind, Size};

use crate::common::test_data;
use crate::openvino::openvino_library;
use crate::runtime::{model_config, ort_library};

/// Frames of noise, no two alike.
fn frames(spec: &ModelSpec, count: usize) -> Vec<InputTensor> {
    (0..count)
        .map(|frame| {
            let mut tensor = InputTensor::new(&spec.input);
            let number = |n: usize| (n * 7919 + frame * 104_729) % 251;
            match &mut tensor {
                InputTensor::Planes(planes) => {
                    planes.iter_mut().enumerate().for_each(|(n, v)| *v = number(n) as f32 / 255.0);
                }
                InputTensor::Bytes(bytes) => bytes.iter_mut().enumerate().for_each(|(n, v)| *v = number(n) as u8),
            }
            tensor
        })
        .collect()
}

/// The outputs of each frame of one run.
fn run(session: &mut dyn Session, frames: &[InputTensor]) -> Vec<Vec<f32>> {
    let views: Vec<Input<'_>> = frames.iter().map(InputTensor::view).collect();
    let mut outputs = vec![Vec::new(); frames.len()];
    let mut order = Vec::new();
    session
        .run(&views, &mut |frame, tensors| {
            order.push(frame);
            outputs[frame] = tensors.concat();
        })
        .unwrap();
    assert_eq!(order, (0..frames.len()).collect::<Vec<_>>());
    outputs
}

#[track_caller]
fn same(together: &[Vec<f32>], alone: &[Vec<f32>]) {
    for (frame, (a, b)) in together.iter().zip(alone).enumerate() {
        assert_eq!(a.len(), b.len());
        let largest = b.iter().fold(1.0_f32, |largest, v| largest.max(v.abs()));
        let differs = a.iter().zip(b).position(|(a, b)| (a - b).abs() > largest * 1e-4);
        assert_eq!(differs, None, "frame {frame}");
    }
    assert!(alone.windows(2).all(|pair| pair[0] != pair[1]), "the frames are different ones");
}

fn session(spec: &ModelSpec, choice: BackendChoice, library: Option<&Path>) -> Box<dyn Session> {
    load(spec, &model_config(choice, library)).unwrap().0
}

#[test]
fn an_open_batch_on_onnx_runtime() {
    let (Some(library), Some(model)) = (ort_library(), test_data("families/yolov5n_coco_dynamic.onnx")) else { return };
    let mut spec = ModelSpec::open(&model, Some(Size::new(160, 128))).unwrap();
    assert_eq!(spec.input.batch, Batch { size: 1, open: true });
    let frames = frames(&spec, 5);
    let mut single = session(&spec, BackendChoice::Cpu, Some(&library));
    let alone: Vec<_> = frames.iter().flat_map(|frame| run(single.as_mut(), std::slice::from_ref(frame))).collect();
    spec.set_batch(Some(4)).unwrap();
    let mut session = session(&spec, BackendChoice::Cpu, Some(&library));
    assert_eq!(session.batch(), 4);
    // More and fewer from run to run.
    for count in [4, 1, 3, 2, 4] {
        same(&run(session.as_mut(), &frames[..count]), &alone[..count]);
    }
    same(&run(session.fork()().unwrap().as_mut(), &frames[1..4]), &alone[1..4]);
    let views: Vec<Input<'_>> = frames.iter().map(InputTensor::view).collect();
    let refused = session.run(&views, &mut |_, _| {}).unwrap_err();
    assert_eq!(refused, InferError::Batch { most: 4, got: 5 });
    assert_eq!(session.run(&[], &mut |_, _| {}).unwrap_err(), InferError::Batch { most: 4, got: 0 });
    same(&run(session.as_mut(), &frames[..2]), &alone[..2]);
}

/// The same network with its batch fixed at three, made by `prepare`; `bytes`: it takes pixels.
fn fixed(bytes: bool, choice: BackendChoice, library: Option<&Path>) {
    let Some(model) = test_data("families/yolov5n_coco_dynamic.onnx") else { return };
    let mut spec = ModelSpec::open(&model, Some(Size::new(160, 128))).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut prepared = |batch: usize| {
        spec.set_batch(Some(batch)).unwrap();
        let how = Prepare { bytes_input: bytes, channels_last: bytes, ..Prepare::default() };
        let path = folder.path().join(format!("{batch}.onnx"));
        std::fs::write(&path, prepare(&spec.bytes().unwrap(), &spec, how).unwrap()).unwrap();
        ModelSpec::open(&path, None).unwrap()
    };
    let (one, three) = (prepared(1), prepared(3));
    assert_eq!((one.input.batch, three.input.batch), (Batch::ONE, Batch { size: 3, open: false }));
    let frames = frames(&one, 3);
    assert_eq!(matches!(frames[0], InputTensor::Bytes(_)), bytes);
    let mut single = session(&one, choice, library);
    let alone: Vec<_> = frames.iter().flat_map(|frame| run(single.as_mut(), std::slice::from_ref(frame))).collect();
    let mut session = session(&three, choice, library);
    assert_eq!(session.batch(), 3);
    for count in [3, 1, 2] {
        same(&run(session.as_mut(), &frames[..count]), &alone[..count]);
    }
}

#[test]
fn a_fixed_batch_on_onnx_runtime() {
    let Some(library) = ort_library() else { return };
    fixed(false, BackendChoice::Cpu, Some(&library));
    fixed(true, BackendChoice::Cpu, Some(&library));
}

#[test]
fn a_fixed_batch_on_tract() {
    fixed(false, BackendChoice::Tract, None);
    fixed(true, BackendChoice::Tract, None);
}

#[test]
fn a_fixed_batch_on_openvino() {
    let Some(library) = openvino_library() else { return };
    fixed(false, BackendChoice::Openvino, Some(&library));
    fixed(true, BackendChoice::Openvino, Some(&library));
}

/// For runtimes that gain nothing from a batch.
fn frame_by_frame(choice: BackendChoice, library: Option<&Path>) {
    let Some(model) = test_data("families/yolov5n_coco_dynamic.onnx") else { return };
    let mut spec = ModelSpec::open(&model, Some(Size::new(160, 128))).unwrap();
    spec.set_batch(Some(4)).unwrap();
    let mut session = session(&spec, choice, library);
    assert_eq!(session.batch(), 1);
    run(session.as_mut(), &frames(&spec, 1));
}

#[test]
fn an_open_batch_on_tract_runs_frame_by_frame() {
    frame_by_frame(BackendChoice::Tract, None);
}

#[test]
fn an_open_batch_on_openvino_runs_frame_by_frame() {
    let Some(library) = openvino_library() else { return };
    frame_by_frame(BackendChoice::Openvino, Some(&library));
}

/// Bound tensors as on a GPU, but in the host's memory: outputs are equal, bit by bit.
#[test]
fn bound_tensors_give_the_same_outputs() {
    let (Some(library), Some(model)) = (ort_library(), test_data("families/yolov5n_coco_dynamic.onnx")) else { return };
    let Some(half) = test_data("models/yolov5n_coco_640_fp16.onnx") else { return };
    let backend = || OrtBackend::new(BackendKind::Cpu, Some(&library), 1).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut open = ModelSpec::open(&model, Some(Size::new(160, 128))).unwrap();
    open.set_batch(Some(3)).unwrap();
    let prepared = |name: &str, how: Prepare| {
        let path = folder.path().join(name);
        std::fs::write(&path, prepare(&open.bytes().unwrap(), &open, how).unwrap()).unwrap();
        ModelSpec::open(&path, None).unwrap()
    };
    let planes = prepared("planes.onnx", Prepare::default());
    let bytes = prepared("bytes.onnx", Prepare { bytes_input: true, channels_last: true, ..Prepare::default() });
    let half = ModelSpec::open(&half, None).unwrap();
    for (spec, fixed) in [
        (&open, false),
        (&planes, false),
        (&planes, true),
        (&bytes, false),
        (&bytes, true),
        (&half, false),
        (&half, true),
    ] {
        let most = spec.input.batch.size;
        let frames = frames(spec, most);
        let mut plain = backend().load(spec).unwrap();
        let mut bound = backend().bound(fixed).load(spec).unwrap();
        for count in [most, 1, most.min(2), most] {
            let expected = run(plain.as_mut(), &frames[..count]);
            assert!(run(bound.as_mut(), &frames[..count]) == expected, "{}, {count}, {fixed}", spec.path.display());
        }
        let expected = run(plain.as_mut(), &frames[..1]);
        assert!(run(bound.fork()().unwrap().as_mut(), &frames[..1]) == expected, "{}", spec.path.display());
    }
    let refused = backend().bound(true).load(&open).err().map(|error| error.to_string()).unwrap_or_default();
    assert!(refused.contains("cuda_graph needs outputs whose size never changes"), "{refused}");
}
