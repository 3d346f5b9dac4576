//! Short messages without an operation: what a blocking call needs, if nothing stands in its way.
//!
//! The frames are those of any other message, in the same order and at the expense of the same window. A send is copied to
//! its frame, so that it has ended at once; a receive takes a message that has come. Everything that takes longer, or
//! goes wrong, goes the ordinary way ([`Engine::submit_send`], [`Engine::submit_recv`]).

use allhands_plan::Rank;
use allhands_wire::{Fingerprint, Header, Kind, Peer};

use crate::config::{FRAME_OVERHEAD, FRAMES_AHEAD};
use crate::engine::{Engine, GroupKey};
use crate::failure::Health;
use crate::outbound::{EAGER, POINT_CHANNEL, Payload};

/// The longest message that is copied on its way.
pub const SHORT_MESSAGE_MAX: usize = 1024;

/// A message between this rank and another, as both sides describe it.
#[derive(Clone, Copy, Debug)]
pub struct ShortMessage {
    /// The other rank.
    pub peer: Rank,
    /// Matched with the other side's.
    pub tag: u32,
    /// What the message is, without its length.
    pub fingerprint: Fingerprint,
}

/// What came of looking for a short message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Looked {
    /// It was taken, as the receive of this number.
    Taken(u64),
    /// It has not come yet.
    Absent,
    /// It has to be received the ordinary way.
    Unfit,
}

impl Engine {
    /// The peer that `rank` is, if messages between it and this rank can be exchanged as they are.
    fn within_reach(&self, group: GroupKey, rank: Rank) -> Option<Peer> {
        let owner = self.groups.get(group.0 as usize)?.as_ref()?;
        let known = rank.index() < owner.members.len() && rank != owner.rank;
        let well = matches!(owner.health, Health::Good) && owner.mismatches.is_empty();
        let peer = (known && well).then(|| owner.peer_of(rank))?;
        let state = &self.peers[peer.index()];
        (!state.closed && !state.left && !self.is_broken(peer)).then_some(peer)
    }

    /// Frames a message of at most [`SHORT_MESSAGE_MAX`] bytes, of which a copy is kept until the link has taken it. Returns
    /// whose link, and the message's number; `None`, and nothing done, if it has to be sent the ordinary way.
    pub fn send_short(
        &mut self,
        group: GroupKey,
        message: &ShortMessage,
        bytes: &[u8],
    ) -> Option<(Peer, u64)> {
        let peer = self.within_reach(group, message.peer)?;
        let owner = self.group_ref(group.0);
        let point = &owner.point[message.peer.index()];
        let out = &self.peers[peer.index()].out;
        let cost = bytes.len() + FRAME_OVERHEAD;
        let fits = bytes.len() <= SHORT_MESSAGE_MAX.min(self.config.eager_per_operation)
            && out.point_eager + cost <= self.config.eager_window;
        let first = out.messages.is_empty()
            && out.waiting.is_empty()
            && out.frames.len() < FRAMES_AHEAD
            && point.sent == point.announced;
        if !fits || !first || owner.deaf[message.peer.index()] {
            return None;
        }
        let header = Header {
            kind: Kind::Data,
            flags: EAGER,
            group: owner.id,
            epoch: owner.epoch,
            src: self.me,
            channel: POINT_CHANNEL,
            seq: point.sent,
            fingerprint: message.fingerprint,
            slot: message.tag,
            offset: 0,
            xfer_len: bytes.len() as u64,
            payload_len: bytes.len() as u32,
        };
        let mut copy = self.spare.take_held();
        copy.extend_from_slice(bytes);
        let out = &mut self.peers[peer.index()].out;
        out.push_frame(&header, Payload::Copy(copy));
        out.point_eager += cost;
        let point = &mut self.group_mut(group.0).point[message.peer.index()];
        point.eager += cost;
        point.sent += 1;
        point.announced += 1;
        self.mark_dirty(peer);
        Some((peer, header.seq))
    }

    /// The peer from which a message may be received without an operation: nothing is in flight that it could overtake.
    #[must_use]
    pub fn short_source(&self, group: GroupKey, rank: Rank) -> Option<Peer> {
        let peer = self.within_reach(group, rank)?;
        (self.pending() == 0).then_some(peer)
    }

    /// Takes a message that has come, if it is as long as `target`. [`Engine::short_source`] was asked before.
    pub fn recv_short(
        &mut self,
        group: GroupKey,
        message: &ShortMessage,
        target: &mut [u8],
    ) -> Looked {
        let Some(peer) = self.within_reach(group, message.peer) else { return Looked::Unfit };
        let point = &mut self.group_mut(group.0).point[message.peer.index()];
        let Some(at) = point.unexpected.iter().position(|found| found.tag == message.tag) else {
            return Looked::Absent;
        };
        let found = &point.unexpected[at];
        if found.fingerprint != message.fingerprint || found.len != target.len() {
            return Looked::Unfit;
        }
        if !found.is_whole() {
            return if target.len() > SHORT_MESSAGE_MAX { Looked::Unfit } else { Looked::Absent };
        }
        target.copy_from_slice(&found.bytes);
        let asked = point.asked;
        point.asked += 1;
        let Some(found) = self.take_unexpected(peer, group.0, message.peer, at) else {
            return Looked::Unfit;
        };
        self.return_window(peer, group.0, message.peer, None);
        self.spare.keep_held(found.bytes);
        Looked::Taken(asked)
    }

    /// Whether copies of messages whose senders have gone on wait for a link.
    pub(crate) fn holds_copies(&self) -> bool {
        self.peers.iter().any(|peer| peer.out.copies > 0 && !peer.closed)
    }
}
