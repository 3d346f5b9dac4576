//! The messages of a handshake as bytes.

use std::fmt;

use super::key::{HostHash, JobHash, Nonce, PROOF_LEN};
use super::{HandshakeError, Reject};
use crate::header::WIRE_VERSION;
use crate::limits::LANES_MAX;
use crate::peer::Peer;

/// Bytes of the responder's greeting.
pub const GREETING_LEN: usize = 32;
/// Bytes of a hello.
pub const HELLO_LEN: usize = 96;
/// Bytes of the initiator's hello with its proof.
pub const PROVEN_HELLO_LEN: usize = HELLO_LEN + PROOF_LEN;
/// Bytes of the responder's hello and verdict with its proof.
pub const VERDICT_LEN: usize = VERDICT_BODY_LEN + PROOF_LEN;
/// Bytes of a verdict that its proof covers.
pub(super) const VERDICT_BODY_LEN: usize = HELLO_LEN + 24;

/// First four bytes of every message of a handshake.
pub(super) const HANDSHAKE_MAGIC: [u8; 4] = *b"aHs1";
/// The only suite so far: HMAC-SHA256 over the transcript, no encryption afterwards.
pub(super) const SUITE_HMAC_SHA256: u8 = 1;

/// Which message it is: byte 5.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Stage {
    Greeting = 1,
    Hello = 2,
    Verdict = 3,
}

/// Bytes that every message starts with, in every version: magic, version, stage, suite, zero.
pub(super) const PREFIX_LEN: usize = 8;

pub(super) const fn prefix(stage: Stage) -> [u8; PREFIX_LEN] {
    let [a, b, c, d] = HANDSHAKE_MAGIC;
    [a, b, c, d, WIRE_VERSION, stage as u8, SUITE_HMAC_SHA256, 0]
}

/// Judges as much of the prefix as has come, so that a stray is recognised by its first bytes.
pub(super) fn check_prefix(bytes: &[u8], stage: Stage) -> Result<(), HandshakeError> {
    let magic_len = bytes.len().min(HANDSHAKE_MAGIC.len());
    if bytes[..magic_len] != HANDSHAKE_MAGIC[..magic_len] {
        return Err(HandshakeError::NotOurs);
    }
    let expected = prefix(stage);
    let differing = (magic_len..bytes.len().min(PREFIX_LEN)).find(|&i| bytes[i] != expected[i]);
    match differing {
        None => Ok(()),
        Some(4) => Err(HandshakeError::Version { mine: WIRE_VERSION, theirs: bytes[4] }),
        Some(5) => Err(HandshakeError::Malformed { field: "stage" }),
        Some(6) => Err(HandshakeError::Suite { mine: SUITE_HMAC_SHA256, theirs: bytes[6] }),
        Some(_) => Err(HandshakeError::Malformed { field: "prefix" }),
    }
}

/// What a connection is for. It is part of what both sides prove.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Pings, poison, goodbyes.
    Control,
    /// Operations, on this one of several connections, counted from 0.
    Data {
        /// Which one, below [`LANES_MAX`].
        lane: u8,
    },
}

impl Purpose {
    fn encode(self) -> [u8; 2] {
        match self {
            Self::Control => [1, 0],
            Self::Data { lane } => [2, lane],
        }
    }

    fn decode(bytes: [u8; 2]) -> Option<Self> {
        match bytes {
            [1, 0] => Some(Self::Control),
            [2, lane] if lane < LANES_MAX => Some(Self::Data { lane }),
            _ => None,
        }
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Control => f.write_str("control"),
            Self::Data { lane } => write!(f, "data lane {lane}"),
        }
    }
}

/// Who a process is, on all its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The job.
    pub job: JobHash,
    /// The generation of the mesh.
    pub epoch: u32,
    /// This process's place in the mesh, below `world`.
    pub me: Peer,
    /// Processes of the mesh.
    pub world: u32,
    /// Data connections between each pair, 1 to [`LANES_MAX`].
    pub lanes: u8,
    /// This process's id, for messages.
    pub pid: u32,
    /// This process's host, for messages.
    pub host: HostHash,
}

/// What one side says about itself and about the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Hello {
    /// What the connection is for.
    pub purpose: Purpose,
    /// Data connections between each pair, as configured there.
    pub lanes: u8,
    /// The generation of the mesh.
    pub epoch: u32,
    /// Who speaks.
    pub src: Peer,
    /// Who is meant.
    pub dst: Peer,
    /// Processes of the mesh, as configured there.
    pub world: u32,
    /// The speaker's process id.
    pub pid: u32,
    /// The speaker's host.
    pub host: HostHash,
    /// The job.
    pub job: JobHash,
    /// The speaker's nonce.
    pub nonce: Nonce,
}

impl Hello {
    pub(super) fn new(who: &Identity, dst: Peer, purpose: Purpose, nonce: Nonce) -> Self {
        Self {
            purpose,
            lanes: who.lanes,
            epoch: who.epoch,
            src: who.me,
            dst,
            world: who.world,
            pid: who.pid,
            host: who.host,
            job: who.job,
            nonce,
        }
    }

    pub(super) fn encode(&self, stage: Stage) -> [u8; HELLO_LEN] {
        let mut out = [0; HELLO_LEN];
        out[0..8].copy_from_slice(&prefix(stage));
        out[8..10].copy_from_slice(&self.purpose.encode());
        out[10] = self.lanes;
        out[12..16].copy_from_slice(&self.epoch.to_le_bytes());
        out[16..20].copy_from_slice(&self.src.0.to_le_bytes());
        out[20..24].copy_from_slice(&self.dst.0.to_le_bytes());
        out[24..28].copy_from_slice(&self.world.to_le_bytes());
        out[28..32].copy_from_slice(&self.pid.to_le_bytes());
        out[32..40].copy_from_slice(&self.host.0);
        out[40..56].copy_from_slice(&self.job.0);
        out[56..72].copy_from_slice(&self.nonce.0);
        out
    }

    /// Reads a hello whose prefix was judged.
    pub(super) fn decode(bytes: &[u8; HELLO_LEN]) -> Result<Self, HandshakeError> {
        let u32_at = |at| u32::from_le_bytes(array_at(bytes, at));
        let malformed = |field| HandshakeError::Malformed { field };
        let purpose = Purpose::decode([bytes[8], bytes[9]]).ok_or(malformed("purpose"))?;
        let lanes = bytes[10];
        if lanes == 0 || lanes > LANES_MAX {
            return Err(malformed("lanes"));
        }
        if bytes[11] != 0 || bytes[72..].iter().any(|&byte| byte != 0) {
            return Err(malformed("reserved bytes"));
        }
        Ok(Self {
            purpose,
            lanes,
            epoch: u32_at(12),
            src: Peer(u32_at(16)),
            dst: Peer(u32_at(20)),
            world: u32_at(24),
            pid: u32_at(28),
            host: HostHash(array_at(bytes, 32)),
            job: job_of(bytes),
            nonce: Nonce(array_at(bytes, 56)),
        })
    }
}

/// The job of a hello, which is compared before anything is proved.
pub(super) fn job_of(bytes: &[u8; HELLO_LEN]) -> JobHash {
    JobHash(array_at(bytes, 40))
}

pub(super) fn encode_greeting(nonce: Nonce) -> [u8; GREETING_LEN] {
    let mut out = [0; GREETING_LEN];
    out[0..8].copy_from_slice(&prefix(Stage::Greeting));
    out[8..24].copy_from_slice(&nonce.0);
    out
}

/// A greeting holds nothing but a nonce, which counts as transcript bytes only.
pub(super) fn check_greeting(bytes: &[u8; GREETING_LEN]) -> Result<(), HandshakeError> {
    if bytes[24..].iter().any(|&byte| byte != 0) {
        return Err(HandshakeError::Malformed { field: "reserved bytes" });
    }
    Ok(())
}

/// The part of a verdict that is proved. Without `hello` it tells nothing about the job.
pub(super) fn encode_verdict(
    hello: Option<&Hello>,
    reject: Option<Reject>,
) -> [u8; VERDICT_BODY_LEN] {
    let mut out = [0; VERDICT_BODY_LEN];
    match hello {
        Some(hello) => out[..HELLO_LEN].copy_from_slice(&hello.encode(Stage::Verdict)),
        None => out[..PREFIX_LEN].copy_from_slice(&prefix(Stage::Verdict)),
    }
    if let Some(reject) = reject {
        out[HELLO_LEN..].copy_from_slice(&reject.encode());
    }
    out
}

pub(super) fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    std::array::from_fn(|i| bytes[at + i])
}

/// Collects one message of a fixed size.
#[derive(Clone, Copy)]
pub(super) struct Inbox<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Inbox<N> {
    pub(super) const fn new() -> Self {
        Self { bytes: [0; N], len: 0 }
    }

    /// Takes what is missing from the front of `input`; returns how much it took.
    pub(super) fn fill(&mut self, input: &[u8]) -> usize {
        let taken = input.len().min(N - self.len);
        self.bytes[self.len..self.len + taken].copy_from_slice(&input[..taken]);
        self.len += taken;
        taken
    }

    pub(super) fn so_far(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    pub(super) fn whole(&self) -> Option<&[u8; N]> {
        (self.len == N).then_some(&self.bytes)
    }
}

impl<const N: usize> fmt::Debug for Inbox<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {N} bytes in", self.len)
    }
}

/// Holds one message of at most `N` bytes until it is written.
#[derive(Clone, Copy)]
pub(super) struct Outbox<const N: usize> {
    bytes: [u8; N],
    sent: usize,
    len: usize,
}

impl<const N: usize> Outbox<N> {
    pub(super) const fn new() -> Self {
        Self { bytes: [0; N], sent: 0, len: 0 }
    }

    /// Appends behind what is still unsent. Both messages of a responder fit beside each other.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    pub(super) fn unsent(&self) -> &[u8] {
        &self.bytes[self.sent..self.len]
    }

    /// Everything that was pushed, sent or not.
    pub(super) fn all(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    pub(super) fn sent(&mut self, bytes: usize) {
        self.sent = (self.sent + bytes).min(self.len);
    }
}

impl<const N: usize> fmt::Debug for Outbox<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} bytes out", self.sent, self.len)
    }
}
