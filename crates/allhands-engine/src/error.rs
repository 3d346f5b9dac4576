//! What can go wrong, with the facts a reader needs.

use std::sync::Arc;
use std::time::Duration;

use allhands_plan::Rank;
use allhands_wire::{Descriptor, HeaderError, Kind, Peer, Report};

use crate::buffers::Space;

/// Why an operation did not succeed. The group it belonged to runs no further operation.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What the group agreed on as the cause.
    pub report: Arc<Report>,
    /// The operation that this rank ran.
    pub descriptor: Descriptor,
    /// Its channel.
    pub channel: u32,
    /// Its number on that channel.
    pub seq: u64,
    /// How long it ran.
    pub elapsed: Duration,
    /// Ranks whose messages it still missed.
    pub awaited: Vec<Rank>,
}

/// A submission that was not taken, with its buffers.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct Refused {
    /// Why.
    pub reason: Refusal,
    /// The input, given back.
    pub input: Space,
    /// The data, given back.
    pub data: Space,
}

/// Why a call was not taken.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The group has failed before.
    #[error("the group has failed: {}", .0.cause)]
    Failed(Arc<Report>),
    /// The operation was being worked on when a thread panicked, and went with its stack.
    #[error(
        "a thread panicked while it worked on this operation; its log has the panic's message, please report it"
    )]
    Panicked,
    /// A member has left in order; collectives need all of them.
    #[error("{rank} has left the group; make a new group of the remaining ranks")]
    Left {
        /// Who left.
        rank: Rank,
    },
    /// The connection to a member ended without a goodbye before the group was used, or what came on it
    /// made no sense.
    #[error("the connection to {rank} is lost; build a new mesh")]
    Lost {
        /// Who.
        rank: Rank,
    },
    /// A group lists a member twice.
    #[error("{peer} is listed twice among the members of a group")]
    MemberTwice {
        /// Who.
        peer: Peer,
    },
    /// A group lists a member that the mesh does not have.
    #[error("{peer} is not in the mesh of {world}")]
    Outsider {
        /// Who.
        peer: Peer,
        /// Size of the mesh.
        world: u32,
    },
    /// A group does not list this rank.
    #[error("{peer} is not a member of the group it wants to use")]
    NotMember {
        /// This rank.
        peer: Peer,
    },
    /// Two groups would have one number.
    #[error("group {id:#x} exists in epoch {epoch}; give the new group another name")]
    GroupInUse {
        /// The group's number.
        id: u32,
        /// Its epoch.
        epoch: u32,
    },
    /// The plan was built for another rank or world.
    #[error("the plan is not one of {rank} in a world of {world}")]
    ForeignPlan {
        /// The group's size.
        world: u32,
        /// This rank.
        rank: Rank,
    },
    /// The channel is that of point-to-point messages.
    #[error("channel {} is reserved for point-to-point messages", crate::POINT_CHANNEL)]
    ReservedChannel,
    /// A group has too many channels.
    #[error("a group has at most {limit} channels")]
    TooManyChannels {
        /// The bound.
        limit: usize,
    },
    /// A channel has too many operations in flight.
    #[error("{limit} operations are in flight on this channel; wait for one of them")]
    TooManyInFlight {
        /// The bound.
        limit: usize,
    },
    /// A buffer does not fit the plan.
    #[error("{buffer} has {bytes} bytes, the operation needs {expected:?}")]
    Length {
        /// Which buffer.
        buffer: &'static str,
        /// Its length.
        bytes: usize,
        /// The length needed; `None` if it does not fit the address space.
        expected: Option<usize>,
    },
    /// An element would lie in two pieces of memory.
    #[error("a piece of {buffer} ends inside an element of {element_size} bytes")]
    Pieces {
        /// Which buffer.
        buffer: &'static str,
        /// The operation's element size.
        element_size: usize,
    },
    /// The result would go to memory that was lent for reading.
    #[error("the result needs memory that may be written")]
    ReadOnly,
    /// The plan reduces and no kernel was given.
    #[error("the plan combines operands, but no reduction kernel was given")]
    NoKernel,
    /// Kernel and operation disagree about the element size.
    #[error("the reduction kernel does not work on elements of {element_size} bytes")]
    KernelSize {
        /// The operation's element size.
        element_size: usize,
    },
    /// A rank outside the group.
    #[error("{rank} is not in a group of {world}")]
    NoSuchRank {
        /// The rank.
        rank: Rank,
        /// The group's size.
        world: u32,
    },
    /// A message to oneself.
    #[error("{rank} cannot send to or receive from itself")]
    ToSelf {
        /// This rank.
        rank: Rank,
    },
}

/// What a peer did that no correct peer does.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// A header that does not decode.
    #[error("{0}")]
    Header(HeaderError),
    /// A frame in somebody else's name.
    #[error("a frame claims to be from {claimed}")]
    Impostor {
        /// Whose name it bears.
        claimed: Peer,
    },
    /// A payload above the limit of its kind.
    #[error("a frame announces {bytes} bytes of payload, above its limit")]
    Oversized {
        /// The announced length.
        bytes: u32,
    },
    /// A control frame on a data connection.
    #[error("a {kind} frame came on a data connection")]
    Misplaced {
        /// Its kind.
        kind: Kind,
    },
    /// A feature that this version lacks.
    #[error("{what} are not supported by this version")]
    Unsupported {
        /// The feature.
        what: &'static str,
    },
    /// A group that does not exist here.
    #[error("a frame belongs to group {id:#x} in epoch {epoch}, which is unknown here")]
    UnknownGroup {
        /// The group's number.
        id: u32,
        /// Its epoch.
        epoch: u32,
    },
    /// More channels than allowed.
    #[error("a frame would open one channel too many")]
    TooManyChannels,
    /// A frame of an operation that ended long ago.
    #[error("a frame belongs to operation {seq} of channel {channel}, which ended long ago")]
    TooLate {
        /// The channel.
        channel: u32,
        /// The operation.
        seq: u64,
    },
    /// A frame that does not continue its message.
    #[error("a frame continues a message at byte {offset}, expected at {expected}")]
    OutOfOrder {
        /// Where it claims to be.
        offset: u64,
        /// Where the message is.
        expected: u64,
    },
    /// More early bytes than the window allows.
    #[error("early frames exceed the window of {limit} bytes")]
    OverWindow {
        /// The bound.
        limit: usize,
    },
    /// A loan that does not have the message's length.
    #[error("a loan of {loan} bytes stands for a message of {message}")]
    LoanLength {
        /// Bytes lent.
        loan: u64,
        /// Bytes of the message.
        message: u64,
    },
    /// A loan was returned that was not given.
    #[error("a loan of message {slot} came back that was never given")]
    UnknownLoan {
        /// The message.
        slot: u32,
    },
    /// A frame of an operation whose bytes all travel through shared memory.
    #[error("a frame belongs to operation {seq}, which runs in shared memory")]
    NotByFrames {
        /// The operation.
        seq: u64,
    },
    /// A publication in shared memory that is not what its operation needs.
    #[error("a publication of {len} bytes for operation {seq} is not what was expected")]
    Publication {
        /// The operation it names.
        seq: u64,
        /// The bytes it names.
        len: u32,
    },
    /// A control frame that does not decode.
    #[error("a control frame does not decode: {0}")]
    Control(String),
}
