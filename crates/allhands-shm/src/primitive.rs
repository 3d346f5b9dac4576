//! The one way to atomics for what ranks say to each other, so that a model checker can stand behind it.

pub(crate) use std::sync::atomic::{AtomicU64, Ordering, fence};

/// What a writer owes a sleeper that makes the processors of all writers fence (`membarrier`): that the compiler keeps
/// the order. The model has a full fence here, since `membarrier` makes one of it wherever it matters.
#[inline]
pub(crate) fn fenced_from_outside() {
    std::sync::atomic::compiler_fence(Ordering::SeqCst);
}
