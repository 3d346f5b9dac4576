//! Barrier: no rank ends before all have begun.
//!
//! With P ranks, latency α and overhead o a message:
//!
//! | algorithm | time |
//! |---|---|
//! | [`Algorithm::Dissemination`] | ⌈log2 P⌉ α |
//! | [`Algorithm::KAry`], k partners a round | ⌈log_{k+1} P⌉ (α + (k−1)o) |
//!
//! Hensgen, Finkel and Manber, "Two algorithms for barrier synchronization", IJPP 17(1), 1988.

use crate::algorithm::Algorithm;
use crate::blocks::{above, below};
use crate::builder::Builder;
use crate::error::PlanError;
use crate::plan::{Buffer, Plan, Rank, Span};
use crate::shape::Shape;

/// Partners a round of [`Algorithm::KAry`]: three halve the rounds of dissemination, at the price of half
/// as many messages again.
pub(crate) const PARTNERS: u32 = 3;

const NOTHING: Span = Span::new(Buffer::Data, 0, 0);

pub(crate) fn supports(_: &Shape, algorithm: Algorithm, _: u32) -> bool {
    matches!(algorithm, Algorithm::Dissemination | Algorithm::KAry)
}

pub(crate) fn build(
    shape: &Shape,
    algorithm: Algorithm,
    world: u32,
    rank: Rank,
) -> Result<Plan, PlanError> {
    let partners = match (shape, algorithm) {
        (Shape::Barrier, Algorithm::Dissemination) => 1,
        (Shape::Barrier, Algorithm::KAry) => PARTNERS,
        _ => return Err(PlanError::unsupported(algorithm, shape)),
    };
    let rounds = distances(world, partners).count();
    let lanes = if rounds == 0 { 0 } else { 1 + rounds };
    let mut pen = Builder::new(shape, algorithm, world, rank, lanes);
    for (round, distance) in distances(world, partners).enumerate() {
        let round = round as u32;
        // A round's news comes from `distance` ranks each: more partners than the world has would
        // tell it twice.
        let reach = (1..=u64::from(partners))
            .map(move |i| i * u64::from(distance))
            .take_while(|&d| d < u64::from(world))
            .map(|d| d as u32);
        let heard = [(round, 1)];
        let waits = if round > 0 { &heard[..] } else { &[] };
        let to = reach.clone().map(|d| (above(rank, d, world), NOTHING));
        let from = reach.map(|d| (below(rank, d, world), NOTHING));
        pen.send(0, "tell", waits, to);
        pen.recv(1 + round, "hear", &[], from);
    }
    Ok(pen.build())
}

/// 1, k + 1, (k + 1)², … below `world`.
fn distances(world: u32, partners: u32) -> impl Iterator<Item = u32> + Clone {
    std::iter::successors(Some(1_u64), move |d| Some(d * (u64::from(partners) + 1)))
        .take_while(move |&d| d < u64::from(world))
        .map(|d| d as u32)
}
