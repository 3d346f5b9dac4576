//! One operation in flight: its plan, its memory, and how far each lane has come.

use std::sync::Arc;
use std::time::Instant;

use allhands_plan::{Op as Code, Part, Plan, Rank, Step};
use allhands_tensor::Kernel;
use allhands_wire::{Descriptor, Fingerprint, Loan};
use smallvec::SmallVec;

use crate::buffers::{Buffers, ByteSpan, Space};
use crate::engine::DONE;

/// A plan with what the engine looks up while it runs, computed once and shared by every run.
#[derive(Debug)]
pub struct Prepared {
    plan: Plan,
    /// (source, slot, elements) of every message this rank receives, sorted.
    receives: Vec<(Rank, u32, u64)>,
    /// (source, elements) received from each source in the whole plan.
    totals: Vec<(Rank, u64)>,
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
        Self { plan, receives, totals }
    }

    /// The plan.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Elements of the message `slot` from `source`, if the plan has one.
    pub(crate) fn expected(&self, source: Rank, slot: u32) -> Option<u64> {
        self.receives
            .binary_search_by_key(&(source, slot), |&(rank, slot, _)| (rank, slot))
            .ok()
            .map(|at| self.receives[at].2)
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

/// What an operation does.
#[derive(Debug)]
pub(crate) enum Body {
    Collective(Arc<Prepared>),
    Send(Part),
    Recv(Part),
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
    pub(crate) lanes: SmallVec<[LaneState; 4]>,
    pub(crate) lanes_done: usize,
    pub(crate) parked: SmallVec<[Parked; 2]>,
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
            Body::Send(..) | Body::Recv(..) => None,
        }
    }

    /// The sends, or receives, of the current step of `lane`.
    pub(crate) fn parts(&self, lane: usize) -> &[Part] {
        match &self.body {
            Body::Send(part) | Body::Recv(part) => std::slice::from_ref(part),
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
            Body::Send(..) => false,
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

    /// Ranks whose bytes the active receives still miss.
    pub(crate) fn awaited(&self) -> SmallVec<[Rank; 8]> {
        let mut ranks: SmallVec<[Rank; 8]> = SmallVec::new();
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
