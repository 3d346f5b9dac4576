use std::fmt;

use crate::fingerprint::Fingerprint;
use crate::limits::{
    CONTROL_PAYLOAD_MAX, HEADER_LEN, LOAN_LEN, OFFSET_UNIT, PAYLOAD_CAP, PAYLOAD_CRC_LEN,
    TRANSFER_MAX,
};
use crate::peer::Peer;

/// First four bytes of every frame: `aHc1`.
pub const FRAME_MAGIC: u32 = u32::from_le_bytes(*b"aHc1");

/// Version of the frame format and of the handshake.
pub const WIRE_VERSION: u8 = 1;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Bytes of one transfer of one operation.
    Data = 1,
    /// All operations up to `seq` on `channel` are submitted at the sender: their data may come.
    /// It has no payload; its transfer length may say how many bytes of room are given back.
    Credit = 2,
    /// Where the receiver may read a transfer in place; the payload is a [`Loan`](crate::Loan).
    Loan = 3,
    /// The loan of the same (group, epoch, channel, seq, slot, offset) was read and is given back.
    LoanReturn = 4,
    /// Sign of life with progress: [`Ping`](crate::Ping).
    Ping = 16,
    /// The group is broken, and why: [`Report`](crate::Report).
    Poison = 17,
    /// The sender leaves in order: [`Goodbye`](crate::Goodbye). As the last frame of a data
    /// connection it has no payload.
    Goodbye = 18,
    /// Asks for or tells the full description of an operation: [`Describe`](crate::Describe).
    Describe = 19,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 8] = [
        Self::Data,
        Self::Credit,
        Self::Loan,
        Self::LoanReturn,
        Self::Ping,
        Self::Poison,
        Self::Goodbye,
        Self::Describe,
    ];

    /// The code on the wire.
    #[inline]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The kind with this code on the wire.
    #[inline]
    pub const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::Data,
            2 => Self::Credit,
            3 => Self::Loan,
            4 => Self::LoanReturn,
            16 => Self::Ping,
            17 => Self::Poison,
            18 => Self::Goodbye,
            19 => Self::Describe,
            _ => return None,
        })
    }

    /// The connection whose messages these are. A goodbye without payload also ends a data
    /// connection.
    #[inline]
    pub const fn lane(self) -> Lane {
        match self {
            Self::Data | Self::Credit | Self::Loan | Self::LoanReturn => Lane::Data,
            Self::Ping | Self::Poison | Self::Goodbye | Self::Describe => Lane::Control,
        }
    }

    /// The name in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Credit => "credit",
            Self::Loan => "loan",
            Self::LoanReturn => "loan return",
            Self::Ping => "ping",
            Self::Poison => "poison",
            Self::Goodbye => "goodbye",
            Self::Describe => "describe",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The two sorts of connection between a pair of ranks.
///
/// They are apart so that a sign of life or a poison never queues behind bulk data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Carries operations.
    Data,
    /// Carries pings, poison, goodbyes and descriptions.
    Control,
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Data => "data",
            Self::Control => "control",
        })
    }
}

/// Sixteen flags of a frame.
///
/// Bits 0–7 are this crate's, and unknown ones are refused. Bits 8–15 belong to the layer above
/// and pass through unjudged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Flags(u16);

impl Flags {
    /// No flag.
    pub const NONE: Self = Self(0);
    /// A CRC32C of the payload follows the payload.
    pub const PAYLOAD_CRC: Self = Self(1);

    const KNOWN: u16 = 0xFF00 | Self::PAYLOAD_CRC.0;

    /// Flags of the layer above, in bits 8–15.
    #[inline]
    pub const fn upper(bits: u8) -> Self {
        Self((bits as u16) << 8)
    }

    /// The bits of the layer above.
    #[inline]
    pub const fn upper_bits(self) -> u8 {
        (self.0 >> 8) as u8
    }

    /// These flags and those of `other`.
    #[inline]
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all flags of `other` are set.
    #[inline]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The bits as they travel.
    #[inline]
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// Flags from the wire; `None` if this version does not know one of them.
    #[inline]
    pub const fn from_bits(bits: u16) -> Option<Self> {
        if bits & !Self::KNOWN != 0 { None } else { Some(Self(bits)) }
    }
}

/// The 64 bytes in front of every payload. The layout stands in the [crate documentation](crate).
///
/// `Header::default()` is an empty data frame, to be filled in with struct update syntax.
///
/// ```
/// use allhands_wire::{Header, Kind, Peer};
///
/// let header = Header {
///     kind: Kind::Data,
///     src: Peer(2),
///     seq: 7,
///     offset: 1, // 64 bytes into the transfer
///     xfer_len: 100,
///     payload_len: 36,
///     ..Header::default()
/// };
/// let bytes = header.encode();
/// assert_eq!(Header::decode(&bytes)?, header);
///
/// let mut flipped = bytes;
/// flipped[40] ^= 1;
/// assert!(Header::decode(&flipped).is_err());
/// # Ok::<(), allhands_wire::HeaderError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Header {
    /// What the frame is.
    pub kind: Kind,
    /// Its flags.
    pub flags: Flags,
    /// The group the operation belongs to.
    pub group: u32,
    /// The generation of the mesh; a frame of an older one is refused above.
    pub epoch: u32,
    /// The sender, which the receiver compares with the rank its handshake proved.
    pub src: Peer,
    /// The independent stream of operations within the group.
    pub channel: u32,
    /// The operation's number on its channel.
    pub seq: u64,
    /// What the sender believes this operation is.
    pub fingerprint: Fingerprint,
    /// Which message of this pair in this operation; point-to-point: the low 32 bits of the tag.
    pub slot: u32,
    /// Where in the transfer the payload starts, in units of [`OFFSET_UNIT`] bytes.
    pub offset: u32,
    /// Bytes of the whole transfer; the receiver demands exactly what it posted.
    pub xfer_len: u64,
    /// Bytes that follow this header, without the CRC.
    pub payload_len: u32,
}

impl Default for Header {
    fn default() -> Self {
        Self {
            kind: Kind::Data,
            flags: Flags::NONE,
            group: 0,
            epoch: 0,
            src: Peer(0),
            channel: 0,
            seq: 0,
            fingerprint: Fingerprint::NONE,
            slot: 0,
            offset: 0,
            xfer_len: 0,
            payload_len: 0,
        }
    }
}

/// The checksum goes through unaligned bytes one by one, which would double its time.
#[repr(align(64))]
struct Aligned([u8; HEADER_LEN]);

impl Header {
    /// The header as it travels, with its checksum.
    ///
    /// Fields are not judged here, on the hot path; [`check`](Self::check) judges them, and so does
    /// the receiver.
    #[inline]
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        let codes = u32::from(WIRE_VERSION)
            | u32::from(self.kind.code()) << 8
            | u32::from(self.flags.bits()) << 16;
        // Whole words, aligned: what the checksum reads back was stored in the same pieces.
        let words = [
            pair(FRAME_MAGIC, codes),
            pair(self.group, self.epoch),
            pair(self.src.0, self.channel),
            self.seq,
            self.fingerprint.0,
            pair(self.slot, self.offset),
            self.xfer_len,
            pair(self.payload_len, 0),
        ];
        let mut out = Aligned([0; HEADER_LEN]);
        for (bytes, word) in out.0.chunks_exact_mut(8).zip(words) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        let crc = crc32c::crc32c(&out.0[..60]);
        out.0[60..64].copy_from_slice(&crc.to_le_bytes());
        out.0
    }

    /// Reads a header: checksum, then magic, version and kind, then the limits.
    ///
    /// What depends on the connection (group, epoch, sender) or on what was posted (sequence,
    /// fingerprint, transfer length) is compared above.
    ///
    /// # Errors
    /// [`HeaderError`] says which rule the bytes break. After any of them the stream has no frame
    /// boundary any more: close it.
    #[inline]
    pub fn decode(bytes: &[u8; HEADER_LEN]) -> Result<Self, HeaderError> {
        let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let u32_at = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;

        let sent = u32_at(60);
        let aligned = Aligned(*bytes);
        let computed = crc32c::crc32c(&aligned.0[..60]);
        if sent != computed {
            return Err(HeaderError::Checksum { sent, computed });
        }
        if u32_at(0) != FRAME_MAGIC {
            return Err(HeaderError::Magic { found: u32_at(0) });
        }
        if bytes[4] != WIRE_VERSION {
            return Err(HeaderError::Version { theirs: bytes[4] });
        }
        let kind = Kind::from_code(bytes[5]).ok_or(HeaderError::Kind { code: bytes[5] })?;
        let flags = Flags::from_bits(u16_at(6)).ok_or(HeaderError::Flags { bits: u16_at(6) })?;
        let header = Self {
            kind,
            flags,
            group: u32_at(8),
            epoch: u32_at(12),
            src: Peer(u32_at(16)),
            channel: u32_at(20),
            seq: u64_at(24),
            fingerprint: Fingerprint(u64_at(32)),
            slot: u32_at(40),
            offset: u32_at(44),
            xfer_len: u64_at(48),
            payload_len: u32_at(56),
        };
        header.check()?;
        Ok(header)
    }

    /// Judges the lengths: against the limits, against each other, and against the kind.
    ///
    /// # Errors
    /// The same as [`decode`](Self::decode) for headers that arrive.
    #[inline]
    pub fn check(&self) -> Result<(), HeaderError> {
        if self.payload_len > PAYLOAD_CAP {
            return Err(HeaderError::PayloadTooLong { kind: self.kind, len: self.payload_len });
        }
        if self.xfer_len > TRANSFER_MAX {
            return Err(HeaderError::TransferTooLong { kind: self.kind, len: self.xfer_len });
        }
        let lengths_fit = match self.kind {
            Kind::Data => {
                // Neither product nor sum can wrap: both are far below 2^63.
                let end = self.byte_offset() + u64::from(self.payload_len);
                if end > self.xfer_len {
                    return Err(HeaderError::Overrun { end, xfer_len: self.xfer_len });
                }
                // A chunk that is not the last ends where an offset can point to.
                end == self.xfer_len || u64::from(self.payload_len) % OFFSET_UNIT == 0
            }
            // Its transfer length, if any, counts bytes of room given back.
            Kind::Credit => self.payload_len == 0 && self.offset == 0,
            Kind::Loan => {
                self.payload_len == LOAN_LEN as u32 && self.byte_offset() <= self.xfer_len
            }
            Kind::LoanReturn => self.payload_len == 0 && self.byte_offset() <= self.xfer_len,
            Kind::Ping | Kind::Poison | Kind::Goodbye | Kind::Describe => {
                self.payload_len as usize <= CONTROL_PAYLOAD_MAX
                    && self.xfer_len == u64::from(self.payload_len)
                    && self.offset == 0
            }
        };
        if lengths_fit {
            Ok(())
        } else {
            Err(HeaderError::Lengths {
                kind: self.kind,
                payload_len: self.payload_len,
                xfer_len: self.xfer_len,
                offset: self.offset,
            })
        }
    }

    /// Whether such a frame may come on a connection of this sort.
    #[inline]
    pub fn belongs_on(&self, lane: Lane) -> bool {
        // A goodbye also ends a data connection, where there is nobody to read its reason.
        self.kind.lane() == lane || (self.kind == Kind::Goodbye && self.payload_len == 0)
    }

    /// Where in the transfer the payload starts, in bytes.
    #[inline]
    pub const fn byte_offset(&self) -> u64 {
        self.offset as u64 * OFFSET_UNIT
    }

    /// Bytes that follow the header: payload and, where flagged, its CRC.
    #[inline]
    pub const fn body_len(&self) -> usize {
        self.payload_len as usize
            + if self.flags.contains(Flags::PAYLOAD_CRC) { PAYLOAD_CRC_LEN } else { 0 }
    }

    /// Bytes of the whole frame.
    #[inline]
    pub const fn frame_len(&self) -> usize {
        HEADER_LEN + self.body_len()
    }
}

/// Why 64 bytes are not a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// The bytes changed on their way, or the stream lost its place.
    #[error("header checksum is {computed:#010x}, the sender computed {sent:#010x}")]
    Checksum {
        /// The checksum in the header.
        sent: u32,
        /// The checksum of the bytes that came.
        computed: u32,
    },
    /// Something else speaks on this connection.
    #[error("frame starts with {found:#010x}, not with the magic of this protocol")]
    Magic {
        /// The first four bytes, as a little-endian number.
        found: u32,
    },
    /// The peer runs another version of the frame format.
    #[error(
        "peer speaks frame version {theirs}, this process {WIRE_VERSION}; run one version everywhere"
    )]
    Version {
        /// The peer's version.
        theirs: u8,
    },
    /// No such kind of frame.
    #[error("frame kind {code} is not defined")]
    Kind {
        /// The code.
        code: u8,
    },
    /// A flag that this version does not know.
    #[error("frame flags {bits:#06x} are not all defined")]
    Flags {
        /// The flags.
        bits: u16,
    },
    /// The payload is above the hard limit.
    #[error("{kind} frame claims a payload of {len} bytes; the limit is {PAYLOAD_CAP}")]
    PayloadTooLong {
        /// The frame's kind.
        kind: Kind,
        /// The claimed length in bytes.
        len: u32,
    },
    /// The transfer is above the hard limit.
    #[error("{kind} frame claims a transfer of {len} bytes; the limit is {TRANSFER_MAX}")]
    TransferTooLong {
        /// The frame's kind.
        kind: Kind,
        /// The claimed length in bytes.
        len: u64,
    },
    /// The payload reaches past the end of its transfer.
    #[error("payload ends at byte {end} of a transfer of {xfer_len} bytes")]
    Overrun {
        /// Where the payload would end, in bytes.
        end: u64,
        /// Bytes of the transfer.
        xfer_len: u64,
    },
    /// The lengths cannot belong to a frame of this kind.
    #[error("{kind} frame cannot have payload {payload_len}, transfer {xfer_len}, offset {offset}")]
    Lengths {
        /// The frame's kind.
        kind: Kind,
        /// Payload length in bytes.
        payload_len: u32,
        /// Transfer length in bytes.
        xfer_len: u64,
        /// Offset in units of [`OFFSET_UNIT`] bytes.
        offset: u32,
    },
}
