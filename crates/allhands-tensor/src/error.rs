//! What can go wrong with values.

use crate::{DType, ReduceOp};

/// A reduction that is not defined for a dtype.
#[derive(Clone, Copy, PartialEq, Debug, thiserror::Error)]
#[error("{op} is not defined for {dtype}: {advice}")]
#[non_exhaustive]
pub struct UnsupportedReduction {
    /// The dtype that was asked for.
    pub dtype: DType,
    /// The operation that was asked for.
    pub op: ReduceOp,
    /// What to do instead.
    pub advice: &'static str,
}

/// Why a tensor or a view could not be made or read as asked.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TensorError {
    /// The elements were asked for as another type than they have.
    #[error("the tensor holds {actual}, but was read as {asked}; match on dtype() first")]
    DTypeMismatch {
        /// The type that was asked for.
        asked: DType,
        /// The type that the tensor holds.
        actual: DType,
    },
    /// The elements do not lie in row-major order without gaps.
    #[error(
        "shape {shape:?} with strides {strides:?} is not contiguous; call contiguous() or \
         to_tensor() for a packed copy"
    )]
    NotContiguous {
        /// The shape, in elements.
        shape: Vec<usize>,
        /// The strides, in elements.
        strides: Vec<usize>,
    },
    /// A shape has more dimensions than are supported.
    #[error("{dimensions} dimensions are more than {limit}; merge some of them")]
    TooManyDimensions {
        /// Dimensions of the shape.
        dimensions: usize,
        /// The limit, [`MAX_DIMS`](crate::MAX_DIMS).
        limit: usize,
    },
    /// The bytes of a shape do not fit the address space.
    #[error("shape {shape:?} of {dtype} needs more bytes than the address space has")]
    TooLarge {
        /// The type of the elements.
        dtype: DType,
        /// The shape, in elements.
        shape: Vec<usize>,
    },
    /// The number of bytes given is not the number that the shape needs.
    #[error("shape {shape:?} of {dtype} needs {needed} bytes, but {given} were given")]
    LengthMismatch {
        /// The type of the elements.
        dtype: DType,
        /// The shape, in elements.
        shape: Vec<usize>,
        /// Bytes that the shape (and its strides) need.
        needed: usize,
        /// Bytes that were given.
        given: usize,
    },
    /// Two shapes that must be equal differ.
    #[error("shape {actual:?} does not match shape {expected:?}")]
    ShapeMismatch {
        /// The shape that was needed.
        expected: Vec<usize>,
        /// The shape that was given.
        actual: Vec<usize>,
    },
    /// The address is not a multiple of the element's alignment.
    #[error("memory at {address:#x} is not aligned to the {needed} bytes that {dtype} needs")]
    Misaligned {
        /// The type of the elements.
        dtype: DType,
        /// Where the memory starts.
        address: usize,
        /// The alignment in bytes.
        needed: usize,
    },
    /// As many strides as dimensions are needed.
    #[error("{strides} strides do not fit {dimensions} dimensions; give one stride each")]
    StrideCount {
        /// Strides that were given.
        strides: usize,
        /// Dimensions of the shape.
        dimensions: usize,
    },
    /// Two indices of a writable view lead to the same element.
    #[error(
        "shape {shape:?} with strides {strides:?} reaches one element twice; only read-only views \
         may overlap themselves"
    )]
    Overlapping {
        /// The shape, in elements.
        shape: Vec<usize>,
        /// The strides, in elements.
        strides: Vec<usize>,
    },
    /// A view runs backwards through memory.
    #[error("stride {stride} in dimension {dimension} is negative; make a packed copy first")]
    NegativeStride {
        /// The dimension that runs backwards.
        dimension: usize,
        /// Its stride, in elements.
        stride: isize,
    },
}
