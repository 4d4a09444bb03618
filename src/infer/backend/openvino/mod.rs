//! OpenVINO, opened at run time: inference on the CPU.

mod library;

use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use half::f16;
use openvino::{
    CompiledModel, Core, DeviceType, ElementType, InferRequest, InferenceError, PartialShape, PropertyKey,
    RwPropertyKey, Shape, Tensor,
};

pub(in crate::infer) use library::is_available;
pub use library::{OPENVINO, openvino_computes, wants_openvino};

use crate::config::{BackendChoice, Precision};
use crate::infer::backend::convert::{Element, chain, side_by_side};
use crate::infer::backend::descriptor::{Descriptor, Device, Sessions, Setup};
use crate::infer::backend::tiny;
use crate::infer::runtime::probe::locate;
use crate::infer::{Backend, Consume, Fork, InferError, Session, check_frames, hand_out, load_bytes, parts_on_cpu};
use crate::model::{Elem, Input, MAX_OUTPUTS, ModelSpec};
use crate::types::BackendKind;

pub(in crate::infer) static DESCRIPTOR: Descriptor = Descriptor {
    kind: BackendKind::Openvino,
    choice: BackendChoice::Openvino,
    device: Device::Cpu,
    reference: BackendChoice::Tract,
    runtime: Some(&OPENVINO),
    named_library: |config| config.openvino.library.as_deref(),
    in_auto: |machine| machine.openvino,
    needs_engine: false,
    moves_boxes: Some(|config| config.openvino.precision != Precision::F32),
    sessions: Sessions::Measured,
    probe_here: |_, library, precision| try_library(library, precision),
    probe_parts: |_, _| Ok(()),
    make: |_, Setup { config, library, threads, .. }| {
        let (library, version) = library.ok_or_else(|| OPENVINO.none_found())?;
        Ok(Box::new(OpenvinoBackend { library, version, threads, precision: config.openvino.precision }))
    },
};

/// The library that this process has opened. The crate allows one per process.
static OPENED: Mutex<Option<PathBuf>> = Mutex::new(None);

#[derive(Debug, Clone)]
pub struct OpenvinoBackend {
    library: PathBuf,
    version: String,
    /// Threads (≥ 1) inside one inference.
    threads: usize,
    precision: Precision,
}

impl OpenvinoBackend {
    /// Finds a library (`library`, else below `OPENVINO_INSTALL_DIR` or `INTEL_OPENVINO_DIR`, else the searched folders)
    /// and probes it in a child process. `threads` (≥ 1) work on one inference.
    pub fn new(library: Option<&Path>, threads: usize, precision: Precision) -> Result<Self, InferError> {
        let (library, version) = locate(&OPENVINO, library)?;
        Ok(Self { library, version, threads, precision })
    }

    /// Each session has its own core: a core's properties hold for everything that it compiles.
    fn core(&self) -> Result<Core, InferError> {
        let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
        let unusable = |reason: String| OPENVINO.unusable(&self.library, reason);
        match &*opened {
            Some(open) if *open != self.library => {
                return Err(InferError::OtherLibrary { open: open.clone(), wanted: self.library.clone() });
            }
            Some(_) => {}
            None => {
                // The crate keeps the first library that it opened, even if it then finds it too old.
                *opened = Some(self.library.clone());
                open(&self.library).map_err(unusable)?;
            }
        }
        drop(opened);
        Core::new().map_err(|error| unusable(chain(&error)))
    }

    fn session(&self, spec: &Arc<ModelSpec>) -> Result<OpenvinoSession, InferError> {
        let mut core = self.core()?;
        let bytes = load_bytes(BackendKind::Openvino, spec)?;
        let failed = |error: InferenceError| load_error(spec, words(&error));
        for name in names(spec) {
            if name.contains('\0') {
                return Err(load_error(spec, format!("the name {name:?} cannot be passed on")));
            }
        }
        let mut compiled = self.compile(&mut core, spec, &bytes).map_err(failed)?;
        drop(bytes);
        if let Some(reason) = other_precision(&core, &compiled, self.precision).map_err(failed)? {
            return Err(InferError::Provider { backend: BackendKind::Openvino, reason });
        }
        OpenvinoSession::new(self.clone(), spec.clone(), &mut compiled).map_err(failed)
    }

    fn compile(&self, core: &mut Core, spec: &ModelSpec, bytes: &[u8]) -> Result<CompiledModel, InferenceError> {
        let threads = self.threads.max(1).to_string();
        let properties = [
            (RwPropertyKey::NumStreams, "1"),
            (RwPropertyKey::InferenceNumThreads, threads.as_str()),
            // Several one-thread sessions run side by side; pinned, all of them would choose the same cores.
            (RwPropertyKey::HintEnableCpuPinning, "NO"),
            // Without this it takes bf16 wherever the processor has it.
            (RwPropertyKey::HintInferencePrecision, self.precision.as_str()),
        ];
        core.set_properties(&DeviceType::CPU, properties)?;
        let mut model = core.read_model_from_buffer(bytes, None)?;
        if spec.dynamic {
            let sides = spec.input.shape(parts_on_cpu(spec)).map(|n| n as i64);
            let input = PartialShape::new_static(4, &sides)?;
            match &spec.input.size_input {
                None => model.reshape_input_by_name(&spec.input.name, &input)?,
                Some(name) => {
                    let pair = PartialShape::new_static(2, &[1, 2])?;
                    model.reshape(&[(spec.input.name.as_str(), &input), (name.as_str(), &pair)])?;
                }
            }
        }
        core.compile_model(&model, DeviceType::CPU)
    }
}

/// The runtime does not refuse a precision that the processor lacks but takes another one. Returns what is wrong.
fn other_precision(core: &Core, compiled: &CompiledModel, asked: Precision) -> Result<Option<String>, InferenceError> {
    let runs = compiled.get_property(&PropertyKey::Rw(RwPropertyKey::HintInferencePrecision))?;
    if runs.eq_ignore_ascii_case(asked.as_str()) {
        return Ok(None);
    }
    let offers = core.get_property(&DeviceType::CPU, &PropertyKey::DeviceCapabilities)?;
    Ok(Some(format!(
        "this processor does not compute in {}, it would in {runs} (it offers {offers}); set model.openvino.precision: f32",
        asked.as_str()
    )))
}

impl Backend for OpenvinoBackend {
    fn probe(&self) -> Result<String, InferError> {
        let name = self.core()?.get_property(&DeviceType::CPU, &PropertyKey::DeviceFullName);
        let name = name.map_err(|error| OPENVINO.unusable(&self.library, words(&error)))?;
        let name = name.split_whitespace().collect::<Vec<_>>().join(" ");
        Ok(format!("OpenVINO {} (CPU {name}, {})", self.version, self.precision.as_str()))
    }

    fn load(&self, spec: &ModelSpec) -> Result<Box<dyn Session>, InferError> {
        Ok(Box::new(self.session(&Arc::new(spec.clone()))?))
    }
}

/// All tensor names that are passed to the runtime.
fn names(spec: &ModelSpec) -> impl Iterator<Item = &String> {
    let outputs = spec.output.tensors.iter().map(|tensor| &tensor.name);
    outputs.chain([&spec.input.name]).chain(&spec.input.size_input)
}

struct OpenvinoSession {
    backend: OpenvinoBackend,
    spec: Arc<ModelSpec>,
    /// Keeps the compiled model alive.
    request: InferRequest,
    /// The request reads it at each run.
    input: Tensor,
    /// For each output tensor that is not f32: its values as f32.
    converted: Vec<Vec<f32>>,
}

impl OpenvinoSession {
    fn new(
        backend: OpenvinoBackend,
        spec: Arc<ModelSpec>,
        compiled: &mut CompiledModel,
    ) -> Result<Self, InferenceError> {
        let mut request = compiled.create_infer_request()?;
        let element = match spec.input.elem {
            Elem::Float16 => ElementType::F16,
            Elem::Uint8 => ElementType::U8,
            _ => ElementType::F32,
        };
        let input = Tensor::new(element, &Shape::new(&spec.input.shape(parts_on_cpu(&spec)).map(|n| n as i64))?)?;
        let mut set = |name: &str, tensor: &Tensor| match compiled.get_input_by_name(name) {
            Ok(_) => request.set_tensor(name, tensor),
            // The runtime removes an input on which no output depends.
            Err(_) if compiled.get_input_size()? < 1 + usize::from(spec.input.size_input.is_some()) => Ok(()),
            Err(error) => Err(error),
        };
        set(&spec.input.name, &input)?;
        if let Some(name) = &spec.input.size_input {
            // The size never changes, so it is written once.
            let mut sides = Tensor::new(ElementType::I64, &Shape::new(&[1, 2])?)?;
            sides.get_data_mut::<i64>()?.copy_from_slice(&[i64::from(spec.input.size.w), i64::from(spec.input.size.h)]);
            set(name, &sides)?;
        }
        let converted = spec.output.tensors.iter().map(|_| Vec::new()).collect();
        Ok(Self { backend, spec, request, input, converted })
    }

    /// Copies the frames into the tensor that the runtime reads, because that memory is the runtime's own.
    fn fill(&mut self, frames: &[Input<'_>]) -> Result<(), InferenceError> {
        let (spec, tensor) = (&self.spec.input, &mut self.input);
        match spec.elem {
            Elem::Float16 => side_by_side(spec, frames, tensor.get_data_mut::<f16>()?),
            Elem::Uint8 => side_by_side(spec, frames, tensor.get_data_mut::<u8>()?),
            _ => side_by_side(spec, frames, tensor.get_data_mut::<f32>()?),
        }
        Ok(())
    }

    /// The outputs of the last run, in the order of the model's specification.
    fn outputs(&self) -> Result<[Option<Tensor>; MAX_OUTPUTS], InferenceError> {
        let mut outputs = [const { None }; MAX_OUTPUTS];
        for (output, tensor) in outputs.iter_mut().zip(&self.spec.output.tensors) {
            *output = Some(self.request.get_tensor(&tensor.name)?);
        }
        Ok(outputs)
    }
}

impl Session for OpenvinoSession {
    fn batch(&self) -> usize {
        parts_on_cpu(&self.spec)
    }

    fn run(&mut self, frames: &[Input<'_>], consume: &mut Consume<'_>) -> Result<(), InferError> {
        let parts = parts_on_cpu(&self.spec);
        check_frames(&self.spec, parts, frames)?;
        let failed = |error: InferenceError| run_error(words(&error));
        self.fill(frames).map_err(failed)?;
        self.request.infer().map_err(failed)?;
        let outputs = self.outputs().map_err(failed)?;
        for (output, converted) in outputs.iter().flatten().zip(&mut self.converted) {
            widen(output, converted).map_err(failed)??;
        }
        let mut wholes: [&[f32]; MAX_OUTPUTS] = [&[]; MAX_OUTPUTS];
        for ((output, converted), whole) in outputs.iter().flatten().zip(&self.converted).zip(&mut wholes) {
            *whole = match output.get_element_type().map_err(failed)? {
                // An output without rows may have no memory at all.
                _ if output.get_size().map_err(failed)? == 0 => &[],
                ElementType::F32 => output.get_data::<f32>().map_err(failed)?,
                _ => converted,
            };
        }
        hand_out(&self.spec.output.tensors, &wholes, parts, frames.len(), consume)
    }

    fn fork(&self) -> Fork {
        // Sessions that share a compiled model wait for each other, because it has one stream.
        let (backend, spec) = (self.backend.clone(), self.spec.clone());
        Arc::new(move || Ok(Box::new(backend.session(&spec)?)))
    }
}

/// The values of an output as f32, unless they are f32 already.
fn widen(output: &Tensor, out: &mut Vec<f32>) -> Result<Result<(), InferError>, InferenceError> {
    match output.get_element_type()? {
        ElementType::F32 => {}
        _ if output.get_size()? == 0 => out.clear(),
        ElementType::F16 => f16::widen(output.get_data()?, out),
        ElementType::U8 => u8::widen(output.get_data()?, out),
        ElementType::I32 => i32::widen(output.get_data()?, out),
        ElementType::I64 => i64::widen(output.get_data()?, out),
        other => return Ok(Err(run_error(format!("an output is of type {other:?}")))),
    }
    Ok(Ok(()))
}

fn run_error(reason: String) -> InferError {
    InferError::Run { backend: BackendKind::Openvino, reason }
}

fn load_error(spec: &ModelSpec, reason: String) -> InferError {
    InferError::Load { backend: BackendKind::Openvino, model: spec.path.clone(), reason }
}

/// The runtime's message on one line, without the places in its source.
fn words(error: &InferenceError) -> String {
    let text = error.to_string();
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("Exception from "));
    let kept = lines.map(|line| line.split_once(": Exception from ").map_or(line, |(kind, _)| kind));
    kept.collect::<Vec<_>>().join(" ")
}

fn open(library: &Path) -> Result<(), String> {
    openvino_sys::library::load_from(library).map_err(|error| {
        if error.contains("is too old") {
            let version = error.rsplit(' ').next().map_or("of unknown age", short);
            return format!("it is version {version}, which is too old");
        }
        // The crate repeats the file's name, which our own message begins with.
        let reason = error.split_once("could not be opened: ").map_or(error.as_str(), |(_, reason)| reason);
        format!("the system cannot load it ({reason})")
    })
}

/// `2026.4.1` of `2026.4.1-22982-e213a147257-releases/2026/4`.
fn short(build: &str) -> &str {
    build.split('-').next().unwrap_or(build)
}

/// Opens the library in this process, runs the tiny model in `precision`, and returns the version. For the probing child
/// only.
pub(in crate::infer) fn try_library(path: &Path, precision: Precision) -> Result<String, String> {
    OPENVINO.check(path)?;
    // The crate panics if a function is missing.
    catch_unwind(|| open_and_run(path, precision))
        .unwrap_or_else(|_| Err("it is a library, but not OpenVINO (functions of its C interface are missing)".into()))
}

fn open_and_run(path: &Path, precision: Precision) -> Result<String, String> {
    open(path)?;
    let mut core = Core::new().map_err(|error| chain(&error))?;
    match run_tiny(&mut core, precision) {
        Ok(None) => Ok(short(&openvino::version().build_number).to_owned()),
        Ok(Some(reason)) => Err(reason),
        Err(error) => {
            let words = words(&error);
            let why = match words.contains("can't protect") {
                true => {
                    "; it writes the code that it runs, which the service manager forbids: MemoryDenyWriteExecute=no"
                }
                false => "",
            };
            Err(format!("it cannot run a model ({words}){why}"))
        }
    }
}

/// Runs the tiny model. Returns what is wrong with the result.
fn run_tiny(core: &mut Core, precision: Precision) -> Result<Option<String>, InferenceError> {
    let model = core.read_model_from_buffer(tiny::MODEL, None)?;
    core.set_properties(&DeviceType::CPU, [(RwPropertyKey::HintInferencePrecision, precision.as_str())])?;
    let mut compiled = core.compile_model(&model, DeviceType::CPU)?;
    let mut request = compiled.create_infer_request()?;
    let mut input = Tensor::new(ElementType::F32, &Shape::new(&[4])?)?;
    input.get_data_mut::<f32>()?.copy_from_slice(&tiny::INPUT);
    request.set_input_tensor(&input)?;
    request.infer()?;
    match request.get_output_tensor()?.get_data::<f32>()? == tiny::OUTPUT {
        true => other_precision(core, &compiled, precision),
        false => Ok(Some("it runs a model, but the result is wrong".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_lose_the_places_in_the_runtimes_source() {
        let message =
            "Exception from src/inference/src/cpp/core.cpp:112:\nException from src/x.cpp:9:\nno such layer\n";
        let kind = openvino::InferenceErrorKind::GeneralError;
        let error = InferenceError { kind, message: Some(message.into()) };
        assert_eq!(words(&error), "general error no such layer");
    }

    #[test]
    fn versions_are_the_first_part_of_the_build() {
        assert_eq!(short("2026.4.1-22982-e213a147257-releases/2026/4"), "2026.4.1");
        assert_eq!(short("2025.1.0"), "2025.1.0");
    }
}
