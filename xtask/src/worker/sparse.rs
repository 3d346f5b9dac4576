//! Sparse cells: random rows of a large table, and their naive sum.

use std::collections::BTreeMap;
use std::marker::PhantomData;

use allhands_group::{SparseTensor, Tensor};
use anyhow::Result;

use super::collectives::Collectives;
use super::measure::Passes;
use super::pattern::{self, Place, Value};
use crate::bench::cells::{TABLE_COLUMNS, TABLE_ROWS};

/// The tensors of a cell, and where their sums go. The memory of a sum is used again by the next one.
pub struct Rows<T> {
    place: Place,
    tensors: Vec<(SparseTensor, SparseTensor)>,
    element: PhantomData<T>,
}

impl<T: Value + 'static> Rows<T> {
    /// Tensors of about so many elements each, in whole rows.
    pub(super) fn boxed<C: Collectives>(
        place: Place,
        counts: &[u64],
    ) -> Result<Box<dyn Passes<C>>> {
        let tensors = counts
            .iter()
            .map(|count| {
                let rows = count.div_ceil(TABLE_COLUMNS);
                let positions: Vec<i64> = (0..rows)
                    .map(|k| position(place.rank, k))
                    .map(|position| position as i64)
                    .collect();
                let values: Vec<T> = (0..rows * TABLE_COLUMNS)
                    .map(|i| T::of(pattern::value(place.rank, i)))
                    .collect();
                let shape = [TABLE_ROWS as usize, TABLE_COLUMNS as usize];
                let indices = Tensor::from_vec(positions).with_shape(&[1, rows as usize])?;
                let values = Tensor::from_vec(values).with_shape(&[rows as usize, shape[1]])?;
                let tensor = SparseTensor::new(indices, values, &shape)?;
                Ok((tensor, SparseTensor::empty(T::DTYPE, &shape, 1)?))
            })
            .collect::<Result<_>>()?;
        Ok(Box::new(Self { place, tensors, element: PhantomData }))
    }

    /// Elements of `sum` that are not those of the rows of all ranks, added one after the other.
    fn wrong(&self, rows: u64, sum: &SparseTensor) -> Result<u64> {
        let columns = TABLE_COLUMNS as usize;
        let mut expected: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for rank in 0..self.place.world {
            for k in 0..rows {
                let row = expected.entry(position(rank, k)).or_insert_with(|| vec![0; columns]);
                let values = k * TABLE_COLUMNS..;
                row.iter_mut().zip(values).for_each(|(sum, i)| *sum += pattern::value(rank, i));
            }
        }
        let found = sum.indices().to_vec::<i64>()?;
        let values = sum.values().to_vec::<T>()?;
        let mut found = found.iter().zip(values.chunks_exact(columns));
        let mut wrong = 0;
        for (position, row) in &expected {
            wrong += match found.next() {
                Some((&at, values)) if at == *position as i64 => {
                    row.iter().zip(values).filter(|(sum, value)| T::of(**sum) != **value).count()
                        as u64
                }
                _ => TABLE_COLUMNS,
            };
        }
        Ok(wrong + found.count() as u64 * TABLE_COLUMNS)
    }
}

fn position(rank: u32, k: u64) -> u64 {
    pattern::position(rank, k, TABLE_ROWS)
}

impl<T: Value + 'static, C: Collectives> Passes<C> for Rows<T> {
    fn pass(&mut self, group: &C) -> Result<()> {
        for (tensor, sum) in &mut self.tensors {
            group.all_reduce_sparse(tensor, sum)?;
        }
        Ok(())
    }

    fn verify(&mut self, group: &C) -> Result<u64> {
        let nothing = [TABLE_ROWS as usize, TABLE_COLUMNS as usize];
        for (_, sum) in &mut self.tensors {
            *sum = SparseTensor::empty(T::DTYPE, &nothing, 1)?;
        }
        self.pass(group)?;
        let mut wrong = 0;
        for (tensor, sum) in &self.tensors {
            wrong += self.wrong(tensor.rows() as u64, sum)?;
        }
        Ok(wrong)
    }
}
