//! Weights as f16.

use half::f16;

use super::PrepareError;
use super::graph::{Names, cast, tensor};
use crate::onnx::messages::data_type::{FLOAT, HALF};
use crate::onnx::messages::{Bytes, Message, Node, Tensor};

/// Weights with fewer elements than this are not worth a node of their own.
const SMALL: usize = 256;

/// The weight as f16 under `name`. `None`: it is not f32, or it holds a value that f16 cannot represent.
pub(super) fn halved(weight: &Tensor, name: &str) -> Option<Bytes> {
    let halves: Option<Vec<[u8; 2]>> = floats(weight)?
        .map(|value| {
            let half = f16::from_f32(value);
            half.is_finite().then(|| half.to_le_bytes())
        })
        .collect();
    Some(tensor(name, &weight.dims, HALF, halves?.into_flattened()))
}

/// The elements of an f32 weight, if there are as many as its axes say.
fn floats(weight: &Tensor) -> Option<Box<dyn ExactSizeIterator<Item = f32> + '_>> {
    let raw = weight.raw_data.as_deref().map(<[u8]>::as_chunks::<4>);
    let count = weight.dims.iter().try_fold(1_u64, |count, dim| count.checked_mul(*dim))?;
    let floats: Box<dyn ExactSizeIterator<Item = f32>> = match raw {
        Some((chunks, [])) => Box::new(chunks.iter().map(|bytes| f32::from_le_bytes(*bytes))),
        Some(_) => return None,
        None => Box::new(weight.float_data.iter().copied()),
    };
    (weight.data_type == FLOAT && floats.len() as u64 == count).then_some(floats)
}

/// Stores large f32 weights as f16, and puts nodes in front that widen them when the model is loaded.
pub(super) fn store_as_half(
    initializers: &mut [Bytes],
    nodes: &mut Vec<Node>,
    names: &Names,
) -> Result<(), PrepareError> {
    for initializer in initializers {
        let weight = Tensor::decode(initializer.clone())?;
        if floats(&weight).is_none_or(|floats| floats.len() < SMALL) {
            continue;
        }
        let stored = names.free(&format!("{}_half", weight.name));
        if let Some(half) = halved(&weight, &stored) {
            *initializer = half;
            nodes.push(cast(&stored, &weight.name, FLOAT));
        }
    }
    Ok(())
}
