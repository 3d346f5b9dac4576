//! The calls themselves: what they check, and who runs their steps.

use std::time::Instant;

use allhands_tensor::{DType, ReduceOp, SparseError, SparseTensor, Tensor, TensorRef};

use super::agree::Manner;
use super::lanes::SPARSE_MAX;
use super::{Begun, CHANNELS, Call, SparsePending, aligned, keys};
use crate::communicator::{CallOptions, Communicator};
use crate::error::{Error, Invalid};
use crate::operation::Operation;

/// Breaks the group if the thread of a call panics: the others would wait for its next step.
struct Panicking<'a> {
    group: &'a Communicator,
    operation: Operation,
}

impl Drop for Panicking<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.group.abort(format!("the thread of {} panicked", self.operation));
        }
    }
}

impl Communicator {
    /// The sum of all ranks' sparse tensors, coalesced, with the same bits on all ranks. A row that occurs on one rank only is
    /// copied. `spare` gives its memory to the result where it is large enough.
    ///
    /// All ranks tell first what they have, then evaluate the same formula and take the cheapest method. It counts bytes that
    /// the busiest rank receives, those that it reads or writes in memory at 1/4 of one, and 32 KiB for each step in which ranks
    /// wait for each other. With P ranks, N rows in all, U rows of the sum (estimated from samples of each rank's keys), R positions,
    /// v bytes of a row of values and k = 4 or 8 bytes of a key:
    ///
    /// | method | steps | received | memory |
    /// |---|---|---|---|
    /// | gather: all rows to everybody, added as they come | 2 | (P−1)/P N(v+k) | (N+U)v |
    /// | owners: rows to the owner of their range, sums to everybody; not for P = 2 | 4 | (P−1)/P (N/P+U)(v+k) | (N+U)v/P |
    /// | dense: the whole tensor, and a bit for each position | 2 | 2(P−1)/P (Rv + R/8) | (3R+U)v |
    ///
    /// Where all ranks have the same positions, their values alone are reduced. In shared memory bytes between owners count twice, since
    /// blocks of unequal length do not go through boards.
    ///
    /// # Errors
    /// See [`Error`]; reductions other than the sum are refused before anything is sent, ranks whose tensors do not fit together
    /// get an error that names them, and the group goes on in both cases.
    pub fn all_reduce_sparse(
        &self,
        tensor: &SparseTensor,
        op: ReduceOp,
        options: &CallOptions,
        spare: Option<SparseTensor>,
    ) -> Result<SparseTensor, Error> {
        self.run_sparse(tensor, None, op, options, spare)
    }

    /// The same where all ranks know already at which positions any of them may have rows: `indices`, i64,
    /// `[sparse dimensions, positions]`, rising. Nothing but values is reduced; where a rank has no row it counts as zeros, and the
    /// result has a row for each of these positions.
    ///
    /// # Errors
    /// As [`Communicator::all_reduce_sparse`]. Indices that do not rise or lack one of this rank's are refused before anything
    /// is sent; ranks that pass different ones get an error that names them.
    pub fn all_reduce_sparse_at(
        &self,
        tensor: &SparseTensor,
        indices: TensorRef<'_>,
        op: ReduceOp,
        options: &CallOptions,
        spare: Option<SparseTensor>,
    ) -> Result<SparseTensor, Error> {
        self.run_sparse(tensor, Some(indices), op, options, spare)
    }

    /// Starts [`Communicator::all_reduce_sparse`], or with `indices` [`Communicator::all_reduce_sparse_at`]. Rows that are not
    /// coalesced are sorted before this returns; a thread of the call's own does the rest.
    #[must_use]
    pub fn start_all_reduce_sparse(
        &self,
        tensor: SparseTensor,
        indices: Option<TensorRef<'_>>,
        op: ReduceOp,
        options: &CallOptions,
    ) -> SparsePending {
        let operation = operation(indices.as_ref());
        let start = || {
            let begun = self.begin_sparse(&tensor, indices, op, options)?;
            let call = Call::new(self, operation, options, tensor.layout());
            let cards = call.cards(&begun.card(tensor.layout(), Manner::Asynchronous))?;
            let meeting = self.start(&call.meeting(), options, Vec::new(), vec![cards]);
            Ok((begun, meeting, call.begun))
        };
        let (begun, meeting, at) = match start() {
            Ok(started) => started,
            Err(error) => return SparsePending::refused(tensor, error),
        };
        let (group, limits) = (self.another(), options.clone());
        let spawned = SparsePending::spawn(tensor, move |tensor| {
            let _others_hear_of_it = Panicking { group: &group, operation };
            let call = Call::since(at, &group, operation, &limits, tensor.layout());
            let (met, mut buffers) = meeting.wait();
            met.map_err(|error| error.within(at.elapsed(), limits.timeout))?;
            match buffers.outputs.pop() {
                Some(cards) => call.sum(&cards, begun, tensor, None),
                None => Err(call.garbled(call.rank(), "nothing")),
            }
        });
        spawned.unwrap_or_else(|refused| {
            // The others go on with a call whose first step this rank has begun.
            self.abort(format!("rank {} got no thread for {operation}", self.rank().0));
            let (tensor, error) = *refused;
            let reason = Invalid::Thread { reason: error.to_string() };
            SparsePending::refused(tensor, self.invalid(operation, reason))
        })
    }

    fn run_sparse(
        &self,
        tensor: &SparseTensor,
        indices: Option<TensorRef<'_>>,
        op: ReduceOp,
        options: &CallOptions,
        spare: Option<SparseTensor>,
    ) -> Result<SparseTensor, Error> {
        let operation = operation(indices.as_ref());
        let begun = self.begin_sparse(tensor, indices, op, options)?;
        let mut call = Call::new(self, operation, options, tensor.layout());
        let mut cards = call.cards(&begun.card(tensor.layout(), Manner::Blocking))?;
        call.step(&call.meeting(), [], [keys::of(&mut cards)])?;
        call.sum(&cards, begun, tensor, spare)
    }

    /// Everything that can be said of a call before anything is sent.
    pub(super) fn begin_sparse(
        &self,
        tensor: &SparseTensor,
        indices: Option<TensorRef<'_>>,
        op: ReduceOp,
        options: &CallOptions,
    ) -> Result<Begun, Error> {
        let operation = operation(indices.as_ref());
        self.check_sparse(operation, op, options)?;
        let agreed = indices.map(|indices| self.agreed(tensor, indices)).transpose()?;
        let order = tensor.order();
        let stranger = agreed.as_ref().and_then(|agreed| aligned::stranger(order.keys(), agreed));
        if let Some(row) = stranger {
            return Err(self.invalid(operation, Invalid::SparseStranger { key: order.keys()[row] }));
        }
        let deadline = Instant::now().checked_add(options.timeout);
        let place = self.lanes.enter(options.channel, deadline);
        let full = || self.invalid(operation, Invalid::TooManySparse { limit: SPARSE_MAX });
        Ok(Begun { order, agreed, place: place.ok_or_else(full)? })
    }

    fn check_sparse(
        &self,
        operation: Operation,
        op: ReduceOp,
        options: &CallOptions,
    ) -> Result<(), Error> {
        let reason = if op != ReduceOp::Sum {
            Invalid::SparseReduction { op }
        } else if options.algorithm.is_some() {
            Invalid::SparseAlgorithm
        } else if options.channel >= CHANNELS {
            Invalid::ReservedChannel { channel: options.channel }
        } else {
            return Ok(());
        };
        Err(self.invalid(operation, reason))
    }

    /// The keys of indices that all ranks know.
    fn agreed(&self, tensor: &SparseTensor, indices: TensorRef<'_>) -> Result<Vec<u64>, Error> {
        let invalid = |reason| self.invalid(Operation::AllReduceSparseAt, reason);
        let positions = indices.shape().get(1).copied().unwrap_or(0);
        let shape = tensor.layout().sparse_shape();
        let marks = Tensor::try_zeros(DType::U8, &[positions]).map_err(SparseError::from);
        let pattern = marks.and_then(|marks| SparseTensor::new(indices.to_tensor(), marks, shape));
        match pattern {
            Ok(pattern) if pattern.is_coalesced() => Ok(pattern.order().keys().to_vec()),
            Ok(_) => Err(invalid(Invalid::SparseFalling)),
            Err(error) => Err(invalid(Invalid::Sparse(error))),
        }
    }
}

/// Which call it is.
fn operation(indices: Option<&TensorRef<'_>>) -> Operation {
    match indices {
        Some(_) => Operation::AllReduceSparseAt,
        None => Operation::AllReduceSparse,
    }
}
