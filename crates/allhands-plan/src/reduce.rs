//! Reduce: the root gets the reduction of all.
//!
//! With n bytes, P ranks, L = ⌈log2 P⌉, latency α, β seconds a byte and γ seconds a byte to reduce:
//!
//! | algorithm | time | order |
//! |---|---|---|
//! | [`Algorithm::Direct`] | α + (P−1)n(β + γ) | canonical |
//! | [`Algorithm::Binomial`] | L(α + nβ + nγ) | canonical, except f16 and bf16 |
//! | [`Algorithm::ScatterAllGather`] | 2Lα + 2(P−1)/P nβ + (P−1)/P nγ | fixed |
//! | [`Algorithm::Chain`], k segments | (k + P − 2)(α + nβ/k + nγ/k) | fixed |

use smallvec::SmallVec;

use crate::algorithm::Algorithm;
use crate::blocks::{Blocks, above, ascending, below};
use crate::builder::Builder;
use crate::error::PlanError;
use crate::plan::{Buffer, Finish, Local, Order, Plan, Rank, Span};
use crate::rounds::{around, segments, skips};
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
    let Shape::Reduce { len, root } = *shape else {
        return Err(PlanError::unsupported(algorithm, shape));
    };
    let pen = |lanes| {
        let mut pen = Builder::new(shape, algorithm, world, rank, lanes);
        let (exact, half) = orders(algorithm, world);
        pen.order(exact, half);
        pen
    };
    if world == 1 && supports(shape, algorithm, world) {
        return Ok(pen(0).build());
    }
    Ok(match algorithm {
        Algorithm::Direct => direct(pen(1), len, root),
        Algorithm::Binomial => binomial(pen(1), len, root),
        Algorithm::ScatterAllGather => scatter_all_gather(pen(2), len, root),
        Algorithm::Chain => chain(pen(2), len, root),
        _ => return Err(PlanError::unsupported(algorithm, shape)),
    })
}

/// In which order operands meet: for exact dtypes, and for those that are rounded at each step.
pub(crate) fn orders(algorithm: Algorithm, world: u32) -> (Order, Order) {
    match algorithm {
        // Two operands meet once, whatever the way.
        _ if world <= 2 => (Order::Canonical, Order::Canonical),
        Algorithm::Direct => (Order::Canonical, Order::Canonical),
        Algorithm::Binomial => (Order::Canonical, Order::Fixed),
        _ => (Order::Fixed, Order::Fixed),
    }
}

/// The own elements as an operand beside those of `peer`, the lower rank first.
fn beside(peer: Rank, rank: Rank, span: Span) -> Local {
    Local { span, at: u32::from(peer < rank) }
}

fn direct(mut pen: Builder, len: u64, root: Rank) -> Plan {
    let (world, rank) = (pen.world(), pen.rank());
    let whole = Span::new(Buffer::Data, 0, len);
    if rank == root {
        let local = Some(Local { span: whole, at: root.0 });
        pen.recv_reduce(0, "reduce", &[], ascending(rank, world), local, whole, Finish::Last);
    } else {
        pen.send(0, "send", &[], [(root, whole)]);
    }
    pen.build()
}

/// One lane: each operand meets what the ones before it have become, in the same place.
fn binomial(mut pen: Builder, len: u64, root: Rank) -> Plan {
    let rank = pen.rank();
    let tree = Tree::new(pen.world(), root);
    let whole = Span::new(Buffer::Data, 0, len);
    let mut children = tree.children(rank).peekable();
    while let Some(child) = children.next() {
        let finish =
            if rank == root && children.peek().is_none() { Finish::Last } else { Finish::Keep };
        let local = Some(beside(child.leader, rank, whole));
        pen.recv_reduce(0, "reduce", &[], [child.leader], local, whole, finish);
    }
    if let Some(parent) = tree.parent(rank) {
        pen.send(0, "pass on", &[], [(parent, whole)]);
    }
    pen.build()
}

/// Circulant reduce-scatter in place, then a binomial gather in place. The blocks that a round receives
/// are nearer than those that it and the earlier rounds send, so reductions never wait for sends; the
/// gather does, because it brings blocks to where sent ones lay.
fn scatter_all_gather(mut pen: Builder, len: u64, root: Rank) -> Plan {
    const REDUCE: u32 = 0;
    const SENDS: u32 = 1;
    let (world, rank) = (pen.world(), pen.rank());
    let blocks = Blocks::balanced(len, world);
    for (near, far) in skips(world) {
        let to = above(rank, near, world);
        let from = below(rank, near, world);
        let reduced = [(REDUCE, pen.steps_in(REDUCE))];
        let waits = if reduced[0].1 > 0 { &reduced[..] } else { &[] };
        let spans = around(&blocks, world, to, far - near);
        pen.send(SENDS, "scatter", waits, spans.into_iter().map(|span| (to, span)));

        let finish = if near == 1 { Finish::Last } else { Finish::Keep };
        for span in around(&blocks, world, rank, far - near) {
            let local = Some(beside(from, rank, span));
            pen.recv_reduce(REDUCE, "reduce", &[], [from], local, span, finish);
        }
    }

    let tree = Tree::new(world, root);
    let children: SmallVec<[_; 16]> = tree.children(rank).collect();
    if !children.is_empty() {
        let sent = [(SENDS, pen.steps_in(SENDS))];
        let parts = children.iter().map(|c| (c.leader, blocks.span(Buffer::Data, c.start, c.end)));
        pen.recv(REDUCE, "gather", &sent, parts);
    }
    if let Some(parent) = tree.parent(rank) {
        let own = tree.subtree(rank);
        let ready = [(REDUCE, pen.steps_in(REDUCE))];
        let span = blocks.span(Buffer::Data, own.start, own.end);
        pen.send(SENDS, "gather", &ready, [(parent, span)]);
    }
    pen.build()
}

fn chain(mut pen: Builder, len: u64, root: Rank) -> Plan {
    let (world, rank) = (pen.world(), pen.rank());
    let place = below(rank, root.0, world).0;
    for (number, span) in segments(len).enumerate() {
        let receives = place + 1 < world;
        if receives {
            let from = above(rank, 1, world);
            let finish = if place == 0 { Finish::Last } else { Finish::Keep };
            let local = Some(beside(from, rank, span));
            pen.recv_reduce(0, "reduce", &[], [from], local, span, finish);
        }
        if place > 0 {
            let reduced = [(0, number as u32 + 1)];
            let waits = if receives { &reduced[..] } else { &[] };
            pen.send(1, "pass on", waits, [(below(rank, 1, world), span)]);
        }
    }
    pen.build()
}
