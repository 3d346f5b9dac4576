//! Who drives: exactly one thread at a time sits in the driver's seat, and none is left waiting while the
//! seat is empty.
//!
//! A thread that waits for an operation takes the seat if it is free, else parks. Who leaves the seat wakes
//! a parked thread, which takes it in turn; the driver wakes parked threads also when their operations
//! have ended. Taking and leaving a seat that nobody else wants is one atomic operation each.
//!
//! Why no wake-up is lost: whoever parks counts itself in the seat's word first, looks once more, and parks under a
//! lock that it took before. Leaving and announcing change the same word, so either they see the count, and
//! then wake under that lock, or the one who parks sees what they did. The model check in `tests/seat_model.rs`
//! includes this file as it is.

use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::primitive::{AtomicUsize, Condvar, Mutex, lock, wait};

/// Somebody drives.
const TAKEN: usize = 1;

/// One parked thread, in the rest of the word.
const WAITING: usize = 2;

/// The driver's seat.
#[derive(Debug)]
pub(crate) struct Seat {
    /// [`TAKEN`], and [`WAITING`] for each thread that parks.
    word: AtomicUsize,
    parking: Mutex<()>,
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
        Self { word: AtomicUsize::new(0), parking: Mutex::new(()), changed: Condvar::new() }
    }

    /// Takes the seat if it is free.
    #[inline]
    pub(crate) fn try_take(&self) -> bool {
        let mut seen = self.word.load(Ordering::Relaxed);
        while seen & TAKEN == 0 {
            let taken = seen | TAKEN;
            // Acquire: what the last driver did is visible to the next.
            match self.word.compare_exchange_weak(seen, taken, Ordering::Acquire, Ordering::Relaxed)
            {
                Ok(_) => return true,
                Err(now) => seen = now,
            }
        }
        false
    }

    /// Takes the seat if it is free and nobody is parked who would rather drive.
    #[inline]
    pub(crate) fn try_take_unwanted(&self) -> bool {
        // Acquire: as above.
        self.word.compare_exchange(0, TAKEN, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Waits until `done` or until the seat is free, and takes it then. `done` must become true before
    /// [`Seat::announce`] is called for it; where it depends on the time, `until` says when to look.
    pub(crate) fn take_unless(&self, done: impl Fn() -> bool, until: Option<Instant>) -> Turn {
        loop {
            if done() {
                return Turn::Done;
            }
            if self.try_take() {
                return Turn::Drive;
            }
            let parking = lock(&self.parking);
            let before = self.word.fetch_add(WAITING, Ordering::AcqRel);
            // Whoever leaves or announces from here on sees the count and wakes under the lock.
            if before & TAKEN != 0 && !done() {
                let patience = until.map(|at| at.saturating_duration_since(Instant::now()));
                drop(wait(&self.changed, parking, patience));
            }
            self.word.fetch_sub(WAITING, Ordering::AcqRel);
        }
    }

    /// Leaves the seat. Returns whether a parked thread was woken to take it.
    #[inline]
    pub(crate) fn leave(&self) -> bool {
        let wanted = self.word.fetch_and(!TAKEN, Ordering::AcqRel) >= WAITING;
        if wanted {
            self.wake();
        }
        wanted
    }

    /// Operations of other threads have ended: they look again.
    pub(crate) fn announce(&self) {
        // A change, though of nothing: a plain look could miss a thread that has just counted itself.
        if self.word.fetch_or(0, Ordering::AcqRel) >= WAITING {
            self.wake();
        }
    }

    /// Wakes all who park: one whose operation has ended would swallow a single wake-up.
    #[cold]
    fn wake(&self) {
        let parking = lock(&self.parking);
        self.changed.notify_all();
        drop(parking);
    }

    /// Whether nobody drives and nobody is parked who would.
    #[inline]
    pub(crate) fn is_deserted(&self) -> bool {
        self.word.load(Ordering::Acquire) == 0
    }

    /// Whether a parked thread would rather drive.
    pub(crate) fn is_wanted(&self) -> bool {
        self.word.load(Ordering::Acquire) >= WAITING
    }
}
