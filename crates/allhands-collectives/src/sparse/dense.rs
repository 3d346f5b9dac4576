//! So many positions occur that the whole tensor is reduced.

use allhands_tensor::sparse::fill_neutral;
use allhands_tensor::{DType, ReduceOp, RowOrder, SparseRows, SparseTensor, Tensor};

use super::{Call, Step, keys};
use crate::error::Error;

impl Call<'_> {
    pub(super) fn dense(
        &mut self,
        tensor: &SparseTensor,
        order: &RowOrder,
        spare: Option<SparseTensor>,
    ) -> Result<SparseTensor, Error> {
        let (dtype, row) = (self.layout.dtype(), self.layout.row_bytes());
        let positions = self.layout.positions() as usize;
        let mut occurs = self.memory(keys::bytes(positions.div_ceil(8)))?;
        let occurs = keys::of(&mut occurs);
        for &key in order.keys() {
            occurs[key as usize / 8] |= 1 << (key % 8);
        }
        self.all_reduce(Step::Positions, occurs, DType::U8, ReduceOp::BitOr)?;
        let count = occurs.iter().map(|byte| byte.count_ones() as usize).sum();
        let mut sum = self.sparse(SparseRows::new(self.layout.clone(), count, spare))?;
        let present = |key: &usize| occurs[key / 8] >> (key % 8) & 1 == 1;
        self.sparse(sum.set_keys((0..positions).filter(present).map(|key| key as u64)))?;
        if row == 0 {
            return Ok(sum.finish());
        }
        let elements = positions * self.layout.row_len();
        let mut table = self.memory(Tensor::try_zeros(dtype, &[elements]))?;
        let table = keys::of(&mut table);
        fill_neutral(dtype, table);
        for (at, &key) in order.keys().iter().enumerate() {
            order.pack(tensor, at..at + 1, &mut table[key as usize * row..][..row]);
        }
        self.all_reduce(Step::Sums, table, dtype, ReduceOp::Sum)?;
        let rows = (0..positions).filter(present).map(|key| &table[key * row..][..row]);
        sum.values_mut()
            .chunks_exact_mut(row)
            .zip(rows)
            .for_each(|(to, row)| to.copy_from_slice(row));
        Ok(sum.finish())
    }
}
