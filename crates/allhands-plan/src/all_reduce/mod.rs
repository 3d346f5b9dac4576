//! All-reduce: every rank gets the combination of all ranks' elements, in place in `Data`.

mod circulant;
mod direct;
mod doubling;
mod halving;
pub(crate) mod hierarchical;
mod ring;

use crate::algorithm::Algorithm;
use crate::builder::Builder;
use crate::error::PlanError;
use crate::locality::Locality;
use crate::plan::{Plan, Rank};
use crate::shape::Shape;

pub(crate) fn supports(_shape: &Shape, algorithm: Algorithm, _world: u32) -> bool {
    use Algorithm as A;
    matches!(
        algorithm,
        A::Direct | A::TwoShot | A::RecursiveDoubling | A::HalvingDoubling | A::Ring | A::Circulant
    )
}

pub(crate) fn build(
    shape: &Shape,
    algorithm: Algorithm,
    world: u32,
    rank: Rank,
) -> Result<Plan, PlanError> {
    let &Shape::AllReduce { len } = shape else {
        return Err(PlanError::unsupported(algorithm, shape));
    };
    if !supports(shape, algorithm, world) {
        return Err(PlanError::unsupported(algorithm, shape));
    }
    // Lanes that a rank does not use are dropped.
    let levels = world.ilog2() as usize;
    let pen = |lanes| Builder::new(shape, algorithm, world, rank, lanes);
    if world == 1 {
        return Ok(pen(0).build());
    }
    match algorithm {
        Algorithm::Direct => Ok(direct::one_shot(pen(2), len)),
        Algorithm::TwoShot => Ok(direct::two_shot(pen(3), len)),
        Algorithm::RecursiveDoubling => Ok(doubling::build(pen(3), len)),
        Algorithm::HalvingDoubling => Ok(halving::build(pen(2 + levels), len)),
        Algorithm::Ring => Ok(ring::build(pen(3), len)),
        Algorithm::Circulant => Ok(circulant::build(pen(4 + levels), len)),
        _ => Err(PlanError::unsupported(algorithm, shape)),
    }
}

/// The plan of `rank` that tells hosts apart, of which there are at least two. Its chunks have `each`
/// elements a rank, or more.
pub(crate) fn build_on(
    shape: &Shape,
    len: u64,
    locality: &Locality,
    rank: Rank,
    each: u64,
) -> Plan {
    let lanes = hierarchical::lanes(locality);
    let pen = Builder::new(shape, Algorithm::Hierarchical, locality.world(), rank, lanes);
    hierarchical::build(pen, len, locality, each)
}
