//! Waking ranks that sleep.
//!
//! A rank that is about to sleep raises its `sleeping` word, looks once more at everything it waits for, and sleeps on
//! a descriptor. Whoever writes something for it looks at the word afterwards and, if it is up, writes the descriptor.
//! One of the two must see the other: the writer's store comes before its load of the word, the sleeper's store of
//! the word before its load of what was written.
//!
//! Two full fences would do, but the writer's would cost every message the time until its store has reached the
//! other core. So the sleeper, which has time, pays for both: `membarrier` makes every core that runs one of the
//! processes that registered execute a full fence between two of its instructions. Wherever it strikes in the writer, either
//! the writer's store is before it, and the sleeper's last look, after it, sees it; or the writer's load is after it,
//! and sees the word. Where a side lacks `membarrier`, the writer has its own fence.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;

use allhands_transport::ProgressRequests;
use rustix::event::EventfdFlags;
use rustix::thread::{MembarrierCommand, membarrier, membarrier_query};

use crate::layout::Layout;
use crate::primitive::AtomicU64;
pub use crate::protocol::Barrier;
use crate::protocol::{arm, disarm, sleeps};
use crate::segment::{OwnSegment, PeerSegment};

impl Barrier {
    /// Registers this process, if the system has what it takes. There is one registration a process;
    /// repeating it changes nothing.
    #[must_use]
    pub fn register() -> Self {
        let needed =
            [MembarrierCommand::GlobalExpedited, MembarrierCommand::RegisterGlobalExpedited];
        let query = membarrier_query();
        let has = needed.into_iter().all(|command| query.contains_command(command));
        if has && membarrier(MembarrierCommand::RegisterGlobalExpedited).is_ok() {
            Self::Remote
        } else {
            Self::Local
        }
    }
}

/// An event: a descriptor on which a rank sleeps, or by which it is asked to read.
///
/// # Errors
/// The system has no descriptors left.
pub fn event() -> std::io::Result<OwnedFd> {
    Ok(rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)
}

/// How to wake one peer.
#[derive(Debug)]
struct Sleeper {
    sleeping: NonNull<u8>,
    wake: OwnedFd,
    progress: OwnedFd,
    barrier: Barrier,
    _segment: Arc<PeerSegment>,
}

/// How to wake the ranks of a host, and how this rank sleeps.
#[derive(Debug)]
pub struct Wakers {
    mine: NonNull<u8>,
    wake: OwnedFd,
    barrier: Barrier,
    sleepers: Vec<Option<Sleeper>>,
    _segment: Arc<OwnSegment>,
}

// SAFETY: The pointers lead to words that are only accessed as atomics, in mappings that are kept alive.
unsafe impl Send for Wakers {}
// SAFETY: As for Send.
unsafe impl Sync for Wakers {}

/// What a peer is woken by.
#[derive(Debug)]
pub struct PeerWaker {
    /// Its segment.
    pub segment: Arc<PeerSegment>,
    /// The descriptor it sleeps on.
    pub wake: OwnedFd,
    /// The descriptor by which it is asked to read.
    pub progress: OwnedFd,
    /// Whether it fences for those who write to it.
    pub barrier: Barrier,
}

impl Wakers {
    /// Wakers of the ranks of a host; `None` for this rank and those elsewhere.
    #[must_use]
    pub fn new(
        layout: Layout,
        own: Arc<OwnSegment>,
        wake: OwnedFd,
        barrier: Barrier,
        peers: Vec<Option<PeerWaker>>,
    ) -> Self {
        assert!(own.len() >= layout.segment_len(), "an own segment of {} bytes", own.len());
        let at = layout.sleeping_at();
        // SAFETY: The layout's parts are inside the segment, which was checked.
        let mine = unsafe { own.base().add(at) };
        let sleeper = |peer: PeerWaker| {
            let len = peer.segment.len();
            assert!(len >= layout.segment_len(), "a peer's segment of {len} bytes");
            let both = [barrier, peer.barrier] == [Barrier::Remote; 2];
            Sleeper {
                // SAFETY: As above.
                sleeping: unsafe { peer.segment.base().add(at) },
                wake: peer.wake,
                progress: peer.progress,
                barrier: if both { Barrier::Remote } else { Barrier::Local },
                _segment: peer.segment,
            }
        };
        let sleepers = peers.into_iter().map(|peer| peer.map(sleeper)).collect();
        Self { mine, wake, barrier, sleepers, _segment: own }
    }

    /// The descriptor on which this rank sleeps; readable once it was woken.
    #[must_use]
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// This rank is about to sleep: whoever writes from now on wakes it. What was written before is to be looked for
    /// after this.
    pub fn arm(&self) {
        arm(word(self.mine));
        if self.barrier == Barrier::Remote {
            // It cannot fail once it was registered; if it did, the sleep ends by its timeout.
            let _ = membarrier(MembarrierCommand::GlobalExpedited);
        }
    }

    /// This rank does not sleep.
    #[inline]
    pub fn disarm(&self) {
        disarm(word(self.mine));
    }

    /// Something was written for `rank`.
    #[inline]
    pub fn wake(&self, rank: usize) {
        if let Some(Some(sleeper)) = self.sleepers.get(rank) {
            sleeper.wake();
        }
    }

    /// There is no room left for `rank`: whether it sleeps or has nothing to do, it must read.
    #[cold]
    pub fn request_progress(&self, rank: usize) {
        if let Some(Some(sleeper)) = self.sleepers.get(rank) {
            sleeper.signal();
            signal(&sleeper.progress);
        }
    }

    /// Something was written for everybody.
    #[inline]
    pub fn wake_all(&self) {
        for sleeper in self.sleepers.iter().flatten() {
            sleeper.wake();
        }
    }
}

impl Sleeper {
    #[inline]
    fn wake(&self) {
        if sleeps(word(self.sleeping), self.barrier) {
            self.signal();
        }
    }

    #[cold]
    fn signal(&self) {
        signal(&self.wake);
    }
}

fn signal(event: &OwnedFd) {
    // A full counter means that it was signalled already.
    let _ = rustix::io::write(event, &1_u64.to_ne_bytes());
}

/// The event by which peers ask for progress that wait for this rank to read.
#[derive(Debug)]
pub struct ProgressEvent(pub OwnedFd);

impl ProgressRequests for ProgressEvent {
    fn take(&self) -> bool {
        // Reading an event that nobody signalled fails at once.
        rustix::io::read(&self.0, &mut [0; 8]).is_ok()
    }
}

/// The word at `place`, which lies in a mapping that the caller's owner keeps alive.
#[inline]
fn word<'a>(place: NonNull<u8>) -> &'a AtomicU64 {
    // SAFETY: Private to this module: all places are `sleeping` words of live mappings, aligned to a line, and only
    // accessed as atomics. Read-only mappings are only read.
    unsafe { place.cast::<AtomicU64>().as_ref() }
}
