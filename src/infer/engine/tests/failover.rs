//! Failover on real threads, with backends that fail, hang or compute nonsense when the test says so. Decisions are tested
//! in `machine_tests.rs`.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cancel::Cancel;
use crate::infer::backend::fake::{Fault, params, spec};
use crate::infer::engine::crashes::{CrashCounter, Mark};
use crate::infer::engine::limits::Limits;
use crate::infer::engine::tests::stage::{Fakes, LONG, Stage, calm, stage, stage_on, strict_on_gpu};
use crate::infer::{Engine, InferError, Job};
use crate::types::BackendKind::{Cpu, Cuda, Tensorrt, Tract};
use crate::types::{Ended, EngineState, Priority};

#[test]
fn after_any_failure_of_a_backend_the_next_one_serves() {
    for fault in [
        Fault::Error("CUDNN failure 4: internal error"),
        Fault::Output(f32::NAN),
        Fault::Output(f32::INFINITY),
        Fault::Shape,
    ] {
        let mut stage = stage(&[Cuda, Cpu, Tract], calm());
        assert_eq!(stage.run().backend, Some(Cuda));
        let script = stage.fakes.script(Cuda);
        let before = script.ran().len();
        script.fault(Some(fault.clone()));
        assert!(stage.run().outcome.is_err(), "{fault:?}");
        assert_eq!(script.ran().len(), before + 2, "one retry");
        let job = stage.run();
        assert_eq!((job.outcome, job.backend), (Ok(()), Some(Cpu)), "{fault:?}");
        let status = stage.until("the next backend", |status| status.state == EngineState::Serving);
        let info = status.backend.unwrap();
        assert_eq!((info.kind, info.fallbacks.len()), (Cpu, 1));
        assert!(info.fallbacks[0].contains("while it ran"), "{:?}", info.fallbacks);
        assert_eq!(stage.states(), [EngineState::Loading, EngineState::Serving].repeat(2)[1..]);
    }
}

#[test]
fn a_hang_gives_the_frame_back_and_the_next_frames_are_served() {
    let mut stage = stage(&[Cuda, Cpu], strict_on_gpu());
    let script = stage.fakes.script(Cuda);
    script.hang();
    let lost = stage.run();
    assert!(matches!(lost.outcome, Err(InferError::Hung { .. })), "{:?}", lost.outcome);
    assert!(lost.input.is_empty(), "the hanging thread has the buffers");
    // A new session is the retry; it hangs as well, then the next backend takes over.
    assert!(matches!(stage.run().outcome, Err(InferError::Hung { .. })));
    assert_eq!(script.forks.load(std::sync::atomic::Ordering::SeqCst), 1);
    assert_eq!(stage.run_until_it_works().backend, Some(Cpu));
    // The threads come back at last; their results are dropped.
    script.allow_all();
    assert_eq!(stage.run_until_it_works().backend, Some(Cpu));
}

#[test]
fn one_hang_is_not_the_end_of_a_backend() {
    let mut stage = stage(&[Cuda, Cpu], strict_on_gpu());
    let script = stage.fakes.script(Cuda);
    script.hang();
    assert!(stage.run().outcome.is_err());
    script.allow_all();
    assert_eq!(stage.run_until_it_works().backend, Some(Cuda));
    stage.until("serving again", |status| status.state == EngineState::Serving);
}

#[test]
fn a_lost_backend_is_tried_in_a_child_and_taken_back() {
    let limits = Limits { retry_first: Duration::from_millis(50), retry_max: Duration::from_millis(100), ..calm() };
    let mut stage = stage(&[Cuda, Cpu], limits);
    let script = stage.fakes.script(Cuda);
    script.fault(Some(Fault::Error("out of memory")));
    assert!(stage.run().outcome.is_err());
    assert_eq!(stage.run_until_it_works().backend, Some(Cpu));
    // It fails its warm-up for a while: frames are served all the same.
    let deadline = Instant::now() + LONG;
    while stage.fakes.proven.lock().unwrap().len() < 3 {
        assert_eq!(stage.run().backend, Some(Cpu));
        assert!(Instant::now() < deadline, "it was not tried again");
    }
    script.fault(None);
    let status =
        stage.until("the better backend", |status| status.backend.as_ref().is_some_and(|info| info.kind == Cuda));
    assert_eq!((status.state, status.backend.unwrap().fallbacks.len()), (EngineState::Serving, 0));
    assert_eq!(stage.run_until_it_works().backend, Some(Cuda));
}

#[test]
fn a_lost_gpu_ends_the_process_and_never_falls_back() {
    for kinds in [&[Cuda, Cpu][..], &[Tensorrt]] {
        let mut stage = stage(kinds, calm());
        stage.fakes.script(kinds[0]).fault(Some(Fault::Error("CUDA failure 700: an illegal memory access")));
        assert!(stage.run().outcome.is_err());
        let status = stage.until("the end", |status| status.ended.is_some());
        assert_eq!(status.state, EngineState::Failed);
        let (ended, reason) = stage.engine.fatal().unwrap();
        assert!(ended == Ended::DeviceLost && reason.contains("700"), "{reason}");
        assert!(matches!(stage.run().outcome, Err(InferError::Ended { .. })), "frames come back at once");
    }
}

#[test]
fn a_named_backend_reports_its_errors_and_only_a_gpu_gives_up() {
    for (kind, fatal) in [(Cpu, false), (Tract, false), (Cuda, true)] {
        let mut stage = stage(&[kind], Limits { failures: 5, ..calm() });
        stage.fakes.script(kind).fault(Some(Fault::Error("no memory")));
        for _ in 0..4 {
            assert!(matches!(stage.run().outcome, Err(InferError::Run { .. })));
        }
        let status = stage.until("degraded", |status| status.state == EngineState::Degraded);
        assert!(status.reason.unwrap().contains("no memory"));
        assert!(status.ended.is_none());
        if fatal {
            assert!(stage.run().outcome.is_err());
            stage.until("the end", |status| status.ended.is_some());
            continue;
        }
        for _ in 0..10 {
            assert!(stage.run().outcome.is_err());
        }
        stage.fakes.script(kind).fault(None);
        assert_eq!(stage.run().outcome, Ok(()));
        stage.until("recovery", |status| status.state == EngineState::Serving);
    }
}

#[test]
fn when_no_other_backend_works_the_engine_stays_and_recovers() {
    let mut stage = stage(&[Cuda, Cpu], calm());
    stage.fakes.broken.lock().unwrap().push(Cpu);
    let script = stage.fakes.script(Cuda);
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
    let script = stage.fakes.script(Cpu);
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
fn a_load_that_hangs_is_abandoned() {
    let fakes = Fakes::new(&[Cuda, Cpu]);
    let script = fakes.script(Cuda);
    script.hang();
    let limits = Limits { load: Duration::from_millis(200), ..calm() };
    let mut stage = stage_on(fakes, limits, CrashCounter::none());
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
    let script = stage.fakes.script(Cuda);
    script.hang();
    let Stage { engine, mut queue, .. } = stage;
    queue.submit(Job::new(&spec(), params())).unwrap();
    while script.ran().len() < 3 {
        std::thread::yield_now();
    }
    drop(engine);
    assert_eq!(queue.wait(Duration::ZERO).unwrap().outcome, Err(InferError::Stopped));
    assert_eq!(queue.shared.lock().threads.hung(), 1);
    assert!(crate::infer::hung_threads() > 0, "the program must know that it may not tear down the runtime");
    script.allow_all();
}

#[test]
fn a_start_without_any_backend_that_works_is_an_error() {
    let fakes = Fakes::new(&[Cuda, Cpu]);
    fakes.broken.lock().unwrap().extend([Cuda, Cpu]);
    let engine = Engine::with_backends(Arc::new(spec()), fakes, calm(), CrashCounter::none(), false, &Cancel::new());
    assert_eq!(engine.err(), Some(InferError::Provider { backend: Cpu, reason: "told to break".into() }));
}

#[test]
fn starts_that_crashed_leave_a_backend_out_until_it_serves() {
    let dir = tempfile::tempdir().unwrap();
    let open = || CrashCounter::open(dir.path(), "model".into());
    for _ in 0..2 {
        open().mark(Mark::Started(Cuda));
    }
    let limits = Limits { served: (3, LONG), ..calm() };
    let mut stage = stage_on(Fakes::new(&[Cuda, Cpu, Tract]), limits.clone(), open());
    assert_eq!(stage.run().backend, Some(Cpu));
    assert!(stage.engine.info().fallbacks[0].contains("safe start"), "{:?}", stage.engine.info());
    drop(stage);
    // It is tried again as after any loss, and its service resets the counter.
    let limits = Limits { retry_first: Duration::from_millis(1), ..limits };
    let mut stage = stage_on(Fakes::new(&[Cuda, Cpu, Tract]), limits, open());
    stage.until("the better backend", |status| status.backend.as_ref().is_some_and(|info| info.kind == Cuda));
    for _ in 0..3 {
        assert_eq!(stage.run().backend, Some(Cuda));
    }
    let deadline = Instant::now() + LONG;
    while open().counts(&[Cuda]) != [0] {
        assert!(Instant::now() < deadline, "the counter was not reset");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_start_that_is_cancelled_ends_at_once_and_is_not_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let open = || CrashCounter::open(dir.path(), "model".into());
    let fakes = Fakes::new(&[Cuda, Cpu]);
    let script = fakes.script(Cuda);
    script.hang();
    let cancel = Cancel::new();
    let start = std::thread::spawn({
        let (cancel, crashes, limits) = (cancel.clone(), open(), Limits { stop: LONG * 60, ..calm() });
        move || Engine::with_backends(Arc::new(spec()), fakes, limits, crashes, false, &cancel).err()
    });
    let deadline = Instant::now() + LONG;
    while script.ran().is_empty() {
        assert!(Instant::now() < deadline, "the load did not begin");
        std::thread::yield_now();
    }
    assert_eq!(open().counts(&[Cuda, Cpu]), [1, 0], "counted while it loads");
    // The deadline is far away: it is the load that is not waited for.
    cancel.cancel(Duration::from_secs(3600));
    assert_eq!(start.join().unwrap(), Some(InferError::Stopped));
    assert_eq!(open().counts(&[Cuda, Cpu]), [0, 0]);
    assert!(crate::infer::hung_threads() > 0, "the process must end without tearing down the runtime");
    assert_eq!(script.ran().len(), 1, "no other backend is loaded");
    script.allow_all();
}

#[test]
fn an_engine_waits_for_its_threads_until_the_deadline_of_the_stop() {
    let cancel = Cancel::new();
    let fakes = Fakes::new(&[Cpu]);
    let script = fakes.script(Cpu);
    let limits = Limits { stop: LONG * 60, ..calm() };
    let engine = Engine::with_backends(Arc::new(spec()), fakes, limits, CrashCounter::none(), false, &cancel).unwrap();
    let mut queue = engine.camera_queue("gate", 1, Priority::Normal);
    script.hang();
    queue.submit(Job::new(&spec(), params())).unwrap();
    while script.ran().len() < 2 {
        std::thread::yield_now();
    }
    cancel.cancel(Duration::from_millis(50));
    drop(engine);
    assert_eq!(queue.wait(Duration::ZERO).unwrap().outcome, Err(InferError::Stopped));
    script.allow_all();
}

#[test]
fn a_session_that_is_loaded_too_late_is_dropped_by_its_own_thread() {
    let fakes = Fakes::new(&[Cuda, Cpu]);
    let script = fakes.script(Cuda);
    script.hang();
    script.close_slowly();
    let limits = Limits { load: Duration::from_millis(200), stop: LONG, ..calm() };
    let mut stage = stage_on(fakes, limits, CrashCounter::none());
    // The late session now arrives, and takes as long to close as the test likes.
    script.allow_all();
    let deadline = Instant::now() + LONG;
    while !script.is_closing() {
        assert!(Instant::now() < deadline, "the late session was not closed");
        std::thread::yield_now();
    }
    // The engine goes on meanwhile: its thread sees this failure.
    stage.fakes.script(Cpu).fault(Some(Fault::Error("no memory")));
    assert!(stage.run().outcome.is_err());
    stage.until("degraded", |status| status.state == EngineState::Degraded);
    script.finish_closing();
}
