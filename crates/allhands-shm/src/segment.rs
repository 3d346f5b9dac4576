//! Memory of one rank that others map read-only.
//!
//! A segment is an anonymous file (`memfd`): it has no name in any file system, and goes when the last process that
//! maps it goes. Its owner maps it writable, allocates memory before it is used, so that a host without any says so then and not
//! by a signal later, and seals it: against growing, shrinking, further seals, and further writable mappings. So
//! every byte has one writer, and no reader can be made to fault by a file that shrinks.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::{Mutex, PoisonError};

use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};

pub use crate::error::{SEGMENT_MAX, SegmentError};

/// The seals that a segment has, and without which nobody maps it.
fn seals() -> SealFlags {
    SealFlags::GROW | SealFlags::SHRINK | SealFlags::FUTURE_WRITE | SealFlags::SEAL
}

/// A mapping, unmapped on drop.
#[derive(Debug)]
struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: A mapping is an address range of the process, valid in every thread. Access goes through raw pointers and
// atomics, whose users see to synchronisation.
unsafe impl Send for Mapping {}
// SAFETY: As for Send.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(fd: BorrowedFd<'_>, len: usize, prot: ProtFlags, flags: MapFlags) -> io::Result<Self> {
        // SAFETY: No address is asked for, so no existing mapping is replaced.
        let base = unsafe {
            rustix::mm::mmap(std::ptr::null_mut(), len, prot, MapFlags::SHARED | flags, fd, 0)?
        };
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { base, len })
    }
}

impl Mapping {
    fn advise_huge_pages(&self) {
        let advice = rustix::mm::Advice::LinuxHugepage;
        // SAFETY: The advice changes neither what the memory holds nor who may access it. A host without large pages for shared
        // memory refuses it, which changes nothing.
        let _ = unsafe { rustix::mm::madvise(self.base.as_ptr().cast(), self.len, advice) };
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: The range was mapped by `new` and is unmapped once; who holds pointers into it holds the mapping.
        // Failing leaves memory mapped, which harms nobody.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// This rank's segment: the only writable mapping there will ever be.
#[derive(Debug)]
pub struct OwnSegment {
    mapping: Mapping,
    fd: OwnedFd,
    /// Parts that have an owner who writes them.
    claimed: Mutex<Vec<Range<usize>>>,
}

impl OwnSegment {
    /// A segment of `len` zero bytes, all of them allocated.
    ///
    /// # Errors
    /// The system has no memory, no `memfd`, or no seals.
    pub fn create(len: usize) -> Result<Self, SegmentError> {
        Self::make(len, Allocation::Now)
    }

    /// A segment whose memory is allocated by [`OwnSegment::allocate`], part by part.
    ///
    /// # Errors
    /// As [`OwnSegment::create`].
    pub fn reserve(len: usize) -> Result<Self, SegmentError> {
        Self::make(len, Allocation::Later)
    }

    fn make(len: usize, allocation: Allocation) -> Result<Self, SegmentError> {
        if len == 0 || len > SEGMENT_MAX {
            return Err(SegmentError::Length { len: len as u64 });
        }
        let failed = |what| {
            move |error: rustix::io::Errno| SegmentError::System { what, len, source: error.into() }
        };
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd = rustix::fs::memfd_create("allhands", flags).map_err(failed("create it"))?;
        rustix::fs::ftruncate(&fd, len as u64).map_err(failed("size it"))?;
        if allocation == Allocation::Now {
            rustix::fs::fallocate(&fd, FallocateFlags::empty(), 0, len as u64)
                .map_err(failed("allocate it"))?;
        }
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        let mapping = Mapping::new(fd.as_fd(), len, prot, MapFlags::empty())
            .map_err(|source| SegmentError::System { what: "map it", len, source })?;
        rustix::fs::fcntl_add_seals(&fd, seals()).map_err(failed("seal it"))?;
        Ok(Self { mapping, fd, claimed: Mutex::default() })
    }

    /// Gives a part to one who will write it: each byte has one writer.
    ///
    /// # Panics
    /// If a byte of it was given out before, or is outside the segment.
    pub(crate) fn claim(&self, part: Range<usize>) {
        assert!(part.end <= self.mapping.len, "{part:?} of a segment of {}", self.mapping.len);
        let mut claimed = self.claimed.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = claimed.iter().find(|other| other.start < part.end && part.start < other.end);
        assert!(taken.is_none(), "{part:?} of a segment is in use as {taken:?}");
        claimed.push(part);
    }

    /// Allocates the memory of `from..from + len`, so that writing there cannot fail.
    ///
    /// # Errors
    /// The range is outside the segment, or the host has no memory.
    pub fn allocate(&self, from: usize, len: usize) -> Result<(), SegmentError> {
        if from.checked_add(len).is_none_or(|end| end > self.mapping.len) {
            return Err(SegmentError::Length { len: len as u64 });
        }
        rustix::fs::fallocate(&self.fd, FallocateFlags::empty(), from as u64, len as u64).map_err(
            |error| SegmentError::System { what: "allocate part of it", len, source: error.into() },
        )
    }

    /// Asks for large pages, which a host may have for shared memory or not.
    pub fn advise_huge_pages(&self) {
        self.mapping.advise_huge_pages();
    }

    /// The descriptor, to be passed to peers.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.mapping.len
    }

    /// Whether there are none: never.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.mapping.len == 0
    }

    /// Where it is mapped, writable, aligned to a page.
    #[must_use]
    pub fn base(&self) -> NonNull<u8> {
        self.mapping.base
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Allocation {
    Now,
    Later,
}

/// A peer's segment, mapped read-only.
#[derive(Debug)]
pub struct PeerSegment {
    mapping: Mapping,
}

impl PeerSegment {
    /// As [`OwnSegment::advise_huge_pages`].
    pub fn advise_huge_pages(&self) {
        self.mapping.advise_huge_pages();
    }

    /// Maps a peer's segment, which must be sealed and have `len` bytes at least.
    ///
    /// # Errors
    /// It is not sealed, is too short, or the system refuses.
    pub fn map(fd: BorrowedFd<'_>, len: usize) -> Result<Self, SegmentError> {
        let failed = |what| {
            move |error: rustix::io::Errno| SegmentError::System { what, len, source: error.into() }
        };
        if len == 0 || len > SEGMENT_MAX {
            return Err(SegmentError::Length { len: len as u64 });
        }
        let found = rustix::fs::fcntl_get_seals(fd).map_err(failed("read a peer's seals"))?;
        if !found.contains(seals()) {
            return Err(SegmentError::Unsealed);
        }
        // After the seals: a sealed segment keeps its length.
        let stat = rustix::fs::fstat(fd).map_err(failed("measure a peer's"))?;
        if (stat.st_size as u64) < len as u64 {
            return Err(SegmentError::Short { len: stat.st_size as u64, expected: len });
        }
        let mapping = Mapping::new(fd, len, ProtFlags::READ, MapFlags::empty())
            .map_err(|source| SegmentError::System { what: "map a peer's", len, source })?;
        Ok(Self { mapping })
    }

    /// Bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.mapping.len
    }

    /// Whether there are none: never.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.mapping.len == 0
    }

    /// Where it is mapped, for reading.
    #[must_use]
    pub fn base(&self) -> NonNull<u8> {
        self.mapping.base
    }
}
