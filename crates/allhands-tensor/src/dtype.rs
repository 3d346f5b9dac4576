//! Element types, at run time ([`DType`]) and at compile time ([`Element`]).

use std::fmt;

use bytemuck::{Pod, Zeroable};
use half::{bf16, f16};

use crate::TensorError;
use crate::tensor::Layout;

/// The type of a tensor's elements.
///
/// ```
/// use allhands_tensor::DType;
/// assert_eq!(DType::BF16.size(), 2);
/// assert_eq!(DType::from_code(DType::I64.code()), Some(DType::I64));
/// assert_eq!(DType::F16.to_string(), "f16");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum DType {
    /// IEEE-754 binary32.
    F32 = 1,
    /// IEEE-754 binary64.
    F64 = 2,
    /// IEEE-754 binary16.
    F16 = 3,
    /// bfloat16: the upper half of a binary32.
    BF16 = 4,
    /// Signed, 8 bits.
    I8 = 5,
    /// Unsigned, 8 bits.
    U8 = 6,
    /// Signed, 16 bits.
    I16 = 7,
    /// Unsigned, 16 bits.
    U16 = 8,
    /// Signed, 32 bits.
    I32 = 9,
    /// Unsigned, 32 bits.
    U32 = 10,
    /// Signed, 64 bits.
    I64 = 11,
    /// Unsigned, 64 bits.
    U64 = 12,
    /// One byte that holds a truth value, or any other byte after a sum; see [`Bool`].
    Bool = 13,
}

impl DType {
    /// Every dtype, in the order of the codes.
    pub const ALL: [DType; 13] = [
        DType::F32,
        DType::F64,
        DType::F16,
        DType::BF16,
        DType::I8,
        DType::U8,
        DType::I16,
        DType::U16,
        DType::I32,
        DType::U32,
        DType::I64,
        DType::U64,
        DType::Bool,
    ];

    /// Bytes per element.
    pub const fn size(self) -> usize {
        match self {
            DType::I8 | DType::U8 | DType::Bool => 1,
            DType::F16 | DType::BF16 | DType::I16 | DType::U16 => 2,
            DType::F32 | DType::I32 | DType::U32 => 4,
            DType::F64 | DType::I64 | DType::U64 => 8,
        }
    }

    /// Bytes of a contiguous tensor of this shape.
    ///
    /// # Errors
    /// If the shape has more than [`MAX_DIMS`](crate::MAX_DIMS) dimensions or does not fit the address space.
    ///
    /// ```
    /// use allhands_tensor::DType;
    /// assert_eq!(DType::F32.byte_len(&[2, 3])?, 24);
    /// # Ok::<(), allhands_tensor::TensorError>(())
    /// ```
    pub fn byte_len(self, shape: &[usize]) -> Result<usize, TensorError> {
        Ok(Layout::contiguous(self, shape)?.byte_len())
    }

    /// The short lower-case name, as in `"bf16"`.
    pub const fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F64 => "f64",
            DType::F16 => "f16",
            DType::BF16 => "bf16",
            DType::I8 => "i8",
            DType::U8 => "u8",
            DType::I16 => "i16",
            DType::U16 => "u16",
            DType::I32 => "i32",
            DType::U32 => "u32",
            DType::I64 => "i64",
            DType::U64 => "u64",
            DType::Bool => "bool",
        }
    }

    /// The stable number of this dtype, 1 to 13, as it goes on the wire.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The dtype of a [`code`](Self::code); `None` for any other number.
    pub fn from_code(code: u8) -> Option<Self> {
        let index = usize::from(code).checked_sub(1)?;
        Self::ALL.get(index).copied()
    }

    /// Whether this is one of the four floating-point types.
    pub const fn is_float(self) -> bool {
        matches!(self, DType::F32 | DType::F64 | DType::F16 | DType::BF16)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// One byte of a boolean tensor.
///
/// Reductions treat it as an unsigned byte, as torch does: a sum over three ranks of which two
/// say "true" leaves 2. That is why a buffer of booleans is never read as Rust's `bool`.
///
/// ```
/// use allhands_tensor::Bool;
/// assert!(Bool(2).is_true());
/// assert_eq!(Bool::from(true), Bool(1));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default, Pod, Zeroable)]
#[repr(transparent)]
pub struct Bool(pub u8);

impl Bool {
    /// True for every byte but zero.
    pub const fn is_true(self) -> bool {
        self.0 != 0
    }
}

impl From<bool> for Bool {
    fn from(value: bool) -> Self {
        Bool(u8::from(value))
    }
}

mod sealed {
    pub trait Sealed {}
}

/// A Rust type that a tensor can hold. Sealed: the list of implementors is the list of dtypes.
pub trait Element: Pod + Send + Sync + fmt::Debug + PartialEq + sealed::Sealed {
    /// The dtype of this Rust type.
    const DTYPE: DType;
}

macro_rules! elements {
    ($($rust:ty => $dtype:ident),* $(,)?) => {$(
        impl sealed::Sealed for $rust {}
        impl Element for $rust {
            const DTYPE: DType = DType::$dtype;
        }
        const _: () = assert!(size_of::<$rust>() == DType::$dtype.size());
    )*};
}

elements! {
    f32 => F32, f64 => F64, f16 => F16, bf16 => BF16,
    i8 => I8, u8 => U8, i16 => I16, u16 => U16,
    i32 => I32, u32 => U32, i64 => I64, u64 => U64,
    Bool => Bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_dense_stable_and_come_back() {
        for (index, dtype) in DType::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(dtype.code()), index + 1);
            assert_eq!(DType::from_code(dtype.code()), Some(dtype));
        }
        assert_eq!(DType::from_code(0), None);
        assert_eq!(DType::from_code(14), None);
        assert_eq!(DType::from_code(255), None);
    }

    #[test]
    fn names_are_distinct_and_padded_by_display() {
        let names: std::collections::HashSet<_> = DType::ALL.iter().map(|d| d.name()).collect();
        assert_eq!(names.len(), DType::ALL.len());
        assert_eq!(format!("{:>6}", DType::BF16), "  bf16");
    }
}
