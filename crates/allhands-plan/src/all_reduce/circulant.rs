//! Circulant reduce-scatter and all-gather: bandwidth-optimal in ⌈log2 P⌉ rounds each, for **every** P.
//!
//! Träff, "Optimal, Non-pipelined Reduce-scatter and Allreduce Algorithms", arXiv 2410.14234:
//! `2Lα + 2(P−1)/P nβ + (P−1)/P nγ` with `L = ⌈log2 P⌉`.
//!
//! Let R\[i\] be the block of rank `r + i`. A round with the skip `s`, where R\[0..s1) is left, sends
//! R\[s..s1) to rank `r + s` and combines what comes from `r − s` into R\[0..s1−s). R\[0\] is the result.
//! The all-gather goes the same way back. Nothing is copied: a message is cut where the blocks wrap around,
//! at the same place on both sides.

use smallvec::SmallVec;

use crate::blocks::{Blocks, above, below, wrapped};
use crate::builder::Builder;
use crate::plan::{Buffer, Finish, Local, Plan};
use crate::rounds::{around, skips};

const SENDS: u32 = 0;
/// Two lanes, since a message may be in two pieces.
const REDUCES: [u32; 2] = [1, 2];
/// Each round of the gathering has a lane, so that its receive is active as soon as its part is sent.
const RESULTS: u32 = 3;

pub(super) fn build(mut pen: Builder, len: u64) -> Plan {
    let (world, rank) = (pen.world(), pen.rank());
    let blocks = Blocks::balanced(len, world);
    let rounds: SmallVec<[(u32, u32); 8]> = skips(world).collect();
    for &(skip, left) in &rounds {
        let (to, from) = (above(rank, skip, world), below(rank, skip, world));
        let waits: SmallVec<[(u32, u32); 2]> = REDUCES
            .map(|lane| (lane, pen.steps_in(lane)))
            .into_iter()
            .filter(|w| w.1 > 0)
            .collect();
        let spans = around(&blocks, world, to, left - skip);
        pen.send(SENDS, "send blocks", &waits, spans.into_iter().map(|span| (to, span)));
        let finish = if skip == 1 { Finish::Last } else { Finish::Keep };
        let pieces = wrapped(rank.0, left - skip, world);
        for (lane, (first, end)) in REDUCES.into_iter().zip(pieces.into_iter().flatten()) {
            let dst = blocks.span(Buffer::Data, first, end);
            let local = Some(Local { span: dst, at: 0 });
            pen.recv_reduce(lane, "combine blocks", &[], [from], local, dst, finish);
        }
    }
    let mut ready = (REDUCES[0], rounds.len() as u32);
    for (lane, (round, &(skip, left))) in (RESULTS..).zip(rounds.iter().enumerate().rev()) {
        let (to, from) = (below(rank, skip, world), above(rank, skip, world));
        let spans = around(&blocks, world, rank, left - skip);
        pen.send(SENDS, "send results", &[ready], spans.into_iter().map(|span| (to, span)));
        // These blocks left in the same round of the first half.
        let sent = [(SENDS, round as u32 + 1)];
        let spans = around(&blocks, world, from, left - skip);
        pen.recv(lane, "receive results", &sent, spans.into_iter().map(|span| (from, span)));
        ready = (lane, 1);
    }
    pen.build()
}
