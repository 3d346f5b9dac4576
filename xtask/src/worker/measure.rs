//! Serves a driver's commands with a group: sets cells up, verifies them, and times them.

use std::time::Instant;

use allhands_tensor::Tensor;
use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use half::{bf16, f16};

use super::collectives::Collectives;
use super::control::Control;
use super::pattern::{self, Place, Value};
use super::sparse::Rows;
use crate::bench::cells::{Dtype, Operation, Reduction};
use crate::bench::protocol::{MAX_SAMPLES, Reply};
use crate::bench::stats::Times;

/// Says hello and serves commands until the driver says `quit`.
///
/// # Errors
/// The driver is gone. What goes wrong inside a command is an answer.
pub fn serve<C: Collectives>(control: &Control, group: &C) -> Result<()> {
    let (rank, pid) = (group.rank(), std::process::id());
    control.reply(&Reply::Hello { rank, pid, what: group.what() })?;
    let mut bench = Bench::new(group);
    while let Some(line) = control.next()? {
        control.answer(bench.command(&line))?;
    }
    Ok(())
}

/// A group and the cell that is set up on it.
pub struct Bench<'a, C> {
    group: &'a C,
    cell: Option<Box<dyn Passes<C>>>,
}

impl<'a, C: Collectives> Bench<'a, C> {
    /// No cell yet.
    #[must_use]
    pub fn new(group: &'a C) -> Self {
        Self { group, cell: None }
    }

    /// Carries out one command line.
    ///
    /// # Errors
    /// The line is malformed, no cell is set up, or the group failed.
    pub fn command(&mut self, line: &str) -> Result<Reply> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |at: usize| -> Result<u64> {
            Ok(words.get(at).with_context(|| format!("`{line}` is too short"))?.parse()?)
        };
        match words.first().copied().unwrap_or_default() {
            "cell" => {
                self.cell = None;
                self.cell = Some(set_up(self.group, &words)?);
                Ok(Reply::Ready)
            }
            "verify" => {
                let group = self.group;
                Ok(Reply::Wrong(self.ready()?.verify(group)?))
            }
            "loop" => {
                let (warm, iterations) = (number(1)?, number(2)?);
                let group = self.group;
                let cell = self.ready()?;
                for _ in 0..warm {
                    cell.pass(group)?;
                }
                group.barrier()?;
                let start = Instant::now();
                for _ in 0..iterations {
                    cell.pass(group)?;
                }
                Ok(Reply::Elapsed(nanoseconds(start)))
            }
            word @ ("each" | "latency") => {
                let iterations = number(1)?.min(MAX_SAMPLES);
                let group = self.group;
                let cell = self.ready()?;
                let mut times = Times::default();
                group.barrier()?;
                for _ in 0..iterations {
                    if word == "latency" {
                        group.barrier()?;
                    }
                    let start = Instant::now();
                    cell.pass(group)?;
                    times.add(nanoseconds(start), 1);
                }
                Ok(Reply::Samples(times.pairs()))
            }
            "drop" => {
                self.cell = None;
                Ok(Reply::Ready)
            }
            _ => bail!("unknown command `{line}`"),
        }
    }

    fn ready(&mut self) -> Result<&mut dyn Passes<C>> {
        match &mut self.cell {
            Some(cell) => Ok(&mut **cell),
            None => bail!("no cell is set up"),
        }
    }
}

fn fill<T: Value>(slots: &mut [T], of: impl Fn(u64) -> u64) {
    for (i, slot) in (0..).zip(slots) {
        *slot = T::of(of(i));
    }
}

fn nanoseconds(start: Instant) -> u64 {
    start.elapsed().as_nanos().try_into().unwrap_or(u64::MAX)
}

/// A cell whose element type is fixed.
pub(super) trait Passes<C> {
    /// Runs the operation once on every tensor.
    fn pass(&mut self, group: &C) -> Result<()>;
    /// Runs a pass on the pattern and counts the elements that are not as expected.
    fn verify(&mut self, group: &C) -> Result<u64>;
}

struct Buffers<T> {
    operation: Operation,
    reduction: Reduction,
    place: Place,
    tensors: Vec<(u64, Tensor, Tensor)>,
    element: std::marker::PhantomData<T>,
}

/// Parses `cell OP DTYPE REDOP ROOT COUNTS` and allocates touched buffers.
fn set_up<C: Collectives>(group: &C, words: &[&str]) -> Result<Box<dyn Passes<C>>> {
    let [_, operation, dtype, reduction, root, counts] = words else {
        bail!("a cell needs an operation, a type, a reduction, a root and counts");
    };
    let operation = named::<Operation>(operation)?;
    let reduction = named::<Reduction>(reduction)?;
    let place = Place { rank: group.rank(), world: group.world(), root: root.parse()? };
    let counts = counts.split(',').map(str::parse).collect::<Result<Vec<u64>, _>>()?;
    if operation == Operation::AllReduceSparse {
        return Ok(match named::<Dtype>(dtype)? {
            Dtype::F32 => Rows::<f32>::boxed(place, &counts)?,
            Dtype::F64 => Rows::<f64>::boxed(place, &counts)?,
            Dtype::F16 => Rows::<f16>::boxed(place, &counts)?,
            Dtype::Bf16 => Rows::<bf16>::boxed(place, &counts)?,
            Dtype::I8 => Rows::<i8>::boxed(place, &counts)?,
            Dtype::U8 => Rows::<u8>::boxed(place, &counts)?,
            Dtype::I32 => Rows::<i32>::boxed(place, &counts)?,
            Dtype::I64 => Rows::<i64>::boxed(place, &counts)?,
        });
    }
    let shape = (operation, reduction, place, counts.as_slice());
    Ok(match named::<Dtype>(dtype)? {
        Dtype::F32 => Buffers::<f32>::boxed(group, shape)?,
        Dtype::F64 => Buffers::<f64>::boxed(group, shape)?,
        Dtype::F16 => Buffers::<f16>::boxed(group, shape)?,
        Dtype::Bf16 => Buffers::<bf16>::boxed(group, shape)?,
        Dtype::I8 => Buffers::<i8>::boxed(group, shape)?,
        Dtype::U8 => Buffers::<u8>::boxed(group, shape)?,
        Dtype::I32 => Buffers::<i32>::boxed(group, shape)?,
        Dtype::I64 => Buffers::<i64>::boxed(group, shape)?,
    })
}

fn named<T: ValueEnum>(word: &str) -> Result<T> {
    T::from_str(word, false).map_err(anyhow::Error::msg)
}

impl<T: Value> Buffers<T> {
    fn boxed<C: Collectives>(
        group: &C,
        (operation, reduction, place, counts): (Operation, Reduction, Place, &[u64]),
    ) -> Result<Box<dyn Passes<C>>>
    where
        Self: 'static,
    {
        let world = u64::from(place.world);
        let at_root = if place.rank == place.root { world } else { 0 };
        let (ins, outs) = match operation {
            Operation::AllReduce | Operation::Broadcast | Operation::Reduce => (0, 1),
            Operation::AllGather => (1, world),
            Operation::Gather => (1, at_root),
            Operation::Scatter => (at_root, 1),
            Operation::ReduceScatter => (world, 1),
            Operation::AllToAll => (world, world),
            Operation::SendRecv => (0, 1),
            Operation::Barrier => (0, 0),
            Operation::AllReduceSparse => bail!("sparse tensors have buffers of their own"),
        };
        let touched = |elements: u64| -> Result<Tensor> {
            let mut tensor = group.alloc(T::DTYPE, usize::try_from(elements)?)?;
            // Writing maps the pages; zeroed memory from the system is not there yet.
            tensor.as_mut_slice::<T>()?.fill(T::of(0));
            Ok(tensor)
        };
        let tensors = counts
            .iter()
            .map(|&count| Ok((count, touched(count * ins)?, touched(count * outs)?)))
            .collect::<Result<_>>()?;
        let element = std::marker::PhantomData;
        Ok(Box::new(Self { operation, reduction, place, tensors, element }))
    }
}

impl<T: Value, C: Collectives> Passes<C> for Buffers<T> {
    fn pass(&mut self, group: &C) -> Result<()> {
        let (reduction, Place { rank, world, root }) = (self.reduction, self.place);
        for (_, input, output) in &mut self.tensors {
            let (input, output) = (input.as_slice::<T>()?, output.as_mut_slice::<T>()?);
            match self.operation {
                Operation::AllReduce => group.all_reduce(output, reduction)?,
                Operation::Broadcast => group.broadcast(output, root)?,
                Operation::Reduce => group.reduce(output, reduction, root)?,
                Operation::AllGather => group.all_gather(input, output)?,
                Operation::Gather => group.gather(input, output, root)?,
                Operation::Scatter => group.scatter(input, output, root)?,
                Operation::ReduceScatter => group.reduce_scatter(input, output, reduction)?,
                Operation::AllToAll => group.all_to_all(input, output)?,
                Operation::SendRecv if rank ^ 1 >= world => {}
                Operation::SendRecv if rank & 1 == 1 => {
                    group.recv(output, rank ^ 1)?;
                    group.send(output, rank ^ 1)?;
                }
                Operation::SendRecv => {
                    group.send(output, rank ^ 1)?;
                    group.recv(output, rank ^ 1)?;
                }
                Operation::Barrier => group.barrier()?,
                Operation::AllReduceSparse => {
                    bail!("sparse tensors have buffers of their own")
                }
            }
        }
        Ok(())
    }

    fn verify(&mut self, group: &C) -> Result<u64> {
        let rank = self.place.rank;
        for (_, input, output) in &mut self.tensors {
            if self.operation.in_place() {
                fill(output.as_mut_slice::<T>()?, |i| pattern::value(rank, i));
            } else {
                fill(input.as_mut_slice::<T>()?, |i| pattern::value(rank, i));
                fill(output.as_mut_slice::<T>()?, |_| pattern::POISON);
            }
        }
        self.pass(group)?;
        let Self { operation, reduction, place, .. } = *self;
        let judged = operation != Operation::Reduce || place.rank == place.root;
        let mut wrong = 0;
        for (count, input, output) in &mut self.tensors {
            if judged {
                let expect = |i| pattern::expected::<T>(operation, reduction, place, *count, i);
                let results = (0..).zip(output.as_slice::<T>()?);
                wrong += results.filter(|(i, got)| **got != expect(*i)).count() as u64;
            }
            for tensor in [input, output] {
                // Zeros stay zeros under every reduction, so no loop ever meets denormals.
                tensor.as_mut_slice::<T>()?.fill(T::of(0));
            }
        }
        Ok(wrong)
    }
}

#[cfg(test)]
mod tests {
    use allhands_group::SparseTensor;

    use super::*;

    /// A world of one rank, where every collective copies, or forgets to.
    struct Alone {
        work: Work,
    }

    #[derive(PartialEq)]
    enum Work {
        Done,
        Skipped,
    }

    impl Alone {
        fn copy<T: Value>(&self, input: &[T], output: &mut [T]) -> Result<()> {
            if self.work == Work::Done {
                output.copy_from_slice(input);
            }
            Ok(())
        }
    }

    impl Collectives for Alone {
        fn rank(&self) -> u32 {
            0
        }
        fn world(&self) -> u32 {
            1
        }
        fn what(&self) -> String {
            "alone".into()
        }
        fn barrier(&self) -> Result<()> {
            Ok(())
        }
        fn all_reduce<T: Value>(&self, _: &mut [T], _: Reduction) -> Result<()> {
            Ok(())
        }
        fn all_reduce_sparse(&self, input: &SparseTensor, output: &mut SparseTensor) -> Result<()> {
            if self.work == Work::Done {
                *output = input.duplicate().coalesce()?;
            }
            Ok(())
        }
        fn broadcast<T: Value>(&self, _: &mut [T], _: u32) -> Result<()> {
            Ok(())
        }
        fn reduce<T: Value>(&self, _: &mut [T], _: Reduction, _: u32) -> Result<()> {
            Ok(())
        }
        fn all_gather<T: Value>(&self, input: &[T], output: &mut [T]) -> Result<()> {
            self.copy(input, output)
        }
        fn gather<T: Value>(&self, input: &[T], output: &mut [T], _: u32) -> Result<()> {
            self.copy(input, output)
        }
        fn scatter<T: Value>(&self, input: &[T], output: &mut [T], _: u32) -> Result<()> {
            self.copy(input, output)
        }
        fn reduce_scatter<T: Value>(
            &self,
            input: &[T],
            output: &mut [T],
            _: Reduction,
        ) -> Result<()> {
            self.copy(input, output)
        }
        fn all_to_all<T: Value>(&self, input: &[T], output: &mut [T]) -> Result<()> {
            self.copy(input, output)
        }
        fn send<T: Value>(&self, _: &[T], _: u32) -> Result<()> {
            bail!("nobody to send to")
        }
        fn recv<T: Value>(&self, _: &mut [T], _: u32) -> Result<()> {
            bail!("nobody to hear from")
        }
    }

    #[test]
    fn every_operation_and_type_verifies() {
        let group = Alone { work: Work::Done };
        let mut bench = Bench::new(&group);
        for operation in Operation::ALL {
            for dtype in ["f32", "f64", "f16", "bf16", "i8", "u8", "i32", "i64"] {
                let line = format!("cell {} {dtype} sum 0 5,1", operation.name());
                assert_eq!(bench.command(&line).unwrap(), Reply::Ready);
                assert_eq!(bench.command("verify").unwrap(), Reply::Wrong(0), "{line}");
                assert!(matches!(bench.command("loop 1 3").unwrap(), Reply::Elapsed(_)));
                let Reply::Samples(samples) = bench.command("latency 7").unwrap() else { panic!() };
                assert_eq!(samples.iter().map(|(_, n)| n).sum::<u64>(), 7);
            }
        }
    }

    #[test]
    fn what_was_not_done_is_counted_and_what_failed_is_said() {
        let group = Alone { work: Work::Skipped };
        let mut bench = Bench::new(&group);
        for operation in Operation::ALL.into_iter().filter(|op| op.blocked()) {
            bench.command(&format!("cell {} f32 sum 0 64,3", operation.name())).unwrap();
            assert_eq!(bench.command("verify").unwrap(), Reply::Wrong(67));
        }
        bench.command("cell all_reduce_sparse f32 sum 0 640").unwrap();
        assert_eq!(bench.command("verify").unwrap(), Reply::Wrong(640));
        bench.command("drop").unwrap();
        assert!(bench.command("verify").unwrap_err().to_string().contains("no cell"));
    }

    #[test]
    fn malformed_commands_are_refused() {
        let group = Alone { work: Work::Done };
        let mut bench = Bench::new(&group);
        for line in
            ["", "cell", "cell all_reduce f32 sum 0 x", "cell jump f32 sum 0 1", "loop", "each x"]
        {
            assert!(bench.command(line).is_err(), "{line}");
        }
    }
}
