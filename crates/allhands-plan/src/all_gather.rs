//! All-gather: every rank gets everybody's block.

use crate::algorithm::Algorithm;
use crate::blocks::{Blocks, others};
use crate::builder::Builder;
use crate::error::PlanError;
use crate::plan::{Buffer, Plan, Rank, Span};
use crate::shape::{Own, Shape};

pub(crate) fn supports(_shape: &Shape, algorithm: Algorithm, _world: u32) -> bool {
    matches!(algorithm, Algorithm::Direct)
}

pub(crate) fn build(
    shape: &Shape,
    algorithm: Algorithm,
    world: u32,
    rank: Rank,
) -> Result<Plan, PlanError> {
    let Shape::AllGather { counts, own } = shape else {
        return Err(PlanError::unsupported(algorithm, shape));
    };
    if !supports(shape, algorithm, world) {
        return Err(PlanError::unsupported(algorithm, shape));
    }
    let blocks = Blocks::of(counts, world);
    let pen = |lanes| Builder::new(shape, algorithm, world, rank, lanes);
    Ok(direct(pen(3), &blocks, *own))
}

/// The own block: where it is read from before it is copied.
fn own_block(pen: &Builder, blocks: &Blocks, own: Own) -> (Span, Span) {
    let home = blocks.one(Buffer::Data, pen.rank());
    match own {
        Own::Input => (Span::new(Buffer::Input, 0, home.len), home),
        Own::InPlace => (home, home),
    }
}

/// Everybody sends its block to everybody: `α + (P−1)o + (P−1)/P nβ`.
fn direct(mut pen: Builder, blocks: &Blocks, own: Own) -> Plan {
    let (world, rank) = (pen.world(), pen.rank());
    let (source, home) = own_block(&pen, blocks, own);
    if world > 1 {
        pen.send(0, "send to all", &[], others(rank, world).map(|peer| (peer, source)));
        let landing = |peer| (peer, blocks.one(Buffer::Data, peer));
        pen.recv(1, "receive from all", &[], others(rank, world).map(landing));
    }
    if source != home {
        pen.copy(2, "own block", &[], source, home);
    }
    pen.build()
}
