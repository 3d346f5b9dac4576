//! Point-to-point messages: matched by source and tag, in the order in which they were sent.
//!
//! A short message travels at once and waits in a bounded pool if nobody has asked for it. A long one
//! sends its beginning; the rest follows when the receiver has matched it and says so.

mod short;

use std::collections::VecDeque;

use allhands_plan::Rank;
use allhands_wire::{Fingerprint, Flags, Header, Kind, Peer};

use crate::config::{FRAME_OVERHEAD, POINT_ANNOUNCED_MAX};
use crate::engine::{Engine, GroupKey, Side};
use crate::error::{Refused, Violation};
use crate::failure::Health;
use crate::inbound::Place;
use crate::op::{Body, OpKey, OpState, PartAt, PointSubmission};
use crate::outbound::{ANNOUNCE, EAGER, GRANT, Message, POINT_CHANNEL};

pub use short::{Looked, SHORT_MESSAGE_MAX, ShortMessage};

/// Messages to and from one rank.
#[derive(Debug, Default)]
pub(crate) struct PointState {
    /// Number of the next message to send.
    sent: u64,
    /// Number of the next message that the other side hears of.
    pub(crate) announced: u64,
    /// What messages of this rank take up in the other side's window.
    pub(crate) eager: usize,
    asked: u64,
    /// Number of the next message to hear of.
    heard: u64,
    /// Receives without a message.
    posted: VecDeque<Posted>,
    /// Receives whose message is coming.
    open: Vec<Open>,
    unexpected: VecDeque<Unexpected>,
    /// Room in the sender's window that it has not been told about.
    returned: usize,
}

#[derive(Debug)]
struct Posted {
    op: OpKey,
    tag: u32,
}

#[derive(Debug)]
struct Open {
    seq: u64,
    op: OpKey,
}

/// A message that nobody has asked for.
#[derive(Debug)]
struct Unexpected {
    seq: u64,
    tag: u32,
    fingerprint: Fingerprint,
    len: usize,
    bytes: Vec<u8>,
    state: Begun,
    cost: usize,
}

/// What is known of a message that nobody has asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begun {
    /// That it exists: even an empty one must be granted.
    Announced,
    /// Its beginning, or all of it.
    Sent,
}

impl Unexpected {
    fn is_whole(&self) -> bool {
        self.bytes.len() == self.len && self.state == Begun::Sent
    }
}

/// The only part of a point-to-point operation.
const WHOLE: PartAt = PartAt { lane: 0, part: 0 };

impl PointState {
    /// Whether the next message with this tag has come as a whole.
    pub(crate) fn holds(&self, tag: u32) -> bool {
        let next = self.unexpected.iter().find(|message| message.tag == tag);
        next.is_some_and(Unexpected::is_whole)
    }

    pub(crate) fn forget(&mut self, op: OpKey) {
        if let Some(at) = self.open.iter().position(|open| open.op == op) {
            self.open.swap_remove(at);
        } else if let Some(at) = self.posted.iter().position(|posted| posted.op == op) {
            self.posted.remove(at);
        }
    }

    /// Forgets every receive.
    pub(crate) fn forget_all(&mut self) {
        self.posted.clear();
        self.open.clear();
    }

    /// Drops what nobody has asked for; returns what it took up.
    pub(crate) fn drop_unexpected(&mut self) -> usize {
        std::mem::take(&mut self.unexpected).iter().map(|message| message.cost).sum()
    }

    /// Bytes of messages that nobody has asked for.
    pub(crate) fn held(&self) -> usize {
        self.unexpected.iter().map(|message| message.bytes.len()).sum()
    }

    /// Entries, and entries for which there is room.
    pub(crate) fn entries(&self) -> (usize, usize) {
        (
            self.posted.len() + self.open.len() + self.unexpected.len(),
            self.posted.capacity() + self.open.capacity() + self.unexpected.capacity(),
        )
    }
}

impl Engine {
    /// Submits a point-to-point send. It ends when its bytes may be changed.
    ///
    /// # Errors
    /// The group has failed, the rank does not exist or is this one; the buffer comes back.
    pub fn submit_send(
        &mut self,
        group: GroupKey,
        call: PointSubmission,
    ) -> Result<OpKey, Box<Refused>> {
        let (peer, tag) = (call.peer, call.tag);
        let mut op = self.point_op(group, call, Side::Send)?;
        let key = op.key;
        let point = &mut self.group_mut(group.0).point[peer.index()];
        op.seq = point.sent;
        point.sent += 1;
        if !matches!(self.group_ref(group.0).health, Health::Good) {
            self.put_op(op);
            return Ok(key);
        }
        let to = self.group_ref(group.0).peer_of(peer);
        self.peers[to.index()].out.messages.push_back(Message {
            op: key,
            at: WHOLE,
            group: group.0,
            channel: POINT_CHANNEL,
            seq: op.seq,
            slot: tag,
            fingerprint: op.fingerprint,
            total: op.buffers.data.len(),
            framed: 0,
            announced: false,
            eager: 0,
            loan: None,
            granted: false,
        });
        self.mark_dirty(to);
        self.put_op(op);
        Ok(key)
    }

    /// Submits a point-to-point receive. The message must have exactly the buffer's length.
    ///
    /// # Errors
    /// As [`Engine::submit_send`], and memory that may not be written.
    pub fn submit_recv(
        &mut self,
        group: GroupKey,
        call: PointSubmission,
    ) -> Result<OpKey, Box<Refused>> {
        let (rank, tag) = (call.peer, call.tag);
        let mut op = self.point_op(group, call, Side::Recv)?;
        let key = op.key;
        let point = &mut self.group_mut(group.0).point[rank.index()];
        op.seq = point.asked;
        point.asked += 1;
        if !matches!(self.group_ref(group.0).health, Health::Good) {
            self.put_op(op);
            return Ok(key);
        }
        let peer = self.group_ref(group.0).peer_of(rank);
        let point = &mut self.group_mut(group.0).point[rank.index()];
        let found = point.unexpected.iter().position(|m| m.tag == tag);
        let Some(message) = found.and_then(|at| self.take_unexpected(peer, group.0, rank, at))
        else {
            self.group_mut(group.0).point[rank.index()].posted.push_back(Posted { op: key, tag });
            self.put_op(op);
            return Ok(key);
        };
        let header = Header {
            channel: POINT_CHANNEL,
            seq: message.seq,
            slot: tag,
            fingerprint: message.fingerprint,
            xfer_len: message.len as u64,
            ..Header::default()
        };
        if self.point_agrees(group.0, rank, &header, &op) {
            let whole = message.is_whole();
            if !whole {
                let open = Open { seq: message.seq, op: key };
                self.group_mut(group.0).point[rank.index()].open.push(open);
            }
            self.return_window(peer, group.0, rank, (!whole).then_some(message.seq));
            if whole || !message.bytes.is_empty() {
                self.land(&mut op, WHOLE, &message.bytes);
            }
            self.spare.keep_held(message.bytes);
        }
        self.settle_op(op);
        Ok(key)
    }

    /// Takes a message that nobody had asked for. Its room in the window is its sender's again.
    fn take_unexpected(
        &mut self,
        peer: Peer,
        group: u32,
        rank: Rank,
        at: usize,
    ) -> Option<Unexpected> {
        let point = &mut self.group_mut(group).point[rank.index()];
        let message = point.unexpected.remove(at)?;
        point.returned += message.cost;
        let pool = &mut self.peers[peer.index()].point_pool;
        *pool = pool.saturating_sub(message.cost);
        Some(message)
    }

    /// Checks that a matched message is what the receive expects.
    fn point_agrees(&mut self, group: u32, rank: Rank, header: &Header, op: &OpState) -> bool {
        let len = op.buffers.data.len() as u64;
        if header.fingerprint != op.fingerprint {
            self.mismatch_of(group, rank, header, op.descriptor);
        } else if header.xfer_len != len {
            self.length_mismatch_of(group, rank, header, len, op.descriptor);
        } else {
            return true;
        }
        false
    }

    /// Tells `rank` that its window has room again, and, with a grant, that a message may come whole.
    fn return_window(&mut self, peer: Peer, group: u32, rank: Rank, grant: Option<u64>) {
        let limit = self.config.eager_window / 4;
        let point = &mut self.group_mut(group).point[rank.index()];
        if grant.is_none() && point.returned <= limit {
            return;
        }
        let xfer_len = std::mem::take(&mut point.returned) as u64;
        let header = Header {
            channel: POINT_CHANNEL,
            flags: if grant.is_some() { GRANT } else { Flags::NONE },
            seq: grant.unwrap_or(0),
            xfer_len,
            ..Header::default()
        };
        self.send_small(peer, group, Kind::Credit, header);
    }

    pub(crate) fn point_credit(&mut self, peer: Peer, group: u32, rank: Rank, header: &Header) {
        // What a group never took up it cannot give back.
        let taken = &mut self.group_mut(group).point[rank.index()].eager;
        let returned = usize::try_from(header.xfer_len).map_or(*taken, |room| room.min(*taken));
        *taken -= returned;
        let out = &mut self.peers[peer.index()].out;
        out.point_eager = out.point_eager.saturating_sub(returned);
        if header.flags.contains(GRANT) {
            let message =
                out.messages.iter_mut().chain(&mut out.waiting).find(|m| {
                    m.channel == POINT_CHANNEL && m.group == group && m.seq == header.seq
                });
            if let Some(message) = message.filter(|m| m.announced && !m.granted) {
                message.granted = true;
                out.point_announced -= 1;
            }
        }
        self.retry(peer);
    }

    /// A frame of a point-to-point message: matches it, or makes room for it. Returns whether its payload
    /// has a place.
    pub(crate) fn point_frame(
        &mut self,
        peer: Peer,
        group: u32,
        rank: Rank,
        header: &Header,
    ) -> bool {
        if !matches!(self.group_ref(group).health, Health::Good) {
            return false;
        }
        let violation = match self.judge_point(peer, group, rank, header) {
            Ok(placed) => return placed,
            Err(violation) => violation,
        };
        self.violation(peer, &violation);
        false
    }

    fn judge_point(
        &mut self,
        peer: Peer,
        group: u32,
        rank: Rank,
        header: &Header,
    ) -> Result<bool, Violation> {
        if header.kind != Kind::Data {
            return Err(Violation::Unsupported { what: "loans of point-to-point messages" });
        }
        let (offset, payload) = (header.byte_offset(), header.payload_len as usize);
        let stray = |expected: u64| Err(Violation::OutOfOrder { offset, expected });
        let announces = header.flags.contains(ANNOUNCE);
        let brings = payload > 0 || (header.xfer_len == 0 && !announces);
        let cost = if header.flags.contains(EAGER) { payload + FRAME_OVERHEAD } else { 0 };
        let limit = self.config.eager_window;
        let point = &mut self.group_mut(group).point[rank.index()];
        if let Some(open) = point.open.iter().find(|open| open.seq == header.seq) {
            let key = open.op;
            point.returned += cost;
            let Some(op) = self.op(key) else { return Ok(false) };
            let expected = op.lanes[0].moved[0] as u64;
            if offset != expected || !brings || header.xfer_len != op.buffers.data.len() as u64 {
                return stray(expected);
            }
            self.return_window(peer, group, rank, None);
            return Ok(true);
        }
        if payload > 0 && cost == 0 {
            // Nothing of a message may come free of charge before it is granted.
            return Err(Violation::OverWindow { limit });
        }
        if let Some(message) = point.unexpected.iter_mut().find(|m| m.seq == header.seq) {
            let expected = message.bytes.len() as u64;
            let same = message.len as u64 == header.xfer_len
                && message.fingerprint == header.fingerprint
                && message.tag == header.slot;
            if !same || offset != expected || payload == 0 {
                return stray(expected);
            }
            message.cost += cost;
            message.state = Begun::Sent;
            return self.pool_point(peer, cost);
        }
        if header.seq != point.heard || offset != 0 || announces == brings {
            return stray(0);
        }
        point.heard += 1;
        if let Some(at) = point.posted.iter().position(|posted| posted.tag == header.slot) {
            let Some(posted) = point.posted.remove(at) else { return Ok(false) };
            point.returned += cost;
            let Some(op) = self.take_op(posted.op) else { return Ok(false) };
            let agrees = self.point_agrees(group, rank, header, &op);
            self.put_op(op);
            if agrees {
                let open = Open { seq: header.seq, op: posted.op };
                self.group_mut(group).point[rank.index()].open.push(open);
                let more = announces || (payload as u64) < header.xfer_len;
                self.return_window(peer, group, rank, more.then_some(header.seq));
            }
            return Ok(agrees);
        }
        let most = POINT_ANNOUNCED_MAX + limit / FRAME_OVERHEAD;
        let bytes = self.spare.take_held();
        let point = &mut self.group_mut(group).point[rank.index()];
        if point.unexpected.len() >= most {
            return Err(Violation::OverWindow { limit });
        }
        point.unexpected.push_back(Unexpected {
            seq: header.seq,
            tag: header.slot,
            fingerprint: header.fingerprint,
            len: header.xfer_len as usize,
            bytes,
            state: if announces { Begun::Announced } else { Begun::Sent },
            cost,
        });
        self.pool_point(peer, cost)
    }

    fn pool_point(&mut self, peer: Peer, cost: usize) -> Result<bool, Violation> {
        let limit = self.config.eager_window;
        let pool = &mut self.peers[peer.index()].point_pool;
        *pool += cost;
        // The sender counts the same way.
        if *pool > limit { Err(Violation::OverWindow { limit }) } else { Ok(true) }
    }

    pub(crate) fn point_place(&self, group: u32, rank: Rank, header: &Header) -> Place {
        let point = &self.group_ref(group).point[rank.index()];
        if let Some(open) = point.open.iter().find(|open| open.seq == header.seq) {
            return Place::Active(open.op, WHOLE);
        }
        match point.unexpected.iter().position(|m| m.seq == header.seq) {
            Some(index) => Place::Unexpected { group, rank, index },
            None => Place::Nowhere,
        }
    }

    pub(crate) fn point_unexpected(&mut self, group: u32, rank: Rank, index: usize, bytes: &[u8]) {
        let point = &mut self.group_mut(group).point[rank.index()];
        if let Some(message) = point.unexpected.get_mut(index) {
            message.bytes.extend_from_slice(bytes);
        }
    }

    pub(crate) fn forget_point(&mut self, group: u32, body: &Body, op: OpKey) {
        if let Body::Recv(part) = body
            && let Some(owner) = self.groups[group as usize].as_mut()
        {
            owner.point[part.peer.index()].forget(op);
        }
    }
}
