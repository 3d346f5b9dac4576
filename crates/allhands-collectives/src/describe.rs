//! What a call is, as fingerprints, errors and records have it.

use allhands_plan::{Algorithm, Counts, Shape};
use allhands_tensor::{DType, ReduceOp};
use allhands_wire::{Descriptor, Dims, Text};

use crate::communicator::{CallOptions, Message, Spec};
use crate::operation::Operation;
use crate::record::PER_RANK;

/// A message, apart from its length: that is compared message by message, so that the error can tell both.
pub(crate) fn message(message: &Message, options: &CallOptions) -> Descriptor {
    Descriptor {
        op: Operation::Message.code(),
        dtype: message.dtype.code(),
        label: Text::new(&options.label),
        ..Descriptor::default()
    }
}

/// A collective, with its length where all ranks must have the same.
pub(crate) fn collective(spec: &Spec, options: &CallOptions, algorithm: Algorithm) -> Descriptor {
    let of = |counts: &Counts| match counts {
        Counts::Equal(count) => (*count, 1),
        // Lengths differ by rank on purpose: they are compared message by message.
        Counts::PerRank(_) => (0, PER_RANK),
    };
    let (count, extra) = match &spec.shape {
        Shape::AllReduce { len } | Shape::Broadcast { len, .. } | Shape::Reduce { len, .. } => {
            (*len, 0)
        }
        Shape::AllGather { counts, .. }
        | Shape::Gather { counts, .. }
        | Shape::Scatter { counts, .. }
        | Shape::ReduceScatter { counts } => of(counts),
        Shape::AllToAll { send, .. } => of(send),
        Shape::Barrier => (0, 0),
    };
    let root = match &spec.shape {
        Shape::Broadcast { root, .. }
        | Shape::Reduce { root, .. }
        | Shape::Gather { root, .. }
        | Shape::Scatter { root, .. } => Some(root.0),
        _ => None,
    };
    let flat = match &spec.shape {
        Shape::AllReduce { len } | Shape::Broadcast { len, .. } | Shape::Reduce { len, .. } => {
            Some(*len)
        }
        _ => None,
    };
    let shape = match flat {
        Some(len) if spec.dims.is_empty() => Dims::new(&[len]),
        _ => Dims::new(&spec.dims),
    };
    let premul_bits = match spec.reduction {
        Some(ReduceOp::PremulSum(factor)) => factor.to_bits(),
        _ => 0,
    };
    if let Some(part) = spec.part {
        return Descriptor {
            op: part.operation.code(),
            // Sparse tensors are only added.
            reduce_op: ReduceOp::Sum.code(),
            dtype: part.dtype.map_or(0, DType::code),
            algorithm: algorithm.id(),
            extra: u64::from(part.step) << 8 | extra,
            label: Text::new(&options.label),
            shape: Dims::new(&spec.dims),
            ..Descriptor::default()
        };
    }
    Descriptor {
        op: Operation::of(&spec.shape).code(),
        reduce_op: spec.reduction.map_or(0, |op| op.code()),
        dtype: spec.dtype.map_or(0, DType::code),
        algorithm: algorithm.id(),
        root,
        count,
        premul_bits,
        extra,
        label: Text::new(&options.label),
        shape,
    }
}
