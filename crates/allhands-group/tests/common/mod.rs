//! A process group as the golden-data harness sees one.

pub(crate) mod ranks;

use allhands_group::{
    DType, Error, Invalid, OperationError, ProcessGroup, Rank, ReduceOp, SparseTensor, Tensor,
    TensorMut,
};
use allhands_oracles::refusal::Rule;
use allhands_oracles::{Action, Coordinates, DenseGroup, Kind, Received, WaitOrder};

pub(crate) struct Golden(pub(crate) ProcessGroup);

/// Harness buffers may lie anywhere; views need aligned ones.
fn tensor(dtype: DType, bytes: &[u8]) -> Tensor {
    Tensor::from_bytes(dtype, &[bytes.len() / dtype.size()], bytes).unwrap()
}

/// Runs `work` on an aligned copy of `bytes` and copies back what it left.
fn with(
    dtype: DType,
    bytes: &mut [u8],
    work: impl FnOnce(TensorMut<'_>) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut copy = tensor(dtype, bytes);
    let result = work(copy.view_mut());
    bytes.copy_from_slice(copy.as_bytes().unwrap());
    result
}

fn with_list(
    dtype: DType,
    lists: &mut [&mut [u8]],
    work: impl FnOnce(Vec<TensorMut<'_>>) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut copies: Vec<_> = lists.iter().map(|bytes| tensor(dtype, bytes)).collect();
    let result = work(copies.iter_mut().map(Tensor::view_mut).collect());
    for (bytes, copy) in lists.iter_mut().zip(&copies) {
        bytes.copy_from_slice(copy.as_bytes().unwrap());
    }
    result
}

impl DenseGroup for Golden {
    type Error = Error;

    fn rank(&self) -> u32 {
        self.0.rank().0
    }

    fn world(&self) -> u32 {
        self.0.world_size()
    }

    fn not_applicable(&self, kind: Kind) -> Option<&'static str> {
        (kind == Kind::PointToPointAnySource).then_some("a receive names its source")
    }

    fn rule(error: &Error) -> Option<Rule> {
        let Error::Operation(error) = error else { return None };
        let reason = match error {
            OperationError::Timeout { .. } => return Some(Rule::Timeout),
            OperationError::Invalid { reason, .. } => reason,
            _ => return None,
        };
        Some(match reason {
            Invalid::Rank { what: "root", .. } => Rule::Root,
            Invalid::Entries { .. } => Rule::ListLength,
            Invalid::Dtype { .. } => Rule::Dtype,
            Invalid::Length { .. } => Rule::Shape,
            Invalid::Splits { .. } => Rule::Splits,
            Invalid::Indivisible { .. } => Rule::Indivisible,
            Invalid::Reduction(_) => Rule::Reduction,
            Invalid::RootOnly { .. } => Rule::RootBuffers,
            Invalid::Strided { .. } => Rule::Contiguous,
            Invalid::SparseReduction { .. } | Invalid::SparseTensors { .. } => Rule::Sparse,
            _ => return None,
        })
    }

    fn broadcast(&mut self, dtype: DType, data: &mut [u8], root: u32) -> Result<(), Error> {
        with(dtype, data, |data| self.0.broadcast(data, Rank(root)))
    }

    fn all_reduce(&mut self, dtype: DType, op: ReduceOp, data: &mut [u8]) -> Result<(), Error> {
        with(dtype, data, |data| self.0.all_reduce(data, op))
    }

    fn all_reduce_sparse(
        &mut self,
        dtype: DType,
        op: ReduceOp,
        tensor: &Coordinates,
    ) -> Result<Coordinates, Error> {
        let rows = tensor.rows();
        let mut value_shape = vec![rows];
        value_shape.extend_from_slice(&tensor.shape[tensor.sparse_dim..]);
        let indices = Tensor::from_slice(&tensor.indices).with_shape(&[tensor.sparse_dim, rows]);
        let values = Tensor::from_bytes(dtype, &value_shape, &tensor.values).unwrap();
        let sparse = SparseTensor::new(indices.unwrap(), values, &tensor.shape).unwrap();
        let sum = self.0.all_reduce_sparse(&sparse, op)?;
        assert!(sum.is_coalesced());
        let (indices, values) = (sum.indices().to_vec().unwrap(), sum.values());
        let values = values.as_bytes().unwrap().to_vec();
        Ok(Coordinates::new(sum.shape().to_vec(), sum.layout().sparse_dim(), indices, values))
    }

    fn reduce(
        &mut self,
        dtype: DType,
        op: ReduceOp,
        data: &mut [u8],
        root: u32,
    ) -> Result<(), Error> {
        with(dtype, data, |data| self.0.reduce(data, op, Rank(root)))
    }

    fn all_gather(&mut self, dtype: DType, input: &[u8], output: &mut [u8]) -> Result<(), Error> {
        let input = tensor(dtype, input);
        with(dtype, output, |output| self.0.all_gather_into(&input, output))
    }

    fn all_gather_list(
        &mut self,
        dtype: DType,
        input: &[u8],
        outputs: &mut [&mut [u8]],
    ) -> Result<(), Error> {
        let input = tensor(dtype, input);
        with_list(dtype, outputs, |outputs| self.0.all_gather(&input, outputs))
    }

    fn gather(
        &mut self,
        dtype: DType,
        input: &[u8],
        outputs: Option<&mut [&mut [u8]]>,
        root: u32,
    ) -> Result<(), Error> {
        let input = tensor(dtype, input);
        let outputs = outputs.unwrap_or_default();
        with_list(dtype, outputs, |outputs| self.0.gather(&input, outputs, Rank(root)))
    }

    fn scatter(
        &mut self,
        dtype: DType,
        inputs: Option<&[&[u8]]>,
        output: &mut [u8],
        root: u32,
    ) -> Result<(), Error> {
        let inputs: Vec<_> =
            inputs.unwrap_or_default().iter().map(|bytes| tensor(dtype, bytes)).collect();
        with(dtype, output, |output| self.0.scatter(&inputs, output, Rank(root)))
    }

    fn reduce_scatter(
        &mut self,
        dtype: DType,
        op: ReduceOp,
        input: &[u8],
        output: &mut [u8],
    ) -> Result<(), Error> {
        let input = tensor(dtype, input);
        with(dtype, output, |output| self.0.reduce_scatter_into(&input, output, op))
    }

    fn reduce_scatter_list(
        &mut self,
        dtype: DType,
        op: ReduceOp,
        inputs: &[&[u8]],
        output: &mut [u8],
    ) -> Result<(), Error> {
        let inputs: Vec<_> = inputs.iter().map(|bytes| tensor(dtype, bytes)).collect();
        with(dtype, output, |output| self.0.reduce_scatter(&inputs, output, op))
    }

    fn all_to_all(&mut self, dtype: DType, input: &[u8], output: &mut [u8]) -> Result<(), Error> {
        let input = tensor(dtype, input);
        with(dtype, output, |output| self.0.all_to_all_single(&input, output))
    }

    fn all_to_all_splits(
        &mut self,
        dtype: DType,
        input: &[u8],
        send_counts: &[usize],
        output: &mut [u8],
        recv_counts: &[usize],
    ) -> Result<(), Error> {
        let input = tensor(dtype, input);
        with(dtype, output, |output| {
            self.0.all_to_all_single_with_splits(&input, send_counts, output, recv_counts)
        })
    }

    fn all_to_all_list(
        &mut self,
        dtype: DType,
        inputs: &[&[u8]],
        outputs: &mut [&mut [u8]],
    ) -> Result<(), Error> {
        let inputs: Vec<_> = inputs.iter().map(|bytes| tensor(dtype, bytes)).collect();
        with_list(dtype, outputs, |outputs| self.0.all_to_all(&inputs, outputs))
    }

    fn point_to_point(
        &mut self,
        dtype: DType,
        program: &[Action],
        order: WaitOrder,
    ) -> Result<Vec<Received>, Error> {
        let mut works: Vec<_> = program
            .iter()
            .map(|action| match action {
                Action::Send { peer, tag, data } => {
                    (None, self.0.send_async(tensor(dtype, data), Rank(*peer), *tag))
                }
                Action::Receive { peer, tag, len } => {
                    let buffer = Tensor::zeros(dtype, &[len / dtype.size()]);
                    (Some(*peer), self.0.recv_async(buffer, Rank(*peer), *tag))
                }
                // Only calls that no peer answers come here: cases with any source are not run.
                Action::ReceiveAny { tag, len } => {
                    let peer = (self.rank() + 1) % self.world();
                    let buffer = Tensor::zeros(dtype, &[len / dtype.size()]);
                    (Some(peer), self.0.recv_async(buffer, Rank(peer), *tag))
                }
            })
            .map(Some)
            .collect();
        let mut indices: Vec<usize> = (0..works.len()).collect();
        if order == WaitOrder::Reversed {
            indices.reverse();
        }
        let mut received: Vec<Option<Received>> = vec![None; works.len()];
        for index in indices {
            let (from, work) = works[index].take().unwrap();
            let tensor = work.wait()?;
            if let Some(from) = from {
                received[index] =
                    Some(Received { from, data: tensor.as_bytes().unwrap().to_vec() });
            }
        }
        Ok(received.into_iter().flatten().collect())
    }

    fn barrier(&mut self) -> Result<(), Error> {
        self.0.barrier()
    }
}
