//! An operation in flight, and how to get its outcome and its buffers.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use allhands_engine::{Finished, Refusal, Space, Storage};
use allhands_plan::Rank;
use allhands_tensor::Tensor;
use tracing::Span;

use crate::cell::{Cell, Outcome};
use crate::error::{Error, Invalid, Who};
use crate::mesh::Mesh;
use crate::operation::Operation;
use crate::span;

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
    /// Open until this is dropped.
    pub(crate) span: Span,
    pub(crate) mesh: Arc<Mesh>,
    pub(crate) who: Arc<Who>,
    pub(crate) cell: Arc<Cell>,
    pub(crate) operation: Operation,
    pub(crate) limit: Duration,
    /// Who sends, if this is a receive.
    pub(crate) source: Option<Rank>,
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

    /// Number of the operation on its channel; of a message, among those to or from its peer. `None` before the engine has
    /// taken the call, and for one that it refuses.
    #[must_use]
    pub fn sequence(&self) -> Option<u64> {
        self.cell.sequence()
    }

    /// How long the operation took, once it has ended.
    #[must_use]
    pub fn duration(&self) -> Option<Duration> {
        self.cell.look(Outcome::took)?
    }

    /// Why the operation failed, if it has ended and did.
    #[must_use]
    pub fn error(&self) -> Option<Error> {
        self.cell.look(|outcome| error(outcome, &self.who, self.operation, self.limit))?
    }

    /// Whose message this waits for, if it is a receive.
    #[must_use]
    pub fn source(&self) -> Option<Rank> {
        self.source
    }

    fn take(&mut self) -> (Result<(), Error>, Buffers) {
        match self.cell.take() {
            Some(outcome) => {
                let took = outcome.took();
                let (result, input, data) = judge(outcome, &self.who, self.operation, self.limit);
                span::ended(&self.span, self.cell.sequence(), took, &result);
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
    let result = error(&outcome, who, operation, limit).map_or(Ok(()), Err);
    match outcome {
        Outcome::Finished(Finished { input, data, .. }, _) | Outcome::Invalid(_, input, data) => {
            (result, input, data)
        }
        Outcome::Refused(refused) => (result, refused.input, refused.data),
    }
}

/// Why an operation did not end well, if it did not.
fn error(outcome: &Outcome, who: &Who, operation: Operation, limit: Duration) -> Option<Error> {
    match outcome {
        Outcome::Finished(finished, _) => {
            finished.result.as_ref().err().map(|failure| who.failed(failure, limit))
        }
        Outcome::Invalid(error, ..) => Some(error.clone()),
        Outcome::Refused(refused) => Some(match &refused.reason {
            Refusal::Failed(report) => who.refused(operation, report, limit),
            Refusal::Left { rank } => {
                who.gone(operation, *rank, limit, "it had left the group before this call")
            }
            Refusal::Lost { rank } => {
                who.gone(operation, *rank, limit, "its connection was lost before this call")
            }
            reason => who.invalid(operation, Invalid::Refused(reason.clone())),
        }),
    }
}
