//! Every bound of the protocol, by name.
//!
//! A length on the wire is compared with one of these before it is used for anything.

/// Bytes of a frame's header: one cache line.
pub const HEADER_LEN: usize = 64;

/// Bytes of the optional CRC32C after a payload.
pub const PAYLOAD_CRC_LEN: usize = 4;

/// Payload bytes of a frame unless a link is configured otherwise (1 MiB).
///
/// Large enough that a header costs nothing, small enough that a frame never delays the next
/// operation's by more than a fraction of a millisecond on a fast link.
pub const PAYLOAD_MAX: u32 = 1 << 20;

/// Payload bytes no frame exceeds, whatever the configuration (16 MiB).
pub const PAYLOAD_CAP: u32 = 16 << 20;

/// Bytes of one whole transfer (256 GiB): what a 32-bit offset in units of [`OFFSET_UNIT`] reaches.
pub const TRANSFER_MAX: u64 = 1 << 38;

/// Bytes that [`Header::offset`](crate::Header::offset) counts in.
pub const OFFSET_UNIT: u64 = 64;

/// Payload bytes of a control frame (ping, poison, goodbye, describe).
pub const CONTROL_PAYLOAD_MAX: usize = 1024;

/// Bytes of a whole control frame: header, payload and payload CRC.
pub const CONTROL_FRAME_MAX: usize = HEADER_LEN + CONTROL_PAYLOAD_MAX + PAYLOAD_CRC_LEN;

/// Bytes of an encoded [`Loan`](crate::Loan).
pub const LOAN_LEN: usize = 32;

/// Bytes of an encoded [`Descriptor`](crate::Descriptor).
pub const DESCRIPTOR_MAX: usize = 256;

/// Dimensions a [`Descriptor`](crate::Descriptor) holds.
pub const SHAPE_MAX: usize = 8;

/// Bytes of a user's label in a [`Descriptor`](crate::Descriptor).
pub const LABEL_MAX: usize = 64;

/// Bytes of an encoded [`Report`](crate::Report).
pub const REPORT_MAX: usize = CONTROL_PAYLOAD_MAX;

/// Culprits a [`Report`](crate::Report) lists by name; of more it keeps the number.
pub const CULPRITS_MAX: usize = 16;

/// Bytes of the text in a [`Report`](crate::Report).
pub const REPORT_TEXT_MAX: usize = 256;

/// Channels whose progress one [`Ping`](crate::Ping) carries.
pub const PING_PROGRESS_MAX: usize = 32;

/// Ranks of the largest mesh: what the 17 bits of a fingerprint's root can name.
pub const WORLD_MAX: u32 = 0x1_FFFF;

/// Data connections between one pair of ranks.
pub const LANES_MAX: u8 = 16;
