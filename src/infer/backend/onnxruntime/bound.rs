//! Bound tensors for sessions on a GPU: frames and outputs are in page-locked memory, which the GPU reads and writes
//! directly.
//!
//! A CUDA graph needs them: a replay reads and writes the addresses of the recorded run and ignores its arguments. So the
//! graph's input and outputs stay on the GPU, and are copied before and after each run.

use half::f16;
use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::{IoBinding, Session, SessionOutputs};
use ort::value::{DynTensor, PrimitiveTensorElementType, Tensor, TensorElementType};

use crate::ffi::onnxruntime as tensor;
use crate::infer::backend::convert::{Element, side_by_side};
use crate::model::{Elem, Input, InputSpec, ModelSpec, TensorSpec};

/// Where the tensors of a session lie.
#[derive(Debug, Clone)]
pub(in crate::infer) struct Places {
    /// Memory of the host that the device reaches.
    near: AllocationDevice<'static>,
    /// The device's own memory.
    far: AllocationDevice<'static>,
    device: i32,
    /// The device index of the host's memory.
    near_device: i32,
    /// Addresses must not change from run to run.
    fixed: bool,
    /// A session that cannot be bound is an error.
    pub(in crate::infer) strict: bool,
}

impl Places {
    pub(in crate::infer) fn cuda(device: u32, fixed: bool) -> Self {
        let (near, far) = (AllocationDevice::CUDA_PINNED, AllocationDevice::CUDA);
        Self { near, far, device: device as i32, near_device: device as i32, fixed, strict: fixed }
    }

    /// Everything in the host's memory, to test without a GPU.
    pub(in crate::infer) fn host(fixed: bool) -> Self {
        Self { near: AllocationDevice::CPU, far: AllocationDevice::CPU, device: 0, near_device: 0, fixed, strict: true }
    }

    fn near(&self, memory: MemoryType) -> ort::Result<MemoryInfo<'static>> {
        MemoryInfo::new(self.near.clone(), self.near_device, AllocatorType::Device, memory)
    }

    fn far(&self) -> ort::Result<MemoryInfo<'static>> {
        MemoryInfo::new(self.far.clone(), self.device, AllocatorType::Device, MemoryType::Default)
    }
}

/// A tensor on the host, and with fixed addresses the one on the device that it is copied to or from.
pub(in crate::infer) struct Bound {
    near: DynTensor,
    far: Option<DynTensor>,
}

/// The tensors that are bound to one session.
pub(in crate::infer) struct Binding {
    places: Places,
    input: Bound,
    /// Frames that the input has room for.
    parts: usize,
    /// With fixed addresses: the outputs, in the order of the specification.
    outputs: Vec<Bound>,
    near: Allocator,
    far: Option<Allocator>,
    /// Dropped last: it may keep the session alive, and with it the memory of the fields above.
    io: IoBinding,
}

impl Binding {
    /// Binds the tensors of `spec` to its session.
    pub(in crate::infer) fn new(session: &Session, spec: &ModelSpec, mut places: Places) -> ort::Result<Self> {
        let near = places.near(MemoryType::CPUInput).and_then(|info| Allocator::new(session, info));
        let near = near.or_else(|error| {
            // Older runtimes offer page-locked memory under index 0 only, whichever GPU it is for.
            places.near_device = 0;
            let info = places.near(MemoryType::CPUInput)?;
            Allocator::new(session, info).map_err(|_| error)
        })?;
        let far = if places.fixed { Some(Allocator::new(session, places.far()?)?) } else { None };
        let mut io = session.create_binding()?;
        let parts = spec.input.batch.size;
        let input = zeros(&near, far.as_ref(), spec.input.elem, &shape(&spec.input, parts))?;
        if let Some(name) = &spec.input.size_input {
            let sides = vec![i64::from(spec.input.size.w), i64::from(spec.input.size.h)];
            io.bind_input(name, &Tensor::from_array(([1_i64, 2], sides))?)?;
        }
        let mut outputs = Vec::new();
        for output in &spec.output.tensors {
            if far.is_some() {
                let shape = shape_of(session, output, parts)?;
                let mut bound = zeros(&near, far.as_ref(), output.elem, &shape)?;
                if let Some(far) = &mut bound.far {
                    io.bind_output(&output.name, far)?;
                }
                outputs.push(bound);
            }
        }
        if let Some(far) = &input.far {
            io.bind_input(&spec.input.name, far)?;
        }
        Ok(Self { places, io, near, far, input, parts, outputs })
    }

    pub(in crate::infer) fn is_strict(&self) -> bool {
        self.places.strict
    }

    /// The batch size of a run of `frames` frames: with fixed addresses always the whole batch.
    pub(in crate::infer) fn parts(&self, spec: &InputSpec, frames: usize) -> usize {
        if spec.batch.open && !self.places.fixed { frames } else { spec.batch.size }
    }

    /// Runs the session on these frames.
    pub(in crate::infer) fn run<'a>(
        &'a mut self,
        session: &'a mut Session,
        model: &ModelSpec,
        frames: &[Input<'_>],
    ) -> ort::Result<Outputs<'a>> {
        let spec = &model.input;
        let parts = self.parts(spec, frames.len());
        if parts != self.parts {
            // The arena keeps the old memory for reuse, so this is cheap.
            self.input = zeros(&self.near, self.far.as_ref(), spec.elem, &shape(spec, parts))?;
            self.parts = parts;
        }
        match spec.elem {
            Elem::Float16 => write::<f16>(spec, frames, &mut self.input.near)?,
            Elem::Uint8 => write::<u8>(spec, frames, &mut self.input.near)?,
            _ => write::<f32>(spec, frames, &mut self.input.near)?,
        }
        match &mut self.input.far {
            Some(far) => self.input.near.copy_into(far)?,
            // Binding copies it to the device.
            None => {
                self.io.bind_input(&spec.name, &self.input.near)?;
                for output in &model.output.tensors {
                    // In each run, because the shape of the last output may differ.
                    self.io.bind_output_to_device(&output.name, &self.places.near(MemoryType::CPUOutput)?)?;
                }
            }
        }
        let outputs = session.run_binding(&self.io)?;
        if !self.places.fixed {
            return Ok(Outputs::Given(outputs));
        }
        drop(outputs);
        for Bound { near, far } in &mut self.outputs {
            if let Some(far) = far {
                far.copy_into(near)?;
            }
        }
        Ok(Outputs::Kept(&self.outputs))
    }
}

/// The output tensors of a run.
pub(in crate::infer) enum Outputs<'a> {
    Given(SessionOutputs<'a>),
    /// In the order of the model's specification.
    Kept(&'a [Bound]),
}

impl Outputs<'_> {
    /// The values of an output as f32.
    pub(in crate::infer) fn widen(&self, at: usize, name: &str, elem: Elem, out: &mut Vec<f32>) -> ort::Result<()> {
        match elem {
            Elem::Float32 => f32::widen(self.values(at, name)?, out),
            Elem::Float16 => f16::widen(self.values(at, name)?, out),
            Elem::Uint8 => u8::widen(self.values(at, name)?, out),
            Elem::Int32 => i32::widen(self.values(at, name)?, out),
            Elem::Int64 => i64::widen(self.values(at, name)?, out),
        }
        Ok(())
    }

    /// The values of the `at`th output of the specification, called `name`.
    pub(in crate::infer) fn values<T: PrimitiveTensorElementType>(&self, at: usize, name: &str) -> ort::Result<&[T]> {
        let missing = || ort::Error::new(format!("there is no output {name:?}"));
        match self {
            Self::Given(outputs) => tensor::values_of(outputs.get(name).ok_or_else(missing)?),
            Self::Kept(kept) => tensor::values(&kept.get(at).ok_or_else(missing)?.near),
        }
    }
}

fn shape(spec: &InputSpec, parts: usize) -> Vec<i64> {
    spec.shape(parts).iter().map(|n| *n as i64).collect()
}

/// The shape of an output for `parts` frames, from the runtime.
fn shape_of(session: &Session, output: &TensorSpec, parts: usize) -> ort::Result<Vec<i64>> {
    let name = &output.name;
    let outlet = session.outputs().iter().find(|outlet| outlet.name() == name.as_str());
    let mut shape =
        outlet.and_then(|outlet| outlet.dtype().tensor_shape()).map(|shape| shape.to_vec()).unwrap_or_default();
    if let Some(first) = shape.first_mut().filter(|first| **first < 0) {
        *first = parts as i64;
    }
    if output.is_empty() || shape.is_empty() || shape.iter().any(|n| *n < 1) {
        let reason =
            format!("cuda_graph needs outputs whose size never changes, and {name:?} is {shape:?}; set it to false");
        return Err(ort::Error::new(reason));
    }
    Ok(shape)
}

/// A tensor of zeros on the host, and one on the device if `far` is given.
fn zeros(near: &Allocator, far: Option<&Allocator>, elem: Elem, shape: &[i64]) -> ort::Result<Bound> {
    let kind = match elem {
        Elem::Float32 => TensorElementType::Float32,
        Elem::Float16 => TensorElementType::Float16,
        Elem::Uint8 => TensorElementType::Uint8,
        Elem::Int32 => TensorElementType::Int32,
        Elem::Int64 => TensorElementType::Int64,
    };
    let mut near = DynTensor::new(near, kind, shape)?;
    // A batch that is not full is read as a whole.
    match elem {
        Elem::Float32 => tensor::clear::<f32>(&mut near)?,
        Elem::Float16 => tensor::clear::<f16>(&mut near)?,
        Elem::Uint8 => tensor::clear::<u8>(&mut near)?,
        Elem::Int32 | Elem::Int64 => {}
    }
    let far = far.map(|far| DynTensor::new(far, kind, shape)).transpose()?;
    Ok(Bound { near, far })
}

/// Copies the frames of a run side by side.
fn write<T: Element + PrimitiveTensorElementType>(
    spec: &InputSpec,
    frames: &[Input<'_>],
    tensor: &mut DynTensor,
) -> ort::Result<()> {
    side_by_side(spec, frames, tensor::values_mut::<T>(tensor)?);
    Ok(())
}
