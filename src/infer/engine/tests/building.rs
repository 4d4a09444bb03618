//! What the engine does while a GPU engine is built in another process, with a build that ends when the test says so.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::cancel::Cancel;
use crate::infer::backend::fake::{params, spec};
use crate::infer::engine::crashes::CrashCounter;
use crate::infer::engine::tests::stage::{Fakes, LONG, Stage, calm, stage_on};
use crate::infer::{Engine, InferError, Job};
use crate::types::BackendKind::{Cuda, Tensorrt};
use crate::types::{Ended, EngineState};

#[test]
fn the_next_backend_serves_while_an_engine_is_built_and_no_frame_is_lost_in_the_exchange() {
    let (fakes, build) = Fakes::unbuilt(&[Tensorrt, Cuda]);
    let mut stage = stage_on(fakes, calm(), CrashCounter::none());
    assert_eq!(stage.run().backend, Some(Cuda));
    let status = stage.until("a phase", |status| status.build.as_ref().is_some_and(|build| !build.phase.is_empty()));
    assert_eq!(status.state, EngineState::Serving);
    let progress = status.build.unwrap();
    assert_eq!((progress.backend, progress.expected), (Tensorrt, Some(Duration::from_secs(240))));
    assert_eq!(status.backend.unwrap().fallbacks, ["tensorrt: its engine is being built"]);
    build.end(Ok(()));
    let deadline = Instant::now() + LONG;
    // Two frames are always in the engine, so that the exchange meets some.
    let submit = |stage: &mut Stage| stage.queue.submit(Job::new(&spec(), params())).unwrap();
    submit(&mut stage);
    loop {
        submit(&mut stage);
        let job = stage.queue.wait(LONG).unwrap();
        assert_eq!(job.outcome, Ok(()));
        if job.backend == Some(Tensorrt) {
            break;
        }
        assert!(Instant::now() < deadline, "the built engine does not serve");
    }
    assert_eq!(stage.queue.wait(LONG).unwrap().outcome, Ok(()));
    let status = stage.until("the exchange", |status| status.build.is_none());
    assert_eq!((status.state, status.backend.unwrap().fallbacks.len()), (EngineState::Serving, 0));
    assert_eq!(stage.run().backend, Some(Tensorrt));
    assert_eq!(build.started.load(Ordering::SeqCst), 1);
}

#[test]
fn frames_wait_for_a_backend_that_was_named() {
    let (fakes, build) = Fakes::unbuilt(&[Tensorrt]);
    let mut stage = stage_on(fakes, calm(), CrashCounter::none());
    stage.until("the build", |status| status.state == EngineState::Building && status.build.is_some());
    stage.queue.submit(Job::new(&spec(), params())).unwrap();
    assert!(stage.queue.wait(Duration::from_millis(20)).is_none());
    build.end(Ok(()));
    let job = stage.queue.wait(LONG).unwrap();
    assert_eq!((job.outcome, job.backend), (Ok(()), Some(Tensorrt)));
    stage.until("service", |status| status.state == EngineState::Serving);
}

#[test]
fn a_build_that_failed_twice_is_not_tried_again() {
    for kinds in [&[Tensorrt, Cuda][..], &[Tensorrt]] {
        let (fakes, build) = Fakes::unbuilt(kinds);
        let mut stage = stage_on(fakes, calm(), CrashCounter::none());
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
            let status = stage.until("the end", |status| status.ended.is_some());
            assert_eq!(status.ended, Some(Ended::NoBackend), "the GPU is not lost");
            assert!(status.reason.unwrap().contains("models build"));
            assert!(matches!(stage.run().outcome, Err(InferError::Ended { .. })));
        }
        assert_eq!(build.started.load(Ordering::SeqCst), 2);
    }
}

#[test]
fn a_program_that_ends_soon_waits_for_what_it_asked_for() {
    let (fakes, build) = Fakes::unbuilt(&[Tensorrt]);
    let ends = build.clone();
    let other = std::thread::spawn(move || {
        while ends.started.load(Ordering::SeqCst) == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        ends.end(Ok(()));
    });
    let engine =
        Engine::with_backends(Arc::new(spec()), fakes, calm(), CrashCounter::none(), true, &Cancel::new()).unwrap();
    assert_eq!(engine.info().kind, Tensorrt);
    assert_eq!(engine.status().state, EngineState::Serving);
    other.join().unwrap();
}

#[test]
fn stopping_ends_a_build() {
    for kinds in [&[Tensorrt, Cuda][..], &[Tensorrt]] {
        let (fakes, build) = Fakes::unbuilt(kinds);
        let stage = stage_on(fakes, calm(), CrashCounter::none());
        stage.until("the build", |_| build.started.load(Ordering::SeqCst) == 1);
        drop(stage);
        assert_eq!(Arc::strong_count(&build), 1, "the build goes on");
    }
}
