//! Names and numbers of the operations, as they travel in fingerprints and stand in errors.

use std::fmt;

use allhands_plan::{Algorithm, Rank, Shape};
use allhands_tensor::{DType, ReduceOp};
use allhands_wire::Descriptor;

/// Which operation a call is. The number rides in every frame, so it never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum Operation {
    /// Every rank gets the reduction of all.
    AllReduce = 1,
    /// Every rank gets the root's elements.
    Broadcast = 2,
    /// The root gets the reduction of all.
    Reduce = 3,
    /// Every rank gets every block.
    AllGather = 4,
    /// The root gets every block.
    Gather = 5,
    /// Every rank gets its block from the root.
    Scatter = 6,
    /// Every rank gets its block of the reduction.
    ReduceScatter = 7,
    /// Every rank sends every rank a block.
    AllToAll = 8,
    /// No rank goes on before all have come.
    Barrier = 9,
    /// A point-to-point message; the same number on both sides.
    Message = 10,
    /// Every rank gets the sum of all sparse tensors.
    AllReduceSparse = 11,
    /// The same at positions that all ranks know.
    AllReduceSparseAt = 12,
}

impl Operation {
    const ALL: [Self; 12] = [
        Self::AllReduce,
        Self::Broadcast,
        Self::Reduce,
        Self::AllGather,
        Self::Gather,
        Self::Scatter,
        Self::ReduceScatter,
        Self::AllToAll,
        Self::Barrier,
        Self::Message,
        Self::AllReduceSparse,
        Self::AllReduceSparseAt,
    ];

    /// The number on the wire.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The operation with this number.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|op| op.code() == code)
    }

    /// The name in errors and traces.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::AllReduce => "all_reduce",
            Self::Broadcast => "broadcast",
            Self::Reduce => "reduce",
            Self::AllGather => "all_gather",
            Self::Gather => "gather",
            Self::Scatter => "scatter",
            Self::ReduceScatter => "reduce_scatter",
            Self::AllToAll => "all_to_all",
            Self::Barrier => "barrier",
            Self::Message => "send/recv",
            Self::AllReduceSparse => "all_reduce_sparse",
            Self::AllReduceSparseAt => "all_reduce_sparse_at",
        }
    }

    /// The operation that computes `shape`.
    #[must_use]
    pub fn of(shape: &Shape) -> Self {
        match shape {
            Shape::AllReduce { .. } => Self::AllReduce,
            Shape::Broadcast { .. } => Self::Broadcast,
            Shape::Reduce { .. } => Self::Reduce,
            Shape::AllGather { .. } => Self::AllGather,
            Shape::Gather { .. } => Self::Gather,
            Shape::Scatter { .. } => Self::Scatter,
            Shape::ReduceScatter { .. } => Self::ReduceScatter,
            Shape::AllToAll { .. } => Self::AllToAll,
            Shape::Barrier => Self::Barrier,
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

pub(crate) fn reduction_name(code: u8) -> Option<&'static str> {
    use ReduceOp::{Avg, BitAnd, BitOr, BitXor, Max, Min, PremulSum, Product, Sum};
    [Sum, Product, Min, Max, BitAnd, BitOr, BitXor, Avg, PremulSum(1.0)]
        .into_iter()
        .find(|op| op.code() == code)
        .map(|op| op.name())
}

/// One rank's call of an operation, as errors tell it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CallFacts {
    /// Which operation; `None` for a number that this version does not know.
    pub operation: Option<Operation>,
    /// Name of the reduction, where there is one.
    pub reduction: Option<&'static str>,
    /// Element type, where there is one.
    pub dtype: Option<DType>,
    /// Root, where there is one.
    pub root: Option<Rank>,
    /// Elements; 0 for sparse tensors, of which every rank has as many as it likes.
    pub count: u64,
    /// Dimensions, where the call had a tensor.
    pub shape: Vec<u64>,
    /// Number of the algorithm; 0 where it is not known.
    pub algorithm: u8,
}

impl CallFacts {
    pub(crate) fn of(descriptor: &Descriptor) -> Self {
        Self {
            operation: Operation::from_code(descriptor.op),
            reduction: reduction_name(descriptor.reduce_op),
            dtype: DType::from_code(descriptor.dtype),
            root: descriptor.root.map(Rank),
            count: descriptor.count,
            shape: descriptor.shape.as_slice().to_vec(),
            algorithm: descriptor.algorithm,
        }
    }
}

impl fmt::Display for CallFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.operation {
            Some(operation) => write!(f, "{operation}")?,
            None => f.write_str("an unknown operation")?,
        }
        if let Some(reduction) = self.reduction {
            write!(f, "({reduction})")?;
        }
        let sparse = matches!(
            self.operation,
            Some(Operation::AllReduceSparse | Operation::AllReduceSparseAt)
        );
        match self.dtype {
            Some(dtype) if sparse => write!(f, " of {dtype}")?,
            Some(dtype) => write!(f, " of {} {dtype}", self.count)?,
            None => {}
        }
        if !self.shape.is_empty() {
            write!(f, " in shape {:?}", self.shape)?;
        }
        if let Some(root) = self.root {
            write!(f, " with root {}", root.0)?;
        }
        match (self.algorithm, Algorithm::from_id(self.algorithm)) {
            // That of a step says nothing of the call.
            _ if sparse => {}
            (0, _) => {}
            (_, Some(algorithm)) => write!(f, " by {}", algorithm.name())?,
            (unknown, None) => write!(f, " by algorithm {unknown}")?,
        }
        Ok(())
    }
}
