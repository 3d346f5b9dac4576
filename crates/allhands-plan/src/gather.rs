//! Gather and scatter, with equal or per-rank counts.
//!
//! With n bytes in all, P ranks, L = ⌈log2 P⌉, latency α, β seconds a byte and overhead o a message:
//!
//! | algorithm | time |
//! |---|---|
//! | [`Algorithm::Direct`] | α + (P−1)o + (P−1)/P nβ |
//! | [`Algorithm::Binomial`] | Lα + (P−1)/P nβ |
//!
//! Messages of no elements are sent too: with per-rank counts a rank's length is compared where its
//! message arrives.

use crate::algorithm::Algorithm;
use crate::blocks::Blocks;
use crate::builder::Builder;
use crate::error::PlanError;
use crate::plan::{Buffer, Plan, Rank, Span};
use crate::rounds::windows;
use crate::shape::Shape;
use crate::tree::Tree;

pub(crate) fn supports(_: &Shape, algorithm: Algorithm, _: u32) -> bool {
    matches!(algorithm, Algorithm::Direct | Algorithm::Binomial)
}

/// Builds gather and scatter.
pub(crate) fn build(
    shape: &Shape,
    algorithm: Algorithm,
    world: u32,
    rank: Rank,
) -> Result<Plan, PlanError> {
    let pen = Builder::new(shape, algorithm, world, rank, 2);
    Ok(match (shape, algorithm) {
        (Shape::Gather { counts, root }, Algorithm::Direct) => {
            gather_direct(pen, &Blocks::of(counts, world), *root)
        }
        (Shape::Gather { counts, root }, Algorithm::Binomial) => {
            gather_binomial(pen, &Blocks::of(counts, world), *root)
        }
        (Shape::Scatter { counts, root }, Algorithm::Direct) => {
            scatter_direct(pen, &Blocks::of(counts, world), *root)
        }
        (Shape::Scatter { counts, root }, Algorithm::Binomial) => {
            scatter_binomial(pen, &Blocks::of(counts, world), *root)
        }
        _ => return Err(PlanError::unsupported(algorithm, shape)),
    })
}

/// The block of `rank` where it lies alone.
fn alone(blocks: &Blocks, buffer: Buffer, rank: Rank) -> Span {
    Span { buffer, offset: 0, ..blocks.one(buffer, rank) }
}

fn gather_direct(mut pen: Builder, blocks: &Blocks, root: Rank) -> Plan {
    let (world, rank) = (pen.world(), pen.rank());
    let own = alone(blocks, Buffer::Input, rank);
    if rank == root {
        pen.copy(0, "own block", &[], own, blocks.one(Buffer::Data, rank));
        for window in windows(rank, world) {
            let parts = window.map(|peer| (peer, blocks.one(Buffer::Data, peer)));
            pen.recv(1, "gather", &[], parts);
        }
    } else {
        pen.send(0, "gather", &[], [(root, own)]);
    }
    pen.build()
}

fn scatter_direct(mut pen: Builder, blocks: &Blocks, root: Rank) -> Plan {
    let (world, rank) = (pen.world(), pen.rank());
    let own = alone(blocks, Buffer::Data, rank);
    if rank == root {
        pen.copy(0, "own block", &[], blocks.one(Buffer::Input, rank), own);
        for window in windows(rank, world) {
            let parts = window.map(|peer| (peer, blocks.one(Buffer::Input, peer)));
            pen.send(1, "scatter", &[], parts);
        }
    } else {
        pen.recv(0, "scatter", &[], [(root, own)]);
    }
    pen.build()
}

/// Ranks inside the tree collect their subtree in scratch, where its blocks lie side by side; the root
/// collects in place, and a rank without children sends from its input.
fn gather_binomial(mut pen: Builder, blocks: &Blocks, root: Rank) -> Plan {
    let rank = pen.rank();
    let tree = Tree::new(pen.world(), root);
    let own = alone(blocks, Buffer::Input, rank);
    let below = tree.subtree(rank);
    if rank != root && below.len() == 1 {
        if let Some(parent) = tree.parent(rank) {
            pen.send(0, "gather", &[], [(parent, own)]);
        }
        return pen.build();
    }

    let base = blocks.offset(below.start);
    let place = |from: u32, to: u32| {
        let span = blocks.span(Buffer::Data, from, to);
        if rank == root { span } else { Span::new(Buffer::Scratch, span.offset - base, span.len) }
    };
    if rank != root {
        pen.scratch(blocks.offset(below.end) - base);
    }
    pen.copy(0, "own block", &[], own, place(rank.0, rank.0 + 1));
    let mut children = tree.children(rank).peekable();
    if children.peek().is_some() {
        pen.recv(1, "gather", &[], children.map(|c| (c.leader, place(c.start, c.end))));
    }
    if let Some(parent) = tree.parent(rank) {
        let arrived = [(1, pen.steps_in(1))];
        pen.send(0, "gather", &arrived, [(parent, place(below.start, below.end))]);
    }
    pen.build()
}

/// The gather backwards.
fn scatter_binomial(mut pen: Builder, blocks: &Blocks, root: Rank) -> Plan {
    let rank = pen.rank();
    let tree = Tree::new(pen.world(), root);
    let own = alone(blocks, Buffer::Data, rank);
    let below = tree.subtree(rank);
    if rank != root && below.len() == 1 {
        if let Some(parent) = tree.parent(rank) {
            pen.recv(0, "scatter", &[], [(parent, own)]);
        }
        return pen.build();
    }

    let base = blocks.offset(below.start);
    let place = |from: u32, to: u32| {
        let span = blocks.span(Buffer::Input, from, to);
        if rank == root { span } else { Span::new(Buffer::Scratch, span.offset - base, span.len) }
    };
    if let Some(parent) = tree.parent(rank) {
        pen.scratch(blocks.offset(below.end) - base);
        pen.recv(0, "scatter", &[], [(parent, place(below.start, below.end))]);
    }
    let arrived = [(0, pen.steps_in(0))];
    let waits = if arrived[0].1 > 0 { &arrived[..] } else { &[] };
    // The largest subtree has the longest way to go.
    let mut children = tree.children(rank).rev().peekable();
    if children.peek().is_some() {
        pen.send(1, "scatter", waits, children.map(|c| (c.leader, place(c.start, c.end))));
    }
    pen.copy(0, "own block", &[], place(rank.0, rank.0 + 1), own);
    pen.build()
}
