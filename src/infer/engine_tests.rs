//! What every backend can rely on from the engine, tried with one that runs when it is told to.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::fake::{FAIL, FakeSession, PANIC, Script, info, params, spec};
use super::{Engine, InferError, Job, Lane};

/// Longest time that a test waits for what must happen.
const LONG: Duration = Duration::from_secs(30);

fn engine(script: &Arc<Script>, workers: usize) -> Engine {
    Engine::with_session(Arc::new(spec()), Box::new(FakeSession::new(script)), info(), workers).unwrap()
}

fn job(value: f32) -> Job {
    let mut job = Job::new(&spec(), params());
    job.input[0] = value;
    job
}

fn submit(lane: &mut Lane, values: impl IntoIterator<Item = i32>) {
    for value in values {
        lane.submit(job(value as f32)).unwrap();
    }
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !condition() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        std::thread::yield_now();
    }
}

#[test]
fn jobs_come_back_in_the_order_in_which_they_went_in() {
    let script = Script::closed();
    let engine = engine(&script, 4);
    let mut lane = engine.lane("gate", 4);
    submit(&mut lane, [0, 1, 2, 3]);
    until("four jobs at once", || script.ran().len() == 4);
    // The last one is done first.
    for value in [3, 2, 1] {
        script.allow(value);
        assert!(lane.wait(Duration::ZERO).is_none());
    }
    script.allow(0);
    for value in 0..4 {
        assert_eq!(lane.wait(LONG).unwrap().input[0], value as f32);
    }
    assert_eq!(lane.in_flight(), 0);
}

#[test]
fn a_greedy_lane_does_not_starve_the_others() {
    let script = Script::closed();
    let engine = engine(&script, 1);
    let (mut greedy, mut modest) = (engine.lane("greedy", 8), engine.lane("modest", 2));
    submit(&mut greedy, 0..8);
    until("the first job", || script.ran() == [0.0]);
    submit(&mut modest, [100, 101]);
    script.allow_all();
    for _ in 0..8 {
        assert!(greedy.wait(LONG).unwrap().outcome.is_ok());
    }
    assert_eq!(script.ran(), [0.0, 100.0, 1.0, 101.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
}

#[test]
fn an_error_or_a_panic_ends_one_job_and_no_other() {
    let script = Script::open();
    let engine = engine(&script, 1);
    let mut lane = engine.lane("gate", 3);
    for value in [FAIL, PANIC, 7.0] {
        lane.submit(job(value)).unwrap();
    }
    let outcomes: Vec<_> = (0..3).map(|_| lane.wait(LONG).unwrap().outcome).collect();
    assert!(matches!(&outcomes[0], Err(InferError::Run { reason, .. }) if reason == "told to fail"));
    assert!(matches!(&outcomes[1], Err(InferError::Run { reason, .. }) if reason.contains("panicked")));
    assert_eq!(outcomes[2], Ok(()));
}

#[test]
fn the_buffers_that_went_in_come_back() {
    let script = Script::open();
    let engine = engine(&script, 1);
    let mut lane = engine.lane("gate", 1);
    let mut sent = job(1.0);
    sent.candidates.reserve(16);
    let (input, candidates) = (sent.input.as_ptr(), sent.candidates.as_ptr());
    for _ in 0..3 {
        lane.submit(sent).unwrap();
        sent = lane.wait(LONG).unwrap();
        assert_eq!((sent.input.as_ptr(), sent.candidates.as_ptr()), (input, candidates));
    }
}

#[test]
fn a_slow_session_lets_a_wait_time_out_and_a_full_lane_refuses() {
    let script = Script::closed();
    let engine = engine(&script, 1);
    let mut lane = engine.lane("gate", 2);
    submit(&mut lane, [0, 1]);
    assert!(lane.wait(Duration::from_millis(20)).is_none());
    assert_eq!(lane.in_flight(), 2);
    let full = lane.submit(job(2.0)).unwrap_err();
    assert_eq!(full, InferError::LaneFull { lane: "gate".into(), depth: 2 });
    script.allow_all();
    assert_eq!(lane.wait(LONG).unwrap().input[0], 0.0);
    assert_eq!(lane.wait(LONG).unwrap().input[0], 1.0);
    assert!(lane.wait(LONG).is_none(), "an empty lane has nothing to wait for");
}

#[test]
fn dropping_the_engine_finishes_what_runs_and_gives_the_rest_back() {
    let script = Script::closed();
    let engine = engine(&script, 1);
    let mut lane = engine.lane("gate", 3);
    submit(&mut lane, [0, 1, 2]);
    until("the first job", || script.ran() == [0.0]);
    let stopping = std::thread::spawn(move || drop(engine));
    until("the end of the engine", || lane_is_closed(&mut lane));
    assert!(!stopping.is_finished(), "the engine ended during an inference");
    script.allow_all();
    stopping.join().unwrap();
    assert_eq!(lane.wait(LONG).unwrap().outcome, Ok(()));
    for value in [1.0, 2.0] {
        let back = lane.wait(LONG).unwrap();
        assert_eq!((back.input[0], back.outcome), (value, Err(InferError::Stopped)));
    }
    assert_eq!(script.ran(), [0.0]);
    assert!(lane.wait(LONG).is_none());
}

fn lane_is_closed(lane: &mut Lane) -> bool {
    matches!(lane.submit(job(9.0)), Err(InferError::Stopped))
}

#[test]
fn a_lane_that_goes_away_leaves_the_others_alone() {
    let script = Script::closed();
    let engine = engine(&script, 1);
    let mut kept = engine.lane("kept", 2);
    let mut gone = engine.lane("gone", 2);
    submit(&mut gone, [0, 1]);
    until("the first job", || script.ran() == [0.0]);
    submit(&mut kept, [10, 11]);
    drop(gone);
    script.allow_all();
    assert_eq!(kept.wait(LONG).unwrap().input[0], 10.0);
    assert_eq!(kept.wait(LONG).unwrap().input[0], 11.0);
    assert_eq!(script.ran(), [0.0, 10.0, 11.0]);
}

#[test]
fn further_sessions_are_made_only_when_frames_wait_for_them() {
    let script = Script::open();
    let engine = engine(&script, 4);
    let mut live = engine.lane("live", 1);
    for value in 0..200 {
        submit(&mut live, [value]);
        assert!(live.wait(LONG).is_some());
    }
    assert_eq!(script.forks.load(Ordering::SeqCst), 0, "one frame at a time needs one session");
    assert_eq!(engine.workers(), 4);

    let script = Script::closed();
    let busy = self::engine(&script, 4);
    let mut file = busy.lane("file", 8);
    submit(&mut file, 0..8);
    until("four jobs at once", || script.ran().len() == 4);
    assert_eq!(script.forks.load(Ordering::SeqCst), 3);
    script.allow_all();
}

#[test]
fn who_waits_for_something_else_besides_hears_of_each_job() {
    let script = Script::open();
    let engine = engine(&script, 2);
    let mut lane = engine.lane("gate", 2);
    let heard = Arc::new(AtomicUsize::new(0));
    let count = heard.clone();
    lane.on_done(Arc::new(move || {
        count.fetch_add(1, Ordering::SeqCst);
    }));
    for round in 1..=50 {
        submit(&mut lane, [0, 1]);
        assert!(lane.wait(LONG).is_some() && lane.wait(LONG).is_some());
        until("both calls", || heard.load(Ordering::SeqCst) == 2 * round);
    }
}
