//! Halving and doubling: a reduce-scatter that halves what is exchanged, then its mirror image.
//!
//! Rabenseifner, "Optimization of Collective Reduction Operations", ICCS 2004:
//! `2Lα + 2(P−1)/P nβ + (P−1)/P nγ` with `L = log2 P`; other world sizes are folded, which adds
//! `2α + 2nβ + nγ`.
//!
//! Unlike there, partners are at distance 1, 2, 4, …: the first and largest messages go to neighbours, and
//! at powers of two the order of combination is the canonical one. A rank then owns the block whose
//! number is its own with the bits reversed; nobody sees that, since all blocks are gathered again.

use crate::blocks::{Blocks, Fold, Role};
use crate::builder::Builder;
use crate::plan::{Buffer, Finish, Local, Order, Plan, Span};

const SENDS: u32 = 0;
const REDUCES: u32 = 1;
/// Each level of the gathering has a lane, so that its receive is active as soon as its part is sent.
const RESULTS: u32 = 2;

pub(super) fn build(mut pen: Builder, len: u64) -> Plan {
    let fold = Fold::new(pen.world());
    let exact = if fold.extras == 0 { Order::Canonical } else { Order::Fixed };
    pen.order(exact, Order::Fixed);
    let data = Span::new(Buffer::Data, 0, len);
    let (index, extra) = match fold.role(pen.rank()) {
        Role::Extra { partner } => {
            pen.send(SENDS, "leave part", &[], [(partner, data)]);
            pen.recv(REDUCES, "receive result", &[(SENDS, 1)], [(partner, data)]);
            return pen.build();
        }
        Role::Core { index, extra } => (index, extra),
    };
    if let Some(extra) = extra {
        let local = Some(Local { span: data, at: 0 });
        pen.recv_reduce(REDUCES, "take part", &[], [extra], local, data, Finish::Keep);
    }

    let levels = fold.levels();
    let blocks = Blocks::balanced(len, fold.core);
    let halves = |level| halves(&blocks, fold.core, index, level);
    for level in 0..levels {
        let partner = fold.rank(index ^ (1 << level));
        let (keep, give) = halves(level);
        let reduced = pen.steps_in(REDUCES);
        let waits = [(REDUCES, reduced)];
        pen.send(SENDS, "send half", if reduced > 0 { &waits } else { &[] }, [(partner, give)]);
        let local = Some(Local { span: keep, at: (index >> level) & 1 });
        let finish = if level + 1 == levels { Finish::Last } else { Finish::Keep };
        pen.recv_reduce(REDUCES, "combine half", &[], [partner], local, keep, finish);
    }
    let mut ready = (REDUCES, pen.steps_in(REDUCES));
    for level in (0..levels).rev() {
        let partner = fold.rank(index ^ (1 << level));
        let (keep, give) = halves(level);
        pen.send(SENDS, "return half", &[ready], [(partner, keep)]);
        let lane = RESULTS + (levels - 1 - level);
        pen.recv(lane, "receive half", &[(SENDS, level + 1)], [(partner, give)]);
        ready = (lane, 1);
    }
    if let Some(extra) = extra {
        pen.send(SENDS, "give result", &[ready], [(extra, data)]);
    }
    pen.build()
}

/// The half that core member `index` keeps at `level`, and the half that it gives away.
fn halves(blocks: &Blocks, core: u32, index: u32, level: u32) -> (Span, Span) {
    let (mut start, mut half) = (0, core / 2);
    for bit in 0..level {
        start += half * ((index >> bit) & 1);
        half /= 2;
    }
    let lower = blocks.span(Buffer::Data, start, start + half);
    let upper = blocks.span(Buffer::Data, start + half, start + 2 * half);
    if (index >> level) & 1 == 0 { (lower, upper) } else { (upper, lower) }
}
