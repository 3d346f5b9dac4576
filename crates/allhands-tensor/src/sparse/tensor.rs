//! The tensor itself.

use std::fmt;

use super::order::{RowOrder, is_rising};
use super::{ROWS_MAX, SparseError, SparseLayout};
use crate::tensor::Layout;
use crate::{DType, Tensor, TensorError, TensorRef};

/// A tensor of which only some rows are stored, each with its coordinates.
///
/// `indices` is `[sparse_dim, rows]`: the coordinates of a row are a column. `values` is `[rows, dense dimensions …]`. Rows may
/// stand in any order, and a position may occur several times.
///
/// ```
/// use allhands_tensor::{SparseTensor, Tensor};
///
/// // Rows 3, 1 and 3 again of a table of 5 rows of 2 elements.
/// let indices = Tensor::from_vec(vec![3_i64, 1, 3]).with_shape(&[1, 3])?;
/// let values = Tensor::from_vec(vec![1.0f32, 2.0, 5.0, 6.0, 10.0, 20.0]).with_shape(&[3, 2])?;
/// let gradient = SparseTensor::new(indices, values, &[5, 2])?;
/// assert!(!gradient.is_coalesced());
///
/// let gradient = gradient.coalesce()?;
/// assert_eq!(gradient.indices().as_slice::<i64>()?, [1, 3]);
/// assert_eq!(gradient.values().as_slice::<f32>()?, [5.0, 6.0, 11.0, 22.0]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct SparseTensor {
    layout: SparseLayout,
    /// i64, contiguous, all within the layout's extents.
    indices: Tensor,
    /// Contiguous.
    values: Tensor,
    /// Keys rise from row to row, so none occurs twice.
    coalesced: bool,
}

impl SparseTensor {
    /// A tensor of `shape` with these rows. How many dimensions are sparse is how many rows `indices` has. Whether the
    /// tensor is coalesced is seen, not asked.
    ///
    /// # Errors
    /// See [`SparseError`]: every index is looked at.
    pub fn new(indices: Tensor, values: Tensor, shape: &[usize]) -> Result<Self, SparseError> {
        if indices.dtype() != DType::I64 {
            return Err(SparseError::IndexType { actual: indices.dtype() });
        }
        let &[sparse_dim, rows] = indices.shape() else {
            return Err(SparseError::IndexShape { actual: indices.shape().to_vec() });
        };
        let layout = SparseLayout::new(values.dtype(), shape, sparse_dim)?;
        if rows > ROWS_MAX {
            return Err(SparseError::TooManyRows { rows, limit: ROWS_MAX });
        }
        let expected = layout.value_shape(rows);
        if values.shape() != expected {
            let actual = values.shape().to_vec();
            return Err(SparseError::ValueShape { expected, actual });
        }
        let (indices, values) = (indices.contiguous(), values.contiguous());
        let columns = indices.as_slice::<i64>()?;
        for (dimension, &extent) in layout.sparse_shape().iter().enumerate() {
            let column = &columns[dimension * rows..][..rows];
            // As an unsigned number, a negative index is beyond every extent, too.
            if let Some(row) = column.iter().position(|&index| index as u64 >= extent as u64) {
                let index = column[row];
                return Err(match index {
                    ..0 => SparseError::Negative { row, dimension, index },
                    _ => SparseError::OutOfRange { row, dimension, index, extent },
                });
            }
        }
        let mut tensor = Self { layout, indices, values, coalesced: false };
        tensor.coalesced = is_rising(&tensor.keys());
        Ok(tensor)
    }

    /// A tensor without rows: all zeros.
    ///
    /// # Errors
    /// As [`SparseLayout::new`].
    pub fn empty(dtype: DType, shape: &[usize], sparse_dim: usize) -> Result<Self, SparseError> {
        Ok(SparseRows::new(SparseLayout::new(dtype, shape, sparse_dim)?, 0, None)?.finish())
    }

    /// What it has in common with tensors it can be added to.
    pub fn layout(&self) -> &SparseLayout {
        &self.layout
    }

    /// The type of the elements.
    pub fn dtype(&self) -> DType {
        self.layout.dtype()
    }

    /// The shape, as if it were dense.
    pub fn shape(&self) -> &[usize] {
        self.layout.shape()
    }

    /// Rows that are stored.
    pub fn rows(&self) -> usize {
        self.indices.shape()[1]
    }

    /// Whether positions rise from row to row, so that none occurs twice.
    pub fn is_coalesced(&self) -> bool {
        self.coalesced
    }

    /// Coordinates: i64, `[sparse dimensions, rows]`, contiguous.
    pub fn indices(&self) -> TensorRef<'_> {
        self.indices.view()
    }

    /// Values: `[rows, dense dimensions …]`, contiguous.
    pub fn values(&self) -> TensorRef<'_> {
        self.values.view()
    }

    /// The values, to be changed in place.
    pub fn values_mut(&mut self) -> crate::TensorMut<'_> {
        self.values.view_mut()
    }

    /// Indices and values.
    pub fn into_parts(self) -> (Tensor, Tensor) {
        (self.indices, self.values)
    }

    /// A copy.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        Self {
            layout: self.layout.clone(),
            indices: self.indices.duplicate(),
            values: self.values.duplicate(),
            coalesced: self.coalesced,
        }
    }

    /// The key of each row, in the order in which they stand.
    pub(super) fn keys(&self) -> Vec<u64> {
        let rows = self.rows();
        let columns = self.index_slice();
        let mut keys: Vec<u64> = columns[..rows].iter().map(|&index| index as u64).collect();
        for (dimension, &extent) in self.layout.sparse_shape().iter().enumerate().skip(1) {
            for (key, &index) in keys.iter_mut().zip(&columns[dimension * rows..][..rows]) {
                *key = *key * extent as u64 + index as u64;
            }
        }
        keys
    }

    fn index_slice(&self) -> &[i64] {
        match self.indices.as_slice() {
            Ok(columns) => columns,
            Err(_) => unreachable!("the indices were seen to be contiguous i64"),
        }
    }

    pub(super) fn value_bytes(&self) -> &[u8] {
        match self.values.as_bytes() {
            Ok(bytes) => bytes,
            Err(_) => unreachable!("the values were made contiguous"),
        }
    }

    /// The order in which [`SparseTensor::coalesce`] stores the rows.
    pub fn order(&self) -> RowOrder {
        RowOrder::of(self)
    }

    /// The same tensor with each position once, in rising order. Costs nothing if it is that already.
    ///
    /// # Errors
    /// None but those of memory that cannot be had.
    pub fn coalesce(self) -> Result<Self, SparseError> {
        if self.coalesced {
            return Ok(self);
        }
        let order = self.order();
        let mut sum = SparseRows::new(self.layout.clone(), order.keys().len(), None)?;
        sum.set_keys(order.keys().iter().copied())?;
        order.pack(&self, 0..order.keys().len(), sum.values_mut());
        Ok(sum.finish())
    }

    /// The dense tensor, with zeros where no row is stored.
    ///
    /// # Errors
    /// If it does not fit the address space.
    pub fn to_dense(&self) -> Result<Tensor, TensorError> {
        let mut dense = Tensor::try_zeros(self.dtype(), self.shape())?;
        let row_bytes = self.layout.row_bytes();
        let order = self.order();
        let bytes = dense.as_bytes_mut()?;
        for (at, &key) in order.keys().iter().enumerate() {
            order.pack(self, at..at + 1, &mut bytes[key as usize * row_bytes..][..row_bytes]);
        }
        Ok(dense)
    }
}

impl fmt::Debug for SparseTensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SparseTensor")
            .field("dtype", &self.dtype())
            .field("shape", &self.shape())
            .field("sparse_dim", &self.layout.sparse_dim())
            .field("rows", &self.rows())
            .field("coalesced", &self.coalesced)
            .finish_non_exhaustive()
    }
}

/// A coalesced tensor that is being written: its keys, and the bytes of its rows.
///
/// ```
/// use allhands_tensor::{DType, SparseLayout, SparseRows};
///
/// let mut rows = SparseRows::new(SparseLayout::new(DType::U8, &[2, 3, 2], 2)?, 2, None)?;
/// rows.set_keys([1, 5])?;
/// rows.values_mut().copy_from_slice(&[10, 11, 20, 21]);
/// let tensor = rows.finish();
/// // Keys 1 and 5 of 2 × 3 positions.
/// assert_eq!(tensor.indices().as_slice::<i64>()?, [0, 1, 1, 2]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct SparseRows {
    layout: SparseLayout,
    indices: Tensor,
    values: Tensor,
    /// The keys are there.
    keyed: bool,
}

impl SparseRows {
    /// Room for `rows` rows: that of `spare` where it suffices.
    ///
    /// # Errors
    /// More than [`ROWS_MAX`] rows, or more bytes than the address space has.
    pub fn new(
        layout: SparseLayout,
        rows: usize,
        spare: Option<SparseTensor>,
    ) -> Result<Self, SparseError> {
        if rows > ROWS_MAX {
            return Err(SparseError::TooManyRows { rows, limit: ROWS_MAX });
        }
        let of_indices = Layout::contiguous(DType::I64, &[layout.sparse_dim(), rows])?;
        let of_values = Layout::contiguous(layout.dtype(), &layout.value_shape(rows))?;
        let (indices, values) = spare.map(SparseTensor::into_parts).unzip();
        let indices = Tensor::recycled(of_indices, indices);
        let values = Tensor::recycled(of_values, values);
        Ok(Self { layout, indices, values, keyed: rows == 0 })
    }

    /// Sets the position of each row.
    ///
    /// # Errors
    /// Keys that do not rise, that lie beyond the positions, or that are not as many as the rows.
    pub fn set_keys(&mut self, keys: impl IntoIterator<Item = u64>) -> Result<(), SparseError> {
        let rows = self.indices.shape()[1];
        let positions = self.layout.positions();
        let columns = self.indices.as_mut_slice::<i64>()?;
        let (first, rest) = columns.split_at_mut(rows);
        let mut least = 0;
        let mut row = 0;
        for key in keys {
            if key < least || key >= positions || row == rows {
                return Err(SparseError::Keys { row, key, positions });
            }
            // In one dimension a key is the index itself; in more it is taken apart below.
            first[row] = key as i64;
            least = key + 1;
            row += 1;
        }
        if row < rows {
            return Err(SparseError::Keys { row, key: positions, positions });
        }
        for (dimension, &extent) in self.layout.sparse_shape().iter().enumerate().skip(1).rev() {
            let column = &mut rest[(dimension - 1) * rows..][..rows];
            for (key, index) in first.iter_mut().zip(column) {
                *index = *key % extent as i64;
                *key /= extent as i64;
            }
        }
        self.keyed = true;
        Ok(())
    }

    /// The bytes of all rows, to be written.
    pub fn values_mut(&mut self) -> &mut [u8] {
        match self.values.as_bytes_mut() {
            Ok(bytes) => bytes,
            Err(_) => unreachable!("the values were made contiguous"),
        }
    }

    /// The tensor.
    ///
    /// # Panics
    /// If the keys were not set.
    #[must_use]
    pub fn finish(self) -> SparseTensor {
        assert!(self.keyed, "a row without a key");
        let Self { layout, indices, values, .. } = self;
        SparseTensor { layout, indices, values, coalesced: true }
    }
}
