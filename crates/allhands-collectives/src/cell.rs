//! Where the thread that drives leaves an operation's outcome for the one that asked for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Waker;
use std::time::Duration;

use allhands_engine::{Finished, GroupKey, Refusal, Refused, Space};

use crate::core::Medium;
use crate::error::Error;
use crate::primitive::{Condvar, Mutex, lock, wait};

/// How an operation ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// With how long it took.
    Finished(Finished, Duration),
    Refused(Box<Refused>),
    /// The call made no sense; its input and data.
    Invalid(Error, Space, Space),
}

impl Outcome {
    /// How long the operation took, if it ran.
    pub(crate) fn took(&self) -> Option<Duration> {
        match self {
            Self::Finished(_, took) => Some(*took),
            Self::Refused(_) | Self::Invalid(..) => None,
        }
    }
}

/// The meeting point of one operation.
#[derive(Debug, Default)]
pub(crate) struct Cell {
    done: AtomicBool,
    /// One more than the operation's number, once it has one.
    number: AtomicU64,
    outcome: Mutex<Option<Outcome>>,
    waker: Mutex<Option<Waker>>,
}

impl Cell {
    /// Whether the outcome is there, or was taken.
    pub(crate) fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }

    /// The operation has got its number.
    pub(crate) fn begin(&self, sequence: u64) {
        self.number.store(sequence + 1, Ordering::Relaxed);
    }

    /// Number of the operation on its channel, once it has begun.
    pub(crate) fn sequence(&self) -> Option<u64> {
        self.number.load(Ordering::Relaxed).checked_sub(1)
    }

    /// Leaves the outcome. Returns the future that waits, to be woken outside the driver's seat.
    pub(crate) fn put(&self, outcome: Outcome) -> Option<Waker> {
        *lock(&self.outcome) = Some(outcome);
        self.done.store(true, Ordering::Release);
        lock(&self.waker).take()
    }

    /// Takes the outcome, once.
    pub(crate) fn take(&self) -> Option<Outcome> {
        lock(&self.outcome).take()
    }

    /// Looks at the outcome.
    pub(crate) fn look<R>(&self, look: impl FnOnce(&Outcome) -> R) -> Option<R> {
        lock(&self.outcome).as_ref().map(look)
    }

    /// Wakes `waker` when the outcome is there; the caller looks again afterwards.
    pub(crate) fn wake_later(&self, waker: &Waker) {
        *lock(&self.waker) = Some(waker.clone());
    }
}

/// Cells kept for later calls: one for each thread that calls at the same time, up to these.
const CELLS_KEPT: usize = 16;

/// Cells whose calls have ended, for the next ones.
#[derive(Debug, Default)]
pub(crate) struct Cells(Mutex<Vec<Arc<Cell>>>);

impl Cells {
    pub(crate) fn take(&self) -> Arc<Cell> {
        lock(&self.0).pop().unwrap_or_default()
    }

    /// Keeps a cell whose outcome was taken, unless somebody else still holds it.
    pub(crate) fn keep(&self, mut cell: Arc<Cell>) {
        if let Some(own) = Arc::get_mut(&mut cell) {
            *own = Cell::default();
            let mut kept = lock(&self.0);
            if kept.len() < CELLS_KEPT {
                kept.push(cell);
            }
        }
    }
}

/// Where the thread that drives leaves the answer to a call that another thread waits for.
#[derive(Debug)]
pub(crate) struct Reply<T> {
    answer: Mutex<Option<T>>,
    there: Condvar,
}

impl<T> Default for Reply<T> {
    fn default() -> Self {
        Self { answer: Mutex::new(None), there: Condvar::new() }
    }
}

/// The key of a new group, or why there is none.
pub(crate) type Joined = Reply<Result<(GroupKey, Medium), Refusal>>;

impl<T> Reply<T> {
    pub(crate) fn put(&self, answer: T) {
        *lock(&self.answer) = Some(answer);
        self.there.notify_all();
    }

    /// Waits for the answer, for a while. Whoever drives takes calls at every step, so it comes soon.
    pub(crate) fn wait(&self) -> Option<T> {
        let mut answer = lock(&self.answer);
        if answer.is_none() {
            answer = wait(&self.there, answer, None);
        }
        answer.take()
    }
}
