//! Reduce-scatter: every rank gets its block of the combination of all ranks' elements.
//!
//! With n bytes in all, P ranks, L = ⌈log2 P⌉, latency α, β seconds a byte, γ seconds a byte to reduce and
//! overhead o a message:
//!
//! | algorithm | time | scratch | source |
//! |---|---|---|---|
//! | [`Algorithm::Direct`] | α + (P−1)o + (P−1)/P n(β+γ) | – | |
//! | [`Algorithm::Ring`] | (P−1)α + (P−1)/P n(β+γ) | 2 blocks | |
//! | [`Algorithm::Circulant`] | Lα + (P−1)/P n(β+γ) for every P | n/2 | Träff, arXiv 2410.14234 |
//! | [`Algorithm::Recursive`] | (L+1)α + n(β+γ); folded where P is no power of two: + 2α + nβ + nγ | n/2, n | Thakur et al., 2005 |
//! | [`Algorithm::Pat`] | see [`crate::pat`] | log P blocks a tree | Jeaugey, arXiv 2506.20252 |
//!
//! Direct is canonical for every dtype, recursive at powers of two for all but f16 and bf16.

use smallvec::SmallVec;

use crate::algorithm::Algorithm;
use crate::blocks::{Blocks, Fold, Role, above, ascending, below, others, wrapped};
use crate::builder::Builder;
use crate::error::PlanError;
use crate::pat::Pat;
use crate::plan::{Buffer, Finish, Local, Order, Plan, Rank, Span};
use crate::rounds::skips;
use crate::shape::Shape;

const SENDS: u32 = 0;
const REDUCES: u32 = 1;
/// Receives of the second piece of a message, or of results.
const SECOND: u32 = 2;
const COPY: u32 = 3;
const LANES: usize = 4;

/// Blocks of scratch between which the ring alternates.
const RING_SLOTS: u32 = 2;

pub(crate) fn supports(_shape: &Shape, algorithm: Algorithm, _world: u32) -> bool {
    use Algorithm as A;
    matches!(algorithm, A::Direct | A::Ring | A::Circulant | A::Recursive | A::Pat)
}

pub(crate) fn build(
    shape: &Shape,
    algorithm: Algorithm,
    world: u32,
    rank: Rank,
) -> Result<Plan, PlanError> {
    let Shape::ReduceScatter { counts } = shape else {
        return Err(PlanError::unsupported(algorithm, shape));
    };
    if !supports(shape, algorithm, world) {
        return Err(PlanError::unsupported(algorithm, shape));
    }
    let mut pen = Builder::new(shape, algorithm, world, rank, LANES);
    let blocks = Blocks::of(counts, world);
    let result = Span::new(Buffer::Data, 0, blocks.len(rank.0));
    let scatter = Scatter { world, rank, blocks, result };
    match algorithm {
        _ if world == 1 => pen.copy(0, "own block", &[], scatter.input(rank), result),
        Algorithm::Direct => scatter.direct(&mut pen),
        Algorithm::Ring => scatter.ring(&mut pen),
        Algorithm::Circulant => scatter.circulant(&mut pen),
        Algorithm::Recursive => scatter.recursive(&mut pen),
        Algorithm::Pat => scatter.pat(&mut pen),
        _ => return Err(PlanError::unsupported(algorithm, shape)),
    }
    Ok(pen.build())
}

struct Scatter {
    world: u32,
    rank: Rank,
    blocks: Blocks,
    /// Where the own block goes.
    result: Span,
}

impl Scatter {
    /// A block of the contribution.
    fn input(&self, rank: Rank) -> Span {
        self.blocks.one(Buffer::Input, rank)
    }

    /// Elements of the longest block.
    fn longest(&self) -> u64 {
        (0..self.world).map(|block| self.blocks.len(block)).max().unwrap_or(0)
    }

    fn direct(&self, pen: &mut Builder) {
        pen.order(Order::Canonical, Order::Canonical);
        let outgoing = others(self.rank, self.world).map(|peer| (peer, self.input(peer)));
        pen.send(SENDS, "send to all", &[], outgoing);
        let local = Some(Local { span: self.input(self.rank), at: self.rank.0 });
        let peers = ascending(self.rank, self.world);
        pen.recv_reduce(REDUCES, "combine", &[], peers, local, self.result, Finish::Last);
    }

    fn ring(&self, pen: &mut Builder) {
        let (world, rank) = (self.world, self.rank);
        let (next, previous) = (above(rank, 1, world), below(rank, 1, world));
        let longest = self.longest();
        let scratch = pen.scratch(longest * u64::from(RING_SLOTS.min(world - 2)));
        let mut partial = self.input(below(rank, 1, world));
        for round in 0..world - 1 {
            let ready = [(REDUCES, round)];
            pen.send(SENDS, "pass on", if round > 0 { &ready } else { &[] }, [(next, partial)]);
            let local = self.input(below(rank, round + 2, world));
            let last = round + 2 == world;
            let slot = u64::from(round % RING_SLOTS);
            partial = Span::new(Buffer::Scratch, scratch + slot * longest, local.len);
            let (dst, finish) =
                if last { (self.result, Finish::Last) } else { (partial, Finish::Keep) };
            // The slot's last content must have left.
            let free = [(SENDS, (round + 2).saturating_sub(RING_SLOTS))];
            let waits: &[_] = if round >= RING_SLOTS && !last { &free } else { &[] };
            let local = Some(Local { span: local, at: 1 });
            pen.recv_reduce(REDUCES, "combine", waits, [previous], local, dst, finish);
        }
    }

    /// Partial results lie in scratch in the order R\[0\], R\[1\], …, where R\[i\] is the block of rank
    /// `r + i`, so only the first message, which comes from `Input`, is in two pieces.
    fn circulant(&self, pen: &mut Builder) {
        let (world, rank) = (self.world, self.rank);
        let kept = world / 2;
        let start = self.blocks.offset(rank.0);
        let at = |i: u32| {
            let block = rank.0 + i;
            if block <= world {
                self.blocks.offset(block) - start
            } else {
                self.blocks.offset(world) - start + self.blocks.offset(block - world)
            }
        };
        let partial = |first, end| Span::new(Buffer::Scratch, at(first), at(end) - at(first));
        if world > 2 {
            pen.scratch(at(world.div_ceil(2)));
        }
        if world > 2 && world % 2 == 1 {
            // The middle block meets nothing in the first round.
            let middle = self.input(above(rank, kept, world));
            pen.copy(COPY, "middle block", &[], middle, partial(kept, kept + 1));
        }
        for (round, (skip, left)) in skips(world).enumerate() {
            let (to, from) = (above(rank, skip, world), below(rank, skip, world));
            let last = skip == 1;
            let finish = if last { Finish::Last } else { Finish::Keep };
            let ready: SmallVec<[(u32, u32); 3]> = [REDUCES, SECOND, COPY]
                .map(|lane| (lane, pen.steps_in(lane)))
                .into_iter()
                .filter(|wait| round > 0 && wait.1 > 0)
                .collect();
            if round > 0 {
                pen.send(SENDS, "send blocks", &ready, [(to, partial(skip, left))]);
                let local = partial(0, left - skip);
                let dst = if last { self.result } else { local };
                let local = Some(Local { span: local, at: 0 });
                let second = pen.steps_in(SECOND);
                let joined = [(SECOND, second)];
                let waits: &[_] = if second > 0 { &joined } else { &[] };
                pen.recv_reduce(REDUCES, "combine blocks", waits, [from], local, dst, finish);
                continue;
            }
            let pieces = |start: Rank, count| {
                wrapped(start.0, count, world)
                    .into_iter()
                    .flatten()
                    .map(|(first, end)| self.blocks.span(Buffer::Input, first, end))
            };
            let sent = pieces(to, left - skip).map(|span| (to, span));
            pen.send(SENDS, "send blocks", &[], sent);
            let mut landing = 0;
            for (lane, local) in [REDUCES, SECOND].into_iter().zip(pieces(rank, left - skip)) {
                let dst =
                    if last { self.result } else { Span::new(Buffer::Scratch, landing, local.len) };
                landing += local.len;
                let local = Some(Local { span: local, at: 0 });
                pen.recv_reduce(lane, "combine blocks", &[], [from], local, dst, finish);
            }
        }
    }

    /// Halving with partners at distance 1, 2, 4, …, near first as the canonical order asks. The halves
    /// are runs of blocks, so a core member ends with the unit (its own block and an extra's) whose number
    /// is its own with the bits reversed: one more message takes each block home.
    fn recursive(&self, pen: &mut Builder) {
        let fold = Fold::new(self.world);
        let levels = fold.levels();
        let exact = if fold.extras == 0 { Order::Canonical } else { Order::Fixed };
        pen.order(exact, Order::Fixed);
        let mirror = |index: u32| index.reverse_bits() >> (u32::BITS - levels);
        let (index, extra) = match fold.role(self.rank) {
            Role::Extra { partner } => {
                let whole = self.blocks.span(Buffer::Input, 0, self.world);
                pen.send(SENDS, "leave part", &[], [(partner, whole)]);
                let keeper = fold.rank(mirror(partner.0 / 2));
                pen.recv(SECOND, "receive result", &[], [(keeper, self.result)]);
                return;
            }
            Role::Core { index, extra } => (index, extra),
        };
        let home = mirror(index);
        // Without a detour the last reduction writes the result itself.
        let straight = home == index && extra.is_none();

        let run = |first, end| {
            (self.blocks.offset(fold.first(first)), self.blocks.offset(fold.first(end)))
        };
        let (mut low, mut high) = (0, fold.core);
        let mut buffer = Buffer::Input;
        let mut base = 0;
        let span =
            |buffer, base, (start, end): (u64, u64)| Span::new(buffer, start - base, end - start);
        if let Some(extra) = extra {
            let all = run(low, high);
            let local = Some(Local { span: span(Buffer::Input, 0, all), at: 0 });
            buffer = Buffer::Scratch;
            pen.scratch(all.1);
            let dst = span(buffer, 0, all);
            pen.recv_reduce(REDUCES, "take part", &[], [extra], local, dst, Finish::Keep);
        }
        for level in 0..levels {
            let partner = fold.rank(index ^ (1 << level));
            let upper = (index >> level) & 1;
            let middle = low.midpoint(high);
            let halves = [run(low, middle), run(middle, high)];
            let keep = halves[upper as usize];
            let give = span(buffer, base, halves[1 - upper as usize]);
            let reduced = pen.steps_in(REDUCES);
            let ready = [(REDUCES, reduced)];
            let waits: &[_] = if reduced > 0 { &ready } else { &[] };
            pen.send(SENDS, "send half", waits, [(partner, give)]);
            let local = Some(Local { span: span(buffer, base, keep), at: upper });
            let last = level + 1 == levels;
            let dst = if last && straight {
                self.result
            } else {
                if buffer == Buffer::Input {
                    buffer = Buffer::Scratch;
                    base = keep.0;
                    pen.scratch(keep.1 - keep.0);
                }
                span(buffer, base, keep)
            };
            let finish = if last { Finish::Last } else { Finish::Keep };
            pen.recv_reduce(REDUCES, "combine half", &[], [partner], local, dst, finish);
            (low, high) = if upper == 1 { (middle, high) } else { (low, middle) };
        }
        if straight {
            return;
        }
        let ready = [(REDUCES, pen.steps_in(REDUCES))];
        let block = |rank: u32| {
            span(buffer, base, (self.blocks.offset(rank), self.blocks.offset(rank + 1)))
        };
        let owners = (fold.first(home)..fold.first(home + 1)).filter(|owner| *owner != self.rank.0);
        if owners.clone().next().is_some() {
            let parts = owners.map(|owner| (Rank(owner), block(owner)));
            pen.send(SENDS, "send results home", &ready, parts);
        }
        if home == index {
            pen.copy(COPY, "own result", &ready, block(self.rank.0), self.result);
        } else {
            pen.recv(SECOND, "receive result", &[], [(fold.rank(home), self.result)]);
        }
    }

    /// The all-gather's trees backwards. An offset's partial result lives in a block of scratch from the
    /// first message for it until it has been sent on.
    fn pat(&self, pen: &mut Builder) {
        let (world, rank) = (self.world, self.rank);
        let longest = self.longest();
        let mut slots = Slots::default();
        // Per offset: slot, and the number of the receive that completed it so far.
        let mut partial: Vec<Option<(u32, u32)>> = vec![None; world as usize];
        let place = |slot: u32, offset: u32| {
            let len = self.blocks.len(below(rank, offset, world).0);
            Span::new(Buffer::Scratch, u64::from(slot) * longest, len)
        };
        let rounds: SmallVec<[_; 16]> = Pat::new(&self.blocks, world).rounds().rev().collect();
        for (number, round) in rounds.iter().enumerate() {
            let (to, from) =
                (below(rank, round.distance, world), above(rank, round.distance, world));
            let ready = round.offsets(world).filter_map(|o| partial[o as usize]).map(|p| p.1).max();
            let waits = ready.map(|steps| (REDUCES, steps));
            let outgoing = round.offsets(world).map(|offset| match partial[offset as usize] {
                Some((slot, _)) => (to, place(slot, offset)),
                None => (to, self.input(below(rank, offset, world))),
            });
            pen.send(SENDS, "send partial results", waits.as_slice(), outgoing);
            for offset in round.offsets(world).map(|offset| offset - round.distance) {
                let own = self.input(below(rank, offset, world));
                let step = pen.steps_in(REDUCES) + 1;
                let first = partial[offset as usize].is_none();
                let (slot, free) = match partial[offset as usize] {
                    _ if offset == 0 => (0, None),
                    Some((slot, _)) => (slot, None),
                    None => slots.take(),
                };
                partial[offset as usize] = Some((slot, step));
                let dst = if offset == 0 { self.result } else { place(slot, offset) };
                let local = Some(Local { span: if first { own } else { dst }, at: 0 });
                let last = offset == 0 && number + 1 == rounds.len();
                let finish = if last { Finish::Last } else { Finish::Keep };
                let waits = free.map(|sends| (SENDS, sends));
                let waits = waits.as_slice();
                pen.recv_reduce(REDUCES, "combine", waits, [from], local, dst, finish);
            }
            // Not before this round's receives have got theirs: they would wait for this round's send, and
            // so would everybody's.
            for offset in round.offsets(world) {
                if let Some((slot, _)) = partial[offset as usize] {
                    slots.give(slot, pen.steps_in(SENDS));
                }
            }
        }
        pen.scratch(longest * u64::from(slots.used));
    }
}

/// Blocks of scratch that are used again, the one that has been free for longest first.
#[derive(Default)]
struct Slots {
    used: u32,
    /// Slot, and how many sends must have ended before it may be written.
    free: std::collections::VecDeque<(u32, u32)>,
}

impl Slots {
    fn take(&mut self) -> (u32, Option<u32>) {
        if let Some((slot, sends)) = self.free.pop_front() {
            return (slot, Some(sends));
        }
        self.used += 1;
        (self.used - 1, None)
    }

    fn give(&mut self, slot: u32, sends: u32) {
        self.free.push_back((slot, sends));
    }
}
