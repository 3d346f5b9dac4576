//! Sparse tensors in coordinate form, and how they are added.
//!
//! A [`SparseTensor`] stores some rows of a tensor of which most are zero: `indices` has a column of coordinates for each,
//! `values` the row itself. The same position may occur several times, and counts as the sum of its rows then;
//! [`SparseTensor::coalesce`] sorts the rows and adds what belongs together.
//!
//! # What is promised
//! * **One order.** Duplicates are added in the order in which they stand, and rows of several tensors in the order of the
//!   tensors: each time in the kernels' balanced tree, from which those that have no such row are left out.
//! * **One rounding.** A sum is one call of the [kernel](crate::Kernel), so f16 and bf16 are rounded once.
//! * A row that occurs once is copied, bit by bit.

mod error;
mod layout;
mod merge;
mod order;
mod tensor;

pub use error::SparseError;
pub use layout::SparseLayout;
pub use merge::{Merge, RowAdder, fill_neutral};
pub use order::RowOrder;
pub use tensor::{SparseRows, SparseTensor};

/// Positions of a tensor at most: what an index can count.
pub const POSITIONS_MAX: u64 = i64::MAX as u64;

/// Rows of a tensor at most, so that a row's number has 32 bits.
pub const ROWS_MAX: usize = u32::MAX as usize;
