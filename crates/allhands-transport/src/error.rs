//! What can go wrong before the links are up.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use allhands_wire::{HandshakeError, Incumbent, Peer, Reject};

use crate::interface::InterfaceError;
use crate::tcp::Endpoint;

/// What can go wrong before the links are up. Afterwards a lost connection is reported through
/// [`Port::closed`](crate::Port::closed) and [`ControlEvent::Closed`](crate::ControlEvent).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// No network interface fits the choice.
    #[error(transparent)]
    Interface(#[from] InterfaceError),
    /// Listening failed, for example because the port is taken.
    #[error("cannot listen on {address}: {source}; choose a free port, or 0 for any")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the operating system said.
        source: io::Error,
    },
    /// The operating system refuses something else.
    #[error("cannot {what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the operating system said.
        source: io::Error,
    },
    /// Bytes from a store are not an endpoint.
    #[error("bad endpoint: {what}")]
    BadEndpoint {
        /// What is wrong.
        what: &'static str,
    },
    /// The arguments contradict each other.
    #[error("bad membership of {me} in a world of {world}: {what}")]
    BadMembership {
        /// This rank.
        me: Peer,
        /// The world size it was given.
        world: u32,
        /// What is wrong.
        what: &'static str,
    },
    /// This rank can only be reached from its own host, but peers are elsewhere.
    #[error(
        "{me} listens on the loopback address {address}, but {peer} is on another host ({endpoint}); \
         name an interface, or give the master's address instead of localhost"
    )]
    LoopbackWithRemote {
        /// This rank.
        me: Peer,
        /// Where it listens.
        address: IpAddr,
        /// A peer on another host.
        peer: Peer,
        /// Where that peer listens.
        endpoint: Endpoint,
    },
    /// A peer listens on its loopback address and is on another host.
    #[error(
        "{peer} on another host listens on its loopback address ({endpoint}) and cannot be reached; \
         name an interface there, or give the master's address instead of localhost"
    )]
    PeerOnLoopback {
        /// The peer.
        peer: Peer,
        /// Where it listens.
        endpoint: Endpoint,
    },
    /// A peer that was dialled turned this rank away, or is not what it should be.
    #[error("{me} dialled {peer} at {address}: {cause}")]
    TurnedAway {
        /// This rank.
        me: Peer,
        /// Who was dialled.
        peer: Peer,
        /// Where.
        address: SocketAddr,
        /// Why it failed.
        cause: HandshakeError,
    },
    /// Another process has this rank already.
    #[error("{me} is already taken by {first}; two processes were started with one rank")]
    DuplicateRank {
        /// This rank.
        me: Peer,
        /// Who was first.
        first: Incumbent,
    },
    /// A member of the job that dialled this rank is configured differently.
    #[error("{address} dialled {me} with the job's key: {reject}")]
    Misconfigured {
        /// This rank.
        me: Peer,
        /// Who dialled.
        address: SocketAddr,
        /// What differs.
        reject: Reject,
    },
    /// A peer joined and left again before the mesh was complete.
    #[error(
        "{peer} left while {me} was still joining the mesh of {world}; see that rank's own error"
    )]
    PeerLeft {
        /// This rank.
        me: Peer,
        /// Who left.
        peer: Peer,
        /// Size of the mesh.
        world: u32,
    },
    /// The deadline passed.
    #[error(transparent)]
    Incomplete(Box<Incomplete>),
    /// The progress callback asked to stop.
    #[error("joining the mesh was cancelled after {elapsed:.1?}")]
    Cancelled {
        /// How long it had taken.
        elapsed: Duration,
    },
}

/// A mesh that was not complete at its deadline, and who is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Incomplete {
    /// This rank.
    pub me: Peer,
    /// Size of the mesh.
    pub world: u32,
    /// How long this rank waited.
    pub elapsed: Duration,
    /// Who is missing.
    pub missing: Vec<Missing>,
    /// Connections that were turned away, and why the last was.
    pub turned_away: TurnedAway,
}

/// Connections that came in and did not join.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TurnedAway {
    /// Silent, garbled, or too many at once.
    pub strays: u64,
    /// Spoke the handshake, but without the right job, key or epoch.
    pub refused: u64,
    /// The last of the second kind.
    pub last: Option<(SocketAddr, HandshakeError)>,
}

/// A peer that has not joined.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Missing {
    /// The peer.
    pub peer: Peer,
    /// Where it is said to listen.
    pub endpoint: Endpoint,
    /// How far it got.
    pub reached: Reached,
}

/// How far a missing peer got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reached {
    /// It is this peer's turn to dial, and it has not.
    Silent,
    /// It does not take connections.
    NotConnected {
        /// Dials so far.
        dials: u32,
        /// The last dial's error, if one has failed.
        last: Option<io::ErrorKind>,
    },
    /// It took a connection, and then said nothing, or went away.
    NotGreeted {
        /// Dials so far.
        dials: u32,
    },
    /// Some of its connections are up.
    Partly {
        /// How many are.
        up: u32,
        /// How many there should be.
        of: u32,
    },
}

impl fmt::Display for Reached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent => f.write_str("has not dialled this rank"),
            Self::NotConnected { dials, last: Some(kind) } => {
                write!(f, "not reached in {dials} dials, {kind}")
            }
            Self::NotConnected { dials, last: None } => {
                write!(f, "no answer to {dials} dials; a firewall may drop them")
            }
            Self::NotGreeted { dials } => {
                write!(f, "took a connection in {dials} dials but did not greet; it may be stopped")
            }
            Self::Partly { up, of } => write!(f, "{up} of {of} connections are up"),
        }
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {} ({})", self.peer, self.endpoint, self.reached)
    }
}

/// Missing peers named in a message; of more it gives the number.
const NAMED_MAX: usize = 8;

impl fmt::Display for Incomplete {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let joined = self.world as usize - self.missing.len();
        write!(
            f,
            "{} waited {:.1?} for the mesh: {joined} of {} joined; missing: ",
            self.me, self.elapsed, self.world
        )?;
        for (place, missing) in self.missing.iter().take(NAMED_MAX).enumerate() {
            let comma = if place == 0 { "" } else { ", " };
            write!(f, "{comma}{missing}")?;
        }
        if self.missing.len() > NAMED_MAX {
            write!(f, " and {} more", self.missing.len() - NAMED_MAX)?;
        }
        if let Some((address, cause)) = &self.turned_away.last {
            let count = self.turned_away.refused;
            write!(f, "; {count} connections were refused, the last from {address}: {cause}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Incomplete {}
