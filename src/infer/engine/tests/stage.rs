//! Backends for tests that fail, hang, compute nonsense and must be built when the test says so, and an engine on them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use crate::cancel::Cancel;
use crate::infer::backend::build_child::Builder;
use crate::infer::backend::fake::{FakeSession, Script, params, spec};
use crate::infer::backend::load::{Backends, Found, LoadReason, run_on};
use crate::infer::engine::crashes::CrashCounter;
use crate::infer::engine::limits::Limits;
use crate::infer::{Backend, CameraQueue, Engine, InferError, Job, Session};
use crate::model::{InputTensor, ModelSpec};
use crate::types::BackendKind::{self, Tensorrt};
use crate::types::{EngineState, EngineStatus, Priority};

/// Longest time that a test waits for what must happen.
pub(super) const LONG: Duration = Duration::from_secs(60);

/// Backends that do what their scripts say.
pub(super) struct Fakes {
    kinds: Vec<BackendKind>,
    scripts: BTreeMap<String, Arc<Script>>,
    /// Backends that cannot be loaded now.
    pub(super) broken: Mutex<Vec<BackendKind>>,
    /// Backends that were to be tried in another process first.
    pub(super) proven: Mutex<Vec<BackendKind>>,
    /// The engine that TensorRT needs.
    pub(super) build: Option<Arc<FakeBuild>>,
}

/// A build that goes on until the test ends it.
#[derive(Default)]
pub(super) struct FakeBuild {
    pub(super) started: AtomicUsize,
    ready: AtomicBool,
    failures: AtomicUsize,
    end: Mutex<Option<Result<(), &'static str>>>,
    ended: Condvar,
}

impl FakeBuild {
    fn ready(&self) -> bool {
        self.ready.load(Ordering::SeqCst)
    }

    pub(super) fn end(&self, end: Result<(), &'static str>) {
        *self.end.lock().unwrap() = Some(end);
        self.ended.notify_all();
    }
}

impl Builder for FakeBuild {
    fn expected(&self) -> Option<Duration> {
        Some(Duration::from_secs(240))
    }

    fn build(&self, phase: &dyn Fn(&str), cancel: &AtomicBool) -> Result<(), InferError> {
        self.started.fetch_add(1, Ordering::SeqCst);
        phase("optimising");
        let mut end = self.end.lock().unwrap();
        let end = loop {
            if let Some(end) = end.take() {
                break end;
            }
            if cancel.load(Ordering::SeqCst) {
                break Err("called off");
            }
            end = self.ended.wait_timeout(end, Duration::from_millis(5)).unwrap().0;
        };
        match end {
            Ok(()) => self.ready.store(true, Ordering::SeqCst),
            Err(_) => {
                self.failures.fetch_add(1, Ordering::SeqCst);
            }
        }
        end.map_err(|reason| InferError::Build { backend: Tensorrt, reason: reason.into() })
    }
}

struct Fake(BackendKind, Arc<Script>);

impl Backend for Fake {
    fn probe(&self) -> Result<String, InferError> {
        Ok(format!("fake {}", self.0))
    }

    fn load(&self, _: &ModelSpec) -> Result<Box<dyn Session>, InferError> {
        Ok(Box::new(FakeSession::new(&self.1)))
    }
}

impl Backends for Fakes {
    fn order(&self) -> &[BackendKind] {
        &self.kinds
    }

    fn load(&self, kind: BackendKind, reason: LoadReason) -> Result<Found, InferError> {
        if let Some(build) = self.build.as_ref().filter(|build| kind == Tensorrt && !build.ready()) {
            if build.failures.load(Ordering::SeqCst) >= 2 {
                return Err(InferError::BuildRefused { backend: kind, reason: "of two failures".into() });
            }
            return Ok(Found::Build(build.clone()));
        }
        if reason == LoadReason::Retry {
            self.proven.lock().unwrap().push(kind);
        }
        if self.broken.lock().unwrap().contains(&kind) {
            return Err(InferError::Provider { backend: kind, reason: "told to break".into() });
        }
        run_on(&spec(), kind, || Ok(Box::new(Fake(kind, self.script(kind))))).map(Found::Session)
    }
}

impl Fakes {
    pub(super) fn new(kinds: &[BackendKind]) -> Arc<Self> {
        Arc::new(Self::of(kinds, None))
    }

    /// Backends of which TensorRT needs an engine that is not built yet.
    pub(super) fn unbuilt(kinds: &[BackendKind]) -> (Arc<Self>, Arc<FakeBuild>) {
        let build = Arc::new(FakeBuild::default());
        (Arc::new(Self::of(kinds, Some(build.clone()))), build)
    }

    fn of(kinds: &[BackendKind], build: Option<Arc<FakeBuild>>) -> Self {
        let scripts = kinds.iter().map(|kind| (kind.to_string(), Script::open())).collect();
        Self { kinds: kinds.to_vec(), scripts, broken: Mutex::default(), proven: Mutex::default(), build }
    }

    pub(super) fn script(&self, kind: BackendKind) -> Arc<Script> {
        self.scripts[&kind.to_string()].clone()
    }
}

/// An engine on such backends, one camera queue, and every status that the engine had.
pub(super) struct Stage {
    pub(super) fakes: Arc<Fakes>,
    pub(super) seen: Arc<Mutex<Vec<EngineStatus>>>,
    pub(super) queue: CameraQueue,
    pub(super) engine: Engine,
}

/// Limits under which nothing hangs and no better backend is tried again.
pub(super) fn calm() -> Limits {
    let hour = Duration::from_secs(3600);
    let check = Duration::from_millis(5);
    Limits {
        least_gpu: hour,
        least_cpu: hour,
        retry_first: hour,
        check,
        stop: Duration::from_millis(200),
        ..Limits::default()
    }
}

/// The same, but a GPU's inference hangs after a moment.
pub(super) fn strict_on_gpu() -> Limits {
    Limits { least_gpu: Duration::from_millis(200), ..calm() }
}

pub(super) fn stage_on(fakes: Arc<Fakes>, limits: Limits, crashes: CrashCounter) -> Stage {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let list = seen.clone();
    let observer: crate::infer::Observer =
        Arc::new(move |status: &EngineStatus| list.lock().unwrap().push(status.clone()));
    let engine =
        Engine::with_backends(Arc::new(spec()), fakes.clone(), limits, crashes, false, &Cancel::new()).unwrap();
    engine.observe(Some(observer));
    let queue = engine.camera_queue("gate", 4, Priority::Normal);
    Stage { fakes, seen, queue, engine }
}

pub(super) fn stage(kinds: &[BackendKind], limits: Limits) -> Stage {
    stage_on(Fakes::new(kinds), limits, CrashCounter::none())
}

impl Stage {
    pub(super) fn run(&mut self) -> Job {
        let mut job = Job::new(&spec(), params());
        job.input = InputTensor::Planes(vec![1.0; 12]);
        self.queue.submit(job).unwrap();
        self.queue.wait(LONG).expect("a job must come back")
    }

    /// Runs jobs until one works.
    pub(super) fn run_until_it_works(&mut self) -> Job {
        let deadline = Instant::now() + LONG;
        loop {
            let job = self.run();
            if job.outcome.is_ok() {
                return job;
            }
            assert!(Instant::now() < deadline, "it never works: {:?}", job.outcome);
        }
    }

    pub(super) fn until(&self, what: &str, condition: impl Fn(&EngineStatus) -> bool) -> EngineStatus {
        let deadline = Instant::now() + LONG;
        loop {
            let status = self.engine.status();
            if condition(&status) {
                return status;
            }
            assert!(Instant::now() < deadline, "{what} did not happen: {status:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub(super) fn states(&self) -> Vec<EngineState> {
        self.seen.lock().unwrap().iter().map(|status| status.state).collect()
    }
}
