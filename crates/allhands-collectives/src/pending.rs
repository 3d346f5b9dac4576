//! An operation in flight, and how to get its outcome and its buffers.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use allhands_engine::{Finished, Refusal, Space, Storage};
use allhands_tensor::Tensor;

use crate::cell::{Cell, Outcome};
use crate::error::{Error, Invalid, Who};
use crate::mesh::Mesh;
use crate::operation::Operation;

/// What an operation was given, back in the caller's hands: inputs and outputs in the order of the call.
#[derive(Debug, Default)]
pub struct Buffers {
    /// What was contributed.
    pub inputs: Vec<Tensor>,
    /// What holds the result, if there is one.
    pub outputs: Vec<Tensor>,
}

fn tensors(space: Space) -> Vec<Tensor> {
    space
        .into_pieces()
        .into_iter()
        .filter_map(|piece| match piece {
            Storage::Tensor(tensor) => Some(tensor),
            _ => None,
        })
        .collect()
}

/// An asynchronous operation. It goes on whether or not anybody waits for it.
///
/// Dropping it before it has ended is safe: the buffers live until no thread and no frame uses them.
#[derive(Debug)]
pub struct Pending {
    pub(crate) mesh: Arc<Mesh>,
    pub(crate) who: Arc<Who>,
    pub(crate) cell: Arc<Cell>,
    pub(crate) operation: Operation,
    pub(crate) limit: Duration,
    /// The caller's input, where the operation ran on a copy.
    pub(crate) kept: Option<Space>,
}

impl Pending {
    /// Whether the operation has ended, well or not.
    #[must_use]
    pub fn is_completed(&self) -> bool {
        self.cell.is_done()
    }

    /// Waits for the end, moving bytes on this thread. Gives the buffers back in either case.
    ///
    /// # Errors
    /// As the operation: see [`Error`].
    pub fn wait(mut self) -> (Result<(), Error>, Buffers) {
        self.mesh.shared().wait(&self.cell, None);
        self.take()
    }

    /// Waits for the end at most `patience`; says whether it has come. Nothing happens to the operation
    /// if it has not.
    pub fn wait_timeout(&self, patience: Duration) -> bool {
        self.mesh.shared().wait(&self.cell, Instant::now().checked_add(patience));
        self.cell.is_done()
    }

    /// Number of the operation on its channel, once it has ended.
    #[must_use]
    pub fn sequence(&self) -> Option<u64> {
        self.cell.look(|outcome| match outcome {
            Outcome::Finished(finished) => Some(finished.seq),
            Outcome::Refused(_) | Outcome::Invalid(..) => None,
        })?
    }

    fn take(&mut self) -> (Result<(), Error>, Buffers) {
        match self.cell.take() {
            Some(outcome) => {
                let (result, input, data) = judge(outcome, &self.who, self.operation, self.limit);
                let input = self.kept.take().unwrap_or(input);
                (result, Buffers { inputs: tensors(input), outputs: tensors(data) })
            }
            // Only a future polled after it was ready comes here.
            None => (Ok(()), Buffers::default()),
        }
    }
}

impl Future for Pending {
    type Output = (Result<(), Error>, Buffers);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if !self.cell.is_done() {
            self.cell.wake_later(context.waker());
            // It may have ended in between, before the waker was there to be used.
            if !self.cell.is_done() {
                return Poll::Pending;
            }
        }
        Poll::Ready(self.take())
    }
}

/// Turns an outcome into a result and the buffers.
pub(crate) fn judge(
    outcome: Outcome,
    who: &Who,
    operation: Operation,
    limit: Duration,
) -> (Result<(), Error>, Space, Space) {
    match outcome {
        Outcome::Finished(Finished { result, input, data, .. }) => {
            (result.map_err(|failure| who.failed(&failure, limit)), input, data)
        }
        Outcome::Invalid(error, input, data) => (Err(error), input, data),
        Outcome::Refused(refused) => {
            let error = match refused.reason {
                Refusal::Failed(report) => who.refused(operation, &report, limit),
                Refusal::Left { rank } => {
                    who.gone(operation, rank, limit, "it had left the group before this call")
                }
                Refusal::Lost { rank } => {
                    who.gone(operation, rank, limit, "its connection was lost before this call")
                }
                reason => who.invalid(operation, Invalid::Refused(reason)),
            };
            (Err(error), refused.input, refused.data)
        }
    }
}
