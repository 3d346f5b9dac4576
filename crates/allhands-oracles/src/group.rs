//! How an implementation shows itself to the harness.

use allhands_tensor::{DType, ReduceOp};

use crate::refusal::Rule;
use crate::{Coordinates, Kind};

/// One thing a rank of a point-to-point case issues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send `data` to `peer`.
    Send {
        /// The receiver.
        peer: u32,
        /// The tag both sides use.
        tag: u32,
        /// The payload.
        data: Vec<u8>,
    },
    /// Receive `len` bytes from `peer`.
    Receive {
        /// The sender.
        peer: u32,
        /// The tag both sides use.
        tag: u32,
        /// Length of the payload in bytes.
        len: usize,
    },
    /// Receive `len` bytes from whichever rank sends first.
    ReceiveAny {
        /// The tag both sides use.
        tag: u32,
        /// Length of the payload in bytes.
        len: usize,
    },
}

/// What one receive ended with.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Received {
    /// The sender.
    pub from: u32,
    /// The payload.
    pub data: Vec<u8>,
}

/// In which order a rank waits for what it has issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitOrder {
    /// As issued.
    Issued,
    /// Last one first.
    Reversed,
}

/// One rank of a group under test.
///
/// All buffers are bytes, row-major, little-endian, of any alignment; lengths are in bytes, counts in elements of `dtype`.
/// Calls block. The contents of output buffers before a call are a pattern that no case expects.
pub trait DenseGroup {
    /// Why a call failed. `Debug` is what a failing case prints.
    type Error: std::fmt::Debug;

    /// This rank.
    fn rank(&self) -> u32;

    /// Number of ranks.
    fn world(&self) -> u32;

    /// Why this implementation does not run cases of `kind`; they are counted as not applicable, with this reason.
    fn not_applicable(&self, kind: Kind) -> Option<&'static str> {
        let _ = kind;
        None
    }

    /// Which rule a refusal enforced; `None` for an error that is not about one of the rules.
    fn rule(error: &Self::Error) -> Option<Rule>;

    /// Afterwards `data` is the root's on every rank.
    fn broadcast(&mut self, dtype: DType, data: &mut [u8], root: u32) -> Result<(), Self::Error>;

    /// Afterwards `data` is the reduction on every rank.
    fn all_reduce(
        &mut self,
        dtype: DType,
        op: ReduceOp,
        data: &mut [u8],
    ) -> Result<(), Self::Error>;

    /// The coalesced reduction of all ranks' sparse tensors.
    fn all_reduce_sparse(
        &mut self,
        dtype: DType,
        op: ReduceOp,
        tensor: &Coordinates,
    ) -> Result<Coordinates, Self::Error>;

    /// Afterwards `data` is the reduction on the root, and anything elsewhere.
    fn reduce(
        &mut self,
        dtype: DType,
        op: ReduceOp,
        data: &mut [u8],
        root: u32,
    ) -> Result<(), Self::Error>;

    /// Afterwards `output` is the inputs of all ranks one after the other.
    fn all_gather(
        &mut self,
        dtype: DType,
        input: &[u8],
        output: &mut [u8],
    ) -> Result<(), Self::Error>;

    /// Afterwards `outputs[r]` is the input of rank `r`.
    fn all_gather_list(
        &mut self,
        dtype: DType,
        input: &[u8],
        outputs: &mut [&mut [u8]],
    ) -> Result<(), Self::Error>;

    /// Afterwards `outputs[r]` on the root is the input of rank `r`. Only the root passes outputs.
    fn gather(
        &mut self,
        dtype: DType,
        input: &[u8],
        outputs: Option<&mut [&mut [u8]]>,
        root: u32,
    ) -> Result<(), Self::Error>;

    /// Afterwards `output` is the root's `inputs[rank]`. Only the root passes inputs.
    fn scatter(
        &mut self,
        dtype: DType,
        inputs: Option<&[&[u8]]>,
        output: &mut [u8],
        root: u32,
    ) -> Result<(), Self::Error>;

    /// Afterwards `output` is block `rank` of the reduction of all inputs.
    fn reduce_scatter(
        &mut self,
        dtype: DType,
        op: ReduceOp,
        input: &[u8],
        output: &mut [u8],
    ) -> Result<(), Self::Error>;

    /// Afterwards `output` is the reduction of `inputs[rank]` of all ranks.
    fn reduce_scatter_list(
        &mut self,
        dtype: DType,
        op: ReduceOp,
        inputs: &[&[u8]],
        output: &mut [u8],
    ) -> Result<(), Self::Error>;

    /// Afterwards block `s` of `output` is block `rank` of the input of rank `s`; all blocks are equal.
    fn all_to_all(
        &mut self,
        dtype: DType,
        input: &[u8],
        output: &mut [u8],
    ) -> Result<(), Self::Error>;

    /// The same with blocks of `send_counts[d]` and `recv_counts[s]` elements.
    fn all_to_all_splits(
        &mut self,
        dtype: DType,
        input: &[u8],
        send_counts: &[usize],
        output: &mut [u8],
        recv_counts: &[usize],
    ) -> Result<(), Self::Error>;

    /// Afterwards `outputs[s]` is `inputs[rank]` of rank `s`.
    fn all_to_all_list(
        &mut self,
        dtype: DType,
        inputs: &[&[u8]],
        outputs: &mut [&mut [u8]],
    ) -> Result<(), Self::Error>;

    /// Issues all of `program` in order without waiting, waits in `order`, and returns what the receives ended with, in the
    /// order in which they were issued.
    fn point_to_point(
        &mut self,
        dtype: DType,
        program: &[Action],
        order: WaitOrder,
    ) -> Result<Vec<Received>, Self::Error>;

    /// Returns when every rank has called it.
    fn barrier(&mut self) -> Result<(), Self::Error>;
}
