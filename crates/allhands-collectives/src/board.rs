//! The boards of a host's ranks, as the engine sees them.

use allhands_engine::flat::{self, Found, Lent, Note};
use allhands_plan::Rank;
use allhands_shm::board::{Head, LentAt, PLACES};
use allhands_tensor::foreign::ForeignBytes;
use allhands_wire::Fingerprint;

pub use allhands_shm::board::Board;

/// A board behind the engine's trait.
pub(crate) struct SharedBoard(pub(crate) Board);

impl SharedBoard {
    /// Where bytes lie in the memory that this rank lends from, if they do.
    #[inline]
    pub(crate) fn place(&self, bytes: &[u8]) -> Option<u64> {
        self.0.arena()?.place(bytes)
    }

    /// Says that what this rank has lent is its own again.
    pub(crate) fn withdraw(&mut self) {
        self.0.withdraw();
    }
}

impl flat::Board for SharedBoard {
    const PLACES: u64 = PLACES as u64;

    #[inline]
    fn open(&mut self, len: usize) -> Option<&mut [u8]> {
        self.0.open(len)
    }

    #[inline]
    fn publish(&mut self, note: &Note) {
        self.0.publish(&head(note));
    }

    #[inline]
    fn lend(&mut self, note: &Note, lent: &Lent) -> bool {
        self.0.lend(&head(note), LentAt { data: lent.data, input: lent.input })
    }

    #[inline]
    fn published(&self) -> u64 {
        self.0.published()
    }

    #[inline]
    fn look(&self, rank: Rank, number: u64) -> Option<Found> {
        let head = self.0.look(rank.index(), number)?;
        let fingerprint = Fingerprint(head.fingerprint);
        let note = Note { seq: head.seq, fingerprint, len: head.len, tile: head.tile };
        let lent = head.lent.map(|LentAt { data, input }| Lent { data, input });
        Some(Found { note, lent })
    }

    #[inline]
    fn copied(&self, rank: Rank, number: u64, from: usize, len: usize) -> Option<ForeignBytes<'_>> {
        self.0.copied(rank.index(), number, from, len)
    }

    #[inline]
    fn lent(&self, rank: Rank, from: u64, len: usize) -> Option<ForeignBytes<'_>> {
        self.0.lent(rank.index(), from, len)
    }

    fn is_withdrawn(&self, rank: Rank) -> bool {
        self.0.is_withdrawn(rank.index())
    }

    #[inline]
    fn take(&mut self, rank: Rank, number: u64) {
        self.0.take(rank.index(), number);
    }

    #[inline]
    fn taken(&self, rank: Rank) -> u64 {
        self.0.taken(rank.index())
    }
}

#[inline]
fn head(note: &Note) -> Head {
    let Note { seq, fingerprint, len, tile } = *note;
    Head { seq, fingerprint: fingerprint.0, len, tile, lent: None }
}
