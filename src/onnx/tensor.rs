//! What a tensor in a file declares: its shape, its type, and where its data lies.

use super::error::{GateError, OnnxError, limit};
use super::messages::{Entry, Message, field};
use super::protobuf::{Slice, Value};

/// Fields that the gate visits in one file: it bounds the time, and what names and attributes cost a runtime.
pub(super) const MAX_FIELDS: usize = 8_000_000;
const MAX_AXES: usize = 64;
/// Elements of one tensor: 2^31 f32 are 8 GiB.
const MAX_ELEMENTS: u64 = 1 << 31;
const MAX_EXTERNAL_ENTRIES: usize = 16;

/// A tensor whose data lies in another file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct External {
    pub(super) tensor: String,
    pub(super) location: String,
    pub(super) offset: u64,
    /// Bytes; `None`: to the end of the file.
    pub(super) length: Option<u64>,
    /// Bytes that its shape and type need.
    pub(super) needed: u64,
}

/// The number of elements of a shape.
pub(super) struct Product {
    axes: usize,
    /// `None`: more than [`MAX_ELEMENTS`].
    elements: Option<u64>,
    negative: bool,
}

impl Default for Product {
    fn default() -> Self {
        Self { axes: 0, elements: Some(1), negative: false }
    }
}

impl Product {
    pub(super) fn axis(&mut self) -> Result<(), GateError> {
        self.axes += 1;
        if self.axes > MAX_AXES { Err(limit("axes of one shape", MAX_AXES)) } else { Ok(()) }
    }

    pub(super) fn length(&mut self, n: u64) {
        self.negative |= i64::try_from(n).is_err();
        self.elements = self.elements.and_then(|e| e.checked_mul(n)).filter(|e| *e <= MAX_ELEMENTS);
    }

    fn times(&mut self, n: u64) -> Result<(), GateError> {
        self.axis()?;
        self.length(n);
        Ok(())
    }

    /// A field `repeated int64 dims`, packed or not.
    pub(super) fn field(&mut self, value: &Value<'_>) -> Result<(), GateError> {
        match value {
            Value::Varint(n) => self.times(*n),
            Value::Bytes(packed) => {
                let mut numbers = packed.fields();
                while let Some(n) = numbers.number()? {
                    self.times(n)?;
                }
                Ok(())
            }
            Value::Fixed => Ok(()),
        }
    }

    pub(super) fn check(&self, tensor: &str) -> Result<u64, GateError> {
        let wrong = |reason: String| GateError::Tensor { tensor: tensor.to_owned(), reason };
        if self.negative {
            return Err(wrong("has an axis of negative length".into()));
        }
        self.elements.ok_or_else(|| wrong(format!("has a shape of more than {MAX_ELEMENTS} elements")))
    }
}

/// What a TensorProto declares.
#[derive(Default)]
pub(super) struct TensorFacts<'a> {
    name: Option<Slice<'a>>,
    dims: Product,
    elem: u64,
    /// Bytes of raw data.
    raw: Option<usize>,
    /// Upper bound of the number of elements in the typed fields.
    typed: u64,
    entries: Vec<Slice<'a>>,
    elsewhere: bool,
    pub(super) fields: usize,
}

pub(super) fn tensor_facts(tensor: Slice<'_>, most_fields: usize) -> Result<TensorFacts<'_>, GateError> {
    use field::*;
    let mut facts = TensorFacts::default();
    let mut fields = tensor.fields();
    while let Some((field, value)) = fields.next()? {
        facts.fields += 1;
        if facts.fields > most_fields {
            return Err(limit("fields", MAX_FIELDS));
        }
        match (field, value) {
            (TENSOR_DIMS, value) => facts.dims.field(&value)?,
            (TENSOR_DATA_TYPE, Value::Varint(elem)) => facts.elem = elem,
            (TENSOR_STRINGS, Value::Bytes(_)) => facts.typed += 1,
            // Packed: no element is shorter than a byte.
            (field, Value::Bytes(packed)) if is_typed(field) => facts.typed += packed.data.len() as u64,
            (field, _) if is_typed(field) => facts.typed += 1,
            (TENSOR_NAME, Value::Bytes(name)) => facts.name = Some(name),
            (TENSOR_RAW, Value::Bytes(raw)) => facts.raw = Some(raw.data.len()),
            (TENSOR_EXTERNAL, Value::Bytes(entry)) if facts.entries.len() < MAX_EXTERNAL_ENTRIES => {
                facts.entries.push(entry);
            }
            (TENSOR_EXTERNAL, _) => return Err(limit("entries of external data", MAX_EXTERNAL_ENTRIES)),
            (TENSOR_LOCATION, Value::Varint(location)) => facts.elsewhere = location != 0,
            _ => {}
        }
    }
    Ok(facts)
}

/// Fields that hold elements as numbers.
fn is_typed(field: u32) -> bool {
    use field::*;
    matches!(field, TENSOR_FLOATS | TENSOR_INT32S | TENSOR_INT64S | TENSOR_DOUBLES | TENSOR_UINT64S)
}

/// Fields that hold data or say where it lies: external data replaces them.
pub(super) fn is_data(field: u32) -> bool {
    use field::*;
    is_typed(field) || matches!(field, TENSOR_STRINGS | TENSOR_RAW | TENSOR_EXTERNAL | TENSOR_LOCATION)
}

impl TensorFacts<'_> {
    pub(super) fn name(&self) -> String {
        self.name.map(Slice::text).unwrap_or_default()
    }

    pub(super) fn is_external(&self) -> bool {
        self.elsewhere || !self.entries.is_empty()
    }

    /// Bytes that its shape and type need; `None` for strings.
    fn needed(&self) -> Result<Option<u64>, GateError> {
        let count = self.dims.check(&self.name())?;
        let bytes = match self.elem {
            2 | 3 | 9 | 17..=20 => count,
            4 | 5 | 10 | 16 => count * 2,
            1 | 6 | 12 => count * 4,
            7 | 11 | 13 | 14 => count * 8,
            15 => count * 16,
            21..=23 => count.div_ceil(2),
            8 => return Ok(None),
            other => return Err(self.wrong(format!("is of the unknown type {other}"))),
        };
        Ok(Some(bytes))
    }

    fn wrong(&self, reason: String) -> GateError {
        GateError::Tensor { tensor: self.name(), reason }
    }

    pub(super) fn check(&self) -> Result<(), GateError> {
        let needed = self.needed()?;
        if self.is_external() {
            return Ok(());
        }
        let count = self.dims.check(&self.name())?;
        match (needed, self.raw) {
            (Some(needed), Some(raw)) if raw as u64 != needed => {
                Err(self.wrong(format!("holds {raw} bytes, but its shape needs {needed}")))
            }
            (_, Some(_)) => Ok(()),
            // Elements of 16 bits and less may share a number, so only too few can be proved.
            (_, None) if self.typed < count.div_ceil(2) => {
                Err(self.wrong(format!("holds at most {} elements, but its shape needs {count}", self.typed)))
            }
            _ => Ok(()),
        }
    }

    /// Where its data lies.
    pub(super) fn external(&self) -> Result<External, GateError> {
        let tensor = self.name();
        let needed = self.needed()?.ok_or_else(|| self.wrong("has strings in another file".into()))?;
        let mut external = External { tensor, needed, ..External::default() };
        for entry in &self.entries {
            let Entry { key, value } = Entry::decode(entry.data).map_err(OnnxError::from)?;
            let text = String::from_utf8_lossy(&value).into_owned();
            let number = |key: &str| {
                text.parse::<u64>().map_err(|_| external.wrong(&text, format!("`{key}` is no length in bytes")))
            };
            match key.as_ref() {
                b"location" => external.location = text,
                b"offset" => external.offset = number("offset")?,
                b"length" => external.length = Some(number("length")?),
                // The standard's checksum is optional, and no runtime checks it.
                _ => {}
            }
        }
        Ok(external)
    }
}

impl External {
    pub(super) fn wrong(&self, location: &str, reason: impl Into<String>) -> GateError {
        GateError::Reference { tensor: self.tensor.clone(), location: location.to_owned(), reason: reason.into() }
    }
}
