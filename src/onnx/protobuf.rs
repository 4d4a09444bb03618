//! The wire format of protobuf: a reader that borrows and never panics, and a writer of single fields.

use super::error::OnnxError;

/// Bytes of the file, and where in the file they begin.
#[derive(Clone, Copy)]
pub(super) struct Slice<'a> {
    pub(super) data: &'a [u8],
    pub(super) at: usize,
}

impl<'a> Slice<'a> {
    pub(super) fn fields(self) -> Fields<'a> {
        Fields { rest: self.data, at: self.at }
    }

    /// For messages: bytes that are not UTF-8 become replacement characters.
    pub(super) fn text(self) -> String {
        String::from_utf8_lossy(self.data).into_owned()
    }
}

pub(super) enum Value<'a> {
    Varint(u64),
    /// 32 or 64 bits.
    Fixed,
    Bytes(Slice<'a>),
}

/// Number and value.
pub(super) type Field<'a> = (u32, Value<'a>);

/// Walks the fields of one message.
pub(super) struct Fields<'a> {
    rest: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    fn damaged(&self, what: &'static str) -> OnnxError {
        OnnxError::Damaged { at: self.at, what }
    }

    fn take(&mut self, n: usize) -> Result<Slice<'a>, OnnxError> {
        let Some((head, tail)) = self.rest.split_at_checked(n) else {
            return Err(self.damaged("a field runs past the end"));
        };
        let slice = Slice { data: head, at: self.at };
        self.rest = tail;
        self.at += n;
        Ok(slice)
    }

    fn varint(&mut self) -> Result<u64, OnnxError> {
        let mut value = 0_u64;
        for shift in (0..70).step_by(7) {
            let byte = u64::from(*self.take(1)?.data.first().unwrap_or(&0));
            // The tenth byte holds only one bit; the others are dropped, as protobuf's own readers do.
            value |= (byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(self.damaged("a number is longer than ten bytes"))
    }

    pub(super) fn next(&mut self) -> Result<Option<Field<'a>>, OnnxError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let field = u32::try_from(key >> 3).ok().filter(|f| (1..1 << 29).contains(f));
        let Some(field) = field else { return Err(self.damaged("a field has no valid number")) };
        let value = match key & 7 {
            0 => Value::Varint(self.varint()?),
            1 => self.take(8).map(|_| Value::Fixed)?,
            2 => {
                let length = self.varint()?;
                let Ok(length) = usize::try_from(length) else {
                    return Err(self.damaged("a field runs past the end"));
                };
                Value::Bytes(self.take(length)?)
            }
            5 => self.take(4).map(|_| Value::Fixed)?,
            _ => return Err(self.damaged("a field has a type that ONNX never uses")),
        };
        Ok(Some((field, value)))
    }

    /// The next element of a packed field.
    pub(super) fn number(&mut self) -> Result<Option<u64>, OnnxError> {
        if self.rest.is_empty() { Ok(None) } else { self.varint().map(Some) }
    }

    /// The next field, and all its bytes as they are in the file.
    pub(super) fn next_raw(&mut self) -> Result<Option<(Field<'a>, &'a [u8])>, OnnxError> {
        let before = self.rest;
        let field = self.next()?;
        Ok(field.map(|field| (field, &before[..before.len() - self.rest.len()])))
    }
}

fn put_varint(mut n: u64, out: &mut Vec<u8>) {
    while n >= 0x80 {
        out.push((n as u8 & 0x7f) | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// Appends a field with a number.
pub(crate) fn put_number(field: u32, n: u64, out: &mut Vec<u8>) {
    put_varint(u64::from(field) << 3, out);
    put_varint(n, out);
}

/// Appends a field with bytes or a message.
pub(crate) fn put_bytes(field: u32, body: &[u8], out: &mut Vec<u8>) {
    put_varint(u64::from(field) << 3 | 2, out);
    put_varint(body.len() as u64, out);
    out.extend_from_slice(body);
}
