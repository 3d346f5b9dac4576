//! Binding a process to a core.

use std::thread;

use rustix::thread::{CpuSet, sched_setaffinity};

/// Binds this thread, and those it starts later, to a core; numbers wrap around. Where that is
/// forbidden it runs unbound, and its figures are what an unbound process reaches.
pub(super) fn to_core(core: u32) {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let mut set = CpuSet::new();
    set.set(core as usize % cores);
    let _ = sched_setaffinity(None, &set);
}
