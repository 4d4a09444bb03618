//! A ladder for tests whose rungs fail, hang, lie and must be built when they are told to, and an engine on it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use crate::infer::backend::fake::{FakeSession, Script, params, spec};
use crate::infer::cache::build::Builder;
use crate::infer::engine::ladder::Rungs;
use crate::infer::engine::policy::Limits;
use crate::infer::engine::starts::Starts;
use crate::infer::{Backend, Engine, InferError, Job, Lane, Session};
use crate::model::{InputTensor, ModelSpec};
use crate::types::BackendKind::{self, Tensorrt};
use crate::types::{EngineState, EngineStatus, Priority};

/// Longest time that a test waits for what must happen.
pub(in crate::infer) const LONG: Duration = Duration::from_secs(60);

/// A ladder whose rungs do what their scripts say.
pub(in crate::infer) struct Ladder {
    kinds: Vec<BackendKind>,
    scripts: BTreeMap<String, Arc<Script>>,
    /// Rungs that cannot be loaded now.
    pub(in crate::infer) broken: Mutex<Vec<BackendKind>>,
    /// Rungs that were tried in another process first.
    pub(in crate::infer) proven: Mutex<Vec<BackendKind>>,
    /// What TensorRT needs to be built first.
    pub(in crate::infer) build: Option<Arc<FakeBuild>>,
}

/// A build that goes on until it is told how it ends.
#[derive(Default)]
pub(in crate::infer) struct FakeBuild {
    pub(in crate::infer) started: AtomicUsize,
    ready: AtomicBool,
    failures: AtomicUsize,
    rejected: AtomicUsize,
    end: Mutex<Option<Result<(), &'static str>>>,
    ended: Condvar,
}

impl FakeBuild {
    pub(in crate::infer) fn end(&self, end: Result<(), &'static str>) {
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

struct Rung(BackendKind, Arc<Script>);

impl Backend for Rung {
    fn kind(&self) -> BackendKind {
        self.0
    }

    fn probe(&self) -> Result<String, InferError> {
        Ok(format!("fake {}", self.0))
    }

    fn load(&self, _: &ModelSpec) -> Result<Box<dyn Session>, InferError> {
        Ok(Box::new(FakeSession::new(&self.1)))
    }
}

impl Rungs for Ladder {
    fn kinds(&self) -> &[BackendKind] {
        &self.kinds
    }

    fn backend(&self, kind: BackendKind) -> Result<Box<dyn Backend>, InferError> {
        if self.broken.lock().unwrap().contains(&kind) {
            return Err(InferError::Provider { backend: kind, reason: "told to break".into() });
        }
        Ok(Box::new(Rung(kind, self.script(kind))))
    }

    fn builder(&self, kind: BackendKind) -> Result<Option<Arc<dyn Builder>>, InferError> {
        let Some(build) = self.build.as_ref().filter(|_| kind == Tensorrt) else { return Ok(None) };
        if build.ready.load(Ordering::SeqCst) {
            return Ok(None);
        }
        if build.failures.load(Ordering::SeqCst).max(build.rejected.load(Ordering::SeqCst)) >= 2 {
            return Err(InferError::BuildRefused { backend: kind, reason: "of two failures".into() });
        }
        Ok(Some(build.clone()))
    }

    fn reject(&self, kind: BackendKind, _: &str) -> bool {
        let build = self.build.as_ref().filter(|build| kind == Tensorrt && build.ready.swap(false, Ordering::SeqCst));
        build.map(|build| build.rejected.fetch_add(1, Ordering::SeqCst)).is_some()
    }

    fn prove(&self, kind: BackendKind) -> Result<(), InferError> {
        self.proven.lock().unwrap().push(kind);
        Ok(())
    }
}

impl Ladder {
    pub(in crate::infer) fn new(kinds: &[BackendKind]) -> Arc<Self> {
        Arc::new(Self::of(kinds, None))
    }

    /// A ladder whose TensorRT needs an engine that is not built yet.
    pub(in crate::infer) fn unbuilt(kinds: &[BackendKind]) -> (Arc<Self>, Arc<FakeBuild>) {
        let build = Arc::new(FakeBuild::default());
        (Arc::new(Self::of(kinds, Some(build.clone()))), build)
    }

    fn of(kinds: &[BackendKind], build: Option<Arc<FakeBuild>>) -> Self {
        let scripts = kinds.iter().map(|kind| (kind.to_string(), Script::open())).collect();
        Self { kinds: kinds.to_vec(), scripts, broken: Mutex::default(), proven: Mutex::default(), build }
    }

    pub(in crate::infer) fn script(&self, kind: BackendKind) -> Arc<Script> {
        self.scripts[&kind.to_string()].clone()
    }
}

/// An engine on a ladder, one lane into it, and all that its status ever was.
pub(in crate::infer) struct Stage {
    pub(in crate::infer) ladder: Arc<Ladder>,
    pub(in crate::infer) seen: Arc<Mutex<Vec<EngineStatus>>>,
    pub(in crate::infer) lane: Lane,
    pub(in crate::infer) engine: Engine,
}

/// Limits under which nothing hangs and nothing is climbed.
pub(in crate::infer) fn calm() -> Limits {
    let hour = Duration::from_secs(3600);
    let look = Duration::from_millis(5);
    Limits {
        least_gpu: hour,
        least_cpu: hour,
        climb_first: hour,
        look,
        stop: Duration::from_millis(200),
        ..Limits::default()
    }
}

/// The same, but a GPU's inference hangs after a moment.
pub(in crate::infer) fn strict_on_gpu() -> Limits {
    Limits { least_gpu: Duration::from_millis(200), ..calm() }
}

pub(in crate::infer) fn stage_on(ladder: Arc<Ladder>, limits: Limits, starts: Starts) -> Stage {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let list = seen.clone();
    let observer: crate::infer::Observer =
        Arc::new(move |status: &EngineStatus| list.lock().unwrap().push(status.clone()));
    let engine = Engine::with_rungs(Arc::new(spec()), ladder.clone(), limits, starts, false).unwrap();
    engine.observe(Some(observer));
    let lane = engine.lane("gate", 4, Priority::Normal);
    Stage { ladder, seen, lane, engine }
}

pub(in crate::infer) fn stage(kinds: &[BackendKind], limits: Limits) -> Stage {
    stage_on(Ladder::new(kinds), limits, Starts::none())
}

impl Stage {
    pub(in crate::infer) fn run(&mut self) -> Job {
        let mut job = Job::new(&spec(), params());
        job.input = InputTensor::Planes(vec![1.0; 12]);
        self.lane.submit(job).unwrap();
        self.lane.wait(LONG).expect("a job must come back")
    }

    /// Runs jobs until one works.
    pub(in crate::infer) fn run_until_it_works(&mut self) -> Job {
        let deadline = Instant::now() + LONG;
        loop {
            let job = self.run();
            if job.outcome.is_ok() {
                return job;
            }
            assert!(Instant::now() < deadline, "it never works: {:?}", job.outcome);
        }
    }

    pub(in crate::infer) fn until(&self, what: &str, condition: impl Fn(&EngineStatus) -> bool) -> EngineStatus {
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

    pub(in crate::infer) fn states(&self) -> Vec<EngineState> {
        self.seen.lock().unwrap().iter().map(|status| status.state).collect()
    }
}
