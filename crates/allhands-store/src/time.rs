//! Deadlines on the monotonic clock.

use crate::limits::DEFAULT_TIMEOUT;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// When an operation began and how long it may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    start: Instant,
    limit: Duration,
}

impl Clock {
    pub(crate) fn start(limit: Duration) -> Self {
        Self { start: Instant::now(), limit }
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    pub(crate) fn limit(&self) -> Duration {
        self.limit
    }

    /// What is left, or `None` when the time is over.
    pub(crate) fn left(&self) -> Option<Duration> {
        self.limit.checked_sub(self.start.elapsed()).filter(|left| !left.is_zero())
    }
}

/// A time limit that any thread may change.
#[derive(Debug)]
pub(crate) struct Limit(AtomicU64);

impl Limit {
    pub(crate) fn new(limit: Duration) -> Self {
        let this = Self(AtomicU64::new(0));
        this.store(limit);
        this
    }

    pub(crate) fn load(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }

    pub(crate) fn store(&self, limit: Duration) {
        let nanos = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
        self.0.store(nanos, Ordering::Relaxed);
    }
}

impl Default for Limit {
    fn default() -> Self {
        Self::new(DEFAULT_TIMEOUT)
    }
}

/// Rests between two looks at something that cannot wake us, for `rest` or what is left of `clock`.
pub(crate) fn rest(rest: Duration, clock: &Clock) {
    let until = Instant::now() + rest.min(clock.left().unwrap_or(Duration::ZERO));
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        std::thread::park_timeout(left);
    }
}
