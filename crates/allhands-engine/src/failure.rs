//! How one rank's trouble becomes the group's: reports are merged for a moment, told to all, and end
//! every operation with the same cause.

use std::sync::Arc;
use std::time::Instant;

use allhands_plan::Rank;
use allhands_tensor::DType;
use allhands_wire::{
    Address, Cause, Describe, Descriptor, Goodbye, Header, Merged, Message, Peer, Ping, Progress,
    Report, Testimony, Text,
};

use crate::config::CONTROLS_MAX;
use crate::engine::{Engine, GroupKey};
use crate::error::Violation;
use crate::op::Body;
use crate::outbound::POINT_CHANNEL;

/// How a group is.
#[derive(Debug)]
pub(crate) enum Health {
    Good,
    /// Something happened; a better explanation may come until the time is over.
    Settling {
        report: Box<Report>,
        until: Option<Instant>,
    },
    Failed(Arc<Report>),
}

/// A mismatch whose other side has not been heard.
#[derive(Debug)]
pub(crate) struct PendingMismatch {
    peer: Peer,
    channel: u32,
    seq: u64,
    mine: Descriptor,
    /// What the frame's fingerprint tells, until the description comes.
    theirs: Descriptor,
    text: Text<{ allhands_wire::REPORT_TEXT_MAX }>,
    pub(crate) until: Option<Instant>,
}

/// A message for a peer's control connection.
#[derive(Clone, Copy, Debug)]
pub struct ControlOut {
    /// Which operation it is about.
    pub address: Address,
    /// What it says.
    pub message: Message,
}

impl Engine {
    /// The next message for a control connection.
    pub fn poll_control(&mut self) -> Option<(Peer, ControlOut)> {
        self.controls.pop_front()
    }

    fn say(&mut self, to: Peer, group: u32, channel: u32, seq: u64, message: Message) {
        let owner = self.group_ref(group);
        let address = Address { group: owner.id, epoch: owner.epoch, src: self.me, channel, seq };
        self.push_control(to, ControlOut { address, message });
    }

    /// Queues a control message, within bounds: of reports only the latest counts, and what is asked or
    /// told when the queue is full is asked or told for nothing.
    fn push_control(&mut self, to: Peer, out: ControlOut) {
        if self.peers[to.index()].closed {
            return;
        }
        match &out.message {
            Message::Poison(report) => {
                let queued = self.controls.iter_mut().find(|(peer, queued)| {
                    *peer == to
                        && matches!(&queued.message, Message::Poison(other)
                            if (other.group, other.epoch) == (report.group, report.epoch))
                });
                match queued {
                    Some((_, queued)) => *queued = out,
                    None => self.controls.push_back((to, out)),
                }
            }
            Message::Goodbye(_) => self.controls.push_back((to, out)),
            Message::Ping(_) | Message::Describe(_) if self.controls.len() < CONTROLS_MAX => {
                self.controls.push_back((to, out));
            }
            Message::Ping(_) | Message::Describe(_) => {}
        }
    }

    /// Tells every other member.
    pub(crate) fn tell_all(&mut self, group: u32, channel: u32, seq: u64, message: Message) {
        let me = self.me;
        let others: Vec<Peer> =
            self.group_ref(group).members.iter().copied().filter(|&p| p != me).collect();
        for peer in others {
            self.say(peer, group, channel, seq, message);
        }
    }

    /// Breaks a group for `report`, or improves the report it breaks for.
    pub(crate) fn fail(&mut self, group: u32, mut report: Report) {
        let owner = self.group_mut(group);
        report.group = owner.id;
        report.epoch = owner.epoch;
        let first = matches!(owner.health, Health::Good);
        let outlived = |report: &Report| {
            matches!(report.cause, Cause::PeerDied | Cause::ConnLost)
                && report
                    .culprits
                    .listed()
                    .iter()
                    .all(|&p| owner.rank_of(p).is_some_and(|r| owner.deaf[r.index()]))
        };
        // Who reported a failure first was alive then: that it left or ended afterwards is no cause.
        let (old, new) = match &owner.health {
            Health::Settling { report: kept, .. } => (outlived(kept), outlived(&report)),
            _ => (false, false),
        };
        let told = match &mut owner.health {
            Health::Settling { .. } if new => false,
            Health::Settling { report: kept, .. } if old => {
                **kept = report;
                true
            }
            Health::Good => {
                owner.health = Health::Settling { report: Box::new(report), until: None };
                true
            }
            Health::Settling { report: kept, .. } => kept.merge(&report) == Merged::Replaced,
            Health::Failed(_) => false,
        };
        if first {
            self.drop_early(group);
        }
        if told {
            self.tell_all(group, report.channel, report.seq, Message::Poison(report));
        }
        self.look_at_the_clock();
    }

    /// Frames of operations that will never be submitted give their room back.
    fn drop_early(&mut self, group: u32) {
        let Some(owner) = self.groups[group as usize].as_mut() else { return };
        let earlies = owner.channels.iter_mut().flat_map(|channel| channel.early.drain(..));
        for message in earlies.flat_map(|early| early.messages) {
            let peer = owner.members[message.source.index()];
            let pool = &mut self.peers[peer.index()].pool;
            *pool = pool.saturating_sub(message.cost);
        }
        for (point, peer) in owner.point.iter_mut().zip(&owner.members) {
            let pool = &mut self.peers[peer.index()].point_pool;
            *pool = pool.saturating_sub(point.drop_unexpected());
        }
    }

    /// The time known here may be old: windows begin when the driver next tells the time.
    fn look_at_the_clock(&mut self) {
        self.note_deadline(Some(self.now));
    }

    /// The oldest operation in flight on a group, to say where trouble showed.
    fn oldest(&self, group: u32) -> (u32, u64, u64) {
        let oldest = self
            .ops_in_flight()
            .filter(|op| op.group == group)
            .min_by_key(|op| (op.channel == POINT_CHANNEL, op.seq, op.channel));
        match oldest {
            Some(op) => {
                let elapsed = self.now.saturating_duration_since(op.submitted);
                (op.channel, op.seq, elapsed.as_millis() as u64)
            }
            None => {
                let channel = self.group_ref(group).channels.first();
                channel.map_or((0, 0, 0), |c| (c.id, c.next, 0))
            }
        }
    }

    pub(crate) fn report(&self, group: u32, cause: Cause, culprits: &[Peer], text: &str) -> Report {
        let (channel, seq, elapsed_ms) = self.oldest(group);
        Report {
            channel,
            seq,
            elapsed_ms,
            text: Text::new(text),
            ..Report::new(cause, self.me, culprits.iter().copied())
        }
    }

    fn groups_with(&self, peer: Peer) -> Vec<u32> {
        let has = |g: &crate::engine::Group| g.rank_of(peer).is_some();
        (0..self.groups.len() as u32)
            .filter(|&g| self.groups[g as usize].as_ref().is_some_and(has))
            .collect()
    }

    /// `peer` did what no correct peer does.
    pub(crate) fn violation(&mut self, peer: Peer, violation: &Violation) {
        let text = violation.to_string();
        for group in self.groups_with(peer) {
            let report = self.report(group, Cause::Protocol, &[peer], &text);
            self.fail(group, report);
        }
    }

    /// The data connection to `peer` has ended. After a goodbye this is in order, and only operations
    /// that still need the peer fail; without one the peer has died.
    pub fn handle_closed(&mut self, peer: Peer, why: &str) {
        let state = &mut self.peers[peer.index()];
        if std::mem::replace(&mut state.closed, true) {
            return;
        }
        state.out.clear();
        let left = state.left;
        self.closed += 1;
        if self.leaving {
            // Peers close their side when this rank has said goodbye.
            return;
        }
        for group in self.groups_with(peer) {
            let Some(rank) = self.group_ref(group).rank_of(peer) else { continue };
            if !left {
                let report = self.report(group, Cause::PeerDied, &[peer], why);
                self.fail(group, report);
            } else if self.ops_in_flight().any(|op| op.group == group && op.needs(rank)) {
                let text = "it left the group while this operation still needed it";
                // It may have left because of a death that has not shown here yet.
                let report = self.report(group, Cause::ConnLost, &[peer], text);
                self.fail(group, report);
            }
        }
    }

    /// The control connection of `peer` has ended: it has said all that it had to say.
    pub fn handle_control_closed(&mut self, peer: Peer, why: &str) {
        self.peers[peer.index()].silenced = true;
        self.look_at_the_clock();
        if !self.peers[peer.index()].left {
            self.handle_closed(peer, why);
        }
    }

    /// What came on the control connection of `peer` makes no sense.
    pub fn handle_garbled(&mut self, peer: Peer, why: &str) {
        self.violation(peer, &Violation::Control(why.to_owned()));
    }

    /// Nothing has come from `peer` for longer than allowed, although its connection stands.
    ///
    /// A peer that has said goodbye may be silent: its connection tells when it is gone.
    pub fn handle_silence(&mut self, peer: Peer, why: &str) {
        if self.peers[peer.index()].left {
            return;
        }
        for group in self.groups_with(peer) {
            let report = self.report(group, Cause::Silent, &[peer], why);
            self.fail(group, report);
        }
    }

    /// Breaks a group on this rank's wish; all members learn of it.
    pub fn abort(&mut self, group: GroupKey, cause: Cause, why: &str) {
        let report = self.report(group.0, cause, &[self.me], why);
        self.fail(group.0, report);
    }

    /// Breaks every group, as [`Engine::abort`] does one.
    pub fn abort_all(&mut self, cause: Cause, why: &str) {
        for group in self.groups_with(self.me) {
            self.abort(GroupKey(group), cause, why);
        }
    }

    /// Whether the links and the time matter even if nothing is in flight: a group settles on a cause or
    /// asks for the other side of a mismatch, or a peer has said goodbye and waits for its connection to
    /// be closed here too.
    #[must_use]
    pub fn is_restless(&self) -> bool {
        let unsettled = |group: &crate::engine::Group| {
            matches!(group.health, Health::Settling { .. }) || !group.mismatches.is_empty()
        };
        self.groups.iter().flatten().any(unsettled)
            || self.peers.iter().any(|peer| peer.left && !peer.closed)
            || self.holds_copies()
    }

    /// The cause for which a group has failed.
    #[must_use]
    pub fn failure(&self, group: GroupKey) -> Option<Arc<Report>> {
        match &self.group_ref(group.0).health {
            Health::Failed(report) => Some(report.clone()),
            _ => None,
        }
    }

    /// A frame names another operation than the one this rank runs, or ran, under that number.
    pub(crate) fn mismatch(&mut self, group: u32, rank: Rank, header: &Header) {
        let Some(mine) = self.describe(group, header.channel, header.seq) else { return };
        self.mismatch_of(group, rank, header, mine);
    }

    pub(crate) fn mismatch_of(
        &mut self,
        group: u32,
        rank: Rank,
        header: &Header,
        mine: Descriptor,
    ) {
        let fingerprint = header.fingerprint;
        let theirs = Descriptor {
            op: fingerprint.op(),
            reduce_op: fingerprint.reduce_op(),
            dtype: fingerprint.dtype(),
            root: fingerprint.root(),
            count: if header.channel == POINT_CHANNEL { elements(header) } else { 0 },
            ..Descriptor::default()
        };
        self.suspect(group, rank, header, mine, theirs, "");
    }

    /// A message has another length than this rank expects from its sender.
    pub(crate) fn length_mismatch(
        &mut self,
        group: u32,
        rank: Rank,
        header: &Header,
        expected: u64,
    ) {
        let Some(mine) = self.describe(group, header.channel, header.seq) else { return };
        self.length_mismatch_of(group, rank, header, expected, mine);
    }

    pub(crate) fn length_mismatch_of(
        &mut self,
        group: u32,
        rank: Rank,
        header: &Header,
        expected: u64,
        mine: Descriptor,
    ) {
        let to = self.group_ref(group).rank;
        let text =
            format!("{rank} sends {} bytes to {to}, which expects {expected}", header.xfer_len);
        let theirs = match header.channel {
            POINT_CHANNEL => Descriptor { count: elements(header), ..mine },
            _ => mine,
        };
        self.suspect(group, rank, header, mine, theirs, &text);
    }

    /// Remembers a mismatch and asks the other side what it runs.
    fn suspect(
        &mut self,
        group: u32,
        rank: Rank,
        header: &Header,
        mine: Descriptor,
        theirs: Descriptor,
        text: &str,
    ) {
        let owner = self.group_mut(group);
        if matches!(owner.health, Health::Failed(_)) || !owner.mismatches.is_empty() {
            return;
        }
        let peer = owner.peer_of(rank);
        let (channel, seq) = (header.channel, header.seq);
        let text = Text::new(text);
        let found = PendingMismatch { peer, channel, seq, mine, theirs, text, until: None };
        if channel == POINT_CHANNEL {
            // Messages are numbered by their sender only, so there is nothing to ask for.
            return self.accuse(group, &found);
        }
        owner.mismatches.push(found);
        self.look_at_the_clock();
        self.say(peer, group, channel, seq, Message::Describe(Describe::Ask));
        // The other side may not have seen a frame of ours: tell it too, so that it can judge.
        self.say(peer, group, channel, seq, Message::Describe(Describe::Tell(mine)));
    }

    /// Turns a mismatch into the failure of its group.
    pub(crate) fn accuse(&mut self, group: u32, found: &PendingMismatch) {
        let owner = self.group_ref(group);
        let me = owner.peer_of(owner.rank);
        let mut sides = [
            Testimony { peer: me, descriptor: found.mine },
            Testimony { peer: found.peer, descriptor: found.theirs },
        ];
        sides.sort_by_key(|side| side.peer);
        let elapsed = self
            .ops_in_flight()
            .find(|op| op.group == group && op.channel == found.channel && op.seq == found.seq)
            .map_or(0, |op| self.now.saturating_duration_since(op.submitted).as_millis() as u64);
        let report = Report {
            channel: found.channel,
            seq: found.seq,
            elapsed_ms: elapsed,
            testimonies: sides.map(Some),
            text: found.text,
            ..Report::new(Cause::Mismatch, self.me, sides.map(|side| side.peer))
        };
        self.fail(group, report);
    }

    /// What this rank runs, or ran lately, under a number.
    fn describe(&self, group: u32, channel: u32, seq: u64) -> Option<Descriptor> {
        let channel = self.group_ref(group).channel_ref(channel)?;
        match channel.op_at(seq).and_then(|index| self.op_by_index(index)) {
            Some(op) => Some(op.descriptor),
            None => channel.past(seq).map(|past| past.descriptor),
        }
    }

    /// A message from the control connection of `peer`, as decoded from its frame.
    pub fn handle_control(&mut self, peer: Peer, header: &Header, message: &Message) {
        if let Message::Goodbye(_) = message {
            self.peers[peer.index()].left = true;
            return;
        }
        if let Message::Ping(ping) = message {
            return self.handle_ping(peer, header, ping);
        }
        let Some(group) = self.group_index(header.group, header.epoch) else { return };
        let Some(rank) = self.group_ref(group).rank_of(peer) else { return };
        match message {
            Message::Poison(report) => {
                self.release_window(peer, group, rank);
                self.fail(group, *report);
            }
            Message::Describe(Describe::Ask) => {
                let (channel, seq) = (header.channel, header.seq);
                let answer = match self.describe(group, channel, seq) {
                    Some(mine) => Describe::Tell(mine),
                    None => {
                        // How far this rank is, then.
                        let ping = self.ping_about(Some((group, channel)), 0, 0);
                        self.say(peer, group, channel, seq, Message::Ping(ping));
                        Describe::Unknown
                    }
                };
                self.say(peer, group, channel, seq, Message::Describe(answer));
            }
            Message::Describe(Describe::Tell(theirs)) => {
                self.told(group, peer, rank, header, *theirs);
            }
            Message::Describe(Describe::Unknown) | Message::Ping(_) | Message::Goodbye(_) => {}
        }
    }

    fn told(&mut self, group: u32, peer: Peer, rank: Rank, header: &Header, theirs: Descriptor) {
        let (channel, seq) = (header.channel, header.seq);
        let owner = self.group_mut(group);
        if matches!(owner.health, Health::Failed(_)) {
            return;
        }
        let pending = owner
            .mismatches
            .iter()
            .position(|m| m.peer == peer && m.channel == channel && m.seq == seq);
        if let Some(at) = pending {
            let found = owner.mismatches.swap_remove(at);
            return self.accuse(group, &PendingMismatch { theirs, ..found });
        }
        let Some(mine) = self.describe(group, channel, seq) else { return };
        if mine.fingerprint() == theirs.fingerprint() {
            self.confirm_known(peer, group, rank, channel, seq);
        } else {
            // Both sides are known: nothing is to be asked.
            let text = Text::default();
            let found = PendingMismatch { peer, channel, seq, mine, theirs, text, until: None };
            self.accuse(group, &found);
        }
    }

    fn handle_ping(&mut self, peer: Peer, header: &Header, ping: &Ping) {
        for progress in ping.progress() {
            let Some(group) = self.group_index(progress.group, header.epoch) else { continue };
            let Some(rank) = self.group_ref(group).rank_of(peer) else { continue };
            if let Some(last) = progress.submitted.checked_sub(1) {
                self.confirm_known(peer, group, rank, progress.channel, last);
            }
        }
    }

    /// Whether an operation in flight still has something for other ranks: all but receives have.
    #[must_use]
    pub fn is_owing(&self) -> bool {
        self.holds_copies() || self.ops_in_flight().any(|op| !matches!(op.body, Body::Recv(..)))
    }

    /// Tells every peer on its control connection that this rank leaves.
    pub(crate) fn announce_leaving(&mut self) {
        self.leaving = true;
        let address = Address { src: self.me, ..Address::default() };
        for index in 0..self.peers.len() as u32 {
            let peer = Peer(index);
            if peer != self.me && !self.peers[peer.index()].closed {
                let message = Message::Goodbye(Goodbye::Finished);
                self.push_control(peer, ControlOut { address, message });
            }
        }
    }

    /// Sends every peer a sign of life.
    pub fn ping_all(&mut self, stamp_us: u64) {
        let ping = self.ping(stamp_us, 0);
        let epoch = self.groups.iter().flatten().next().map_or(0, |group| group.epoch);
        let address = Address { epoch, src: self.me, ..Address::default() };
        for index in 0..self.peers.len() as u32 {
            let peer = Peer(index);
            if peer != self.me && !self.peers[peer.index()].closed {
                self.controls
                    .push_back((peer, ControlOut { address, message: Message::Ping(ping) }));
            }
        }
    }

    /// Whether `peer` has said goodbye.
    #[must_use]
    pub fn has_left(&self, peer: Peer) -> bool {
        self.peers[peer.index()].left
    }

    /// A sign of life with the progress of this rank's channels, busy ones first.
    #[must_use]
    pub fn ping(&self, stamp_us: u64, echo_us: u64) -> Ping {
        self.ping_about(None, stamp_us, echo_us)
    }

    /// The same, with one channel before all others.
    fn ping_about(&self, first: Option<(u32, u32)>, stamp_us: u64, echo_us: u64) -> Ping {
        let mut ping = Ping::new(stamp_us, echo_us);
        let mut rows: Vec<((bool, bool), Progress)> = Vec::new();
        for (index, group) in (0..).zip(&self.groups) {
            let Some(group) = group else { continue };
            for channel in &group.channels {
                let idle = channel.window.is_empty();
                rows.push((
                    (first != Some((index, channel.id)), idle),
                    Progress {
                        group: group.id,
                        channel: channel.id,
                        submitted: channel.next,
                        completed: channel.first,
                    },
                ));
            }
        }
        rows.sort_by_key(|(order, _)| *order);
        for (_, row) in rows {
            if !ping.push(row) {
                break;
            }
        }
        ping
    }

    /// Peers whose bytes the operations in flight wait for, each once.
    pub fn awaited_peers(&self, peers: &mut Vec<Peer>) {
        peers.clear();
        for op in self.ops_in_flight() {
            let owner = self.group_ref(op.group);
            for rank in op.awaited() {
                let peer = owner.peer_of(rank);
                if !peers.contains(&peer) {
                    peers.push(peer);
                }
            }
        }
    }
}

/// Elements of a point-to-point message, as far as its dtype is known here.
fn elements(header: &Header) -> u64 {
    let size = DType::from_code(header.fingerprint.dtype()).map_or(1, DType::size);
    header.xfer_len / size as u64
}
