//! The binomial tree that broadcast, reduce, gather and scatter share.
//!
//! Ranks are grouped in aligned blocks of 1, 2, 4, … ranks. The root leads every block it lies in, the
//! first rank leads the others, and at each level the leader of a block meets the leader of its
//! sibling. So every subtree is a run of neighbouring ranks, whatever the root and the world size: its
//! elements lie side by side, and operands meet in the canonical order.

use std::ops::Range;

use crate::plan::Rank;

/// The tree of one world and root.
#[derive(Clone, Copy)]
pub(crate) struct Tree {
    world: u32,
    root: Rank,
}

/// A subtree below some rank.
#[derive(Clone, Copy)]
pub(crate) struct Branch {
    /// Who leads it.
    pub(crate) leader: Rank,
    /// First rank in it.
    pub(crate) start: u32,
    /// First rank past it.
    pub(crate) end: u32,
}

impl Tree {
    pub(crate) fn new(world: u32, root: Rank) -> Self {
        Self { world, root }
    }

    fn levels(self) -> u32 {
        u32::BITS - (self.world - 1).leading_zeros()
    }

    /// Block number `block` of 2^level ranks, unless it lies past the world.
    fn branch(self, level: u32, block: u64) -> Option<Branch> {
        let start = block << level;
        if start >= u64::from(self.world) {
            return None;
        }
        let end = ((block + 1) << level).min(u64::from(self.world)) as u32;
        let start = start as u32;
        let leader = if (start..end).contains(&self.root.0) { self.root } else { Rank(start) };
        Some(Branch { leader, start, end })
    }

    fn around(self, level: u32, rank: Rank) -> Branch {
        let block = u64::from(rank.0) >> level;
        self.branch(level, block).unwrap_or(Branch { leader: rank, start: rank.0, end: rank.0 + 1 })
    }

    /// Levels of the largest block that `rank` leads.
    fn height(self, rank: Rank) -> u32 {
        let levels = self.levels();
        (0..levels).find(|&level| self.around(level + 1, rank).leader != rank).unwrap_or(levels)
    }

    /// Whom `rank` sits below; nobody above the root.
    pub(crate) fn parent(self, rank: Rank) -> Option<Rank> {
        let above = self.height(rank) + 1;
        (above <= self.levels()).then(|| self.around(above, rank).leader)
    }

    /// The ranks of the subtree that `rank` leads.
    pub(crate) fn subtree(self, rank: Rank) -> Range<u32> {
        let branch = self.around(self.height(rank), rank);
        branch.start..branch.end
    }

    /// The branches directly below `rank`, the smallest first.
    pub(crate) fn children(self, rank: Rank) -> impl DoubleEndedIterator<Item = Branch> {
        (0..self.height(rank))
            .filter_map(move |level| self.branch(level, (u64::from(rank.0) >> level) ^ 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rank_but_the_root_hangs_below_its_parent_exactly_once() {
        for world in 1..=33 {
            for root in 0..world {
                let tree = Tree::new(world, Rank(root));
                assert_eq!(tree.parent(Rank(root)), None);
                assert_eq!(tree.subtree(Rank(root)), 0..world);
                let mut seen = vec![0; world as usize];
                for rank in (0..world).map(Rank) {
                    let mut inside = vec![rank.0];
                    for child in tree.children(rank) {
                        seen[child.leader.index()] += 1;
                        assert_eq!(tree.parent(child.leader), Some(rank));
                        assert_eq!(tree.subtree(child.leader), child.start..child.end);
                        inside.extend(child.start..child.end);
                    }
                    inside.sort_unstable();
                    assert_eq!(inside, tree.subtree(rank).collect::<Vec<_>>());
                }
                seen[root as usize] += 1;
                assert!(seen.iter().all(|&n| n == 1), "world {world}, root {root}: {seen:?}");
            }
        }
    }
}
