//! The interface between the engine and the backends: the fallback order, and bringing one backend to its first inference.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::infer::backend::build_child::Builder;
use crate::infer::backend::table::on_gpu;
use crate::infer::{Backend, InferError, Session};
use crate::model::{Input, ModelSpec};
use crate::types::{BackendInfo, BackendKind, SessionLayout};

/// Why a backend is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::infer) enum LoadReason {
    /// Nothing has served yet.
    Start,
    /// The backend that served has failed, and frames wait: take only what is available at once.
    Fallback,
    /// It was lost earlier, and a worse one serves meanwhile: try it in another process first.
    Retry,
    /// A build of its engine has ended.
    Built,
}

/// What a load has led to.
pub(in crate::infer) enum Found {
    /// A session that has run the model once.
    Session(Loaded),
    /// A GPU engine must be built first.
    Build(Arc<dyn Builder>),
}

/// The backends that a model may run on.
pub(in crate::infer) trait Backends: Send + Sync {
    /// The fallback order: best first, at least one.
    fn order(&self) -> &[BackendKind];

    /// Loads the model on `kind` and runs it once. Called on a thread of its own; a call that takes too long is abandoned.
    fn load(&self, kind: BackendKind, reason: LoadReason) -> Result<Found, InferError>;

    /// Ends the child processes of loads that are under way.
    fn stop(&self) {}

    /// How long the first frame of a batch waits for others.
    fn batch_wait(&self) -> Duration {
        Duration::ZERO
    }

    /// Sessions side by side, on the backend that has the most of them.
    fn most_sessions(&self) -> usize {
        1
    }
}

/// A session that has run the model once.
pub(in crate::infer) struct Loaded {
    pub(in crate::infer) session: Box<dyn Session>,
    pub(in crate::infer) kind: BackendKind,
    pub(in crate::infer) version: String,
    /// Time of the last warm-up run, of a whole batch.
    pub(in crate::infer) warm_up: Duration,
    /// Nodes of the graph by the provider that ran them, where the runtime reports it.
    pub(in crate::infer) nodes: BTreeMap<String, usize>,
    /// Session layouts, best first; empty: one session.
    pub(in crate::infer) layouts: Vec<SessionLayout>,
}

/// Loads the model on the first backend of the order that works.
pub(in crate::infer) fn load_first(backends: &dyn Backends) -> Result<(Box<dyn Session>, BackendInfo), InferError> {
    let mut fallbacks = Vec::new();
    let mut last = InferError::NotBuilt(BackendKind::Tract);
    for &kind in backends.order() {
        let error = match backends.load(kind, LoadReason::Start) {
            Ok(Found::Session(Loaded { session, kind, version, nodes, .. })) => {
                return Ok((session, BackendInfo { kind, version, fallbacks, nodes }));
            }
            Ok(Found::Build(_)) => InferError::NoEngine { backend: kind },
            Err(error) => error,
        };
        if backends.order().len() > 1 {
            tracing::warn!("backend {}", error.sentence(kind));
        }
        fallbacks.push(error.sentence(kind));
        last = error;
    }
    Err(last)
}

/// Loads the model on a backend and runs it, so that a backend is reported only when it has run. A panic is an error: a
/// hostile model may make a runtime panic.
pub(in crate::infer) fn run_on(
    spec: &ModelSpec,
    kind: BackendKind,
    backend: impl FnOnce() -> Result<Box<dyn Backend>, InferError>,
) -> Result<Loaded, InferError> {
    let run = AssertUnwindSafe(|| {
        let backend = backend()?;
        let version = backend.probe()?;
        let mut session = backend.load(spec)?;
        let mut warm_up = run_once(spec, kind, session.as_mut())?;
        if on_gpu(kind) {
            // The first run chooses kernels and fills caches; frames will take as long as the second one.
            warm_up = run_once(spec, kind, session.as_mut())?;
        }
        let nodes = session.nodes();
        Ok(Loaded { session, kind, version, warm_up, nodes, layouts: Vec::new() })
    });
    catch_unwind(run).unwrap_or_else(|_| {
        let reason = "the backend panicked over this model".into();
        Err(InferError::Load { backend: kind, model: spec.path.clone(), reason })
    })
}

/// Runs the model on the grey of an empty letterbox, a whole batch, and returns the time that it took.
fn run_once(spec: &ModelSpec, kind: BackendKind, session: &mut dyn Session) -> Result<Duration, InferError> {
    let input = spec.input.empty_frame();
    let frames = vec![Input::Planes(&input); session.batch()];
    let mut finite = true;
    let started = Instant::now();
    session.run(&frames, &mut |_, outputs| finite &= outputs.iter().copied().flatten().all(|v| v.is_finite()))?;
    if !finite {
        let reason = "the output of the warm-up has values that are not finite".to_owned();
        return Err(InferError::Run { backend: kind, reason });
    }
    Ok(started.elapsed())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use crate::infer::backend::fake::{FakeBackend, spec};
    use BackendKind::{Cpu, Cuda, Tensorrt, Tract};

    type Answer = Result<Box<dyn Backend>, InferError>;

    struct Fakes(&'static [BackendKind], Box<dyn Fn(BackendKind) -> Answer + Send + Sync>);

    impl Backends for Fakes {
        fn order(&self) -> &[BackendKind] {
            self.0
        }

        fn load(&self, kind: BackendKind, _: LoadReason) -> Result<Found, InferError> {
            run_on(&spec(), kind, || (self.1)(kind)).map(Found::Session)
        }
    }

    const AUTO: &[BackendKind] = &[Tensorrt, Cuda, Cpu, Tract];

    fn fakes(order: &'static [BackendKind], answer: impl Fn(BackendKind) -> Answer + Send + Sync + 'static) -> Fakes {
        Fakes(order, Box::new(answer))
    }

    fn no_library() -> InferError {
        InferError::NoLibrary { runtime: "ONNX Runtime", searched: "/lib".into(), hint: String::new() }
    }

    fn good(kind: BackendKind) -> Box<dyn Backend> {
        Box::new(FakeBackend(kind, vec![0.0; spec().output.len()]))
    }

    #[test]
    fn auto_falls_back_and_reports_why() {
        let fakes = fakes(AUTO, |kind| match kind {
            Tensorrt => Err(InferError::Provider { backend: kind, reason: "libnvinfer.so.10: cannot open".into() }),
            Tract => Ok(good(kind)),
            _ => Err(no_library()),
        });
        let (_, info) = load_first(&fakes).unwrap();
        assert_eq!((info.kind, info.version.as_str()), (Tract, "fake tract"));
        assert_eq!(info.fallbacks.len(), 3);
        assert_eq!(info.fallbacks[0], "tensorrt: libnvinfer.so.10: cannot open");
        assert!(info.fallbacks[2].starts_with("cpu: no ONNX Runtime library found"));
    }

    #[test]
    fn a_named_backend_never_falls_back() {
        let fakes = fakes(&[Cpu], |kind| if kind == Cpu { Err(no_library()) } else { Ok(good(kind)) });
        assert_eq!(load_first(&fakes).err().unwrap(), no_library());
    }

    #[test]
    fn a_backend_that_loads_but_does_not_run_is_not_taken() {
        struct Panics;
        impl Backend for Panics {
            fn probe(&self) -> Result<String, InferError> {
                Ok("panics".into())
            }
            fn load(&self, _: &ModelSpec) -> Result<Box<dyn Session>, InferError> {
                panic!("scripted panic")
            }
        }
        for panics in [false, true] {
            let fakes = fakes(&[Cuda, Tract], move |asked| match asked {
                Tract => Ok(good(asked)),
                _ if panics => Ok(Box::new(Panics)),
                _ => Ok(Box::new(FakeBackend(asked, vec![f32::NAN; spec().output.len()]))),
            });
            let (_, info) = load_first(&fakes).unwrap();
            assert_eq!(info.kind, Tract);
            assert_eq!(info.fallbacks.len(), 1, "{:?}", info.fallbacks);
        }
    }
}
