//! What sparse tensors that are added have in common.

use super::{POSITIONS_MAX, SparseError};
use crate::{DType, MAX_DIMS, TensorError};

/// Element type, shape, and which of the dimensions are sparse: the first ones.
///
/// A *position* is a choice of all sparse coordinates, and its *key* is its number in row-major order. Each stored position
/// has a *row* of values: all elements of the dense dimensions.
///
/// ```
/// use allhands_tensor::{DType, SparseLayout};
///
/// let table = SparseLayout::new(DType::F32, &[1000, 64], 1)?;
/// assert_eq!((table.positions(), table.row_len(), table.row_bytes()), (1000, 64, 256));
/// assert_eq!(table.dense_shape(), [64]);
/// # Ok::<(), allhands_tensor::SparseError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SparseLayout {
    dtype: DType,
    shape: Vec<usize>,
    sparse_dim: usize,
    positions: u64,
    row_len: usize,
}

impl SparseLayout {
    /// A tensor of this shape whose first `sparse_dim` dimensions are sparse.
    ///
    /// # Errors
    /// No sparse dimension or more than there are, more than [`MAX_DIMS`] dimensions, more than [`POSITIONS_MAX`] positions,
    /// or a row that does not fit the address space.
    pub fn new(dtype: DType, shape: &[usize], sparse_dim: usize) -> Result<Self, SparseError> {
        let dimensions = shape.len();
        if dimensions > MAX_DIMS {
            return Err(TensorError::TooManyDimensions { dimensions, limit: MAX_DIMS }.into());
        }
        if sparse_dim == 0 || sparse_dim > dimensions {
            return Err(SparseError::SparseDimensions { sparse_dim, dimensions });
        }
        let (sparse, dense) = shape.split_at(sparse_dim);
        let product = sparse.iter().try_fold(1_u64, |n, &extent| n.checked_mul(extent as u64));
        let empty = sparse.contains(&0);
        let positions = match product {
            _ if empty => 0,
            Some(positions) if positions <= POSITIONS_MAX => positions,
            _ => {
                let (extents, limit) = (sparse.to_vec(), POSITIONS_MAX);
                return Err(SparseError::TooManyPositions { extents, limit });
            }
        };
        let row_len = dtype.byte_len(dense)? / dtype.size();
        Ok(Self { dtype, shape: shape.to_vec(), sparse_dim, positions, row_len })
    }

    /// The type of the elements.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The shape, as if the tensor were dense.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// How many dimensions are sparse.
    pub fn sparse_dim(&self) -> usize {
        self.sparse_dim
    }

    /// Extents of the sparse dimensions.
    pub fn sparse_shape(&self) -> &[usize] {
        &self.shape[..self.sparse_dim]
    }

    /// Extents of the dense dimensions.
    pub fn dense_shape(&self) -> &[usize] {
        &self.shape[self.sparse_dim..]
    }

    /// Positions that could be stored: keys are below.
    pub fn positions(&self) -> u64 {
        self.positions
    }

    /// Elements of a row.
    pub fn row_len(&self) -> usize {
        self.row_len
    }

    /// Bytes of a row.
    pub fn row_bytes(&self) -> usize {
        self.row_len * self.dtype.size()
    }

    /// The shape of the values of `rows` rows.
    pub(super) fn value_shape(&self, rows: usize) -> Vec<usize> {
        let mut shape = vec![rows];
        shape.extend_from_slice(self.dense_shape());
        shape
    }
}
