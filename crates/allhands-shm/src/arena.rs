//! Memory for tensors that the peers of a host read in place.
//!
//! An arena is one segment of its rank, reserved as a whole and allocated as far as it is used. Collectives on
//! tensors in it copy nothing into shared memory: peers read them where they are.
//!
//! Tensors are given out first-fit at multiples of a cache line. Memory that is given back is used again; it goes to
//! the system when the arena goes, since a sealed segment has no holes.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use allhands_tensor::{DType, Tensor, TensorError};

use crate::layout::LINE;
use crate::segment::{OwnSegment, SegmentError};

/// Memory is allocated in multiples of this many bytes: a huge page.
const STEP: usize = 2 << 20;

/// Why an arena has no tensor to give.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArenaError {
    /// No shape of a tensor.
    #[error(transparent)]
    Shape(#[from] TensorError),
    /// All of it is in use, or what is free is in pieces that are too short.
    #[error("a shared arena of {capacity} bytes has no {asked} bytes in one piece left")]
    Full {
        /// Bytes of the arena.
        capacity: usize,
        /// Bytes that were asked for.
        asked: usize,
    },
    /// The system has no memory.
    #[error(transparent)]
    Segment(#[from] SegmentError),
}

/// What is free, and how far memory is allocated.
#[derive(Debug)]
struct FreeList {
    /// Start and length of each free range; no two touch.
    free: BTreeMap<usize, usize>,
    /// Everything below is allocated.
    allocated: usize,
    /// Everything from here on was never given out, so it is zero.
    fresh: usize,
}

/// A rank's arena.
#[derive(Debug)]
pub struct Arena {
    segment: Arc<OwnSegment>,
    free_list: Mutex<FreeList>,
}

/// A range that goes back to its arena.
struct Block {
    arena: Arc<Arena>,
    range: Range<usize>,
}

impl Drop for Block {
    fn drop(&mut self) {
        self.arena.free_list().give_back(self.range.clone());
    }
}

impl FreeList {
    fn new(len: usize) -> Self {
        Self { free: BTreeMap::from([(0, len)]), allocated: 0, fresh: 0 }
    }

    /// The lowest free range of `len` bytes.
    fn take(&mut self, len: usize) -> Option<usize> {
        let (&start, &room) = self.free.iter().find(|&(_, &room)| room >= len)?;
        self.free.remove(&start);
        if room > len {
            self.free.insert(start + len, room - len);
        }
        Some(start)
    }

    fn give_back(&mut self, range: Range<usize>) {
        let Range { mut start, mut end } = range;
        if let Some((&before, &len)) = self.free.range(..start).next_back()
            && before + len == start
        {
            self.free.remove(&before);
            start = before;
        }
        if let Some(len) = self.free.remove(&end) {
            end += len;
        }
        self.free.insert(start, end - start);
    }
}

impl Arena {
    /// An arena of at most `len` bytes, none of which is allocated yet.
    ///
    /// # Errors
    /// The system has no address space or no `memfd` for it.
    pub fn new(len: usize) -> Result<Arc<Self>, SegmentError> {
        let segment = OwnSegment::reserve(len)?;
        segment.claim(0..len);
        segment.advise_huge_pages();
        let free_list = Mutex::new(FreeList::new(len));
        Ok(Arc::new(Self { segment: Arc::new(segment), free_list }))
    }

    /// The segment, to be passed to peers.
    #[must_use]
    pub fn segment(&self) -> &Arc<OwnSegment> {
        &self.segment
    }

    /// Zeros, contiguous, aligned to a cache line. The memory goes back when the tensor is dropped.
    ///
    /// # Errors
    /// See [`ArenaError`].
    pub fn tensor(self: &Arc<Self>, dtype: DType, shape: &[usize]) -> Result<Tensor, ArenaError> {
        let len = dtype.byte_len(shape)?;
        let full = || ArenaError::Full { capacity: self.segment.len(), asked: len };
        let room = len.max(1).checked_next_multiple_of(LINE).ok_or_else(full)?;
        let mut list = self.free_list();
        let start = list.take(room).ok_or_else(full)?;
        let block = Block { arena: self.clone(), range: start..start + room };
        let end = start + room;
        if end > list.allocated {
            let wanted = end.next_multiple_of(STEP).min(self.segment.len());
            let (from, len) = (list.allocated, wanted - list.allocated);
            if let Err(error) = self.segment.allocate(from, len) {
                // The block takes the list to give itself back.
                drop(list);
                drop(block);
                return Err(error.into());
            }
            list.allocated = wanted;
        }
        let used = list.fresh.clamp(start, end) - start;
        list.fresh = list.fresh.max(end);
        drop(list);
        // SAFETY: The block lies in the segment, which the block keeps mapped, writable and allocated, and which is
        // never shorter. No other tensor has it until the block is dropped. Other processes only read it.
        let tensor = unsafe {
            let base = self.segment.base().add(start);
            // What an earlier tensor left is cleared; the rest is as the system gave it.
            base.write_bytes(0, used);
            Tensor::from_foreign(dtype, shape, base, room, block)?
        };
        Ok(tensor)
    }

    /// Where bytes lie in the arena, if they do.
    #[inline]
    #[must_use]
    pub fn place(&self, bytes: &[u8]) -> Option<u64> {
        let base = self.segment.base().addr().get();
        let from = bytes.as_ptr().addr().checked_sub(base)?;
        (from < self.segment.len()).then_some(from as u64)
    }

    /// Bytes in use.
    #[must_use]
    pub fn in_use(&self) -> usize {
        self.segment.len() - self.free_list().free.values().sum::<usize>()
    }

    fn free_list(&self) -> MutexGuard<'_, FreeList> {
        // Every change of the list is complete before anything can panic.
        self.free_list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of a small arena: three steps, so that allocation goes on while it is used.
    const LEN: usize = 3 * STEP;

    #[test]
    fn tensors_are_zero_disjoint_and_returned() {
        let arena = Arena::new(LEN).unwrap();
        // A simple generator is enough: what matters is that sizes and lifetimes mix.
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let mut draw = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % below
        };
        let mut held: Vec<(u8, Tensor)> = Vec::new();
        let mut refused = 0;
        for round in 0..2000_u32 {
            let mark = (round % 251 + 1) as u8;
            if draw(3) > 0 {
                let len = 1 << draw(21);
                match arena.tensor(DType::U8, &[len]) {
                    Ok(mut tensor) => {
                        let bytes = tensor.as_bytes_mut().unwrap();
                        assert!(bytes.iter().all(|byte| *byte == 0), "round {round}: not cleared");
                        assert_eq!(bytes.as_ptr().addr() % LINE, 0);
                        bytes.fill(mark);
                        held.push((mark, tensor));
                    }
                    Err(ArenaError::Full { capacity, asked }) => {
                        assert_eq!((capacity, asked), (LEN, len));
                        refused += 1;
                    }
                    Err(error) => panic!("{error}"),
                }
            } else if !held.is_empty() {
                let (mark, tensor) = held.swap_remove(draw(held.len() as u64) as usize);
                assert!(tensor.as_bytes().unwrap().iter().all(|byte| *byte == mark));
            }
        }
        assert!(refused > 0, "the arena was never full: the test is too easy");
        let used: usize =
            held.iter().map(|(_, tensor)| tensor.byte_len().next_multiple_of(LINE)).sum();
        assert_eq!(arena.in_use(), used);
        held.clear();
        assert_eq!(arena.in_use(), 0);
        assert_eq!(arena.free_list().free, BTreeMap::from([(0, LEN)]), "ranges were not joined");
        assert!(arena.tensor(DType::U8, &[LEN]).is_ok());
    }

    #[test]
    fn places_are_those_of_the_segment() {
        let arena = Arena::new(LEN).unwrap();
        let first = arena.tensor(DType::F32, &[3]).unwrap();
        let second = arena.tensor(DType::F64, &[2, 2]).unwrap();
        assert_eq!(arena.place(first.as_bytes().unwrap()), Some(0));
        assert_eq!(arena.place(&second.as_bytes().unwrap()[8..]), Some(LINE as u64 + 8));
        assert_eq!(arena.place(&[0; 4]), None);
        assert_eq!(arena.place(&[]), None);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let arena = Arena::new(LEN).unwrap();
        let asked = LEN + 1;
        let full = arena.tensor(DType::U8, &[asked]).unwrap_err();
        assert!(full.to_string().contains(&asked.to_string()), "{full}");
        assert!(matches!(
            arena.tensor(DType::F64, &[usize::MAX, 2]).unwrap_err(),
            ArenaError::Shape(_)
        ));
        assert_eq!(arena.in_use(), 0);
        assert!(matches!(Arena::new(0).unwrap_err(), SegmentError::Length { len: 0 }));
    }
}
