//! Who drives: exactly one thread at a time sits in the driver's seat, and none is left waiting while the
//! seat is empty.
//!
//! A thread that waits for an operation takes the seat if it is free, else parks. Who leaves the seat wakes
//! a parked thread, which takes it in turn; the driver wakes parked threads also when their operations
//! have ended. Both happen under one lock, so no wake-up is lost. The model check in
//! `tests/seat_model.rs` includes this file as it is.

use std::time::Instant;

use crate::primitive::{Condvar, Mutex, lock, wait};

#[derive(Debug, Default)]
struct State {
    taken: bool,
    waiting: usize,
}

/// The driver's seat.
#[derive(Debug)]
pub(crate) struct Seat {
    state: Mutex<State>,
    changed: Condvar,
}

/// How a wait for the seat ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// The seat is this thread's.
    Drive,
    /// What the thread waited for has happened.
    Done,
}

impl Seat {
    pub(crate) fn new() -> Self {
        Self { state: Mutex::new(State::default()), changed: Condvar::new() }
    }

    /// Takes the seat if it is free.
    pub(crate) fn try_take(&self) -> bool {
        !std::mem::replace(&mut lock(&self.state).taken, true)
    }

    /// Waits until `done` or until the seat is free, and takes it then. `done` must become true before
    /// [`Seat::announce`] is called for it; where it depends on the time, `until` says when to look.
    pub(crate) fn take_unless(&self, done: impl Fn() -> bool, until: Option<Instant>) -> Turn {
        let mut state = lock(&self.state);
        loop {
            if done() {
                return Turn::Done;
            }
            if !state.taken {
                state.taken = true;
                return Turn::Drive;
            }
            state.waiting += 1;
            let patience = until.map(|at| at.saturating_duration_since(Instant::now()));
            state = wait(&self.changed, state, patience);
            state.waiting -= 1;
        }
    }

    /// Leaves the seat. Returns whether a parked thread was woken to take it.
    pub(crate) fn leave(&self) -> bool {
        let mut state = lock(&self.state);
        state.taken = false;
        let wanted = state.waiting > 0;
        if wanted {
            // All of them: one whose operation has ended would swallow a single wake-up.
            self.changed.notify_all();
        }
        wanted
    }

    /// Operations of other threads have ended: they look again.
    pub(crate) fn announce(&self) {
        let state = lock(&self.state);
        if state.waiting > 0 {
            self.changed.notify_all();
        }
    }

    /// Whether nobody drives and nobody is parked who would.
    pub(crate) fn is_deserted(&self) -> bool {
        let state = lock(&self.state);
        !state.taken && state.waiting == 0
    }

    /// Whether a parked thread would rather drive.
    pub(crate) fn is_wanted(&self) -> bool {
        lock(&self.state).waiting > 0
    }
}
