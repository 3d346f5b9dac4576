//! A rank under attack: it says on its output what it sees, with times of the machine's monotonic clock.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use allhands_group::env::{Launch, ProcessEnvironment};
use allhands_group::{
    Config, Error, Operation, OperationError, ProcessGroup, Rank, ReduceOp, Tensor,
};
use anyhow::{Context, Result, bail, ensure};

use crate::nemesis::clock::now_ns;
use crate::nemesis::events::{Event, Fault, Holding, Kind};

/// Operations before anything is measured.
const WARM_UP: u64 = 10_000;

/// An operation that takes longer hangs.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Operations after which a rank that serves tells their times.
const WORK_TOLD: usize = 50;

/// Runs `bench-rank nemesis SCENARIO …`.
///
/// # Errors
/// The scenario is unknown, the group cannot be formed, or what must not fail does.
pub fn main(mut args: impl Iterator<Item = String>) -> Result<()> {
    let scenario = args.next().unwrap_or_default();
    let mut number = || -> Result<u64> { Ok(args.next().context("a number is missing")?.parse()?) };
    match scenario.as_str() {
        "kill" => until_error(number()? as usize),
        "mismatch" => mismatches(),
        "soak" => soak(number()?),
        "serve" => serve(),
        _ => bail!("unknown scenario `{scenario}`: cargo xtask nemesis starts this program"),
    }
}

fn say(event: &Event) -> Result<()> {
    let line = serde_json::to_string(event)? + "\n";
    let mut out = std::io::stdout().lock();
    out.write_all(line.as_bytes())?;
    out.flush().context("nobody listens")
}

fn config() -> Config {
    Config { timeout: TIMEOUT, rendezvous_timeout: TIMEOUT, ..Config::default() }
}

fn join() -> Result<ProcessGroup> {
    let launch = Launch::from_variables(&ProcessEnvironment)?;
    Ok(ProcessGroup::from_launch(&launch, config())?)
}

fn fault(error: &Error) -> Fault {
    let kind = match error {
        Error::Operation(OperationError::Mismatch { .. }) => "mismatch",
        Error::Operation(OperationError::PeerFailed { .. }) => "peer failed",
        Error::Operation(OperationError::Timeout { .. }) => "timeout",
        Error::Operation(_) => "another operation's error",
        _ => "not an operation's error",
    };
    Fault {
        at_ns: now_ns(),
        kind: kind.to_owned(),
        ranks: error.ranks().iter().map(|rank| rank.0).collect(),
        text: error.to_string(),
    }
}

/// Reduces until something fails.
fn until_error(len: usize) -> Result<()> {
    let group = join()?;
    let mut data = vec![1.0f32; len];
    let expected = group.world_size() as f32;
    let mut rounds = 0;
    loop {
        data.fill(1.0);
        if let Err(error) = group.all_reduce(&mut data, ReduceOp::Sum) {
            return say(&Event::Failed(fault(&error)));
        }
        ensure!(data.iter().all(|&x| x == expected), "a wrong sum");
        rounds += 1;
        if rounds == 2 {
            say(&Event::Ready)?;
        }
    }
}

/// Elements of a call that ranks disagree about.
const LEN: usize = 1000;

fn call(group: &ProcessGroup, kind: Kind, faulty: bool) -> Result<(), Error> {
    let mut floats = vec![1.0f32; LEN];
    let reduce = |data: &mut Vec<f32>| group.all_reduce(data, ReduceOp::Sum);
    match (kind, faulty) {
        (Kind::Operation, true) => group.broadcast(&mut floats, Rank(0)),
        (Kind::Dtype, true) => group.all_reduce(&mut vec![1i32; LEN], ReduceOp::Sum),
        (Kind::Count, true) => group.all_reduce(&mut vec![1.0f32; LEN + 1], ReduceOp::Sum),
        (Kind::Reduction, true) => group.all_reduce(&mut floats, ReduceOp::Max),
        (Kind::Root, _) => group.broadcast(&mut floats, Rank(u32::from(faulty))),
        (Kind::Order, true) => {
            group.broadcast(&mut floats, Rank(0))?;
            reduce(&mut floats)
        }
        (Kind::Order, false) => {
            reduce(&mut floats)?;
            group.broadcast(&mut floats, Rank(0))
        }
        (_, false) => reduce(&mut floats),
    }
}

/// Every kind of mismatch with every rank at fault, each in a group of its own.
fn mismatches() -> Result<()> {
    let first = join()?;
    let store = first.store().context("ranks of one job share a store")?;
    let cases = Kind::ALL
        .into_iter()
        .flat_map(|kind| (0..first.world_size()).map(move |faulty| (kind, faulty)));
    for (epoch, (kind, faulty)) in (1..).zip(cases) {
        let config = Config { epoch, ..config() };
        let rank = first.rank();
        let group = ProcessGroup::connect(store.clone(), rank, first.world_size(), &config)?;
        // The first group stays sound, so nobody is told of this case while it still waits for it.
        first.barrier()?;
        let began = Instant::now();
        let told = call(&group, kind, rank.0 == faulty).and_then(|()| group.barrier());
        let took_ns = began.elapsed().as_nanos() as u64;
        let error = told.err().with_context(|| format!("{kind:?} by rank {faulty}: not told"))?;
        let facts = match &error {
            Error::Operation(OperationError::Mismatch { sides, .. }) => {
                sides.len() == 2
                    && sides.iter().any(|side| side.rank == Rank(faulty))
                    && sides.iter().all(|side| {
                        side.call.operation != Some(Operation::Barrier)
                            && (LEN as u64..=LEN as u64 + 1).contains(&side.call.count)
                    })
            }
            _ => false,
        };
        ensure!(facts, "{kind:?} by rank {faulty}: {error}");
        say(&Event::Told { kind, faulty, took_ns })?;
    }
    Ok(())
}

/// Many small operations, and what the process holds meanwhile.
fn soak(operations: u64) -> Result<()> {
    let group = join()?;
    let world = f64::from(group.world_size());
    let work = |operations: u64| -> Result<()> {
        for round in 0..operations {
            // Sums of these stay exact.
            let value = (round % 1_000_000) as f64;
            let mut data = [value; 8];
            group.all_reduce(&mut data, ReduceOp::Sum)?;
            ensure!(data == [value * world; 8], "a wrong sum");
        }
        Ok(())
    };
    work(WARM_UP.min(operations))?;
    let tenth = operations / 10;
    for part in 0..=10 {
        let holding = Holding::of(std::process::id())?;
        say(&Event::Holds { operations: part * tenth, at_ns: now_ns(), holding })?;
        if part < 10 {
            work(tenth)?;
        }
    }
    group.barrier()?;
    Ok(())
}

/// Works until this program's input ends, and tells how long each operation took.
fn serve() -> Result<()> {
    let group = join()?;
    let over = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let asked = over.clone();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        asked.store(true, std::sync::atomic::Ordering::Release);
    });
    let expected = group.world_size() as f32;
    let mut took = Vec::new();
    say(&Event::Ready)?;
    loop {
        let tensor = Tensor::from_slice(&[1.0f32; 16_384]);
        let began = Instant::now();
        let tensor = group.all_reduce_async(tensor, ReduceOp::Sum).wait().map_err(Error::from)?;
        took.push(began.elapsed().as_nanos() as u64);
        ensure!(tensor.as_slice::<f32>()?.iter().all(|&x| x == expected), "a wrong sum");
        // Rank 0 decides, so that all do the same.
        let mut end = [u8::from(over.load(std::sync::atomic::Ordering::Acquire))];
        group.broadcast(&mut end, Rank(0))?;
        if took.len() == WORK_TOLD || end == [1] {
            say(&Event::Worked { took_ns: std::mem::take(&mut took) })?;
        }
        if end == [1] {
            return Ok(());
        }
    }
}
