use std::fmt;

use crate::bytes::{Reader, Writer};
use crate::error::PayloadError;
use crate::fingerprint::{Fingerprint, FingerprintParts};
use crate::limits::{DESCRIPTOR_MAX, LABEL_MAX, SHAPE_MAX};
use crate::text::Text;

/// The full description of an operation, exchanged only when something went wrong.
///
/// Codes are plain numbers, as in [`FingerprintParts`]; the layer above gives them names.
///
/// ```
/// use allhands_wire::{DESCRIPTOR_MAX, Descriptor, Dims, Text};
///
/// let told = Descriptor {
///     op: 1,
///     dtype: 3,
///     count: 6,
///     shape: Dims::new(&[2, 3]),
///     label: Text::new("gradients of layer 2"),
///     ..Descriptor::default()
/// };
///
/// let mut buffer = [0; DESCRIPTOR_MAX];
/// let heard = Descriptor::decode(told.encode(&mut buffer))?;
/// assert_eq!(heard, told);
/// assert_eq!(heard.shape.as_slice(), &[2, 3]);
/// # Ok::<(), allhands_wire::PayloadError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Descriptor {
    /// Code of the collective.
    pub op: u8,
    /// Code of the reduction; 0: none.
    pub reduce_op: u8,
    /// Code of the dtype; 0: none.
    pub dtype: u8,
    /// Code of the algorithm.
    pub algorithm: u8,
    /// The root's rank in the group.
    pub root: Option<u32>,
    /// Length in elements.
    pub count: u64,
    /// Bits of the factor of a scaled sum; 0 without one.
    pub premul_bits: u64,
    /// Whatever else must be equal on all ranks.
    pub extra: u64,
    /// The shape in elements; empty if none was told.
    pub shape: Dims,
    /// What the user calls this operation.
    pub label: Text<LABEL_MAX>,
}

impl Descriptor {
    /// The fingerprint of this operation.
    pub const fn fingerprint(&self) -> Fingerprint {
        Fingerprint::new(FingerprintParts {
            op: self.op,
            reduce_op: self.reduce_op,
            dtype: self.dtype,
            root: self.root,
            count: self.count,
            algorithm: self.algorithm,
            premul_bits: self.premul_bits,
            extra: self.extra,
        })
    }

    /// Writes the description to `buffer` and returns the part that was written.
    pub fn encode<'a>(&self, buffer: &'a mut [u8; DESCRIPTOR_MAX]) -> &'a [u8] {
        let mut out = Writer::new(buffer);
        self.write(&mut out);
        out.finish()
    }

    /// Reads a description that fills `bytes` exactly.
    ///
    /// # Errors
    /// [`PayloadError`] if the bytes are cut, too many, or hold what no sender writes.
    pub fn decode(bytes: &[u8]) -> Result<Self, PayloadError> {
        let mut fields = Reader::new(bytes);
        let descriptor = Self::read(&mut fields)?;
        fields.end()?;
        Ok(descriptor)
    }

    pub(crate) fn write(&self, out: &mut Writer<'_>) {
        out.u8(self.op);
        out.u8(self.reduce_op);
        out.u8(self.dtype);
        out.u8(self.algorithm);
        out.u32(self.root.unwrap_or(u32::MAX));
        out.u64(self.count);
        out.u64(self.premul_bits);
        out.u64(self.extra);
        out.u16(self.shape.as_slice().len() as u16);
        for &dim in self.shape.as_slice() {
            out.u64(dim);
        }
        out.text(&self.label);
    }

    pub(crate) fn read(fields: &mut Reader<'_>) -> Result<Self, PayloadError> {
        let mut descriptor = Self {
            op: fields.u8("operation")?,
            reduce_op: fields.u8("reduction")?,
            dtype: fields.u8("dtype")?,
            algorithm: fields.u8("algorithm")?,
            root: Some(fields.u32("root")?).filter(|&root| root != u32::MAX),
            count: fields.u64("count")?,
            premul_bits: fields.u64("factor")?,
            extra: fields.u64("extra")?,
            ..Self::default()
        };
        let dims = fields.count("shape", SHAPE_MAX)?;
        let mut shape = [0; SHAPE_MAX];
        for dim in &mut shape[..dims] {
            *dim = fields.u64("shape")?;
        }
        descriptor.shape = Dims::new(&shape[..dims]);
        descriptor.label = fields.text("label")?;
        Ok(descriptor)
    }
}

impl fmt::Display for Descriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "op {} reduction {} dtype {}", self.op, self.reduce_op, self.dtype)?;
        if let Some(root) = self.root {
            write!(f, " root {root}")?;
        }
        write!(f, " count {} shape {} algorithm {}", self.count, self.shape, self.algorithm)?;
        if !self.label.is_empty() {
            write!(f, " label {:?}", self.label)?;
        }
        Ok(())
    }
}

/// Up to [`SHAPE_MAX`] dimensions, stored inline, outermost first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Dims {
    dims: [u64; SHAPE_MAX],
    len: u8,
}

impl Dims {
    /// Copies the first [`SHAPE_MAX`] of `dims`.
    pub fn new(dims: &[u64]) -> Self {
        let len = dims.len().min(SHAPE_MAX);
        let mut kept = [0; SHAPE_MAX];
        kept[..len].copy_from_slice(&dims[..len]);
        Self { dims: kept, len: len as u8 }
    }

    /// The dimensions.
    pub fn as_slice(&self) -> &[u64] {
        &self.dims[..usize::from(self.len)]
    }
}

impl fmt::Display for Dims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.as_slice()).finish()
    }
}
