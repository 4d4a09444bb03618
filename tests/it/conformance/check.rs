//! Checks of the promises of `Session`, for sessions of any backend.

use std::path::Path;
use std::sync::Arc;

use ocelli::infer::{Consume, Fork, InferError, Session};
use ocelli::model::{Input, ModelSpec};
use ocelli::types::BackendKind;

/// Checks a session of `spec`: each output is complete, finite, handed out once and the same for the same input, an input
/// of the wrong length is refused without harm, and forks give the same. The error is the first broken promise.
pub(super) fn check_session(session: &mut dyn Session, spec: &ModelSpec) -> Result<(), String> {
    let grey = spec.input.empty_frame();
    // All rows and columns differ, and all values are within the range of pixels.
    let pattern: Vec<f32> = (0..grey.len()).map(|n| (n * 7919 % 251) as f32 / spec.input.scale).collect();
    let first = outputs(session, spec, &pattern)?;
    let other = outputs(session, spec, &grey)?;
    same(&outputs(session, spec, &pattern)?, &first, "the same input gave another output the second time")?;
    for wrong in [0, grey.len() - 1, grey.len() + 1] {
        let input = vec![0.0; wrong];
        match session.run_one(Input::Planes(&input), &mut |_| {}) {
            Err(InferError::Input { expected, got }) if (expected, got) == (grey.len(), wrong) => {}
            answer => return Err(format!("an input of {wrong} values was answered with {answer:?}")),
        }
    }
    same(&outputs(session, spec, &grey)?, &other, "after a refused input the output is another")?;
    let mut fork = session.fork()().map_err(|error| format!("it cannot be forked: {error}"))?;
    same(&outputs(fork.as_mut(), spec, &pattern)?, &first, "a fork gives another output")?;
    same(&outputs(session, spec, &grey)?, &other, "after a fork the output is another")
}

/// One run, with the checks of each run.
fn outputs(session: &mut dyn Session, spec: &ModelSpec, input: &[f32]) -> Result<Vec<Vec<f32>>, String> {
    let mut calls = 0;
    let mut taken = Vec::new();
    session
        .run_one(Input::Planes(input), &mut |outputs| {
            calls += 1;
            taken = outputs.iter().map(|output| output.to_vec()).collect();
        })
        .map_err(|error| format!("it does not run: {error}"))?;
    if calls != 1 {
        return Err(format!("the outputs were handed out {calls} times"));
    }
    let tensors = &spec.output.tensors;
    if taken.len() != tensors.len() {
        return Err(format!("there are {} outputs, the model has {}", taken.len(), tensors.len()));
    }
    for (output, tensor) in taken.iter().zip(tensors) {
        if !tensor.takes(output.len()) {
            return Err(format!("output {} has {} values, not {}", tensor.name, output.len(), tensor.len()));
        }
        if let Some(at) = output.iter().position(|value| !value.is_finite()) {
            return Err(format!("output {} is {} at {at}", tensor.name, output[at]));
        }
    }
    Ok(taken)
}

/// Compares outputs. GPUs add in varying order, so a ten-thousandth of the largest value is allowed.
fn same(got: &[Vec<f32>], expected: &[Vec<f32>], otherwise: &str) -> Result<(), String> {
    for (got, expected) in got.iter().zip(expected) {
        let largest = expected.iter().fold(1.0_f32, |largest, value| largest.max(value.abs()));
        let differs = |(a, b): (&f32, &f32)| (a - b).abs() > largest * 1e-4;
        if got.len() != expected.len() || got.iter().zip(expected).any(differs) {
            return Err(otherwise.to_owned());
        }
    }
    Ok(())
}

/// A session that answers with a checksum of its input, and breaks one promise.
#[derive(Clone)]
struct Fake(Arc<ModelSpec>, &'static str);

impl Session for Fake {
    fn run(&mut self, frames: &[Input<'_>], consume: &mut Consume<'_>) -> Result<(), InferError> {
        let Input::Planes(planes) = frames[0] else { unreachable!("no bytes were given") };
        let (expected, got) = (self.0.input.frame_len(), planes.len());
        if got != expected && self.1 != "any length" {
            return Err(InferError::Input { expected, got });
        }
        if self.1 == "error" {
            return Err(InferError::Run { backend: BackendKind::Tract, reason: "out of memory".into() });
        }
        let value = planes.iter().enumerate().map(|(n, value)| (n % 7) as f32 * value).sum();
        let value = if self.1 == "not finite" { f32::NAN } else { value };
        let shorter = usize::from(self.1 == "too short");
        let tensors: Vec<Vec<f32>> =
            self.0.output.tensors.iter().map(|tensor| vec![value; tensor.len() - shorter]).collect();
        consume(0, &tensors.iter().map(Vec::as_slice).collect::<Vec<_>>());
        if self.1 == "twice" {
            consume(0, &[]);
        }
        Ok(())
    }

    fn fork(&self) -> Fork {
        let mut fork = self.clone();
        if self.1 == "other fork" {
            fork.1 = "not finite";
        }
        Arc::new(move || Ok(Box::new(fork.clone())))
    }
}

#[test]
fn a_good_session_passes_and_each_fault_is_found() {
    let marker = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/marker.onnx");
    let spec = Arc::new(ModelSpec::open(&marker, None).unwrap());
    let checked = |fault| check_session(&mut Fake(spec.clone(), fault), &spec);
    assert_eq!(checked("none"), Ok(()));
    for (fault, words) in [
        ("error", "does not run"),
        ("not finite", "NaN"),
        ("too short", "values, not"),
        ("twice", "2 times"),
        ("any length", "was answered with"),
        ("other fork", "NaN"),
    ] {
        let why = checked(fault).unwrap_err();
        assert!(why.contains(words), "{fault}: {why}");
    }
}
