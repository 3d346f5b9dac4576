//! What can go wrong on the way to shared memory.

use std::io;
use std::time::Duration;

use allhands_wire::{HandshakeError, Peer};

/// Longest segment: far above every use, far below what would wrap an address.
pub const SEGMENT_MAX: usize = 1 << 40;

/// Why a segment is not to be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SegmentError {
    /// The operating system has no segments.
    #[error("memory is shared on Linux only")]
    Unsupported,
    /// The operating system refuses.
    #[error("shared memory of {len} bytes: cannot {what}: {source}")]
    System {
        /// What was asked of it.
        what: &'static str,
        /// Bytes of the segment.
        len: usize,
        /// What it said.
        source: io::Error,
    },
    /// A length of nothing, or beyond [`SEGMENT_MAX`].
    #[error("shared memory of {len} bytes is not within 1..={SEGMENT_MAX}")]
    Length {
        /// The length.
        len: u64,
    },
    /// A peer's segment lacks the seals that make it safe to map.
    #[error("a peer's shared memory is not sealed: it could shrink or change its writer")]
    Unsealed,
    /// A peer's segment is shorter than it must be.
    #[error("a peer's shared memory has {len} bytes instead of {expected}")]
    Short {
        /// Its length.
        len: u64,
        /// The length that was agreed on.
        expected: usize,
    },
}

/// Why memory is not shared with a rank.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MeetError {
    /// The operating system refuses.
    #[error("cannot {what}: {source}")]
    System {
        /// What was asked of it.
        what: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// It did not come, or did not answer, in time.
    #[error("{peer} did not answer within {waited:.1?}")]
    Late {
        /// Who.
        peer: Peer,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The connection to it broke.
    #[error("the connection to {peer} broke: {source}")]
    Lost {
        /// Who.
        peer: Peer,
        /// What the system said.
        source: io::Error,
    },
    /// It belongs to another user.
    #[error("{peer} runs as user {uid}, not as this rank's")]
    OtherUser {
        /// Who.
        peer: Peer,
        /// Its user.
        uid: u32,
    },
    /// It is not who it should be.
    #[error("{peer} did not prove that it belongs to the job: {source}")]
    Unproven {
        /// Who.
        peer: Peer,
        /// Where the handshake ended.
        source: HandshakeError,
    },
    /// What it sent is not what the protocol says.
    #[error("{peer} sent an offer that makes no sense")]
    Garbled {
        /// Who.
        peer: Peer,
    },
    /// This rank cannot map its memory.
    #[error("cannot map the memory of {peer}: {source}")]
    Unmapped {
        /// Who.
        peer: Peer,
        /// Why.
        source: SegmentError,
    },
    /// It cannot use this rank's memory.
    #[error("{peer} cannot use this rank's memory; its own log says why")]
    Refused {
        /// Who.
        peer: Peer,
    },
    /// Too many strangers connected.
    #[error("{strangers} strangers connected, the last of them instead of {peer}")]
    Crowded {
        /// How many.
        strangers: u32,
        /// Who was expected.
        peer: Peer,
    },
}

/// Why this rank has no memory to share.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unavailable {
    /// There are too many ranks.
    #[error("{world} ranks are too many to share memory, {limit} are the most")]
    World {
        /// Ranks of the mesh.
        world: u32,
        /// The most ranks that share memory.
        limit: u32,
    },
    /// There is no segment.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// There is no event to sleep on.
    #[error("cannot make an event: {source}")]
    Event {
        /// What the system said.
        source: io::Error,
    },
    /// There is no socket for the others to come to.
    #[error(transparent)]
    Socket(#[from] MeetError),
}

/// Why the ranks of a mesh do not even know who shares memory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShareError<E: std::error::Error + 'static> {
    /// They cannot tell each other.
    #[error(transparent)]
    Exchange(E),
    /// The system lets nobody wait for an event, while others count on this rank to be woken by one.
    #[error("cannot watch an event: {source}")]
    Watch {
        /// What the system said.
        source: io::Error,
    },
}
