//! Sums of sparse tensors.

use std::time::Duration;

use allhands_collectives::{Error as OperationError, Operation, SparsePending};
use allhands_tensor::{ReduceOp, SparseTensor, TensorRef};

use crate::error::Error;
use crate::group::ProcessGroup;
use crate::work::{Composed, Work};

impl Composed<SparseTensor> for SparsePending {
    fn is_completed(&self) -> bool {
        Self::is_completed(self)
    }

    fn wait(self: Box<Self>) -> (Result<(), OperationError>, SparseTensor) {
        Self::wait(*self)
    }

    fn wait_timeout(&self, patience: Duration) -> bool {
        Self::wait_timeout(self, patience)
    }

    fn error(&self) -> Option<OperationError> {
        Self::error(self)
    }
}

impl ProcessGroup {
    /// Every rank gets the sum of all ranks' sparse tensors, coalesced, with the same bits everywhere.
    ///
    /// Ranks may have different rows and different numbers of them, none included; a position may occur several times. What
    /// occurs several times on one rank is added first, in the order in which it stands, then the ranks are added in their order.
    /// A row that one rank alone has is copied. Tensors that are coalesced already are not sorted again.
    ///
    /// It takes several operations, so several consecutive sequence numbers; the timeout is that of all together. Which
    /// algorithm runs follows from what all ranks have: all rows to everybody, sums by owners of ranges, or a dense reduction where
    /// most positions occur. The formula is that of
    /// [`allhands_collectives`](https://docs.rs/allhands-collectives)' `Communicator::all_reduce_sparse`.
    ///
    /// # Errors
    /// See [`Error`]. Reductions other than the sum are refused before anything is sent. If element type, shape or the number of
    /// sparse dimensions differ between ranks, all of them get an error that names the ranks and what they have. The group goes on in
    /// both cases.
    ///
    /// ```
    /// use allhands_group::{ProcessGroup, ReduceOp, SparseTensor, Tensor};
    ///
    /// let groups = ProcessGroup::local(2)?;
    /// std::thread::scope(|scope| {
    ///     for group in &groups {
    ///         scope.spawn(move || {
    ///             // Rank r has rows r and 7 of a table of 10 rows of 2 elements.
    ///             let rank = i64::from(group.rank().0);
    ///             let indices = Tensor::from_vec(vec![rank, 7]).with_shape(&[1, 2]).unwrap();
    ///             let values = Tensor::from_slice(&[1.0f32, 2.0, 3.0, 4.0]).with_shape(&[2, 2]).unwrap();
    ///             let gradient = SparseTensor::new(indices, values, &[10, 2]).unwrap();
    ///
    ///             let sum = group.all_reduce_sparse(&gradient, ReduceOp::Sum).unwrap();
    ///             assert_eq!(sum.indices().as_slice::<i64>().unwrap(), [0, 1, 7]);
    ///             assert_eq!(sum.values().as_slice::<f32>().unwrap(), [1.0, 2.0, 1.0, 2.0, 6.0, 8.0]);
    ///         });
    ///     }
    /// });
    /// # Ok::<(), allhands_group::Error>(())
    /// ```
    pub fn all_reduce_sparse(
        &self,
        tensor: &SparseTensor,
        op: ReduceOp,
    ) -> Result<SparseTensor, Error> {
        let communicator = &self.inner.communicator;
        Ok(communicator.all_reduce_sparse(tensor, op, &self.options, None)?)
    }

    /// As [`ProcessGroup::all_reduce_sparse`], with the sum in `output`, whose memory is used again where it is large enough.
    /// What `output` was before does not matter. A sum in memory that was used before saves the page faults of fresh memory, which cost
    /// as much as everything else where the result is large.
    ///
    /// # Errors
    /// As [`ProcessGroup::all_reduce_sparse`]; `output` is an empty tensor then.
    pub fn all_reduce_sparse_into(
        &self,
        tensor: &SparseTensor,
        output: &mut SparseTensor,
        op: ReduceOp,
    ) -> Result<(), Error> {
        let nothing = SparseTensor::empty(tensor.dtype(), &[0], 1)
            .map_err(|error| self.refuse(Operation::AllReduceSparse, error.into()))?;
        let spare = std::mem::replace(output, nothing);
        let communicator = &self.inner.communicator;
        *output = communicator.all_reduce_sparse(tensor, op, &self.options, Some(spare))?;
        Ok(())
    }

    /// As [`ProcessGroup::all_reduce_sparse`] where all ranks know already at which positions any of them can have rows: only
    /// values are reduced. `indices` are these positions, the same on all ranks: i64, `[sparse dimensions, positions]`, rising from column to
    /// column. The result has a row for each of them; where a rank has none, it counts as zeros.
    ///
    /// # Errors
    /// As [`ProcessGroup::all_reduce_sparse`]. Indices that do not rise, or that lack one of `tensor`'s, are refused before
    /// anything is sent; ranks that pass different ones get an error that names them.
    ///
    /// ```
    /// use allhands_group::{ProcessGroup, ReduceOp, SparseTensor, Tensor, TensorRef};
    ///
    /// let group = ProcessGroup::local(1)?.remove(0);
    /// let indices = Tensor::from_vec(vec![4_i64]).with_shape(&[1, 1]).unwrap();
    /// let gradient = SparseTensor::new(indices, Tensor::from_slice(&[1.5f32]), &[10]).unwrap();
    /// let known = TensorRef::shaped(&[2_i64, 4, 8], &[1, 3]).unwrap();
    /// let sum = group.all_reduce_sparse_at(&gradient, known, ReduceOp::Sum)?;
    /// assert_eq!(sum.values().as_slice::<f32>().unwrap(), [0.0, 1.5, 0.0]);
    /// # Ok::<(), allhands_group::Error>(())
    /// ```
    pub fn all_reduce_sparse_at<'a>(
        &self,
        tensor: &SparseTensor,
        indices: impl Into<TensorRef<'a>>,
        op: ReduceOp,
    ) -> Result<SparseTensor, Error> {
        let communicator = &self.inner.communicator;
        let options = &self.options;
        Ok(communicator.all_reduce_sparse_at(tensor, indices.into(), op, options, None)?)
    }

    /// As [`ProcessGroup::all_reduce_sparse`], on a tensor that is handed over; `wait` gives the sum, or the tensor inside the
    /// error.
    ///
    /// What is not coalesced is sorted before this returns. The rest is done by a thread of the call's own, which costs tens of
    /// microseconds more than the blocking verb; several calls on one channel follow each other.
    ///
    /// ```
    /// use allhands_group::{DType, ProcessGroup, ReduceOp, SparseTensor};
    ///
    /// let group = ProcessGroup::local(1)?.remove(0);
    /// let gradient = SparseTensor::empty(DType::F32, &[10, 2], 1).unwrap();
    /// let work = group.all_reduce_sparse_async(gradient, ReduceOp::Sum);
    /// // … compute something else …
    /// assert_eq!(work.wait()?.rows(), 0);
    /// # Ok::<(), allhands_group::Error>(())
    /// ```
    pub fn all_reduce_sparse_async(
        &self,
        tensor: SparseTensor,
        op: ReduceOp,
    ) -> Work<SparseTensor> {
        let communicator = &self.inner.communicator;
        let pending = communicator.start_all_reduce_sparse(tensor, None, op, &self.options);
        Work::composed(Box::new(pending), Operation::AllReduceSparse)
    }

    /// As [`ProcessGroup::all_reduce_sparse_at`], on a tensor that is handed over, like
    /// [`ProcessGroup::all_reduce_sparse_async`]. The indices are not needed any more when this returns.
    pub fn all_reduce_sparse_at_async<'a>(
        &self,
        tensor: SparseTensor,
        indices: impl Into<TensorRef<'a>>,
        op: ReduceOp,
    ) -> Work<SparseTensor> {
        let (communicator, indices) = (&self.inner.communicator, Some(indices.into()));
        let pending = communicator.start_all_reduce_sparse(tensor, indices, op, &self.options);
        Work::composed(Box::new(pending), Operation::AllReduceSparseAt)
    }
}
