//! What bench-rank needs of a communication library.

use allhands_group::{DType, SparseTensor, Tensor};
use anyhow::Result;

use super::pattern::Value;
use crate::bench::cells::Reduction;

/// One rank's view of a group: the verbs that are measured.
///
/// Lengths are checked by the implementation; `root` and `peer` are ranks of the group.
pub trait Collectives {
    /// This rank.
    fn rank(&self) -> u32;
    /// Number of ranks.
    fn world(&self) -> u32;
    /// Name and version, for records.
    fn what(&self) -> String;
    /// A buffer of zeros.
    ///
    /// # Errors
    /// It does not fit the address space.
    fn alloc(&self, dtype: DType, len: usize) -> Result<Tensor> {
        Ok(Tensor::try_zeros(dtype, &[len])?)
    }

    /// Nobody leaves before everybody came.
    ///
    /// # Errors
    /// The group failed.
    fn barrier(&self) -> Result<()>;
    /// Everybody's `data` becomes the reduction of all.
    ///
    /// # Errors
    /// The group failed.
    fn all_reduce<T: Value>(&self, data: &mut [T], reduction: Reduction) -> Result<()>;
    /// `output` becomes the sum of everybody's `input`, coalesced.
    ///
    /// # Errors
    /// The group failed.
    fn all_reduce_sparse(&self, input: &SparseTensor, output: &mut SparseTensor) -> Result<()>;
    /// Everybody's `data` becomes the root's.
    ///
    /// # Errors
    /// The group failed.
    fn broadcast<T: Value>(&self, data: &mut [T], root: u32) -> Result<()>;
    /// The root's `data` becomes the reduction of all.
    ///
    /// # Errors
    /// The group failed.
    fn reduce<T: Value>(&self, data: &mut [T], reduction: Reduction, root: u32) -> Result<()>;
    /// `output` becomes everybody's `input`, in the order of ranks.
    ///
    /// # Errors
    /// The group failed.
    fn all_gather<T: Value>(&self, input: &[T], output: &mut [T]) -> Result<()>;
    /// The root's `output` becomes everybody's `input`; empty elsewhere.
    ///
    /// # Errors
    /// The group failed.
    fn gather<T: Value>(&self, input: &[T], output: &mut [T], root: u32) -> Result<()>;
    /// `output` becomes this rank's block of the root's `input`; empty elsewhere.
    ///
    /// # Errors
    /// The group failed.
    fn scatter<T: Value>(&self, input: &[T], output: &mut [T], root: u32) -> Result<()>;
    /// `output` becomes this rank's block of the reduction of all `input`s.
    ///
    /// # Errors
    /// The group failed.
    fn reduce_scatter<T: Value>(
        &self,
        input: &[T],
        output: &mut [T],
        reduction: Reduction,
    ) -> Result<()>;
    /// Block r of `output` becomes this rank's block of rank r's `input`.
    ///
    /// # Errors
    /// The group failed.
    fn all_to_all<T: Value>(&self, input: &[T], output: &mut [T]) -> Result<()>;
    /// Sends `data` to `peer`.
    ///
    /// # Errors
    /// The group failed.
    fn send<T: Value>(&self, data: &[T], peer: u32) -> Result<()>;
    /// Receives `data` from `peer`.
    ///
    /// # Errors
    /// The group failed.
    fn recv<T: Value>(&self, data: &mut [T], peer: u32) -> Result<()>;
}
