//! Weights as half floats.

use half::f16;

use super::super::protobuf::{Slice, Value};
use super::PrepareError;
use super::graph::{FLOAT, HALF, each, int, put_node, put_tensor};

/// Smallest weight that is worth a node of its own, in floats.
const SMALL: usize = 256;

/// TensorProto {dims = 1, data_type = 2, float_data = 4, name = 8, raw_data = 9}
pub(super) struct Weight {
    pub(super) name: String,
    pub(super) elem: u64,
    dims: Vec<u64>,
    /// Little-endian half floats; `None`: it is of another type, or holds what half floats cannot.
    halves: Option<Vec<u8>>,
}

impl Weight {
    pub(super) fn read(tensor: Slice<'_>) -> Result<Self, PrepareError> {
        let (mut dims, mut elem, mut data, mut name) = (Vec::new(), 0, None, String::new());
        each(tensor, |field, value, _| {
            match (field, value) {
                (1, Value::Varint(n)) => dims.push(n),
                (1, Value::Bytes(packed)) => {
                    let mut numbers = packed.fields();
                    while let Some(n) = numbers.number()? {
                        dims.push(n);
                    }
                }
                (2, Value::Varint(n)) => elem = n,
                (8, Value::Bytes(text)) => name = text.text(),
                // Packed floats are laid out like raw data.
                (4 | 9, Value::Bytes(bytes)) => data = Some(bytes.data),
                _ => {}
            }
            Ok(())
        })?;
        let count = dims.iter().try_fold(1_u64, |count, dim| count.checked_mul(*dim));
        let floats =
            data.filter(|data| elem == FLOAT && count.and_then(|n| n.checked_mul(4)) == Some(data.len() as u64));
        let halves = floats.and_then(|floats| {
            let wide = floats.as_chunks::<4>().0.iter().map(|b| f16::from_f32(f32::from_le_bytes(*b)));
            wide.map(|half| half.is_finite().then(|| half.to_le_bytes())).collect::<Option<Vec<_>>>()
        });
        Ok(Self { name, elem, dims, halves: halves.map(|halves| halves.concat()) })
    }

    /// Appends it in half floats under `name`. False: it cannot be.
    pub(super) fn put_half(&self, name: &str, head: &mut Vec<u8>) -> bool {
        let halves = self.halves.as_ref().map(|halves| put_tensor(name, &self.dims, HALF, halves, head));
        halves.is_some()
    }
}

/// A weight as half floats and the node that widens it, if it is large enough and of single floats; else as it stands.
pub(super) fn half(tensor: Slice<'_>, raw: &[u8], head: &mut Vec<u8>, nodes: &mut Vec<u8>) -> Result<(), PrepareError> {
    let weight = Weight::read(tensor)?;
    let stored = format!("{}_half", weight.name);
    let large = weight.halves.as_ref().is_some_and(|halves| halves.len() >= 2 * SMALL);
    if large && weight.put_half(&stored, head) {
        put_node("Cast", &[&stored], &[&weight.name], &[int("to", FLOAT as i64)], nodes);
    } else {
        head.extend_from_slice(raw);
    }
    Ok(())
}
