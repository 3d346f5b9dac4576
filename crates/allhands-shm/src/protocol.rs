//! What ranks say to each other by words in shared memory: counts of rings, stamps of boards, and sleep.
//!
//! This is all that synchronises, and nothing else: no pointers, no bytes. So the model check (`tests/protocol_model.rs`)
//! runs this very source in every interleaving, with cells in place of the bytes, and sees each access that is
//! not ordered. Neither Miri nor an address sanitizer can follow two processes; what they would look for is split here:
//! order is checked by the model, bounds by arithmetic on checked counts, which the tests of rings and boards
//! compare with an oracle, and lifetimes by each end holding its mappings.

use crate::primitive::{AtomicU64, Ordering, fence, fenced_from_outside};

/// The other side's count makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a peer's ring claims {claimed} bytes beside {mine}, and holds {capacity}")]
pub struct RingError {
    /// The peer's count.
    pub claimed: u64,
    /// This side's count.
    pub mine: u64,
    /// Bytes of the ring.
    pub capacity: usize,
}

/// A ring's counts as its writer keeps them. `head <= tail <= head + capacity` always holds.
#[derive(Debug)]
pub(crate) struct WriterCounts {
    capacity: usize,
    tail: u64,
    /// The head as last seen.
    head: u64,
}

impl WriterCounts {
    /// Of an empty ring; the capacity is a power of two.
    pub(crate) const fn new(capacity: usize) -> Self {
        assert!(capacity.is_power_of_two());
        Self { capacity, tail: 0, head: 0 }
    }

    /// Bytes that are known to fit.
    #[inline]
    pub(crate) fn known_room(&self) -> usize {
        self.capacity - (self.tail - self.head) as usize
    }

    /// Bytes that fit; looks at the reader's word only if none are known to.
    #[inline]
    pub(crate) fn room(&mut self, head_word: &AtomicU64) -> Result<usize, RingError> {
        let room = self.known_room();
        if room > 0 { Ok(room) } else { self.look(head_word) }
    }

    fn look(&mut self, head_word: &AtomicU64) -> Result<usize, RingError> {
        // Acquire: what the reader read, it read before; its room may be written now.
        let claimed = head_word.load(Ordering::Acquire);
        if claimed < self.head || claimed > self.tail {
            return Err(RingError { claimed, mine: self.tail, capacity: self.capacity });
        }
        self.head = claimed;
        Ok(self.known_room())
    }

    /// Where the next bytes go: below the capacity.
    #[inline]
    pub(crate) fn at(&self) -> usize {
        self.tail as usize & (self.capacity - 1)
    }

    /// `len` bytes, no more than are known to fit, were written.
    #[inline]
    pub(crate) fn advance(&mut self, len: usize) {
        debug_assert!(len <= self.known_room());
        self.tail += len as u64;
    }

    /// Makes what was written visible.
    #[inline]
    pub(crate) fn commit(&self, tail_word: &AtomicU64) {
        // Release: the bytes come before.
        tail_word.store(self.tail, Ordering::Release);
    }
}

/// A ring's counts as its reader keeps them. `head <= tail <= head + capacity` always holds.
#[derive(Debug)]
pub(crate) struct ReaderCounts {
    capacity: usize,
    head: u64,
    /// The tail as last seen.
    tail: u64,
}

impl ReaderCounts {
    /// Of an empty ring; the capacity is a power of two.
    pub(crate) const fn new(capacity: usize) -> Self {
        assert!(capacity.is_power_of_two());
        Self { capacity, head: 0, tail: 0 }
    }

    /// Bytes that are known to be there.
    #[inline]
    pub(crate) fn known(&self) -> usize {
        (self.tail - self.head) as usize
    }

    /// Bytes that are there; looks at the writer's word only if none are known to be.
    #[inline]
    pub(crate) fn available(&mut self, tail_word: &AtomicU64) -> Result<usize, RingError> {
        if self.tail == self.head {
            // Acquire: who sees the tail sees the bytes.
            let claimed = tail_word.load(Ordering::Acquire);
            if claimed < self.tail || claimed - self.head > self.capacity as u64 {
                return Err(RingError { claimed, mine: self.head, capacity: self.capacity });
            }
            self.tail = claimed;
        }
        Ok(self.known())
    }

    /// Where the next bytes are: below the capacity.
    #[inline]
    pub(crate) fn at(&self) -> usize {
        self.head as usize & (self.capacity - 1)
    }

    /// `len` bytes, no more than are known to be there, were read.
    #[inline]
    pub(crate) fn advance(&mut self, len: usize) {
        debug_assert!(len <= self.known());
        self.head += len as u64;
    }

    /// Gives the room of what was read back.
    #[inline]
    pub(crate) fn release(&self, head_word: &AtomicU64) {
        // Release: the reads come before.
        head_word.store(self.head, Ordering::Release);
    }
}

/// A board's counts as its publisher keeps them. `free <= next` always holds.
#[derive(Debug, Default)]
pub(crate) struct Published {
    next: u64,
    /// Every reader has taken all below, as far as was looked.
    free: u64,
}

impl Published {
    /// Publications made.
    #[inline]
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// Whether the next of `places` places has been taken by every reader.
    #[inline]
    pub(crate) fn has_place(&mut self, places: u64, slowest: impl FnOnce() -> u64) -> bool {
        self.next - self.free < places || self.is_taken(self.next + 1 - places, slowest)
    }

    /// Whether every reader has taken all publications below `number`. `slowest` looks how far the slowest one is.
    #[inline]
    pub(crate) fn is_taken(&mut self, number: u64, slowest: impl FnOnce() -> u64) -> bool {
        if self.free < number {
            // A reader that claims more than there is counts for what there is.
            self.free = slowest().min(self.next);
        }
        self.free >= number
    }

    /// Publishes what was written to the next place.
    #[inline]
    pub(crate) fn stamp(&mut self, stamp_word: &AtomicU64) {
        self.next += 1;
        // Release: who sees the stamp sees the bytes.
        stamp_word.store(self.next, Ordering::Release);
    }
}

/// Whether a place has publication `number`, with all its bytes.
#[inline]
pub(crate) fn is_stamped(stamp_word: &AtomicU64, number: u64) -> bool {
    // Acquire: who sees the stamp sees the bytes.
    stamp_word.load(Ordering::Acquire) == number.wrapping_add(1)
}

/// Says that a reader needs nothing below `number` any more.
#[inline]
pub(crate) fn take(taken_word: &AtomicU64, number: u64) {
    // Release: the reads come before.
    taken_word.store(number, Ordering::Release);
}

/// How many publications a reader has taken.
#[inline]
pub(crate) fn taken(taken_word: &AtomicU64) -> u64 {
    // Acquire: what the reader read, it read before; the place may be written now.
    taken_word.load(Ordering::Acquire)
}

/// Says that lent memory may change from now on.
pub(crate) fn withdraw(withdrawn: &AtomicU64) {
    withdrawn.store(1, Ordering::Relaxed);
    // Release: whoever reads what is written after this, and looks then, sees the word.
    fence(Ordering::SeqCst);
}

/// Whether lent memory that was read before this may have changed.
pub(crate) fn is_withdrawn(withdrawn: &AtomicU64) -> bool {
    // Acquire: the reads come before.
    fence(Ordering::SeqCst);
    withdrawn.load(Ordering::Relaxed) != 0
}

/// Who makes the full fence between a writer's store and its look at the sleeper's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Barrier {
    /// The sleeper, by `membarrier`.
    Remote,
    /// Writers fence for themselves.
    Local,
}

/// About to sleep: what was written before is to be looked for after this.
#[inline]
pub(crate) fn arm(sleeping: &AtomicU64) {
    sleeping.store(1, Ordering::SeqCst);
    fence(Ordering::SeqCst);
}

/// Not asleep.
#[inline]
pub(crate) fn disarm(sleeping: &AtomicU64) {
    sleeping.store(0, Ordering::Relaxed);
}

/// Whether the one for whom something was just written has to be woken.
#[inline]
pub(crate) fn sleeps(sleeping: &AtomicU64, barrier: Barrier) -> bool {
    match barrier {
        Barrier::Remote => fenced_from_outside(),
        Barrier::Local => fence(Ordering::SeqCst),
    }
    sleeping.load(Ordering::Relaxed) != 0
}
