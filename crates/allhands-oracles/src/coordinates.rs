//! Sparse tensors as the harness hands them over.

use allhands_tensor::DType;

use crate::{Comparison, Mismatch, Tolerance};

/// A sparse tensor: coordinates and rows of bytes, in any order, with a position as often as it likes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Coordinates {
    /// The shape, as if it were dense.
    pub shape: Vec<usize>,
    /// How many of the first dimensions are sparse.
    pub sparse_dim: usize,
    /// The first coordinate of each row, then the second, and so on.
    pub indices: Vec<i64>,
    /// The rows, one after the other.
    pub values: Vec<u8>,
}

impl Coordinates {
    /// A tensor of these parts.
    #[must_use]
    pub const fn new(
        shape: Vec<usize>,
        sparse_dim: usize,
        indices: Vec<i64>,
        values: Vec<u8>,
    ) -> Self {
        Self { shape, sparse_dim, indices, values }
    }

    /// Rows that are stored.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.indices.len().checked_div(self.sparse_dim).unwrap_or(0)
    }

    /// Coordinates and bytes of each row.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (Vec<i64>, &[u8])> {
        let rows = self.rows();
        let bytes = self.values.len().checked_div(rows).unwrap_or(0);
        (0..rows).map(move |row| {
            let coordinates = (0..self.sparse_dim).map(|d| self.indices[d * rows + row]).collect();
            (coordinates, &self.values[row * bytes..][..bytes])
        })
    }

    /// All of it as bytes, to be compared between ranks.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let indices = self.indices.iter().flat_map(|index| index.to_le_bytes());
        indices.chain(self.values.iter().copied()).collect()
    }

    /// Whether a sum is this one: the same positions in the same order, and values that are near enough.
    pub(crate) fn check(
        &self,
        sum: &Self,
        dtype: DType,
        tolerance: Tolerance,
    ) -> Result<(), String> {
        if (&self.shape, self.sparse_dim) != (&sum.shape, sum.sparse_dim) {
            return Err(format!("expected shape {:?}, found {:?}", self.shape, sum.shape));
        }
        if self.indices != sum.indices {
            return Err(format!("expected indices {:?}, found {:?}", self.indices, sum.indices));
        }
        let compared = Comparison::new(dtype, tolerance).check(&self.values, &sum.values);
        compared.map_err(|mismatch: Mismatch| mismatch.to_string())
    }
}
