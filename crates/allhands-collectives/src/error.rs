//! Errors that say who, what and what now.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use allhands_engine::{Failure, Refusal};
use allhands_plan::{PlanError, Rank};
use allhands_tensor::{DType, ReduceOp, SparseError, UnsupportedReduction};
use allhands_wire::{Cause, Descriptor, Peer, Report};

use crate::operation::{CallFacts, Operation};
use crate::record::Dump;
use crate::sparse::{self, CHANNELS, SparseSide};

/// The call that failed, on the rank where it failed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Context {
    /// Name of the group.
    pub group: String,
    /// What was called.
    pub call: CallFacts,
    /// Number of the operation on its channel.
    pub sequence: u64,
    /// Stream of operations inside the group.
    pub channel: u32,
    /// This rank.
    pub rank: Rank,
    /// Ranks of the group.
    pub world_size: u32,
    /// How long the operation ran.
    pub elapsed: Duration,
    /// How long it was allowed to.
    pub limit: Duration,
}

impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} on rank {} of {} in group {:?} (operation {}, channel {}, after {:.1?} of {:?})",
            self.call,
            self.rank.0,
            self.world_size,
            self.group,
            self.sequence,
            self.channel,
            self.elapsed,
            self.limit,
        )
    }
}

/// One side of a mismatch.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Side {
    /// Who.
    pub rank: Rank,
    /// What it called.
    pub call: CallFacts,
}

/// Why a collective did not succeed.
///
/// Everything but [`Error::Invalid`] breaks the group: all its members get an error with the same cause,
/// and later calls fail at once. Make a new group to go on.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Ranks called different operations under the same number.
    #[error(
        "{context}: ranks disagree: {}{}; make every rank issue the same operations in the same order",
        Sides(sides),
        Detail(detail)
    )]
    Mismatch {
        /// This rank's call.
        context: Box<Context>,
        /// What two ranks called; the same two on every rank.
        sides: Vec<Side>,
        /// More, for example the lengths of a message.
        detail: String,
    },
    /// A process ended, or left while it was needed.
    #[error(
        "{context}: {} failed: {reason}; make a new group of the remaining ranks",
        Ranks(ranks)
    )]
    PeerFailed {
        /// This rank's call.
        context: Box<Context>,
        /// Who.
        ranks: Vec<Rank>,
        /// How it showed.
        reason: String,
    },
    /// A process is stopped or unreachable.
    #[error(
        "{context}: {} stopped answering: {reason}; is the process stopped or its host cut off?",
        Ranks(ranks)
    )]
    PeerSilent {
        /// This rank's call.
        context: Box<Context>,
        /// Who.
        ranks: Vec<Rank>,
        /// For how long.
        reason: String,
    },
    /// Ranks did not arrive in time.
    #[error("{context}: timed out waiting for {}: {detail}", Ranks(missing))]
    Timeout {
        /// This rank's call.
        context: Box<Context>,
        /// Who has not arrived.
        missing: Vec<Rank>,
        /// Where they are.
        detail: String,
        /// Who noticed.
        origin: Rank,
    },
    /// Somebody aborted the group.
    #[error("{context}: {} aborted the group: {reason}", Ranks(ranks))]
    Aborted {
        /// This rank's call.
        context: Box<Context>,
        /// Who.
        ranks: Vec<Rank>,
        /// Why, in their words.
        reason: String,
    },
    /// A hook or callback panicked somewhere.
    #[error("{context}: a hook panicked on {}: {reason}", Ranks(ranks))]
    HookPanicked {
        /// This rank's call.
        context: Box<Context>,
        /// Where.
        ranks: Vec<Rank>,
        /// The panic's message.
        reason: String,
    },
    /// A thread panicked while it drove the operations of its process.
    #[error(
        "{context}: a driver panicked on {}: {reason}; its log has the panic's message, please report it",
        Ranks(ranks)
    )]
    DriverPanicked {
        /// This rank's call.
        context: Box<Context>,
        /// Where.
        ranks: Vec<Rank>,
        /// What is known of it.
        reason: String,
    },
    /// A peer sent something that no correct program sends.
    #[error(
        "{context}: {} broke the protocol: {reason}; do all ranks run the same version?",
        Ranks(ranks)
    )]
    Protocol {
        /// This rank's call.
        context: Box<Context>,
        /// Who.
        ranks: Vec<Rank>,
        /// What it sent.
        reason: String,
    },
    /// The call makes no sense; nothing was sent, or no more than what ranks compare first, and the group goes on.
    #[error("{operation} on rank {} of {world_size} in group {group:?}: {reason}", rank.0)]
    Invalid {
        /// Name of the group.
        group: String,
        /// What was called.
        operation: Operation,
        /// This rank.
        rank: Rank,
        /// Ranks of the group.
        world_size: u32,
        /// What is wrong.
        reason: Invalid,
    },
}

/// What is wrong with a call.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Invalid {
    /// A buffer has the wrong length.
    #[error("{buffer} has {found} elements, {expected} are needed ({why})")]
    Length {
        /// Which buffer.
        buffer: &'static str,
        /// Its elements.
        found: usize,
        /// Elements needed.
        expected: usize,
        /// Where that number comes from.
        why: &'static str,
    },
    /// A list has the wrong number of entries.
    #[error("{list} has {found} entries, {expected} are needed (one for each rank)")]
    Entries {
        /// Which list.
        list: &'static str,
        /// Its entries.
        found: usize,
        /// Entries needed.
        expected: usize,
    },
    /// A buffer that is to be cut evenly cannot be.
    #[error(
        "{buffer} has {elements} elements, which do not divide over {world_size} ranks; pass splits"
    )]
    Indivisible {
        /// Which buffer.
        buffer: &'static str,
        /// Its elements.
        elements: usize,
        /// Ranks of the group.
        world_size: u32,
    },
    /// Splits do not fit the group or the buffer.
    #[error(
        "{buffer} is split into {entries} blocks of {sum} rows in all; {world_size} blocks of {rows} rows \
         in all are needed"
    )]
    Splits {
        /// Which buffer.
        buffer: &'static str,
        /// Number of splits.
        entries: usize,
        /// Their sum.
        sum: usize,
        /// Ranks of the group.
        world_size: u32,
        /// Rows of the buffer.
        rows: usize,
    },
    /// Buffers of different element types in one call.
    #[error(
        "{buffer} holds {found}, {expected} is needed (all buffers of a call have one element type)"
    )]
    Dtype {
        /// Which buffer.
        buffer: &'static str,
        /// Its element type.
        found: DType,
        /// The element type of the call.
        expected: DType,
    },
    /// A tensor whose elements do not lie one after the other.
    #[error("{buffer} is not contiguous; pass a contiguous copy")]
    Strided {
        /// Which buffer.
        buffer: &'static str,
    },
    /// A rank that the group does not have.
    #[error("{what} {} is not in the group; ranks are 0 to {}", rank.0, world_size - 1)]
    Rank {
        /// Root, source or destination.
        what: &'static str,
        /// The rank.
        rank: Rank,
        /// Ranks of the group.
        world_size: u32,
    },
    /// Only the root may, or must, pass a buffer.
    #[error("{buffer} {rule}")]
    RootOnly {
        /// Which buffer.
        buffer: &'static str,
        /// What the rule is.
        rule: &'static str,
    },
    /// The operation has no such reduction.
    #[error(transparent)]
    Reduction(#[from] UnsupportedReduction),
    /// No plan can be built.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The engine did not take the call.
    #[error("{0}")]
    Refused(Refusal),
    /// A sparse tensor that cannot be.
    #[error(transparent)]
    Sparse(#[from] SparseError),
    /// A reduction of sparse tensors that is no sum.
    #[error(
        "sparse tensors can only be summed, not combined by {op}: ranks without a row would have to count; {}",
        instead(*op)
    )]
    SparseReduction {
        /// The reduction.
        op: ReduceOp,
    },
    /// An algorithm was asked for.
    #[error("an algorithm cannot be asked for: sparse tensors are summed in several steps")]
    SparseAlgorithm,
    /// A channel of the other half.
    #[error(
        "channel {channel} is reserved for later steps of sparse calls; take one below {}",
        CHANNELS
    )]
    ReservedChannel {
        /// The channel.
        channel: u32,
    },
    /// Sparse tensors of several ranks that do not fit together.
    #[error(
        "ranks disagree: {}; pass tensors of one type and shape with as many sparse dimensions on all ranks",
        sparse::Sides(sides)
    )]
    SparseTensors {
        /// Who has what; the same on every rank.
        sides: Vec<SparseSide>,
    },
    /// Agreed indices that do not rise.
    #[error(
        "the agreed indices do not rise from column to column; sort them and leave out what occurs twice"
    )]
    SparseFalling,
    /// A row that is not among the agreed ones.
    #[error(
        "this rank has a row at position {key}, which is not among the agreed indices; all_reduce_sparse needs none"
    )]
    SparseStranger {
        /// Its position, counted in row-major order of the sparse dimensions.
        key: u64,
    },
    /// Too many sparse calls at the same time.
    #[error("{limit} sparse calls are under way already; wait for some")]
    TooManySparse {
        /// The limit.
        limit: usize,
    },
    /// The operating system refused a thread.
    #[error("the operating system refused a thread: {reason}")]
    Thread {
        /// Its answer.
        reason: String,
    },
}

/// What to do instead of a reduction of sparse tensors.
fn instead(op: ReduceOp) -> &'static str {
    match op {
        ReduceOp::Avg => "sum, then divide the values by the world size",
        ReduceOp::PremulSum(_) => "scale the values, then sum",
        _ => "reduce dense tensors",
    }
}

struct Ranks<'a>(&'a [Rank]);

impl fmt::Display for Ranks<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [] => f.write_str("no rank in particular"),
            [one] => write!(f, "rank {}", one.0),
            [first, rest @ ..] => {
                write!(f, "ranks {}", first.0)?;
                rest.iter().try_for_each(|rank| write!(f, ", {}", rank.0))
            }
        }
    }
}

struct Sides<'a>(&'a [Side]);

impl fmt::Display for Sides<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, side) in self.0.iter().enumerate() {
            let comma = if at > 0 { ", " } else { "" };
            write!(f, "{comma}rank {} calls {}", side.rank.0, side.call)?;
        }
        Ok(())
    }
}

struct Detail<'a>(&'a str);

impl fmt::Display for Detail<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, " ({})", self.0) }
    }
}

/// What an error needs to know of the group.
#[derive(Debug)]
pub(crate) struct Who {
    pub(crate) group: String,
    pub(crate) rank: Rank,
    pub(crate) members: Vec<Peer>,
    /// Where the group's record goes when it fails.
    pub(crate) dump: Dump,
}

impl Who {
    fn rank_of(&self, peer: Peer) -> Rank {
        // A report speaks only of members; an outsider would be a bug that should still be printed.
        let at = self.members.iter().position(|&member| member == peer);
        Rank(at.map_or(peer.0, |at| at as u32))
    }

    pub(crate) fn invalid(&self, operation: Operation, reason: Invalid) -> Error {
        Error::Invalid {
            group: self.group.clone(),
            operation,
            rank: self.rank,
            world_size: self.members.len() as u32,
            reason,
        }
    }

    /// The error of a call on a group that has failed before.
    pub(crate) fn refused(
        &self,
        operation: Operation,
        report: &Arc<Report>,
        limit: Duration,
    ) -> Error {
        let failure = Failure {
            report: report.clone(),
            descriptor: Descriptor { op: operation.code(), ..Descriptor::default() },
            channel: report.channel,
            seq: report.seq,
            elapsed: Duration::ZERO,
            awaited: Vec::new(),
        };
        self.failed(&failure, limit)
    }

    /// The error of a call that needs a rank which is gone; what does not need it goes on.
    pub(crate) fn gone(
        &self,
        operation: Operation,
        rank: Rank,
        limit: Duration,
        reason: &str,
    ) -> Error {
        let context = self.without_number(operation, limit);
        Error::PeerFailed { context, ranks: vec![rank], reason: reason.to_owned() }
    }

    /// A call of which no more is known than its operation.
    fn without_number(&self, operation: Operation, limit: Duration) -> Box<Context> {
        let call = CallFacts::of(&Descriptor { op: operation.code(), ..Descriptor::default() });
        Box::new(Context {
            group: self.group.clone(),
            call,
            sequence: 0,
            channel: 0,
            rank: self.rank,
            world_size: self.members.len() as u32,
            elapsed: Duration::ZERO,
            limit,
        })
    }

    /// The error of a call in which a rank sent what makes no sense.
    pub(crate) fn broken(
        &self,
        operation: Operation,
        rank: Rank,
        limit: Duration,
        what: &str,
    ) -> Error {
        let context = self.without_number(operation, limit);
        Error::Protocol { context, ranks: vec![rank], reason: format!("it sent {what}") }
    }

    pub(crate) fn failed(&self, failure: &Failure, limit: Duration) -> Error {
        // Whoever reads the error finds the record: the program may end with it.
        self.dump.write(self);
        let report = &failure.report;
        let context = Box::new(Context {
            group: self.group.clone(),
            call: CallFacts::of(&failure.descriptor),
            sequence: failure.seq,
            channel: failure.channel,
            rank: self.rank,
            world_size: self.members.len() as u32,
            elapsed: failure.elapsed,
            limit,
        });
        let ranks: Vec<Rank> = report.culprits.listed().iter().map(|&p| self.rank_of(p)).collect();
        let elsewhere = report.seq != failure.seq || report.channel != failure.channel;
        let mut reason = report.text.as_str().to_owned();
        if elsewhere {
            let (seq, channel) = (report.seq, report.channel);
            let more = format!("it showed in operation {seq} of channel {channel}");
            reason = if reason.is_empty() { more } else { format!("{reason} ({more})") };
        }
        match report.cause {
            Cause::Mismatch => Error::Mismatch {
                context,
                sides: report
                    .testimonies
                    .iter()
                    .flatten()
                    .map(|side| Side {
                        rank: self.rank_of(side.peer),
                        call: CallFacts::of(&side.descriptor),
                    })
                    .collect(),
                detail: reason,
            },
            Cause::PeerDied | Cause::ConnLost => Error::PeerFailed { context, ranks, reason },
            Cause::Silent => Error::PeerSilent { context, ranks, reason },
            Cause::Timeout => Error::Timeout {
                context,
                missing: ranks,
                detail: reason,
                origin: self.rank_of(report.origin),
            },
            Cause::UserAbort => Error::Aborted { context, ranks, reason },
            Cause::HookPanic => Error::HookPanicked { context, ranks, reason },
            Cause::DriverPanic => Error::DriverPanicked { context, ranks, reason },
            Cause::Protocol => Error::Protocol { context, ranks, reason },
        }
    }
}

impl Error {
    /// Ranks that the error blames, if it blames any.
    #[must_use]
    pub fn ranks(&self) -> Vec<Rank> {
        match self {
            Self::Mismatch { sides, .. } => sides.iter().map(|side| side.rank).collect(),
            Self::PeerFailed { ranks, .. }
            | Self::PeerSilent { ranks, .. }
            | Self::Aborted { ranks, .. }
            | Self::HookPanicked { ranks, .. }
            | Self::DriverPanicked { ranks, .. }
            | Self::Protocol { ranks, .. } => ranks.clone(),
            Self::Timeout { missing, .. } => missing.clone(),
            Self::Invalid { .. } => Vec::new(),
        }
    }

    /// The same for a call of several steps, of which one failed.
    pub(crate) fn within(mut self, elapsed: Duration, limit: Duration) -> Self {
        match &mut self {
            Self::Mismatch { context, .. }
            | Self::PeerFailed { context, .. }
            | Self::PeerSilent { context, .. }
            | Self::Timeout { context, .. }
            | Self::Aborted { context, .. }
            | Self::HookPanicked { context, .. }
            | Self::DriverPanicked { context, .. }
            | Self::Protocol { context, .. } => {
                context.elapsed = elapsed;
                context.limit = limit;
            }
            Self::Invalid { .. } => {}
        }
        self
    }

    /// The call that failed, unless it was never started.
    #[must_use]
    pub fn context(&self) -> Option<&Context> {
        match self {
            Self::Mismatch { context, .. }
            | Self::PeerFailed { context, .. }
            | Self::PeerSilent { context, .. }
            | Self::Timeout { context, .. }
            | Self::Aborted { context, .. }
            | Self::HookPanicked { context, .. }
            | Self::DriverPanicked { context, .. }
            | Self::Protocol { context, .. } => Some(context),
            Self::Invalid { .. } => None,
        }
    }
}
