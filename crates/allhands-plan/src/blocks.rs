//! How a buffer is cut into one block a rank.

use crate::plan::{Buffer, Rank, Span};
use crate::shape::Counts;

/// Consecutive blocks of a buffer, numbered from 0.
#[derive(Clone, Debug)]
pub(crate) enum Blocks {
    /// Blocks of `len` elements, the first `longer` of them with one more.
    Balanced { len: u64, longer: u64 },
    /// Blocks of one length.
    Equal(u64),
    /// Where each block begins, and the end.
    Table(Vec<u64>),
}

impl Blocks {
    /// Cuts `len` elements into `blocks` blocks: block i has `len / blocks` elements, and one more if
    /// `i < len % blocks`.
    pub(crate) fn balanced(len: u64, blocks: u32) -> Self {
        let blocks = u64::from(blocks);
        Self::Balanced { len: len / blocks, longer: len % blocks }
    }

    /// One block for each of `world` ranks.
    pub(crate) fn of(counts: &Counts, world: u32) -> Self {
        match counts {
            Counts::Equal(count) => Self::Equal(*count),
            Counts::PerRank(counts) => {
                let mut end = 0;
                let mut table = Vec::with_capacity(world as usize + 1);
                table.push(0);
                for count in counts.iter().take(world as usize) {
                    end += count;
                    table.push(end);
                }
                Self::Table(table)
            }
        }
    }

    /// Where block `block` begins; the end for the number past the last.
    pub(crate) fn offset(&self, block: u32) -> u64 {
        let i = u64::from(block);
        match self {
            Self::Balanced { len, longer } => i * len + i.min(*longer),
            Self::Equal(count) => i * count,
            Self::Table(table) => table[block as usize],
        }
    }

    /// Elements of a block.
    pub(crate) fn len(&self, block: u32) -> u64 {
        self.offset(block + 1) - self.offset(block)
    }

    /// Blocks `first..end` of `buffer`.
    pub(crate) fn span(&self, buffer: Buffer, first: u32, end: u32) -> Span {
        let offset = self.offset(first);
        Span::new(buffer, offset, self.offset(end) - offset)
    }

    /// The block of `rank` in `buffer`.
    pub(crate) fn one(&self, buffer: Buffer, rank: Rank) -> Span {
        self.span(buffer, rank.0, rank.0 + 1)
    }
}

/// The other ranks, nearest above first, so that no two ranks begin with the same partner.
pub(crate) fn others(rank: Rank, world: u32) -> impl Iterator<Item = Rank> + Clone {
    (rank.0 + 1..world).chain(0..rank.0).map(Rank)
}

/// The other ranks from 0 up: the order of operands.
pub(crate) fn ascending(rank: Rank, world: u32) -> impl Iterator<Item = Rank> + Clone {
    (0..world).filter(move |r| *r != rank.0).map(Rank)
}

/// The rank `steps` above, around the ring.
pub(crate) fn above(rank: Rank, steps: u32, world: u32) -> Rank {
    Rank((rank.0 + steps) % world)
}

/// The rank `steps` below, around the ring; `steps <= world`.
pub(crate) fn below(rank: Rank, steps: u32, world: u32) -> Rank {
    Rank((rank.0 + world - steps) % world)
}

/// Blocks `start..start + count` around the ring of `world` blocks, cut where the ring closes: the second
/// run, which begins at block 0, may be absent. Both sides of a message cut at the same place.
pub(crate) fn wrapped(start: u32, count: u32, world: u32) -> [Option<(u32, u32)>; 2] {
    if start + count <= world {
        [Some((start, start + count)), None]
    } else {
        [Some((start, world)), Some((0, start + count - world))]
    }
}

/// Reduces any number of ranks to a power of two: of the first `2 * extras` ranks each odd one leaves its
/// part to the even one below, and gets its result from there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fold {
    /// Ranks that stay: a power of two.
    pub(crate) core: u32,
    /// Ranks that do not.
    pub(crate) extras: u32,
}

/// What a rank does in a [`Fold`].
#[derive(Clone, Copy, Debug)]
pub(crate) enum Role {
    /// Member number `index` of the core, perhaps with a rank that leaves its part.
    Core { index: u32, extra: Option<Rank> },
    /// Leaves its part to `partner`.
    Extra { partner: Rank },
}

impl Fold {
    pub(crate) fn new(world: u32) -> Self {
        let core = 1 << world.ilog2();
        Self { core, extras: world - core }
    }

    /// Rounds among the core.
    pub(crate) fn levels(self) -> u32 {
        self.core.ilog2()
    }

    pub(crate) fn role(self, rank: Rank) -> Role {
        if rank.0 >= 2 * self.extras {
            return Role::Core { index: rank.0 - self.extras, extra: None };
        }
        if rank.0.is_multiple_of(2) {
            Role::Core { index: rank.0 / 2, extra: Some(Rank(rank.0 + 1)) }
        } else {
            Role::Extra { partner: Rank(rank.0 - 1) }
        }
    }

    /// The first rank whose part core member `index` holds: itself. `first(index)..first(index + 1)` are
    /// all of them.
    pub(crate) fn first(self, index: u32) -> u32 {
        index + index.min(self.extras)
    }

    /// Rank of a core member.
    pub(crate) fn rank(self, index: u32) -> Rank {
        Rank(self.first(index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn balanced_blocks_cover_everything_and_differ_by_one_at_most() {
        for len in [0_u64, 1, 5, 63, 64, 65, 1 << 40] {
            for count in 1..=65_u32 {
                let blocks = Blocks::balanced(len, count);
                assert_eq!((blocks.offset(0), blocks.offset(count)), (0, len));
                let (first, last) = (blocks.len(0), blocks.len(count - 1));
                assert!(first - last <= 1 && last == len / u64::from(count));
                let longer = (0..count).filter(|block| blocks.len(*block) > last).count() as u64;
                assert!(longer == 0 || longer == len % u64::from(count));
            }
        }
    }

    #[test]
    fn every_rank_is_of_the_core_or_has_a_partner_there() {
        for world in 1..=40 {
            let fold = Fold::new(world);
            let mut held = Vec::new();
            for index in 0..fold.core {
                assert!(
                    matches!(fold.role(fold.rank(index)), Role::Core { index: i, .. } if i == index)
                );
                held.extend(fold.first(index)..fold.first(index + 1));
            }
            assert_eq!(held, (0..world).collect::<Vec<_>>());
            let extras = (0..world).filter(|r| matches!(fold.role(Rank(*r)), Role::Extra { .. }));
            assert_eq!(extras.count() as u32, fold.extras);
        }
    }
}
