//! Ring: every block travels around once to be combined and once more to be known.
//!
//! Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms for clusters of workstations", JPDC 2009:
//! `2(P−1)α + 2(P−1)/P nβ + (P−1)/P nγ`. Talks to neighbours only; each block is combined one rank after
//! the other, so rounding errors add up.

use crate::blocks::{Blocks, above, below};
use crate::builder::Builder;
use crate::plan::{Buffer, Finish, Local, Plan, Span};

const SENDS: u32 = 0;
const REDUCES: u32 = 1;
const RESULTS: u32 = 2;

pub(super) fn build(mut pen: Builder, len: u64) -> Plan {
    let (world, rank) = (pen.world(), pen.rank());
    let blocks = Blocks::balanced(len, world);
    let (next, previous) = (above(rank, 1, world), below(rank, 1, world));
    let block = |back: u32| -> Span { blocks.one(Buffer::Data, below(rank, back, world)) };
    let rounds = world - 1;
    for round in 0..rounds {
        let waits = [(REDUCES, round)];
        let waits: &[_] = if round > 0 { &waits } else { &[] };
        pen.send(SENDS, "pass on", waits, [(next, block(round + 1))]);
        let dst = block(round + 2);
        let local = Some(Local { span: dst, at: 1 });
        let finish = if round + 1 == rounds { Finish::Last } else { Finish::Keep };
        pen.recv_reduce(REDUCES, "combine", &[], [previous], local, dst, finish);
    }
    for round in 0..rounds {
        let ready = if round == 0 { (REDUCES, rounds) } else { (RESULTS, round) };
        pen.send(SENDS, "pass result on", &[ready], [(next, block(round))]);
        // The same block left in this round of the first half.
        let sent = [(SENDS, round + 1)];
        pen.recv(RESULTS, "receive result", &sent, [(previous, block(round + 1))]);
    }
    pen.build()
}
