//! One-shot and two-shot all-reduce: flat exchanges for few ranks, with n-ary reductions.
//!
//! As in the custom kernels of vLLM and DeepSpeed's shared-memory all-reduce; MSCCL++ calls the pair
//! all-pairs. P ranks, n bytes:
//!
//! - one-shot: `α + (P−1)o + (P−1)nβ + (P−1)nγ`
//! - two-shot: `2α + 2(P−1)o + 2(P−1)/P nβ + (P−1)/P nγ`
//!
//! Both combine all operands in one step, so they are canonical for every dtype.

use crate::blocks::{Blocks, ascending, others};
use crate::builder::Builder;
use crate::plan::{Buffer, Finish, Local, Order, Plan, Span};

/// Everybody sends everything to everybody.
///
/// Contributions land in scratch: the result overwrites what the sends still read.
pub(super) fn one_shot(mut pen: Builder, len: u64) -> Plan {
    let (world, rank) = (pen.world(), pen.rank());
    pen.order(Order::Canonical, Order::Canonical);
    let data = Span::new(Buffer::Data, 0, len);
    let scratch = pen.scratch(len * u64::from(world - 1));
    let landing = |i: u64| Span::new(Buffer::Scratch, scratch + i * len, len);
    let slots = (0..u64::from(world - 1)).map(landing);
    pen.send(0, "send to all", &[], others(rank, world).map(|peer| (peer, data)));
    pen.recv(1, "receive from all", &[], ascending(rank, world).zip(slots.clone()));
    let own = Local { span: data, at: rank.0 };
    pen.reduce(1, "combine", &[(0, 1)], slots, Some(own), data, Finish::Last);
    pen.build()
}

/// Each rank combines its block of everybody's elements and sends the result to all.
pub(super) fn two_shot(mut pen: Builder, len: u64) -> Plan {
    let (world, rank) = (pen.world(), pen.rank());
    pen.order(Order::Canonical, Order::Canonical);
    let blocks = Blocks::balanced(len, world);
    let block = |peer| (peer, blocks.one(Buffer::Data, peer));
    let (_, own) = block(rank);
    pen.send(0, "send contributions", &[], others(rank, world).map(block));
    let local = Local { span: own, at: rank.0 };
    let peers = ascending(rank, world);
    pen.recv_reduce(1, "combine own block", &[], peers, Some(local), own, Finish::Last);
    pen.send(0, "send result", &[(1, 1)], others(rank, world).map(|peer| (peer, own)));
    // Results overwrite the contributions that were sent, and nothing else.
    pen.recv(2, "receive results", &[(0, 1)], others(rank, world).map(block));
    pen.build()
}
