//! allhands under measurement: the process group's blocking verbs on slices.

use std::thread;

use allhands_group::{
    DType, ProcessGroup, Rank, ReduceOp, SparseTensor, Tensor, TensorMut, TensorRef,
};
use anyhow::{Context, Result, anyhow, ensure};

use super::collectives::Collectives;
use super::control::Control;
use super::measure::serve;
use super::pattern::Value;
use crate::bench::cells::Reduction;
use crate::bench::protocol::{ARENA_VARIABLE, SHARE_VARIABLE};

/// Messages of send_recv carry this tag.
const TAG: u32 = 0;

/// Serves as the rank that the environment names.
///
/// # Errors
/// The group cannot be formed or the driver is gone.
pub fn join() -> Result<()> {
    let control = Control::connect()?;
    let group = ProcessGroup::from_env().context("cannot join the group")?;
    ensure!(
        std::env::var_os(SHARE_VARIABLE).is_none() || group.shares_memory(),
        "this rank does not share memory with all others; its log says why"
    );
    let arena = std::env::var_os(ARENA_VARIABLE).is_some();
    serve(&control, &Ours { group, arena })
}

/// Serves as `world` ranks, each a thread of this process.
///
/// # Errors
/// The group cannot be formed, the driver is gone, or a rank panicked.
pub fn local(world: u32) -> Result<()> {
    let groups = ProcessGroup::local(world).context("cannot form a local group")?;
    thread::scope(|scope| {
        let rank =
            |group| scope.spawn(|| serve(&Control::connect()?, &Ours { group, arena: false }));
        let ranks: Vec<_> = groups.into_iter().map(rank).collect();
        ranks
            .into_iter()
            .try_for_each(|rank| rank.join().map_err(|_| anyhow!("a rank panicked"))?)
    })
}

struct Ours {
    group: ProcessGroup,
    /// Buffers lie in memory that is shared.
    arena: bool,
}

fn op(reduction: Reduction) -> ReduceOp {
    match reduction {
        Reduction::Sum => ReduceOp::Sum,
        Reduction::Prod => ReduceOp::Product,
        Reduction::Min => ReduceOp::Min,
        Reduction::Max => ReduceOp::Max,
        Reduction::Avg => ReduceOp::Avg,
    }
}

impl Collectives for Ours {
    fn rank(&self) -> u32 {
        self.group.rank().0
    }

    fn world(&self) -> u32 {
        self.group.world_size()
    }

    fn what(&self) -> String {
        format!("allhands {}", env!("CARGO_PKG_VERSION"))
    }

    fn alloc(&self, dtype: DType, len: usize) -> Result<Tensor> {
        let shape = &[len];
        Ok(if self.arena {
            self.group.alloc(dtype, shape)?
        } else {
            Tensor::try_zeros(dtype, shape)?
        })
    }

    fn barrier(&self) -> Result<()> {
        Ok(self.group.barrier()?)
    }

    fn all_reduce<T: Value>(&self, data: &mut [T], reduction: Reduction) -> Result<()> {
        Ok(self.group.all_reduce(data, op(reduction))?)
    }

    fn all_reduce_sparse(&self, input: &SparseTensor, output: &mut SparseTensor) -> Result<()> {
        Ok(self.group.all_reduce_sparse_into(input, output, ReduceOp::Sum)?)
    }

    fn broadcast<T: Value>(&self, data: &mut [T], root: u32) -> Result<()> {
        Ok(self.group.broadcast(data, Rank(root))?)
    }

    fn reduce<T: Value>(&self, data: &mut [T], reduction: Reduction, root: u32) -> Result<()> {
        Ok(self.group.reduce(data, op(reduction), Rank(root))?)
    }

    fn all_gather<T: Value>(&self, input: &[T], output: &mut [T]) -> Result<()> {
        Ok(self.group.all_gather_into(input, output)?)
    }

    fn gather<T: Value>(&self, input: &[T], output: &mut [T], root: u32) -> Result<()> {
        let blocks = output.chunks_exact_mut(input.len().max(1)).map(TensorMut::from);
        Ok(self.group.gather(input, blocks, Rank(root))?)
    }

    fn scatter<T: Value>(&self, input: &[T], output: &mut [T], root: u32) -> Result<()> {
        let blocks = input.chunks_exact(output.len().max(1)).map(TensorRef::from);
        Ok(self.group.scatter(blocks, output, Rank(root))?)
    }

    fn reduce_scatter<T: Value>(
        &self,
        input: &[T],
        output: &mut [T],
        reduction: Reduction,
    ) -> Result<()> {
        Ok(self.group.reduce_scatter_into(input, output, op(reduction))?)
    }

    fn all_to_all<T: Value>(&self, input: &[T], output: &mut [T]) -> Result<()> {
        Ok(self.group.all_to_all_single(input, output)?)
    }

    fn send<T: Value>(&self, data: &[T], peer: u32) -> Result<()> {
        Ok(self.group.send(data, Rank(peer), TAG)?)
    }

    fn recv<T: Value>(&self, data: &mut [T], peer: u32) -> Result<()> {
        Ok(self.group.recv(data, Rank(peer), TAG)?)
    }
}

#[cfg(test)]
mod tests {
    use super::super::measure::Bench;
    use super::*;
    use crate::bench::cells::Operation;
    use crate::bench::protocol::Reply;

    #[test]
    fn every_operation_verifies_on_three_threads() {
        let groups = ProcessGroup::local(3).unwrap();
        thread::scope(|scope| {
            for group in groups {
                scope.spawn(move || {
                    let ours = Ours { group, arena: true };
                    let mut bench = Bench::new(&ours);
                    for operation in Operation::ALL {
                        for (dtype, redop) in [("f32", "sum"), ("bf16", "avg"), ("i64", "max")] {
                            if redop != "sum" && operation == Operation::AllReduceSparse {
                                continue;
                            }
                            let name = operation.name();
                            let line = format!("cell {name} {dtype} {redop} 1 1,1000");
                            assert_eq!(bench.command(&line).unwrap(), Reply::Ready);
                            assert_eq!(bench.command("verify").unwrap(), Reply::Wrong(0), "{line}");
                        }
                    }
                });
            }
        });
    }
}
