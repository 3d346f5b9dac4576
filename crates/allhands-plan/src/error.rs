//! Why a plan cannot be built.

use crate::algorithm::Algorithm;
use crate::plan::Rank;
use crate::shape::Shape;

/// Most ranks of a plan: the root of an operation has 17 bits on the wire, one value of which means none.
pub const WORLD_MAX: u32 = (1 << 17) - 1;

/// Most elements of one buffer. With [`WORLD_MAX`] it keeps every offset of every plan far from overflow.
pub const ELEMENTS_MAX: u64 = 1 << 40;

/// Why a plan cannot be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// The algorithm does not do this collective.
    #[error("{} does not do {shape} here; ask Algorithm::supports first", algorithm.name())]
    Unsupported {
        /// The algorithm.
        algorithm: Algorithm,
        /// Name of the collective.
        shape: &'static str,
    },
    /// A plan needs at least one rank and at most [`WORLD_MAX`].
    #[error("a plan for {world} ranks was asked for; it takes 1 to {WORLD_MAX}")]
    World {
        /// What was asked for.
        world: u32,
    },
    /// The rank or the root is not one of the group's.
    #[error("{rank} is not in a group of {world} ranks (they count from 0)")]
    NoSuchRank {
        /// The rank.
        rank: Rank,
        /// Ranks of the group.
        world: u32,
    },
    /// Counts per rank need one entry for each rank.
    #[error("{shape} got counts of {counts} ranks for a group of {world}")]
    Counts {
        /// Name of the collective.
        shape: &'static str,
        /// Entries.
        counts: usize,
        /// Ranks of the group.
        world: u32,
    },
    /// What a rank sends to itself is not what it expects from itself.
    #[error("{rank} sends {sent} elements to itself but expects {expected} from itself")]
    OwnBlock {
        /// The rank.
        rank: Rank,
        /// Elements it sends.
        sent: u64,
        /// Elements it expects.
        expected: u64,
    },
    /// The cost model simulates no more than [`MESSAGES_MAX`](crate::MESSAGES_MAX) messages.
    #[error(
        "{algorithm} {shape} sends more messages than the cost model simulates; model fewer ranks"
    )]
    TooManyMessages {
        /// Name of the collective.
        shape: &'static str,
        /// The algorithm.
        algorithm: Algorithm,
    },
    /// A buffer is longer than [`ELEMENTS_MAX`].
    #[error("{shape} over more than {ELEMENTS_MAX} elements; split it")]
    TooLong {
        /// Name of the collective.
        shape: &'static str,
    },
}

impl PlanError {
    pub(crate) fn unsupported(algorithm: Algorithm, shape: &Shape) -> Self {
        Self::Unsupported { algorithm, shape: shape.name() }
    }
}
