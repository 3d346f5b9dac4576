//! A sparse call that nobody waits for yet.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use allhands_tensor::SparseTensor;

use super::lock;
use crate::error::Error;
use crate::primitive::{Condvar, Mutex, wait};

/// What a sparse call ended with.
type Ended = Result<SparseTensor, Error>;

/// An asynchronous sparse call. It goes on whether or not anybody waits for it.
///
/// Dropping it before it has ended is safe: its thread ends with the call.
#[derive(Debug)]
pub struct SparsePending {
    cell: Arc<Cell>,
    /// What the call was given; its thread holds it, too, until the end.
    tensor: Option<Arc<SparseTensor>>,
}

#[derive(Debug, Default)]
struct Cell {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    done: bool,
    /// `None` once it was taken, or if the call's thread panicked.
    ended: Option<Ended>,
    waker: Option<Waker>,
}

/// Says that the call has ended, also if its thread panics.
struct Last(Arc<Cell>);

impl Drop for Last {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        state.done = true;
        let waker = state.waker.take();
        drop(state);
        self.0.changed.notify_all();
        // Foreign code, in a thread of the call's own.
        waker.into_iter().for_each(Waker::wake);
    }
}

impl SparsePending {
    /// Runs `work` on a thread of its own.
    ///
    /// # Errors
    /// The tensor, and why there is no thread.
    pub(super) fn spawn(
        tensor: SparseTensor,
        work: impl FnOnce(&SparseTensor) -> Ended + Send + 'static,
    ) -> Result<Self, Box<(SparseTensor, std::io::Error)>> {
        let tensor = Arc::new(tensor);
        let cell = Arc::<Cell>::default();
        let (theirs, last) = (tensor.clone(), Last(cell.clone()));
        let run = move || {
            let last = last;
            let ended = work(&theirs);
            drop(theirs);
            lock(&last.0.state).ended = Some(ended);
        };
        match std::thread::Builder::new().name("allhands-sparse".into()).spawn(run) {
            Ok(_detached) => Ok(Self { cell, tensor: Some(tensor) }),
            Err(error) => match Arc::into_inner(tensor) {
                Some(tensor) => Err(Box::new((tensor, error))),
                None => unreachable!("the thread's half went with it"),
            },
        }
    }

    /// A call that made no sense.
    pub(super) fn refused(tensor: SparseTensor, error: Error) -> Self {
        let state = State { done: true, ended: Some(Err(error)), waker: None };
        let cell = Arc::new(Cell { state: Mutex::new(state), changed: Condvar::new() });
        Self { cell, tensor: Some(Arc::new(tensor)) }
    }

    /// Whether the call has ended, well or not.
    #[must_use]
    pub fn is_completed(&self) -> bool {
        lock(&self.cell.state).done
    }

    /// Why the call failed, if it has ended and did.
    #[must_use]
    pub fn error(&self) -> Option<Error> {
        lock(&self.cell.state).ended.as_ref()?.as_ref().err().cloned()
    }

    /// Waits for the end at most `patience`; says whether it has come. Nothing happens to the call if it has not.
    #[must_use]
    pub fn wait_timeout(&self, patience: Duration) -> bool {
        self.wait_until(Instant::now().checked_add(patience))
    }

    fn wait_until(&self, until: Option<Instant>) -> bool {
        let mut state = lock(&self.cell.state);
        while !state.done {
            let left = until.map(|at| at.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return false;
            }
            state = wait(&self.cell.changed, state, left);
        }
        true
    }

    /// Waits for the end, and gives the sum, or what the call was given if it failed. The call has a deadline, so this
    /// ends.
    ///
    /// # Panics
    /// If the call's thread has.
    pub fn wait(mut self) -> (Result<(), Error>, SparseTensor) {
        self.wait_until(None);
        self.take()
    }

    fn take(&mut self) -> (Result<(), Error>, SparseTensor) {
        let ended = lock(&self.cell.state).ended.take();
        match (ended, self.tensor.take().and_then(Arc::into_inner)) {
            (Some(Ok(sum)), _) => (Ok(()), sum),
            (Some(Err(error)), Some(tensor)) => (Err(error), tensor),
            _ => panic!("the thread of a sparse call panicked, or its end was taken before"),
        }
    }
}

impl Future for SparsePending {
    type Output = (Result<(), Error>, SparseTensor);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = lock(&self.cell.state);
        if !state.done {
            state.waker = Some(context.waker().clone());
            return Poll::Pending;
        }
        drop(state);
        Poll::Ready(self.take())
    }
}
