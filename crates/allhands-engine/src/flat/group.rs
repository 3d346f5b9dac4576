//! Operations on a group's board, and how they meet the rest of the engine.
//!
//! An operation that the calling thread runs to its end at once never becomes an entry of the engine: it takes its
//! number ([`Engine::begin_inline`]), runs ([`Engine::poll_inline`]) and leaves its description behind
//! ([`Engine::finish_inline`]). One that has to wait is entered ([`Engine::enlist`]), and from then on has its deadline,
//! is asked about, and ends with its group, like every other. Operations that nobody waits for queue up and run in
//! their order ([`Engine::poll_board`]).

use std::collections::VecDeque;
use std::time::Instant;

use allhands_plan::Rank;
use allhands_wire::{Cause, Descriptor, Fingerprint, Header};
use smallvec::SmallVec;

use super::run::{FlatCall, FlatRun, FlatStep, Ledger, Memory, Task};
use super::{Board, Note};
use crate::buffers::Buffers;
use crate::config::HISTORY;
use crate::engine::{Channel, Engine, Gone, GroupKey, Past};
use crate::error::{Refused, Violation};
use crate::failure::Health;
use crate::op::{Body, LoanBase, OpKey, OpState, Prepared, Submission};

/// The channel whose operations run on the board: publications have one order, so only one channel has it.
pub const BOARD_CHANNEL: u32 = 0;

/// What a group knows of its board.
#[derive(Debug)]
pub(crate) struct FlatState {
    ledger: Ledger,
    /// Operations in the engine that run on the board, oldest first.
    queue: VecDeque<OpKey>,
    /// How far the first of the queue has come.
    run: FlatRun,
    /// An operation that its caller runs is on the board; the queue waits.
    inline: Inline,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Inline {
    Nothing,
    Running,
}

/// An operation that its caller runs: its number, and how far it has come.
#[derive(Debug)]
pub struct Ticket {
    seq: u64,
    run: FlatRun,
}

impl Ticket {
    /// Number of the operation on its channel.
    #[must_use]
    #[inline]
    pub fn sequence(&self) -> u64 {
        self.seq
    }
}

impl Engine {
    /// Gives a group a board: operations whose plans were compiled for it run there from now on. All members must
    /// do so before the first operation, or none.
    pub fn share(&mut self, group: GroupKey) {
        let owner = self.group_mut(group.0);
        let ledger = Ledger::new(owner.members.len() as u32);
        let (queue, run) = (VecDeque::new(), FlatRun::default());
        owner.flat = Some(Box::new(FlatState { ledger, queue, run, inline: Inline::Nothing }));
    }

    /// Whether `call` on `channel` would run on the group's board.
    pub(crate) fn is_flat(&self, group: u32, channel: u32, plan: &Prepared) -> bool {
        channel == BOARD_CHANNEL && plan.flat().is_some() && self.group_ref(group).flat.is_some()
    }

    /// Takes the number of an operation that the caller runs itself. `None` if it has to go through the engine:
    /// others are in flight, the group is not well, or it has no board.
    #[inline]
    pub fn begin_inline<B: Board>(
        &mut self,
        group: GroupKey,
        plan: &Prepared,
        board: &B,
    ) -> Option<Ticket> {
        if self.closed > 0 && self.lacks_member(group, plan, board) {
            return None;
        }
        let owner = self.groups.get_mut(group.0 as usize)?.as_mut()?;
        let flat = owner.flat.as_deref_mut()?;
        let channel = owner.channels.first_mut()?;
        let free = channel.id == BOARD_CHANNEL
            && channel.window.is_empty()
            && channel.early.is_empty()
            && owner.mismatches.is_empty()
            && matches!(owner.health, Health::Good)
            && plan.flat().is_some_and(|plan| plan.is_of(owner.rank, owner.members.len()));
        if !free {
            return None;
        }
        let seq = channel.next;
        channel.next += 1;
        channel.first = channel.next;
        flat.inline = Inline::Running;
        Some(Ticket { seq, run: FlatRun::default() })
    }

    /// As [`Engine::submit`], for an operation that runs on the group's board: what a member published before it left is
    /// still there.
    ///
    /// # Errors
    /// As [`Engine::submit`].
    pub fn submit_on_board<B: Board>(
        &mut self,
        group: GroupKey,
        call: Submission,
        board: &B,
    ) -> Result<OpKey, Box<Refused>> {
        let flat = self.group_ref(group.0).flat.as_deref();
        // The next publication of a member belongs to this operation only if no other comes first.
        let next = flat.is_some_and(|flat| flat.queue.is_empty() && flat.inline == Inline::Nothing);
        let done = self.closed > 0 && next && !self.lacks_member(group, &call.plan, board);
        self.submit_beside(group, call, if done { Gone::Done } else { Gone::Asked })
    }

    /// Whether an operation needs something of a member that has gone: all that is left of it is on its board.
    #[cold]
    fn lacks_member<B: Board>(&self, group: GroupKey, plan: &Prepared, board: &B) -> bool {
        let owner = self.group_ref(group.0);
        let (Some(state), Some(flat)) = (owner.flat.as_deref(), plan.flat()) else { return true };
        (0..).map(Rank).zip(&owner.members).any(|(rank, peer)| {
            let gone = self.peers[peer.index()].closed;
            let last = flat.publications_of(rank).checked_sub(1);
            let published = || {
                last.is_none_or(|last| board.look(rank, state.ledger.next(rank) + last).is_some())
            };
            gone && (plan.sends_to(rank) || !published())
        })
    }

    /// Runs an operation that the caller has begun, as far as it goes. Touches no operation of the engine.
    #[inline]
    pub fn poll_inline<B: Board, M: Memory>(
        &mut self,
        group: GroupKey,
        call: &FlatCall,
        loan: Option<LoanBase>,
        ticket: &mut Ticket,
        board: &mut B,
        memory: &mut M,
    ) -> FlatStep {
        let loan_min = self.config.loan_min;
        let owner = self.group_mut(group.0);
        let (Some(flat), Some(plan)) = (owner.flat.as_deref_mut(), call.plan.flat()) else {
            unreachable!("begin_inline has seen a board and a plan for it");
        };
        let task = Task {
            plan,
            seq: ticket.seq,
            fingerprint: call.fingerprint,
            kernel: call.kernel.as_ref(),
            loan,
            loan_min,
        };
        ticket.run.poll(&task, &mut flat.ledger, board, memory)
    }

    /// An operation that was not entered has ended.
    #[inline]
    pub fn finish_inline(&mut self, group: GroupKey, call: &FlatCall, ticket: &Ticket) {
        let owner = self.group_mut(group.0);
        if let Some(flat) = owner.flat.as_deref_mut() {
            flat.inline = Inline::Nothing;
        }
        if let Some(channel) = owner.channels.first_mut() {
            channel.remember(ticket.seq, call.fingerprint, &call.descriptor, call.identity);
        }
    }

    /// Enters an operation that the caller runs and that has to wait: now it has a deadline, and fails with its
    /// group. Its buffers stay with the caller.
    pub fn enlist(
        &mut self,
        group: GroupKey,
        call: &FlatCall,
        ticket: &Ticket,
        submitted: Instant,
        deadline: Option<Instant>,
    ) -> OpKey {
        let key = self.new_key();
        let owner = self.group_mut(group.0);
        let world = owner.members.len() as u32;
        if let Some(channel) = owner.channels.first_mut() {
            channel.first = ticket.seq;
            channel.window.push_back(Some(key.index));
        }
        let fresh = OpState {
            key,
            group: group.0,
            channel: BOARD_CHANNEL,
            seq: ticket.seq,
            body: Body::Flat { plan: call.plan.clone(), waiting: None },
            kernel: call.kernel,
            element_size: call.element_size,
            world,
            descriptor: call.descriptor,
            fingerprint: call.fingerprint,
            buffers: Buffers::default(),
            loan: None,
            lanes: Vec::new(),
            lanes_done: 0,
            parked: Vec::new(),
            begun: Default::default(),
            pulling: SmallVec::new(),
            deadline,
            submitted,
            probed: false,
        };
        let op = self.spare.op(fresh, 1);
        self.note_deadline(op.deadline);
        self.note_deadline(Some(op.probe_at(self.config.probe_after)));
        self.put_op(op);
        key
    }

    /// Takes note of how far an entered operation has come, and ends it when it has. Returns whether anything was
    /// done.
    pub fn settle_inline(&mut self, key: OpKey, step: FlatStep) -> bool {
        let ended = !self.is_pending(key) || self.settle_flat(key, step);
        ended || matches!(step, FlatStep::Waiting { moved: true, .. })
    }

    /// The caller has done with an operation that it entered: the board is free for the next.
    pub fn release_inline(&mut self, group: GroupKey) {
        if let Some(flat) = self.group_mut(group.0).flat.as_deref_mut() {
            flat.inline = Inline::Nothing;
        }
    }

    /// Whether an operation in flight has not begun, because others are on the board before it.
    #[must_use]
    pub fn is_queued(&self, key: OpKey) -> bool {
        let Some(op) = self.op(key) else { return false };
        let Some(flat) = self.group_ref(op.group).flat.as_deref() else { return false };
        match flat.queue.iter().position(|queued| *queued == key) {
            Some(0) => flat.inline == Inline::Running,
            Some(_) => true,
            None => false,
        }
    }

    /// Puts a submitted operation into its group's queue.
    pub(crate) fn queue_flat(&mut self, group: u32, key: OpKey) {
        if let Some(flat) = self.group_mut(group).flat.as_deref_mut() {
            flat.queue.push_back(key);
        }
    }

    /// Runs the operations that wait for the board of `group`, one after the other, as far as they go. Returns
    /// whether anything was done.
    pub fn poll_board<B: Board>(&mut self, group: GroupKey, board: &mut B) -> bool {
        let mut moved = false;
        let loan_min = self.config.loan_min;
        loop {
            let owner = self.group_mut(group.0);
            let Some(flat) = owner.flat.as_deref_mut() else { return moved };
            let Some(&key) = flat.queue.front() else { return moved };
            if flat.inline == Inline::Running {
                return moved;
            }
            let Some(mut op) = self.take_op(key) else {
                // It ended with its group.
                self.next_in_queue(group);
                continue;
            };
            let Some(mut flat) = self.group_mut(group.0).flat.take() else { return moved };
            let step = match &op.body {
                Body::Flat { plan, .. } => match plan.flat() {
                    Some(plan) => {
                        let task = Task {
                            plan,
                            seq: op.seq,
                            fingerprint: op.fingerprint,
                            kernel: op.kernel.as_ref(),
                            loan: op.loan,
                            loan_min,
                        };
                        flat.run.poll(&task, &mut flat.ledger, board, &mut op.buffers)
                    }
                    None => unreachable!("only plans for boards are queued"),
                },
                _ => unreachable!("only operations on boards are queued"),
            };
            self.group_mut(group.0).flat = Some(flat);
            self.put_op(op);
            moved |= matches!(step, FlatStep::Waiting { moved: true, .. } | FlatStep::Done);
            if !self.settle_flat(key, step) {
                return moved;
            }
            self.next_in_queue(group);
        }
    }

    fn next_in_queue(&mut self, group: GroupKey) {
        if let Some(flat) = self.group_mut(group.0).flat.as_deref_mut() {
            flat.queue.pop_front();
            flat.run = FlatRun::default();
        }
    }

    /// Takes note of how far an operation on a board has come. Returns whether it has ended.
    fn settle_flat(&mut self, key: OpKey, step: FlatStep) -> bool {
        let Some(op) = self.op(key) else { return true };
        let (group, seq) = (op.group, op.seq);
        match step {
            FlatStep::Done => {
                let owner = self.group_ref(group);
                if !matches!(owner.health, Health::Good) || !owner.mismatches.is_empty() {
                    // Nothing ends well in a group that is about to fail.
                    return false;
                }
                if let Some(op) = self.take_op(key) {
                    self.end(op, Ok(()));
                }
                true
            }
            FlatStep::Waiting { rank, .. } => {
                let peer = self.group_ref(group).peer_of(rank);
                if let Some(op) = self.op_mut(key)
                    && let Body::Flat { waiting, .. } = &mut op.body
                {
                    *waiting = Some(rank);
                }
                let healthy = matches!(self.group_ref(group).health, Health::Good);
                if healthy && self.peers[peer.index()].closed {
                    let text = "it left the group while this operation still needed it";
                    let report = self.report(group, Cause::ConnLost, &[peer], text);
                    self.fail(group, report);
                }
                false
            }
            FlatStep::Mismatch { rank, note } => {
                self.flat_mismatch(group, seq, rank, &note);
                false
            }
            FlatStep::Garbled { rank, note } => {
                let peer = self.group_ref(group).peer_of(rank);
                if matches!(self.group_ref(group).health, Health::Good) {
                    self.violation(peer, &Violation::Publication { seq: note.seq, len: note.len });
                }
                false
            }
        }
    }

    /// `rank` has published for another operation than the one that this rank runs as number `seq`.
    fn flat_mismatch(&mut self, group: u32, seq: u64, rank: Rank, note: &Note) {
        let owner = self.group_ref(group);
        if !matches!(owner.health, Health::Good) || !owner.mismatches.is_empty() {
            return;
        }
        // A member that is further on had nothing to publish where this rank expects something: the difference is in
        // this operation, and the member is asked what it ran.
        let seq = note.seq.min(seq);
        let fingerprint = note.fingerprint;
        let header = Header { channel: BOARD_CHANNEL, seq, fingerprint, ..Header::default() };
        self.mismatch(group, rank, &header);
    }

    /// Looks whether a member has published for an operation that runs over the links here: they do not call the
    /// same. Cheap enough for every idle moment of a driver.
    pub fn watch_board<B: Board>(&mut self, group: GroupKey, board: &B) {
        let owner = self.group_ref(group.0);
        let (Some(flat), Some(channel)) = (owner.flat.as_deref(), owner.channels.first()) else {
            return;
        };
        let Some(&Some(index)) = channel.window.front() else { return };
        let first = channel.first;
        let Some(op) = self.op_by_index(index) else { return };
        if channel.id != BOARD_CHANNEL || !matches!(op.body, Body::Collective(_)) {
            return;
        }
        let others = (0..owner.members.len() as u32).map(Rank).filter(|&r| r != owner.rank);
        let other = others
            .filter_map(|rank| Some((rank, board.look(rank, flat.ledger.next(rank))?.note)))
            .find(|(_, note)| note.seq <= first);
        if let Some((rank, note)) = other {
            self.flat_mismatch(group.0, first, rank, &note);
        }
    }
}

impl Channel {
    /// Keeps the description of an operation that has ended. A run of calls with one identity is one entry.
    #[inline]
    pub(crate) fn remember(
        &mut self,
        seq: u64,
        fingerprint: Fingerprint,
        descriptor: &Descriptor,
        identity: u64,
    ) {
        match self.history.back_mut() {
            Some(last) if identity != 0 && last.identity == identity && last.last + 1 == seq => {
                last.last = seq;
            }
            _ => {
                if self.history.len() == HISTORY {
                    self.history.pop_front();
                }
                let (first, last, descriptor) = (seq, seq, *descriptor);
                self.history.push_back(Past { first, last, fingerprint, descriptor, identity });
            }
        }
    }
}
