//! Parallel aggregated trees: the rounds that all-gather and reduce-scatter share.
//!
//! Jeaugey, "PAT: a new algorithm for all-gather and reduce-scatter operations at scale" (NCCL 2.23),
//! arXiv 2506.20252. Every block travels down a binomial tree of its own, far partners first; the trees of
//! all blocks run at the same time, and as many of them as a step may carry are aggregated. The block of
//! rank b reaches rank b + o from rank b + o − d, where d is the lowest bit of the *offset* o.
//!
//! With `2^q` chosen so that a step carries enough elements: first the offsets that are multiples of
//! `2^q`, in a logarithmic phase; then offsets 1 to `2^q − 1` beyond each of them, one step each.
//! `(⌈log2 P⌉ − q + 2^q − 1) α + (P−1)/P nβ`. A reduce-scatter goes the same way back, near partners first,
//! and needs room for about `log2 P` partial results of each aggregated tree.

use crate::blocks::Blocks;

/// Elements that a step may carry before fewer trees are aggregated.
pub(crate) const STEP_ELEMENTS: u64 = 1 << 16;

/// One round: blocks at the offsets `first`, `first + stride`, … move by `distance` ranks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Round {
    /// Lowest bit of each of the offsets.
    pub(crate) distance: u32,
    pub(crate) first: u32,
    pub(crate) stride: u32,
}

impl Round {
    /// The offsets at which blocks arrive.
    pub(crate) fn offsets(self, world: u32) -> impl Iterator<Item = u32> + Clone {
        (self.first..world).step_by(self.stride as usize)
    }
}

/// How trees are aggregated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pat {
    world: u32,
    /// q of the module documentation.
    low: u32,
}

impl Pat {
    pub(crate) fn new(blocks: &Blocks, world: u32) -> Self {
        let block = (blocks.offset(world) / u64::from(world)).max(1);
        let trees = (STEP_ELEMENTS / block).clamp(1, u64::from(world)) as u32;
        let mut low = 0;
        while world.div_ceil(1 << low) > trees {
            low += 1;
        }
        Self { world, low }
    }

    /// `⌈log2 P⌉`: the distances are the powers of two below it.
    pub(crate) fn levels(world: u32) -> u32 {
        u32::BITS - (world - 1).leading_zeros()
    }

    /// All rounds in the order of an all-gather.
    pub(crate) fn rounds(self) -> impl DoubleEndedIterator<Item = Round> {
        let aggregated = (self.low..Self::levels(self.world)).rev().map(|level| {
            let distance = 1 << level;
            Round { distance, first: distance, stride: 2 * distance }
        });
        let stride = 1 << self.low;
        let linear = (1..stride.min(self.world)).map(move |first: u32| Round {
            distance: 1 << first.trailing_zeros(),
            first,
            stride,
        });
        aggregated.chain(linear)
    }

    /// The receive of an all-gather after which `round` has what it sends: level of its distance and
    /// number among that level's receives from 1. `None` if only own blocks are sent.
    pub(crate) fn needs(self, round: Round) -> Option<(u32, u32)> {
        let levels = Self::levels(self.world);
        if round.distance == round.first && round.stride == 2 * round.distance {
            let level = round.distance.trailing_zeros() + 1;
            return (level < levels).then_some((level, 1));
        }
        let parent = round.first - round.distance;
        if parent == 0 {
            return (self.low < levels).then_some((self.low, 1));
        }
        let level = parent.trailing_zeros();
        Some((level, (parent >> (level + 1)) + 1))
    }
}
