//! Credit: who may send what to whom before the receiver is known to be ready.
//!
//! A rank may send a little of an operation before it knows that the peer has submitted it: at most
//! [`Config::eager_per_operation`](crate::Config::eager_per_operation) of one operation and
//! [`Config::eager_window`](crate::Config::eager_window) of all together, which is the size of the pool
//! that the peer keeps for such frames. Any frame of a peer says which operations it has submitted,
//! because a channel's operations are submitted in order; so symmetric traffic needs no message for
//! credit. A `Credit` frame is sent where nothing else would say it: before a large message, when much
//! has been consumed in silence, and when a pool is more than half full.

use allhands_plan::Rank;
use allhands_wire::{Header, Kind, Peer};

use crate::config::FRAME_OVERHEAD;
use crate::engine::Engine;
use crate::op::{Body, OpState};
use crate::outbound::Message;

impl Engine {
    /// `rank` has submitted everything up to `seq` on `channel`.
    pub(crate) fn confirm(&mut self, peer: Peer, group: u32, rank: Rank, channel: u32, seq: u64) {
        let Some(channel) = self.group_mut(group).channel(channel) else { return };
        let confirm = &mut channel.confirm[rank.0 as usize];
        if confirm.submitted > seq {
            return;
        }
        confirm.submitted = seq + 1;
        let mut freed = 0;
        while let Some(&(at, cost)) = confirm.outstanding.front() {
            if at > seq {
                break;
            }
            confirm.outstanding.pop_front();
            freed += cost;
        }
        let out = &mut self.peers[peer.index()].out;
        out.eager = out.eager.saturating_sub(freed);
        if !out.messages.is_empty() {
            self.mark_dirty(peer);
        }
    }

    pub(crate) fn is_confirmed(&self, peer: Peer, message: &Message) -> bool {
        let group = self.group_ref(message.group);
        let rank = group.rank_of(peer);
        let channel = group.channel_ref(message.channel);
        match (rank, channel) {
            (Some(rank), Some(channel)) => channel.confirm[rank.0 as usize].submitted > message.seq,
            _ => false,
        }
    }

    /// A frame went out before its operation was known to be submitted at `peer`.
    pub(crate) fn note_eager(&mut self, peer: Peer, message: &Message, cost: usize) {
        let group = self.group_mut(message.group);
        let Some(rank) = group.rank_of(peer) else { return };
        let Some(channel) = group.channel(message.channel) else { return };
        let outstanding = &mut channel.confirm[rank.0 as usize].outstanding;
        // Frames of one channel mostly leave in order; keep the queue sorted where they do not.
        let at = outstanding.partition_point(|&(seq, _)| seq <= message.seq);
        match at.checked_sub(1).and_then(|last| outstanding.get_mut(last)) {
            Some((seq, sum)) if *seq == message.seq => *sum += cost,
            _ => outstanding.insert(at, (message.seq, cost)),
        }
    }

    /// This rank sent a frame of `seq`: the peer knows of everything up to it.
    pub(crate) fn note_sent(&mut self, peer: Peer, group: u32, channel: u32, seq: u64) {
        let owner = self.group_mut(group);
        let Some(rank) = owner.rank_of(peer) else { return };
        let Some(channel) = owner.channel(channel) else { return };
        if seq + 1 == channel.next {
            channel.confirm[rank.0 as usize].uncredited = 0;
        }
    }

    /// Bytes of `rank` were consumed; credit goes back before the peer's window runs dry.
    pub(crate) fn uncredited(
        &mut self,
        peer: Peer,
        group: u32,
        rank: Rank,
        channel: u32,
        bytes: usize,
    ) {
        let limit = self.config.eager_window / 4;
        let Some(state) = self.group_mut(group).channel(channel) else { return };
        state.confirm[rank.0 as usize].uncredited += bytes;
        let owner = self.group_ref(group);
        let total: usize = if owner.channels.len() == 1 {
            owner.channels[0].confirm[rank.0 as usize].uncredited
        } else {
            owner.channels.iter().map(|c| c.confirm[rank.0 as usize].uncredited).sum()
        };
        if total > limit {
            self.credit_all(peer, group, rank);
        }
    }

    /// Tells `rank` how far this rank is on every channel where that is news.
    pub(crate) fn credit_all(&mut self, peer: Peer, group: u32, rank: Rank) {
        let mut news: smallvec::SmallVec<[(u32, u64); 4]> = smallvec::SmallVec::new();
        for channel in &mut self.group_mut(group).channels {
            channel.confirm[rank.0 as usize].uncredited = 0;
            if let Some(seq) = channel.next.checked_sub(1) {
                news.push((channel.id, seq));
            }
        }
        for (channel, seq) in news {
            self.send_small(
                peer,
                group,
                Kind::Credit,
                Header { channel, seq, ..Header::default() },
            );
        }
    }

    /// At submission: peers that will send much, or whose pool here is filling, hear that they may.
    pub(crate) fn grant_heavy(&mut self, op: &OpState) {
        let Body::Collective(prepared) = &op.body else { return };
        for &(rank, elements) in prepared.totals() {
            let peer = self.group_ref(op.group).peer_of(rank);
            let heavy = elements as usize * op.element_size > self.config.eager_per_operation;
            let full = self.peers[peer.index()].pool > self.config.eager_window / 2;
            if !heavy && !full {
                continue;
            }
            // A message of this operation that may leave at once says the same.
            let out = &self.peers[peer.index()].out;
            let says = out.messages.iter().any(|m| m.op == op.key)
                && out.eager + FRAME_OVERHEAD < self.config.eager_window
                && out.messages.len() == 1;
            if !says {
                let header = Header { channel: op.channel, seq: op.seq, ..Header::default() };
                self.send_small(peer, op.group, Kind::Credit, header);
            }
        }
    }
}
