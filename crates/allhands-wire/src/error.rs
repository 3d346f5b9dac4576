use crate::{HandshakeError, HeaderError};

/// Why a payload is not the message its header announced.
///
/// It means a defect or a hostile program on the other side: the connection cannot be trusted any
/// further, and the caller names the peer, which this crate does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PayloadError {
    /// The payload ends inside a field.
    #[error("payload ends before its {field}; the sender speaks another dialect or is broken")]
    Truncated {
        /// The field that is missing.
        field: &'static str,
    },
    /// Bytes remain after the last field.
    #[error("payload has {bytes} bytes after its last field")]
    Trailing {
        /// How many.
        bytes: usize,
    },
    /// A field holds a value that means nothing.
    #[error("payload field {field} holds {value}, which is not defined")]
    Value {
        /// The field.
        field: &'static str,
        /// What it holds.
        value: u64,
    },
    /// A list or text is longer than its limit.
    #[error("payload field {field} claims {len} entries; the limit is {limit}")]
    TooLong {
        /// The field.
        field: &'static str,
        /// The claimed length.
        len: u64,
        /// The largest length that is accepted.
        limit: u64,
    },
    /// A text is not printable UTF-8.
    #[error("payload field {field} is not printable text")]
    Text {
        /// The field.
        field: &'static str,
    },
    /// The frame carries no control message.
    #[error("a {kind} frame carries no control message")]
    NotControl {
        /// The frame's kind.
        kind: crate::Kind,
    },
}

/// Why a stream of frames cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// A header is not one.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// A frame of this kind does not belong on this connection.
    #[error("a {kind} frame does not belong on a {lane} connection")]
    WrongLane {
        /// The frame's kind.
        kind: crate::Kind,
        /// The connection's purpose.
        lane: crate::Lane,
    },
    /// A payload is longer than this connection's limit.
    #[error("a {kind} frame claims {len} payload bytes; this connection takes {limit}")]
    PayloadTooLong {
        /// The frame's kind.
        kind: crate::Kind,
        /// The claimed length in bytes.
        len: u32,
        /// The limit in bytes.
        limit: u32,
    },
    /// A payload was changed on its way.
    #[error(
        "payload checksum of a {kind} frame is {computed:#010x}, the sender computed {sent:#010x}"
    )]
    PayloadChecksum {
        /// The frame's kind.
        kind: crate::Kind,
        /// The checksum in the trailer.
        sent: u32,
        /// The checksum of the bytes that came.
        computed: u32,
    },
}

/// Any error of this crate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// A header was refused.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// A payload was refused.
    #[error(transparent)]
    Payload(#[from] PayloadError),
    /// A stream of frames was refused.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A handshake failed.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
}
