//! All-gather: every rank gets everybody's block.
//!
//! With n bytes in all, P ranks, L = ⌈log2 P⌉, latency α, β seconds a byte and overhead o a message:
//!
//! | algorithm | time | source |
//! |---|---|---|
//! | [`Algorithm::Direct`] | α + (P−1)o + (P−1)/P nβ | |
//! | [`Algorithm::Ring`] | (P−1)α + (P−1)/P nβ | |
//! | [`Algorithm::Circulant`] | Lα + (P−1)/P nβ for every P | Träff, arXiv 2410.14234; Bruck et al., TPDS 1997 |
//! | [`Algorithm::Recursive`] | Lα + (P−1)/P nβ; folded where P is no power of two: + 2α + nβ | Thakur et al., 2005 |
//! | [`Algorithm::Pat`] | see [`crate::pat`] | Jeaugey, arXiv 2506.20252 |
//!
//! Receives wait for nothing: nobody else writes their blocks. Messages of no elements are sent too: with
//! per-rank counts a rank's length is compared where its message arrives.

use smallvec::SmallVec;

use crate::algorithm::Algorithm;
use crate::blocks::{Blocks, Fold, Role, above, below, others};
use crate::builder::Builder;
use crate::error::PlanError;
use crate::pat::Pat;
use crate::plan::{Buffer, Plan, Rank, Span};
use crate::rounds::{around, skips};
use crate::shape::{Own, Shape};

const SENDS: u32 = 0;
/// The own block is copied beside everything else.
const COPY: u32 = 1;
/// First lane of receives.
const RECEIVES: u32 = 2;

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
    let Shape::AllGather { counts, own } = shape else {
        return Err(PlanError::unsupported(algorithm, shape));
    };
    if !supports(shape, algorithm, world) {
        return Err(PlanError::unsupported(algorithm, shape));
    }
    let blocks = Blocks::of(counts, world);
    let home = blocks.one(Buffer::Data, rank);
    let source = match own {
        Own::Input => Span::new(Buffer::Input, 0, home.len),
        Own::InPlace => home,
    };
    // Lanes that a rank does not use are dropped.
    let lanes = RECEIVES as usize + Pat::levels(world).max(1) as usize;
    let mut pen = Builder::new(shape, algorithm, world, rank, lanes);
    if source != home {
        pen.copy(COPY, "own block", &[], source, home);
    }
    let gather = Gather { world, rank, blocks, source };
    match algorithm {
        _ if world == 1 => {}
        Algorithm::Direct => gather.direct(&mut pen),
        Algorithm::Ring => gather.ring(&mut pen),
        Algorithm::Circulant => gather.circulant(&mut pen),
        Algorithm::Recursive => gather.recursive(&mut pen),
        Algorithm::Pat => gather.pat(&mut pen),
        _ => return Err(PlanError::unsupported(algorithm, shape)),
    }
    Ok(pen.build())
}

struct Gather {
    world: u32,
    rank: Rank,
    blocks: Blocks,
    /// Where the own block is from the start.
    source: Span,
}

impl Gather {
    /// A block of `Data`.
    fn block(&self, rank: Rank) -> Span {
        self.blocks.one(Buffer::Data, rank)
    }

    /// What a step that sends the own block from `Data` waits for, besides `others`.
    fn copied(&self, others: Option<(u32, u32)>) -> SmallVec<[(u32, u32); 2]> {
        let copy = (self.source.buffer == Buffer::Input).then_some((COPY, 1));
        others.into_iter().chain(copy).collect()
    }

    fn direct(&self, pen: &mut Builder) {
        let others = others(self.rank, self.world);
        pen.send(SENDS, "send to all", &[], others.clone().map(|peer| (peer, self.source)));
        pen.recv(RECEIVES, "receive from all", &[], others.map(|peer| (peer, self.block(peer))));
    }

    fn ring(&self, pen: &mut Builder) {
        let next = above(self.rank, 1, self.world);
        let previous = below(self.rank, 1, self.world);
        pen.send(SENDS, "send own block", &[], [(next, self.source)]);
        for round in 1..self.world {
            let block = self.block(below(self.rank, round, self.world));
            pen.recv(RECEIVES, "receive block", &[], [(previous, block)]);
            if round + 1 < self.world {
                pen.send(SENDS, "pass on", &[(RECEIVES, round)], [(next, block)]);
            }
        }
    }

    fn circulant(&self, pen: &mut Builder) {
        let (world, rank) = (self.world, self.rank);
        let rounds: SmallVec<[(u32, u32); 8]> = skips(world).collect();
        for (lane, &(skip, left)) in (RECEIVES..).zip(rounds.iter().rev()) {
            let (to, from) = (below(rank, skip, world), above(rank, skip, world));
            if lane == RECEIVES {
                pen.send(SENDS, "send own block", &[], [(to, self.source)]);
            } else {
                let waits = self.copied(Some((lane - 1, 1)));
                let spans = around(&self.blocks, world, rank, left - skip);
                pen.send(SENDS, "send blocks", &waits, spans.into_iter().map(|span| (to, span)));
            }
            let spans = around(&self.blocks, world, from, left - skip);
            pen.recv(lane, "receive blocks", &[], spans.into_iter().map(|span| (from, span)));
        }
    }

    /// Aligned groups of 1, 2, 4, … core members exchange all they have.
    fn recursive(&self, pen: &mut Builder) {
        let fold = Fold::new(self.world);
        let run = |first, end| self.blocks.span(Buffer::Data, first, end);
        let (index, extra) = match fold.role(self.rank) {
            Role::Extra { partner } => {
                pen.send(SENDS, "leave block", &[], [(partner, self.source)]);
                let around = [run(0, self.rank.0), run(self.rank.0 + 1, self.world)];
                pen.recv(RECEIVES, "receive the others", &[], around.map(|span| (partner, span)));
                return;
            }
            Role::Core { index, extra } => (index, extra),
        };
        let mut lane = RECEIVES;
        let mut arrived = None;
        if let Some(extra) = extra {
            pen.recv(lane, "take block", &[], [(extra, self.block(extra))]);
            arrived = Some((lane, 1));
            lane += 1;
        }
        for level in 0..fold.levels() {
            let partner = fold.rank(index ^ (1 << level));
            let group =
                |number: u32| run(fold.first(number << level), fold.first((number + 1) << level));
            let ours = index >> level;
            if arrived.is_none() {
                pen.send(SENDS, "send own block", &[], [(partner, self.source)]);
            } else {
                let waits = self.copied(arrived);
                pen.send(SENDS, "exchange groups", &waits, [(partner, group(ours))]);
            }
            pen.recv(lane, "receive group", &[], [(partner, group(ours ^ 1))]);
            arrived = Some((lane, 1));
            lane += 1;
        }
        if let Some(extra) = extra {
            let waits = self.copied(arrived);
            let around = [run(0, extra.0), run(extra.0 + 1, self.world)];
            pen.send(SENDS, "give the others", &waits, around.map(|span| (extra, span)));
        }
    }

    /// A lane for each distance: what one peer sends arrives in order.
    fn pat(&self, pen: &mut Builder) {
        let (world, rank) = (self.world, self.rank);
        let pat = Pat::new(&self.blocks, world);
        for round in pat.rounds() {
            let (to, from) =
                (above(rank, round.distance, world), below(rank, round.distance, world));
            let waits = pat.needs(round).map(|(level, steps)| (RECEIVES + level, steps));
            let sent = round.offsets(world).map(|offset| match offset - round.distance {
                0 => (to, self.source),
                back => (to, self.block(below(rank, back, world))),
            });
            pen.send(SENDS, "send blocks", waits.as_slice(), sent);
            let landing = round.offsets(world).map(|o| (from, self.block(below(rank, o, world))));
            pen.recv(RECEIVES + round.distance.trailing_zeros(), "receive blocks", &[], landing);
        }
    }
}
