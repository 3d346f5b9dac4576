//! Bytes that another process may write: memory that is shared, but not by Rust's rules.
//!
//! A `&[u8]` promises that nobody writes while it lives. Nobody can promise that for another process, so memory
//! that one writes and another reads is never a slice here. [`ForeignBytes`] is an address and a length; its bytes
//! are copied out, or combined by a [`Kernel`](crate::Kernel), through raw pointers. When the other side breaks the
//! protocol and writes meanwhile, the bytes that come out are mixed, and nothing else happens.

use std::fmt;
use std::marker::PhantomData;

/// Bytes that stay mapped for `'a`, but may change at any time.
#[derive(Clone, Copy)]
pub struct ForeignBytes<'a> {
    start: *const u8,
    len: usize,
    memory: PhantomData<&'a u8>,
}

// SAFETY: A handle only reads, and the memory stays mapped for the lifetime in every thread.
unsafe impl Send for ForeignBytes<'_> {}
// SAFETY: As for Send; there is no interior state.
unsafe impl Sync for ForeignBytes<'_> {}

impl<'a> ForeignBytes<'a> {
    /// Bytes of another process.
    ///
    /// # Safety
    /// * `start..start + len` stays mapped and readable for `'a`, and reading it cannot fault: a file behind it is
    ///   sealed against shrinking.
    /// * No reference of this process allows writing to it while `'a` lasts.
    #[inline]
    pub const unsafe fn new(start: *const u8, len: usize) -> Self {
        Self { start, len, memory: PhantomData }
    }

    /// Bytes of this process, to be combined with foreign ones.
    #[inline]
    #[must_use]
    pub const fn of(bytes: &'a [u8]) -> Self {
        Self { start: bytes.as_ptr(), len: bytes.len(), memory: PhantomData }
    }

    /// How many.
    #[inline]
    #[must_use]
    pub const fn len(self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[inline]
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.len == 0
    }

    /// `len` of the bytes, from `from` on.
    ///
    /// # Panics
    /// If there are fewer.
    #[inline]
    #[must_use]
    pub fn sub(self, from: usize, len: usize) -> Self {
        let fits = from.checked_add(len).is_some_and(|end| end <= self.len);
        assert!(fits, "{len} bytes from {from} of foreign memory of {}", self.len);
        Self { start: self.start.wrapping_add(from), len, memory: PhantomData }
    }

    /// Copies the bytes out.
    ///
    /// # Panics
    /// If `target` has another length.
    #[inline]
    pub fn copy_to(self, target: &mut [u8]) {
        assert!(target.len() == self.len, "{} bytes to {} of room", self.len, target.len());
        // SAFETY: The bytes are readable by the contract of `new`, and `target` is exclusively ours, so the two do
        // not overlap. A writer in another process is outside Rust's memory; what is read is bytes, of which
        // every pattern is valid.
        unsafe { std::ptr::copy_nonoverlapping(self.start, target.as_mut_ptr(), self.len) };
    }

    /// Where they begin.
    #[inline]
    pub(crate) const fn as_ptr(self) -> *const u8 {
        self.start
    }
}

impl fmt::Debug for ForeignBytes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ForeignBytes").field("len", &self.len).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_copied_out() {
        let bytes = [1, 2, 3, 4, 5];
        let mut out = [0; 3];
        ForeignBytes::of(&bytes).sub(1, 3).copy_to(&mut out);
        assert_eq!(out, [2, 3, 4]);
        assert!(ForeignBytes::of(&bytes).sub(5, 0).is_empty());
    }

    #[test]
    #[should_panic(expected = "3 bytes from 3 of foreign memory of 5")]
    fn a_part_past_the_end_is_refused() {
        let _ = ForeignBytes::of(&[0; 5]).sub(3, 3);
    }
}
