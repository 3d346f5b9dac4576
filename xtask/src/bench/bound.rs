//! What an all_reduce in shared memory takes at least, measured beside each cell.
//!
//! The program is `crates/allhands-shm/examples/bound.rs`: copies, sums and flags, and nothing else.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::cells::{Cell, Dtype, Operation, Reduction};
use super::cli::Transport;
use super::launch::{Spec, System};
use super::limits::{Effort, Limit, Unit};
use super::protocol::Reply;
use super::stats::Rounds;

/// How long one command may take; ranks give up on each other a little earlier.
const PATIENCE: Duration = Duration::from_secs(90);
/// Operations of a measurement at most.
const ITERATIONS_MAX: u64 = 20_000;
/// What the names of these limits begin with.
const PREFIX: &str = "allreduce_bound_";
/// The name of the variant that finds its data in shared memory.
const SHARED: &str = "user_buffers_shared";
/// Chunks of the other variants, in KiB.
const CHUNKS: [u64; 3] = [32, 128, 512];
/// Slices are cut from this size on.
const SLICED_FROM: u64 = 4096;
/// The most ranks that the program takes.
const WORLD_MAX: u32 = 8;

/// A way to reduce: the program's name for it, and bytes of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Variant {
    name: &'static str,
    chunk: u64,
}

impl Variant {
    /// Those that differ for `bytes`.
    fn all(bytes: u64) -> Vec<Self> {
        let mut all = vec![Self { name: SHARED, chunk: 0 }];
        let mut shorter = 0;
        for chunk in CHUNKS.map(|kib| kib << 10) {
            // A chunk that holds everything is like the next longer one.
            if shorter < bytes {
                all.push(Self { name: "staged_oneshot", chunk });
                if bytes >= SLICED_FROM {
                    all.push(Self { name: "staged_slices", chunk });
                }
            }
            shorter = chunk;
        }
        all
    }

    fn limit(self) -> String {
        match self.chunk {
            0 => format!("{PREFIX}{}", self.name),
            chunk => format!("{PREFIX}{}_chunk{}K", self.name, chunk >> 10),
        }
    }
}

/// The program's processes.
#[derive(Debug)]
pub struct Bound {
    system: System,
    world: u32,
    rounds: u32,
    effort: Effort,
}

impl Bound {
    /// Starts the program `path`, one process a rank, each on the core of its number modulo the cores.
    ///
    /// # Errors
    /// A process did not come up.
    pub fn start(path: &Path, world: u32, rounds: u32, effort: Effort) -> Result<Self> {
        let process = |rank: u32| {
            let mut command = Command::new(path);
            command.args([rank.to_string(), world.to_string()]);
            command
        };
        let spec = Spec { name: "bound".into(), processes: (0..world).map(process).collect() };
        Ok(Self { system: System::start(spec, world, PATIENCE)?, world, rounds, effort })
    }

    /// Measures every variant for the cell in turns, after each has computed a right sum. Its memory is given back.
    ///
    /// # Errors
    /// A process died or did not answer in time, or a sum was wrong.
    pub fn measure(&mut self, cell: &Cell) -> Result<Vec<Limit>> {
        let bytes = cell.bytes(self.world);
        let variants = Variant::all(bytes);
        self.open(bytes)?;
        for variant in &variants {
            for reply in self.ask(&format!("check {} {}", variant.name, variant.chunk))? {
                ensure!(reply == Reply::Wrong(0), "{} of {bytes}: {reply:?}", variant.limit());
            }
        }
        let most = match self.effort {
            Effort::Full => 256 << 20,
            Effort::Smoke => 8 << 20,
        };
        let iterations = (most / bytes).clamp(1, ITERATIONS_MAX);
        let warm = (iterations / 10).max(1);
        let mut values = vec![Vec::new(); variants.len()];
        for _ in 0..self.rounds {
            for (variant, values) in variants.iter().zip(&mut values) {
                let mut slowest = 0;
                let line = format!("run {} {} {warm} {iterations}", variant.name, variant.chunk);
                for reply in self.ask(&line)? {
                    let Reply::Elapsed(ns) = reply else { bail!("bound answered {reply:?}") };
                    slowest = slowest.max(ns);
                }
                values.push(slowest as f64 / iterations as f64 / 1e3);
            }
        }
        self.ask("close")?;
        let limits = variants.iter().zip(values).filter_map(|(variant, values)| {
            let rounds = Rounds::of(values)?;
            let (name, unit) = (variant.limit(), Unit::Microseconds);
            Some(Limit { name, bytes, processes: self.world, unit, rounds })
        });
        Ok(limits.collect())
    }

    /// Makes memory for `bytes` and shows it to everybody.
    fn open(&mut self, bytes: u64) -> Result<()> {
        let replies = self.ask(&format!("open {bytes}"))?;
        let mut line = String::from("peers");
        for (pid, reply) in self.system.pids().iter().zip(replies) {
            let Reply::Descriptor(at) = reply else { bail!("bound answered {reply:?} to `open`") };
            line += &format!(" {pid}:{at}");
        }
        self.ask(&line)?;
        Ok(())
    }

    fn ask(&mut self, line: &str) -> Result<Vec<Reply>> {
        self.system.ask(line, PATIENCE).context("the bound of shared memory")
    }

    /// Ends the processes.
    pub fn finish(self) {
        self.system.finish();
    }
}

/// Whether there is a bound for the cell in a world: shared memory has to be asked for, since building the program takes long.
#[must_use]
pub fn covers(cell: &Cell, transport: Transport, world: u32) -> bool {
    matches!(transport, Transport::Shm | Transport::Arena)
        && (2..=WORLD_MAX).contains(&world)
        && is_bounded(cell)
}

fn is_bounded(cell: &Cell) -> bool {
    cell.operation == Operation::AllReduce
        && cell.dtype == Dtype::F32
        && cell.reduction == Reduction::Sum
        && cell.model.is_none()
}

/// The least time of the cell among `limits`, in microseconds; buffers in shared memory have one variant more.
#[must_use]
pub fn microseconds(limits: &[Limit], cell: &Cell, world: u32, transport: &str) -> Option<f64> {
    fastest(limits, cell, world, transport).map(|limit| limit.rounds.median)
}

/// The limit whose time that is.
#[must_use]
pub fn fastest<'a>(
    limits: &'a [Limit],
    cell: &Cell,
    world: u32,
    transport: &str,
) -> Option<&'a Limit> {
    if !is_bounded(cell) {
        return None;
    }
    let bytes = cell.bytes(world);
    limits
        .iter()
        .filter(|l| l.bytes == bytes && l.processes == world)
        .filter_map(|l| Some((l, l.name.strip_prefix(PREFIX)?)))
        .filter(|(_, variant)| *variant != SHARED || transport == Transport::Arena.name())
        .map(|(limit, _)| limit)
        .min_by(|a, b| a.rounds.median.total_cmp(&b.rounds.median))
}

/// Whether a limit is one of these.
#[must_use]
pub fn is_one(limit: &Limit) -> bool {
    limit.name.starts_with(PREFIX)
}

#[cfg(test)]
mod tests {
    use super::super::cells::Kind;
    use super::*;

    fn cell(bytes: u64) -> Cell {
        let kind = Kind { dtype: Dtype::F32, reduction: Reduction::Sum, root: 0 };
        Cell::sized(Operation::AllReduce, kind, 2, bytes)
    }

    #[test]
    fn chunks_beyond_the_buffer_are_left_out() {
        let names = |bytes| Variant::all(bytes).iter().map(|v| v.limit()).collect::<Vec<_>>();
        let short =
            ["allreduce_bound_user_buffers_shared", "allreduce_bound_staged_oneshot_chunk32K"];
        assert_eq!(names(4), short);
        assert_eq!(names(4096).len(), 3);
        assert_eq!(names(64 << 10).len(), 5);
        assert_eq!(names(1 << 20).len(), 7);
    }

    #[test]
    fn a_heap_has_no_share_in_the_bound_of_shared_buffers() {
        let limit = |name: &str, us| Limit {
            name: name.into(),
            bytes: 1024,
            processes: 2,
            unit: Unit::Microseconds,
            rounds: Rounds::of(vec![us]).unwrap(),
        };
        let limits = [
            limit("allreduce_bound_user_buffers_shared", 1.0),
            limit("allreduce_bound_staged_oneshot_chunk32K", 3.0),
            limit("allreduce_bound_staged_slices_chunk32K", 2.0),
            limit("tcp_pingpong_spin", 0.5),
        ];
        let of = |bytes, world, transport| microseconds(&limits, &cell(bytes), world, transport);
        assert_eq!(of(1024, 2, "shm"), Some(2.0));
        assert_eq!(of(1024, 2, "arena"), Some(1.0));
        assert_eq!((of(1024, 4, "shm"), of(4096, 2, "shm")), (None, None));
        assert!(covers(&cell(4), Transport::Shm, 2) && !covers(&cell(4), Transport::Tcp, 2));
        assert!(!covers(&cell(4), Transport::Shm, 1) && !covers(&cell(4), Transport::Shm, 9));
    }
}
