//! What comes in: frames are recognised, checked against the operation they name, and landed.

use allhands_plan::Rank;
use allhands_wire::{
    Fingerprint, Flags, HEADER_LEN, Header, Kind, LOAN_LEN, Loan, PAYLOAD_MAX, Peer,
};

use crate::config::{DIRECT_MIN, FRAME_OVERHEAD};
use crate::engine::{Engine, LENT, Pull};
use crate::error::Violation;
use crate::failure::Health;
use crate::op::{Body, Content, OpKey, OpState, Parked, PartAt};
use crate::outbound::{ANNOUNCE, POINT_CHANNEL, Payload};

/// How far the byte stream of one peer has been read.
#[derive(Debug)]
pub(crate) struct Inbound {
    header: [u8; HEADER_LEN],
    have: usize,
    current: Option<Current>,
    /// The stream made no sense: nothing of it is read any more.
    broken: bool,
}

impl Default for Inbound {
    fn default() -> Self {
        Self { header: [0; HEADER_LEN], have: 0, current: None, broken: false }
    }
}

#[derive(Clone, Copy, Debug)]
struct Current {
    header: Header,
    /// Payload bytes read.
    got: usize,
    /// Whether the payload has a place; what has none is read past.
    fate: Fate,
    loan: [u8; LOAN_LEN],
}

/// What becomes of a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Placed,
    Skipped,
}

/// The messages of one operation that came before the operation was submitted here.
#[derive(Debug)]
pub(crate) struct Early {
    pub(crate) seq: u64,
    pub(crate) messages: Vec<EarlyMessage>,
}

#[derive(Debug)]
pub(crate) struct EarlyMessage {
    pub(crate) source: Rank,
    pub(crate) slot: u32,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) len: usize,
    pub(crate) content: Content,
    /// What it costs in the pool.
    pub(crate) cost: usize,
}

/// Whether a frame goes on where its message stopped: at `position`, if anything may still come. A
/// message that has begun is past its start, and each frame brings something.
fn continues(header: &Header, begun: bool, position: Option<usize>) -> bool {
    let whole = header.kind == Kind::Loan || header.xfer_len == 0;
    let brings = whole || header.payload_len > 0;
    let at_place = position.is_some_and(|at| header.byte_offset() == at as u64);
    let start = position == Some(0);
    brings && at_place && start != begun && (!whole || start)
}

/// Where the payload of a frame goes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place {
    Active(OpKey, PartAt),
    Parked(OpKey, usize),
    Early { group: u32, channel: usize, early: usize, message: usize },
    Unexpected { group: u32, rank: Rank, index: usize },
    Nowhere,
}

impl Engine {
    /// Where the next bytes from `peer` should land; empty where they must go through
    /// [`Engine::handle`].
    pub fn window(&mut self, peer: Peer) -> &mut [u8] {
        let Some(current) = self.peers[peer.index()].inbound.current else { return &mut [] };
        let left = current.header.payload_len as usize - current.got;
        let direct = current.header.kind == Kind::Data && current.fate == Fate::Placed;
        if left < DIRECT_MIN || !direct {
            return &mut [];
        }
        let Place::Active(key, at) = self.place(peer, &current.header) else { return &mut [] };
        let Some(op) = self.op_mut(key) else { return &mut [] };
        let room = Self::landing(op, at);
        let room_len = room.len().min(left);
        &mut room[..room_len]
    }

    /// The first `bytes` of the window hold bytes from `peer`.
    pub fn filled(&mut self, peer: Peer, bytes: usize) {
        let Some(current) = self.peers[peer.index()].inbound.current else { return };
        if let Place::Active(key, at) = self.place(peer, &current.header)
            && let Some(mut op) = self.take_op(key)
        {
            self.count_consumed(peer, &current.header, bytes);
            if self.landed(&mut op, at, bytes) {
                self.advance(&mut op);
            }
            self.settle_op(op);
        }
        self.payload_read(peer, bytes);
    }

    fn payload_read(&mut self, peer: Peer, bytes: usize) {
        let inbound = &mut self.peers[peer.index()].inbound;
        if let Some(current) = &mut inbound.current {
            current.got += bytes;
            if current.got >= current.header.payload_len as usize {
                inbound.current = None;
            }
        }
    }

    /// Bytes from `peer`, cut anywhere.
    pub fn handle(&mut self, peer: Peer, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let inbound = &mut self.peers[peer.index()].inbound;
            if inbound.broken {
                return;
            }
            match inbound.current {
                Some(current) => {
                    let left = current.header.payload_len as usize - current.got;
                    let (now, rest) = bytes.split_at(left.min(bytes.len()));
                    self.payload(peer, &current, now);
                    bytes = rest;
                }
                None => {
                    let take = bytes.len().min(HEADER_LEN - inbound.have);
                    let have = inbound.have;
                    inbound.header[have..have + take].copy_from_slice(&bytes[..take]);
                    inbound.have += take;
                    bytes = &bytes[take..];
                    if inbound.have == HEADER_LEN {
                        inbound.have = 0;
                        match Header::decode(&inbound.header) {
                            Ok(header) => self.frame(peer, header),
                            Err(error) => self.broken(peer, &Violation::Header(error)),
                        }
                    }
                }
            }
        }
    }

    /// Whether the stream of `peer` cannot be followed any more.
    pub(crate) fn is_broken(&self, peer: Peer) -> bool {
        self.peers[peer.index()].inbound.broken
    }

    /// The stream of `peer` cannot be followed any more: every group with that peer fails.
    pub(crate) fn broken(&mut self, peer: Peer, violation: &Violation) {
        self.peers[peer.index()].inbound.broken = true;
        self.peers[peer.index()].inbound.current = None;
        self.violation(peer, violation);
    }

    fn frame(&mut self, peer: Peer, header: Header) {
        if header.src != peer {
            return self.broken(peer, &Violation::Impostor { claimed: header.src });
        }
        if header.payload_len > PAYLOAD_MAX {
            return self.broken(peer, &Violation::Oversized { bytes: header.payload_len });
        }
        match header.kind {
            Kind::Goodbye if header.payload_len == 0 => {
                return self.peers[peer.index()].left = true;
            }
            Kind::Data | Kind::Loan | Kind::Credit | Kind::LoanReturn => {}
            _ => return self.broken(peer, &Violation::Misplaced { kind: header.kind }),
        }
        if header.kind == Kind::Loan && header.payload_len as usize != LOAN_LEN {
            return self.broken(peer, &Violation::Oversized { bytes: header.payload_len });
        }
        if header.flags.contains(Flags::PAYLOAD_CRC) {
            return self.broken(peer, &Violation::Unsupported { what: "payload checksums" });
        }
        let Some(group) = self.group_index(header.group, header.epoch) else {
            return self
                .broken(peer, &Violation::UnknownGroup { id: header.group, epoch: header.epoch });
        };
        let Some(rank) = self.group_ref(group).rank_of(peer) else {
            return self
                .broken(peer, &Violation::UnknownGroup { id: header.group, epoch: header.epoch });
        };
        let placed = self.judge(peer, group, rank, &header);
        let fate = if placed { Fate::Placed } else { Fate::Skipped };
        let current = Current { header, got: 0, fate, loan: [0; LOAN_LEN] };
        if header.payload_len > 0 {
            self.peers[peer.index()].inbound.current = Some(current);
        } else if placed && header.xfer_len == 0 && !header.flags.contains(ANNOUNCE) {
            // An empty message has no payload that would finish it.
            self.payload(peer, &current, &[]);
        }
    }

    /// Does what a frame says; returns whether its payload has a place.
    fn judge(&mut self, peer: Peer, group: u32, rank: Rank, header: &Header) -> bool {
        if matches!(self.group_ref(group).health, Health::Failed(_)) {
            return false;
        }
        let point = header.channel == POINT_CHANNEL;
        match header.kind {
            Kind::Credit if point => {
                self.point_credit(peer, group, rank, header);
                false
            }
            Kind::Credit => {
                self.confirm(peer, group, rank, header.channel, header.seq);
                self.compare(group, rank, header);
                false
            }
            Kind::LoanReturn => {
                self.loan_returned(peer, group, rank, header);
                false
            }
            _ if point => self.point_frame(peer, group, rank, header),
            _ => {
                self.confirm(peer, group, rank, header.channel, header.seq);
                self.admit(peer, group, rank, header)
            }
        }
    }

    /// A frame without bytes says what its sender runs, too.
    fn compare(&mut self, group: u32, rank: Rank, header: &Header) {
        if header.fingerprint == Fingerprint::NONE {
            return;
        }
        let Some(channel) = self.group_ref(group).channel_ref(header.channel) else { return };
        let mine = match channel.op_at(header.seq).and_then(|index| self.op_by_index(index)) {
            Some(op) => Some(op.fingerprint),
            None => channel.past(header.seq).map(|past| past.fingerprint),
        };
        if mine.is_some_and(|mine| mine != header.fingerprint) {
            self.mismatch(group, rank, header);
        }
    }

    /// Checks a collective's frame against what this rank knows of the operation, and makes room for it.
    /// Returns whether the payload has a place.
    fn admit(&mut self, peer: Peer, group: u32, rank: Rank, header: &Header) -> bool {
        let owner = self.group_mut(group);
        let Some(channel) = owner.channel(header.channel) else {
            self.violation(peer, &Violation::TooManyChannels);
            return false;
        };
        if header.seq >= channel.next {
            return self.admit_early(peer, group, rank, header);
        }
        match channel.op_at(header.seq) {
            Some(index) => {
                let Some(op) = self.op_by_index(index) else { return false };
                let key = op.key;
                if op.fingerprint != header.fingerprint {
                    self.mismatch(group, rank, header);
                    return false;
                }
                self.admit_submitted(peer, key, rank, header)
            }
            None => {
                let past = channel.past(header.seq).map(|past| past.fingerprint);
                if past == Some(header.fingerprint) {
                    self.length_mismatch(group, rank, header, 0);
                } else if past.is_some() {
                    self.mismatch(group, rank, header);
                } else {
                    self.violation(
                        peer,
                        &Violation::TooLate { channel: header.channel, seq: header.seq },
                    );
                }
                false
            }
        }
    }

    /// A frame of an operation that runs here: its message must be one that the plan expects, and go on
    /// where it stopped.
    fn admit_submitted(&mut self, peer: Peer, key: OpKey, rank: Rank, header: &Header) -> bool {
        let Some(op) = self.op(key) else { return false };
        let Body::Collective(prepared) = &op.body else {
            self.violation(peer, &Violation::NotByFrames { seq: header.seq });
            return false;
        };
        let group = op.group;
        let found = prepared.receive(rank, header.slot);
        let expected = found.map(|(_, elements)| elements * op.element_size as u64);
        let Some((number, _)) = found.filter(|_| expected == Some(header.xfer_len)) else {
            self.length_mismatch(group, rank, header, expected.unwrap_or(0));
            return false;
        };
        let active = op.receive_of(rank, header.slot);
        let begun = op.begun.contains(number);
        // `None`: nothing more may come of this message.
        let position = match active {
            _ if !begun => Some(0),
            Some(at) if op.pulling.contains(&at) => None,
            Some(at) => {
                let lane = &op.lanes[usize::from(at.lane)];
                Some(lane.moved[at.part as usize] + usize::from(lane.carried))
            }
            None => op
                .parked
                .iter()
                .find(|p| p.source == rank && p.slot == header.slot)
                .and_then(|parked| parked.content.reached()),
        };
        if !continues(header, begun, position) {
            let expected = position.map_or(header.xfer_len, |at| at as u64);
            let offset = header.byte_offset();
            self.violation(peer, &Violation::OutOfOrder { offset, expected });
            return false;
        }
        let held = if begun || active.is_some() { Vec::new() } else { self.spare.take_held() };
        if let Some(op) = self.op_mut(key)
            && !begun
        {
            op.begun.insert(number);
            if active.is_none() {
                let len = header.xfer_len as usize;
                let content = Content::Bytes(held);
                op.parked.push(Parked { source: rank, slot: header.slot, len, content });
            }
        }
        true
    }

    /// A frame of an operation that has not been submitted here goes to the pool, within its bound.
    fn admit_early(&mut self, peer: Peer, group: u32, rank: Rank, header: &Header) -> bool {
        if !matches!(self.group_ref(group).health, Health::Good) {
            // Its operation will never run, and the sender has been told to count no more.
            return false;
        }
        let payload = if header.kind == Kind::Loan { 0 } else { header.payload_len as usize };
        let cost = payload + FRAME_OVERHEAD;
        // The sender counts the same way, so an honest one never gets here with more.
        if self.peers[peer.index()].pool + cost > self.config.eager_window {
            self.violation(peer, &Violation::OverWindow { limit: self.config.eager_window });
            return false;
        }
        let Self { groups, spare, .. } = self;
        let owner = groups[group as usize].as_mut();
        let Some(channel) = owner.and_then(|owner| owner.channel(header.channel)) else {
            return false;
        };
        let at = match channel.early.binary_search_by_key(&header.seq, |early| early.seq) {
            Ok(at) => at,
            Err(at) => {
                channel.early.insert(at, Early { seq: header.seq, messages: spare.take_list() });
                at
            }
        };
        let messages = &mut channel.early[at].messages;
        let known = messages.iter_mut().find(|m| m.source == rank && m.slot == header.slot);
        let begun = known.is_some();
        let position = match &known {
            Some(m) if m.len as u64 != header.xfer_len || m.fingerprint != header.fingerprint => {
                None
            }
            Some(message) => message.content.reached(),
            None => Some(0),
        };
        if !continues(header, begun, position) {
            let expected = position.map_or(header.xfer_len, |at| at as u64);
            let offset = header.byte_offset();
            self.violation(peer, &Violation::OutOfOrder { offset, expected });
            return false;
        }
        match known {
            Some(message) => message.cost += cost,
            None => messages.push(EarlyMessage {
                source: rank,
                slot: header.slot,
                fingerprint: header.fingerprint,
                len: header.xfer_len as usize,
                content: Content::Bytes(spare.take_held()),
                cost,
            }),
        }
        let half = self.config.eager_window / 2;
        let pool = &mut self.peers[peer.index()].pool;
        let crossed = *pool <= half && *pool + cost > half;
        *pool += cost;
        if crossed {
            // The peer may be about to run out of window for what this rank already waits for.
            self.credit_all(peer);
        }
        true
    }

    /// Where the payload of a frame goes now. Looked up for every run of bytes, since an operation may be
    /// submitted, advance or fail while a frame is half read.
    fn place(&self, peer: Peer, header: &Header) -> Place {
        let Some(group) = self.group_index(header.group, header.epoch) else {
            return Place::Nowhere;
        };
        let owner = self.group_ref(group);
        if matches!(owner.health, Health::Failed(_)) {
            return Place::Nowhere;
        }
        let Some(rank) = owner.rank_of(peer) else { return Place::Nowhere };
        if header.channel == POINT_CHANNEL {
            return self.point_place(group, rank, header);
        }
        let Ok(at) = owner.channels.binary_search_by_key(&header.channel, |c| c.id) else {
            return Place::Nowhere;
        };
        let channel = &owner.channels[at];
        if header.seq >= channel.next {
            let Ok(early) = channel.early.binary_search_by_key(&header.seq, |early| early.seq)
            else {
                return Place::Nowhere;
            };
            let messages = &channel.early[early].messages;
            return match messages.iter().position(|m| m.source == rank && m.slot == header.slot) {
                Some(message) => Place::Early { group, channel: at, early, message },
                None => Place::Nowhere,
            };
        }
        let Some(op) = channel.op_at(header.seq).and_then(|index| self.op_by_index(index)) else {
            return Place::Nowhere;
        };
        if op.fingerprint != header.fingerprint {
            return Place::Nowhere;
        }
        if let Some(at) = op.receive_of(rank, header.slot) {
            // Its operation may have been submitted, with another length, while the frame was half read.
            let fits = op.span(at).len as u64 == header.xfer_len;
            return if fits { Place::Active(op.key, at) } else { Place::Nowhere };
        }
        match op.parked.iter().position(|p| p.source == rank && p.slot == header.slot) {
            Some(index) => Place::Parked(op.key, index),
            None => Place::Nowhere,
        }
    }

    /// Payload bytes of the current frame of `peer`.
    fn payload(&mut self, peer: Peer, current: &Current, bytes: &[u8]) {
        let header = &current.header;
        if current.fate == Fate::Skipped {
            return self.payload_read(peer, bytes.len());
        }
        if header.kind == Kind::Loan {
            let inbound = &mut self.peers[peer.index()].inbound;
            let Some(state) = &mut inbound.current else { return };
            state.loan[current.got..current.got + bytes.len()].copy_from_slice(bytes);
            if current.got + bytes.len() == LOAN_LEN {
                match Loan::decode(&state.loan) {
                    Ok(loan) => self.loan_arrived(peer, header, loan),
                    Err(error) => self.violation(peer, &Violation::Control(error.to_string())),
                }
            }
        } else if header.kind == Kind::Data {
            match self.place(peer, header) {
                Place::Active(key, at) => {
                    if let Some(mut op) = self.take_op(key) {
                        // More than the message holds cannot come: `admit` checked the frame.
                        self.count_consumed(peer, header, bytes.len());
                        if self.land(&mut op, at, bytes) {
                            self.advance(&mut op);
                        }
                        self.settle_op(op);
                    }
                }
                Place::Parked(key, index) => {
                    if let Some(op) = self.op_mut(key)
                        && let Content::Bytes(parked) = &mut op.parked[index].content
                    {
                        parked.extend_from_slice(bytes);
                    }
                    self.count_consumed(peer, header, bytes.len());
                }
                Place::Early { group, channel, early, message } => {
                    let early = &mut self.group_mut(group).channels[channel].early[early];
                    if let Content::Bytes(held) = &mut early.messages[message].content {
                        held.extend_from_slice(bytes);
                    }
                }
                Place::Unexpected { group, rank, index } => {
                    self.point_unexpected(group, rank, index, bytes);
                }
                Place::Nowhere => {}
            }
        }
        self.payload_read(peer, bytes.len());
    }

    /// Bytes consumed for a submitted operation: the peer's window opens again when it hears of it.
    fn count_consumed(&mut self, peer: Peer, header: &Header, bytes: usize) {
        if header.channel == POINT_CHANNEL {
            return;
        }
        let Some(group) = self.group_index(header.group, header.epoch) else { return };
        let Some(rank) = self.group_ref(group).rank_of(peer) else { return };
        self.uncredited(peer, group, rank, header.channel, header.seq, bytes + FRAME_OVERHEAD);
    }

    /// Takes over the messages that came before `op` was submitted.
    pub(crate) fn adopt_early(&mut self, op: &mut OpState, early: Early) {
        let group = op.group;
        let mut messages = early.messages;
        for message in messages.drain(..) {
            let peer = self.group_ref(group).peer_of(message.source);
            let pool = &mut self.peers[peer.index()].pool;
            *pool = pool.saturating_sub(message.cost);
            self.uncredited(peer, group, message.source, op.channel, op.seq, message.cost);
            let header = Header {
                seq: op.seq,
                channel: op.channel,
                slot: message.slot,
                fingerprint: message.fingerprint,
                xfer_len: message.len as u64,
                ..Header::default()
            };
            if message.fingerprint != op.fingerprint {
                self.mismatch_of(group, message.source, &header, op.descriptor);
                continue;
            }
            let Body::Collective(prepared) = &op.body else { continue };
            let found = prepared.receive(message.source, message.slot);
            let expected = found.map(|(_, elements)| elements as usize * op.element_size);
            let Some((number, _)) = found.filter(|_| expected == Some(message.len)) else {
                let expected = expected.unwrap_or(0) as u64;
                self.length_mismatch_of(group, message.source, &header, expected, op.descriptor);
                continue;
            };
            op.begun.insert(number);
            op.parked.push(Parked {
                source: message.source,
                slot: message.slot,
                len: message.len,
                content: message.content,
            });
        }
        self.spare.keep_list(messages);
    }

    fn loan_arrived(&mut self, peer: Peer, header: &Header, loan: Loan) {
        if loan.len != header.xfer_len {
            return self.violation(
                peer,
                &Violation::LoanLength { loan: loan.len, message: header.xfer_len },
            );
        }
        match self.place(peer, header) {
            Place::Active(key, at) => {
                if let Some(op) = self.op_mut(key) {
                    op.pulling.push(at);
                    self.pulls.push_back(Pull { peer, loan, op: key, at, slot: header.slot });
                }
            }
            Place::Parked(key, index) => {
                if let Some(op) = self.op_mut(key) {
                    op.parked[index].content = Content::Loan(loan);
                }
            }
            Place::Early { group, channel, early, message } => {
                let early = &mut self.group_mut(group).channels[channel].early[early];
                early.messages[message].content = Content::Loan(loan);
            }
            Place::Unexpected { .. } | Place::Nowhere => {}
        }
    }

    /// Memory of a peer to read in place.
    pub fn poll_pull(&mut self) -> Option<Pull> {
        self.pulls.pop_front()
    }

    /// The next bytes of a loan, as read; more than are missing are ignored. When all of them are in, the
    /// loan goes back to its owner. Bytes for an operation that has ended meanwhile are dropped. A driver
    /// that cannot read the memory says so with [`Engine::handle_garbled`].
    pub fn handle_pulled(&mut self, pull: &Pull, bytes: &[u8]) {
        let Some(mut op) = self.take_op(pull.op) else { return };
        let Some(index) = op.pulling.iter().position(|at| *at == pull.at) else {
            return self.put_op(op);
        };
        let lane = &op.lanes[usize::from(pull.at.lane)];
        let moved = lane.moved[pull.at.part as usize] + usize::from(lane.carried);
        let missing = op.span(pull.at).len - moved;
        let bytes = &bytes[..bytes.len().min(missing)];
        if bytes.len() == missing {
            op.pulling.swap_remove(index);
            let header = Header {
                channel: op.channel,
                seq: op.seq,
                slot: pull.slot,
                fingerprint: op.fingerprint,
                ..Header::default()
            };
            self.send_small(pull.peer, op.group, Kind::LoanReturn, header);
        }
        if self.land(&mut op, pull.at, bytes) {
            self.advance(&mut op);
        }
        self.settle_op(op);
    }

    fn loan_returned(&mut self, peer: Peer, group: u32, rank: Rank, header: &Header) {
        self.confirm(peer, group, rank, header.channel, header.seq);
        let channel = self.group_ref(group).channel_ref(header.channel);
        let Some(index) = channel.and_then(|c| c.op_at(header.seq)) else { return };
        let Some(op) = self.op_by_index(index) else { return };
        let lent = op.send_of(rank, header.slot).filter(|at| {
            // Only what was lent can come back: bytes that travel are still in use.
            op.lanes[usize::from(at.lane)].moved[at.part as usize] == LENT
        });
        let Some(at) = lent else {
            return self.violation(peer, &Violation::UnknownLoan { slot: header.slot });
        };
        let (key, len) = (op.key, op.span(at).len);
        if let Some(op) = self.op_mut(key) {
            op.lanes[usize::from(at.lane)].moved[at.part as usize] = 0;
        }
        self.part_moved(key, at, len);
    }

    /// Queues a frame without payload.
    pub(crate) fn send_small(&mut self, peer: Peer, group: u32, kind: Kind, header: Header) {
        let owner = self.group_ref(group);
        let header = Header { kind, group: owner.id, epoch: owner.epoch, src: self.me, ..header };
        self.peers[peer.index()].out.push_frame(&header, Payload::None);
        self.mark_dirty(peer);
    }

    /// Says goodbye to every peer, behind everything that waits, and on the control connections, so that a
    /// peer that has nothing to do looks at its links. Nothing may be submitted afterwards.
    pub fn leave(&mut self) {
        self.announce_leaving();
        for index in 0..self.peers.len() as u32 {
            let peer = Peer(index);
            if peer != self.me && !self.peers[peer.index()].closed {
                let header = Header { kind: Kind::Goodbye, src: self.me, ..Header::default() };
                self.peers[peer.index()].out.push_frame(&header, Payload::None);
                self.mark_dirty(peer);
            }
        }
    }
}
