//! `cargo xtask instructions`: counts the instructions of the hot paths, and compares them with what they were.
//!
//! Time is noisy on shared machines; instructions are not. Each program runs under callgrind with two numbers of
//! iterations, and the difference is divided by theirs, so that what comes before and after does not count.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::bench::machine;
use crate::program;
use crate::skip::skip;

/// What a count may grow by, in percent.
const GROWTH_MAX: f64 = 5.0;

/// Iterations of the shorter run.
const ITERATIONS: u64 = 20_000;

/// Runs of each length, of which the shortest counts: how long a program waits for its first answer is not the same each time.
const TRIES: u32 = 2;

/// Programs of `bench-rank count`.
const PROGRAMS: [&str; 6] = [
    "all_reduce_4B_shm",
    "all_reduce_1KiB_shm",
    "barrier_shm",
    "sum_f32_1KiB",
    "header_decode",
    "fingerprint",
];

/// Turns the skip where callgrind is missing into a failure.
const REQUIRE: &str = "ALLHANDS_REQUIRE_VALGRIND";

/// Count the instructions of the hot paths under callgrind, and compare with the recorded counts.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Records the counts instead of comparing with them.
    #[arg(long)]
    bless: bool,
}

/// Counts, and compares or records.
///
/// # Errors
/// A count has grown by more than 5 %, or a program cannot be counted.
pub fn main(args: &Args) -> Result<()> {
    let out = &mut std::io::stdout();
    if let Err(why) = valgrind() {
        return skip("instructions", REQUIRE, &why);
    }
    let worker = program::build()?;
    let mut counts = BTreeMap::new();
    for program in PROGRAMS {
        counts.insert(program.to_owned(), per_iteration(&worker, program)?);
    }
    let path = machine::workspace().join("benches/instructions.json");
    if args.bless {
        std::fs::write(&path, serde_json::to_string_pretty(&counts)? + "\n")
            .with_context(|| format!("cannot write {}", path.display()))?;
        writeln!(out, "wrote {}", path.display())?;
    }
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    let recorded: BTreeMap<String, f64> = serde_json::from_str(&text)?;
    writeln!(out, "{:<22} {:>12} {:>12} {:>8}", "instructions", "now", "recorded", "change")?;
    let mut grown = Vec::new();
    for (program, &now) in &counts {
        let Some(&then) = recorded.get(program) else {
            bail!("{program} has no recorded count; `cargo xtask instructions --bless` records it");
        };
        let change = (now / then - 1.0) * 100.0;
        writeln!(out, "{program:<22} {now:>12.1} {then:>12.1} {change:>+7.1}%")?;
        if change > GROWTH_MAX {
            grown.push(program.as_str());
        }
    }
    ensure!(
        grown.is_empty(),
        "{} grew by more than {GROWTH_MAX} %; if it is worth it, record it with --bless and say why",
        grown.join(", ")
    );
    Ok(())
}

/// Whether callgrind can be run.
fn valgrind() -> Result<(), String> {
    let mut command = Command::new("valgrind");
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("valgrind --version ends with {status}")),
        Err(error) => Err(format!("valgrind cannot be started: {error}")),
    }
}

fn per_iteration(worker: &Path, program: &str) -> Result<f64> {
    let shortest = |iterations| {
        let mut tries = (0..TRIES).map(|_| collected(worker, program, iterations));
        tries.try_fold(u64::MAX, |least, count| Ok::<_, anyhow::Error>(least.min(count?)))
    };
    let (short, long) = (shortest(ITERATIONS)?, shortest(2 * ITERATIONS)?);
    Ok(long.saturating_sub(short) as f64 / ITERATIONS as f64)
}

/// Instructions of a whole run.
fn collected(worker: &Path, program: &str, iterations: u64) -> Result<u64> {
    let folder = tempfile::tempdir()?;
    let out: PathBuf = folder.path().join("callgrind.out");
    let output = Command::new("valgrind")
        .arg("--tool=callgrind")
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(worker)
        .args(["count", program, &iterations.to_string()])
        // Valgrind does not know AVX-512, and a count is to be the same on every processor.
        .env("ALLHANDS_SIMD", "avx2")
        .stdin(Stdio::null())
        .output()
        .context("valgrind cannot be started")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{program} under valgrind ended with {}: {said}",
        output.status
    );
    said.lines()
        .find_map(|line| line.split("Collected :").nth(1)?.trim().parse().ok())
        .with_context(|| format!("callgrind has not told what it collected: {said}"))
}
