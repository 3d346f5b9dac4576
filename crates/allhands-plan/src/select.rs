//! Which algorithm does a collective: fixed tables, so that the same job gives the same bits.
//!
//! [`select`] is a pure function of what all ranks of a group know alike: the shape, the size of the
//! world, the element size, the promise asked for and the table. So all ranks choose alike without
//! talking, provided that they were given the same table.

mod format;

use std::sync::Arc;

pub use format::{ROWS_MAX, TableError};

use crate::algorithm::Algorithm;
use crate::locality::Locality;
use crate::plan::{Order, Rank};
use crate::reduce;
use crate::shape::{Counts, Own, Shape};

/// What the results of a reduction must have in common.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Determinism {
    /// The same bits on all ranks and in every run of the same configuration: versions, tables, and the placement of ranks on
    /// hosts, memory that they share included.
    #[default]
    Fixed,
    /// Also the same bits whatever the algorithm: only plans in canonical order.
    Canonical,
}

/// How a dtype rounds partial results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    /// As it rounds results: f32, f64, integers.
    #[default]
    Exact,
    /// More coarsely than it computes: f16 and bf16, computed in f32 and rounded after each step.
    Half,
}

/// A kind of collective: a [`Shape`] without lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Collective {
    /// [`Shape::AllReduce`]
    AllReduce,
    /// [`Shape::Broadcast`]
    Broadcast,
    /// [`Shape::Reduce`]
    Reduce,
    /// [`Shape::AllGather`]
    AllGather,
    /// [`Shape::Gather`]
    Gather,
    /// [`Shape::Scatter`]
    Scatter,
    /// [`Shape::ReduceScatter`]
    ReduceScatter,
    /// [`Shape::AllToAll`]
    AllToAll,
    /// [`Shape::Barrier`]
    Barrier,
}

impl Collective {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::AllReduce,
        Self::Broadcast,
        Self::Reduce,
        Self::AllGather,
        Self::Gather,
        Self::Scatter,
        Self::ReduceScatter,
        Self::AllToAll,
        Self::Barrier,
    ];

    /// The kind of `shape`.
    #[must_use]
    pub const fn of(shape: &Shape) -> Self {
        match shape {
            Shape::AllReduce { .. } => Self::AllReduce,
            Shape::Broadcast { .. } => Self::Broadcast,
            Shape::Reduce { .. } => Self::Reduce,
            Shape::AllGather { .. } => Self::AllGather,
            Shape::Gather { .. } => Self::Gather,
            Shape::Scatter { .. } => Self::Scatter,
            Shape::ReduceScatter { .. } => Self::ReduceScatter,
            Shape::AllToAll { .. } => Self::AllToAll,
            Shape::Barrier => Self::Barrier,
        }
    }

    /// Its name, as [`Shape::name`] has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::AllReduce => "all_reduce",
            Self::Broadcast => "broadcast",
            Self::Reduce => "reduce",
            Self::AllGather => "all_gather",
            Self::Gather => "gather",
            Self::Scatter => "scatter",
            Self::ReduceScatter => "reduce_scatter",
            Self::AllToAll => "all_to_all",
            Self::Barrier => "barrier",
        }
    }

    /// The collective of that name, whether its words are joined by `_`, by `-` or not at all.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        let plain = |name: &str| name.replace(['_', '-'], "");
        Self::ALL.into_iter().find(|collective| plain(collective.name()) == plain(name))
    }

    /// A shape of this kind: `len` elements are reduced or broadcast, or make each rank's block.
    #[must_use]
    pub const fn shape(self, len: u64, root: Rank) -> Shape {
        let counts = Counts::Equal(len);
        match self {
            Self::AllReduce => Shape::AllReduce { len },
            Self::Broadcast => Shape::Broadcast { len, root },
            Self::Reduce => Shape::Reduce { len, root },
            Self::AllGather => Shape::AllGather { counts, own: Own::Input },
            Self::Gather => Shape::Gather { counts, root },
            Self::Scatter => Shape::Scatter { counts, root },
            Self::ReduceScatter => Shape::ReduceScatter { counts },
            Self::AllToAll => Shape::AllToAll { send: counts, recv: Counts::Equal(len) },
            Self::Barrier => Shape::Barrier,
        }
    }

    /// What does it when no row of a table does: always canonical, for any world.
    const fn fallback(self) -> Algorithm {
        match self {
            Self::AllReduce => Algorithm::TwoShot,
            Self::Broadcast => Algorithm::Binomial,
            Self::Barrier => Algorithm::Dissemination,
            Self::Reduce
            | Self::AllGather
            | Self::Gather
            | Self::Scatter
            | Self::ReduceScatter
            | Self::AllToAll => Algorithm::Direct,
        }
    }
}

/// Sizes of groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Worlds {
    /// All sizes up to this one.
    UpTo(u32),
    /// The powers of two up to this one.
    PowersUpTo(u32),
}

impl Worlds {
    /// All sizes.
    pub const ANY: Self = Self::UpTo(u32::MAX);
    /// All powers of two.
    pub const POWERS: Self = Self::PowersUpTo(u32::MAX);

    /// Whether `world` is one of them.
    #[must_use]
    pub const fn contain(self, world: u32) -> bool {
        match self {
            Self::UpTo(most) => world <= most,
            Self::PowersUpTo(most) => world <= most && world.is_power_of_two(),
        }
    }
}

/// A row of a [`Table`]: up to `bytes`, `collective` among one of `worlds` is done by `algorithm`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Row {
    /// Of which collective.
    pub collective: Collective,
    /// For which sizes of groups.
    pub worlds: Worlds,
    /// Up to how many bytes, counted as [`bytes`] does.
    pub bytes: u64,
    /// How it is done.
    pub algorithm: Algorithm,
}

/// Rows in order: the first that fits decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    rows: Arc<[Row]>,
}

/// No limit of bytes.
const ALWAYS: u64 = u64::MAX;
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

impl Table {
    /// A table of these rows. Where none fits, [`select`] takes an algorithm that does any shape.
    #[must_use]
    pub fn new(rows: impl IntoIterator<Item = Row>) -> Self {
        Self { rows: rows.into_iter().collect() }
    }

    /// The rows, in order.
    #[must_use]
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// For ranks on one host over TCP: every byte and every message costs processor time. Where ranks share cores,
    /// which four did on the machine of two cores that this was measured on, the fewest messages win; else the fewest dependent steps.
    #[must_use]
    pub fn tcp_loopback() -> Self {
        use Algorithm as A;
        use Collective as C;
        Self::of(&[
            (C::AllReduce, Worlds::UpTo(2), 16 * KIB, A::Direct),
            (C::AllReduce, Worlds::UpTo(2), ALWAYS, A::TwoShot),
            (C::AllReduce, Worlds::PowersUpTo(4), 32 * KIB, A::RecursiveDoubling),
            (C::AllReduce, Worlds::PowersUpTo(4), ALWAYS, A::HalvingDoubling),
            (C::AllReduce, Worlds::POWERS, 16 * KIB, A::RecursiveDoubling),
            (C::AllReduce, Worlds::PowersUpTo(8), MIB, A::TwoShot),
            (C::AllReduce, Worlds::POWERS, ALWAYS, A::HalvingDoubling),
            (C::AllReduce, Worlds::UpTo(8), 4 * KIB, A::Direct),
            (C::AllReduce, Worlds::UpTo(8), 4 * MIB, A::TwoShot),
            (C::AllReduce, Worlds::ANY, 4 * KIB, A::RecursiveDoubling),
            (C::AllReduce, Worlds::ANY, ALWAYS, A::Circulant),
            (C::Broadcast, Worlds::UpTo(2), ALWAYS, A::Direct),
            (C::Broadcast, Worlds::ANY, 256 * KIB, A::Binomial),
            (C::Broadcast, Worlds::UpTo(16), ALWAYS, A::Chain),
            (C::Broadcast, Worlds::ANY, ALWAYS, A::ScatterAllGather),
            (C::Reduce, Worlds::UpTo(2), ALWAYS, A::Direct),
            (C::Reduce, Worlds::UpTo(3), 64 * KIB, A::Direct),
            (C::Reduce, Worlds::UpTo(4), 4 * KIB, A::Direct),
            (C::Reduce, Worlds::ANY, 64 * KIB, A::Binomial),
            (C::Reduce, Worlds::UpTo(16), 2 * MIB, A::Chain),
            (C::Reduce, Worlds::PowersUpTo(4), ALWAYS, A::Binomial),
            (C::Reduce, Worlds::UpTo(16), ALWAYS, A::Chain),
            (C::Reduce, Worlds::ANY, ALWAYS, A::ScatterAllGather),
            (C::AllGather, Worlds::UpTo(3), ALWAYS, A::Direct),
            (C::AllGather, Worlds::UpTo(8), 16 * MIB, A::Circulant),
            (C::AllGather, Worlds::UpTo(8), ALWAYS, A::Direct),
            (C::AllGather, Worlds::ANY, 64 * KIB, A::Circulant),
            (C::AllGather, Worlds::UpTo(64), ALWAYS, A::Direct),
            (C::AllGather, Worlds::ANY, ALWAYS, A::Circulant),
            (C::Gather, Worlds::UpTo(8), ALWAYS, A::Direct),
            (C::Gather, Worlds::ANY, 64 * KIB, A::Binomial),
            (C::Gather, Worlds::ANY, ALWAYS, A::Direct),
            (C::Scatter, Worlds::UpTo(8), ALWAYS, A::Direct),
            (C::Scatter, Worlds::ANY, 64 * KIB, A::Binomial),
            (C::Scatter, Worlds::ANY, ALWAYS, A::Direct),
            (C::ReduceScatter, Worlds::UpTo(3), ALWAYS, A::Direct),
            (C::ReduceScatter, Worlds::UpTo(8), 16 * MIB, A::Circulant),
            (C::ReduceScatter, Worlds::UpTo(8), ALWAYS, A::Direct),
            (C::ReduceScatter, Worlds::ANY, 64 * KIB, A::Circulant),
            (C::ReduceScatter, Worlds::UpTo(64), ALWAYS, A::Direct),
            (C::ReduceScatter, Worlds::ANY, ALWAYS, A::Circulant),
            (C::AllToAll, Worlds::UpTo(7), ALWAYS, A::Direct),
            (C::AllToAll, Worlds::ANY, 4 * KIB, A::Bruck),
            (C::AllToAll, Worlds::ANY, ALWAYS, A::Direct),
            (C::Barrier, Worlds::PowersUpTo(8), ALWAYS, A::Dissemination),
            (C::Barrier, Worlds::ANY, ALWAYS, A::KAry),
        ])
    }

    /// For ranks of one host that share memory: a publication reaches everybody at once, so no algorithm with rounds
    /// is ever better. What is left to choose is whether every rank combines everything, or each its block.
    #[must_use]
    pub fn shared_memory() -> Self {
        use Algorithm as A;
        use Collective as C;
        Self::of(&[
            (C::AllReduce, Worlds::UpTo(2), MIB, A::Direct),
            (C::AllReduce, Worlds::UpTo(4), 8 * KIB, A::Direct),
            (C::AllReduce, Worlds::ANY, 4 * KIB, A::Direct),
            (C::AllReduce, Worlds::ANY, ALWAYS, A::TwoShot),
            (C::Broadcast, Worlds::ANY, ALWAYS, A::Direct),
            (C::Reduce, Worlds::ANY, ALWAYS, A::Direct),
            (C::AllGather, Worlds::ANY, ALWAYS, A::Direct),
            (C::Gather, Worlds::ANY, ALWAYS, A::Direct),
            (C::Scatter, Worlds::ANY, ALWAYS, A::Direct),
            (C::ReduceScatter, Worlds::ANY, ALWAYS, A::Direct),
            (C::AllToAll, Worlds::ANY, ALWAYS, A::Direct),
            (C::Barrier, Worlds::ANY, ALWAYS, A::KAry),
        ])
    }

    /// For ranks on different hosts. Made with the cost model between 10 Gbit/s and 12 GB/s. Modelled on
    /// [`Network::cluster`](crate::Network::cluster) with overlapped reductions, its all-reduce at 1 024
    /// and 16 384 ranks of 1 KiB, 1 MiB, 25 MiB and 1 GiB is within 1 % of the lower bound of rounds and
    /// bytes, and within 12 % on a fat tree that tapers 4:1 above switches of 32 ranks.
    #[must_use]
    pub fn network() -> Self {
        use Algorithm as A;
        use Collective as C;
        Self::of(&[
            (C::AllReduce, Worlds::UpTo(2), 256 * KIB, A::Direct),
            (C::AllReduce, Worlds::UpTo(4), 64 * KIB, A::Direct),
            (C::AllReduce, Worlds::UpTo(8), 16 * KIB, A::Direct),
            (C::AllReduce, Worlds::UpTo(8), ALWAYS, A::TwoShot),
            (C::AllReduce, Worlds::UpTo(16), 4 * KIB, A::Direct),
            (C::AllReduce, Worlds::POWERS, 128 * KIB, A::RecursiveDoubling),
            (C::AllReduce, Worlds::POWERS, ALWAYS, A::HalvingDoubling),
            (C::AllReduce, Worlds::ANY, 64 * KIB, A::RecursiveDoubling),
            (C::AllReduce, Worlds::ANY, ALWAYS, A::Circulant),
            (C::Broadcast, Worlds::UpTo(2), ALWAYS, A::Direct),
            (C::Broadcast, Worlds::UpTo(8), 64 * KIB, A::Direct),
            (C::Broadcast, Worlds::UpTo(8), MIB, A::ScatterAllGather),
            (C::Broadcast, Worlds::UpTo(8), ALWAYS, A::Chain),
            (C::Broadcast, Worlds::ANY, 128 * KIB, A::Binomial),
            (C::Broadcast, Worlds::UpTo(32), 8 * MIB, A::ScatterAllGather),
            (C::Broadcast, Worlds::UpTo(32), ALWAYS, A::Chain),
            (C::Broadcast, Worlds::UpTo(128), 64 * MIB, A::ScatterAllGather),
            (C::Broadcast, Worlds::UpTo(128), ALWAYS, A::Chain),
            (C::Broadcast, Worlds::ANY, ALWAYS, A::ScatterAllGather),
            (C::Reduce, Worlds::UpTo(2), ALWAYS, A::Direct),
            (C::Reduce, Worlds::UpTo(8), 64 * KIB, A::Direct),
            (C::Reduce, Worlds::UpTo(8), MIB, A::ScatterAllGather),
            (C::Reduce, Worlds::UpTo(8), ALWAYS, A::Chain),
            (C::Reduce, Worlds::ANY, 128 * KIB, A::Binomial),
            (C::Reduce, Worlds::UpTo(32), 8 * MIB, A::ScatterAllGather),
            (C::Reduce, Worlds::UpTo(32), ALWAYS, A::Chain),
            (C::Reduce, Worlds::UpTo(128), 64 * MIB, A::ScatterAllGather),
            (C::Reduce, Worlds::UpTo(128), ALWAYS, A::Chain),
            (C::Reduce, Worlds::ANY, ALWAYS, A::ScatterAllGather),
            (C::AllGather, Worlds::UpTo(8), ALWAYS, A::Direct),
            (C::AllGather, Worlds::UpTo(16), 64 * KIB, A::Direct),
            (C::AllGather, Worlds::POWERS, ALWAYS, A::Recursive),
            (C::AllGather, Worlds::ANY, ALWAYS, A::Circulant),
            (C::Gather, Worlds::UpTo(16), ALWAYS, A::Direct),
            (C::Gather, Worlds::ANY, 4 * MIB, A::Binomial),
            (C::Gather, Worlds::ANY, ALWAYS, A::Direct),
            (C::Scatter, Worlds::UpTo(16), ALWAYS, A::Direct),
            (C::Scatter, Worlds::ANY, 4 * MIB, A::Binomial),
            (C::Scatter, Worlds::ANY, ALWAYS, A::Direct),
            (C::ReduceScatter, Worlds::UpTo(8), ALWAYS, A::Direct),
            (C::ReduceScatter, Worlds::UpTo(16), 64 * KIB, A::Direct),
            (C::ReduceScatter, Worlds::ANY, ALWAYS, A::Circulant),
            (C::AllToAll, Worlds::UpTo(16), ALWAYS, A::Direct),
            (C::AllToAll, Worlds::UpTo(64), 8 * KIB, A::Bruck),
            (C::AllToAll, Worlds::UpTo(64), ALWAYS, A::Direct),
            (C::AllToAll, Worlds::ANY, 64 * KIB, A::Bruck),
            (C::AllToAll, Worlds::ANY, ALWAYS, A::Direct),
            (C::Barrier, Worlds::ANY, ALWAYS, A::KAry),
        ])
    }

    /// For ranks on different hosts, some of which share one: what leaves a host has one link for all of them.
    /// Made with the cost model between 1 Gbit/s and 12 GB/s: few messages for the shortest, then
    /// [`Algorithm::Hierarchical`]. Where it has nothing of its own it is [`Table::network`].
    #[must_use]
    pub fn hosts() -> Self {
        use Algorithm as A;
        use Collective as C;
        let own = Self::of(&[
            (C::AllReduce, Worlds::UpTo(4), 4 * KIB, A::Direct),
            (C::AllReduce, Worlds::POWERS, 4 * KIB, A::RecursiveDoubling),
            (C::AllReduce, Worlds::UpTo(16), 4 * KIB, A::TwoShot),
            (C::AllReduce, Worlds::ANY, 4 * KIB, A::RecursiveDoubling),
            (C::AllReduce, Worlds::ANY, ALWAYS, A::Hierarchical),
        ]);
        Self::new(own.rows().iter().chain(Self::network().rows()).copied())
    }

    /// The algorithm of the first row that is about this and `fits`.
    fn first(
        &self,
        shape: &Shape,
        world: u32,
        elem_size: usize,
        fits: impl Fn(Algorithm) -> bool,
    ) -> Algorithm {
        let collective = Collective::of(shape);
        let bytes = bytes(shape, world, elem_size);
        self.rows
            .iter()
            .filter(|row| row.collective == collective && bytes <= row.bytes)
            .filter(|row| row.worlds.contain(world))
            .map(|row| row.algorithm)
            .find(|algorithm| fits(*algorithm))
            .unwrap_or(collective.fallback())
    }

    fn of(rows: &[(Collective, Worlds, u64, Algorithm)]) -> Self {
        Self::new(rows.iter().map(|&(collective, worlds, bytes, algorithm)| Row {
            collective,
            worlds,
            bytes,
            algorithm,
        }))
    }
}

/// The bytes of a collective as tables count them: the length of the vector that is reduced or broadcast,
/// of all blocks that are gathered or scattered, of all blocks that one rank sends in an all-to-all.
///
/// An all-to-all with counts per rank has no length that all ranks know: it counts as the longest.
#[must_use]
pub fn bytes(shape: &Shape, world: u32, elem_size: usize) -> u64 {
    let elements = match shape {
        Shape::AllReduce { len } | Shape::Broadcast { len, .. } | Shape::Reduce { len, .. } => *len,
        Shape::AllGather { counts, .. }
        | Shape::Gather { counts, .. }
        | Shape::Scatter { counts, .. }
        | Shape::ReduceScatter { counts } => total(counts, world),
        Shape::AllToAll { send: Counts::Equal(count), recv: Counts::Equal(_) } => {
            count.saturating_mul(u64::from(world))
        }
        Shape::AllToAll { .. } => u64::MAX,
        Shape::Barrier => 0,
    };
    elements.saturating_mul(elem_size as u64)
}

fn total(counts: &Counts, world: u32) -> u64 {
    match counts {
        Counts::Equal(count) => count.saturating_mul(u64::from(world)),
        Counts::PerRank(counts) => counts.iter().fold(0, |sum, count| sum.saturating_add(*count)),
    }
}

/// The orders in which an algorithm combines, known without building a plan: for exact dtypes, and for
/// those that are rounded at each step.
fn orders(shape: &Shape, algorithm: Algorithm, world: u32) -> (Order, Order) {
    use Order::{Canonical, Fixed};
    match (shape, algorithm) {
        (Shape::Reduce { .. }, _) => reduce::orders(algorithm, world),
        (Shape::AllReduce { .. }, Algorithm::Direct | Algorithm::TwoShot)
        | (Shape::ReduceScatter { .. }, Algorithm::Direct) => (Canonical, Canonical),
        // Two operands meet once.
        (Shape::AllReduce { .. }, Algorithm::RecursiveDoubling) if world == 2 => {
            (Canonical, Canonical)
        }
        (Shape::AllReduce { .. }, Algorithm::RecursiveDoubling | Algorithm::HalvingDoubling)
        | (Shape::ReduceScatter { .. }, Algorithm::Recursive)
            if world.is_power_of_two() =>
        {
            (Canonical, Fixed)
        }
        _ => (Fixed, Fixed),
    }
}

/// Whether the plans of `algorithm` keep the promise.
fn keeps(
    shape: &Shape,
    algorithm: Algorithm,
    world: u32,
    precision: Precision,
    determinism: Determinism,
) -> bool {
    let reduces = matches!(
        shape,
        Shape::AllReduce { .. } | Shape::Reduce { .. } | Shape::ReduceScatter { .. }
    );
    let (exact, half) = orders(shape, algorithm, world);
    match (determinism, precision) {
        _ if !reduces => true,
        (Determinism::Fixed, _) => true,
        (Determinism::Canonical, Precision::Exact) => exact == Order::Canonical,
        (Determinism::Canonical, Precision::Half) => half == Order::Canonical,
    }
}

/// The algorithm for `shape` among `world` ranks: that of the first row that fits and keeps the promise.
/// Never fails: there is an algorithm for every shape and world.
///
/// # Example
///
/// ```
/// use allhands_plan::{Algorithm, Determinism, Precision, Shape, Table, select};
///
/// let table = Table::network();
/// let choose = |len, world| {
///     let shape = Shape::AllReduce { len };
///     select(&shape, world, 4, Precision::Exact, Determinism::Fixed, &table)
/// };
/// assert_eq!(choose(256, 1024), Algorithm::RecursiveDoubling);
/// assert_eq!(choose(1 << 28, 1024), Algorithm::HalvingDoubling);
/// assert_eq!(choose(1 << 28, 1000), Algorithm::Circulant);
/// ```
#[must_use]
pub fn select(
    shape: &Shape,
    world: u32,
    elem_size: usize,
    precision: Precision,
    determinism: Determinism,
    table: &Table,
) -> Algorithm {
    let keeps = |algorithm| keeps(shape, algorithm, world, precision, determinism);
    let fits = |algorithm: Algorithm| algorithm.supports(shape, world) && keeps(algorithm);
    table.first(shape, world, elem_size, fits)
}

/// As [`select`], among ranks that are placed on hosts. All ranks of a group must pass the same placement.
///
/// [`Algorithm::Hierarchical`] is chosen only if some ranks share a host and others do not.
///
/// ```
/// use allhands_plan::{Algorithm, Determinism, Locality, Precision, Shape, Table, select_on};
///
/// let table = Table::hosts();
/// let choose = |hosts: [u32; 4]| {
///     let shape = Shape::AllReduce { len: 1 << 20 };
///     let hosts = Locality::new(hosts);
///     select_on(&shape, &hosts, 4, Precision::Exact, Determinism::Fixed, &table)
/// };
/// assert_eq!(choose([0, 0, 1, 1]), Algorithm::Hierarchical);
/// assert_eq!(choose([0, 1, 2, 3]), Algorithm::TwoShot);
/// ```
#[must_use]
pub fn select_on(
    shape: &Shape,
    locality: &Locality,
    elem_size: usize,
    precision: Precision,
    determinism: Determinism,
    table: &Table,
) -> Algorithm {
    let world = locality.world();
    let keeps = |algorithm| keeps(shape, algorithm, world, precision, determinism);
    let placed = |algorithm: Algorithm| match algorithm {
        Algorithm::Hierarchical => locality.is_mixed() && algorithm.supports_on(shape, locality),
        _ => algorithm.supports(shape, world),
    };
    table.first(shape, world, elem_size, |algorithm| placed(algorithm) && keeps(algorithm))
}

#[cfg(test)]
mod tests;
