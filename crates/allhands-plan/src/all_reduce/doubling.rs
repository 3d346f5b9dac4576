//! Recursive doubling: everything is exchanged with partners at distance 1, 2, 4, ….
//!
//! The classic of Thakur, Rabenseifner and Gropp ("Optimization of Collective Communication Operations in
//! MPICH", 2005): `L(α + nβ + nγ)` with `L = ⌊log2 P⌋`; other world sizes are folded, which adds
//! `2(α + nβ) + nγ`. For short vectors.
//!
//! Near partners first and the lower rank's part as the first operand: at powers of two this *is* the
//! canonical tree. f16 and bf16 are rounded after every level.

use crate::blocks::{Fold, Role};
use crate::builder::Builder;
use crate::plan::{Buffer, Finish, Local, Order, Plan, Rank, Span};

const SENDS: u32 = 0;
const REDUCES: u32 = 1;
const RESULT: u32 = 2;

pub(super) fn build(mut pen: Builder, len: u64) -> Plan {
    let fold = Fold::new(pen.world());
    let exact = if fold.extras == 0 { Order::Canonical } else { Order::Fixed };
    pen.order(exact, Order::Fixed);
    let data = Span::new(Buffer::Data, 0, len);
    match fold.role(pen.rank()) {
        Role::Extra { partner } => {
            pen.send(SENDS, "leave part", &[], [(partner, data)]);
            pen.recv(REDUCES, "receive result", &[(SENDS, 1)], [(partner, data)]);
        }
        Role::Core { index, extra } => {
            if let Some(extra) = extra {
                let local = Some(Local { span: data, at: 0 });
                pen.recv_reduce(REDUCES, "take part", &[], [extra], local, data, Finish::Keep);
            }
            let done = if fold.levels() == 1 {
                exchange(&mut pen, fold.rank(index ^ 1), index, data)
            } else {
                levels(&mut pen, fold, index, data)
            };
            if let Some(extra) = extra {
                pen.send(SENDS, "give result", &[done], [(extra, data)]);
            }
        }
    }
    pen.build()
}

/// One level: there is no buffer to alternate with, so the message lands in scratch and is combined when
/// the send has ended.
fn exchange(pen: &mut Builder, partner: Rank, index: u32, data: Span) -> (u32, u32) {
    let landing = Span::new(Buffer::Scratch, pen.scratch(data.len), data.len);
    let local = Local { span: data, at: index & 1 };
    let folded = pen.steps_in(REDUCES);
    pen.send(SENDS, "exchange", wait(&(REDUCES, folded)), [(partner, data)]);
    pen.recv(RESULT, "receive", &[], [(partner, landing)]);
    pen.reduce(RESULT, "combine", &[(SENDS, 1)], [landing], Some(local), data, Finish::Last);
    (RESULT, 2)
}

/// Two levels or more: each level reads one buffer, which is being sent, and writes another; the last one
/// writes `Data`.
fn levels(pen: &mut Builder, fold: Fold, index: u32, data: Span) -> (u32, u32) {
    let levels = fold.levels();
    let buffers = u64::from(levels - 1).min(2);
    let scratch = pen.scratch(data.len * buffers);
    let mut current = data;
    for level in 0..levels {
        let partner = fold.rank(index ^ (1 << level));
        let reduced = pen.steps_in(REDUCES);
        pen.send(SENDS, "exchange", wait(&(REDUCES, reduced)), [(partner, current)]);
        let last = level + 1 == levels;
        // The sends that still read what this level overwrites: `Data` was sent at the first level,
        // scratch two levels ago.
        let (next, sent) = if last {
            (data, 1)
        } else {
            let at = scratch + data.len * u64::from(level % 2);
            (Span::new(Buffer::Scratch, at, data.len), if level >= 2 { level } else { 0 })
        };
        let local = Some(Local { span: current, at: (index >> level) & 1 });
        let finish = if last { Finish::Last } else { Finish::Keep };
        pen.recv_reduce(REDUCES, "combine", wait(&(SENDS, sent)), [partner], local, next, finish);
        current = next;
    }
    (REDUCES, pen.steps_in(REDUCES))
}

/// A wait list of one entry, or of none if no step is waited for.
fn wait(entry: &(u32, u32)) -> &[(u32, u32)] {
    if entry.1 == 0 { &[] } else { std::slice::from_ref(entry) }
}
