//! Wire header, fingerprint, handshake and control frames of allhands.

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
