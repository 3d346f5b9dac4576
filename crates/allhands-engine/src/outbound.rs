//! What goes out: messages of active sends, cut into frames, under credit.

use std::collections::VecDeque;
use std::io::IoSlice;

use allhands_wire::{Fingerprint, Flags, HEADER_LEN, Header, Kind, LOAN_LEN, OFFSET_UNIT, Peer};
use smallvec::SmallVec;

use crate::config::{BYTES_AHEAD, FRAME_OVERHEAD, FRAMES_AHEAD, POINT_ANNOUNCED_MAX};
use crate::engine::{Engine, LENT};
use crate::op::{OpKey, PartAt};

/// Channel number of point-to-point frames; no stream of collectives may use it.
pub const POINT_CHANNEL: u32 = u32::MAX;

/// Flag of a point-to-point credit: message `seq` is matched, all of it may come.
pub(crate) const GRANT: Flags = Flags::upper(1);

/// Flag of a point-to-point frame that was sent without a grant: its room in the window is given back
/// when the message is matched.
pub(crate) const EAGER: Flags = Flags::upper(2);

/// Flag of a point-to-point frame that has no room in the window: it says that there is a message, so that
/// it can be matched and granted, and carries nothing of it.
pub(crate) const ANNOUNCE: Flags = Flags::upper(4);

/// Bytes waiting for a peer, oldest first, borrowed from an engine: what fits one vectored write.
pub type Slices<'a> = SmallVec<[IoSlice<'a>; 16]>;

/// A message of an active send, waiting to be framed.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) op: OpKey,
    pub(crate) at: PartAt,
    pub(crate) group: u32,
    pub(crate) channel: u32,
    pub(crate) seq: u64,
    pub(crate) slot: u32,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) total: usize,
    pub(crate) framed: usize,
    /// The first frame is out, so the peer knows of the message.
    pub(crate) announced: bool,
    /// Bytes sent before the peer was known to be ready.
    pub(crate) eager: usize,
    pub(crate) loan: Option<[u8; LOAN_LEN]>,
    /// Point-to-point only: the peer has matched the message.
    pub(crate) granted: bool,
}

/// Bytes behind a header.
#[derive(Debug)]
pub(crate) enum Payload {
    None,
    Operation {
        op: OpKey,
        at: PartAt,
        offset: usize,
    },
    Loan {
        op: OpKey,
        descriptor: [u8; LOAN_LEN],
    },
    /// A copy of a short message, whose sender has gone on.
    Copy(Vec<u8>),
    /// The operation ended while its frame was half written: the stream must stay in step.
    Zeros,
}

/// A frame that the link is taking.
#[derive(Debug)]
pub(crate) struct Frame {
    header: [u8; HEADER_LEN],
    header_sent: usize,
    payload: Payload,
    len: usize,
    sent: usize,
}

impl Frame {
    pub(crate) fn begun(&self) -> bool {
        self.header_sent > 0
    }

    /// The operation it is about, if it has something of it.
    pub(crate) fn op(&self) -> Option<OpKey> {
        match self.payload {
            Payload::Operation { op, .. } | Payload::Loan { op, .. } => Some(op),
            Payload::None | Payload::Copy(_) | Payload::Zeros => None,
        }
    }

    /// Forgets the operation's memory.
    fn detach(&mut self) {
        if matches!(self.payload, Payload::Operation { .. }) {
            self.payload = Payload::Zeros;
        }
    }
}

static ZEROS: [u8; 4096] = [0; 4096];

#[derive(Debug, Default)]
pub(crate) struct Outbound {
    /// Messages that may go on, as far as is known.
    pub(crate) messages: VecDeque<Message>,
    /// Messages that wait for credit; looked at again when there is news.
    pub(crate) waiting: VecDeque<Message>,
    pub(crate) frames: VecDeque<Frame>,
    /// Payload bytes in `frames`.
    framed: usize,
    /// Bytes under way for operations that the peer is not known to have submitted.
    pub(crate) eager: usize,
    /// The same for point-to-point messages.
    pub(crate) point_eager: usize,
    /// Frames in `frames` that hold copies.
    pub(crate) copies: usize,
    /// Point-to-point messages announced, not granted and not finished.
    pub(crate) point_announced: usize,
    /// In the engine's list of peers with something to send.
    pub(crate) dirty: bool,
}

impl Outbound {
    pub(crate) fn push_frame(&mut self, header: &Header, payload: Payload) {
        let len = header.payload_len as usize;
        self.framed += len;
        self.copies += usize::from(matches!(payload, Payload::Copy(_)));
        self.frames.push_back(Frame {
            header: header.encode(),
            header_sent: 0,
            payload,
            len,
            sent: 0,
        });
    }

    /// Puts messages that wait for credit in front again. Returns whether there were any.
    pub(crate) fn retry(&mut self) -> bool {
        let any = !self.waiting.is_empty();
        if any {
            self.waiting.append(&mut self.messages);
            std::mem::swap(&mut self.waiting, &mut self.messages);
        }
        any
    }

    /// Whether anything is left to be sent.
    pub(crate) fn is_busy(&self) -> bool {
        !self.frames.is_empty() || !self.messages.is_empty() || !self.waiting.is_empty()
    }

    /// Takes a group's messages and its operations' frames off the wire. A frame that is half written
    /// goes on, since the stream must stay in step, but without the operation's memory.
    pub(crate) fn drop_group(&mut self, group: u32, gone: impl Fn(OpKey) -> bool) {
        self.messages.retain(|message| message.group != group);
        self.waiting.retain(|message| message.group != group);
        let open = |m: &&Message| m.channel == POINT_CHANNEL && m.announced && !m.granted;
        self.point_announced = self.messages.iter().chain(&self.waiting).filter(open).count();
        let mut framed = 0;
        self.frames.retain_mut(|frame| {
            if frame.op().is_some_and(&gone) {
                if !frame.begun() {
                    return false;
                }
                frame.detach();
            }
            framed += frame.len;
            true
        });
        self.framed = framed;
    }

    /// Forgets everything: the peer is gone.
    pub(crate) fn clear(&mut self) {
        *self = Self { dirty: self.dirty, ..Self::default() };
    }

    /// Entries, and entries for which there is room.
    pub(crate) fn entries(&self) -> (usize, usize) {
        (
            self.messages.len() + self.waiting.len() + self.frames.len(),
            self.messages.capacity() + self.waiting.capacity() + self.frames.capacity(),
        )
    }
}

impl Engine {
    /// Notes that `peer` has something to send.
    pub(crate) fn mark_dirty(&mut self, peer: Peer) {
        let state = &mut self.peers[peer.index()];
        if !state.out.dirty {
            state.out.dirty = true;
            self.dirty.push(peer);
        }
    }

    /// Peers that got something to send since the last call.
    pub fn poll_dirty(&mut self) -> Option<Peer> {
        let peer = self.dirty.pop()?;
        self.peers[peer.index()].out.dirty = false;
        Some(peer)
    }

    /// Whether anything waits to be taken by the link to `peer`.
    #[must_use]
    pub fn has_outgoing(&self, peer: Peer) -> bool {
        self.peers[peer.index()].out.is_busy()
    }

    /// Whether anything waits for any link, blocked messages included.
    #[must_use]
    pub fn is_sending(&self) -> bool {
        self.peers.iter().any(|peer| !peer.closed && peer.out.is_busy())
    }

    /// Bytes waiting for `peer`, oldest first. The link says through [`Engine::sent`] how many it took.
    pub fn outgoing<'a>(&'a mut self, peer: Peer, slices: &mut Slices<'a>) {
        self.fill_frames(peer);
        let this: &'a Self = self;
        for frame in &this.peers[peer.index()].out.frames {
            if slices.len() + 2 > slices.inline_size() {
                break;
            }
            if frame.header_sent < HEADER_LEN {
                slices.push(IoSlice::new(&frame.header[frame.header_sent..]));
            }
            let mut from = frame.sent;
            while from < frame.len && slices.len() < slices.inline_size() {
                let run: &[u8] = match &frame.payload {
                    Payload::None => &[],
                    Payload::Loan { descriptor, .. } => &descriptor[from..],
                    Payload::Copy(bytes) => &bytes[from..],
                    Payload::Zeros => &ZEROS[..ZEROS.len().min(frame.len - from)],
                    Payload::Operation { op, at, offset } => match this.op(*op) {
                        Some(state) => {
                            let span = state.span(*at);
                            state.buffers.run(span, offset + from, frame.len - from)
                        }
                        None => &[],
                    },
                };
                if run.is_empty() {
                    return;
                }
                from += run.len();
                slices.push(IoSlice::new(run));
            }
            if from < frame.len {
                return;
            }
        }
    }

    /// The link took the first `bytes` of what [`Engine::outgoing`] named.
    pub fn sent(&mut self, peer: Peer, mut bytes: usize) {
        while bytes > 0 {
            let out = &mut self.peers[peer.index()].out;
            let Some(frame) = out.frames.front_mut() else { return };
            let head = bytes.min(HEADER_LEN - frame.header_sent);
            frame.header_sent += head;
            bytes -= head;
            let body = bytes.min(frame.len - frame.sent);
            frame.sent += body;
            bytes -= body;
            if frame.header_sent < HEADER_LEN || frame.sent < frame.len {
                return;
            }
            let Some(frame) = out.frames.pop_front() else { return };
            out.framed -= frame.len;
            match frame.payload {
                Payload::Operation { op, at, .. } => self.part_moved(op, at, frame.len),
                Payload::Copy(bytes) => {
                    out.copies -= 1;
                    self.spare.keep_held(bytes);
                }
                Payload::None | Payload::Loan { .. } | Payload::Zeros => {}
            }
        }
    }

    /// Cuts messages into frames while there is room and credit.
    fn fill_frames(&mut self, peer: Peer) {
        loop {
            let out = &mut self.peers[peer.index()].out;
            if out.frames.len() >= FRAMES_AHEAD || out.framed >= BYTES_AHEAD {
                return;
            }
            let Some(message) = out.messages.pop_front() else { return };
            match self.allowance(peer, &message) {
                Allowance::Wait => self.peers[peer.index()].out.waiting.push_back(message),
                allowance => self.frame_next(peer, message, allowance),
            }
        }
    }

    /// Frames the next piece of a message.
    fn frame_next(&mut self, peer: Peer, mut message: Message, allowance: Allowance) {
        let left = message.total - message.framed;
        let len = match allowance {
            _ if message.loan.is_some() => 0,
            Allowance::Free => left.min(self.config.frame_payload),
            Allowance::Eager(bytes) => left.min(self.config.frame_payload).min(bytes),
            Allowance::Announce | Allowance::Wait => 0,
        };
        let group = self.group_ref(message.group);
        let Some(rank) = group.rank_of(peer) else { return };
        let point = message.channel == POINT_CHANNEL;
        let mut header = Header {
            kind: Kind::Data,
            flags: match allowance {
                Allowance::Eager(_) if point => EAGER,
                Allowance::Announce => ANNOUNCE,
                _ => Flags::NONE,
            },
            group: group.id,
            epoch: group.epoch,
            src: self.me,
            channel: message.channel,
            seq: message.seq,
            fingerprint: message.fingerprint,
            slot: message.slot,
            offset: (message.framed as u64 / OFFSET_UNIT) as u32,
            xfer_len: message.total as u64,
            payload_len: len as u32,
        };
        let payload = match message.loan {
            Some(descriptor) => {
                header.kind = Kind::Loan;
                header.payload_len = LOAN_LEN as u32;
                if let Some(op) = self.op_mut(message.op) {
                    op.lanes[usize::from(message.at.lane)].moved[message.at.part as usize] = LENT;
                }
                Payload::Loan { op: message.op, descriptor }
            }
            None if allowance == Allowance::Announce => Payload::None,
            None => Payload::Operation { op: message.op, at: message.at, offset: message.framed },
        };
        let out = &mut self.peers[peer.index()].out;
        out.push_frame(&header, payload);
        if let Allowance::Eager(_) = allowance {
            let cost = len + FRAME_OVERHEAD;
            message.eager += len;
            if point {
                out.point_eager += cost;
                self.group_mut(message.group).point[rank.index()].eager += cost;
            } else {
                out.eager += cost;
                self.note_eager(peer, &message, cost);
            }
        }
        message.framed += len;
        let announced = allowance == Allowance::Announce;
        let finished = message.loan.is_some() || (message.framed == message.total && !announced);
        if point {
            let counted = message.announced && !message.granted;
            let counts = !finished && !message.granted;
            let count = &mut self.peers[peer.index()].out.point_announced;
            *count = *count + usize::from(counts) - usize::from(counted);
            if !message.announced {
                self.group_mut(message.group).point[rank.index()].announced += 1;
            }
        } else {
            self.note_told(peer, message.group, rank, message.channel, message.seq);
        }
        message.announced = true;
        if !finished {
            // Round robin: a long message does not hold up a short one behind it.
            self.peers[peer.index()].out.messages.push_back(message);
        }
    }

    /// How much of `message` may go now.
    pub(crate) fn allowance(&self, peer: Peer, message: &Message) -> Allowance {
        if message.channel == POINT_CHANNEL {
            return self.point_allowance(peer, message);
        }
        if self.is_confirmed(peer, message) {
            return Allowance::Free;
        }
        let used = self.peers[peer.index()].out.eager + FRAME_OVERHEAD;
        let Some(room) = self.config.eager_window.checked_sub(used) else { return Allowance::Wait };
        let bytes = self.config.eager_per_operation.saturating_sub(message.eager).min(room);
        let rest = if message.loan.is_some() { 0 } else { message.total - message.framed };
        piece(bytes, rest).unwrap_or(Allowance::Wait)
    }

    fn point_allowance(&self, peer: Peer, message: &Message) -> Allowance {
        let owner = self.group_ref(message.group);
        let Some(rank) = owner.rank_of(peer) else { return Allowance::Wait };
        if message.granted || owner.deaf[rank.index()] {
            return Allowance::Free;
        }
        let out = &self.peers[peer.index()].out;
        // Order within a tag: nothing overtakes a message that has not been announced.
        if !message.announced
            && (message.seq != owner.point[rank.index()].announced
                || out.point_announced >= POINT_ANNOUNCED_MAX)
        {
            return Allowance::Wait;
        }
        let used = out.point_eager + FRAME_OVERHEAD;
        let free = self.config.eager_window.checked_sub(used).and_then(|room| {
            let bytes = self.config.eager_per_operation.saturating_sub(message.eager).min(room);
            let rest = message.total - message.framed;
            // A message that was announced empty waits for its grant.
            if message.announced && rest == 0 { None } else { piece(bytes, rest) }
        });
        match free {
            Some(allowance) => allowance,
            None if message.announced => Allowance::Wait,
            None => Allowance::Announce,
        }
    }
}

/// What fits of `rest` bytes if `bytes` may go: all, or whole units.
fn piece(bytes: usize, rest: usize) -> Option<Allowance> {
    if rest <= bytes {
        return Some(Allowance::Eager(rest));
    }
    let whole = bytes / OFFSET_UNIT as usize * OFFSET_UNIT as usize;
    (whole > 0).then_some(Allowance::Eager(whole))
}

/// How much of a message may go now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Allowance {
    /// All of it: the peer is ready.
    Free,
    /// So many bytes, at the expense of the window.
    Eager(usize),
    /// Only word that it exists.
    Announce,
    /// Nothing until there is credit.
    Wait,
}
