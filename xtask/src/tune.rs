//! `cargo xtask tune`: a table of algorithms made by measurement on this machine.
//!
//! Every algorithm runs every collective that it does, with real local ranks: each system is told its
//! algorithm by a table of its own, so nothing but the table differs. Systems are measured in turns.
//! The result is a file that all ranks of a job are given by `ALLHANDS_TABLE`.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use allhands_plan::{Algorithm, Collective, Rank, Row, Table, Worlds};
use anyhow::{Context, Result, ensure};

use crate::bench::cells::{Cell, Dtype, Kind, Operation, Reduction};
use crate::bench::launch::{Spec, System};
use crate::bench::peers::{free_port, rank_environment};
use crate::timing::{PATIENCE, Racer, race, set_up};

/// An algorithm takes over from that of the next smaller size only if it is faster by this factor: less is
/// noise, and a table that follows noise differs from run to run.
const CLEARLY: f64 = 1.05;

/// `cargo xtask tune`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Sizes of groups, ascending. A row holds for the size measured and those below down to the next.
    #[arg(long, value_delimiter = ',', default_values_t = [2, 4])]
    ranks: Vec<u32>,
    /// Bytes, as tables count them, ascending.
    #[arg(
        long,
        value_delimiter = ',',
        default_values_t = [64, 1 << 10, 8 << 10, 64 << 10, 512 << 10, 4 << 20]
    )]
    sizes: Vec<u64>,
    /// The collectives; without them all.
    #[arg(long = "op", value_delimiter = ',')]
    operations: Vec<Operation>,
    /// How ranks reach each other: auto (shared memory) or tcp.
    #[arg(long, default_value = "auto", value_parser = ["auto", "tcp"])]
    transport: String,
    /// How often each algorithm is measured.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Where the table goes; without it to standard output.
    #[arg(long)]
    out: Option<PathBuf>,
    /// A built `bench-rank` to use instead of building one.
    #[arg(long)]
    program: Option<PathBuf>,
}

/// What was measured of a collective in a world: seconds by algorithm, for each size.
type Times = Vec<(u64, Vec<(Algorithm, f64)>)>;

/// Runs `cargo xtask tune`.
///
/// # Errors
/// An algorithm gives a wrong result, ranks fail, or the table cannot be written.
pub fn main(args: &Args) -> Result<()> {
    ensure!(args.ranks.is_sorted() && args.sizes.is_sorted(), "give ranks and sizes ascending");
    ensure!(args.ranks.first().is_some_and(|ranks| *ranks > 1), "groups have two ranks or more");
    let program = match &args.program {
        Some(program) => program.clone(),
        None => crate::program::build()?,
    };
    let mut rows = BTreeMap::new();
    for &world in &args.ranks {
        for (collective, times) in measure(args, &program, world)? {
            let all: &mut Vec<Row> = rows.entry(collective.name()).or_default();
            all.extend(choose(collective, Worlds::UpTo(world), &times));
        }
    }
    let base = match args.transport.as_str() {
        "auto" => Table::shared_memory(),
        _ => Table::tcp_loopback(),
    };
    // Larger groups, and results in canonical order, which some of the fastest do not give, go by what ships.
    let table = Table::new(rows.values().flatten().chain(base.rows()).copied());
    let text = table.to_string();
    match &args.out {
        Some(path) => {
            fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
        }
        None => io::stdout().write_all(text.as_bytes()).context("cannot write the table"),
    }
}

/// The collectives to measure.
fn collectives(args: &Args) -> Vec<(Collective, Operation)> {
    Operation::ALL
        .into_iter()
        .filter(|operation| args.operations.is_empty() || args.operations.contains(operation))
        .filter_map(|operation| Some((Collective::from_name(operation.name())?, operation)))
        .collect()
}

/// Whether `algorithm` does `collective` among `world` ranks of one host.
fn does(algorithm: Algorithm, collective: Collective, world: u32) -> bool {
    algorithm.supports(&collective.shape(1 << 20, Rank(0)), world)
}

/// Ranks that run `algorithm` wherever it can.
fn start(
    args: &Args,
    program: &Path,
    folder: &Path,
    algorithm: Algorithm,
    world: u32,
) -> Result<System> {
    let path = folder.join(format!("{algorithm}-{world}"));
    let all = Collective::ALL.into_iter().filter(|c| does(algorithm, *c, world));
    let row = |collective| Row { collective, worlds: Worlds::ANY, bytes: u64::MAX, algorithm };
    fs::write(&path, Table::new(all.map(row)).to_string())?;
    let port = free_port()?;
    let processes = (0..world).map(|rank| {
        let mut command = Command::new(program);
        command.arg("group").env("ALLHANDS_TABLE", &path);
        command.env("ALLHANDS_TRANSPORT", &args.transport);
        rank_environment(&mut command, rank, world, port);
        command
    });
    System::start(
        Spec { name: algorithm.name().into(), processes: processes.collect() },
        world,
        PATIENCE,
    )
}

/// Measures all collectives in one world.
fn measure(args: &Args, program: &Path, world: u32) -> Result<Vec<(Collective, Times)>> {
    let folder = tempfile::tempdir()?;
    let wanted = collectives(args);
    let useful = |algorithm: &Algorithm| wanted.iter().any(|(c, _)| does(*algorithm, *c, world));
    let mut systems = Vec::new();
    for algorithm in Algorithm::ALL.into_iter().filter(useful) {
        systems.push((algorithm, start(args, program, folder.path(), algorithm, world)?));
    }
    let mut all = Vec::new();
    for (collective, operation) in wanted {
        let mut times = Vec::new();
        // A barrier has one size.
        let sizes = if collective == Collective::Barrier { &[0][..] } else { &args.sizes };
        for &bytes in sizes {
            let kind = Kind { dtype: Dtype::F32, reduction: Reduction::Sum, root: 0 };
            let cell = Cell::sized(operation, kind, world, bytes);
            let mut names = Vec::new();
            let mut racers = Vec::new();
            for (algorithm, system) in &mut systems {
                if does(*algorithm, collective, world)
                    && let Some(passes) = set_up(system, &cell)?
                {
                    names.push(*algorithm);
                    racers.push(Racer { system, passes });
                }
            }
            let medians = race(&mut racers, args.rounds)?.into_iter().map(|time| time.median);
            let timed: Vec<_> = names.into_iter().zip(medians).collect();
            tell(collective, world, bytes, &timed)?;
            times.push((bytes, timed));
        }
        all.push((collective, times));
    }
    systems.into_iter().for_each(|(_, system)| system.finish());
    Ok(all)
}

/// Shows what was measured, on standard error: the table goes to standard output.
fn tell(collective: Collective, world: u32, bytes: u64, timed: &[(Algorithm, f64)]) -> Result<()> {
    let mut sorted = timed.to_vec();
    sorted.sort_by(|a, b| a.1.total_cmp(&b.1));
    let shown: Vec<_> =
        sorted.iter().map(|(algorithm, s)| format!("{algorithm} {:.1}", s * 1e6)).collect();
    let line =
        format!("{} {bytes} bytes, {world} ranks, us: {}", collective.name(), shown.join(", "));
    Ok(writeln!(io::stderr(), "{line}")?)
}

/// Rows that name the fastest algorithm at each size. Between two sizes measured the smaller one decides up
/// to their geometric mean.
fn choose(collective: Collective, worlds: Worlds, times: &Times) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for (number, (bytes, timed)) in times.iter().enumerate() {
        let Some((fastest, least)) = timed.iter().min_by(|a, b| a.1.total_cmp(&b.1)) else {
            continue;
        };
        let until = match times.get(number + 1) {
            Some((next, _)) => (*bytes as f64 * *next as f64).sqrt() as u64,
            None => u64::MAX,
        };
        if let Some(last) = rows.last_mut() {
            let still = timed.iter().find(|(algorithm, _)| *algorithm == last.algorithm);
            if still.is_some_and(|(_, seconds)| *seconds < least * CLEARLY) {
                last.bytes = until;
                continue;
            }
        }
        rows.push(Row { collective, worlds, bytes: until, algorithm: *fastest });
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_algorithm_holds_until_another_is_clearly_faster() {
        use Algorithm::{Direct, Ring, TwoShot};
        let times = vec![
            (100, vec![(Direct, 1.0), (Ring, 2.0)]),
            (10_000, vec![(Direct, 1.04), (Ring, 1.0)]),
            (1_000_000, vec![(Direct, 3.0), (Ring, 1.0), (TwoShot, 0.9)]),
        ];
        let row = |bytes, algorithm| Row {
            collective: Collective::AllReduce,
            worlds: Worlds::UpTo(4),
            bytes,
            algorithm,
        };
        let rows = choose(Collective::AllReduce, Worlds::UpTo(4), &times);
        assert_eq!(rows, [row(100_000, Direct), row(u64::MAX, TwoShot)]);
        assert!(choose(Collective::AllReduce, Worlds::ANY, &Vec::new()).is_empty());
    }
}
