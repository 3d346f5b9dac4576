//! All ranks know the same positions: only values travel.

use allhands_tensor::{ReduceOp, RowOrder, SparseRows, SparseTensor};

use super::{Call, Step};
use crate::error::Error;

/// The first row whose key is not among the agreed ones. Both rise.
pub(super) fn stranger(keys: &[u64], agreed: &[u64]) -> Option<usize> {
    let mut rest = agreed;
    keys.iter().position(|key| {
        let at = rest.partition_point(|known| known < key);
        rest = &rest[at..];
        rest.first() != Some(key)
    })
}

impl Call<'_> {
    /// Ranks that have the same keys.
    pub(super) fn aligned(
        &mut self,
        tensor: &SparseTensor,
        order: &RowOrder,
        spare: Option<SparseTensor>,
    ) -> Result<SparseTensor, Error> {
        let keys = order.keys();
        let mut sum = self.sparse(SparseRows::new(self.layout.clone(), keys.len(), spare))?;
        self.sparse(sum.set_keys(keys.iter().copied()))?;
        order.pack(tensor, 0..keys.len(), sum.values_mut());
        self.all_reduce(Step::Rows, sum.values_mut(), self.layout.dtype(), ReduceOp::Sum)?;
        Ok(sum.finish())
    }

    /// Ranks that have agreed on keys, of which each has some.
    pub(super) fn sum_at(
        &mut self,
        tensor: &SparseTensor,
        order: &RowOrder,
        agreed: &[u64],
        spare: Option<SparseTensor>,
    ) -> Result<SparseTensor, Error> {
        let row = self.layout.row_bytes();
        let mut sum = self.sparse(SparseRows::new(self.layout.clone(), agreed.len(), spare))?;
        self.sparse(sum.set_keys(agreed.iter().copied()))?;
        let values = sum.values_mut();
        // What was in spare memory.
        values.fill(0);
        let mut from = 0;
        for (at, key) in order.keys().iter().enumerate() {
            from += agreed[from..].partition_point(|known| known < key);
            order.pack(tensor, at..at + 1, &mut values[from * row..][..row]);
        }
        self.all_reduce(Step::Rows, values, self.layout.dtype(), ReduceOp::Sum)?;
        Ok(sum.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_are_found() {
        assert_eq!(stranger(&[], &[]), None);
        assert_eq!(stranger(&[1, 5], &[0, 1, 4, 5]), None);
        assert_eq!(stranger(&[1, 3], &[0, 1, 4, 5]), Some(1));
        assert_eq!(stranger(&[6], &[0, 1]), Some(0));
    }
}
