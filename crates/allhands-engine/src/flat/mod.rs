//! Runs plans of ranks that share memory: one publication serves every reader.
//!
//! Over a byte stream a send to several peers is several messages. In shared memory it is one: a rank
//! *publishes* the bytes of a [`Send`](allhands_plan::Op::Send) once, in memory that all members read, and each
//! receiver reads its part in place. So a plan is *compiled* first ([`FlatPlan`]): the plans of all members say
//! which publication holds which message, a receive whose bytes only feed a reduction becomes an operand of that
//! reduction, and what is left is a short list of instructions. Long buffers are cut into *tiles* that stay in
//! cache; every tile runs the same instructions at another offset.
//!
//! The memory itself is a [`Board`]: one ring of publications for each member, written by it alone. A publication
//! holds a copy of the bytes, or, for buffers in memory that the readers can see, just says where they are (it is
//! *lent*). A reader says how far it has *taken* a member's publications; a place is written again, and a lent
//! buffer changed, only after all readers have.
//!
//! Every publication carries the operation's sequence number and fingerprint, which each reader compares.
//!
//! # Why it does not deadlock
//! A plan is proved without buffering. The compiled order moves publications as early as the plan's waits allow and
//! keeps the order of everything else, a publication waits only for room, and a tile publishes less than a ring
//! holds. Where all ranks lend, a rank fetches results some tiles later than it could; it stays within the ring. Writing
//! to a lent span waits for its readers; where a reader could be waiting for this very rank (both combine in place), the
//! publication is always a copy.

mod compile;
mod group;
mod run;
#[cfg(test)]
mod tests;

use allhands_plan::Rank;
use allhands_tensor::foreign::ForeignBytes;
use allhands_wire::Fingerprint;

pub use compile::{COPIES, FlatPlan, TILE_BYTES};
pub(crate) use group::FlatState;
pub use group::{BOARD_CHANNEL, Ticket};
pub use run::{FlatCall, FlatStep, Memory};

/// What a publication says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Note {
    /// Number of the operation on its channel.
    pub seq: u64,
    /// What the operation is.
    pub fingerprint: Fingerprint,
    /// Bytes published.
    pub len: u32,
    /// Which tile of the operation.
    pub tile: u32,
}

/// Where lent buffers begin in the memory that the publisher lends from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lent {
    /// Offset of `Data`, or [`Lent::NOWHERE`].
    pub data: u64,
    /// Offset of `Input`, or [`Lent::NOWHERE`].
    pub input: u64,
}

impl Lent {
    /// The buffer is not lent.
    pub const NOWHERE: u64 = u64::MAX;
}

/// A publication as a reader finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// What it says of itself.
    pub note: Note,
    /// Where its bytes are, if they were lent.
    pub lent: Option<Lent>,
}

/// Memory that the members of a group on one host share: a ring of publications for each.
///
/// Publications of one member are numbered from 0 and stay readable until every other member has taken them.
/// There is room for the bytes of [`COPIES`] publications of a tile at least.
/// What is read of a member is *its* word: a number is never used before it is checked.
pub trait Board {
    /// How many publications a rank can be ahead of its slowest reader.
    const PLACES: u64;

    /// Room for the bytes of the next publication; `None` while readers still have what is there.
    fn open(&mut self, len: usize) -> Option<&mut [u8]>;

    /// Publishes what was written to the room.
    fn publish(&mut self, note: &Note);

    /// Publishes where bytes are. Returns `false`, having done nothing, while there is no room.
    fn lend(&mut self, note: &Note, lent: &Lent) -> bool;

    /// How many publications this rank has made.
    fn published(&self) -> u64;

    /// The publication `number` of a member, if it is there.
    fn look(&self, rank: Rank, number: u64) -> Option<Found>;

    /// Bytes `from..from + len` of a publication that was found and not taken yet; `None` if a member claims
    /// what cannot be.
    fn copied(&self, rank: Rank, number: u64, from: usize, len: usize) -> Option<ForeignBytes<'_>>;

    /// Bytes of the memory that a member lends from; `None` where it has none, or less.
    fn lent(&self, rank: Rank, from: u64, len: usize) -> Option<ForeignBytes<'_>>;

    /// Whether `rank` has got back what it lent although it was not all taken: its group has failed. If not, what was read of
    /// it before is what it lent.
    fn is_withdrawn(&self, rank: Rank) -> bool;

    /// Says that this rank needs no publication of `rank` below `number` any more.
    fn take(&mut self, rank: Rank, number: u64);

    /// How many of this rank's publications `rank` has taken.
    fn taken(&self, rank: Rank) -> u64;
}
