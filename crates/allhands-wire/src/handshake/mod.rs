//! Who may join: three messages of fixed size, before which nothing is allocated.
//!
//! The module's contract stands in the [crate documentation](crate#handshake).

mod hello;
mod initiator;
mod key;
mod reject;
mod responder;

pub use hello::{GREETING_LEN, HELLO_LEN, Hello, Identity, PROVEN_HELLO_LEN, Purpose, VERDICT_LEN};
pub use initiator::Initiator;
pub use key::{HostHash, JobHash, JobKey, KeyError, Nonce};
pub use reject::{Incumbent, Reject};
pub use responder::{Decision, Responder};

use crate::peer::Peer;

/// How far a handshake got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeState {
    /// It waits for bytes, or for its own to be written.
    Working,
    /// Responder only: the initiator proved the key; [`Responder::decide`] is due.
    Deciding(Hello),
    /// Both sides proved the key and the place is granted. The other side's hello.
    Granted(Hello),
    /// It is over. Write what is left to write, then close.
    Failed(HandshakeError),
}

/// Why a handshake failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// A stray: a port scanner, a browser, another program's client.
    #[error("the other side does not speak this handshake")]
    NotOurs,
    /// The other side runs another version.
    #[error(
        "this process speaks handshake version {mine}, the other {theirs}; run one version everywhere"
    )]
    Version {
        /// The version here.
        mine: u8,
        /// The version there.
        theirs: u8,
    },
    /// The other side is set to another suite.
    #[error(
        "this process uses handshake suite {mine}, the other {theirs}; configure one everywhere"
    )]
    Suite {
        /// The suite here.
        mine: u8,
        /// The suite there.
        theirs: u8,
    },
    /// A field holds what no sender writes.
    #[error("handshake message with impossible {field}")]
    Malformed {
        /// The field.
        field: &'static str,
    },
    /// The responder did not prove the job key.
    #[error("the responder did not prove the job key; give every process the same key")]
    Unproven,
    /// A holder of the key answered, but not the one that was dialled.
    #[error("dialled {dialled}, but {found} answered; the address in the store is stale")]
    WrongPeer {
        /// Who was dialled.
        dialled: Peer,
        /// Who answered.
        found: Peer,
    },
    /// The responder turned this process away.
    #[error("turned away: {0}")]
    Rejected(Reject),
    /// This process turned the initiator away.
    #[error("turned the initiator away: {0}")]
    Refused(Reject),
}
