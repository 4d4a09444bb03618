//! Checks of the promises of `Session`, for sessions of any backend.

use crate::infer::{InferError, Session};
use crate::model::{Input, ModelSpec};

/// Checks a session of `spec`: each output is complete, finite, handed out once and the same for the same input, an input
/// of the wrong length is refused without harm, and forks give the same.
///
/// # Errors
/// The first promise that is broken, as a sentence.
pub fn check_session(session: &mut dyn Session, spec: &ModelSpec) -> Result<(), String> {
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::infer::backend::fake::{FakeSession, Fault, Script, spec};

    fn checked(fault: Option<Fault>) -> Result<(), String> {
        let script = Script::open();
        script.fault(fault);
        check_session(&mut FakeSession::new(&script), &spec())
    }

    #[test]
    fn a_good_session_passes_and_each_fault_is_found() {
        assert_eq!(checked(None), Ok(()));
        for (fault, words) in [
            (Fault::Error("CUDA failure 2: out of memory"), "does not run"),
            (Fault::Output(f32::NAN), "NaN"),
            (Fault::Shape, "does not run"),
        ] {
            let why = checked(Some(fault.clone())).unwrap_err();
            assert!(why.contains(words), "{fault:?}: {why}");
        }
    }
}
