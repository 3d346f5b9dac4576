//! The one way to locks, so that a model checker can stand behind it.

use std::sync::MutexGuard;
use std::time::Duration;

pub(crate) use std::sync::atomic::AtomicUsize;
pub(crate) use std::sync::{Condvar, Mutex};

/// How long a parked thread sleeps before it looks again by itself. Nothing depends on it; it bounds the
/// damage of a lost wake-up to a visible delay.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

pub(crate) fn wait<'a, T>(
    condvar: &Condvar,
    guard: MutexGuard<'a, T>,
    patience: Option<Duration>,
) -> MutexGuard<'a, T> {
    condvar
        .wait_timeout(guard, patience.map_or(LOOK_AGAIN, |patience| patience.min(LOOK_AGAIN)))
        .unwrap_or_else(std::sync::PoisonError::into_inner)
        .0
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
