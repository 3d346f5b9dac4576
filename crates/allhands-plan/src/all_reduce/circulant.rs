//! Circulant reduce-scatter and all-gather: bandwidth-optimal in ⌈log2 P⌉ rounds each, for **every** P.
//!
//! Träff, "Optimal, Non-pipelined Reduce-scatter and Allreduce Algorithms", arXiv 2410.14234:
//! `2Lα + 2(P−1)/P nβ + (P−1)/P nγ` with `L = ⌈log2 P⌉`.
//!
//! Let R\[i\] be the block of rank `r + i`. A round with the skip `s`, where R\[0..s1) is left, sends
//! R\[s..s1) to rank `r + s` and combines what comes from `r − s` into R\[0..s1−s). R\[0\] is the result.
//! The all-gather goes the same way back. Nothing is copied: a message is cut where the blocks wrap around,
//! at the same place on both sides.
//!
//! The hierarchical all-reduce goes through the same rounds, cell by cell, between one rank of each host.

use smallvec::SmallVec;

use crate::blocks::{Blocks, above, below, wrapped};
use crate::builder::Builder;
use crate::plan::{Buffer, Finish, Local, Plan, Rank, Span};
use crate::rounds::{around, skips};

/// Lanes, each with the steps in it that have to be done.
pub(super) type Waits = SmallVec<[(u32, u32); 2]>;

/// How rounds are spread over lanes.
#[derive(Clone, Copy)]
pub(super) enum Lanes {
    /// One round after the other, from lane 0 on: what is sent, two lanes of reductions (a message may be in two pieces), and
    /// a lane for each round of the gathering, so that its receive is active as soon as its part is sent.
    InTurn,
    /// Each round has lanes of its own, from this one on, so that rounds of different cells are on their way at the
    /// same time.
    Apart(u32),
}

/// The lanes of one round.
struct Round {
    sends: u32,
    reduces: [u32; 2],
    returns: u32,
    results: u32,
}

impl Lanes {
    /// How many there are for `rounds` rounds.
    pub(super) fn count(self, rounds: u32) -> u32 {
        match self {
            Self::InTurn => 3 + rounds,
            Self::Apart(_) => 5 * rounds,
        }
    }

    /// Those of round `number` of `rounds`.
    fn round(self, number: u32, rounds: u32) -> Round {
        match self {
            Self::InTurn => {
                Round { sends: 0, reduces: [1, 2], returns: 0, results: 3 + (rounds - 1 - number) }
            }
            Self::Apart(first) => {
                let first = first + 5 * number;
                let reduces = [first + 1, first + 2];
                Round { sends: first, reduces, returns: first + 3, results: first + 4 }
            }
        }
    }
}

pub(super) fn build(mut pen: Builder, len: u64) -> Plan {
    let (world, rank) = (pen.world(), pen.rank());
    let all = Span::new(Buffer::Data, 0, len);
    rounds(&mut pen, &|rank| rank, world, rank, all, Lanes::InTurn, &[]);
    pen.build()
}

/// All-reduces a cell between `world` owners, of which this rank is number `me`, once `ready` is done. Returns what its end
/// is known by.
pub(super) fn rounds(
    pen: &mut Builder,
    owner: &dyn Fn(Rank) -> Rank,
    world: u32,
    me: Rank,
    cell: Span,
    lanes: Lanes,
    ready: &[(u32, u32)],
) -> Waits {
    let blocks = Blocks::balanced(cell.len, world);
    let moved = |span: Span| Span { offset: cell.offset + span.offset, ..span };
    let pieces = |first, count| around(&blocks, world, first, count).into_iter().map(moved);
    let rounds: SmallVec<[(u32, u32); 8]> = skips(world).collect();
    let count = rounds.len() as u32;
    let mut waits: Waits = ready.into();
    let mut combined = waits.clone();
    let mut sent: SmallVec<[(u32, u32); 8]> = SmallVec::new();
    for (number, &(skip, left)) in (0..).zip(&rounds) {
        let (to, from) = (above(me, skip, world), below(me, skip, world));
        let (to_rank, from_rank) = (owner(to), owner(from));
        let Round { sends, reduces, .. } = lanes.round(number, count);
        let messages = pieces(to, left - skip).map(|span| (to_rank, span));
        pen.send(sends, "send blocks", &waits, messages);
        sent.push((sends, pen.steps_in(sends)));
        let finish = if skip == 1 { Finish::Last } else { Finish::Keep };
        let runs = wrapped(me.0, left - skip, world);
        combined = Waits::new();
        for (lane, (first, end)) in reduces.into_iter().zip(runs.into_iter().flatten()) {
            let dst = moved(blocks.span(Buffer::Data, first, end));
            let local = Some(Local { span: dst, at: 0 });
            let before: &[(u32, u32)] = match lanes {
                // The round before is before it in its lane.
                Lanes::InTurn => &[],
                Lanes::Apart(_) => &waits,
            };
            pen.recv_reduce(lane, "combine blocks", before, [from_rank], local, dst, finish);
            combined.push((lane, pen.steps_in(lane)));
        }
        waits = match lanes {
            Lanes::InTurn => {
                let steps = reduces.map(|lane| (lane, pen.steps_in(lane)));
                steps.into_iter().filter(|(_, steps)| *steps > 0).collect()
            }
            Lanes::Apart(_) => combined.clone(),
        };
    }
    let mut done = combined;
    for (number, &(skip, left)) in (0..count).zip(&rounds).rev() {
        let (to, from) = (below(me, skip, world), above(me, skip, world));
        let (to_rank, from_rank) = (owner(to), owner(from));
        let Round { returns, results, .. } = lanes.round(number, count);
        let messages = pieces(me, left - skip).map(|span| (to_rank, span));
        pen.send(returns, "send results", &done, messages);
        // These blocks left in the same round of the first half.
        let before = [sent[number as usize]];
        let messages = pieces(from, left - skip).map(|span| (from_rank, span));
        pen.recv(results, "receive results", &before, messages);
        let known = |lane| (lane, pen.steps_in(lane));
        done = match lanes {
            // What was sent before is before it in its lane.
            Lanes::InTurn => [known(results)].into_iter().collect(),
            Lanes::Apart(_) => [known(returns), known(results)].into(),
        };
    }
    done
}
