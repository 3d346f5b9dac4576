//! Credit: who may send what to whom before the receiver is known to be ready.
//!
//! A rank may send a little of an operation before it knows that the peer has submitted it: at most
//! [`Config::eager_per_operation`](crate::Config::eager_per_operation) of one message and
//! [`Config::eager_window`](crate::Config::eager_window) of all together, which is the size of the pool
//! that the peer keeps for such frames. Any frame of a peer says which operations it has submitted,
//! because a channel's operations are submitted in order; so symmetric traffic needs no message for
//! credit. A `Credit` frame is sent where nothing else would say it: before a large message, when much
//! has been consumed in silence, and when a pool is more than half full.
//!
//! # Why nobody waits for ever
//! A sender whose window is full has sent it for operations that its peer has not submitted, and these
//! fill the peer's pool, or for operations that it has, and then the peer has consumed them in silence.
//! Silence ends at a quarter of the window, so at least half of it is in the pool, and at that point the
//! peer has told about everything that it has submitted, and does so again with every later submission.
//! That needs a window of a few frames at least, see [`Config`](crate::Config).
//!
//! # Failure
//! Frames of a group that has failed are read past and their pool is freed. The sender cannot know when, so
//! it keeps them in its count until the peer's report comes, and then counts nothing for that group.

use allhands_plan::Rank;
use allhands_wire::{Fingerprint, Header, Kind, Peer};
use smallvec::SmallVec;

use crate::engine::{Channel, Engine};
use crate::op::{Body, OpState};
use crate::outbound::{Allowance, Message};

impl Engine {
    /// `rank` has submitted everything up to `seq` on `channel`.
    pub(crate) fn confirm(&mut self, peer: Peer, group: u32, rank: Rank, channel: u32, seq: u64) {
        if let Some(channel) = self.group_mut(group).channel(channel) {
            let freed = confirm_on(channel, rank, seq);
            self.confirmed(peer, freed);
        }
    }

    /// As [`Engine::confirm`], for a channel that nobody has used here: then there is nothing to do.
    pub(crate) fn confirm_known(
        &mut self,
        peer: Peer,
        group: u32,
        rank: Rank,
        channel: u32,
        seq: u64,
    ) {
        let channels = &mut self.group_mut(group).channels;
        if let Ok(at) = channels.binary_search_by_key(&channel, |c| c.id) {
            let freed = confirm_on(&mut channels[at], rank, seq);
            self.confirmed(peer, freed);
        }
    }

    fn confirmed(&mut self, peer: Peer, freed: Option<usize>) {
        let Some(freed) = freed else { return };
        let out = &mut self.peers[peer.index()].out;
        out.eager = out.eager.saturating_sub(freed);
        self.retry(peer);
    }

    /// What waits for credit is looked at again.
    pub(crate) fn retry(&mut self, peer: Peer) {
        if self.peers[peer.index()].out.retry() {
            self.mark_dirty(peer);
        }
    }

    pub(crate) fn is_confirmed(&self, peer: Peer, message: &Message) -> bool {
        let group = self.group_ref(message.group);
        let Some(rank) = group.rank_of(peer) else { return false };
        group.deaf[rank.index()]
            || group
                .channel_ref(message.channel)
                .is_some_and(|channel| channel.confirm[rank.index()].submitted > message.seq)
    }

    /// A frame went out before its operation was known to be submitted at `peer`.
    pub(crate) fn note_eager(&mut self, peer: Peer, message: &Message, cost: usize) {
        let group = self.group_mut(message.group);
        let Some(rank) = group.rank_of(peer) else { return };
        let Some(channel) = group.channel(message.channel) else { return };
        let outstanding = &mut channel.confirm[rank.index()].outstanding;
        // Frames of one channel mostly leave in order; keep the queue sorted where they do not.
        let at = outstanding.partition_point(|&(seq, _)| seq <= message.seq);
        match at.checked_sub(1).and_then(|last| outstanding.get_mut(last)) {
            Some((seq, sum)) if *seq == message.seq => *sum += cost,
            _ => outstanding.insert(at, (message.seq, cost)),
        }
    }

    /// `peer` has left off using its pool for a group that failed there: nothing is charged any more.
    pub(crate) fn release_window(&mut self, peer: Peer, group: u32, rank: Rank) {
        let owner = self.group_mut(group);
        owner.deaf[rank.index()] = true;
        let mut freed = 0;
        for channel in &mut owner.channels {
            let outstanding = &mut channel.confirm[rank.index()].outstanding;
            freed += outstanding.drain(..).map(|(_, cost)| cost).sum::<usize>();
        }
        let point = std::mem::take(&mut owner.point[rank.index()].eager);
        let out = &mut self.peers[peer.index()].out;
        out.eager = out.eager.saturating_sub(freed);
        out.point_eager = out.point_eager.saturating_sub(point);
        self.retry(peer);
    }

    /// This rank sends a frame of `seq`: the peer learns of everything up to it.
    pub(crate) fn note_told(&mut self, peer: Peer, group: u32, rank: Rank, channel: u32, seq: u64) {
        let Some(channel) = self.group_mut(group).channel(channel) else { return };
        let next = channel.next;
        let confirm = &mut channel.confirm[rank.index()];
        confirm.told = confirm.told.max(seq.saturating_add(1));
        if confirm.told >= next {
            let settled = std::mem::take(&mut confirm.uncredited);
            let silent = &mut self.peers[peer.index()].uncredited;
            *silent = silent.saturating_sub(settled);
        }
    }

    /// Bytes of `rank` were consumed that it may still count in its window; it hears of that before the
    /// window runs dry.
    pub(crate) fn uncredited(
        &mut self,
        peer: Peer,
        group: u32,
        rank: Rank,
        channel: u32,
        seq: u64,
        bytes: usize,
    ) {
        let limit = self.config.eager_window / 4;
        let Some(state) = self.group_mut(group).channel(channel) else { return };
        let confirm = &mut state.confirm[rank.index()];
        if confirm.told > seq {
            return;
        }
        confirm.uncredited += bytes;
        let silent = &mut self.peers[peer.index()].uncredited;
        *silent += bytes;
        if *silent > limit {
            self.credit_all(peer);
        }
    }

    /// Tells `peer` how far this rank is, on every channel of every group where that is news: the window
    /// is one for all of them.
    pub(crate) fn credit_all(&mut self, peer: Peer) {
        self.peers[peer.index()].uncredited = 0;
        let mut news: SmallVec<[(u32, u32, u64, Fingerprint); 4]> = SmallVec::new();
        for index in 0..self.groups.len() {
            let Some(owner) = &mut self.groups[index] else { continue };
            let Some(rank) = owner.rank_of(peer) else { continue };
            for at in 0..owner.channels.len() {
                let channel = &mut owner.channels[at];
                let next = channel.next;
                let confirm = &mut channel.confirm[rank.index()];
                confirm.uncredited = 0;
                if confirm.told < next {
                    confirm.told = next;
                    news.push((index as u32, channel.id, next - 1, Fingerprint::NONE));
                }
            }
        }
        for (group, channel, seq, fingerprint) in &mut news {
            *fingerprint = self.fingerprint_at(*group, *channel, *seq);
        }
        for (group, channel, seq, fingerprint) in news {
            let header = Header { channel, seq, fingerprint, ..Header::default() };
            self.send_small(peer, group, Kind::Credit, header);
        }
    }

    fn fingerprint_at(&self, group: u32, channel: u32, seq: u64) -> Fingerprint {
        let Some(channel) = self.group_ref(group).channel_ref(channel) else {
            return Fingerprint::NONE;
        };
        match channel.op_at(seq).and_then(|index| self.op_by_index(index)) {
            Some(op) => op.fingerprint,
            None => channel.past(seq).map_or(Fingerprint::NONE, |past| past.fingerprint),
        }
    }

    /// At submission: peers that will send much, or whose pool here is filling, hear that they may.
    pub(crate) fn grant_heavy(&mut self, op: &OpState) {
        let Body::Collective(prepared) = &op.body else { return };
        for &(rank, elements) in prepared.totals() {
            let owner = self.group_ref(op.group);
            let peer = owner.peer_of(rank);
            let told = owner
                .channel_ref(op.channel)
                .is_some_and(|channel| channel.confirm[rank.index()].told > op.seq);
            let heavy = elements as usize * op.element_size > self.config.eager_per_operation;
            let full = self.peers[peer.index()].pool > self.config.eager_window / 2;
            if told || !(heavy || full) {
                continue;
            }
            // A message of this operation that leaves at once says the same.
            let out = &self.peers[peer.index()].out;
            let says = out.messages.front().is_some_and(|message| {
                message.op == op.key && self.allowance(peer, message) != Allowance::Wait
            });
            if !says {
                let header = Header {
                    channel: op.channel,
                    seq: op.seq,
                    fingerprint: op.fingerprint,
                    ..Header::default()
                };
                self.note_told(peer, op.group, rank, op.channel, op.seq);
                self.send_small(peer, op.group, Kind::Credit, header);
            }
        }
    }
}

/// Notes that `rank` has submitted everything up to `seq`. Returns the room that this frees, if it is news.
fn confirm_on(channel: &mut Channel, rank: Rank, seq: u64) -> Option<usize> {
    let confirm = &mut channel.confirm[rank.index()];
    if confirm.submitted > seq {
        return None;
    }
    confirm.submitted = seq.saturating_add(1);
    let known = confirm.outstanding.partition_point(|&(at, _)| at <= seq);
    Some(confirm.outstanding.drain(..known).map(|(_, cost)| cost).sum())
}
