//! The cost model: plans in virtual time.
//!
//! The same plans that move bytes are run against a clock, so there is no formula for any algorithm and
//! nothing to keep in step with the builders. The network is described by a few figures ([`Network`]):
//!
//! - A message occupies its sender's port for `overhead + n · beta`, and its receiver's port for as long
//!   from when its first byte is there, `alpha` after it left, and its receive is active.
//!   Ports are full duplex; messages wait for a port in the order in which they came. Bytes arrive while
//!   later ones still leave (cut-through).
//! - Combining k operands of n bytes with a further one, or copying, takes `k · n · gamma` of the rank's
//!   one processor; a reduction runs while its operands arrive or after, see [`Overlap`].
//! - In a tapered fat tree the messages that leave a switch share its uplinks, and those that enter share
//!   its downlinks, first come first served.
//! - Ranks that are placed on hosts ([`model_on`]) have one port to the others of their host, and one to the
//!   network; the ranks of a host share its link, first come first served.
//!
//! The model knows no packets, jitter, buffers that fill or routes that collide.

mod network;
mod program;
mod simulate;
mod symmetry;

pub use network::{Fabric, Network, Overlap};

use crate::algorithm::Algorithm;
use crate::error::PlanError;
use crate::locality::Locality;
use crate::plan::{Plan, Rank};
use crate::shape::{Counts, Shape};
use program::Program;
use simulate::Simulation;
use symmetry::Symmetry;

/// Most messages that are simulated one by one; beyond, one rank stands for all where all do the same.
/// That many take a few seconds; the log-step plans of 16 384 ranks have fewer.
pub const MESSAGES_MAX: u64 = 1 << 20;

/// How a [`Modelled`] time was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Method {
    /// Every rank's plan was run.
    Simulated,
    /// Rank 0's plan was run against its own mirror image: whatever it sends to a rank, the rank on the
    /// other side sends to it at the same time. Exact on a full-bisection network if all blocks are of one
    /// length; otherwise each step is wrong by the transfer of one element at most. On a tapered one,
    /// every switch is taken to be as busy as the pattern makes it on average.
    Mirrored,
}

impl std::fmt::Display for Method {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Simulated => "all ranks simulated",
            Self::Mirrored => "one rank simulated against its mirror image",
        })
    }
}

/// What the model says of one operation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Modelled {
    /// From the common start to when the last rank has ended, in seconds.
    pub seconds: f64,
    /// Messages of all ranks.
    pub messages: u64,
    /// How it was found.
    pub method: Method,
}

/// Runs the plans of all ranks in virtual time. Elements have `elem_size` bytes.
///
/// Log-step plans of 16 384 ranks take seconds in a release build.
///
/// # Errors
///
/// [`PlanError`] as [`Plan::build`]; [`PlanError::TooManyMessages`] beyond [`MESSAGES_MAX`] where ranks
/// differ; [`PlanError::Unsupported`] for an all-to-all with counts per rank, which differ from rank to
/// rank.
///
/// # Example
///
/// ```
/// use allhands_plan::{Algorithm, Network, Shape, model};
///
/// let shape = Shape::AllReduce { len: 256 };
/// let network = Network::ten_gigabit();
/// let ring = model(&shape, Algorithm::Ring, 8, 4, &network)?;
/// let doubling = model(&shape, Algorithm::RecursiveDoubling, 8, 4, &network)?;
/// assert!(ring.seconds > 4.0 * doubling.seconds);
/// # Ok::<(), allhands_plan::PlanError>(())
/// ```
pub fn model(
    shape: &Shape,
    algorithm: Algorithm,
    world: u32,
    elem_size: usize,
    network: &Network,
) -> Result<Modelled, PlanError> {
    if let Shape::AllToAll { send: Counts::PerRank(_), .. }
    | Shape::AllToAll { recv: Counts::PerRank(_), .. } = shape
    {
        return Err(PlanError::unsupported(algorithm, shape));
    }
    let first = Plan::build(shape, algorithm, world, Rank(0))?;
    let symmetry = Symmetry::of(shape, algorithm, world);
    let elem_size = elem_size as u64;
    let mut program = Program::default();
    program.add(&first, elem_size);
    let mut messages = program.messages();
    if let Some(symmetry) = symmetry
        && messages.saturating_mul(u64::from(world)) > MESSAGES_MAX
    {
        let seconds = Simulation::mirrored(&program, network, world, symmetry).run();
        messages *= u64::from(world);
        return Ok(Modelled { seconds, messages, method: Method::Mirrored });
    }
    for rank in 1..world {
        program.add(&Plan::build(shape, algorithm, world, Rank(rank))?, elem_size);
        messages = program.messages();
        if messages > MESSAGES_MAX {
            return Err(PlanError::TooManyMessages { shape: shape.name(), algorithm });
        }
    }
    let seconds = Simulation::new(&program, network).run();
    Ok(Modelled { seconds, messages, method: Method::Simulated })
}

/// As [`model`], among ranks that are placed on hosts: on [`Fabric::Hosts`] those of one host share its link
/// and reach each other without it. On other fabrics only the plan tells hosts apart.
///
/// # Errors
///
/// As [`model`] and [`Plan::build_on`]; every rank is simulated, so worlds of more than [`MESSAGES_MAX`] messages are
/// refused.
///
/// ```
/// use allhands_plan::{Algorithm, Locality, Network, Shape, model_on};
///
/// let hosts = Locality::new([0, 0, 1, 1]);
/// let network = Network::ten_gigabit().between_hosts(1e-6, 8e9);
/// let shape = Shape::AllReduce { len: 25 << 18 };
/// let apart = model_on(&shape, Algorithm::TwoShot, &hosts, 4, &network)?;
/// let inside_first = model_on(&shape, Algorithm::Hierarchical, &hosts, 4, &network)?;
/// assert!(apart.seconds > 1.7 * inside_first.seconds);
/// # Ok::<(), allhands_plan::PlanError>(())
/// ```
pub fn model_on(
    shape: &Shape,
    algorithm: Algorithm,
    locality: &Locality,
    elem_size: usize,
    network: &Network,
) -> Result<Modelled, PlanError> {
    let mut program = Program::default();
    for rank in (0..locality.world()).map(Rank) {
        program.add(&Plan::build_on(shape, algorithm, locality, rank)?, elem_size as u64);
        if program.messages() > MESSAGES_MAX {
            return Err(PlanError::TooManyMessages { shape: shape.name(), algorithm });
        }
    }
    let placed = matches!(network.fabric, Fabric::Hosts { .. });
    let simulation = match placed {
        true => Simulation::placed(&program, network, locality),
        false => Simulation::new(&program, network),
    };
    let (seconds, messages) = (simulation.run(), program.messages());
    Ok(Modelled { seconds, messages, method: Method::Simulated })
}

/// The seconds of [`model`].
///
/// # Errors
///
/// As [`model`].
pub fn modelled_time(
    shape: &Shape,
    algorithm: Algorithm,
    world: u32,
    elem_size: usize,
    network: &Network,
) -> Result<f64, PlanError> {
    model(shape, algorithm, world, elem_size, network).map(|modelled| modelled.seconds)
}

/// The time that an all-reduce of `bytes` is measured against, in seconds: that of an algorithm with as few
/// rounds, or as few bytes, as there may be, on full bisection and with reductions for nothing:
/// `min(2Lα + 2(P−1)/P·nβ, Lα + L·nβ)` with `L = ⌈log2 P⌉`.
#[must_use]
pub fn all_reduce_bound(network: &Network, world: u32, bytes: u64) -> f64 {
    let p = f64::from(world.max(1));
    let rounds = p.log2().ceil();
    let transfer = bytes as f64 * network.beta;
    let few_bytes = 2.0 * rounds * network.alpha + 2.0 * (p - 1.0) / p * transfer;
    few_bytes.min(rounds * network.alpha + rounds * transfer)
}

/// A message, and the round in which it travels if every message takes one.
pub(crate) struct Hop {
    pub(crate) round: u32,
    pub(crate) src: u32,
    pub(crate) dst: u32,
    pub(crate) slot: u32,
}

/// The messages of these plans in rounds, on a network where only latency counts.
pub(crate) fn hops(plans: &[Plan]) -> Vec<Hop> {
    let mut program = Program::default();
    for plan in plans {
        program.add(plan, 0);
    }
    let network = Network { alpha: 1.0, gamma: 0.0, ..Network::flat(1.0, 1.0) };
    Simulation::new(&program, &network).hops()
}

#[cfg(test)]
mod tests;
