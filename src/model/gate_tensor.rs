//! What a tensor in a file says about itself: its shape, its type, and where its data lies.

use super::gate::{GateError, MAX_FIELDS, limit};
use super::protobuf::{Slice, Value};

/// Axes of one tensor.
const MAX_AXES: usize = 64;
/// Numbers in one tensor: 2^31 floats are 8 GiB.
const MAX_ELEMENTS: u64 = 1 << 31;

/// A tensor whose data lies in another file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct External {
    pub(super) tensor: String,
    pub(super) location: String,
    pub(super) offset: u64,
    /// `None`: to the end of the file.
    pub(super) length: Option<u64>,
    /// What its shape and type need.
    pub(super) needed: u64,
}

/// The number of elements that a shape has.
pub(super) struct Product {
    axes: usize,
    /// `None`: too many.
    elements: Option<u64>,
    negative: bool,
}

impl Default for Product {
    fn default() -> Self {
        Self { axes: 0, elements: Some(1), negative: false }
    }
}

impl Product {
    pub(super) fn times(&mut self, n: u64) -> Result<(), GateError> {
        self.axes += 1;
        if self.axes > MAX_AXES {
            return Err(limit("axes of one shape", MAX_AXES));
        }
        self.negative |= i64::try_from(n).is_err();
        self.elements = self.elements.and_then(|e| e.checked_mul(n)).filter(|e| *e <= MAX_ELEMENTS);
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
        self.elements.ok_or_else(|| wrong(format!("has a shape of more than {MAX_ELEMENTS} numbers")))
    }
}

/// What a TensorProto says about itself.
#[derive(Default)]
pub(super) struct TensorFacts<'a> {
    name: Option<Slice<'a>>,
    dims: Product,
    elem: u64,
    raw: Option<usize>,
    /// At least so many numbers lie in typed fields.
    typed: u64,
    entries: Vec<Slice<'a>>,
    elsewhere: bool,
    pub(super) fields: usize,
}

/// TensorProto {dims = 1, data_type = 2, float_data = 4, int32_data = 5, string_data = 6, int64_data = 7, name = 8,
/// raw_data = 9, double_data = 10, uint64_data = 11, external_data = 13, data_location = 14}
pub(super) fn tensor_facts(tensor: Slice<'_>, most_fields: usize) -> Result<TensorFacts<'_>, GateError> {
    let mut facts = TensorFacts::default();
    let mut fields = tensor.fields();
    while let Some((field, value)) = fields.next()? {
        facts.fields += 1;
        if facts.fields > most_fields {
            return Err(limit("fields", MAX_FIELDS));
        }
        match (field, value) {
            (1, value) => facts.dims.field(&value)?,
            (2, Value::Varint(elem)) => facts.elem = elem,
            (6, Value::Bytes(_)) => facts.typed += 1,
            // Packed: no number is shorter than a byte.
            (4 | 5 | 7 | 10 | 11, Value::Bytes(packed)) => facts.typed += packed.data.len() as u64,
            (4 | 5 | 7 | 10 | 11, _) => facts.typed += 1,
            (8, Value::Bytes(name)) => facts.name = Some(name),
            (9, Value::Bytes(raw)) => facts.raw = Some(raw.data.len()),
            (13, Value::Bytes(entry)) if facts.entries.len() < 16 => facts.entries.push(entry),
            (13, _) => return Err(limit("entries of external data", 16)),
            (14, Value::Varint(location)) => facts.elsewhere = location != 0,
            _ => {}
        }
    }
    Ok(facts)
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
            // Sixteen-bit and smaller numbers may share a field, so this is a bound from below only.
            (_, None) if self.typed < count.div_ceil(2) => {
                Err(self.wrong(format!("holds {} numbers at most, but its shape needs {count}", self.typed)))
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
            let (key, text) = super::onnx::entry(*entry)?;
            let number = || text.parse::<u64>().map_err(|_| external.wrong(&text, format!("`{key}` is no length")));
            match key.as_str() {
                "location" => external.location = text,
                "offset" => external.offset = number()?,
                "length" => external.length = Some(number()?),
                // The checksum is optional in the standard, and of a type that nobody else checks either.
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
