//! Model check of the driver hand-over: every interleaving of the seat's own source, under loom.
#![allow(missing_docs, reason = "test code")]

mod primitive {
    pub(crate) use loom::sync::atomic::AtomicUsize;
    pub(crate) use loom::sync::{Condvar, Mutex, MutexGuard};

    pub(crate) fn wait<'a, T>(
        condvar: &Condvar,
        guard: MutexGuard<'a, T>,
        _patience: Option<std::time::Duration>,
    ) -> MutexGuard<'a, T> {
        condvar.wait(guard).unwrap()
    }

    pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().unwrap()
    }
}

#[path = "../src/seat.rs"]
#[allow(dead_code, reason = "the model uses what it checks")]
mod seat;

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use seat::{Seat, Turn};

/// Operations that the driver completes, one a step.
struct World {
    seat: Seat,
    driving: AtomicBool,
    done: [AtomicBool; 2],
    next: AtomicUsize,
}

impl World {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            seat: Seat::new(),
            driving: AtomicBool::new(false),
            done: [AtomicBool::new(false), AtomicBool::new(false)],
            next: AtomicUsize::new(0),
        })
    }

    /// One step of the driver: the next operation ends, whoever waits for it.
    fn step(&self) {
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        if let Some(done) = self.done.get(next) {
            done.store(true, Ordering::Release);
            self.seat.announce();
        }
    }

    fn drive(&self, until: impl Fn() -> bool) {
        assert!(!self.driving.swap(true, Ordering::AcqRel), "two drivers at once");
        while !until() {
            self.step();
        }
        self.driving.store(false, Ordering::Release);
    }

    fn wait_for(&self, op: usize) {
        let done = || self.done[op].load(Ordering::Acquire);
        if self.seat.take_unless(done, None) == Turn::Drive {
            self.drive(done);
            self.seat.leave();
        }
        assert!(done());
    }
}

fn model(check: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(check);
}

#[test]
fn two_waiters_never_both_drive_and_both_end() {
    model(|| {
        let world = World::new();
        let other = {
            let world = world.clone();
            loom::thread::spawn(move || world.wait_for(0))
        };
        world.wait_for(1);
        other.join().unwrap();
    });
}

#[test]
fn a_service_that_gives_way_leaves_nobody_parked() {
    model(|| {
        let world = World::new();
        let waiter = {
            let world = world.clone();
            loom::thread::spawn(move || world.wait_for(1))
        };
        // The service drives one step, then leaves although work is left: the waiter must take over.
        if world.seat.try_take_unwanted() {
            assert!(!world.driving.swap(true, Ordering::AcqRel), "two drivers at once");
            world.step();
            world.driving.store(false, Ordering::Release);
            world.seat.leave();
        }
        waiter.join().unwrap();
    });
}

#[test]
fn three_threads_share_the_seat() {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(2);
    builder.check(|| {
        let world = World::new();
        let threads: Vec<_> = (0..2)
            .map(|op| {
                let world = world.clone();
                loom::thread::spawn(move || world.wait_for(op))
            })
            .collect();
        if world.seat.try_take() {
            world.step();
            world.seat.leave();
        }
        for thread in threads {
            thread.join().unwrap();
        }
    });
}
