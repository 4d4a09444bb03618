//! The values of ONNX Runtime's tensors in the host's memory, CUDA's page-locked memory included.
//!
//! The `ort` crate gives access only if the runtime calls the device a CPU. From 1.23 on the runtime calls page-locked memory
//! a GPU's, and the crate can tell them apart only with the interface of that version, which older libraries lack.

#![allow(unsafe_code)]

use std::ffi::c_void;

use ort::memory::AllocationDevice;
use ort::value::{DynTensor, DynTensorValueType, DynValue, PrimitiveTensorElementType};

/// The values of a tensor. Another element type, and memory that the host cannot read, are errors; here and below.
pub fn values<T: PrimitiveTensorElementType>(tensor: &DynTensor) -> ort::Result<&[T]> {
    let len = readable::<T>(tensor)?;
    let data = tensor.data_ptr().cast::<T>();
    // SAFETY: `readable` has checked that the host's memory has `len` values of this type, and the reference
    // keeps them.
    Ok(if data.is_null() { &[] } else { unsafe { std::slice::from_raw_parts(data, len) } })
}

/// The values of a value that may be no tensor.
pub fn values_of<T: PrimitiveTensorElementType>(value: &DynValue) -> ort::Result<&[T]> {
    let tensor = value.view().downcast::<DynTensorValueType>()?;
    let len = readable::<T>(&tensor)?;
    let data = tensor.data_ptr().cast::<T>();
    // SAFETY: as above; the view shares the value, and `value` keeps what it points to.
    Ok(if data.is_null() { &[] } else { unsafe { std::slice::from_raw_parts(data, len) } })
}

/// The values of a tensor, to be written.
pub fn values_mut<T: PrimitiveTensorElementType>(tensor: &mut DynTensor) -> ort::Result<&mut [T]> {
    let len = readable::<T>(tensor)?;
    let data = tensor.data_ptr_mut().cast::<T>();
    // SAFETY: as above, and the exclusive reference is the only one.
    Ok(if data.is_null() { &mut [] } else { unsafe { std::slice::from_raw_parts_mut(data, len) } })
}

/// Fills a new tensor, whose memory is uninitialised, with zeros.
pub fn clear<T: PrimitiveTensorElementType>(tensor: &mut DynTensor) -> ort::Result<()> {
    let len = readable::<T>(tensor)?;
    let data: *mut c_void = tensor.data_ptr_mut();
    if !data.is_null() {
        // SAFETY: as above; zero bytes are a valid value of each of these types.
        unsafe { data.cast::<T>().write_bytes(0, len) };
    }
    Ok(())
}

/// How many values a tensor has, if they are of this type and the host can read them.
fn readable<T: PrimitiveTensorElementType>(tensor: &DynTensor) -> ort::Result<usize> {
    let (wanted, kind) = (T::into_tensor_element_type(), *tensor.data_type());
    if wanted != kind {
        return Err(ort::Error::new(format!("a tensor is of {kind}, not of {wanted}")));
    }
    let device = tensor.memory_info().allocation_device();
    if device != AllocationDevice::CPU && device != AllocationDevice::CUDA_PINNED {
        return Err(ort::Error::new(format!("a tensor lies on the device {:?}", device.as_str())));
    }
    Ok(tensor.shape().num_elements())
}
