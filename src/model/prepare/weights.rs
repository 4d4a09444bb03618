//! Weights as half floats.

use half::f16;

use super::super::protobuf::{Slice, Value};
use super::PrepareError;
use super::graph::{FLOAT, HALF, Names, each, int, put_node, put_tensor};

/// Smallest weight that is worth a node of its own, in floats.
const SMALL: usize = 256;

/// TensorProto {dims = 1, data_type = 2, float_data = 4, name = 8, raw_data = 9}
pub(super) struct Weight<'a> {
    pub(super) name: String,
    pub(super) elem: u64,
    dims: Vec<u64>,
    /// Little-endian single floats, as many as its axes say; `None`: it is of another type.
    floats: Option<&'a [u8]>,
}

impl<'a> Weight<'a> {
    pub(super) fn read(tensor: Slice<'a>) -> Result<Self, PrepareError> {
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
        Ok(Self { name, elem, dims, floats })
    }

    /// Its values as little-endian half floats; `None`: it is of another type, or holds what half floats cannot.
    fn halves(&self) -> Option<Vec<u8>> {
        let floats = self.floats?.as_chunks::<4>().0;
        let mut halves = Vec::with_capacity(2 * floats.len());
        for float in floats {
            let half = f16::from_f32(f32::from_le_bytes(*float));
            if !half.is_finite() {
                return None;
            }
            halves.extend(half.to_le_bytes());
        }
        Some(halves)
    }

    /// Appends it in half floats under `name`. False: it cannot be.
    pub(super) fn put_half(&self, name: &str, head: &mut Vec<u8>) -> bool {
        self.halves().map(|halves| put_tensor(name, &self.dims, HALF, &halves, head)).is_some()
    }
}

/// A weight as half floats and the node that widens it, if it is large enough and of single floats; else as it stands.
pub(super) fn half(
    tensor: Slice<'_>,
    raw: &[u8],
    names: &Names,
    head: &mut Vec<u8>,
    nodes: &mut Vec<u8>,
) -> Result<(), PrepareError> {
    let weight = Weight::read(tensor)?;
    let stored = names.free(&format!("{}_half", weight.name));
    let large = weight.floats.is_some_and(|floats| floats.len() >= 4 * SMALL);
    if large && weight.put_half(&stored, head) {
        put_node("Cast", &[&stored], &[&weight.name], &[int("to", FLOAT as i64)], nodes);
    } else {
        head.extend_from_slice(raw);
    }
    Ok(())
}
