//! From the best backend down to the one that always works.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::{BackendChoice, ModelConfig};
use crate::infer::cache::build::Builder;
use crate::infer::engine::factory::{Factory, Purpose};
use crate::infer::engine::policy::on_gpu;
use crate::infer::{Backend, InferError, Session};
use crate::model::{Input, ModelSpec};
use crate::types::{BackendInfo, BackendKind, Division};

/// Loads the model with what `config.backend` asks for, runs it once, and says what ran it.
///
/// A named backend either runs or is an error. `auto` goes TensorRT → CUDA → OpenVINO → ONNX Runtime on the CPU → tract and writes
/// down why it went on; where there is no NVIDIA device, the two GPU rungs are left out without a word, and so is OpenVINO
/// where its library is not or where it would compute in f32.
///
/// # Errors
/// The named backend's error; for `auto` the error of the last rung.
pub fn load(spec: &ModelSpec, config: &ModelConfig) -> Result<(Box<dyn Session>, BackendInfo), InferError> {
    climb(spec, &Factory::new(Arc::new(spec.clone()), config, Purpose::Short))
}

/// The rungs of a ladder and what stands on them.
pub(in crate::infer) trait Rungs: Send + Sync {
    /// Best first, at least one.
    fn kinds(&self) -> &[BackendKind];

    /// Makes the backend of a rung. What is dear to find out is found out once.
    fn backend(&self, kind: BackendKind) -> Result<Box<dyn Backend>, InferError>;

    /// Sees in another process whether a rung works, where trying it could kill this one.
    fn prove(&self, _kind: BackendKind) -> Result<(), InferError> {
        Ok(())
    }

    /// Whether a rung can be taken at once, while cameras stand still; what must first be compared with others is not.
    fn at_hand(&self, _kind: BackendKind) -> Result<(), InferError> {
        Ok(())
    }

    /// What builds the engine that a rung needs, when there is none yet.
    fn builder(&self, _kind: BackendKind) -> Result<Option<Arc<dyn Builder>>, InferError> {
        Ok(None)
    }

    /// The runtime does not take the engine that was built for a rung. False: there is none.
    fn reject(&self, _kind: BackendKind, _reason: &str) -> bool {
        false
    }

    /// The rung serves.
    fn accepted(&self, _kind: BackendKind) {}

    /// Proofs that run are called off.
    fn stop(&self) {}

    /// How long the first frame of a batch waits for others.
    fn batch_wait(&self) -> Duration {
        Duration::ZERO
    }

    /// Sessions at most that are worth having side by side.
    fn workers(&self, _kind: BackendKind) -> usize {
        1
    }

    /// Chooses how the cores are divided between inferences, by a short measurement where that is worth it and no frames
    /// wait. What is loaded may become another session of the same backend.
    fn divide(&self, loaded: Loaded, _frames_wait: bool) -> Loaded {
        loaded
    }
}

/// A session that has run.
pub(in crate::infer) struct Loaded {
    pub(in crate::infer) session: Box<dyn Session>,
    pub(in crate::infer) kind: BackendKind,
    pub(in crate::infer) version: String,
    /// Time of the last warm-up run, of a whole batch.
    pub(in crate::infer) warm_up: Duration,
    /// Nodes of the graph by the provider that ran them, where the runtime says so.
    pub(in crate::infer) nodes: BTreeMap<String, usize>,
    /// How the cores are divided, best first; empty: as [`Rungs::workers`] says.
    pub(in crate::infer) divisions: Vec<Division>,
}

/// The backends that `choice` tries, in this order. `gpu`: the box has one of [`NVIDIA_DEVICES`](crate::infer::NVIDIA_DEVICES);
/// `openvino`: `auto` may take it, and there is a library of it, or somebody says so.
pub fn rungs(choice: BackendChoice, gpu: bool, openvino: bool) -> &'static [BackendKind] {
    use BackendKind::{Cpu, Cuda, Openvino, Tensorrt, Tract};
    match choice {
        BackendChoice::Auto => match (gpu, openvino) {
            (true, true) => &[Tensorrt, Cuda, Openvino, Cpu, Tract],
            (true, false) => &[Tensorrt, Cuda, Cpu, Tract],
            (false, true) => &[Openvino, Cpu, Tract],
            (false, false) => &[Cpu, Tract],
        },
        BackendChoice::Openvino => &[Openvino],
        BackendChoice::Tensorrt => &[Tensorrt],
        BackendChoice::Cuda => &[Cuda],
        BackendChoice::Cpu => &[Cpu],
        BackendChoice::Tract => &[Tract],
    }
}

fn climb(spec: &ModelSpec, rungs: &dyn Rungs) -> Result<(Box<dyn Session>, BackendInfo), InferError> {
    let mut fallbacks = Vec::new();
    let mut last = InferError::NotBuilt(BackendKind::Tract);
    for &kind in rungs.kinds() {
        match attempt(spec, kind, rungs) {
            Ok(Loaded { session, kind, version, nodes, .. }) => {
                return Ok((session, BackendInfo { kind, version, fallbacks, nodes }));
            }
            Err(error) => {
                if rungs.kinds().len() > 1 {
                    tracing::warn!("backend {}", error.sentence(kind));
                }
                fallbacks.push(error.sentence(kind));
                last = error;
            }
        }
    }
    Err(last)
}

/// Loads on one rung and runs the model: what has not run is not reported as running.
pub(in crate::infer) fn attempt(spec: &ModelSpec, kind: BackendKind, rungs: &dyn Rungs) -> Result<Loaded, InferError> {
    guarded(spec, kind, || run_on(spec, rungs.backend(kind)?.as_ref()))
}

/// Loads on a backend and runs the model.
pub(in crate::infer) fn run_on(spec: &ModelSpec, backend: &dyn Backend) -> Result<Loaded, InferError> {
    let kind = backend.kind();
    let version = backend.probe()?;
    let mut session = backend.load(spec)?;
    let mut warm_up = run_once(spec, kind, session.as_mut())?;
    if on_gpu(kind) {
        // The first one chooses kernels and fills caches; frames will take as long as the second one.
        warm_up = run_once(spec, kind, session.as_mut())?;
    }
    let nodes = session.nodes();
    Ok(Loaded { session, kind, version, warm_up, nodes, divisions: Vec::new() })
}

/// Room for a hostile model that a runtime does not refuse but dies of.
fn guarded<T>(
    spec: &ModelSpec,
    kind: BackendKind,
    run: impl FnOnce() -> Result<T, InferError>,
) -> Result<T, InferError> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| {
        Err(InferError::Load { backend: kind, model: spec.path.clone(), reason: "it panicked over this model".into() })
    })
}

/// Runs the model on the grey of an empty letterbox, and gives the time that it took.
fn run_once(spec: &ModelSpec, kind: BackendKind, session: &mut dyn Session) -> Result<Duration, InferError> {
    let input = spec.input.empty_frame();
    // A whole batch: that is what takes longest.
    let frames = vec![Input::Planes(&input); session.batch()];
    let mut sane = true;
    let started = Instant::now();
    session.run(&frames, &mut |_, outputs| sane &= outputs.iter().copied().flatten().all(|v| v.is_finite()))?;
    if !sane {
        let reason = "the warm-up put out numbers that are not finite".to_owned();
        return Err(InferError::Run { backend: kind, reason });
    }
    Ok(started.elapsed())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use crate::infer::backend::fake::{FakeBackend, spec};

    type Answer = Result<Box<dyn Backend>, InferError>;

    /// Rungs that give what the test says.
    struct Fakes(&'static [BackendKind], Box<dyn Fn(BackendKind) -> Answer + Send + Sync>);

    impl Rungs for Fakes {
        fn kinds(&self) -> &[BackendKind] {
            self.0
        }

        fn backend(&self, kind: BackendKind) -> Result<Box<dyn Backend>, InferError> {
            (self.1)(kind)
        }
    }

    fn fakes(
        choice: BackendChoice,
        gpu: bool,
        answer: impl Fn(BackendKind) -> Answer + Send + Sync + 'static,
    ) -> Fakes {
        Fakes(rungs(choice, gpu, false), Box::new(answer))
    }

    fn no_library() -> InferError {
        InferError::NoLibrary { runtime: "ONNX Runtime", searched: "/lib".into(), hint: String::new() }
    }

    fn good(kind: BackendKind) -> Box<dyn Backend> {
        Box::new(FakeBackend(kind, vec![0.0; spec().output.len()]))
    }

    #[test]
    fn auto_goes_down_and_says_why() {
        let fakes = fakes(BackendChoice::Auto, true, |kind| match kind {
            BackendKind::Tensorrt => {
                Err(InferError::Provider { backend: kind, reason: "libnvinfer.so.10: cannot open".into() })
            }
            BackendKind::Tract => Ok(good(kind)),
            _ => Err(no_library()),
        });
        let (_, info) = climb(&spec(), &fakes).unwrap();
        assert_eq!((info.kind, info.version.as_str()), (BackendKind::Tract, "fake tract"));
        assert_eq!(info.fallbacks.len(), 3);
        assert_eq!(info.fallbacks[0], "tensorrt: libnvinfer.so.10: cannot open");
        assert!(info.fallbacks[2].starts_with("cpu: no ONNX Runtime library found"));
    }

    #[test]
    fn a_box_without_gpu_is_not_told_about_gpus() {
        assert_eq!(rungs(BackendChoice::Auto, false, false), [BackendKind::Cpu, BackendKind::Tract]);
        assert_eq!(rungs(BackendChoice::Cuda, false, false), [BackendKind::Cuda]);
    }

    #[test]
    fn openvino_is_a_rung_where_it_may_be_one() {
        use BackendKind::{Cpu, Cuda, Openvino, Tensorrt, Tract};
        assert_eq!(rungs(BackendChoice::Auto, false, true), [Openvino, Cpu, Tract]);
        assert_eq!(rungs(BackendChoice::Auto, true, true), [Tensorrt, Cuda, Openvino, Cpu, Tract]);
        assert_eq!(rungs(BackendChoice::Cpu, false, true), [Cpu]);
        assert_eq!(rungs(BackendChoice::Openvino, false, false), [Openvino]);
    }

    #[test]
    fn a_named_backend_never_falls_back() {
        let fakes = fakes(BackendChoice::Cpu, true, |kind| match kind {
            BackendKind::Cpu => Err(no_library()),
            _ => Ok(good(kind)),
        });
        let error = climb(&spec(), &fakes).err().unwrap();
        assert_eq!(error, no_library());
    }

    #[test]
    fn a_backend_that_loads_but_does_not_run_is_not_taken() {
        struct Dies;
        impl Backend for Dies {
            fn kind(&self) -> BackendKind {
                BackendKind::Cpu
            }
            fn probe(&self) -> Result<String, InferError> {
                Ok("dies".into())
            }
            fn load(&self, _: &ModelSpec) -> Result<Box<dyn Session>, InferError> {
                panic!("told to panic")
            }
        }
        for kind in [BackendKind::Cuda, BackendKind::Cpu] {
            let fakes = fakes(BackendChoice::Auto, false, move |asked| match asked {
                BackendKind::Tract => Ok(good(asked)),
                _ if kind == BackendKind::Cpu => Ok(Box::new(Dies)),
                _ => Ok(Box::new(FakeBackend(asked, vec![f32::NAN; spec().output.len()]))),
            });
            let (_, info) = climb(&spec(), &fakes).unwrap();
            assert_eq!(info.kind, BackendKind::Tract);
            assert_eq!(info.fallbacks.len(), 1, "{:?}", info.fallbacks);
        }
    }
}
