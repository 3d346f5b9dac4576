//! What can be wrong with a sparse tensor.

use crate::{DType, TensorError};

/// Why a sparse tensor could not be made.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SparseError {
    /// Indices of another type.
    #[error("the indices are {actual}, but have to be i64")]
    IndexType {
        /// Their type.
        actual: DType,
    },
    /// Indices that are not a matrix.
    #[error("the indices have shape {actual:?}, but need [sparse dimensions, rows]")]
    IndexShape {
        /// Their shape.
        actual: Vec<usize>,
    },
    /// No sparse dimension, or more than the tensor has.
    #[error(
        "{sparse_dim} sparse dimensions do not fit the {dimensions} of the tensor; it takes 1 to {dimensions}"
    )]
    SparseDimensions {
        /// What was asked for.
        sparse_dim: usize,
        /// Dimensions of the tensor.
        dimensions: usize,
    },
    /// Values whose shape is not that of rows of the tensor.
    #[error(
        "the values have shape {actual:?}, but {expected:?} is needed: a row for each column of the indices"
    )]
    ValueShape {
        /// Rows, then the dense dimensions.
        expected: Vec<usize>,
        /// Their shape.
        actual: Vec<usize>,
    },
    /// An index is less than zero.
    #[error(
        "index {index} of row {row} in dimension {dimension} is negative; indices count from 0"
    )]
    Negative {
        /// Which row of the values.
        row: usize,
        /// Which sparse dimension.
        dimension: usize,
        /// The index.
        index: i64,
    },
    /// An index is not below its dimension's extent.
    #[error(
        "index {index} of row {row} in dimension {dimension} is beyond the {extent} entries of that dimension"
    )]
    OutOfRange {
        /// Which row of the values.
        row: usize,
        /// Which sparse dimension.
        dimension: usize,
        /// The index.
        index: i64,
        /// Entries of that dimension.
        extent: usize,
    },
    /// More positions than can be numbered.
    #[error(
        "the sparse dimensions {extents:?} have more than {limit} positions; use fewer or smaller ones"
    )]
    TooManyPositions {
        /// The extents of the sparse dimensions.
        extents: Vec<usize>,
        /// The limit, [`POSITIONS_MAX`](super::POSITIONS_MAX).
        limit: u64,
    },
    /// More rows than one tensor may have.
    #[error("{rows} rows are more than {limit}; split the tensor")]
    TooManyRows {
        /// Rows that were given.
        rows: usize,
        /// The limit, [`ROWS_MAX`](super::ROWS_MAX).
        limit: usize,
    },
    /// Keys of a coalesced tensor that do not rise, or lie beyond its positions.
    #[error("key {key} of row {row} does not fit: keys have to rise and to be below {positions}")]
    Keys {
        /// Which row.
        row: usize,
        /// Its key.
        key: u64,
        /// Positions of the tensor.
        positions: u64,
    },
    /// A part is no tensor.
    #[error(transparent)]
    Tensor(#[from] TensorError),
}
