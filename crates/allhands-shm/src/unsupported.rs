//! Systems on which ranks share no memory: all that the other modules name, as one type without values.

use std::ops::Range;
use std::ptr::NonNull;

use allhands_transport::tcp::{TcpControl, TcpLinks};

use crate::error::{SegmentError, ShareError, Unavailable};
use crate::host::{Exchange, Meeting, Name, Shared};

/// What there is on Linux only.
#[derive(Debug)]
pub enum Absent {}

impl Absent {
    /// Refuses.
    ///
    /// # Errors
    /// Always: [`SegmentError::Unsupported`].
    pub fn reserve(_: usize) -> Result<Self, SegmentError> {
        Err(SegmentError::Unsupported)
    }

    pub(crate) fn open(_: u32) -> Result<Self, Unavailable> {
        Err(SegmentError::Unsupported.into())
    }

    pub(crate) fn allocate(&self, _: usize, _: usize) -> Result<(), SegmentError> {
        match *self {}
    }

    pub(crate) fn claim(&self, _: Range<usize>) {
        match *self {}
    }

    pub(crate) fn advise_huge_pages(&self) {
        match *self {}
    }

    pub(crate) fn len(&self) -> usize {
        match *self {}
    }

    pub(crate) fn base(&self) -> NonNull<u8> {
        match *self {}
    }

    pub(crate) fn wake(&self, _: usize) {
        match *self {}
    }

    pub(crate) fn wake_all(&self) {
        match *self {}
    }

    pub(crate) fn name(&self) -> Name {
        match *self {}
    }

    pub(crate) fn share<E: Exchange>(
        self,
        _: &mut Meeting<'_, E>,
        _: &[Option<Name>],
        _: TcpLinks,
        _: &TcpControl,
    ) -> Result<Shared, ShareError<E::Error>> {
        match self {}
    }
}

pub(crate) mod prepared {
    pub(crate) use super::Absent as Prepared;
}

/// Memory of one rank that others map read-only, on Linux.
pub mod segment {
    pub use super::Absent as OwnSegment;
    pub use super::Absent as PeerSegment;
    pub use crate::error::{SEGMENT_MAX, SegmentError};
}

/// Waking ranks that sleep, on Linux.
pub mod wake {
    pub use super::Absent as Wakers;
}
