//! Jobs, queues and workers on real threads, with a session that runs when the test allows it.
#![allow(clippy::unwrap_used, clippy::panic)]

mod building;
mod failover;
mod stage;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::infer::backend::fake::{FAIL, FakeSession, PANIC, Script, first, info, params, spec};
use crate::infer::{CameraQueue, Engine, InferError, Job};
use crate::model::InputTensor;
use crate::types::Priority;

/// Longest time that a test waits for what must happen.
const LONG: Duration = Duration::from_secs(30);

fn engine(script: &Arc<Script>, workers: usize) -> Engine {
    Engine::with_session(Arc::new(spec()), Box::new(FakeSession::new(script)), info(), workers).unwrap()
}

fn job(value: f32) -> Job {
    let mut job = Job::new(&spec(), params());
    job.input = InputTensor::Planes([value, 0.0, 0.0, 0.0].repeat(3));
    job
}

impl Job {
    /// The first number of its input, by which the script knows it.
    fn first(&self) -> f32 {
        first(self.input.view())
    }

    fn address(&self) -> *const f32 {
        match &self.input {
            InputTensor::Planes(planes) => planes.as_ptr(),
            InputTensor::Bytes(_) => std::ptr::null(),
        }
    }
}

fn submit(queue: &mut CameraQueue, values: impl IntoIterator<Item = i32>) {
    for value in values {
        queue.submit(job(value as f32)).unwrap();
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
    let mut queue = engine.camera_queue("gate", 4, Priority::Normal);
    submit(&mut queue, [0, 1, 2, 3]);
    until("four jobs at once", || script.ran().len() == 4);
    // The last one is done first.
    for value in [3, 2, 1] {
        script.allow(value);
        assert!(queue.wait(Duration::ZERO).is_none());
    }
    script.allow(0);
    for value in 0..4 {
        assert_eq!(queue.wait(LONG).unwrap().first(), value as f32);
    }
    assert_eq!(queue.in_flight(), 0);
}

#[test]
fn a_greedy_queue_does_not_starve_the_others() {
    let script = Script::closed();
    let engine = engine(&script, 1);
    let (mut greedy, mut modest) =
        (engine.camera_queue("greedy", 8, Priority::Normal), engine.camera_queue("modest", 2, Priority::Normal));
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
    let mut queue = engine.camera_queue("gate", 3, Priority::Normal);
    for value in [FAIL, PANIC, 7.0] {
        queue.submit(job(value)).unwrap();
    }
    let outcomes: Vec<_> = (0..3).map(|_| queue.wait(LONG).unwrap().outcome).collect();
    assert!(matches!(&outcomes[0], Err(InferError::Run { reason, .. }) if reason == "told to fail"));
    assert!(matches!(&outcomes[1], Err(InferError::Run { reason, .. }) if reason.contains("panicked")));
    assert_eq!(outcomes[2], Ok(()));
}

#[test]
fn the_buffers_that_went_in_come_back() {
    let script = Script::open();
    let engine = engine(&script, 1);
    let mut queue = engine.camera_queue("gate", 1, Priority::Normal);
    let mut sent = job(1.0);
    sent.candidates.reserve(16);
    let (input, candidates) = (sent.address(), sent.candidates.as_ptr());
    for _ in 0..3 {
        queue.submit(sent).unwrap();
        sent = queue.wait(LONG).unwrap();
        assert_eq!((sent.address(), sent.candidates.as_ptr()), (input, candidates));
    }
}

#[test]
fn a_slow_session_lets_a_wait_time_out_and_a_full_queue_refuses() {
    let script = Script::closed();
    let engine = engine(&script, 1);
    let mut queue = engine.camera_queue("gate", 2, Priority::Normal);
    submit(&mut queue, [0, 1]);
    assert!(queue.wait(Duration::from_millis(20)).is_none());
    assert_eq!(queue.in_flight(), 2);
    let full = queue.submit(job(2.0)).unwrap_err();
    assert_eq!(full, InferError::QueueFull { camera: "gate".into(), depth: 2 });
    script.allow_all();
    assert_eq!(queue.wait(LONG).unwrap().first(), 0.0);
    assert_eq!(queue.wait(LONG).unwrap().first(), 1.0);
    assert!(queue.wait(LONG).is_none(), "an empty queue has nothing to wait for");
}

#[test]
fn dropping_the_engine_finishes_what_runs_and_gives_the_rest_back() {
    let script = Script::closed();
    let engine = engine(&script, 1);
    let mut queue = engine.camera_queue("gate", 3, Priority::Normal);
    submit(&mut queue, [0, 1, 2]);
    until("the first job", || script.ran() == [0.0]);
    let stopping = std::thread::spawn(move || drop(engine));
    until("the end of the engine", || queue_is_closed(&mut queue));
    assert!(!stopping.is_finished(), "the engine ended during an inference");
    script.allow_all();
    stopping.join().unwrap();
    assert_eq!(queue.wait(LONG).unwrap().outcome, Ok(()));
    for value in [1.0, 2.0] {
        let back = queue.wait(LONG).unwrap();
        assert_eq!((back.first(), back.outcome), (value, Err(InferError::Stopped)));
    }
    assert_eq!(script.ran(), [0.0]);
    assert!(queue.wait(LONG).is_none());
}

fn queue_is_closed(queue: &mut CameraQueue) -> bool {
    matches!(queue.submit(job(9.0)), Err(InferError::Stopped))
}

#[test]
fn a_queue_that_is_dropped_leaves_the_others_alone() {
    let script = Script::closed();
    let engine = engine(&script, 1);
    let mut kept = engine.camera_queue("kept", 2, Priority::Normal);
    let mut gone = engine.camera_queue("gone", 2, Priority::Normal);
    submit(&mut gone, [0, 1]);
    until("the first job", || script.ran() == [0.0]);
    submit(&mut kept, [10, 11]);
    drop(gone);
    script.allow_all();
    assert_eq!(kept.wait(LONG).unwrap().first(), 10.0);
    assert_eq!(kept.wait(LONG).unwrap().first(), 11.0);
    assert_eq!(script.ran(), [0.0, 10.0, 11.0]);
}

#[test]
fn further_sessions_are_made_only_when_frames_wait_for_them() {
    let script = Script::open();
    let engine = engine(&script, 4);
    let mut live = engine.camera_queue("live", 1, Priority::Normal);
    for value in 0..200 {
        submit(&mut live, [value]);
        assert!(live.wait(LONG).is_some());
    }
    assert_eq!(script.forks.load(Ordering::SeqCst), 0, "one frame at a time needs one session");
    assert_eq!(engine.workers(), 4);

    let script = Script::closed();
    let busy = self::engine(&script, 4);
    let mut file = busy.camera_queue("file", 8, Priority::Normal);
    submit(&mut file, 0..8);
    until("four jobs at once", || script.ran().len() == 4);
    assert_eq!(script.forks.load(Ordering::SeqCst), 3);
    script.allow_all();
}

#[test]
fn a_camera_is_notified_of_each_job() {
    let script = Script::open();
    let engine = engine(&script, 2);
    let mut queue = engine.camera_queue("gate", 2, Priority::Normal);
    let notified = Arc::new(AtomicUsize::new(0));
    let count = notified.clone();
    queue.on_done(Arc::new(move || {
        count.fetch_add(1, Ordering::SeqCst);
    }));
    for round in 1..=50 {
        submit(&mut queue, [0, 1]);
        assert!(queue.wait(LONG).is_some() && queue.wait(LONG).is_some());
        until("both calls", || notified.load(Ordering::SeqCst) == 2 * round);
    }
}

/// An engine with one worker whose session takes four frames at once, and the number of frames of each run.
fn batching(script: &Arc<Script>) -> Engine {
    let session = FakeSession::batching(script, 4);
    Engine::with_session(Arc::new(spec()), Box::new(session), info(), 1).unwrap()
}

#[test]
fn frames_that_wait_run_together() {
    let script = Script::closed();
    let engine = batching(&script);
    let mut queues = [1, 2, 3].map(|n| engine.camera_queue(&format!("camera{n}"), 2, Priority::Normal));
    submit(&mut queues[0], [10]);
    until("the first run", || script.runs() == [1]);
    submit(&mut queues[0], [11]);
    submit(&mut queues[1], [20, 21]);
    submit(&mut queues[2], [30, 31]);
    script.allow_all();
    for (queue, values) in queues.iter_mut().zip([[10.0, 11.0], [20.0, 21.0], [30.0, 31.0]]) {
        for value in values {
            let job = queue.wait(LONG).unwrap();
            assert_eq!((job.first(), &job.outcome), (value, &Ok(())));
        }
    }
    assert_eq!(script.runs(), [1, 4, 1]);
    assert_eq!(script.ran()[1..5], [20.0, 30.0, 11.0, 21.0], "each queue in its turn");
}

#[test]
fn a_frame_that_fails_does_not_fail_its_batch() {
    let script = Script::closed();
    let engine = batching(&script);
    let mut queue = engine.camera_queue("gate", 4, Priority::Normal);
    submit(&mut queue, [1]);
    until("the first run", || script.runs() == [1]);
    for value in [2.0, PANIC, 3.0] {
        queue.submit(job(value)).unwrap();
    }
    script.allow_all();
    let outcomes: Vec<_> = (0..4).map(|_| queue.wait(LONG).unwrap().outcome).collect();
    assert!(matches!(&outcomes[2], Err(InferError::Run { reason, .. }) if reason.contains("panicked")));
    assert!([&outcomes[0], &outcomes[1], &outcomes[3]].iter().all(|outcome| outcome.is_ok()), "{outcomes:?}");
    // All together, then each for itself.
    assert_eq!(script.runs(), [1, 3, 1, 1, 1]);
}

#[test]
fn a_busy_engine_is_shared_by_priority() {
    let script = Script::closed();
    let engine = engine(&script, 1);
    let mut queues =
        [Priority::High, Priority::Normal, Priority::Low].map(|priority| engine.camera_queue("x", 40, priority));
    submit(&mut queues[1], [0]);
    until("the first run", || script.ran() == [0.0]);
    for (queue, value) in queues.iter_mut().zip([16, 4, 1]) {
        submit(queue, std::iter::repeat_n(value, 32));
    }
    script.allow_all();
    until("all", || script.ran().len() == 97);
    let among_first = |value: f32| script.ran()[1..43].iter().filter(|ran| **ran == value).count();
    assert_eq!([among_first(16.0), among_first(4.0), among_first(1.0)], [32, 8, 2]);
    // The low one is not starved meanwhile.
    assert!(script.ran()[1..22].contains(&1.0));
}
