//! The machine's decisions as scripts: events at their times, and the effects that must follow.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::{Duration, Instant};

use crate::infer::InferError;
use crate::infer::engine::event::{Effect, Event, Outcome};
use crate::infer::engine::limits::Limits;
use crate::infer::engine::machine::Machine;
use crate::types::BackendKind::{self, Cpu, Cuda, Tensorrt, Tract};
use crate::types::{Ended, EngineState};

const LIMIT: Duration = Duration::from_secs(2);

/// A machine, and the script's clock in seconds.
struct Script {
    machine: Machine,
    start: Instant,
}

impl Script {
    /// Starts an engine on `kinds`, of which `crashes` starts crashed, and expects `effects`.
    fn new(kinds: &[BackendKind], crashes: &[u32], effects: &str) -> Self {
        let start = Instant::now();
        let mut script = Self { machine: Machine::new(kinds, Limits::default()), start };
        script.at(0, Event::Start { crashes: crashes.to_vec() }, effects);
        script
    }

    /// An engine that serves on the first of `kinds`, since second 0.
    fn serving(kinds: &[BackendKind]) -> Self {
        let first = kinds[0];
        let mut script = Self::new(kinds, &[], &format!("count {first}, load 1 {first} Start"));
        let halt = if kinds.len() > 1 { " halt-on-failure" } else { "" };
        script.at(0, loaded(1), &format!("serve {first}{halt}"));
        script
    }

    /// Handles an event at a second, and compares the effects, written as by [`text`] and joined by commas; log lines are
    /// left out.
    #[track_caller]
    fn at(&mut self, second: u64, event: Event, effects: &str) {
        let shown = format!("{event:?}");
        let done = self.machine.handle(self.start + Duration::from_secs(second), event);
        let done: Vec<String> = done.iter().filter_map(text).collect();
        assert_eq!(done.join(", "), effects, "after {shown} at second {second}");
    }

    #[track_caller]
    fn is(&self, state: EngineState, kind: BackendKind) {
        assert_eq!((self.machine.state, self.machine.kind()), (state, kind), "{:?}", self.machine.reason);
    }
}

fn text(effect: &Effect) -> Option<String> {
    use crate::infer::engine::crashes::Mark;
    Some(match effect {
        Effect::Load { attempt, kind, reason } => format!("load {attempt} {kind} {reason:?}"),
        Effect::Abandon => "abandon".into(),
        Effect::Serve { kind, halt_on_failure: true } => format!("serve {kind} halt-on-failure"),
        Effect::Serve { kind, halt_on_failure: false } => format!("serve {kind}"),
        Effect::Build { kind } => format!("build {kind}"),
        Effect::StartWorker => "start worker".into(),
        Effect::Halt => "halt".into(),
        Effect::Resume => "resume".into(),
        Effect::Refuse(InferError::Ended { .. }) => "refuse: ended".into(),
        Effect::Refuse(_) => "refuse".into(),
        Effect::Admit => "admit".into(),
        Effect::Remember(Mark::Started(kind)) => format!("count {kind}"),
        Effect::Remember(Mark::Orderly(kind)) => format!("uncount {kind}"),
        Effect::Remember(Mark::Served(kind)) => format!("reset {kind}"),
        Effect::Log(..) => return None,
    })
}

fn loaded(attempt: u64) -> Event {
    Event::Loaded { attempt, outcome: Outcome::Session }
}

fn needs_build(attempt: u64) -> Event {
    Event::Loaded { attempt, outcome: Outcome::Build }
}

fn not_loaded(attempt: u64, reason: &str) -> Event {
    let error = InferError::Provider { backend: Cuda, reason: reason.into() };
    Event::Loaded { attempt, outcome: Outcome::Error(error) }
}

fn failed(failures: u32, reason: &str) -> Event {
    Event::Failed { failures, error: InferError::Run { backend: Cuda, reason: reason.into() } }
}

fn hung(hung: usize) -> Event {
    Event::WorkerHung { hung, limit: LIMIT }
}

fn tick(served: u64) -> Event {
    Event::Tick { served, failures: 0, hung: 0 }
}

fn refused() -> Event {
    let error = InferError::BuildRefused { backend: Tensorrt, reason: "its build failed 2 times".into() };
    Event::Loaded { attempt: 0, outcome: Outcome::Error(error) }
}

/// The same event for another attempt.
fn of(attempt: u64, event: Event) -> Event {
    match event {
        Event::Loaded { outcome, .. } => Event::Loaded { attempt, outcome },
        other => other,
    }
}

#[test]
fn a_start_takes_the_first_backend_that_loads() {
    let mut script = Script::new(&[Cuda, Cpu, Tract], &[], "count cuda, load 1 cuda Start");
    assert_eq!(script.machine.begun(false), None);
    script.at(1, not_loaded(1, "no such library"), "uncount cuda, count cpu, load 2 cpu Start");
    script.at(2, loaded(2), "serve cpu halt-on-failure");
    script.is(EngineState::Serving, Cpu);
    assert_eq!(script.machine.begun(false), Some(Ok(())));
    assert_eq!(script.machine.fallbacks(), ["cuda: no such library"]);
    script.at(86_400, tick(1), "reset cpu");
    script.at(86_401, tick(1), "");
}

#[test]
fn a_start_on_which_no_backend_loads_is_an_error_and_not_a_lost_gpu() {
    let mut script = Script::new(&[Cuda, Cpu], &[], "count cuda, load 1 cuda Start");
    script.at(1, not_loaded(1, "no"), "uncount cuda, count cpu, load 2 cpu Start");
    script.at(2, not_loaded(2, "no memory"), "uncount cpu, halt, refuse: ended");
    assert!(script.machine.begun(false).unwrap().is_err());
    assert_eq!(script.machine.ended, Some(Ended::NoBackend));
    script.at(3, tick(0), "");
}

#[test]
fn a_failure_falls_back_and_a_worse_backend_serves() {
    let mut script = Script::serving(&[Cuda, Cpu, Tract]);
    script.at(1, failed(1, "CUDNN failure 4"), "halt, uncount cuda, count cpu, load 2 cpu Fallback");
    script.is(EngineState::Loading, Cuda);
    script.at(1, failed(2, "CUDNN failure 4"), "");
    script.at(1, hung(1), "");
    script.at(2, loaded(2), "serve cpu halt-on-failure");
    script.is(EngineState::Serving, Cpu);
    assert!(script.machine.fallbacks()[0].contains("while it ran"));
}

#[test]
fn when_no_worse_backend_works_the_engine_stays_and_recovers() {
    let mut script = Script::serving(&[Cuda, Cpu]);
    script.at(1, failed(1, "out of memory"), "halt, uncount cuda, count cpu, load 2 cpu Fallback");
    script.at(2, not_loaded(2, "no library"), "uncount cpu, resume");
    script.is(EngineState::Degraded, Cuda);
    script.at(3, failed(2, "out of memory"), "");
    script.at(4, tick(1), "");
    script.is(EngineState::Serving, Cuda);
}

#[test]
fn a_named_backend_is_never_left_and_only_a_gpu_is_given_up() {
    for (kind, ended) in [(Cpu, None), (Cuda, Some(Ended::DeviceLost))] {
        let mut script = Script::serving(&[kind]);
        script.at(1, failed(19, "no memory"), "");
        script.is(EngineState::Degraded, kind);
        let effects = if ended.is_some() { format!("uncount {kind}, halt, refuse: ended") } else { String::new() };
        script.at(2, failed(20, "no memory"), &effects);
        assert_eq!(script.machine.ended, ended);
    }
}

#[test]
fn a_lost_gpu_ends_the_process_under_auto_too() {
    for kinds in [&[Cuda, Cpu][..], &[Tensorrt]] {
        let mut script = Script::serving(kinds);
        let effects = format!("uncount {}, halt, refuse: ended", kinds[0]);
        script.at(1, failed(1, "CUDA failure 700: an illegal memory access"), &effects);
        assert_eq!(script.machine.ended, Some(Ended::DeviceLost));
        script.is(EngineState::Failed, kinds[0]);
    }
    // Lost while a fallback loads.
    let mut script = Script::serving(&[Cuda, Cpu]);
    script.at(1, failed(1, "no"), "halt, uncount cuda, count cpu, load 2 cpu Fallback");
    script.at(2, not_loaded(2, "CUDA failure 719"), "uncount cpu, halt, refuse: ended");
    assert_eq!(script.machine.ended, Some(Ended::DeviceLost));
}

#[test]
fn the_first_hang_is_retried_and_the_second_falls_back() {
    let mut script = Script::serving(&[Cuda, Cpu]);
    script.at(1, hung(1), "start worker");
    script.is(EngineState::Degraded, Cuda);
    script.at(2, tick(1), "");
    script.is(EngineState::Serving, Cuda);
    script.at(3, hung(1), "start worker");
    script.at(4, hung(2), "halt, uncount cuda, count cpu, load 2 cpu Fallback");
}

#[test]
fn with_too_many_hung_threads_a_cpu_waits_and_a_gpu_ends_the_process() {
    let mut script = Script::serving(&[Cpu]);
    script.at(1, hung(1), "start worker");
    script.at(2, hung(2), "start worker");
    script.at(3, hung(3), "refuse");
    script.at(4, Event::Tick { served: 0, failures: 0, hung: 3 }, "");
    script.at(5, Event::Tick { served: 0, failures: 0, hung: 2 }, "admit, start worker");
    script.at(6, tick(1), "");
    script.is(EngineState::Serving, Cpu);
    let mut script = Script::serving(&[Tensorrt]);
    script.at(1, hung(1), "start worker");
    script.at(2, hung(2), "start worker");
    script.at(3, hung(3), "uncount tensorrt, halt, refuse: ended");
    assert_eq!(script.machine.ended, Some(Ended::DeviceLost));
}

#[test]
fn a_lost_backend_is_retried_later_each_time() {
    let mut script = Script::serving(&[Cuda, Cpu]);
    script.at(0, failed(1, "no"), "halt, uncount cuda, count cpu, load 2 cpu Fallback");
    script.at(0, loaded(2), "serve cpu");
    script.at(1, tick(100), "reset cpu");
    let mut due = 60;
    for (attempt, wait) in (3..).zip([120, 240, 480, 960, 1920, 3600, 3600]) {
        script.at(due - 1, tick(100), "");
        script.at(due, tick(100), &format!("count cuda, load {attempt} cuda Retry"));
        script.at(due, not_loaded(attempt, "still no"), "uncount cuda");
        due += wait;
    }
    script.at(due, tick(100), "count cuda, load 10 cuda Retry");
    script.at(due, loaded(10), "serve cuda halt-on-failure");
    assert!(script.machine.fallbacks().is_empty());
    // Lost again soon: it has not become better.
    script.at(due + 1, failed(1, "no"), "halt, uncount cuda, count cpu, load 11 cpu Fallback");
    script.at(due + 1, loaded(11), "serve cpu");
    script.at(due + 3600, tick(100), "reset cpu");
    script.at(due + 3601, tick(100), "count cuda, load 12 cuda Retry");
    script.at(due + 3601, loaded(12), "serve cuda halt-on-failure");
    // Lost after it has served for long.
    script.at(due + 4300, tick(1), "reset cuda");
    script.at(due + 4301, failed(1, "no"), "halt, count cpu, load 13 cpu Fallback");
    script.at(due + 4301, loaded(13), "serve cpu");
    script.at(due + 4361, tick(1), "reset cpu, count cuda, load 14 cuda Retry");
}

#[test]
fn a_retry_under_way_is_put_off_when_frames_wait() {
    let mut script = Script::serving(&[Cuda, Cpu, Tract]);
    script.at(0, failed(1, "no"), "halt, uncount cuda, count cpu, load 2 cpu Fallback");
    script.at(0, loaded(2), "serve cpu halt-on-failure");
    script.at(60, tick(1), "reset cpu, count cuda, load 3 cuda Retry");
    script.at(61, failed(1, "no"), "halt, abandon, uncount cuda, count tract, load 4 tract Fallback");
    script.at(61, loaded(3), "");
    script.at(62, loaded(4), "serve tract");
    assert_eq!(script.machine.fallbacks().len(), 2);
}

#[test]
fn a_load_that_takes_too_long_is_given_up_and_its_late_result_changes_nothing() {
    let mut script = Script::new(&[Cuda, Cpu], &[], "count cuda, load 1 cuda Start");
    let late = InferError::Hung { backend: Cuda, limit: Duration::from_secs(180) };
    let event = Event::Loaded { attempt: 1, outcome: Outcome::Error(late) };
    script.at(180, event, "uncount cuda, count cpu, load 2 cpu Start");
    script.at(200, loaded(1), "");
    script.at(201, loaded(2), "serve cpu");
    script.at(202, loaded(1), "");
    assert!(script.machine.fallbacks()[0].starts_with("cuda did not come back"));
}

#[test]
fn a_start_that_is_cancelled_is_not_counted_as_a_crash() {
    let mut script = Script::new(&[Cuda, Cpu], &[], "count cuda, load 1 cuda Start");
    script.at(1, Event::Cancelled, "uncount cuda");
    script.at(2, loaded(1), "");
    assert_eq!(script.machine.begun(false), None);
    // Nor is a stop before it has served for long; after that there is nothing to take back.
    let mut script = Script::serving(&[Cuda]);
    script.at(1, Event::Cancelled, "uncount cuda");
    let mut script = Script::serving(&[Cuda]);
    script.at(60, tick(1), "reset cuda");
    script.at(61, Event::Cancelled, "");
}

#[test]
fn a_backend_whose_starts_crash_is_left_out_and_retried_ever_later() {
    let mut script = Script::new(&[Cuda, Cpu], &[1, 0], "count cuda, load 1 cuda Start");
    script.at(0, loaded(1), "serve cuda halt-on-failure");
    for (crashes, wait) in [(2, 60), (3, 120), (5, 480), (1000, 3600)] {
        let mut script = Script::new(&[Cuda, Cpu], &[crashes, 0], "count cpu, load 1 cpu Start");
        assert!(script.machine.fallbacks().is_empty());
        script.at(0, loaded(1), "serve cpu");
        assert!(script.machine.fallbacks()[0].contains("safe start"));
        script.at(wait - 1, tick(100), "reset cpu");
        script.at(wait, tick(100), "count cuda, load 2 cuda Retry");
    }
    // The last backend is started whatever happened to it.
    Script::new(&[Cuda, Cpu], &[2, 2], "count cpu, load 1 cpu Start");
}

#[test]
fn the_next_backend_serves_while_an_engine_is_built() {
    let mut script = Script::new(&[Tensorrt, Cuda], &[], "count tensorrt, load 1 tensorrt Start");
    script.at(1, needs_build(1), "uncount tensorrt, build tensorrt, count cuda, load 2 cuda Start");
    script.at(2, loaded(2), "serve cuda");
    script.is(EngineState::Serving, Cuda);
    assert_eq!(script.machine.fallbacks(), ["tensorrt: its engine is being built"]);
    script.at(300, Event::BuildEnded(Ok(())), "uncount cuda, count tensorrt, load 3 tensorrt Built");
    script.is(EngineState::Serving, Cuda);
    script.at(301, loaded(3), "serve tensorrt halt-on-failure");
    assert!(script.machine.fallbacks().is_empty());
}

#[test]
fn a_build_that_ends_during_a_load_waits_for_the_load() {
    let mut script = Script::new(&[Tensorrt, Cuda], &[], "count tensorrt, load 1 tensorrt Start");
    script.at(1, needs_build(1), "uncount tensorrt, build tensorrt, count cuda, load 2 cuda Start");
    script.at(2, Event::BuildEnded(Ok(())), "");
    script.at(3, loaded(2), "serve cuda, uncount cuda, count tensorrt, load 3 tensorrt Built");
}

#[test]
fn frames_wait_while_the_engine_of_a_named_backend_is_built() {
    let mut script = Script::new(&[Tensorrt], &[], "count tensorrt, load 1 tensorrt Start");
    script.at(1, needs_build(1), "uncount tensorrt, build tensorrt");
    script.is(EngineState::Building, Tensorrt);
    assert_eq!((script.machine.begun(false), script.machine.begun(true)), (Some(Ok(())), None));
    script.at(300, Event::BuildEnded(Ok(())), "count tensorrt, load 2 tensorrt Built");
    script.is(EngineState::Building, Tensorrt);
    script.at(301, loaded(2), "serve tensorrt");
    assert_eq!(script.machine.begun(true), Some(Ok(())));
}

#[test]
fn a_build_that_failed_twice_is_not_repeated_and_is_not_a_lost_gpu() {
    let failure = || Event::BuildEnded(Err(InferError::Build { backend: Tensorrt, reason: "SIGSEGV".into() }));
    for kinds in [&[Tensorrt, Cuda][..], &[Tensorrt]] {
        let named = kinds.len() == 1;
        let mut script = Script::new(kinds, &[], "count tensorrt, load 1 tensorrt Start");
        let attempt = if named {
            script.at(1, needs_build(1), "uncount tensorrt, build tensorrt");
            2
        } else {
            script.at(1, needs_build(1), "uncount tensorrt, build tensorrt, count cuda, load 2 cuda Start");
            script.at(2, loaded(2), "serve cuda");
            script.at(3, tick(100), "reset cuda");
            3
        };
        script.at(9, failure(), &format!("count tensorrt, load {attempt} tensorrt Built"));
        script.at(10, needs_build(attempt), "uncount tensorrt, build tensorrt");
        script.at(11, failure(), &format!("count tensorrt, load {} tensorrt Built", attempt + 1));
        if named {
            script.at(12, of(attempt + 1, refused()), "uncount tensorrt, halt, refuse: ended");
            assert_eq!(script.machine.ended, Some(Ended::NoBackend));
            assert!(script.machine.reason.clone().unwrap().contains("models build"));
        } else {
            script.at(12, of(attempt + 1, refused()), "uncount tensorrt");
            script.is(EngineState::Serving, Cuda);
            assert!(script.machine.fallbacks()[0].contains("is not built again"));
            script.at(86_400, tick(200), "");
        }
    }
}

#[test]
fn an_engine_that_the_runtime_rejects_is_built_once_more() {
    let mut script = Script::new(&[Tensorrt, Cuda], &[], "count tensorrt, load 1 tensorrt Start");
    // The load itself moves the bad engine aside, and asks for a build.
    script.at(1, needs_build(1), "uncount tensorrt, build tensorrt, count cuda, load 2 cuda Start");
    script.at(2, loaded(2), "serve cuda");
    script.at(3, tick(100), "reset cuda");
    script.at(4, Event::BuildEnded(Ok(())), "count tensorrt, load 3 tensorrt Built");
    script.at(5, needs_build(3), "uncount tensorrt, build tensorrt");
    script.at(6, Event::BuildEnded(Ok(())), "count tensorrt, load 4 tensorrt Built");
    script.at(7, of(4, refused()), "uncount tensorrt");
    script.is(EngineState::Serving, Cuda);
}

#[test]
fn a_load_without_memory_is_repeated_later() {
    // At the start, and when a new engine is loaded beside the backend that serves.
    let mut script = Script::new(&[Cuda, Cpu], &[], "count cuda, load 1 cuda Start");
    script.at(0, not_loaded(1, "CUDA failure 2: out of memory"), "uncount cuda, count cpu, load 2 cpu Start");
    script.at(0, loaded(2), "serve cpu");
    script.at(59, tick(100), "reset cpu");
    script.at(60, tick(100), "count cuda, load 3 cuda Retry");
    let mut script = Script::new(&[Tensorrt, Cuda], &[], "count tensorrt, load 1 tensorrt Start");
    script.at(0, needs_build(1), "uncount tensorrt, build tensorrt, count cuda, load 2 cuda Start");
    script.at(0, loaded(2), "serve cuda");
    script.at(1, tick(100), "reset cuda");
    script.at(9, Event::BuildEnded(Ok(())), "count tensorrt, load 3 tensorrt Built");
    script.at(10, not_loaded(3, "CUDA failure 2: out of memory"), "uncount tensorrt");
    script.at(69, tick(100), "");
    script.at(70, tick(100), "count tensorrt, load 4 tensorrt Retry");
}
