//! What goes out: messages of active sends, cut into frames, under credit.

use std::collections::VecDeque;
use std::io::IoSlice;

use allhands_wire::{Fingerprint, Flags, HEADER_LEN, Header, Kind, LOAN_LEN, OFFSET_UNIT, Peer};
use smallvec::SmallVec;

use crate::config::{BYTES_AHEAD, FRAME_OVERHEAD, FRAMES_AHEAD, POINT_ANNOUNCED_MAX};
use crate::engine::Engine;
use crate::op::{OpKey, PartAt};

/// Channel number of point-to-point frames; no stream of collectives may use it.
pub const POINT_CHANNEL: u32 = u32::MAX;

/// Flag of a point-to-point credit: message `seq` is matched, all of it may come.
pub(crate) const GRANT: Flags = Flags::upper(1);

/// Flag of a point-to-point frame that was sent without a grant: its room in the window is given back
/// when the message is matched.
pub(crate) const EAGER: Flags = Flags::upper(2);

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
    Inline([u8; LOAN_LEN]),
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

    pub(crate) fn of(&self, op: OpKey) -> bool {
        matches!(self.payload, Payload::Operation { op: own, .. } if own == op)
    }

    /// Forgets the operation's memory.
    pub(crate) fn detach(&mut self) {
        self.payload = Payload::Zeros;
    }
}

static ZEROS: [u8; 4096] = [0; 4096];

#[derive(Debug, Default)]
pub(crate) struct Outbound {
    pub(crate) messages: VecDeque<Message>,
    pub(crate) frames: VecDeque<Frame>,
    /// Payload bytes in `frames`.
    framed: usize,
    /// Bytes under way for operations that the peer is not known to have submitted.
    pub(crate) eager: usize,
    /// The same for point-to-point messages.
    pub(crate) point_eager: usize,
    /// Point-to-point messages announced and not granted.
    pub(crate) point_announced: usize,
    /// In the engine's list of peers with something to send.
    pub(crate) dirty: bool,
}

impl Outbound {
    pub(crate) fn push_frame(&mut self, header: &Header, payload: Payload) {
        let len = header.payload_len as usize;
        self.framed += len;
        self.frames.push_back(Frame {
            header: header.encode(),
            header_sent: 0,
            payload,
            len,
            sent: 0,
        });
    }

    pub(crate) fn drop_frames(&mut self, gone: impl Fn(&Frame) -> bool) {
        let mut kept = VecDeque::with_capacity(self.frames.len());
        for mut frame in self.frames.drain(..) {
            if !gone(&frame) {
                kept.push_back(frame);
            } else if frame.begun() {
                frame.detach();
                kept.push_back(frame);
            } else {
                self.framed -= frame.len;
            }
        }
        self.frames = kept;
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
        let out = &self.peers[peer.index()].out;
        !out.frames.is_empty() || !out.messages.is_empty()
    }

    /// Whether anything waits for any link, blocked messages included.
    #[must_use]
    pub fn is_sending(&self) -> bool {
        self.peers
            .iter()
            .any(|p| !p.closed && (!p.out.frames.is_empty() || !p.out.messages.is_empty()))
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
                    Payload::Inline(bytes) => &bytes[from..],
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
            if let Payload::Operation { op, at, .. } = frame.payload {
                self.part_moved(op, at, frame.len);
            }
        }
    }

    /// Cuts waiting messages into frames while there is room and credit.
    fn fill_frames(&mut self, peer: Peer) {
        let mut blocked = 0;
        loop {
            let out = &self.peers[peer.index()].out;
            if out.frames.len() >= FRAMES_AHEAD
                || out.framed >= BYTES_AHEAD
                || blocked >= out.messages.len()
            {
                return;
            }
            if self.frame_front(peer) {
                blocked = 0;
            } else {
                blocked += 1;
            }
        }
    }

    /// Frames the next piece of the first message, or moves the message to the back if it may not go on.
    fn frame_front(&mut self, peer: Peer) -> bool {
        let Some(mut message) = self.peers[peer.index()].out.messages.pop_front() else {
            return false;
        };
        let allowed = self.allowance(peer, &message);
        let Some(allowed) = allowed else {
            self.peers[peer.index()].out.messages.push_back(message);
            return false;
        };
        let len = match message.loan {
            Some(_) => 0,
            None => {
                (message.total - message.framed).min(self.config.frame_payload).min(allowed.bytes)
            }
        };
        let group = self.group_ref(message.group);
        let mut header = Header {
            kind: Kind::Data,
            flags: Flags::NONE,
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
        if allowed.eager && message.channel == POINT_CHANNEL {
            header.flags = EAGER;
        }
        let payload = match message.loan {
            Some(descriptor) => {
                header.kind = Kind::Loan;
                header.payload_len = LOAN_LEN as u32;
                Payload::Inline(descriptor)
            }
            None if len == 0 && message.total > 0 => Payload::None,
            None => Payload::Operation { op: message.op, at: message.at, offset: message.framed },
        };
        let out = &mut self.peers[peer.index()].out;
        out.push_frame(&header, payload);
        if allowed.eager {
            let cost = len + FRAME_OVERHEAD;
            message.eager += len;
            if message.channel == POINT_CHANNEL {
                out.point_eager += cost;
            } else {
                out.eager += cost;
                self.note_eager(peer, &message, cost);
            }
        }
        if message.channel != POINT_CHANNEL {
            self.note_sent(peer, message.group, message.channel, message.seq);
        } else if !message.announced && !message.granted {
            self.peers[peer.index()].out.point_announced += 1;
        }
        message.announced = true;
        message.framed += len;
        let finished = message.loan.is_some() || message.framed == message.total;
        let out = &mut self.peers[peer.index()].out;
        if finished {
            if message.channel == POINT_CHANNEL {
                out.point_announced -= usize::from(!message.granted);
            }
        } else {
            // Round robin: a long message does not hold up a short one behind it.
            out.messages.push_back(message);
        }
        true
    }

    /// How much of `message` may go now; `None` if it must wait for credit.
    fn allowance(&self, peer: Peer, message: &Message) -> Option<Allowance> {
        let out = &self.peers[peer.index()].out;
        let unit = OFFSET_UNIT as usize;
        if message.channel == POINT_CHANNEL {
            if message.granted {
                return Some(Allowance { bytes: usize::MAX, eager: false });
            }
            // Order within a tag: nothing overtakes a message that has not been announced.
            let earlier = out.messages.iter().any(|other| {
                other.channel == POINT_CHANNEL
                    && other.group == message.group
                    && !other.announced
                    && other.seq < message.seq
            });
            if earlier || (!message.announced && out.point_announced >= POINT_ANNOUNCED_MAX) {
                return None;
            }
            let left = self.config.eager_per_operation.saturating_sub(message.eager);
            let room = self.config.eager_window.saturating_sub(out.point_eager + FRAME_OVERHEAD);
            let bytes = left.min(room) / unit * unit;
            let whole = message.total - message.framed <= left.min(room);
            if bytes > 0 || whole {
                return Some(Allowance {
                    bytes: if whole { usize::MAX } else { bytes },
                    eager: true,
                });
            }
            // The window is full: announce the message without a payload, so that it can be matched.
            return (!message.announced).then_some(Allowance { bytes: 0, eager: false });
        }
        if self.is_confirmed(peer, message) {
            return Some(Allowance { bytes: usize::MAX, eager: false });
        }
        let left = self.config.eager_per_operation.saturating_sub(message.eager);
        let room = self.config.eager_window.saturating_sub(out.eager + FRAME_OVERHEAD);
        let bytes = left.min(room);
        if message.loan.is_some() || message.total - message.framed <= bytes {
            return (room > 0).then_some(Allowance { bytes: usize::MAX, eager: true });
        }
        let bytes = bytes / unit * unit;
        (bytes > 0).then_some(Allowance { bytes, eager: true })
    }
}

struct Allowance {
    bytes: usize,
    eager: bool,
}
