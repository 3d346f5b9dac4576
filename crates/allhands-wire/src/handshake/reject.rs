//! Why a responder turns an initiator away.

use std::fmt;

use super::hello::array_at;
use super::key::HostHash;

/// Bytes of an encoded verdict code with its details.
const REJECT_LEN: usize = 24;

/// Why a responder turns an initiator away.
///
/// `mine` is always the value on the side that holds this `Reject`, `theirs` that of the other:
/// the initiator sees them swapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Reject {
    /// The processes belong to different jobs. Told without proof: it reveals nothing.
    #[error("the other process belongs to another job; check the address and the job id")]
    WrongJob,
    /// They run different versions. Told without proof.
    #[error(
        "this process speaks handshake version {mine}, the other {theirs}; run one version everywhere"
    )]
    Version {
        /// The version here.
        mine: u8,
        /// The version there.
        theirs: u8,
    },
    /// They are set to different suites. Told without proof.
    #[error(
        "this process uses handshake suite {mine}, the other {theirs}; configure one everywhere"
    )]
    Suite {
        /// The suite here.
        mine: u8,
        /// The suite there.
        theirs: u8,
    },
    /// The initiator does not hold the job's key. Told without proof.
    #[error("the initiator did not prove the job key; give every process the same key")]
    AuthFailed,
    /// Another process already has this place.
    #[error("the rank is already taken by {first}; two processes were started with one rank")]
    DuplicateRank {
        /// Who was first.
        first: Incumbent,
    },
    /// They were started with different world sizes.
    #[error("this process was started with world size {mine}, the other with {theirs}")]
    WorldSizeMismatch {
        /// The world size here.
        mine: u32,
        /// The world size there.
        theirs: u32,
    },
    /// They belong to different generations of the mesh.
    #[error(
        "this process is in epoch {mine}, the other in epoch {theirs}; the older one must rejoin"
    )]
    WrongEpoch {
        /// The epoch here.
        mine: u32,
        /// The epoch there.
        theirs: u32,
    },
    /// They were configured with different numbers of data connections.
    #[error(
        "this process uses {mine} data connections a pair, the other {theirs}; configure one number"
    )]
    LaneMismatch {
        /// The number here.
        mine: u8,
        /// The number there.
        theirs: u8,
    },
    /// The initiator is no member, or meant another process.
    #[error("peer {src} dialled peer {dst}, which is no pair of this mesh")]
    NotMember {
        /// Who the initiator says it is.
        src: u32,
        /// Whom the initiator says it dials.
        dst: u32,
    },
    /// The responder cannot take a connection now; try again.
    #[error("the responder is busy; dial again later")]
    Busy,
}

/// The process that already has a place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Incumbent {
    /// Its process id.
    pub pid: u32,
    /// Its host.
    pub host: HostHash,
}

impl fmt::Display for Incumbent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} on host {}", self.pid, self.host)
    }
}

impl Reject {
    /// Whether the responder tells this reason without having proved the key itself.
    pub const fn needs_no_proof(self) -> bool {
        matches!(
            self,
            Self::WrongJob | Self::Version { .. } | Self::Suite { .. } | Self::AuthFailed
        )
    }

    /// The same reason as the other side holds it.
    #[must_use]
    pub const fn seen_from_there(self) -> Self {
        match self {
            Self::Version { mine, theirs } => Self::Version { mine: theirs, theirs: mine },
            Self::Suite { mine, theirs } => Self::Suite { mine: theirs, theirs: mine },
            Self::WorldSizeMismatch { mine, theirs } => {
                Self::WorldSizeMismatch { mine: theirs, theirs: mine }
            }
            Self::WrongEpoch { mine, theirs } => Self::WrongEpoch { mine: theirs, theirs: mine },
            Self::LaneMismatch { mine, theirs } => {
                Self::LaneMismatch { mine: theirs, theirs: mine }
            }
            same => same,
        }
    }

    pub(super) fn encode(self) -> [u8; REJECT_LEN] {
        let (code, a, b, host) = match self {
            Self::WrongJob => (1, 0, 0, HostHash::default()),
            Self::Version { mine, theirs } => (2, mine.into(), theirs.into(), HostHash::default()),
            Self::Suite { mine, theirs } => (3, mine.into(), theirs.into(), HostHash::default()),
            Self::AuthFailed => (4, 0, 0, HostHash::default()),
            Self::DuplicateRank { first } => (5, first.pid, 0, first.host),
            Self::WorldSizeMismatch { mine, theirs } => (6, mine, theirs, HostHash::default()),
            Self::WrongEpoch { mine, theirs } => (7, mine, theirs, HostHash::default()),
            Self::LaneMismatch { mine, theirs } => {
                (8, mine.into(), theirs.into(), HostHash::default())
            }
            Self::NotMember { src, dst } => (9, src, dst, HostHash::default()),
            Self::Busy => (10, 0, 0, HostHash::default()),
        };
        let mut out = [0; REJECT_LEN];
        out[0] = code;
        out[4..8].copy_from_slice(&u32::to_le_bytes(a));
        out[8..12].copy_from_slice(&u32::to_le_bytes(b));
        out[12..20].copy_from_slice(&host.0);
        out
    }

    /// `Some(None)` is a grant; `None` is no verdict at all.
    pub(super) fn decode(bytes: &[u8; REJECT_LEN]) -> Option<Option<Self>> {
        let a = u32::from_le_bytes(array_at(bytes, 4));
        let b = u32::from_le_bytes(array_at(bytes, 8));
        let host = HostHash(array_at(bytes, 12));
        let reject = match bytes[0] {
            0 if bytes.iter().all(|&byte| byte == 0) => return Some(None),
            1 => Self::WrongJob,
            2 => Self::Version { mine: u8::try_from(a).ok()?, theirs: u8::try_from(b).ok()? },
            3 => Self::Suite { mine: u8::try_from(a).ok()?, theirs: u8::try_from(b).ok()? },
            4 => Self::AuthFailed,
            5 => Self::DuplicateRank { first: Incumbent { pid: a, host } },
            6 => Self::WorldSizeMismatch { mine: a, theirs: b },
            7 => Self::WrongEpoch { mine: a, theirs: b },
            8 => Self::LaneMismatch { mine: u8::try_from(a).ok()?, theirs: u8::try_from(b).ok()? },
            9 => Self::NotMember { src: a, dst: b },
            10 => Self::Busy,
            _ => return None,
        };
        // One encoding a reason, so unused bytes are zero.
        (reject.encode() == *bytes).then_some(Some(reject))
    }
}
