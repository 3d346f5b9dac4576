//! Wakes one sleeping thread.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::port::Wake;

/// A flag that one thread waits for. Ringing costs no system call while nobody sleeps.
#[derive(Default)]
pub(super) struct Doorbell {
    rung: AtomicBool,
    sleeping: AtomicBool,
    lock: Mutex<()>,
    changed: Condvar,
}

impl Doorbell {
    pub(super) fn ring(&self) {
        // Sequentially consistent on both flags: either the sleeper sees `rung` or we see `sleeping`.
        self.rung.store(true, Ordering::SeqCst);
        if self.sleeping.load(Ordering::SeqCst) {
            drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner));
            self.changed.notify_all();
        }
    }

    /// Consumes an earlier ring, and says whether there was one; call before looking at what it
    /// announced.
    pub(super) fn silence(&self) -> bool {
        self.rung.swap(false, Ordering::SeqCst)
    }

    /// Sleeps until a ring or the timeout, and consumes the ring.
    pub(super) fn wait(&self, timeout: Option<Duration>) {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.sleeping.store(true, Ordering::SeqCst);
        while !self.rung.swap(false, Ordering::SeqCst) {
            guard = match deadline {
                None => self.changed.wait(guard).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let now = Instant::now();
                    if now >= deadline {
                        break;
                    }
                    let waited = self.changed.wait_timeout(guard, deadline - now);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        self.sleeping.store(false, Ordering::SeqCst);
    }
}

impl Wake for Doorbell {
    fn wake(&self) {
        self.ring();
    }
}
