//! Where things lie in a rank's segment.
//!
//! | part | bytes | written by its owner for |
//! |---|---|---|
//! | sleeping | a line | writers that have to wake it |
//! | heads | a line a rank | the writers of the rings that it reads |
//! | tails | a line a rank | the readers of its rings |
//! | rings | [`Layout::ring_len`] a rank | the bytes themselves |
//! | board | [`board_len`] | everybody, see [`board`](crate::board) |
//!
//! A word that one core writes and another polls has a cache line for itself.

use crate::board::board_len;

/// Bytes of a cache line.
pub const LINE: usize = 64;

/// The most ranks that share memory: each holds a ring for every other.
pub const WORLD_MAX: u32 = 128;

/// Bytes that all rings of a rank take together, as far as their bounds allow.
const RINGS_BYTES: usize = 2 << 20;

/// Bounds of one ring: two pages of sockets' worth at least, and not beyond what stays in a second-level cache.
const RING_MIN: usize = 16 << 10;
const RING_MAX: usize = 256 << 10;

/// The parts of the segments of a host's `world` ranks; all segments have one layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    world: u32,
}

impl Layout {
    /// The layout for a mesh of `world` ranks; `None` beyond [`WORLD_MAX`].
    #[must_use]
    pub const fn new(world: u32) -> Option<Self> {
        if world == 0 || world > WORLD_MAX { None } else { Some(Self { world }) }
    }

    /// Ranks.
    #[must_use]
    pub const fn world(self) -> u32 {
        self.world
    }

    /// Bytes of one ring, a power of two.
    #[must_use]
    pub const fn ring_len(self) -> usize {
        let fair = 1 << (RINGS_BYTES / self.world as usize).ilog2();
        if fair < RING_MIN {
            RING_MIN
        } else if fair > RING_MAX {
            RING_MAX
        } else {
            fair
        }
    }

    pub(crate) const fn sleeping_at(self) -> usize {
        0
    }

    pub(crate) const fn head_at(self, rank: usize) -> usize {
        LINE * (1 + rank)
    }

    pub(crate) const fn tail_at(self, rank: usize) -> usize {
        LINE * (1 + self.world as usize + rank)
    }

    pub(crate) const fn ring_at(self, rank: usize) -> usize {
        LINE * (1 + 2 * self.world as usize) + self.ring_len() * rank
    }

    /// Where the board begins.
    #[must_use]
    pub const fn board_at(self) -> usize {
        self.ring_at(self.world as usize)
    }

    /// Bytes of a segment.
    #[must_use]
    pub const fn segment_len(self) -> usize {
        self.board_at() + board_len(self.world)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_aligned_and_do_not_overlap() {
        for world in 1..=WORLD_MAX {
            let layout = Layout::new(world).unwrap();
            let ranks = world as usize;
            assert!(layout.ring_len().is_power_of_two());
            let rings = layout.ring_len() * ranks;
            assert!(rings <= RINGS_BYTES || layout.ring_len() == RING_MIN, "{rings} for {world}");
            assert_eq!(layout.head_at(0), layout.sleeping_at() + LINE);
            assert_eq!(layout.head_at(ranks), layout.tail_at(0));
            assert_eq!(layout.tail_at(ranks), layout.ring_at(0));
            assert_eq!(layout.board_at(), layout.ring_at(ranks - 1) + layout.ring_len());
            assert_eq!(layout.board_at() % LINE, 0);
        }
        assert_eq!(Layout::new(0), None);
        assert_eq!(Layout::new(WORLD_MAX + 1), None);
        // A small host's rings are long, a large one's memory is bounded.
        assert_eq!(Layout::new(2).unwrap().ring_len(), 256 << 10);
        assert!(Layout::new(WORLD_MAX).unwrap().segment_len() < 4 << 20);
    }
}
