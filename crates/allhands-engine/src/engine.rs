//! The engine: groups, channels, submission, and how lanes advance.

use std::collections::VecDeque;
use std::time::Instant;

use allhands_plan::{Buffer, Part, Rank, Span};
use allhands_tensor::ReduceOp;
use allhands_wire::{Descriptor, Fingerprint, Loan, Peer};
use smallvec::SmallVec;

use crate::buffers::{Buffers, Space, Storage};
use crate::config::{CHANNELS_MAX, Config, IN_FLIGHT_MAX};
use crate::error::{Failure, Refusal, Refused};
use crate::failure::{ControlOut, Health, PendingMismatch};
use crate::flat::FlatState;
use crate::footprint::Footprint;
use crate::inbound::{Early, Inbound};
use crate::op::{Body, Marks, OpKey, OpState, PartAt, PointSubmission, Submission};
use crate::outbound::{Outbound, POINT_CHANNEL};
use crate::point::PointState;
use crate::spare::Spare;

/// Marks a part whose bytes have all moved.
pub(crate) const DONE: usize = usize::MAX;

/// Marks a part whose bytes the peer reads in place until it says that it has.
pub(crate) const LENT: usize = usize::MAX - 1;

/// Names a group in one engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GroupKey(pub(crate) u32);

impl GroupKey {
    /// A small number, unique in its engine and given out in order: an index for tables beside the engine.
    #[must_use]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A set of peers that run operations together.
#[derive(Clone, Debug)]
pub struct GroupSpec {
    /// The group's number on the wire, the same on all its members.
    pub id: u32,
    /// The group's generation; frames of another one are refused.
    pub epoch: u32,
    /// Mesh positions of the members, in rank order.
    pub members: Vec<Peer>,
}

/// An operation that has ended, with its memory.
#[derive(Debug)]
pub struct Finished {
    /// Which.
    pub key: OpKey,
    /// Number of the operation on its channel.
    pub seq: u64,
    /// How it ended.
    pub result: Result<(), Box<Failure>>,
    /// The input, given back.
    pub input: Space,
    /// The result, or what there is of it.
    pub data: Space,
}

/// How far a member is on a channel, as far as this rank knows.
#[derive(Debug, Default)]
pub(crate) struct Confirm {
    /// The member has submitted everything below.
    pub(crate) submitted: u64,
    /// Frames sent before that was known: (sequence, cost).
    pub(crate) outstanding: VecDeque<(u64, usize)>,
    /// The member has been told of everything below that is submitted here.
    pub(crate) told: u64,
    /// Bytes of the member consumed here for operations that it has not been told of.
    pub(crate) uncredited: usize,
}

#[derive(Debug)]
pub(crate) struct Past {
    /// Number of the first of a run of equal operations.
    pub(crate) first: u64,
    /// Number of the last of them.
    pub(crate) last: u64,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) descriptor: Descriptor,
    /// What the operations of the run have in common beyond the fingerprint, or 0.
    pub(crate) identity: u64,
}

#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) id: u32,
    /// Sequence number of the next operation.
    pub(crate) next: u64,
    /// Sequence number of the first entry of `window`.
    pub(crate) first: u64,
    /// Operations in flight; `None` where one has ended and an earlier one has not.
    pub(crate) window: VecDeque<Option<u32>>,
    pub(crate) early: VecDeque<Early>,
    pub(crate) history: VecDeque<Past>,
    pub(crate) confirm: Vec<Confirm>,
}

impl Channel {
    fn new(id: u32, members: usize) -> Self {
        Self {
            id,
            next: 0,
            first: 0,
            window: VecDeque::new(),
            early: VecDeque::new(),
            history: VecDeque::new(),
            confirm: (0..members).map(|_| Confirm::default()).collect(),
        }
    }

    pub(crate) fn op_at(&self, seq: u64) -> Option<u32> {
        let at = seq.checked_sub(self.first)?;
        self.window.get(usize::try_from(at).ok()?).copied().flatten()
    }

    pub(crate) fn past(&self, seq: u64) -> Option<&Past> {
        self.history.iter().rev().find(|past| past.first <= seq && seq <= past.last)
    }
}

#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) id: u32,
    pub(crate) epoch: u32,
    pub(crate) members: Vec<Peer>,
    pub(crate) rank: Rank,
    /// Rank of each mesh position; `u32::MAX` for outsiders.
    ranks: Vec<u32>,
    /// Sorted by their numbers.
    pub(crate) channels: Vec<Channel>,
    pub(crate) point: Vec<PointState>,
    pub(crate) health: Health,
    pub(crate) mismatches: Vec<PendingMismatch>,
    /// Members that have reported a failure: they read past this group's frames and charge nothing.
    pub(crate) deaf: Vec<bool>,
    /// The memory that all members share, if they do.
    pub(crate) flat: Option<Box<FlatState>>,
}

impl Group {
    pub(crate) fn rank_of(&self, peer: Peer) -> Option<Rank> {
        self.ranks.get(peer.index()).copied().filter(|&r| r != u32::MAX).map(Rank)
    }

    pub(crate) fn peer_of(&self, rank: Rank) -> Peer {
        self.members[rank.0 as usize]
    }

    pub(crate) fn channel(&mut self, id: u32) -> Option<&mut Channel> {
        let at = match self.channels.binary_search_by_key(&id, |c| c.id) {
            Ok(at) => at,
            Err(at) if self.channels.len() < CHANNELS_MAX => {
                self.channels.insert(at, Channel::new(id, self.members.len()));
                at
            }
            Err(_) => return None,
        };
        Some(&mut self.channels[at])
    }

    pub(crate) fn channel_ref(&self, id: u32) -> Option<&Channel> {
        self.channels.binary_search_by_key(&id, |c| c.id).ok().map(|at| &self.channels[at])
    }
}

#[derive(Debug, Default)]
pub(crate) struct PeerState {
    pub(crate) inbound: Inbound,
    pub(crate) out: Outbound,
    /// Bytes held here for operations not submitted here.
    pub(crate) pool: usize,
    /// The same for point-to-point messages that nobody has asked for.
    pub(crate) point_pool: usize,
    /// Bytes consumed here for operations that the peer has not been told of, of all groups.
    pub(crate) uncredited: usize,
    /// Nothing more will come.
    pub(crate) closed: bool,
    /// The peer said that it leaves.
    pub(crate) left: bool,
    /// The peer's control connection has ended, so it will not explain anything any more.
    pub(crate) silenced: bool,
    /// Whether the peer can read this rank's shared memory in place.
    pub(crate) loans: Loans,
}

/// Whether a peer can read this rank's memory in place, so that a send may be fulfilled by telling it
/// where the bytes are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Loans {
    /// Everything travels as bytes.
    #[default]
    Never,
    /// Long messages out of buffers with a [`LoanBase`](crate::LoanBase) are lent.
    Accepted,
}

/// Runs plans for one rank: bytes and time go in, bytes to send and finished operations come out.
///
/// The engine does no I/O, keeps no clock and starts no thread. Verbs that begin with `handle` bring
/// something in, `poll` takes something out. See the crate's documentation for the invariants.
#[derive(Debug)]
pub struct Engine {
    pub(crate) config: Config,
    pub(crate) me: Peer,
    pub(crate) groups: Vec<Option<Group>>,
    ops: Vec<Slot>,
    free: Vec<u32>,
    /// Places whose operations went with a panic.
    lost: Vec<u32>,
    pub(crate) peers: Vec<PeerState>,
    /// Peers from which nothing more will come.
    pub(crate) closed: usize,
    /// This rank has said goodbye.
    pub(crate) leaving: bool,
    pub(crate) dirty: Vec<Peer>,
    finished: VecDeque<Finished>,
    pub(crate) controls: VecDeque<(Peer, ControlOut)>,
    pub(crate) pulls: VecDeque<Pull>,
    /// The latest time that the driver told.
    pub(crate) now: Instant,
    pub(crate) next_deadline: Option<Instant>,
    pub(crate) spare: Spare,
}

/// What is known of members who have left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gone {
    /// Whether they are needed is to be found out.
    Asked,
    /// All that an operation needs of them is on their boards.
    Done,
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    op: Option<Box<OpState>>,
}

/// Memory of a peer to be read in place, then told so through [`Engine::handle_pulled`].
#[derive(Clone, Copy, Debug)]
pub struct Pull {
    /// Whose memory.
    pub peer: Peer,
    /// Where it is.
    pub loan: Loan,
    pub(crate) op: OpKey,
    pub(crate) at: PartAt,
    pub(crate) slot: u32,
}

impl Engine {
    /// An engine for position `me` of a mesh of `world` peers.
    #[must_use]
    pub fn new(me: Peer, world: u32, config: Config, now: Instant) -> Self {
        Self {
            config: config.sound(),
            me,
            groups: Vec::new(),
            ops: Vec::new(),
            free: Vec::new(),
            lost: Vec::new(),
            peers: (0..world).map(|_| PeerState::default()).collect(),
            closed: 0,
            leaving: false,
            dirty: Vec::new(),
            finished: VecDeque::new(),
            controls: VecDeque::new(),
            pulls: VecDeque::new(),
            now,
            next_deadline: None,
            spare: Spare::default(),
        }
    }

    /// This rank's position in the mesh.
    #[must_use]
    pub fn me(&self) -> Peer {
        self.me
    }

    /// Adds a group. Its operations may be submitted at once; frames that members sent earlier are lost
    /// if this comes after them, so add a group before bytes are handed in.
    ///
    /// # Errors
    /// A member outside the mesh, a member twice, this rank not among them, or a (id, epoch) in use.
    pub fn add_group(&mut self, spec: GroupSpec) -> Result<GroupKey, Refusal> {
        let mut ranks = vec![u32::MAX; self.peers.len()];
        for (rank, peer) in spec.members.iter().enumerate() {
            match ranks.get_mut(peer.index()) {
                Some(slot) if *slot == u32::MAX => *slot = rank as u32,
                Some(_) => return Err(Refusal::MemberTwice { peer: *peer }),
                None => {
                    return Err(Refusal::Outsider { peer: *peer, world: self.peers.len() as u32 });
                }
            }
        }
        let rank = ranks[self.me.index()];
        if rank == u32::MAX {
            return Err(Refusal::NotMember { peer: self.me });
        }
        if self.groups.iter().flatten().any(|g| g.id == spec.id && g.epoch == spec.epoch) {
            return Err(Refusal::GroupInUse { id: spec.id, epoch: spec.epoch });
        }
        let point = spec.members.iter().map(|_| PointState::default()).collect();
        let deaf = vec![false; spec.members.len()];
        self.groups.push(Some(Group {
            id: spec.id,
            epoch: spec.epoch,
            members: spec.members,
            rank: Rank(rank),
            ranks,
            channels: Vec::new(),
            point,
            health: Health::Good,
            mismatches: Vec::new(),
            deaf,
            flat: None,
        }));
        Ok(GroupKey(self.groups.len() as u32 - 1))
    }

    /// Says whether `peer` can read this rank's memory in place. Counts for steps that begin later.
    pub fn set_loans(&mut self, peer: Peer, loans: Loans) {
        self.peers[peer.index()].loans = loans;
    }

    /// Memory of an operation in flight: what a loan refers to, for links inside one process.
    #[must_use]
    pub fn memory(&self, key: OpKey, buffer: Buffer) -> Option<&Space> {
        self.op(key).map(|op| op.buffers.space(buffer))
    }

    #[inline]
    pub(crate) fn group_ref(&self, index: u32) -> &Group {
        self.groups[index as usize].as_ref().expect("operations end before their group is removed")
    }

    #[inline]
    pub(crate) fn group_mut(&mut self, index: u32) -> &mut Group {
        self.groups[index as usize].as_mut().expect("operations end before their group is removed")
    }

    pub(crate) fn group_index(&self, id: u32, epoch: u32) -> Option<u32> {
        self.groups
            .iter()
            .position(|g| g.as_ref().is_some_and(|g| g.id == id && g.epoch == epoch))
            .map(|at| at as u32)
    }

    pub(crate) fn op(&self, key: OpKey) -> Option<&OpState> {
        let slot = self.ops.get(key.index())?;
        (slot.generation == key.generation).then_some(slot.op.as_deref()).flatten()
    }

    pub(crate) fn op_mut(&mut self, key: OpKey) -> Option<&mut OpState> {
        let slot = self.ops.get_mut(key.index())?;
        if slot.generation == key.generation { slot.op.as_deref_mut() } else { None }
    }

    pub(crate) fn op_by_index(&self, index: u32) -> Option<&OpState> {
        self.ops.get(index as usize)?.op.as_deref()
    }

    pub(crate) fn take_op(&mut self, key: OpKey) -> Option<Box<OpState>> {
        let slot = self.ops.get_mut(key.index())?;
        if slot.generation == key.generation { slot.op.take() } else { None }
    }

    pub(crate) fn put_op(&mut self, op: Box<OpState>) {
        let index = op.key.index();
        self.ops[index].op = Some(op);
    }

    /// Operations that were in the hands of a driver when it panicked: they went with its stack, and will not end by themselves.
    /// Their places stay empty, since their group still knows them.
    pub fn forget_lost(&mut self) -> Vec<OpKey> {
        let slots = (0..).zip(&self.ops);
        let lost: Vec<OpKey> = slots
            .filter(|(_, slot)| slot.op.is_none())
            .filter(|(index, _)| !self.free.contains(index) && !self.lost.contains(index))
            .map(|(index, slot)| OpKey { index, generation: slot.generation })
            .collect();
        self.lost.extend(lost.iter().map(|key| key.index));
        lost
    }

    pub(crate) fn keys_in_group(&self, group: u32) -> Vec<OpKey> {
        let in_group =
            |slot: &Slot| slot.op.as_ref().filter(|op| op.group == group).map(|op| op.key);
        self.ops.iter().filter_map(in_group).collect()
    }

    pub(crate) fn ops_in_flight(&self) -> impl Iterator<Item = &OpState> {
        self.ops.iter().filter_map(|slot| slot.op.as_deref())
    }

    /// Whether a group has failed: its operations have ended, and later ones are refused.
    #[must_use]
    pub fn has_failed(&self, group: GroupKey) -> bool {
        let owner = self.groups.get(group.0 as usize).and_then(Option::as_ref);
        owner.is_some_and(|owner| matches!(owner.health, Health::Failed(_)))
    }

    /// Number of an operation in flight on its channel; of a message, among those to or from its peer.
    #[must_use]
    pub fn sequence(&self, key: OpKey) -> Option<u64> {
        self.op(key).map(|op| op.seq)
    }

    /// Whether an operation is still in flight.
    #[must_use]
    pub fn is_pending(&self, key: OpKey) -> bool {
        self.op(key).is_some()
    }

    /// Operations in flight.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.ops.len() - self.free.len() - self.lost.len()
    }

    /// The next operation that has ended.
    pub fn poll_finished(&mut self) -> Option<Finished> {
        self.finished.pop_front()
    }

    /// Number that the next operation of `group` on `channel` will have.
    #[must_use]
    pub fn next_seq(&self, group: GroupKey, channel: u32) -> u64 {
        self.group_ref(group.0).channel_ref(channel).map_or(0, |c| c.next)
    }

    pub(crate) fn new_key(&mut self) -> OpKey {
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                self.ops.push(Slot { generation: 0, op: None });
                self.ops.len() as u32 - 1
            }
        };
        OpKey { index, generation: self.ops[index as usize].generation }
    }

    /// Submits a collective. From now on its messages are accepted, whichever lane they belong to.
    ///
    /// # Errors
    /// The group has failed, or the buffers do not fit the plan; the buffers come back.
    pub fn submit(&mut self, group: GroupKey, call: Submission) -> Result<OpKey, Box<Refused>> {
        self.submit_beside(group, call, Gone::Asked)
    }

    /// As [`Engine::submit`], with what is known of members who have left.
    pub(crate) fn submit_beside(
        &mut self,
        group: GroupKey,
        call: Submission,
        gone: Gone,
    ) -> Result<OpKey, Box<Refused>> {
        if let Err(reason) = self.check(group, &call, gone) {
            return Err(Box::new(Refused { reason, input: call.input, data: call.data }));
        }
        let key = self.new_key();
        let me = self.group_ref(group.0);
        let world = me.members.len() as u32;
        let plan = call.plan.plan();
        let scratch_len = plan.scratch_len() as usize * call.element_size;
        let flat = self.is_flat(group.0, call.channel, &call.plan);
        let (lanes, scratch_len) = if flat { (1, 0) } else { (plan.lanes().len(), scratch_len) };
        let scratch = self.take_scratch(scratch_len);
        let fresh = OpState {
            key,
            group: group.0,
            channel: call.channel,
            seq: 0,
            body: if flat {
                Body::Flat { plan: call.plan, waiting: None }
            } else {
                Body::Collective(call.plan)
            },
            kernel: call.kernel,
            element_size: call.element_size,
            world,
            descriptor: call.descriptor,
            fingerprint: call.fingerprint,
            buffers: Buffers { input: call.input, data: call.data, scratch },
            loan: call.loan,
            lanes: Vec::new(),
            lanes_done: 0,
            parked: Vec::new(),
            begun: Marks::default(),
            pulling: SmallVec::new(),
            deadline: call.deadline,
            submitted: call.submitted,
            probed: false,
        };
        let mut op = self.spare.op(fresh, lanes);
        if let Some(kernel) = op.kernel
            && matches!(kernel.op(), ReduceOp::PremulSum(_))
        {
            let mut at = 0;
            while at < op.buffers.data.len() {
                let run = op.buffers.data.run_mut(at, usize::MAX);
                kernel.prepare(run);
                at += run.len();
            }
        }
        let owner = self.group_mut(group.0);
        let broken = !matches!(owner.health, Health::Good);
        let channel = owner.channel(call.channel).expect("checked above");
        op.seq = channel.next;
        if broken {
            // It ends with the group in a moment. Its frames and its description could only hide the
            // cause, so it has no place on its channel.
            self.put_op(op);
            return Ok(key);
        }
        channel.next += 1;
        channel.window.push_back(Some(key.index));
        let early = match channel.early.front() {
            Some(early) if early.seq == op.seq => channel.early.pop_front(),
            _ => None,
        };
        self.note_deadline(op.deadline);
        self.note_deadline(Some(op.probe_at(self.config.probe_after)));
        if let Some(early) = early {
            self.adopt_early(&mut op, early);
        }
        if flat {
            self.put_op(op);
            self.queue_flat(group.0, key);
            return Ok(key);
        }
        self.advance(&mut op);
        self.grant_heavy(&op);
        self.settle_op(op);
        Ok(key)
    }

    fn check(&mut self, group: GroupKey, call: &Submission, gone: Gone) -> Result<(), Refusal> {
        let owner = self.group_ref(group.0);
        if let Health::Failed(failure) = &owner.health {
            return Err(Refusal::Failed(failure.clone()));
        }
        let world = owner.members.len() as u32;
        // While the group settles on a cause, the call waits for it: every call tells the same.
        if matches!(owner.health, Health::Good) {
            for (rank, &peer) in (0..).map(Rank).zip(&owner.members) {
                self.reachable(peer, rank)?;
                let closed = self.peers[peer.index()].closed && gone == Gone::Asked;
                if closed && self.misses(owner, call, rank) {
                    return Err(Refusal::Left { rank });
                }
            }
        }
        let owner = self.group_mut(group.0);
        let plan = call.plan.plan();
        if plan.world() != world || plan.rank() != owner.rank {
            return Err(Refusal::ForeignPlan { world, rank: owner.rank });
        }
        if call.channel == POINT_CHANNEL {
            return Err(Refusal::ReservedChannel);
        }
        let Some(channel) = owner.channel(call.channel) else {
            return Err(Refusal::TooManyChannels { limit: CHANNELS_MAX });
        };
        if channel.window.len() >= IN_FLIGHT_MAX {
            return Err(Refusal::TooManyInFlight { limit: IN_FLIGHT_MAX });
        }
        for (name, space, elements) in
            [("input", &call.input, plan.input_len()), ("data", &call.data, plan.data_len())]
        {
            let expected = (elements as usize).checked_mul(call.element_size);
            if expected != Some(space.len()) {
                return Err(Refusal::Length { buffer: name, bytes: space.len(), expected });
            }
        }
        if !call.data.is_writable() {
            return Err(Refusal::ReadOnly);
        }
        if call.kernel.is_none() && call.plan.reduces() {
            return Err(Refusal::NoKernel);
        }
        if call.kernel.is_some_and(|k| k.dtype().size() != call.element_size) {
            return Err(Refusal::KernelSize { element_size: call.element_size });
        }
        for (name, space) in [("input", &call.input), ("data", &call.data)] {
            if call.kernel.is_some() && !space.holds_whole(call.element_size) {
                let element_size = call.element_size;
                return Err(Refusal::Pieces { buffer: name, element_size });
            }
        }
        Ok(())
    }

    /// Whether the connection to a member has ended without a goodbye, or makes no sense any more.
    fn reachable(&self, peer: Peer, rank: Rank) -> Result<(), Refusal> {
        let state = &self.peers[peer.index()];
        if self.is_broken(peer) || (state.closed && !state.left) {
            return Err(Refusal::Lost { rank });
        }
        Ok(())
    }

    /// Whether a collective needs something of `rank` that has not come: its last words may be all that
    /// is needed.
    fn misses(&self, owner: &Group, call: &Submission, rank: Rank) -> bool {
        if call.plan.sends_to(rank) {
            return true;
        }
        let early = owner
            .channel_ref(call.channel)
            .and_then(|channel| channel.early.front().filter(|early| early.seq == channel.next));
        call.plan.receives_from(rank).any(|(_, slot, _)| {
            let message = early.and_then(|early| {
                early.messages.iter().find(|m| m.source == rank && m.slot == slot)
            });
            message.is_none_or(|message| message.content.reached() != Some(message.len))
        })
    }

    /// Puts `op` back among those in flight, or ends it if every lane has ended. In a group that is about to
    /// fail nothing ends well any more: an operation that noticed the failure would else succeed on one
    /// rank and fail on another.
    pub(crate) fn settle_op(&mut self, op: Box<OpState>) {
        let sound =
            |group: &Group| matches!(group.health, Health::Good) && group.mismatches.is_empty();
        if op.lanes_done == op.lanes.len() && sound(self.group_ref(op.group)) {
            self.end(op, Ok(()));
        } else {
            self.put_op(op);
        }
    }

    /// Ends `op`: its memory is free, its number becomes history.
    pub(crate) fn end(&mut self, mut op: Box<OpState>, result: Result<(), Box<Failure>>) {
        let OpState { key, group, channel, seq, fingerprint, .. } = *op;
        self.forget_point(group, &op.body, key);
        let slot = &mut self.ops[key.index()];
        slot.op = None;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(key.index);
        if channel != POINT_CHANNEL
            && let Some(owner) = self.groups[group as usize].as_mut()
            && let Some(channel) = owner.channel(channel)
            && seq < channel.next
        {
            let at = (seq - channel.first) as usize;
            channel.window[at] = None;
            while let Some(None) = channel.window.front() {
                channel.window.pop_front();
                channel.first += 1;
            }
            channel.remember(seq, fingerprint, &op.descriptor, 0);
        }
        let Buffers { input, data, scratch } = std::mem::take(&mut op.buffers);
        self.spare.keep_op(op);
        for piece in scratch.into_pieces() {
            if let Storage::Bytes(bytes) = piece {
                self.spare.keep_scratch(bytes);
            }
        }
        self.finished.push_back(Finished { key, seq, result, input, data });
    }

    /// Scratch memory of exactly `len` bytes.
    fn take_scratch(&mut self, len: usize) -> Space {
        match len {
            0 => Space::empty(),
            _ => Space::single(Storage::Bytes(self.spare.take_scratch(len))),
        }
    }

    /// What the engine's own lists hold.
    pub(crate) fn own_footprint(&self) -> Footprint {
        let lists = [
            (self.pending(), self.ops.capacity()),
            (self.free.len(), self.free.capacity()),
            (self.dirty.len(), self.dirty.capacity()),
            (self.finished.len(), self.finished.capacity()),
            (self.controls.len(), self.controls.capacity()),
            (self.pulls.len(), self.pulls.capacity()),
            self.spare.entries(),
        ];
        Footprint {
            scratch: self.spare.scratch_bytes(),
            entries: lists.iter().map(|(entries, _)| entries).sum(),
            room: lists.iter().map(|(_, room)| room).sum(),
            ..Footprint::default()
        }
    }

    pub(crate) fn note_deadline(&mut self, deadline: Option<Instant>) {
        if let Some(deadline) = deadline {
            self.next_deadline = Some(self.next_deadline.map_or(deadline, |d| d.min(deadline)));
        }
    }

    /// Whether a message can neither go to its peer nor still come from it: the peer has left, and what it
    /// sent before is not there as a whole.
    fn out_of_reach(&self, owner: &Group, call: &PointSubmission, side: Side) -> bool {
        let gone = self.peers[owner.peer_of(call.peer).index()].closed;
        gone && !(side == Side::Recv && owner.point[call.peer.index()].holds(call.tag))
    }

    /// A fresh point-to-point operation; its number is given by the caller.
    pub(crate) fn point_op(
        &mut self,
        group: GroupKey,
        call: PointSubmission,
        side: Side,
    ) -> Result<Box<OpState>, Box<Refused>> {
        let owner = self.group_ref(group.0);
        let world = owner.members.len() as u32;
        let reason = match &owner.health {
            Health::Failed(failure) => Some(Refusal::Failed(failure.clone())),
            _ if call.peer.0 >= world => Some(Refusal::NoSuchRank { rank: call.peer, world }),
            _ if call.peer == owner.rank => Some(Refusal::ToSelf { rank: call.peer }),
            _ if side == Side::Recv && !call.buffer.is_writable() => Some(Refusal::ReadOnly),
            Health::Good if self.is_broken(owner.peer_of(call.peer)) => {
                Some(Refusal::Lost { rank: call.peer })
            }
            Health::Good if self.out_of_reach(owner, &call, side) => {
                Some(Refusal::Left { rank: call.peer })
            }
            _ => None,
        };
        if let Some(reason) = reason {
            let refused = Refused { reason, input: Space::empty(), data: call.buffer };
            return Err(Box::new(refused));
        }
        let key = self.new_key();
        let span = Span { buffer: Buffer::Data, offset: 0, len: call.buffer.len() as u64 };
        let part = Part { peer: call.peer, slot: 0, span };
        self.note_deadline(call.deadline);
        let fresh = OpState {
            key,
            group: group.0,
            channel: POINT_CHANNEL,
            seq: 0,
            body: match side {
                Side::Send => Body::Send(part),
                Side::Recv => Body::Recv(part),
            },
            kernel: None,
            element_size: 1,
            world,
            descriptor: call.descriptor,
            fingerprint: call.fingerprint,
            buffers: Buffers { input: Space::empty(), data: call.buffer, scratch: Space::empty() },
            loan: None,
            lanes: Vec::new(),
            lanes_done: 0,
            parked: Vec::new(),
            begun: Marks::default(),
            pulling: SmallVec::new(),
            deadline: call.deadline,
            submitted: call.submitted,
            probed: false,
        };
        let mut op = self.spare.op(fresh, 1);
        let lane = &mut op.lanes[0];
        (lane.active, lane.open) = (true, 1);
        lane.moved.push(0);
        Ok(op)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Send,
    Recv,
}

#[cfg(test)]
mod tests;
