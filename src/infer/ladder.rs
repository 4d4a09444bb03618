//! From the best backend down to the one that always works.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use super::{Backend, InferError, OrtBackend, OrtProvider, Session, input_len, library};
use crate::config::{BackendChoice, ModelConfig};
use crate::model::ModelSpec;
use crate::types::{BackendInfo, BackendKind};

/// Any of these means that the box has an NVIDIA GPU and its driver.
const NVIDIA_DEVICES: [&str; 5] =
    ["/dev/nvidiactl", "/dev/nvidia0", "/dev/nvmap", "/dev/nvhost-gpu", "/dev/nvhost-ctrl-gpu"];

/// Loads the model with what `config.backend` asks for, runs it once, and says what ran it.
///
/// A named backend either runs or is an error. `auto` goes TensorRT → CUDA → ONNX Runtime on the CPU → tract and writes
/// down why it went on; where there is no NVIDIA device, the two GPU rungs are left out without a word.
///
/// # Errors
/// The named backend's error; for `auto` the error of the last rung.
pub fn load(spec: &ModelSpec, config: &ModelConfig) -> Result<(Box<dyn Session>, BackendInfo), InferError> {
    let gpu = NVIDIA_DEVICES.iter().any(|device| Path::new(device).exists());
    climb(spec, rungs(config.backend, gpu), config.backend == BackendChoice::Auto, &mut Factory::new(config))
}

/// Makes the backend of a rung.
trait Rung {
    fn backend(&mut self, kind: BackendKind) -> Result<Box<dyn Backend>, InferError>;
}

fn rungs(choice: BackendChoice, gpu: bool) -> &'static [BackendKind] {
    use BackendKind::{Cpu, Cuda, Tensorrt, Tract};
    match choice {
        BackendChoice::Auto if gpu => &[Tensorrt, Cuda, Cpu, Tract],
        BackendChoice::Auto => &[Cpu, Tract],
        BackendChoice::Tensorrt => &[Tensorrt],
        BackendChoice::Cuda => &[Cuda],
        BackendChoice::Cpu => &[Cpu],
        BackendChoice::Tract => &[Tract],
    }
}

fn climb(
    spec: &ModelSpec,
    rungs: &[BackendKind],
    may_fall_back: bool,
    factory: &mut dyn Rung,
) -> Result<(Box<dyn Session>, BackendInfo), InferError> {
    let mut fallbacks = Vec::new();
    let mut last = InferError::NotBuilt(BackendKind::Tract);
    for &kind in rungs {
        match attempt(spec, kind, factory) {
            Ok((session, version)) => return Ok((session, BackendInfo { kind, version, fallbacks })),
            Err(error) if may_fall_back => {
                let sentence = match &error {
                    // These begin with the backend's name already.
                    InferError::Provider { .. } | InferError::Load { .. } | InferError::Run { .. } => error.to_string(),
                    _ => format!("{kind}: {error}"),
                };
                tracing::warn!("backend {sentence}");
                fallbacks.push(sentence);
                last = error;
            }
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

/// Loads on one rung and runs the model once: what has not run is not reported as running.
fn attempt(
    spec: &ModelSpec,
    kind: BackendKind,
    factory: &mut dyn Rung,
) -> Result<(Box<dyn Session>, String), InferError> {
    let guarded = catch_unwind(AssertUnwindSafe(|| {
        let backend = factory.backend(kind)?;
        let version = backend.probe()?;
        let mut session = backend.load(spec)?;
        // The grey of an empty letterbox.
        let input = vec![f32::from(spec.input.pad_value) / spec.input.scale; input_len(spec)];
        let mut sane = true;
        session.run(&input, &mut |output| sane = output.iter().all(|v| v.is_finite()))?;
        if !sane {
            let reason = "the warm-up put out numbers that are not finite".to_owned();
            return Err(InferError::Run { backend: kind, reason });
        }
        Ok((session, version))
    }));
    // Room for a hostile model that a runtime does not refuse but dies of.
    guarded.unwrap_or_else(|_| {
        Err(InferError::Load { backend: kind, model: spec.path.clone(), reason: "it panicked over this model".into() })
    })
}

/// The real backends. The library is looked for and tried once for all rungs.
struct Factory<'a> {
    config: &'a ModelConfig,
    library: Option<Result<(PathBuf, String), InferError>>,
}

impl<'a> Factory<'a> {
    fn new(config: &'a ModelConfig) -> Self {
        Self { config, library: None }
    }
}

impl Rung for Factory<'_> {
    fn backend(&mut self, kind: BackendKind) -> Result<Box<dyn Backend>, InferError> {
        let provider = match kind {
            BackendKind::Tract => return tract(),
            BackendKind::Cpu => OrtProvider::Cpu,
            BackendKind::Cuda => OrtProvider::Cuda,
            BackendKind::Tensorrt => OrtProvider::Tensorrt,
        };
        let named = self.config.ort_library.as_deref();
        let (path, version) = self.library.get_or_insert_with(|| library::locate(named)).clone()?;
        // One thread per session by default: several sessions on several frames beat one session on several threads.
        Ok(Box::new(OrtBackend::proven(provider, path, version, self.config.threads.unwrap_or(1))))
    }
}

#[cfg(feature = "tract")]
fn tract() -> Result<Box<dyn Backend>, InferError> {
    Ok(Box::new(super::TractBackend))
}

#[cfg(not(feature = "tract"))]
fn tract() -> Result<Box<dyn Backend>, InferError> {
    Err(InferError::NotBuilt(BackendKind::Tract))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::super::fake::{FakeBackend, spec};
    use super::*;

    type Answer = Result<Box<dyn Backend>, InferError>;

    /// Rungs that give what the test says.
    struct Fakes(Box<dyn Fn(BackendKind) -> Answer>);

    impl Rung for Fakes {
        fn backend(&mut self, kind: BackendKind) -> Result<Box<dyn Backend>, InferError> {
            (self.0)(kind)
        }
    }

    fn no_library() -> InferError {
        InferError::NoLibrary { searched: "/lib".into() }
    }

    fn good(kind: BackendKind) -> Box<dyn Backend> {
        Box::new(FakeBackend(kind, vec![0.0; spec().output.len()]))
    }

    #[test]
    fn auto_goes_down_and_says_why() {
        let mut fakes = Fakes(Box::new(|kind| match kind {
            BackendKind::Tensorrt => {
                Err(InferError::Provider { backend: kind, reason: "libnvinfer.so.10: cannot open".into() })
            }
            BackendKind::Tract => Ok(good(kind)),
            _ => Err(no_library()),
        }));
        let (_, info) = climb(&spec(), rungs(BackendChoice::Auto, true), true, &mut fakes).unwrap();
        assert_eq!((info.kind, info.version.as_str()), (BackendKind::Tract, "fake tract"));
        assert_eq!(info.fallbacks.len(), 3);
        assert_eq!(info.fallbacks[0], "tensorrt: libnvinfer.so.10: cannot open");
        assert!(info.fallbacks[2].starts_with("cpu: no ONNX Runtime library found"));
    }

    #[test]
    fn a_box_without_gpu_is_not_told_about_gpus() {
        assert_eq!(rungs(BackendChoice::Auto, false), [BackendKind::Cpu, BackendKind::Tract]);
        assert_eq!(rungs(BackendChoice::Cuda, false), [BackendKind::Cuda]);
    }

    #[test]
    fn a_named_backend_never_falls_back() {
        let mut fakes = Fakes(Box::new(|kind| match kind {
            BackendKind::Cpu => Err(no_library()),
            _ => Ok(good(kind)),
        }));
        let error = climb(&spec(), rungs(BackendChoice::Cpu, true), false, &mut fakes).err().unwrap();
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
            let mut fakes = Fakes(Box::new(move |asked| match asked {
                BackendKind::Tract => Ok(good(asked)),
                _ if kind == BackendKind::Cpu => Ok(Box::new(Dies)),
                _ => Ok(Box::new(FakeBackend(asked, vec![f32::NAN; spec().output.len()]))),
            }));
            let (_, info) = climb(&spec(), rungs(BackendChoice::Auto, false), true, &mut fakes).unwrap();
            assert_eq!(info.kind, BackendKind::Tract);
            assert_eq!(info.fallbacks.len(), 1, "{:?}", info.fallbacks);
        }
    }
}
