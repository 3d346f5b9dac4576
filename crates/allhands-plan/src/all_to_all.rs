//! All-to-all: every rank sends a block to every rank.
//!
//! With n bytes a rank, P ranks, L = ⌈log2 P⌉, latency α, β seconds a byte and overhead o a message:
//!
//! | algorithm | time | counts |
//! |---|---|---|
//! | [`Algorithm::Direct`] | α + (P−1)o + (P−1)/P nβ | any |
//! | [`Algorithm::Pairwise`] | (P−1)α + (P−1)/P nβ | any |
//! | [`Algorithm::Bruck`] | Lα + L n/2 β, and 2n bytes copied | equal |
//!
//! Messages of no elements are sent too: each rank knows its own counts only, so that is where a length
//! that differs between sender and receiver shows.

use crate::algorithm::Algorithm;
use crate::blocks::{Blocks, above, below};
use crate::builder::Builder;
use crate::error::PlanError;
use crate::plan::{Buffer, Plan, Rank, Span};
use crate::rounds::WINDOW;
use crate::shape::{Counts, Shape};

pub(crate) fn supports(shape: &Shape, algorithm: Algorithm, _: u32) -> bool {
    match (algorithm, shape) {
        (Algorithm::Direct | Algorithm::Pairwise, _) => true,
        (Algorithm::Bruck, Shape::AllToAll { send: Counts::Equal(sent), recv }) => {
            *recv == Counts::Equal(*sent)
        }
        _ => false,
    }
}

pub(crate) fn build(
    shape: &Shape,
    algorithm: Algorithm,
    world: u32,
    rank: Rank,
) -> Result<Plan, PlanError> {
    let Shape::AllToAll { send, recv } = shape else {
        return Err(PlanError::unsupported(algorithm, shape));
    };
    let (sent, expected) = (send.of(rank), recv.of(rank));
    if sent != expected {
        return Err(PlanError::OwnBlock { rank, sent, expected });
    }
    let exchange = |window: u32| {
        let pen = Builder::new(shape, algorithm, world, rank, 3);
        staggered(pen, &Blocks::of(send, world), &Blocks::of(recv, world), window)
    };
    Ok(match (algorithm, send, recv) {
        (Algorithm::Direct, ..) => exchange(WINDOW),
        (Algorithm::Pairwise, ..) => exchange(1),
        (Algorithm::Bruck, Counts::Equal(block), Counts::Equal(recv)) if block == recv => {
            let rounds = (u32::BITS - (world - 1).leading_zeros()) as usize;
            bruck(Builder::new(shape, algorithm, world, rank, 1 + rounds), *block)
        }
        _ => return Err(PlanError::unsupported(algorithm, shape)),
    })
}

/// `window` partners at a time, at rising distances, so that no rank is everybody's first.
fn staggered(mut pen: Builder, send: &Blocks, recv: &Blocks, window: u32) -> Plan {
    let (world, rank) = (pen.world(), pen.rank());
    let outgoing = |peer: Rank| send.span(Buffer::Input, peer.0, peer.0 + 1);
    let incoming = |peer: Rank| recv.span(Buffer::Data, peer.0, peer.0 + 1);
    for first in (1..world).step_by(window as usize) {
        let distances = first..world.min(first + window);
        let to = distances.clone().map(|d| above(rank, d, world));
        let from = distances.map(|d| below(rank, d, world));
        pen.send(0, "send", &[], to.map(|peer| (peer, outgoing(peer))));
        pen.recv(1, "receive", &[], from.map(|peer| (peer, incoming(peer))));
    }
    pen.copy(2, "own block", &[], outgoing(rank), incoming(rank));
    pen.build()
}

/// Bruck et al., "Efficient algorithms for all-to-all communications in multiport message-passing
/// systems", IEEE TPDS 8(11), 1997.
///
/// A block with distance d to its destination travels in the rounds whose bits are set in d. Blocks
/// are kept by distance in scratch. What a round sends lies in runs there and is packed; what it
/// receives has travelled its last round if no higher bit is set, and goes straight to `Data`.
/// Every round receives in a lane and a place of its own, so that receives never wait.
fn bruck(mut pen: Builder, block: u64) -> Plan {
    const LOCAL: u32 = 0;
    let (world, rank) = (pen.world(), pen.rank());
    let blocks = |buffer, base: u64, first: u32, count: u32| {
        Span::new(buffer, base + u64::from(first) * block, u64::from(count) * block)
    };
    let outgoing = |peer: Rank| blocks(Buffer::Input, 0, peer.0, 1);
    let incoming = |peer: Rank| blocks(Buffer::Data, 0, peer.0, 1);

    pen.copy(LOCAL, "own block", &[], outgoing(rank), incoming(rank));
    if world == 1 {
        return pen.build();
    }
    // Distance 1 first; a block at distance d lies at kept + (d-1) blocks.
    let kept = pen.scratch(u64::from(world - 1) * block);
    let later = world - 1 - rank.0;
    if later > 0 {
        let src = blocks(Buffer::Input, 0, rank.0 + 1, later);
        pen.copy(LOCAL, "turn", &[], src, blocks(Buffer::Scratch, kept, 0, later));
    }
    if rank.0 > 0 {
        let src = blocks(Buffer::Input, 0, 0, rank.0);
        pen.copy(LOCAL, "turn", &[], src, blocks(Buffer::Scratch, kept, later, rank.0));
    }
    let pack = pen.scratch(u64::from(most_sent(world)) * block);

    for (round, bit) in bits(world).enumerate() {
        let lane = 1 + round as u32;
        let sent: u32 = runs(world, bit).map(|(_, count)| count).sum();
        let landed = pen.scratch(u64::from(sent) * block);
        let from = below(rank, bit, world);
        pen.recv(lane, "receive", &[], [(from, blocks(Buffer::Scratch, landed, 0, sent))]);

        // A single run needs no packing.
        let message = if runs(world, bit).count() == 1 {
            blocks(Buffer::Scratch, kept, bit - 1, sent)
        } else {
            let mut packed = 0;
            for (first, count) in runs(world, bit) {
                let src = blocks(Buffer::Scratch, kept, first - 1, count);
                pen.copy(LOCAL, "pack", &[], src, blocks(Buffer::Scratch, pack, packed, count));
                packed += count;
            }
            blocks(Buffer::Scratch, pack, 0, sent)
        };
        pen.send(LOCAL, "send", &[], [(above(rank, bit, world), message)]);

        let mut unpacked = 0;
        for (first, count) in runs(world, bit) {
            let arrived: &[_] = if unpacked == 0 { &[(lane, 1)] } else { &[] };
            if first == bit {
                for distance in first..first + count {
                    let src = blocks(Buffer::Scratch, landed, distance - first, 1);
                    let dst = incoming(below(rank, distance, world));
                    let arrived = if distance == first { arrived } else { &[] };
                    pen.copy(LOCAL, "arrive", arrived, src, dst);
                }
            } else {
                let src = blocks(Buffer::Scratch, landed, unpacked, count);
                let dst = blocks(Buffer::Scratch, kept, first - 1, count);
                pen.copy(LOCAL, "keep", arrived, src, dst);
            }
            unpacked += count;
        }
    }
    pen.build()
}

/// 1, 2, 4, … below `world`.
fn bits(world: u32) -> impl Iterator<Item = u32> {
    (0..u32::BITS).map(|bit| 1 << bit).take_while(move |&bit| bit < world)
}

/// The distances below `world` with `bit` set, as runs: first and count.
fn runs(world: u32, bit: u32) -> impl Iterator<Item = (u32, u32)> {
    (bit..world).step_by(2 * bit as usize).map(move |first| (first, bit.min(world - first)))
}

fn most_sent(world: u32) -> u32 {
    bits(world)
        .filter(|&bit| runs(world, bit).count() > 1)
        .map(|bit| runs(world, bit).map(|(_, count)| count).sum())
        .max()
        .unwrap_or(0)
}
