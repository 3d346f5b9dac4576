//! Compiled plans against naive results, in random order, with rings that fill, by copies and by loans.

use allhands_plan::{Algorithm, Counts, Own, Rank, Shape};
use allhands_tensor::foreign::ForeignBytes;
use allhands_tensor::{DType, Kernel, ReduceOp};
use allhands_wire::Fingerprint;

use super::run::{FlatRun, FlatStep, Ledger, Task};
use super::{Board, COPIES, FlatPlan, Found, Lent, Memory, Note};
use crate::op::LoanBase;

/// Places of a test's ring: few, so that they fill.
const PLACES: u64 = 9;
/// Bytes of a test's tile: few, so that there are many.
const TILE: usize = 256;

/// A small generator: xorshift.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

#[derive(Clone, Default)]
struct Buffers {
    input: Vec<u8>,
    data: Vec<u8>,
}

impl Memory for Buffers {
    fn input(&self, offset: usize, max: usize) -> &[u8] {
        &self.input[offset..offset + max]
    }

    fn data(&self, offset: usize, max: usize) -> &[u8] {
        &self.data[offset..offset + max]
    }

    fn data_mut(&mut self, offset: usize, max: usize) -> &mut [u8] {
        &mut self.data[offset..offset + max]
    }

    fn both(&mut self, input: usize, data: usize, max: usize) -> (&[u8], &mut [u8]) {
        (&self.input[input..input + max], &mut self.data[data..data + max])
    }
}

/// A member's ring: everything it ever published, and how far each reader is.
#[derive(Default)]
struct Outbox {
    published: Vec<(Note, Vec<u8>, Option<Lent>)>,
    room: Vec<u8>,
    /// By reader.
    taken: Vec<u64>,
}

/// The memory that all ranks share, seen by the one whose turn it is.
struct Host {
    me: usize,
    outboxes: Vec<Outbox>,
    /// What the others' buffers hold now; lent bytes are read from here.
    views: Vec<Buffers>,
    dice: Dice,
}

/// Where `Data` begins in the memory that a test lends from; `Input` lies before.
const DATA_AT: u64 = 1 << 32;

impl Host {
    fn has_room(&mut self) -> bool {
        let outbox = &self.outboxes[self.me];
        let others = outbox.taken.iter().enumerate().filter(|(rank, _)| *rank != self.me);
        let slowest = others.map(|(_, taken)| *taken).min().unwrap_or(0);
        (outbox.published.len() as u64) < slowest + PLACES && self.dice.roll(4) > 0
    }
}

impl Host {
    /// Copies that some reader has not taken.
    fn copies(&self) -> usize {
        let outbox = &self.outboxes[self.me];
        let others = outbox.taken.iter().enumerate().filter(|(rank, _)| *rank != self.me);
        let slowest = others.map(|(_, taken)| *taken).min().unwrap_or(0) as usize;
        outbox.published[slowest.min(outbox.published.len())..]
            .iter()
            .filter(|(note, _, lent)| note.len > 0 && lent.is_none())
            .count()
    }
}

impl Board for Host {
    const PLACES: u64 = PLACES;

    fn open(&mut self, len: usize) -> Option<&mut [u8]> {
        if !self.has_room() || self.copies() >= COPIES {
            return None;
        }
        let room = &mut self.outboxes[self.me].room;
        room.clear();
        room.resize(len, 0xEE);
        Some(room)
    }

    fn publish(&mut self, note: &Note) {
        let outbox = &mut self.outboxes[self.me];
        let bytes = std::mem::take(&mut outbox.room);
        assert_eq!(bytes.len(), note.len as usize);
        outbox.published.push((*note, bytes, None));
    }

    fn lend(&mut self, note: &Note, lent: &Lent) -> bool {
        let room = self.has_room();
        if room {
            self.outboxes[self.me].published.push((*note, Vec::new(), Some(*lent)));
        }
        room
    }

    fn published(&self) -> u64 {
        self.outboxes[self.me].published.len() as u64
    }

    fn look(&self, rank: Rank, number: u64) -> Option<Found> {
        let outbox = &self.outboxes[rank.index()];
        assert!(outbox.taken[self.me] <= number, "{rank}'s publication {number} was taken");
        let (note, _, lent) = outbox.published.get(number as usize)?;
        Some(Found { note: *note, lent: *lent })
    }

    fn copied(&self, rank: Rank, number: u64, from: usize, len: usize) -> Option<ForeignBytes<'_>> {
        let outbox = &self.outboxes[rank.index()];
        assert!(outbox.taken[self.me] <= number, "{rank}'s publication {number} was taken");
        let (_, bytes, _) = outbox.published.get(number as usize)?;
        bytes.get(from..from + len).map(ForeignBytes::of)
    }

    fn lent(&self, rank: Rank, from: u64, len: usize) -> Option<ForeignBytes<'_>> {
        let view = &self.views[rank.index()];
        let bytes = match from.checked_sub(DATA_AT) {
            Some(from) => view.data.get(from as usize..from as usize + len),
            None => view.input.get(from as usize..from as usize + len),
        };
        bytes.map(ForeignBytes::of)
    }

    fn is_withdrawn(&self, _: Rank) -> bool {
        false
    }

    fn take(&mut self, rank: Rank, number: u64) {
        let taken = &mut self.outboxes[rank.index()].taken[self.me];
        assert!(*taken < number, "{rank}: {number} after {taken}");
        *taken = number;
    }

    fn taken(&self, rank: Rank) -> u64 {
        self.outboxes[self.me].taken[rank.index()]
    }
}

/// Who lends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lenders {
    Nobody,
    Everybody,
    /// Ranks of even number.
    Some,
}

fn words(values: impl IntoIterator<Item = i32>) -> Vec<u8> {
    values.into_iter().flat_map(i32::to_ne_bytes).collect()
}

/// What rank `rank` contributes as its element `index`.
fn given(rank: usize, index: usize) -> i32 {
    ((rank as i32 + 1) * 1_000_003) ^ (index as i32).wrapping_mul(7919)
}

fn contribution(rank: usize, len: u64) -> Vec<u8> {
    words((0..len as usize).map(|index| given(rank, index)))
}

/// Input, data before, and data after (`None`: undefined).
type Case = (Vec<u8>, Vec<u8>, Option<Vec<u8>>);

/// The case of each rank.
fn cases(shape: &Shape, world: u32) -> Vec<Case> {
    let sum = |index: usize| {
        (0..world as usize).fold(0_i32, |sum, rank| sum.wrapping_add(given(rank, index)))
    };
    let blank = |len: u64| vec![0xAB; len as usize * 4];
    let (_, ranks) = (0, u64::from(world));
    (0..world as usize)
        .map(|rank| match shape {
            Shape::AllReduce { len } => {
                let result = words((0..*len as usize).map(sum));
                (Vec::new(), contribution(rank, *len), Some(result))
            }
            Shape::Broadcast { len, root } => {
                (Vec::new(), contribution(rank, *len), Some(contribution(root.index(), *len)))
            }
            Shape::Reduce { len, root } => {
                let result = words((0..*len as usize).map(sum));
                let result = (root.index() == rank).then_some(result);
                (Vec::new(), contribution(rank, *len), result)
            }
            Shape::AllGather { counts, own } => {
                let len = counts.of(Rank(0));
                let all: Vec<u8> =
                    (0..world as usize).flat_map(|from| contribution(from, len)).collect();
                match own {
                    Own::Input => (contribution(rank, len), blank(len * ranks), Some(all)),
                    Own::InPlace => {
                        let mut before = blank(len * ranks);
                        let bytes = len as usize * 4;
                        before[rank * bytes..][..bytes].copy_from_slice(&contribution(rank, len));
                        (Vec::new(), before, Some(all))
                    }
                }
            }
            Shape::Gather { counts, root } => {
                let len = counts.of(Rank(0));
                let all: Vec<u8> =
                    (0..world as usize).flat_map(|from| contribution(from, len)).collect();
                let (before, after) = if root.index() == rank {
                    (blank(len * ranks), all)
                } else {
                    (Vec::new(), Vec::new())
                };
                (contribution(rank, len), before, Some(after))
            }
            Shape::Scatter { counts, root } => {
                let len = counts.of(Rank(0));
                let whole = contribution(root.index(), len * ranks);
                let block = whole[rank * len as usize * 4..][..len as usize * 4].to_vec();
                let input = if root.index() == rank { whole } else { Vec::new() };
                (input, blank(len), Some(block))
            }
            Shape::ReduceScatter { counts } => {
                let len = counts.of(Rank(0)) as usize;
                let block = words((rank * len..(rank + 1) * len).map(sum));
                (contribution(rank, len as u64 * ranks), blank(len as u64), Some(block))
            }
            Shape::AllToAll { send, .. } => {
                let len = send.of(Rank(0)) as usize;
                let block = |from| {
                    let whole = contribution(from, len as u64 * ranks);
                    whole[rank * len * 4..][..len * 4].to_vec()
                };
                let after = (0..world as usize).flat_map(block).collect();
                let input = contribution(rank, len as u64 * ranks);
                (input, blank(len as u64 * ranks), Some(after))
            }
            Shape::Barrier => (Vec::new(), Vec::new(), Some(Vec::new())),
        })
        .collect()
}

/// Runs the operations one after the other on one board and compares.
fn check(shapes: &[(Shape, Algorithm)], world: u32, lenders: Lenders, seed: u64) {
    let n = world as usize;
    let kernel = Kernel::new(DType::I32, ReduceOp::Sum).unwrap();
    let mut host = Host {
        me: 0,
        outboxes: (0..n).map(|_| Outbox { taken: vec![0; n], ..Outbox::default() }).collect(),
        views: vec![Buffers::default(); n],
        dice: Dice(seed | 1),
    };
    let plans: Vec<Vec<FlatPlan>> = shapes
        .iter()
        .map(|(shape, algorithm)| {
            let compile = |rank| {
                let plan = FlatPlan::compile(shape, *algorithm, world, Rank(rank), 4, TILE);
                plan.unwrap().unwrap_or_else(|| panic!("{shape:?} by {algorithm} in {world}"))
            };
            (0..world).map(compile).collect()
        })
        .collect();
    let expected: Vec<_> = shapes.iter().map(|(shape, _)| cases(shape, world)).collect();
    let begin = |operation: usize, rank: usize| match expected.get(operation) {
        Some(cases) => Buffers { input: cases[rank].0.clone(), data: cases[rank].1.clone() },
        None => Buffers::default(),
    };
    let mut ledgers: Vec<Ledger> = (0..n).map(|_| Ledger::new(world)).collect();
    let mut runs: Vec<FlatRun> = (0..n).map(|_| FlatRun::default()).collect();
    let mut at = vec![0_usize; n];
    let mut buffers: Vec<Buffers> = (0..n).map(|rank| begin(0, rank)).collect();
    let mut idle = 0;
    while at.iter().any(|&at| at < shapes.len()) {
        let rank = host.dice.roll(u64::from(world)) as usize;
        let operation = at[rank];
        if operation == shapes.len() {
            continue;
        }
        host.me = rank;
        if lenders != Lenders::Nobody {
            host.views.clone_from(&buffers);
        }
        let lends = match lenders {
            Lenders::Nobody => false,
            Lenders::Everybody => true,
            Lenders::Some => rank.is_multiple_of(2),
        };
        let loan = LoanBase { segment: 0, generation: 0, data: Some(DATA_AT), input: Some(0) };
        let task = Task {
            plan: &plans[operation][rank],
            seq: operation as u64,
            fingerprint: Fingerprint(operation as u64 + 100),
            kernel: Some(&kernel),
            loan: lends.then_some(loan),
            loan_min: 8,
        };
        let what = || format!("{:?} in {world}, rank {rank}, seed {seed}", shapes[operation]);
        match runs[rank].poll(&task, &mut ledgers[rank], &mut host, &mut buffers[rank]) {
            FlatStep::Done => {
                let (input, _, after) = &expected[operation][rank];
                assert_eq!(&buffers[rank].input, input, "input of {}", what());
                if let Some(after) = after {
                    assert_eq!(&buffers[rank].data, after, "data of {}", what());
                }
                at[rank] += 1;
                runs[rank] = FlatRun::default();
                buffers[rank] = begin(at[rank], rank);
                idle = 0;
            }
            FlatStep::Waiting { moved, .. } => {
                idle = if moved { 0 } else { idle + 1 };
                assert!(idle < 10_000 * n, "nothing moves: {}", what());
            }
            other => panic!("{other:?}: {}", what()),
        }
    }
    for (rank, outbox) in host.outboxes.iter().enumerate() {
        let published = outbox.published.len() as u64;
        let all = outbox.taken.iter().enumerate().all(|(r, &t)| r == rank || t == published);
        assert!(all, "rank {rank} published {published}, taken: {:?}", outbox.taken);
    }
}

/// Every collective with lengths around those of a tile.
fn shapes(world: u32, len: u64, root: u32) -> Vec<(Shape, Algorithm)> {
    let (counts, root) = (Counts::Equal(len), Rank(root % world));
    vec![
        (Shape::AllReduce { len }, Algorithm::Direct),
        (Shape::AllReduce { len }, Algorithm::TwoShot),
        (Shape::Broadcast { len, root }, Algorithm::Direct),
        (Shape::Reduce { len, root }, Algorithm::Direct),
        (Shape::AllGather { counts: counts.clone(), own: Own::Input }, Algorithm::Direct),
        (Shape::AllGather { counts: counts.clone(), own: Own::InPlace }, Algorithm::Direct),
        (Shape::Barrier, Algorithm::KAry),
        (Shape::Gather { counts: counts.clone(), root }, Algorithm::Direct),
        (Shape::Scatter { counts: counts.clone(), root }, Algorithm::Direct),
        (Shape::ReduceScatter { counts: counts.clone() }, Algorithm::Direct),
        (Shape::AllToAll { send: counts.clone(), recv: counts }, Algorithm::Direct),
        (Shape::Barrier, Algorithm::Dissemination),
    ]
}

#[test]
fn every_collective_in_every_world_matches_the_naive_result() {
    let mut dice = Dice(0x5EED);
    for world in (2..=9).chain([16, 33]) {
        for lenders in [Lenders::Nobody, Lenders::Everybody, Lenders::Some] {
            let lens: &[u64] = if world < 9 { &[0, 1, 3, 64, 65, 200, 700] } else { &[1, 65] };
            for &len in lens {
                let mut all = shapes(world, len, dice.roll(64) as u32);
                let last = all.len() as u64;
                all.rotate_left(dice.roll(last) as usize);
                check(&all, world, lenders, dice.roll(u64::MAX));
            }
        }
    }
}

#[test]
fn what_is_not_for_shared_memory_is_not_compiled() {
    let none = |shape: Shape, algorithm| {
        let plan = FlatPlan::compile(&shape, algorithm, 4, Rank(1), 4, TILE);
        assert!(plan.unwrap().is_none(), "{shape:?} by {algorithm}");
    };
    none(Shape::AllReduce { len: 100 }, Algorithm::RecursiveDoubling);
    none(Shape::AllReduce { len: 100 }, Algorithm::Circulant);
    let counts = Counts::PerRank([1, 2, 3, 4].into());
    none(Shape::ReduceScatter { counts }, Algorithm::Direct);
    let plan = FlatPlan::compile(&Shape::Barrier, Algorithm::KAry, 1, Rank(0), 1, TILE);
    assert!(plan.unwrap().is_none());
}

#[test]
fn another_operation_is_noticed_by_its_fingerprint_or_number() {
    let plan = |rank| {
        let shape = Shape::AllReduce { len: 4 };
        FlatPlan::compile(&shape, Algorithm::Direct, 2, Rank(rank), 4, TILE).unwrap().unwrap()
    };
    let plans = [plan(0), plan(1)];
    let kernel = Kernel::new(DType::I32, ReduceOp::Sum).unwrap();
    for (seq, fingerprint) in [(0, 6), (1, 5)] {
        let mut host = Host {
            me: 0,
            outboxes: (0..2).map(|_| Outbox { taken: vec![0; 2], ..Outbox::default() }).collect(),
            views: vec![Buffers::default(); 2],
            dice: Dice(1),
        };
        let mut first = |rank: usize, seq, fingerprint: u64| loop {
            host.me = rank;
            let task = Task {
                plan: &plans[rank],
                seq,
                fingerprint: Fingerprint(fingerprint),
                kernel: Some(&kernel),
                loan: None,
                loan_min: 0,
            };
            let mut memory = Buffers { input: Vec::new(), data: vec![0; 16] };
            let (mut run, mut ledger) = (FlatRun::default(), Ledger::new(2));
            let step = run.poll(&task, &mut ledger, &mut host, &mut memory);
            if !matches!(step, FlatStep::Waiting { moved: false, .. }) {
                return step;
            }
        };
        assert_eq!(first(0, 0, 5), FlatStep::Waiting { rank: Rank(1), moved: true });
        let note = Note { seq: 0, fingerprint: Fingerprint(5), len: 16, tile: 0 };
        assert_eq!(first(1, seq, fingerprint), FlatStep::Mismatch { rank: Rank(0), note });
    }
}
