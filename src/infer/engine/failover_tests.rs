//! What the engine does when a backend fails, hangs, lies or is lost, tried with one that does so when it is told to.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::infer::backend::fake::{Fault, params, spec};
use crate::infer::engine::policy::Limits;
use crate::infer::engine::stage::{LONG, Ladder, Stage, calm, stage, stage_on, strict_on_gpu};
use crate::infer::engine::starts::Starts;
use crate::infer::{Engine, InferError, Job};
use crate::types::BackendKind::{Cpu, Cuda, Tensorrt, Tract};
use crate::types::EngineState;

#[test]
fn whatever_goes_wrong_on_one_rung_the_next_one_serves() {
    for fault in [
        Fault::Error("CUDNN failure 4: internal error"),
        Fault::Output(f32::NAN),
        Fault::Output(f32::INFINITY),
        Fault::Shape,
    ] {
        let mut stage = stage(&[Cuda, Cpu, Tract], calm());
        assert_eq!(stage.run().backend, Some(Cuda));
        let script = stage.ladder.script(Cuda);
        let before = script.ran().len();
        script.fault(Some(fault.clone()));
        assert!(stage.run().outcome.is_err(), "{fault:?}");
        assert_eq!(script.ran().len(), before + 2, "one retry");
        let job = stage.run();
        assert_eq!((job.outcome, job.backend), (Ok(()), Some(Cpu)), "{fault:?}");
        let status = stage.until("the next rung", |status| status.state == EngineState::Serving);
        let info = status.backend.unwrap();
        assert_eq!((info.kind, info.fallbacks.len()), (Cpu, 1));
        assert!(info.fallbacks[0].contains("while it ran"), "{:?}", info.fallbacks);
        assert_eq!(stage.states(), [EngineState::Loading, EngineState::Serving].repeat(2)[1..]);
    }
}

#[test]
fn a_hang_gives_the_frame_back_and_the_next_frames_are_served() {
    let mut stage = stage(&[Cuda, Cpu], strict_on_gpu());
    let script = stage.ladder.script(Cuda);
    script.hang();
    let lost = stage.run();
    assert!(matches!(lost.outcome, Err(InferError::Hung { .. })), "{:?}", lost.outcome);
    assert!(lost.input.is_empty(), "the hanging thread has the buffers");
    // A fresh session is the retry; it hangs as well, then the next rung takes over.
    assert!(matches!(stage.run().outcome, Err(InferError::Hung { .. })));
    assert_eq!(script.forks.load(std::sync::atomic::Ordering::SeqCst), 1);
    assert_eq!(stage.run_until_it_works().backend, Some(Cpu));
    // The threads come back at last; what they bring is nobody's any more.
    script.allow_all();
    assert_eq!(stage.run_until_it_works().backend, Some(Cpu));
}

#[test]
fn one_hang_is_not_the_end_of_a_backend() {
    let mut stage = stage(&[Cuda, Cpu], strict_on_gpu());
    let script = stage.ladder.script(Cuda);
    script.hang();
    assert!(stage.run().outcome.is_err());
    script.allow_all();
    assert_eq!(stage.run_until_it_works().backend, Some(Cuda));
    stage.until("serving again", |status| status.state == EngineState::Serving);
}

#[test]
fn a_lost_rung_is_tried_in_a_child_and_taken_back() {
    let limits = Limits { climb_first: Duration::from_millis(50), climb_max: Duration::from_millis(100), ..calm() };
    let mut stage = stage(&[Cuda, Cpu], limits);
    let script = stage.ladder.script(Cuda);
    script.fault(Some(Fault::Error("out of memory")));
    assert!(stage.run().outcome.is_err());
    assert_eq!(stage.run_until_it_works().backend, Some(Cpu));
    // It fails its warm-up for a while: nobody is served worse because of that.
    let deadline = Instant::now() + LONG;
    while stage.ladder.proven.lock().unwrap().len() < 3 {
        assert_eq!(stage.run().backend, Some(Cpu));
        assert!(Instant::now() < deadline, "it was not tried again");
    }
    script.fault(None);
    let status = stage.until("the way up", |status| status.backend.as_ref().is_some_and(|info| info.kind == Cuda));
    assert_eq!((status.state, status.backend.unwrap().fallbacks.len()), (EngineState::Serving, 0));
    assert_eq!(stage.run_until_it_works().backend, Some(Cuda));
}

#[test]
fn a_lost_gpu_ends_the_process_and_never_falls_back() {
    for kinds in [&[Cuda, Cpu][..], &[Tensorrt]] {
        let mut stage = stage(kinds, calm());
        stage.ladder.script(kinds[0]).fault(Some(Fault::Error("CUDA failure 700: an illegal memory access")));
        assert!(stage.run().outcome.is_err());
        let status = stage.until("the end", |status| status.fatal);
        assert_eq!(status.state, EngineState::Failed);
        assert!(stage.engine.fatal().unwrap().contains("700"));
        assert!(matches!(stage.run().outcome, Err(InferError::Ended { .. })), "frames come back at once");
    }
}

#[test]
fn a_named_backend_reports_its_errors_and_only_a_gpu_gives_up() {
    for (kind, fatal) in [(Cpu, false), (Tract, false), (Cuda, true)] {
        let mut stage = stage(&[kind], Limits { failures: 5, ..calm() });
        stage.ladder.script(kind).fault(Some(Fault::Error("no memory")));
        for _ in 0..4 {
            assert!(matches!(stage.run().outcome, Err(InferError::Run { .. })));
        }
        let status = stage.until("degraded", |status| status.state == EngineState::Degraded);
        assert!(status.reason.unwrap().contains("no memory"));
        assert!(!status.fatal);
        if fatal {
            assert!(stage.run().outcome.is_err());
            stage.until("the end", |status| status.fatal);
            continue;
        }
        for _ in 0..10 {
            assert!(stage.run().outcome.is_err());
        }
        stage.ladder.script(kind).fault(None);
        assert_eq!(stage.run().outcome, Ok(()));
        stage.until("recovery", |status| status.state == EngineState::Serving);
    }
}

#[test]
fn when_nothing_below_works_the_engine_stays_and_recovers() {
    let mut stage = stage(&[Cuda, Cpu], calm());
    stage.ladder.broken.lock().unwrap().push(Cpu);
    let script = stage.ladder.script(Cuda);
    script.fault(Some(Fault::Error("out of memory")));
    assert!(stage.run().outcome.is_err());
    stage.until("degraded", |status| status.state == EngineState::Degraded);
    script.fault(None);
    assert_eq!(stage.run_until_it_works().backend, Some(Cuda));
    stage.until("recovery", |status| status.state == EngineState::Serving);
}

#[test]
fn threads_that_hang_are_few_and_make_room_when_they_come_back() {
    let limits = Limits { least_cpu: Duration::from_millis(200), hung: 2, ..calm() };
    let mut stage = stage(&[Cpu], limits);
    let script = stage.ladder.script(Cpu);
    script.hang();
    assert!(stage.run().outcome.is_err());
    assert!(stage.run().outcome.is_err());
    // No further thread is spent: frames come back at once.
    let before = script.ran().len();
    for _ in 0..5 {
        assert!(matches!(stage.run().outcome, Err(InferError::Hung { .. })));
    }
    assert_eq!(script.ran().len(), before);
    assert_eq!(stage.engine.status().state, EngineState::Degraded);
    script.allow_all();
    assert_eq!(stage.run_until_it_works().backend, Some(Cpu));
}

#[test]
fn a_load_that_hangs_is_left_alone() {
    let ladder = Ladder::new(&[Cuda, Cpu]);
    let script = ladder.script(Cuda);
    script.hang();
    let limits = Limits { load: Duration::from_millis(200), ..calm() };
    let mut stage = stage_on(ladder, limits, Starts::none());
    let job = stage.run();
    assert_eq!((job.outcome, job.backend), (Ok(()), Some(Cpu)));
    let info = stage.engine.info();
    assert!(info.fallbacks[0].starts_with("cuda did not come back"), "{:?}", info.fallbacks);
    drop(stage);
    script.allow_all();
}

#[test]
fn stopping_does_not_wait_for_ever() {
    let stage = stage(&[Cuda, Cpu], calm());
    let script = stage.ladder.script(Cuda);
    script.hang();
    let Stage { engine, mut lane, .. } = stage;
    lane.submit(Job::new(&spec(), params())).unwrap();
    while script.ran().len() < 3 {
        std::thread::yield_now();
    }
    drop(engine);
    assert_eq!(lane.wait(Duration::ZERO).unwrap().outcome, Err(InferError::Stopped));
    assert!(crate::infer::hung_threads() > 0, "the program must know that it may not tear down the runtime");
    script.allow_all();
}

#[test]
fn a_ladder_that_does_not_work_at_all_is_an_error() {
    let ladder = Ladder::new(&[Cuda, Cpu]);
    ladder.broken.lock().unwrap().extend([Cuda, Cpu]);
    let engine = Engine::with_rungs(Arc::new(spec()), ladder, calm(), Starts::none(), false);
    assert_eq!(engine.err(), Some(InferError::Provider { backend: Cpu, reason: "told to break".into() }));
}

#[test]
fn starts_that_died_make_the_next_one_begin_lower() {
    let dir = tempfile::tempdir().unwrap();
    let processes = std::cell::Cell::new(0);
    let open = || {
        processes.set(processes.get() + 1);
        Starts::open_as(dir.path(), "model".into(), &processes.get().to_string())
    };
    for _ in 0..2 {
        open().starting(Cuda);
    }
    let limits = Limits { served: (3, LONG), ..calm() };
    let mut stage = stage_on(Ladder::new(&[Cuda, Cpu, Tract]), limits.clone(), open());
    assert_eq!(stage.run().backend, Some(Cpu));
    assert!(stage.engine.info().fallbacks[0].contains("safe start"), "{:?}", stage.engine.info());
    drop(stage);
    // The way up is tried as after any loss, and service there clears the record.
    let limits = Limits { climb_first: Duration::from_millis(1), ..limits };
    let mut stage = stage_on(Ladder::new(&[Cuda, Cpu, Tract]), limits, open());
    stage.until("the way up", |status| status.backend.as_ref().is_some_and(|info| info.kind == Cuda));
    for _ in 0..3 {
        assert_eq!(stage.run().backend, Some(Cuda));
    }
    let deadline = Instant::now() + LONG;
    while open_first(dir.path()) != 0 {
        assert!(Instant::now() < deadline, "the record was not cleared");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What the record says, read without being judged as a start.
fn open_first(folder: &std::path::Path) -> usize {
    let text = std::fs::read_to_string(folder.join("engine-starts.json")).unwrap();
    usize::from(text.contains("\"cuda\":2"))
}
