//! Point-to-point messages: matched by source and tag, in the order in which they were sent.
//!
//! A short message travels at once and waits in a bounded pool if nobody has asked for it. A long one
//! sends its beginning; the rest follows when the receiver has matched it and says so.

use std::collections::VecDeque;

use allhands_plan::Rank;
use allhands_wire::{Fingerprint, Flags, Header, Kind, OFFSET_UNIT, Peer};

use crate::config::{FRAME_OVERHEAD, POINT_ANNOUNCED_MAX};
use crate::engine::{DONE, Engine, GroupKey, Side};
use crate::error::{Refused, Violation};
use crate::inbound::Place;
use crate::op::{Body, OpKey, OpState, PartAt, PointSubmission};
use crate::outbound::{EAGER, GRANT, Message, POINT_CHANNEL};

/// Messages to and from one rank.
#[derive(Debug, Default)]
pub(crate) struct PointState {
    sent: u64,
    asked: u64,
    posted: VecDeque<Posted>,
    unexpected: VecDeque<Unexpected>,
    /// Room in the sender's window that it has not been told about.
    returned: usize,
}

#[derive(Debug)]
struct Posted {
    op: OpKey,
    tag: u32,
    matched: Option<u64>,
}

/// A message that nobody has asked for.
#[derive(Debug)]
struct Unexpected {
    seq: u64,
    tag: u32,
    fingerprint: Fingerprint,
    len: usize,
    bytes: Vec<u8>,
    cost: usize,
}

/// The only part of a point-to-point operation.
const WHOLE: PartAt = PartAt { lane: 0, part: 0 };

impl PointState {
    /// Whether the next message with this tag has come as a whole.
    pub(crate) fn holds(&self, tag: u32) -> bool {
        let next = self.unexpected.iter().find(|message| message.tag == tag);
        next.is_some_and(|message| message.bytes.len() == message.len)
    }

    pub(crate) fn forget(&mut self, op: OpKey) {
        self.posted.retain(|posted| posted.op != op);
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
        let found = point.unexpected.iter().position(|m| m.tag == tag);
        let Some(message) = found.and_then(|at| point.unexpected.remove(at)) else {
            point.posted.push_back(Posted { op: key, tag, matched: None });
            self.put_op(op);
            return Ok(key);
        };
        point.posted.push_back(Posted { op: key, tag, matched: Some(message.seq) });
        point.returned += message.cost;
        let peer = self.group_ref(group.0).peer_of(rank);
        let pool = &mut self.peers[peer.index()].point_pool;
        *pool = pool.saturating_sub(message.cost);
        let header = Header {
            channel: POINT_CHANNEL,
            seq: message.seq,
            slot: tag,
            fingerprint: message.fingerprint,
            xfer_len: message.len as u64,
            ..Header::default()
        };
        if self.point_agrees(group.0, rank, &header, &op) {
            let whole = message.bytes.len() == message.len;
            self.return_window(peer, group.0, rank, (!whole).then_some(message.seq));
            if whole || !message.bytes.is_empty() {
                self.land(&mut op, WHOLE, &message.bytes);
            }
        }
        self.settle_op(op);
        Ok(key)
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

    pub(crate) fn point_credit(&mut self, peer: Peer, group: u32, _rank: Rank, header: &Header) {
        let out = &mut self.peers[peer.index()].out;
        let returned = usize::try_from(header.xfer_len).unwrap_or(usize::MAX);
        out.point_eager = out.point_eager.saturating_sub(returned);
        if header.flags.contains(GRANT) {
            let message = out.messages.iter_mut().find(|m| {
                m.channel == POINT_CHANNEL && m.group == group && m.seq == header.seq && !m.granted
            });
            if let Some(message) = message {
                message.granted = true;
                out.point_announced -= usize::from(message.announced);
            }
        }
        self.mark_dirty(peer);
    }

    /// A frame of a point-to-point message: matches it, or makes room for it.
    pub(crate) fn point_frame(&mut self, peer: Peer, group: u32, rank: Rank, header: &Header) {
        let eager = header.flags.contains(EAGER);
        let cost = if eager { header.payload_len as usize + FRAME_OVERHEAD } else { 0 };
        let offset = u64::from(header.offset) * OFFSET_UNIT;
        let end = offset + u64::from(header.payload_len);
        let point = &mut self.group_mut(group).point[rank.index()];
        if let Some(posted) = point.posted.iter().find(|p| p.matched == Some(header.seq)) {
            point.returned += cost;
            let key = posted.op;
            let moved = self.op(key).map_or(0, |op| match op.lanes[0].moved[0] {
                DONE => u64::MAX,
                moved => moved as u64,
            });
            if offset != moved || end > header.xfer_len {
                self.violation(peer, Violation::OutOfOrder { offset, expected: moved });
            } else {
                self.return_window(peer, group, rank, None);
            }
            return;
        }
        if let Some(message) = point.unexpected.iter_mut().find(|m| m.seq == header.seq) {
            let expected = message.bytes.len() as u64;
            message.cost += cost;
            if offset != expected || end > message.len as u64 {
                self.violation(peer, Violation::OutOfOrder { offset, expected });
            } else {
                self.pool_point(peer, cost);
            }
            return;
        }
        if offset != 0 || end > header.xfer_len {
            return self.violation(peer, Violation::OutOfOrder { offset, expected: 0 });
        }
        let waiting = point.posted.iter_mut().find(|p| p.matched.is_none() && p.tag == header.slot);
        if let Some(posted) = waiting {
            posted.matched = Some(header.seq);
            point.returned += cost;
            let key = posted.op;
            let Some(op) = self.take_op(key) else { return };
            let agrees = self.point_agrees(group, rank, header, &op);
            self.put_op(op);
            if agrees {
                let grant = (end < header.xfer_len).then_some(header.seq);
                self.return_window(peer, group, rank, grant);
            }
            return;
        }
        if point.unexpected.len()
            > 2 * POINT_ANNOUNCED_MAX + self.config.eager_window / FRAME_OVERHEAD
        {
            let limit = self.config.eager_window;
            return self.violation(peer, Violation::OverWindow { limit });
        }
        let point = &mut self.group_mut(group).point[rank.index()];
        point.unexpected.push_back(Unexpected {
            seq: header.seq,
            tag: header.slot,
            fingerprint: header.fingerprint,
            len: header.xfer_len as usize,
            bytes: Vec::new(),
            cost,
        });
        self.pool_point(peer, cost);
    }

    fn pool_point(&mut self, peer: Peer, cost: usize) {
        let limit = self.config.eager_window;
        let pool = &mut self.peers[peer.index()].point_pool;
        *pool += cost;
        if *pool > limit + FRAME_OVERHEAD {
            self.violation(peer, Violation::OverWindow { limit });
        }
    }

    pub(crate) fn point_place(&self, group: u32, rank: Rank, header: &Header) -> Place {
        let point = &self.group_ref(group).point[rank.index()];
        if let Some(posted) = point.posted.iter().find(|p| p.matched == Some(header.seq)) {
            return Place::Active(posted.op, WHOLE);
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
