//! Broadcast: every rank gets the root's elements.
//!
//! With n bytes, P ranks, L = ⌈log2 P⌉, latency α and β seconds a byte:
//!
//! | algorithm | time |
//! |---|---|
//! | [`Algorithm::Direct`] | α + (P−1)nβ |
//! | [`Algorithm::Binomial`] | L(α + nβ) |
//! | [`Algorithm::ScatterAllGather`] | 2Lα + 2(P−1)/P nβ |
//! | [`Algorithm::Chain`], k segments | (k + P − 2)(α + nβ/k) |

use smallvec::SmallVec;

use crate::algorithm::Algorithm;
use crate::blocks::{Blocks, above, below};
use crate::builder::Builder;
use crate::error::PlanError;
use crate::plan::{Buffer, Plan, Rank, Span};
use crate::rounds::{around, segments, skips, windows};
use crate::shape::Shape;
use crate::tree::Tree;

pub(crate) fn supports(_: &Shape, algorithm: Algorithm, _: u32) -> bool {
    use Algorithm::{Binomial, Chain, Direct, ScatterAllGather};
    matches!(algorithm, Direct | Binomial | ScatterAllGather | Chain)
}

pub(crate) fn build(
    shape: &Shape,
    algorithm: Algorithm,
    world: u32,
    rank: Rank,
) -> Result<Plan, PlanError> {
    let Shape::Broadcast { len, root } = *shape else {
        return Err(PlanError::unsupported(algorithm, shape));
    };
    let pen = |lanes| Builder::new(shape, algorithm, world, rank, lanes);
    if world == 1 && supports(shape, algorithm, world) {
        return Ok(pen(0).build());
    }
    Ok(match algorithm {
        Algorithm::Direct => direct(pen(1), len, root),
        Algorithm::Binomial => binomial(pen(1), len, root),
        Algorithm::ScatterAllGather => {
            let rounds = skips(world).count();
            scatter_all_gather(pen(rounds + 2), len, root)
        }
        Algorithm::Chain => chain(pen(2), len, root),
        _ => return Err(PlanError::unsupported(algorithm, shape)),
    })
}

fn direct(mut pen: Builder, len: u64, root: Rank) -> Plan {
    let (world, rank) = (pen.world(), pen.rank());
    let whole = Span::new(Buffer::Data, 0, len);
    if rank == root {
        for window in windows(rank, world) {
            pen.send(0, "send", &[], window.map(|peer| (peer, whole)));
        }
    } else {
        pen.recv(0, "receive", &[], [(root, whole)]);
    }
    pen.build()
}

fn binomial(mut pen: Builder, len: u64, root: Rank) -> Plan {
    let rank = pen.rank();
    let tree = Tree::new(pen.world(), root);
    let whole = Span::new(Buffer::Data, 0, len);
    if let Some(parent) = tree.parent(rank) {
        pen.recv(0, "receive", &[], [(parent, whole)]);
    }
    // The largest subtree has the longest way to go.
    let mut children = tree.children(rank).rev().peekable();
    if children.peek().is_some() {
        pen.send(0, "pass on", &[], children.map(|child| (child.leader, whole)));
    }
    pen.build()
}

/// Lane 0 sends. Receives have the other lanes, one for all that arrives between two sends: every block
/// is received once, at a place that nothing else uses, so a receive need not wait for anything.
fn scatter_all_gather(mut pen: Builder, len: u64, root: Rank) -> Plan {
    const SENDS: u32 = 0;
    let (world, rank) = (pen.world(), pen.rank());
    let tree = Tree::new(world, root);
    let blocks = Blocks::balanced(len, world);
    // Blocks from the own one on that the scatter brings; the all-gather leaves them out.
    let held = |rank: Rank| if rank == root { world } else { tree.subtree(rank).len() as u32 };

    let mut arrivals = 1;
    let own = tree.subtree(rank);
    if let Some(parent) = tree.parent(rank) {
        let span = blocks.span(Buffer::Data, own.start, own.end);
        pen.recv(arrivals, "scatter", &[], [(parent, span)]);
    }
    let children: SmallVec<[_; 16]> = tree.children(rank).rev().collect();
    if !children.is_empty() {
        let parts = children.iter().map(|c| (c.leader, blocks.span(Buffer::Data, c.start, c.end)));
        let waits = arrived(&pen, &mut arrivals);
        pen.send(SENDS, "scatter", waits.as_slice(), parts);
    }

    let mut rounds: SmallVec<[(u32, u32); 16]> = skips(world).collect();
    rounds.reverse();
    for (near, far) in rounds {
        let to = below(rank, near, world);
        let lacks = near.max(held(to));
        if lacks < far {
            let spans = around(&blocks, world, above(to, lacks, world), far - lacks);
            let waits = arrived(&pen, &mut arrivals);
            pen.send(SENDS, "gather", waits.as_slice(), spans.into_iter().map(|span| (to, span)));
        }
        let lacks = near.max(held(rank));
        if lacks < far {
            let from = above(rank, near, world);
            let spans = around(&blocks, world, above(rank, lacks, world), far - lacks);
            pen.recv(arrivals, "gather", &[], spans.into_iter().map(|span| (from, span)));
        }
    }
    pen.build()
}

/// What a send waits for: all that is received so far. Later receives go to the next lane.
fn arrived(pen: &Builder, arrivals: &mut u32) -> Option<(u32, u32)> {
    let steps = pen.steps_in(*arrivals);
    (steps > 0).then(|| {
        *arrivals += 1;
        (*arrivals - 1, steps)
    })
}

fn chain(mut pen: Builder, len: u64, root: Rank) -> Plan {
    let (world, rank) = (pen.world(), pen.rank());
    let place = below(rank, root.0, world).0;
    for (number, span) in segments(len).enumerate() {
        if place > 0 {
            pen.recv(0, "receive", &[], [(below(rank, 1, world), span)]);
        }
        if place + 1 < world {
            let arrived = [(0, number as u32 + 1)];
            let waits = if place > 0 { &arrived[..] } else { &[] };
            pen.send(1, "pass on", waits, [(above(rank, 1, world), span)]);
        }
    }
    pen.build()
}
