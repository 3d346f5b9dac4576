//! Little-endian fields in and out of fixed buffers, with every length checked.

use crate::{PayloadError, Text};

/// Reads fields from the front of a payload.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn array<const N: usize>(
        &mut self,
        field: &'static str,
    ) -> Result<[u8; N], PayloadError> {
        let (head, rest) =
            self.rest.split_first_chunk::<N>().ok_or(PayloadError::Truncated { field })?;
        self.rest = rest;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self, field: &'static str) -> Result<u8, PayloadError> {
        Ok(self.array::<1>(field)?[0])
    }

    pub(crate) fn u16(&mut self, field: &'static str) -> Result<u16, PayloadError> {
        Ok(u16::from_le_bytes(self.array(field)?))
    }

    pub(crate) fn u32(&mut self, field: &'static str) -> Result<u32, PayloadError> {
        Ok(u32::from_le_bytes(self.array(field)?))
    }

    pub(crate) fn u64(&mut self, field: &'static str) -> Result<u64, PayloadError> {
        Ok(u64::from_le_bytes(self.array(field)?))
    }

    /// A list length, refused above `limit` before anything is done with it.
    pub(crate) fn count(
        &mut self,
        field: &'static str,
        limit: usize,
    ) -> Result<usize, PayloadError> {
        let len = usize::from(self.u16(field)?);
        if len > limit {
            return Err(PayloadError::TooLong { field, len: len as u64, limit: limit as u64 });
        }
        Ok(len)
    }

    pub(crate) fn text<const N: usize>(
        &mut self,
        field: &'static str,
    ) -> Result<Text<N>, PayloadError> {
        let len = self.count(field, N)?;
        let (head, rest) =
            self.rest.split_at_checked(len).ok_or(PayloadError::Truncated { field })?;
        self.rest = rest;
        Text::from_wire(head).ok_or(PayloadError::Text { field })
    }

    /// Refuses whatever is left.
    pub(crate) fn end(self) -> Result<(), PayloadError> {
        match self.rest.len() {
            0 => Ok(()),
            bytes => Err(PayloadError::Trailing { bytes }),
        }
    }
}

/// Writes fields to the front of a buffer whose size is known to suffice.
pub(crate) struct Writer<'a> {
    buffer: &'a mut [u8],
    len: usize,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(buffer: &'a mut [u8]) -> Self {
        Self { buffer, len: 0 }
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.buffer[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    pub(crate) fn u8(&mut self, value: u8) {
        self.bytes(&[value]);
    }

    pub(crate) fn u16(&mut self, value: u16) {
        self.bytes(&value.to_le_bytes());
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.bytes(&value.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.bytes(&value.to_le_bytes());
    }

    pub(crate) fn text<const N: usize>(&mut self, text: &Text<N>) {
        self.u16(text.as_bytes().len() as u16);
        self.bytes(text.as_bytes());
    }

    /// What was written.
    pub(crate) fn finish(self) -> &'a [u8] {
        &self.buffer[..self.len]
    }
}
