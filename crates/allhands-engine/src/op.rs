//! One operation in flight: its plan, its memory, and how far each lane has come.

use std::sync::Arc;
use std::time::{Duration, Instant};

use allhands_plan::{Op as Code, Part, Plan, Rank, Step};
use allhands_tensor::Kernel;
use allhands_wire::{Descriptor, Fingerprint, Loan};
use smallvec::SmallVec;

use crate::buffers::{Buffers, ByteSpan, Space};
use crate::engine::DONE;
use crate::flat::{BOARD_CHANNEL, FlatPlan};

/// A plan with what the engine looks up while it runs, computed once and shared by every run.
#[derive(Debug)]
pub struct Prepared {
    plan: Plan,
    /// (source, slot, elements) of every message this rank receives, sorted.
    receives: Vec<(Rank, u32, u64)>,
    /// (source, elements) received from each source in the whole plan.
    totals: Vec<(Rank, u64)>,
    reduces: bool,
    flat: Option<FlatPlan>,
}

impl Prepared {
    /// Indexes `plan`.
    #[must_use]
    pub fn new(plan: Plan) -> Self {
        let mut receives = Vec::new();
        for step in plan.lanes().iter().flat_map(|lane| plan.steps(lane)) {
            if let Code::Recv { parts } | Code::RecvReduce { parts, .. } = &step.op {
                receives.extend(plan.parts(parts).iter().map(|p| (p.peer, p.slot, p.span.len)));
            }
        }
        receives.sort_unstable();
        let mut totals: Vec<(Rank, u64)> = Vec::new();
        for &(rank, _, len) in &receives {
            match totals.last_mut() {
                Some(last) if last.0 == rank => last.1 += len,
                _ => totals.push((rank, len)),
            }
        }
        let reduces = plan.reduces();
        Self { plan, receives, totals, reduces, flat: None }
    }

    /// The same, to be run in shared memory where the group has a board.
    #[must_use]
    pub fn with_flat(self, flat: Option<FlatPlan>) -> Self {
        Self { flat, ..self }
    }

    /// The plan's form for shared memory.
    #[must_use]
    pub fn flat(&self) -> Option<&FlatPlan> {
        self.flat.as_ref()
    }

    /// The plan.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The message `slot` from `source`, if the plan has one: its number among all that this rank
    /// receives, and its elements.
    pub(crate) fn receive(&self, source: Rank, slot: u32) -> Option<(usize, u64)> {
        self.receives
            .binary_search_by_key(&(source, slot), |&(rank, slot, _)| (rank, slot))
            .ok()
            .map(|at| (at, self.receives[at].2))
    }

    /// Every message from `source`: number, slot and elements.
    pub(crate) fn receives_from(&self, source: Rank) -> impl Iterator<Item = (usize, u32, u64)> {
        let first = self.receives.partition_point(|&(rank, ..)| rank < source);
        (first..)
            .zip(&self.receives[first..])
            .take_while(move |(_, (rank, ..))| *rank == source)
            .map(|(at, &(_, slot, len))| (at, slot, len))
    }

    /// Whether running the plan needs a kernel.
    #[must_use]
    pub fn reduces(&self) -> bool {
        self.reduces
    }

    /// Whether the plan sends anything to `rank`.
    pub(crate) fn sends_to(&self, rank: Rank) -> bool {
        let mut steps = self.plan.lanes().iter().flat_map(|lane| self.plan.steps(lane));
        steps.any(|step| match &step.op {
            Code::Send { parts } => self.plan.parts(parts).iter().any(|part| part.peer == rank),
            _ => false,
        })
    }

    pub(crate) fn totals(&self) -> &[(Rank, u64)] {
        &self.totals
    }
}

/// A collective to run.
#[derive(Debug)]
pub struct Submission {
    /// Stream of operations inside the group; all ranks issue the same operations on it in the same order.
    pub channel: u32,
    /// This rank's plan.
    pub plan: Arc<Prepared>,
    /// How elements are reduced; `None` for plans without a reduction.
    pub kernel: Option<Kernel>,
    /// Bytes of one element.
    pub element_size: usize,
    /// What this call is, in full; travels only when ranks disagree.
    pub descriptor: Descriptor,
    /// The same, packed; travels in every frame.
    pub fingerprint: Fingerprint,
    /// The plan's `Input`.
    pub input: Space,
    /// The plan's `Data`.
    pub data: Space,
    /// Where the buffers lie in shared memory, if they do: sends may then be loans.
    pub loan: Option<LoanBase>,
    /// When the operation was called.
    pub submitted: Instant,
    /// When the operation fails with a timeout.
    pub deadline: Option<Instant>,
}

impl Submission {
    /// Whether this is an operation for a group's board, if the group has one.
    #[must_use]
    pub fn runs_on_board(&self) -> bool {
        self.channel == BOARD_CHANNEL && self.plan.flat().is_some()
    }
}

/// Where an operation's buffers begin in a shared segment.
#[derive(Clone, Copy, Debug)]
pub struct LoanBase {
    /// The segment.
    pub segment: u64,
    /// The segment's generation; a reader refuses a stale one.
    pub generation: u64,
    /// Offset of `Data` in the segment, if it lies there.
    pub data: Option<u64>,
    /// Offset of `Input` in the segment, if it lies there.
    pub input: Option<u64>,
}

/// A point-to-point message to send or receive.
#[derive(Debug)]
pub struct PointSubmission {
    /// The other side.
    pub peer: Rank,
    /// Messages with equal source, destination and tag arrive in the order in which they were sent.
    pub tag: u32,
    /// What this call is, in full.
    pub descriptor: Descriptor,
    /// The same, packed; equal on both sides.
    pub fingerprint: Fingerprint,
    /// The bytes to send, or where to put what arrives.
    pub buffer: Space,
    /// When the operation was called.
    pub submitted: Instant,
    /// When the operation fails with a timeout.
    pub deadline: Option<Instant>,
}

/// Names an operation in one engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OpKey {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

impl OpKey {
    /// A small number, unique among the operations in flight: an index for tables beside the engine.
    #[must_use]
    pub fn index(self) -> usize {
        self.index as usize
    }
}

/// How a lane stands.
#[derive(Debug, Default)]
pub(crate) struct LaneState {
    /// Index of the current step in the lane; also the number of finished steps.
    pub(crate) at: u32,
    /// Whether the current step has begun.
    pub(crate) active: bool,
    /// Parts of the current step that are not finished.
    pub(crate) open: u32,
    /// Bytes moved, for each part of the current step.
    pub(crate) moved: SmallVec<[usize; 4]>,
    /// Where several incoming messages wait until the same stretch of all of them is there: part after part.
    pub(crate) assembly: Vec<u8>,
    /// Bytes of the destination already reduced from `assembly`.
    pub(crate) reduced: usize,
    /// The beginning of an element whose rest has not come: links cut anywhere.
    pub(crate) carry: [u8; 8],
    pub(crate) carried: u8,
}

impl LaneState {
    /// Makes it that of a lane that has not begun.
    pub(crate) fn clear(&mut self) {
        let mut moved = std::mem::take(&mut self.moved);
        moved.clear();
        *self = Self { moved, ..Self::default() };
    }
}

/// Marks of messages, by their numbers.
#[derive(Debug, Default)]
pub(crate) struct Marks(SmallVec<[u64; 2]>);

impl Marks {
    pub(crate) fn contains(&self, at: usize) -> bool {
        self.0.get(at / 64).is_some_and(|word| word & (1 << (at % 64)) != 0)
    }

    pub(crate) fn insert(&mut self, at: usize) {
        if self.0.len() <= at / 64 {
            self.0.resize(at / 64 + 1, 0);
        }
        self.0[at / 64] |= 1 << (at % 64);
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}

/// A message of a submitted operation that came before its receive was active.
#[derive(Debug)]
pub(crate) struct Parked {
    pub(crate) source: Rank,
    pub(crate) slot: u32,
    pub(crate) len: usize,
    pub(crate) content: Content,
}

/// What has come of a message before anybody could take it.
#[derive(Debug)]
pub(crate) enum Content {
    Bytes(Vec<u8>),
    Loan(Loan),
}

impl Content {
    /// Bytes that have come; `None` for a loan, after which nothing comes.
    pub(crate) fn reached(&self) -> Option<usize> {
        match self {
            Self::Bytes(bytes) => Some(bytes.len()),
            Self::Loan(_) => None,
        }
    }
}

/// What an operation does.
#[derive(Debug)]
pub(crate) enum Body {
    Collective(Arc<Prepared>),
    /// A collective that runs on the group's board, and who it waits for.
    Flat {
        plan: Arc<Prepared>,
        waiting: Option<Rank>,
    },
    Send(Part),
    Recv(Part),
    /// Nothing any more: the state is kept for another operation.
    Ended,
}

#[derive(Debug)]
pub(crate) struct OpState {
    pub(crate) key: OpKey,
    pub(crate) group: u32,
    pub(crate) channel: u32,
    pub(crate) seq: u64,
    pub(crate) body: Body,
    pub(crate) kernel: Option<Kernel>,
    pub(crate) element_size: usize,
    pub(crate) world: u32,
    pub(crate) descriptor: Descriptor,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) buffers: Buffers,
    pub(crate) loan: Option<LoanBase>,
    pub(crate) lanes: Vec<LaneState>,
    pub(crate) lanes_done: usize,
    pub(crate) parked: Vec<Parked>,
    /// Messages of which something has come, by their numbers in the plan.
    pub(crate) begun: Marks,
    /// Receives whose bytes this rank reads in the sender's memory.
    pub(crate) pulling: SmallVec<[PartAt; 2]>,
    pub(crate) deadline: Option<Instant>,
    pub(crate) submitted: Instant,
    pub(crate) probed: bool,
}

/// A part of an active step: which lane, and which of its parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PartAt {
    pub(crate) lane: u8,
    pub(crate) part: u32,
}

impl OpState {
    /// The current step of a lane, if the operation is a collective and the lane has not ended.
    pub(crate) fn step(&self, lane: usize) -> Option<&Step> {
        match &self.body {
            Body::Collective(prepared) => {
                let plan = &prepared.plan;
                plan.steps(&plan.lanes()[lane]).get(self.lanes[lane].at as usize)
            }
            Body::Send(..) | Body::Recv(..) | Body::Flat { .. } | Body::Ended => None,
        }
    }

    /// The sends, or receives, of the current step of `lane`.
    pub(crate) fn parts(&self, lane: usize) -> &[Part] {
        match &self.body {
            Body::Send(part) | Body::Recv(part) => std::slice::from_ref(part),
            Body::Flat { .. } | Body::Ended => &[],
            Body::Collective(prepared) => match self.step(lane).map(|step| &step.op) {
                Some(
                    Code::Send { parts } | Code::Recv { parts } | Code::RecvReduce { parts, .. },
                ) => prepared.plan.parts(parts),
                _ => &[],
            },
        }
    }

    /// Where a part lies in memory.
    pub(crate) fn span(&self, at: PartAt) -> ByteSpan {
        let lane = usize::from(at.lane);
        if let Some(Code::RecvReduce { dst, .. }) = self.step(lane).map(|step| &step.op) {
            return ByteSpan::of(*dst, self.element_size);
        }
        ByteSpan::of(self.parts(lane)[at.part as usize].span, self.element_size)
    }

    fn receives(&self, lane: usize) -> bool {
        match &self.body {
            Body::Recv(..) => true,
            Body::Send(..) | Body::Flat { .. } | Body::Ended => false,
            Body::Collective(_) => matches!(
                self.step(lane).map(|step| &step.op),
                Some(Code::Recv { .. } | Code::RecvReduce { .. })
            ),
        }
    }

    fn find(&self, peer: Rank, slot: u32, receiving: Direction) -> Option<PartAt> {
        for (lane, state) in self.lanes.iter().enumerate() {
            if !state.active || self.receives(lane) != (receiving == Direction::In) {
                continue;
            }
            let found = self.parts(lane).iter().position(|p| p.peer == peer && p.slot == slot);
            if let Some(part) = found
                && state.moved[part] != DONE
            {
                return Some(PartAt { lane: lane as u8, part: part as u32 });
            }
        }
        None
    }

    /// The active receive that message `slot` from `peer` belongs to.
    pub(crate) fn receive_of(&self, peer: Rank, slot: u32) -> Option<PartAt> {
        self.find(peer, slot, Direction::In)
    }

    /// The active send of message `slot` to `peer`.
    pub(crate) fn send_of(&self, peer: Rank, slot: u32) -> Option<PartAt> {
        self.find(peer, slot, Direction::Out)
    }

    /// Whether something of a message is on its way here or from here, and not all of it is there.
    pub(crate) fn needs(&self, rank: Rank) -> bool {
        if let Body::Flat { .. } = self.body {
            // What the peer published before it left is on its board: the next look there tells.
            return false;
        }
        let Body::Collective(prepared) = &self.body else {
            return self.awaited().contains(&rank) || self.undelivered().contains(&rank);
        };
        let plan = &prepared.plan;
        plan.lanes().iter().zip(&self.lanes).any(|(lane, state)| {
            let steps = plan.steps(lane).iter().skip(state.at as usize);
            steps.enumerate().any(|(ahead, step)| {
                let current = ahead == 0 && state.active;
                let (parts, sends) = match &step.op {
                    Code::Send { parts } => (parts, true),
                    Code::Recv { parts } | Code::RecvReduce { parts, .. } => (parts, false),
                    Code::Copy { .. } | Code::Reduce { .. } => return false,
                };
                let mut theirs =
                    plan.parts(parts).iter().enumerate().filter(|(_, part)| part.peer == rank);
                theirs.any(|(at, part)| match (current, sends) {
                    (true, _) => state.moved[at] != DONE,
                    (false, true) => true,
                    (false, false) => !self.has_whole(rank, part.slot),
                })
            })
        })
    }

    /// Whether a message that nobody receives yet is here as a whole.
    fn has_whole(&self, source: Rank, slot: u32) -> bool {
        let parked = self.parked.iter().find(|p| p.source == source && p.slot == slot);
        parked.is_some_and(|parked| parked.content.reached() == Some(parked.len))
    }

    /// When peers are asked about this operation if it has not ended.
    pub(crate) fn probe_at(&self, after: Duration) -> Instant {
        let half = |deadline: Instant| deadline.saturating_duration_since(self.submitted) / 2;
        self.submitted + self.deadline.map_or(after, |deadline| after.min(half(deadline)))
    }

    /// Ranks whose bytes the active receives still miss.
    pub(crate) fn awaited(&self) -> SmallVec<[Rank; 8]> {
        let mut ranks: SmallVec<[Rank; 8]> = SmallVec::new();
        if let Body::Flat { waiting, .. } = &self.body {
            ranks.extend(*waiting);
        }
        for (lane, state) in self.lanes.iter().enumerate() {
            if !state.active || !self.receives(lane) {
                continue;
            }
            for (at, part) in self.parts(lane).iter().enumerate() {
                if state.moved[at] != DONE && !ranks.contains(&part.peer) {
                    ranks.push(part.peer);
                }
            }
        }
        ranks
    }

    /// Ranks that the active sends still wait to be rid of.
    pub(crate) fn undelivered(&self) -> SmallVec<[Rank; 8]> {
        let mut ranks: SmallVec<[Rank; 8]> = SmallVec::new();
        for (lane, state) in self.lanes.iter().enumerate() {
            if state.active && !self.receives(lane) {
                for (at, part) in self.parts(lane).iter().enumerate() {
                    if state.moved[at] != DONE && !ranks.contains(&part.peer) {
                        ranks.push(part.peer);
                    }
                }
            }
        }
        ranks
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    In,
    Out,
}
