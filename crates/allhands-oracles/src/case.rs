//! One golden call: what every rank gives, and what it has to hold afterwards.

use std::fmt;

use allhands_tensor::{DType, ReduceOp};

use crate::{Action, Coordinates, Received, Tolerance, WaitOrder};

/// Which call a case makes.
///
/// The flat and the list form of an operation are kinds of their own, because they take different paths through an
/// implementation although they give the same bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// The root's buffer ends up everywhere.
    Broadcast,
    /// The reduction of all buffers ends up everywhere.
    AllReduce,
    /// The reduction of all buffers ends up at the root.
    Reduce,
    /// Every rank's buffer ends up everywhere, one output buffer per rank.
    AllGather,
    /// The same into one buffer.
    AllGatherBase,
    /// Every rank's buffer ends up at the root, one output buffer per rank.
    Gather,
    /// The root's buffers end up one on each rank.
    Scatter,
    /// Block `r` of the reduction ends up on rank `r`; the blocks are given as a list.
    ReduceScatter,
    /// The same from one buffer.
    ReduceScatterBase,
    /// Block `d` of rank `s` ends up as block `s` of rank `d`; all blocks are equal.
    AllToAllBase,
    /// The same with a size for each pair.
    AllToAllBaseSplits,
    /// The same with one buffer for each peer.
    AllToAll,
    /// Sends and receives with a named source.
    PointToPoint,
    /// Sends, and receives from whichever rank comes first.
    PointToPointAnySource,
    /// No rank returns before the last one has called.
    Barrier,
    /// `allreduce` of tensors in coordinate form.
    SparseAllReduce,
    /// `allreduce` or `broadcast` of several tensors per rank.
    SeveralTensorsPerRank,
    /// Operations on lists of tensors of several sizes in one call.
    Coalesced,
}

impl Kind {
    /// Every kind, in the order in which a tally lists them.
    pub const ALL: [Self; 18] = [
        Self::Broadcast,
        Self::AllReduce,
        Self::Reduce,
        Self::AllGather,
        Self::AllGatherBase,
        Self::Gather,
        Self::Scatter,
        Self::ReduceScatter,
        Self::ReduceScatterBase,
        Self::AllToAllBase,
        Self::AllToAllBaseSplits,
        Self::AllToAll,
        Self::PointToPoint,
        Self::PointToPointAnySource,
        Self::Barrier,
        Self::SparseAllReduce,
        Self::SeveralTensorsPerRank,
        Self::Coalesced,
    ];

    /// The name used in tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Broadcast => "broadcast",
            Self::AllReduce => "all_reduce",
            Self::Reduce => "reduce",
            Self::AllGather => "all_gather (list)",
            Self::AllGatherBase => "all_gather",
            Self::Gather => "gather",
            Self::Scatter => "scatter",
            Self::ReduceScatter => "reduce_scatter (list)",
            Self::ReduceScatterBase => "reduce_scatter",
            Self::AllToAllBase => "all_to_all",
            Self::AllToAllBaseSplits => "all_to_all (splits)",
            Self::AllToAll => "all_to_all (list)",
            Self::PointToPoint => "send, recv",
            Self::PointToPointAnySource => "send, recv from any",
            Self::Barrier => "barrier",
            Self::SparseAllReduce => "all_reduce (sparse)",
            Self::SeveralTensorsPerRank => "several tensors a rank",
            Self::Coalesced => "coalesced",
        }
    }

    /// Why no group is asked to run this kind, if so: [`DenseGroup`](crate::DenseGroup) has no call for it.
    #[must_use]
    pub const fn out_of_scope(self) -> Option<&'static str> {
        match self {
            Self::SeveralTensorsPerRank => Some("a call takes one tensor per rank"),
            Self::Coalesced => Some("coalesced calls have an interface of their own"),
            _ => None,
        }
    }

    /// Whether every rank has to end with the same bits, whatever the tolerance against torch.
    #[must_use]
    pub const fn agrees_on_all_ranks(self) -> bool {
        matches!(
            self,
            Self::Broadcast
                | Self::AllReduce
                | Self::AllGather
                | Self::AllGatherBase
                | Self::SparseAllReduce
        )
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// How an all-to-all is cut, in elements. `input[s][d]` elements travel from rank `s` to rank `d`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Splits {
    /// By sender: how much it gives to each receiver.
    pub input: Vec<Vec<usize>>,
    /// By receiver: how much it gets from each sender.
    pub output: Vec<Vec<usize>>,
}

/// A point-to-point case: what each rank issues, without waiting in between, and what it must have received.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Programs {
    /// By rank: sends and receives in the order in which they are issued.
    pub actions: Vec<Vec<Action>>,
    /// By rank: what the receives, in the order in which they were issued, end with. For receives from any source the
    /// order is free.
    pub received: Vec<Vec<Received>>,
    /// In which order the rank waits for them.
    pub wait: WaitOrder,
}

/// Sparse tensors and their sum.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SparseSum {
    /// By rank: what it gives.
    pub inputs: Vec<Coordinates>,
    /// What every rank has to hold afterwards, coalesced.
    pub expected: Coordinates,
}

/// One golden call.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Case {
    /// The identifier in the data, such as `c0042`.
    pub id: String,
    /// Which call.
    pub kind: Kind,
    /// Number of ranks.
    pub world: u32,
    /// Type of the elements.
    pub dtype: DType,
    /// The reduction, where there is one.
    pub reduce_op: Option<ReduceOp>,
    /// The root, where there is one.
    pub root: Option<u32>,
    /// Shape of one rank's tensor as the data gives it; empty for a scalar.
    pub shape: Vec<usize>,
    /// By rank: the bytes it gives. Empty for a rank that gives none.
    pub inputs: Vec<Vec<u8>>,
    /// By rank: the bytes it has to hold afterwards. `None` where nothing is promised.
    pub expected: Vec<Option<Vec<u8>>>,
    /// How near the result has to be.
    pub tolerance: Tolerance,
    /// How an uneven all-to-all is cut.
    pub splits: Option<Splits>,
    /// The programs of a point-to-point case.
    pub programs: Option<Programs>,
    /// The tensors of a sparse case.
    pub sparse: Option<SparseSum>,
}

impl Case {
    /// The sentence that names this case in a failure.
    #[must_use]
    pub fn describe(&self) -> String {
        let mut text = format!(
            "{} {} world {} {} {:?}",
            self.id,
            self.kind,
            self.world,
            self.dtype.name(),
            self.shape
        );
        if let Some(op) = self.reduce_op {
            text += &format!(" {}", op.name());
        }
        if let Some(root) = self.root {
            text += &format!(" root {root}");
        }
        text
    }
}
