//! Model check of what ranks say to each other by words: every interleaving of the protocol's own source, under loom.
#![allow(missing_docs, reason = "test code")]

mod primitive {
    pub(crate) use loom::sync::atomic::{AtomicU64, Ordering, fence};

    /// `membarrier` makes the processors of writers fence between two of their instructions: here, between the two
    /// that matter.
    pub(crate) fn fenced_from_outside() {
        fence(Ordering::SeqCst);
    }
}

#[path = "../src/protocol.rs"]
#[allow(dead_code, unreachable_pub, reason = "the model uses what it checks")]
mod protocol;

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;
use primitive::{AtomicU64, Ordering};
use protocol::{Barrier, Published, ReaderCounts, WriterCounts};

/// Accesses of cells that are not ordered fail the model: they stand for the bytes.
struct Cells(Vec<UnsafeCell<u64>>);

impl Cells {
    fn new(count: usize) -> Self {
        Self((0..count).map(|_| UnsafeCell::new(0)).collect())
    }

    fn write(&self, at: usize, value: u64) {
        // SAFETY: The model checks that no other access is concurrent with this one.
        self.0[at].with_mut(|cell| unsafe { *cell = value });
    }

    fn read(&self, at: usize) -> u64 {
        // SAFETY: As for writing.
        self.0[at].with(|cell| unsafe { *cell })
    }
}

// SAFETY: The model checks every access to the cells.
unsafe impl Sync for Cells {}

fn model(preemptions: usize, check: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(check);
}

const CAPACITY: usize = 2;

struct Ring {
    cells: Cells,
    head: AtomicU64,
    tail: AtomicU64,
}

#[test]
fn a_ring_hands_over_every_byte_and_reuses_its_room() {
    const BYTES: u64 = 5;
    model(3, || {
        let ring = Arc::new(Ring {
            cells: Cells::new(CAPACITY),
            head: AtomicU64::new(0),
            tail: AtomicU64::new(0),
        });
        let writer = {
            let ring = ring.clone();
            thread::spawn(move || {
                let mut counts = WriterCounts::new(CAPACITY);
                let mut next = 1;
                while next <= BYTES {
                    let room = counts.room(&ring.head).unwrap();
                    if room == 0 {
                        thread::yield_now();
                        continue;
                    }
                    for _ in 0..room {
                        ring.cells.write(counts.at(), next);
                        counts.advance(1);
                        next += 1;
                    }
                    counts.commit(&ring.tail);
                }
            })
        };
        let mut counts = ReaderCounts::new(CAPACITY);
        let mut next = 1;
        while next <= BYTES {
            let available = counts.available(&ring.tail).unwrap();
            if available == 0 {
                thread::yield_now();
                continue;
            }
            for _ in 0..available {
                assert_eq!(ring.cells.read(counts.at()), next);
                counts.advance(1);
                next += 1;
            }
            counts.release(&ring.head);
        }
        writer.join().unwrap();
    });
}

struct Board {
    places: Cells,
    stamps: [AtomicU64; CAPACITY],
    taken: [AtomicU64; 2],
}

impl Board {
    fn new() -> Arc<Self> {
        let words = || [AtomicU64::new(0), AtomicU64::new(0)];
        Arc::new(Self { places: Cells::new(CAPACITY), stamps: words(), taken: words() })
    }

    /// Reads what is there, in order, and looks `looks` times.
    fn read(&self, me: usize, looks: usize) {
        let mut number = 0;
        for _ in 0..looks {
            let place = number as usize % CAPACITY;
            if protocol::is_stamped(&self.stamps[place], number) {
                assert_eq!(self.places.read(place), number + 7);
                number += 1;
                protocol::take(&self.taken[me], number);
            }
        }
    }

    /// Publishes where there is a place, and looks `looks` times. Returns how many publications were made.
    fn publish(&self, looks: usize) -> u64 {
        let mut counts = Published::default();
        for _ in 0..looks {
            let slowest = || self.taken.iter().map(protocol::taken).min().unwrap();
            if counts.has_place(CAPACITY as u64, slowest) {
                let place = counts.next() as usize % CAPACITY;
                self.places.write(place, counts.next() + 7);
                counts.stamp(&self.stamps[place]);
            }
        }
        counts.next()
    }
}

#[test]
fn a_board_writes_a_place_again_only_when_all_have_taken_it() {
    let reused = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let most = reused.clone();
    model(3, move || {
        let board = Board::new();
        let readers: Vec<_> = (0..2)
            .map(|me| {
                let board = board.clone();
                thread::spawn(move || board.read(me, 3))
            })
            .collect();
        let made = board.publish(4);
        assert!(made >= CAPACITY as u64, "an empty board has places");
        most.fetch_max(made, std::sync::atomic::Ordering::Relaxed);
        for reader in readers {
            reader.join().unwrap();
        }
    });
    let most = reused.load(std::sync::atomic::Ordering::Relaxed);
    assert!(most > CAPACITY as u64, "no interleaving wrote a place again");
}

/// A writer stores, a reader that sees nothing sleeps: one of them sees the other.
fn nobody_sleeps_through(barrier: Barrier) {
    model(3, move || {
        let words = Arc::new([AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0)]);
        let writer = {
            let words = words.clone();
            thread::spawn(move || {
                let [data, sleeping, woken] = &*words;
                data.store(1, Ordering::Release);
                if protocol::sleeps(sleeping, barrier) {
                    woken.store(1, Ordering::Relaxed);
                }
            })
        };
        let [data, sleeping, woken] = &*words;
        protocol::arm(sleeping);
        let asleep = data.load(Ordering::Acquire) == 0;
        writer.join().unwrap();
        // The writer has ended: nobody else will ring.
        assert!(!asleep || woken.load(Ordering::Relaxed) == 1, "a wake-up was lost");
        protocol::disarm(sleeping);
    });
}

#[test]
fn no_wake_up_is_lost_where_writers_fence() {
    nobody_sleeps_through(Barrier::Local);
}

#[test]
fn no_wake_up_is_lost_where_sleepers_fence_for_writers() {
    nobody_sleeps_through(Barrier::Remote);
}

#[test]
fn the_model_sees_a_missing_fence() {
    let lost = std::panic::catch_unwind(|| {
        model(3, || {
            let words = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
            let writer = {
                let words = words.clone();
                thread::spawn(move || {
                    words[0].store(1, Ordering::Release);
                    words[1].load(Ordering::Relaxed)
                })
            };
            protocol::arm(&words[1]);
            let asleep = words[0].load(Ordering::Acquire) == 0;
            assert!(!asleep || writer.join().unwrap() == 1, "a wake-up was lost");
        });
    });
    assert!(lost.is_err(), "without the writer's fence the model has to fail");
}
