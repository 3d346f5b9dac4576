//! Reduce-scatter: every rank gets its block of the combination of all ranks' elements.

use crate::algorithm::Algorithm;
use crate::blocks::{Blocks, ascending, others};
use crate::builder::Builder;
use crate::error::PlanError;
use crate::plan::{Buffer, Finish, Local, Order, Plan, Rank, Span};
use crate::shape::Shape;

pub(crate) fn supports(_shape: &Shape, algorithm: Algorithm, _world: u32) -> bool {
    matches!(algorithm, Algorithm::Direct)
}

pub(crate) fn build(
    shape: &Shape,
    algorithm: Algorithm,
    world: u32,
    rank: Rank,
) -> Result<Plan, PlanError> {
    let Shape::ReduceScatter { counts } = shape else {
        return Err(PlanError::unsupported(algorithm, shape));
    };
    if !supports(shape, algorithm, world) {
        return Err(PlanError::unsupported(algorithm, shape));
    }
    let blocks = Blocks::of(counts, world);
    let pen = |lanes| Builder::new(shape, algorithm, world, rank, lanes);
    if world == 1 {
        let mut pen = pen(1);
        pen.copy(0, "own block", &[], blocks.one(Buffer::Input, rank), own_block(&blocks, rank));
        return Ok(pen.build());
    }
    Ok(direct(pen(2), &blocks))
}

/// The result.
fn own_block(blocks: &Blocks, rank: Rank) -> Span {
    Span::new(Buffer::Data, 0, blocks.len(rank.0))
}

/// Each rank receives its block from everybody and combines once, canonically for every dtype:
/// `α + (P−1)o + (P−1)/P n(β + γ)`.
fn direct(mut pen: Builder, blocks: &Blocks) -> Plan {
    let (world, rank) = (pen.world(), pen.rank());
    pen.order(Order::Canonical, Order::Canonical);
    let block = |peer| (peer, blocks.one(Buffer::Input, peer));
    pen.send(0, "send to all", &[], others(rank, world).map(block));
    let local = Some(Local { span: blocks.one(Buffer::Input, rank), at: rank.0 });
    let dst = own_block(blocks, rank);
    pen.recv_reduce(1, "combine", &[], ascending(rank, world), local, dst, Finish::Last);
    pen.build()
}
