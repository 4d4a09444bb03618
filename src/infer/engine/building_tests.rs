//! What the engine does while the engine of a GPU is built elsewhere, tried with a build that ends as it is told to.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::infer::backend::fake::{params, spec};
use crate::infer::engine::stage::{LONG, Ladder, Stage, calm, stage_on};
use crate::infer::engine::starts::Starts;
use crate::infer::{Engine, InferError, Job};
use crate::types::BackendKind::{Cuda, Tensorrt};
use crate::types::EngineState;

#[test]
fn the_next_rung_serves_while_an_engine_is_built_and_no_frame_is_lost_in_the_swap() {
    let (ladder, build) = Ladder::unbuilt(&[Tensorrt, Cuda]);
    let mut stage = stage_on(ladder, calm(), Starts::none());
    assert_eq!(stage.run().backend, Some(Cuda));
    let status = stage.until("a phase", |status| status.build.as_ref().is_some_and(|build| !build.phase.is_empty()));
    assert_eq!(status.state, EngineState::Serving);
    let progress = status.build.unwrap();
    assert_eq!((progress.backend, progress.expected), (Tensorrt, Some(Duration::from_secs(240))));
    assert_eq!(status.backend.unwrap().fallbacks, ["tensorrt: its engine is being built"]);
    build.end(Ok(()));
    let deadline = Instant::now() + LONG;
    // Two frames are always in the engine, so that the swap meets some.
    let submit = |stage: &mut Stage| stage.lane.submit(Job::new(&spec(), params())).unwrap();
    submit(&mut stage);
    loop {
        submit(&mut stage);
        let job = stage.lane.wait(LONG).unwrap();
        assert_eq!(job.outcome, Ok(()));
        if job.backend == Some(Tensorrt) {
            break;
        }
        assert!(Instant::now() < deadline, "it was not swapped in");
    }
    assert_eq!(stage.lane.wait(LONG).unwrap().outcome, Ok(()));
    let status = stage.until("the swap", |status| status.build.is_none());
    assert_eq!((status.state, status.backend.unwrap().fallbacks.len()), (EngineState::Serving, 0));
    assert_eq!(stage.run().backend, Some(Tensorrt));
    assert_eq!(build.started.load(Ordering::SeqCst), 1);
}

#[test]
fn frames_wait_for_a_backend_that_was_named() {
    let (ladder, build) = Ladder::unbuilt(&[Tensorrt]);
    let mut stage = stage_on(ladder, calm(), Starts::none());
    stage.until("the build", |status| status.state == EngineState::Building && status.build.is_some());
    stage.lane.submit(Job::new(&spec(), params())).unwrap();
    assert!(stage.lane.wait(Duration::from_millis(20)).is_none());
    build.end(Ok(()));
    let job = stage.lane.wait(LONG).unwrap();
    assert_eq!((job.outcome, job.backend), (Ok(()), Some(Tensorrt)));
    stage.until("service", |status| status.state == EngineState::Serving);
}

#[test]
fn a_build_that_failed_twice_is_not_tried_again() {
    for kinds in [&[Tensorrt, Cuda][..], &[Tensorrt]] {
        let (ladder, build) = Ladder::unbuilt(kinds);
        let mut stage = stage_on(ladder, calm(), Starts::none());
        for round in 1..=2 {
            let deadline = Instant::now() + LONG;
            while build.started.load(Ordering::SeqCst) < round {
                assert!(Instant::now() < deadline, "build {round} did not begin");
                std::thread::sleep(Duration::from_millis(1));
            }
            build.end(Err("it crashed with SIGSEGV"));
        }
        if kinds.len() > 1 {
            let status = stage.until("the refusal", |status| {
                status.backend.as_ref().is_some_and(|info| info.fallbacks[0].contains("is not built again"))
            });
            assert_eq!(status.state, EngineState::Serving);
            assert_eq!(stage.run().backend, Some(Cuda));
        } else {
            let status = stage.until("the end", |status| status.fatal);
            assert!(status.reason.unwrap().contains("models build"));
            assert!(matches!(stage.run().outcome, Err(InferError::Ended { .. })));
        }
        assert_eq!(build.started.load(Ordering::SeqCst), 2);
    }
}

#[test]
fn an_engine_that_the_runtime_does_not_take_is_built_once_more() {
    let (ladder, build) = Ladder::unbuilt(&[Tensorrt, Cuda]);
    ladder.broken.lock().unwrap().push(Tensorrt);
    let mut stage = stage_on(ladder, calm(), Starts::none());
    build.end(Ok(()));
    let deadline = Instant::now() + LONG;
    while build.started.load(Ordering::SeqCst) < 2 {
        assert!(Instant::now() < deadline, "it was not built once more");
        assert_eq!(stage.run().backend, Some(Cuda));
    }
    build.end(Ok(()));
    stage.until("the refusal", |status| {
        status.backend.as_ref().is_some_and(|info| info.fallbacks[0].contains("is not built again"))
    });
    assert_eq!(build.started.load(Ordering::SeqCst), 2);
}

#[test]
fn a_program_that_ends_soon_waits_for_what_it_asked_for() {
    let (ladder, build) = Ladder::unbuilt(&[Tensorrt]);
    let ends = build.clone();
    let other = std::thread::spawn(move || {
        while ends.started.load(Ordering::SeqCst) == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        ends.end(Ok(()));
    });
    let engine = Engine::with_rungs(Arc::new(spec()), ladder, calm(), Starts::none(), true).unwrap();
    assert_eq!(engine.info().kind, Tensorrt);
    assert_eq!(engine.status().state, EngineState::Serving);
    other.join().unwrap();
}

#[test]
fn stopping_calls_a_build_off() {
    for kinds in [&[Tensorrt, Cuda][..], &[Tensorrt]] {
        let (ladder, build) = Ladder::unbuilt(kinds);
        let stage = stage_on(ladder, calm(), Starts::none());
        stage.until("the build", |_| build.started.load(Ordering::SeqCst) == 1);
        drop(stage);
        assert_eq!(Arc::strong_count(&build), 1, "the build goes on");
    }
}
