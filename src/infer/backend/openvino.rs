//! OpenVINO, opened at run time: inference on the CPU.

use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use half::f16;
use openvino::{
    CompiledModel, Core, DeviceType, ElementType, InferRequest, InferenceError, PartialShape, PropertyKey,
    RwPropertyKey, Shape, Tensor,
};

use crate::config::Precision;
use crate::infer::backend::convert::{Number, side_by_side};
use crate::infer::runtime::openvino_library;
use crate::infer::runtime::ort_library::chain;
use crate::infer::runtime::trial::TINY_MODEL;
use crate::infer::{
    Backend, Consume, Fork, InferError, ProbeReport, Session, check_frames, hand_out, load_bytes, parts_on_cpu,
};
use crate::model::{Elem, Input, MAX_OUTPUTS, ModelSpec};
use crate::types::BackendKind;

/// The library that this process has opened. The crate allows one, and for ever.
static OPENED: Mutex<Option<PathBuf>> = Mutex::new(None);

/// OpenVINO.
#[derive(Debug, Clone)]
pub struct OpenvinoBackend {
    library: PathBuf,
    version: String,
    /// Threads (≥ 1) inside one inference.
    threads: usize,
    precision: Precision,
}

impl OpenvinoBackend {
    /// Finds a library (`library`, else below `OPENVINO_INSTALL_DIR` or `INTEL_OPENVINO_DIR`, else the usual places) and
    /// tries it in a child process. `threads` (≥ 1) work on one inference.
    ///
    /// # Errors
    /// [`InferError::NoOpenvino`], [`InferError::Library`] or [`InferError::Prober`].
    pub fn new(library: Option<&Path>, threads: usize, precision: Precision) -> Result<Self, InferError> {
        let (library, version) = openvino_library::locate(library)?;
        Ok(Self::proven(library, version, threads, precision))
    }

    /// A backend on a library that a child process has opened already.
    pub(in crate::infer) fn proven(library: PathBuf, version: String, threads: usize, precision: Precision) -> Self {
        Self { library, version, threads, precision }
    }

    /// A core of its own for each session: what is set on one holds for all that it compiles.
    fn core(&self) -> Result<Core, InferError> {
        let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
        let unusable = |reason: String| openvino_library::unusable(&self.library, reason);
        match &*opened {
            Some(open) if *open != self.library => {
                return Err(InferError::OtherLibrary { open: open.clone(), wanted: self.library.clone() });
            }
            Some(_) => {}
            None => {
                // The crate keeps the first library that it has opened, also one that it then finds too old.
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
            // Several one-thread sessions serve frames side by side; pinned ones would all choose the same cores.
            (RwPropertyKey::HintEnableCpuPinning, "NO"),
            // Never its own choice: that is bf16 wherever the processor has it.
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

/// The runtime does not refuse a precision that the processor lacks: it takes another one, and says so when asked. Gives what
/// is wrong.
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
    fn kind(&self) -> BackendKind {
        BackendKind::Openvino
    }

    fn probe(&self) -> Result<String, InferError> {
        let name = self.core()?.get_property(&DeviceType::CPU, &PropertyKey::DeviceFullName);
        let name = name.map_err(|error| openvino_library::unusable(&self.library, words(&error)))?;
        let name = name.split_whitespace().collect::<Vec<_>>().join(" ");
        Ok(format!("OpenVINO {} (CPU {name}, {})", self.version, self.precision.as_str()))
    }

    fn load(&self, spec: &ModelSpec) -> Result<Box<dyn Session>, InferError> {
        Ok(Box::new(self.session(&Arc::new(spec.clone()))?))
    }
}

/// All names of tensors that are passed to the runtime.
fn names(spec: &ModelSpec) -> impl Iterator<Item = &String> {
    let outputs = spec.output.tensors.iter().map(|tensor| &tensor.name);
    outputs.chain([&spec.input.name]).chain(&spec.input.size_input)
}

struct OpenvinoSession {
    backend: OpenvinoBackend,
    spec: Arc<ModelSpec>,
    /// Keeps what was compiled alive.
    request: InferRequest,
    /// The request reads it at each run.
    input: Tensor,
    /// One for each output tensor; used by those that are no single floats.
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
            // The runtime leaves out an input that no output depends on.
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

    /// Copies the frames into the tensor that the runtime reads: its memory is the runtime's own.
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
                // Without rows it may have no memory at all.
                _ if output.get_size().map_err(failed)? == 0 => &[],
                ElementType::F32 => output.get_data::<f32>().map_err(failed)?,
                _ => converted,
            };
        }
        hand_out(&self.spec.output.tensors, &wholes, parts, frames.len(), consume)
    }

    fn fork(&self) -> Fork {
        // Sessions that share one compiled model wait for each other: it has one stream.
        let (backend, spec) = (self.backend.clone(), self.spec.clone());
        Arc::new(move || Ok(Box::new(backend.session(&spec)?)))
    }
}

/// The numbers of an output as floats, where they are none.
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

/// The runtime's words on one line, without the places in its own source.
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
        // The crate repeats the file's name, which stands at the head of our own sentence.
        let reason = error.split_once("could not be opened: ").map_or(error.as_str(), |(_, reason)| reason);
        format!("the system cannot load it ({reason})")
    })
}

/// `2026.4.1` of `2026.4.1-22982-e213a147257-releases/2026/4`.
fn short(build: &str) -> &str {
    build.split('-').next().unwrap_or(build)
}

/// Opens the library in *this* process and runs a tiny model with it in this precision: what the child does. Never call this
/// in a process that must live.
pub fn check_openvino_here(path: &Path, precision: Precision) -> ProbeReport {
    let tried = openvino_library::check(path).and_then(|()| {
        // The crate panics over a function that is not there.
        catch_unwind(|| try_library(path, precision)).unwrap_or_else(|_| {
            Err("it is a library, but not OpenVINO (functions of its C interface are missing)".into())
        })
    });
    match tried {
        Ok(version) => ProbeReport { version: Some(version), error: None },
        Err(error) => ProbeReport { version: None, error: Some(error) },
    }
}

/// Runs the tiny model. Gives what is wrong with what came of it.
fn run_tiny(core: &mut Core, precision: Precision) -> Result<Option<String>, InferenceError> {
    let model = core.read_model_from_buffer(TINY_MODEL, None)?;
    core.set_properties(&DeviceType::CPU, [(RwPropertyKey::HintInferencePrecision, precision.as_str())])?;
    let mut compiled = core.compile_model(&model, DeviceType::CPU)?;
    let mut request = compiled.create_infer_request()?;
    let mut input = Tensor::new(ElementType::F32, &Shape::new(&[4])?)?;
    input.get_data_mut::<f32>()?.copy_from_slice(&[-1.0, 0.0, 1.0, 2.0]);
    request.set_input_tensor(&input)?;
    request.infer()?;
    match request.get_output_tensor()?.get_data::<f32>()? == [0.0, 0.0, 1.0, 2.0] {
        true => other_precision(core, &compiled, precision),
        false => Ok(Some("it runs a model, but the result is wrong".into())),
    }
}

fn try_library(path: &Path, precision: Precision) -> Result<String, String> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runtimes_words_lose_the_places_in_its_source() {
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
