//! What a collective computes: its kind and its lengths.

use std::sync::Arc;

use crate::plan::Rank;

/// Elements per rank.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Counts {
    /// The same for every rank.
    Equal(u64),
    /// One entry for each rank.
    PerRank(Arc<[u64]>),
}

impl Counts {
    /// Elements of `rank`.
    #[must_use]
    pub fn of(&self, rank: Rank) -> u64 {
        match self {
            Self::Equal(count) => *count,
            Self::PerRank(counts) => counts.get(rank.index()).copied().unwrap_or(0),
        }
    }

    /// Elements of all ranks below `rank`: where its block begins.
    #[must_use]
    pub fn offset(&self, rank: Rank) -> u64 {
        match self {
            Self::Equal(count) => count * u64::from(rank.0),
            Self::PerRank(counts) => counts.iter().take(rank.index()).sum(),
        }
    }

    /// Elements of all `world` ranks.
    #[must_use]
    pub fn total(&self, world: u32) -> u64 {
        self.offset(Rank(world))
    }
}

/// Where a rank's own contribution to an all-gather lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Own {
    /// In `Input`; it is copied to its block of `Data`.
    Input,
    /// Already in its block of `Data`; `Input` is empty.
    InPlace,
}

/// A collective with its lengths in elements. Lengths must be equal on all ranks, except those of
/// [`Shape::AllToAll`], where each rank knows its own row and column.
///
/// | shape | `Input` | `Data` |
/// |---|---|---|
/// | `AllReduce`, `Broadcast`, `Reduce` | – | `len`, in place (`Reduce`: undefined afterwards except on the root) |
/// | `AllGather` | own count (or nothing, [`Own::InPlace`]) | all counts |
/// | `Gather` | own count | all counts on the root, else nothing |
/// | `Scatter` | all counts on the root, else nothing | own count |
/// | `ReduceScatter` | all counts | own count |
/// | `AllToAll` | sum of `send` | sum of `recv` |
/// | `Barrier` | – | – |
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Shape {
    /// Every rank gets the reduction of all.
    AllReduce {
        /// Elements.
        len: u64,
    },
    /// Every rank gets the root's elements.
    Broadcast {
        /// Elements.
        len: u64,
        /// Whose.
        root: Rank,
    },
    /// The root gets the reduction of all.
    Reduce {
        /// Elements.
        len: u64,
        /// Who gets it.
        root: Rank,
    },
    /// Every rank gets everybody's block.
    AllGather {
        /// Block lengths.
        counts: Counts,
        /// Where the own block lies.
        own: Own,
    },
    /// The root gets everybody's block.
    Gather {
        /// Block lengths.
        counts: Counts,
        /// Who gets them.
        root: Rank,
    },
    /// Every rank gets its block of the root's elements.
    Scatter {
        /// Block lengths.
        counts: Counts,
        /// Whose.
        root: Rank,
    },
    /// Every rank gets its block of the reduction of all.
    ReduceScatter {
        /// Block lengths.
        counts: Counts,
    },
    /// Every rank sends a block to every rank.
    AllToAll {
        /// Elements for each rank.
        send: Counts,
        /// Elements from each rank.
        recv: Counts,
    },
    /// No rank ends before all have begun.
    Barrier,
}

impl Shape {
    /// Name of the collective.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::AllReduce { .. } => "all_reduce",
            Self::Broadcast { .. } => "broadcast",
            Self::Reduce { .. } => "reduce",
            Self::AllGather { .. } => "all_gather",
            Self::Gather { .. } => "gather",
            Self::Scatter { .. } => "scatter",
            Self::ReduceScatter { .. } => "reduce_scatter",
            Self::AllToAll { .. } => "all_to_all",
            Self::Barrier => "barrier",
        }
    }

    /// The root, if the collective has one.
    #[must_use]
    pub const fn root(&self) -> Option<Rank> {
        match self {
            Self::Broadcast { root, .. }
            | Self::Reduce { root, .. }
            | Self::Gather { root, .. }
            | Self::Scatter { root, .. } => Some(*root),
            Self::AllReduce { .. }
            | Self::AllGather { .. }
            | Self::ReduceScatter { .. }
            | Self::AllToAll { .. }
            | Self::Barrier => None,
        }
    }

    /// Elements of `Input` and of `Data` on `rank`.
    #[must_use]
    pub fn lens(&self, world: u32, rank: Rank) -> (u64, u64) {
        match self {
            Self::AllReduce { len } | Self::Broadcast { len, .. } | Self::Reduce { len, .. } => {
                (0, *len)
            }
            Self::AllGather { counts, own: Own::Input } => (counts.of(rank), counts.total(world)),
            Self::AllGather { counts, own: Own::InPlace } => (0, counts.total(world)),
            Self::Gather { counts, root } if *root == rank => {
                (counts.of(rank), counts.total(world))
            }
            Self::Gather { counts, .. } => (counts.of(rank), 0),
            Self::Scatter { counts, root } if *root == rank => {
                (counts.total(world), counts.of(rank))
            }
            Self::Scatter { counts, .. } => (0, counts.of(rank)),
            Self::ReduceScatter { counts } => (counts.total(world), counts.of(rank)),
            Self::AllToAll { send, recv } => (send.total(world), recv.total(world)),
            Self::Barrier => (0, 0),
        }
    }
}
