//! `cargo xtask nemesis`: faults against real ranks, with figures.
//!
//! Cargo tests check that faults end well; here is how fast, over many repetitions. Every command fails
//! where a promise about what happens is broken, and where a figure is above its bar.

pub mod clock;
pub mod events;
mod flood;
mod rig;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use clap::{Args as ClapArgs, Subcommand};

use events::{Event, Holding, Kind};
use rig::Rig;

/// Ranks come up, and answer, long before.
const PATIENCE: Duration = Duration::from_secs(120);

/// The slowest survivor of a kill.
const KILL_BAR: Duration = Duration::from_millis(250);

/// The slowest rank to be told of a mismatch.
const MISMATCH_BAR: Duration = Duration::from_secs(1);

/// Kilobytes by which a process may grow in a million operations.
const SOAK_BAR_KB: u64 = 1024;

/// `cargo xtask nemesis`.
#[derive(ClapArgs, Debug)]
pub struct Args {
    #[command(subcommand)]
    attack: Attack,
    /// A built `bench-rank` to use instead of building one.
    #[arg(long, global = true)]
    program: Option<PathBuf>,
}

#[derive(Subcommand, Debug)]
enum Attack {
    /// Kill one rank at a random moment of an all-reduce; every survivor must name it.
    Kill {
        /// Ranks of the job.
        #[arg(long, default_value_t = 4)]
        ranks: u32,
        /// Jobs, of which one rank each is killed.
        #[arg(long, default_value_t = 100)]
        reps: u32,
        /// Where the random moments begin.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Let one rank call something else; every rank must be told both sides.
    Mismatch {
        /// Ranks of the job.
        #[arg(long, default_value_t = 3)]
        ranks: u32,
        /// Rounds through all kinds and ranks.
        #[arg(long, default_value_t = 10)]
        reps: u32,
    },
    /// Let strangers connect, talk nonsense or stay silent, while the mesh forms and while the job runs.
    Flood {
        /// Ranks of the job.
        #[arg(long, default_value_t = 3)]
        ranks: u32,
        /// Connections in each of the two phases.
        #[arg(long, default_value_t = 10_000)]
        connections: usize,
    },
    /// Run many small all-reduces and watch what the processes hold.
    Soak {
        /// Ranks of the job.
        #[arg(long, default_value_t = 2)]
        ranks: u32,
        /// All-reduces of 64 bytes.
        #[arg(long, default_value_t = 1_000_000)]
        ops: u64,
    },
}

/// Runs `cargo xtask nemesis`.
///
/// # Errors
/// A promise is broken, or a figure is above its bar.
pub fn main(args: &Args) -> Result<()> {
    let program = match &args.program {
        Some(program) => program.clone(),
        None => crate::program::build()?,
    };
    match args.attack {
        Attack::Kill { ranks, reps, seed } => kill(&program, ranks, reps, seed),
        Attack::Mismatch { ranks, reps } => mismatch(&program, ranks, reps),
        Attack::Flood { ranks, connections } => flood::run(&program, ranks, connections),
        Attack::Soak { ranks, ops } => soak(&program, ranks, ops),
    }
}

fn print(line: &str) -> Result<()> {
    Ok(writeln!(io::stdout(), "{line}")?)
}

/// Median, 99th percentile and maximum of times.
struct Spread {
    p50: Duration,
    p99: Duration,
    max: Duration,
    count: usize,
}

impl Spread {
    fn of(mut times_ns: Vec<u64>) -> Self {
        times_ns.sort_unstable();
        let count = times_ns.len();
        let at = |part: f64| {
            let index = ((count as f64 * part).ceil() as usize).clamp(1, count.max(1)) - 1;
            Duration::from_nanos(times_ns.get(index).copied().unwrap_or_default())
        };
        Self { p50: at(0.5), p99: at(0.99), max: at(1.0), count }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { p50, p99, max, count } = self;
        write!(f, "p50 {p50:.1?}, p99 {p99:.1?}, max {max:.1?} ({count})")
    }
}

/// Small and cheap; a run prints its seed.
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// Elements (f32) of the all-reduce in which a rank is killed, in turn: 64 B, 64 KiB, 16 MiB.
const KILL_LENGTHS: [usize; 3] = [16, 16 << 10, 4 << 20];

fn kill(program: &Path, ranks: u32, reps: u32, seed: u64) -> Result<()> {
    ensure!(ranks > 1, "a job of one rank has no survivors");
    let mut dice = Dice::new(seed);
    let mut slowest = KILL_LENGTHS.map(|_| Vec::new());
    let mut wrong = Vec::new();
    for rep in 0..reps {
        let size = rep as usize % KILL_LENGTHS.len();
        let mut rig =
            Rig::new(program.to_path_buf(), ranks, &["kill", &KILL_LENGTHS[size].to_string()])?;
        rig.start_all()?;
        rig.all_ready(PATIENCE)?;
        thread::park_timeout(Duration::from_micros(dice.below(50_000)));
        let victim = dice.below(u64::from(ranks)) as u32;
        let killed = rig.kill(victim)?;
        let mut last = 0;
        for _ in 0..ranks - 1 {
            let (rank, event) = rig.next(PATIENCE)?;
            let Event::Failed(fault) = event else { bail!("rank {rank} says {event:?}") };
            last = last.max(fault.at_ns.saturating_sub(killed));
            if fault.kind != "peer failed" || fault.ranks != [victim] {
                wrong.push(format!("rep {rep}, rank {victim} killed, rank {rank}: {}", fault.text));
            }
        }
        slowest[size].push(last);
        rig.join(&[victim], PATIENCE)?;
    }
    print(&format!(
        "kill -9 of one of {ranks} ranks, {reps} times (seed {seed}): slowest survivor"
    ))?;
    for (times, len) in slowest.iter().zip(KILL_LENGTHS) {
        print(&format!("  {:>9} B  {}", len * 4, Spread::of(times.clone())))?;
    }
    let all = Spread::of(slowest.concat());
    print(&format!("  all          {all}"))?;
    for line in &wrong {
        print(&format!("  WRONG: {line}"))?;
    }
    ensure!(wrong.is_empty(), "{} survivors do not name the killed rank", wrong.len());
    ensure!(all.max <= KILL_BAR, "the slowest survivor took {:.1?}, above {KILL_BAR:?}", all.max);
    Ok(())
}

fn mismatch(program: &Path, ranks: u32, reps: u32) -> Result<()> {
    ensure!(ranks > 1, "one rank agrees with itself");
    let mut took = Kind::ALL.map(|_| Vec::new());
    for _ in 0..reps {
        let mut rig = Rig::new(program.to_path_buf(), ranks, &["mismatch"])?;
        rig.start_all()?;
        for _ in 0..Kind::ALL.len() as u32 * ranks * ranks {
            let (rank, event) = rig.next(PATIENCE)?;
            let Event::Told { kind, took_ns, .. } = event else {
                bail!("rank {rank} says {event:?}")
            };
            took[kind as usize].push(took_ns);
        }
        rig.join(&[], PATIENCE)?;
    }
    print(&format!(
        "a rank of {ranks} calls something else, {reps} times each: call to error, every rank"
    ))?;
    for (times, kind) in took.iter().zip(Kind::ALL) {
        print(&format!("  {:<10} {}", format!("{kind:?}"), Spread::of(times.clone())))?;
    }
    let all = Spread::of(took.concat());
    print(&format!("  {:<10} {all}", "all"))?;
    ensure!(all.max <= MISMATCH_BAR, "the slowest took {:.1?}, above {MISMATCH_BAR:?}", all.max);
    Ok(())
}

fn soak(program: &Path, ranks: u32, ops: u64) -> Result<()> {
    let mut rig = Rig::new(program.to_path_buf(), ranks, &["soak", &ops.to_string()])?;
    rig.start_all()?;
    let mut held: Vec<Vec<(u64, u64, Holding)>> = vec![Vec::new(); ranks as usize];
    // A tenth of the operations lies between two of these.
    let limit = PATIENCE + Duration::from_millis(ops / 10 * 2);
    for _ in 0..11 * ranks {
        let (rank, event) = rig.next(limit)?;
        let Event::Holds { operations, at_ns, holding } = event else {
            bail!("rank {rank} says {event:?}")
        };
        held[rank as usize].push((operations, at_ns, holding));
    }
    rig.join(&[], PATIENCE)?;
    let mut grown = 0;
    for (rank, held) in held.iter().enumerate() {
        let (Some((_, begun, before)), Some((done, ended, after))) = (held.first(), held.last())
        else {
            bail!("rank {rank} said nothing")
        };
        let growth = after.memory_kb.saturating_sub(before.memory_kb);
        grown = grown.max(growth);
        let seconds = (ended - begun) as f64 / 1e9;
        print(&format!(
            "rank {rank}: {done} all-reduces of 64 B in {seconds:.1} s ({:.1} us each); memory {} -> {} KiB \
             (+{growth}), descriptors {} -> {}, threads {} -> {}",
            seconds * 1e6 / *done as f64,
            before.memory_kb,
            after.memory_kb,
            before.descriptors,
            after.descriptors,
            before.threads,
            after.threads,
        ))?;
        ensure!(after.descriptors <= before.descriptors, "descriptors leak");
        ensure!(after.threads <= before.threads, "threads leak");
    }
    ensure!(grown <= SOAK_BAR_KB, "a process grew by {grown} KiB, above {SOAK_BAR_KB}");
    Ok(())
}
