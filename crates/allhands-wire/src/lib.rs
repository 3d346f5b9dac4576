//! Bytes and their meaning: the header of every message between two ranks, the handshake before
//! the first, and the few messages that tell of life, death and disagreement.
//!
//! The crate is pure. It takes bytes and yields bytes (`handle_*` in, `poll_*` out), knows no
//! socket, no clock, no thread and no source of randomness, and depends on no other crate of
//! allhands. What it promises to its caller:
//!
//! - No input panics.
//! - Nothing is allocated before a peer is authenticated, and never by a length on the wire.
//! - Input may be split anywhere.
//! - What is accepted keeps every [limit](#limits) and has exactly one encoding.
//!
//! # Header
//!
//! Sixty-four bytes, one cache line, little-endian, in front of every payload:
//!
//! | at | type | field | why it travels |
//! |---|---|---|---|
//! | 0 | u32 | magic `aHc1` | a stranger or a lost frame boundary shows at once |
//! | 4 | u8 | version, 1 | two builds in one job are told apart, not misread |
//! | 5 | u8 | [`Kind`] | |
//! | 6 | u16 | [`Flags`] | bits 0–7 are defined here, 8–15 by the layer above |
//! | 8 | u32 | group | many groups share one connection |
//! | 12 | u32 | epoch | a frame of an older generation of the mesh dies here |
//! | 16 | u32 | source [`Peer`] | compared with the rank that the handshake proved |
//! | 20 | u32 | channel | independent streams of operations keep their own order |
//! | 24 | u64 | sequence number | which operation of the channel; it never wraps |
//! | 32 | u64 | [`Fingerprint`] | a mismatch is an error at the first message, on both sides |
//! | 40 | u32 | slot | which message of this pair in the operation; point-to-point: tag |
//! | 44 | u32 | offset, in units of 64 bytes | large transfers are cut, and cuts may interleave |
//! | 48 | u64 | transfer length in bytes | must *equal* what was posted: nothing is truncated |
//! | 56 | u32 | payload length in bytes | |
//! | 60 | u32 | CRC32C of bytes 0–59 | a flipped bit never lands data in the wrong place |
//!
//! The payload follows, and after it, with [`Flags::PAYLOAD_CRC`], its CRC32C in four bytes. One
//! packet in 16 million to 10 billion is damaged in a way that TCP's own checksum misses (Stone and
//! Partridge, "When the CRC and TCP checksum disagree", SIGCOMM 2000).
//!
//! [`Header::decode`] judges in the order checksum, magic, version, kind, flags, lengths. The
//! caller then compares, before a byte touches a user's buffer: source with the authenticated
//! rank, group and epoch with the connection, sequence with its window, fingerprint with the
//! posted operation, transfer length with the posted length.
//!
//! Offsets count units of 64 bytes so that 32 bits reach 256 GiB; a chunk that is not the last of
//! its transfer is therefore a multiple of 64 bytes long.
//!
//! # Handshake
//!
//! Three messages, each of one fixed size, on every connection:
//!
//! | | direction | bytes | content |
//! |---|---|---|---|
//! | greeting | responder → initiator | [`GREETING_LEN`] | the responder's nonce |
//! | hello | initiator → responder | [`PROVEN_HELLO_LEN`] | who, whom, job, epoch, world, purpose, nonce; proof |
//! | verdict | responder → initiator | [`VERDICT_LEN`] | the same of the responder; granted or the reason why not; proof |
//!
//! A proof is the HMAC-SHA256, under the [`JobKey`], of a label, a byte for the role, and every
//! byte that both sides sent before it. It follows that
//!
//! - both sides have proved the key, to each other and for this connection, before it is used;
//! - a recorded handshake proves nothing again, because each side's nonce is in both proofs;
//! - a proof cannot be reflected (the role differs) nor carried to another rank, purpose, lane,
//!   epoch or job (all are in the hello);
//! - **the responder proves nothing to a stranger.** It speaks first, but only a nonce; its first
//!   proof answers a proof. Who merely connects cannot make it compute a MAC for him, and cannot
//!   learn job, rank or host from it. This is why the responder greets: with the initiator first,
//!   either its request is answered by a proof for anybody, or a fourth message is needed;
//! - the caller grants the rank's place in [`Decision::grant`], after the proof and never before,
//!   so no replay or stranger displaces a rank.
//!
//! Of the reasons in [`Reject`] only four are told to whoever has proved nothing: another job,
//! another version, another suite, wrong key. A stray that does not even speak the protocol is
//! known by its first bytes and gets no answer.
//!
//! What the handshake does not do: it neither encrypts nor signs what follows it. It keeps strays,
//! crossed jobs and stale generations out, and, with a configured key, everybody who does not hold
//! it; somebody who can rewrite packets in flight can still take over a connection. A key that
//! anybody can read, from a store say, authenticates nobody.
//!
//! <details><summary>Bytes of the three messages</summary>
//!
//! All start with magic `aHs1` (4), version (1), stage 1, 2 or 3 (1), suite (1), zero (1).
//!
//! | at | greeting (32) | hello (96) in message 2 and 3 |
//! |---|---|---|
//! | 8 | nonce, 16 | purpose: 1 control, 2 data; lane; number of lanes; zero |
//! | 12 | | epoch u32 |
//! | 16 | | source u32, destination u32, world size u32, process id u32 |
//! | 24 | zero, 8 | |
//! | 32 | | host hash, 8 |
//! | 40 | | job hash, 16 |
//! | 56 | | nonce, 16 |
//! | 72 | | zero, 24 |
//!
//! The initiator's proof stands at 96. In the verdict, 96 is the code (0: granted), 97–99 zero,
//! 100 and 104 two u32 of details, 108 a host hash, 116–119 zero, and the proof stands at 120.
//! A verdict that needs no proof has zeros for the responder's hello and for the proof.
//! </details>
//!
//! # Control messages
//!
//! [`Message`] is what a control connection carries: [`Ping`] with progress, [`Report`] for a
//! broken group, [`Goodbye`], [`Describe`]. Control connections are apart from data connections, so
//! that none of this ever queues behind bulk data. [`FrameDecoder`] reads them in 1 KiB of memory.
//!
//! # Limits
//!
//! Every bound is a constant with a reason: [`PAYLOAD_MAX`], [`PAYLOAD_CAP`], [`TRANSFER_MAX`],
//! [`CONTROL_PAYLOAD_MAX`], [`DESCRIPTOR_MAX`], [`SHAPE_MAX`], [`LABEL_MAX`], [`REPORT_MAX`],
//! [`CULPRITS_MAX`], [`REPORT_TEXT_MAX`], [`PING_PROGRESS_MAX`], [`WORLD_MAX`], [`LANES_MAX`].

#![forbid(unsafe_code)]

mod bytes;
mod control;
mod descriptor;
mod error;
mod fingerprint;
mod frame;
mod handshake;
mod header;
mod limits;
mod peer;
mod report;
mod text;

pub use control::{
    Address, ControlFrame, Describe, Goodbye, Loan, Message, Ping, Progress, payload_crc,
};
pub use descriptor::{Descriptor, Dims};
pub use error::{FrameError, PayloadError, WireError};
pub use fingerprint::{Differences, Field, Fingerprint, FingerprintParts};
pub use frame::{Frame, FrameDecoder};
pub use handshake::{
    Decision, GREETING_LEN, HELLO_LEN, HandshakeError, HandshakeState, Hello, HostHash, Identity,
    Incumbent, Initiator, JobHash, JobKey, KeyError, Nonce, PROVEN_HELLO_LEN, Purpose, Reject,
    Responder, VERDICT_LEN,
};
pub use header::{FRAME_MAGIC, Flags, Header, HeaderError, Kind, Lane, WIRE_VERSION};
pub use limits::*;
pub use peer::Peer;
pub use report::{Cause, Culprits, Merged, Report, Testimony};
pub use text::Text;

/// The README's example, compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
