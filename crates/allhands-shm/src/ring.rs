//! A ring of bytes from one process to another.
//!
//! The bytes and the tail lie in the writer's segment, the head in the reader's: each process writes only its own. Head
//! and tail count bytes from the beginning and never wrap; the ring holds those in between. The writer stores the tail
//! after the bytes, with release, the reader the head after it has read, with release; each reads the other's with
//! acquire, and only when what it remembers of it does not suffice.
//!
//! # Trust
//! A tail that claims more than the ring holds, or a head beyond the tail, is a lie. What a lie may cost is bytes that
//! make no sense; never a read or a write outside the ring.

use std::ptr::NonNull;
use std::sync::Arc;

use allhands_tensor::foreign::ForeignBytes;

use crate::layout::Layout;
use crate::primitive::AtomicU64;
use crate::protocol::{ReaderCounts, WriterCounts};
use crate::segment::{OwnSegment, PeerSegment};

pub use crate::protocol::RingError;

/// The writing end.
#[derive(Debug)]
pub struct RingWriter {
    bytes: NonNull<u8>,
    tail_word: NonNull<u8>,
    head_word: NonNull<u8>,
    capacity: usize,
    counts: WriterCounts,
    _own: Arc<OwnSegment>,
    _peer: Arc<PeerSegment>,
}

// SAFETY: The pointers lead into mappings that the ends keep alive; one thread at a time has an end.
unsafe impl Send for RingWriter {}

/// The reading end.
#[derive(Debug)]
pub struct RingReader {
    bytes: NonNull<u8>,
    tail_word: NonNull<u8>,
    head_word: NonNull<u8>,
    capacity: usize,
    counts: ReaderCounts,
    _own: Arc<OwnSegment>,
    _peer: Arc<PeerSegment>,
}

// SAFETY: As for the writer.
unsafe impl Send for RingReader {}

/// The two ends that rank `me` has of the rings between it and `peer`.
///
/// # Panics
/// If a segment is shorter than the layout, or these ends were given out before: whoever maps segments sees to that.
#[must_use]
pub fn ends(
    layout: Layout,
    own: &Arc<OwnSegment>,
    me: usize,
    segment: &Arc<PeerSegment>,
    peer: usize,
) -> (RingWriter, RingReader) {
    let least = layout.segment_len();
    assert!(own.len() >= least && segment.len() >= least, "segments shorter than {least} bytes");
    assert!(me.max(peer) < layout.world() as usize, "ranks {me} and {peer} in {layout:?}");
    let capacity = layout.ring_len();
    own.claim(layout.ring_at(peer)..layout.ring_at(peer) + capacity);
    // SAFETY: All parts of the layout are inside both segments, as was just checked.
    let (mine, theirs) = unsafe {
        let own_part = |at| own.base().add(at);
        let peer_part = |at| segment.base().add(at);
        let mine = (
            own_part(layout.ring_at(peer)),
            own_part(layout.tail_at(peer)),
            peer_part(layout.head_at(me)),
        );
        let theirs = (
            peer_part(layout.ring_at(me)),
            peer_part(layout.tail_at(me)),
            own_part(layout.head_at(peer)),
        );
        (mine, theirs)
    };
    let (_own, _peer) = (own.clone(), segment.clone());
    let writer = RingWriter {
        bytes: mine.0,
        tail_word: mine.1,
        head_word: mine.2,
        capacity,
        counts: WriterCounts::new(capacity),
        _own: _own.clone(),
        _peer: _peer.clone(),
    };
    let reader = RingReader {
        bytes: theirs.0,
        tail_word: theirs.1,
        head_word: theirs.2,
        capacity,
        counts: ReaderCounts::new(capacity),
        _own,
        _peer,
    };
    (writer, reader)
}

/// A count at `place`, which lies in a mapping that an end keeps alive.
#[inline]
fn word<'a>(place: NonNull<u8>) -> &'a AtomicU64 {
    // SAFETY: Private to this module: places are heads and tails of live mappings, aligned to a line, and only accessed as
    // atomics. Read-only mappings are only read.
    unsafe { place.cast::<AtomicU64>().as_ref() }
}

impl RingWriter {
    /// Bytes that fit now.
    ///
    /// # Errors
    /// The reader claims to have read what was not written.
    #[inline]
    pub fn room(&mut self) -> Result<usize, RingError> {
        self.counts.room(word(self.head_word))
    }

    /// Copies bytes in, as many as fit; they become visible by [`RingWriter::commit`].
    #[inline]
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        let len = bytes.len().min(self.counts.known_room());
        let at = self.counts.at();
        let first = len.min(self.capacity - at);
        // SAFETY: `at < capacity`, `first` ends at the ring's end at the latest, and the rest begins at its start and is
        // shorter than the ring. This process alone writes the ring; the reader has read what was there, by its head.
        unsafe {
            let ring = self.bytes.as_ptr();
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), ring.add(at), first);
            std::ptr::copy_nonoverlapping(bytes.as_ptr().add(first), ring, len - first);
        }
        self.counts.advance(len);
        len
    }

    /// Makes what was written visible.
    #[inline]
    pub fn commit(&mut self) {
        self.counts.commit(word(self.tail_word));
    }
}

impl RingReader {
    /// Bytes that the ring holds at most.
    #[inline]
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Bytes that can be read now.
    ///
    /// # Errors
    /// The writer claims more than the ring holds.
    #[inline]
    pub fn available(&mut self) -> Result<usize, RingError> {
        self.counts.available(word(self.tail_word))
    }

    /// Copies bytes out, as many as are known to be there; their room is free after [`RingReader::release`].
    #[inline]
    pub fn read(&mut self, target: &mut [u8]) -> usize {
        let len = target.len().min(self.counts.known());
        let at = self.counts.at();
        let first = len.min(self.capacity - at);
        let (front, back) = target[..len].split_at_mut(first);
        self.part(at, first).copy_to(front);
        self.part(0, len - first).copy_to(back);
        self.counts.advance(len);
        len
    }

    fn part(&self, at: usize, len: usize) -> ForeignBytes<'_> {
        debug_assert!(at + len <= self.capacity);
        // SAFETY: The part is inside the ring, whose mapping lives as long as this end, of a segment that cannot shrink.
        // Only the other process writes it.
        unsafe { ForeignBytes::new(self.bytes.as_ptr().add(at), len) }
    }

    /// Gives the room of what was read back to the writer.
    #[inline]
    pub fn release(&mut self) {
        self.counts.release(word(self.head_word));
    }
}
