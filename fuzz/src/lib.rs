//! What the fuzz targets share: reading instructions off the input, repairing checksums and
//! proofs, and a naive reader to compare with.
//!
//! A fuzzer cannot guess a CRC, let alone a MAC. So each input starts with a few bytes of
//! instructions: one of them may ask for the right checksum or proof to be filled in, which opens
//! the code behind it. What must never pass *without* it is asserted.

use allhands_wire::{
    Flags, FrameError, HEADER_LEN, Header, HostHash, Identity, JobHash, JobKey, Kind, Lane, Nonce,
    Peer, payload_crc,
};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Instructions at the front of an input, then the bytes to be read.
pub struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    /// Starts at the front.
    pub fn new(data: &'a [u8]) -> Self {
        Self { rest: data }
    }

    /// The next byte of instructions; 0 at the end.
    pub fn byte(&mut self) -> u8 {
        match self.rest.split_first() {
            Some((&byte, rest)) => {
                self.rest = rest;
                byte
            }
            None => 0,
        }
    }

    /// One to eight sizes of pieces, each 1 to 256 bytes.
    pub fn sizes(&mut self) -> Vec<usize> {
        let count = usize::from(self.byte() % 8) + 1;
        (0..count).map(|_| usize::from(self.byte()) + 1).collect()
    }

    /// What is left.
    pub fn rest(self) -> &'a [u8] {
        self.rest
    }
}

/// Cuts `bytes` into pieces of these sizes, over and over.
pub fn pieces<'a>(bytes: &'a [u8], sizes: &'a [usize]) -> impl Iterator<Item = &'a [u8]> {
    let mut sizes = sizes.iter().copied().cycle();
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let size = sizes.next()?.min(rest.len());
        let (piece, later) = rest.split_at(size);
        rest = later;
        (!piece.is_empty()).then_some(piece)
    })
}

/// Puts the right checksum on a header.
pub fn repair_header(bytes: &mut [u8; HEADER_LEN]) {
    let crc = crc32c::crc32c(&bytes[..60]);
    bytes[60..].copy_from_slice(&crc.to_le_bytes());
}

/// Puts the right checksums on a stream of frames, as far as it can be followed.
pub fn repair_stream(mut bytes: &mut [u8]) {
    while let Some((head, rest)) = bytes.split_first_chunk_mut::<HEADER_LEN>() {
        repair_header(head);
        let Ok(header) = Header::decode(head) else { return };
        let Some((body, later)) = rest.split_at_mut_checked(header.body_len()) else { return };
        let (payload, trailer) = body.split_at_mut(header.payload_len as usize);
        if header.flags.contains(Flags::PAYLOAD_CRC) {
            trailer.copy_from_slice(&payload_crc(payload));
        }
        bytes = later;
    }
}

/// Frames as the naive reader keeps them, and why it stopped before the end.
pub type Read = (Vec<(Header, Vec<u8>)>, Option<FrameError>);

/// Reads a whole stream that is in memory, the slow and simple way.
pub fn read_naively(mut bytes: &[u8], lane: Lane, limit: u32) -> Read {
    let mut frames = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<HEADER_LEN>() {
        let header = match Header::decode(head) {
            Ok(header) => header,
            Err(error) => return (frames, Some(error.into())),
        };
        let (kind, len) = (header.kind, header.payload_len);
        let bare_goodbye = kind == Kind::Goodbye && len == 0;
        if kind.lane() != lane && !bare_goodbye {
            return (frames, Some(FrameError::WrongLane { kind, lane }));
        }
        if len > limit {
            return (frames, Some(FrameError::PayloadTooLong { kind, len, limit }));
        }
        let Some((body, later)) = rest.split_at_checked(header.body_len()) else { break };
        let (payload, trailer) = body.split_at(len as usize);
        if let Ok(sent) = <[u8; 4]>::try_from(trailer)
            && sent != payload_crc(payload)
        {
            let (sent, computed) = (u32::from_le_bytes(sent), crc32c::crc32c(payload));
            return (frames, Some(FrameError::PayloadChecksum { kind, sent, computed }));
        }
        frames.push((header, payload.to_vec()));
        bytes = later;
    }
    (frames, None)
}

/// The secret of the fuzzed job.
pub const KEY: [u8; 32] = [7; 32];
/// The responder's nonce.
pub const RESPONDER_NONCE: Nonce = Nonce([1; 16]);
/// The initiator's nonce.
pub const INITIATOR_NONCE: Nonce = Nonce([2; 16]);

/// The same as a key.
pub fn key() -> JobKey {
    JobKey::new(KEY)
}

/// Peer `me` of the fuzzed job.
pub fn identity(me: u32) -> Identity {
    Identity {
        job: JobHash::of("fuzz"),
        epoch: 3,
        me: Peer(me),
        world: 4,
        lanes: 2,
        pid: 100 + me,
        host: HostHash::of(b"host"),
    }
}

/// The proof of `role` (1 initiator, 2 responder) as the documentation defines it, written
/// independently of the crate.
pub fn prove(role: u8, transcript: &[&[u8]]) -> [u8; 32] {
    let mut block = [0; 64];
    block[..32].copy_from_slice(&KEY);
    let mut mac = <Hmac<Sha256> as KeyInit>::new(&block.into());
    mac.update(b"allhands handshake 1");
    mac.update(&[role]);
    for part in transcript {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}
