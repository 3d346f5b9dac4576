//! Wire header, fingerprint, handshake and control frames of allhands.

#![forbid(unsafe_code)]

mod bytes;
mod descriptor;
mod error;
mod fingerprint;
mod header;
mod limits;
mod peer;
mod text;

pub use descriptor::Descriptor;
pub use error::{FrameError, PayloadError, WireError};
pub use fingerprint::{Differences, Field, Fingerprint, FingerprintParts};
pub use header::{FRAME_MAGIC, Flags, Header, HeaderError, Kind, Lane, WIRE_VERSION};
pub use limits::*;
pub use peer::Peer;
pub use text::Text;
