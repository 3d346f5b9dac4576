//! A process group as the golden-data harness sees one, and ranks as processes.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use allhands_group::{
    DType, Error, Invalid, OperationError, ProcessGroup, Rank, ReduceOp, Tensor, TensorMut,
};
use allhands_oracles::refusal::Rule;
use allhands_oracles::{Action, DenseGroup, Kind, Received, WaitOrder};

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
            _ => return None,
        })
    }

    fn broadcast(&mut self, dtype: DType, data: &mut [u8], root: u32) -> Result<(), Error> {
        with(dtype, data, |data| self.0.broadcast(data, Rank(root)))
    }

    fn all_reduce(&mut self, dtype: DType, op: ReduceOp, data: &mut [u8]) -> Result<(), Error> {
        with(dtype, data, |data| self.0.all_reduce(data, op))
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

/// Ranks as processes: this very test program, told by variables to be one of them.
#[allow(dead_code, reason = "not every test file uses it")]
pub(crate) struct Ranks {
    children: Vec<Child>,
}

#[allow(dead_code, reason = "not every test file uses it")]
impl Ranks {
    /// The variable that makes a test program a rank; it holds the folder for its results.
    pub(crate) const WORKER: &'static str = "ALLHANDS_TEST_WORKER";

    /// Starts `world` ranks of the test `name` that meet on `port`.
    pub(crate) fn start(name: &str, world: u32, port: u16, folder: &Path, more: &[(&str, &str)]) -> Self {
        let program = std::env::current_exe().unwrap();
        let children = (0..world)
            .map(|rank| {
                Command::new(&program)
                    .args([name, "--exact", "--nocapture", "--test-threads=1"])
                    .env(Self::WORKER, folder)
                    .env("RANK", rank.to_string())
                    .env("WORLD_SIZE", world.to_string())
                    .env("MASTER_ADDR", "127.0.0.1")
                    .env("MASTER_PORT", port.to_string())
                    .envs(more.iter().copied())
                    .stdin(Stdio::null())
                    .stdout(Stdio::null())
                    .stderr(Stdio::inherit())
                    .spawn()
                    .unwrap()
            })
            .collect();
        Self { children }
    }

    pub(crate) fn kill(&mut self, rank: usize) {
        self.children[rank].kill().unwrap();
    }

    /// Waits for all ranks; returns which ended well.
    pub(crate) fn join(mut self, limit: Duration) -> Vec<bool> {
        let deadline = Instant::now() + limit;
        let mut ends = vec![None; self.children.len()];
        while ends.iter().any(Option::is_none) && Instant::now() < deadline {
            for (end, child) in ends.iter_mut().zip(&mut self.children) {
                if end.is_none() {
                    *end = child.try_wait().unwrap().map(|status| status.success());
                }
            }
            std::thread::park_timeout(Duration::from_millis(2));
        }
        ends.into_iter().map(|end| end.unwrap_or(false)).collect()
    }
}

impl Drop for Ranks {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A port that was free a moment ago.
#[allow(dead_code, reason = "not every test file uses it")]
pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
