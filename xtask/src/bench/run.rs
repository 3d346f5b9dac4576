//! The run itself: start everybody, take turns, keep what was found.

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

use crate::program;

use super::bound::{self, Bound};
use super::cells::Cell;
use super::cli::{Absence, Args, Format, Keep, Settings, Subject, Transport};
use super::launch::{Spec, System};
use super::limits::{self, Effort, Limit};
use super::machine::{self, Machine};
use super::peers;
use super::predict;
use super::protocol::{ARENA_VARIABLE, CORE_VARIABLE, MAX_SAMPLES, Reply, SHARE_VARIABLE};
use super::record::{Entrant, Measured, Outcome, Protocol, Record, Times, VERSION};
use super::stats::{self, Rounds};
use super::table;

/// How long a system may take to come up; Python with torch needs most of it on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(120);
/// How long a command may take beyond what was measured so far.
const PATIENCE: Duration = Duration::from_secs(120);
/// Operations in a loop at most.
const MAX_ITERATIONS: u64 = 50_000;
/// Share of the memory at hand that one cell may take.
const MEMORY_SHARE: f64 = 0.6;
/// Results up to this size are verified a second time, after the timed loops.
const VERIFY_AGAIN: u64 = 4 << 20;
/// Single operations are timed for this part of a loop's budget, in each of two passes.
const SINGLE_PART: u32 = 4;

/// Our name among the systems.
const OURS: &str = "allhands";

/// The rule, as it stands in records.
const RULE: &str = "back-to-back loops on warmed buffers, time over operations, slowest rank; \
systems alternate in every round; median and spread over rounds; p50/p99 from single operations \
timed in a separate back-to-back pass; latency from operations after a barrier";

/// Runs `cargo xtask bench-cluster`.
///
/// # Errors
/// The arguments contradict each other, something cannot be built or started, allhands broke, or
/// a result was wrong.
pub fn main(args: &Args) -> Result<()> {
    let Some(name) = &args.definition else { return one(&args.settings()?) };
    let path = machine::workspace().join("benches/definitions").join(format!("{name}.args"));
    let text = fs::read_to_string(&path).with_context(|| format!("no {}", path.display()))?;
    let all = Args::lines(&text)?.iter().map(Args::settings).collect::<Result<Vec<_>>>()?;
    for settings in &all {
        one(settings)?;
    }
    Ok(())
}

/// One run with one record.
fn one(settings: &Settings) -> Result<()> {
    let progress = Progress::new(settings.cells.len() as u64);
    let mut notes = Vec::new();
    progress.say(&format!(
        "{} ranks over {}, {} cells, {} rounds",
        settings.ranks,
        settings.transport.name(),
        settings.cells.len(),
        settings.rounds
    ));
    progress.say("building bench-rank (release)");
    let worker = program::build()?;
    let mut racers = start(settings, &worker, &progress, &mut notes)?;
    let mut limits = measure_limits(settings, &worker, &progress)?;
    let mut bound = start_bound(settings, &progress)?;
    let machine = Machine::here();
    // The model's network is the loopback; memory between threads is another one.
    let network = predict::network(&limits, settings.ranks, machine.cores)
        .filter(|_| settings.transport.is_tcp());
    let systems: Vec<Entrant> = racers.iter().map(Racer::entrant).collect();
    let mut results: Vec<Measured> = Vec::new();
    for cell in &settings.cells {
        let label = cell.short(settings.ranks);
        progress.cell(&format!("{} {label}", cell.operation.name()));
        let bounded =
            bound.as_mut().filter(|_| bound::covers(cell, settings.transport, settings.ranks));
        // The bound holds its data twice: in shared memory and out of it.
        let systems = racers.len() + if bounded.is_some() { 2 } else { 0 };
        match too_large(cell, settings.ranks, systems) {
            Some(why) => notes.push(format!("{} {label} left out: {why}", cell.operation.name())),
            None => {
                results.extend(measure(settings, cell, &mut racers)?);
                if let Some(bound) = bounded {
                    limits.extend(bound.measure(cell)?);
                }
            }
        }
    }
    if let Some(bound) = bound {
        bound.finish();
    }
    for racer in racers {
        racer.finish();
    }
    progress.end();
    for result in results.iter_mut().filter(|r| r.system == OURS) {
        if let (Outcome::Timed(times), Some(network)) = (&mut result.outcome, &network) {
            times.modelled_us = predict::microseconds(&result.cell, settings.ranks, network);
        }
    }
    let record = Record {
        version: VERSION,
        protocol: Protocol {
            ranks: settings.ranks,
            transport: settings.transport.name().into(),
            rounds: settings.rounds,
            budget_ms: settings.budget.as_millis() as u64,
            bound: settings.bind.core(0, settings.ranks, machine.cores).is_some(),
            rule: RULE.into(),
        },
        machine,
        systems,
        limits,
        results,
        notes,
    };
    publish(settings, &record)
}

/// Prints, writes the record, and judges.
fn publish(settings: &Settings, record: &Record) -> Result<()> {
    let text = match settings.format {
        Format::Table => table::text(record),
        Format::Json => record.json()?,
        Format::Csv => record.csv(),
        Format::Md => table::markdown(record),
    };
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    let folder = match &settings.keep {
        Keep::Record => machine::workspace().join("benches/record").join(record.machine.slug()),
        Keep::Scratch => target_folder().join("bench-record"),
        Keep::Folder(folder) => folder.clone(),
    };
    for path in record.write(&folder, &record.stem())? {
        writeln!(io::stderr(), "wrote {}", path.display())?;
    }
    let first = record.systems.first().map_or("", |s| s.name.as_str());
    let wrong = record.wrong(first);
    if wrong > 0 {
        bail!("{first}: {wrong} elements differ from the naive oracle");
    }
    if settings.subject == Subject::Ours {
        let broken = record.results.iter().find_map(|r| match &r.outcome {
            Outcome::Absent(why) if r.system == first => Some((r, why)),
            _ => None,
        });
        if let Some((result, why)) = broken {
            bail!("{first} did not run {}: {why}", result.cell.command());
        }
    }
    Ok(())
}

/// A system in the race; empty once it broke.
struct Racer {
    name: String,
    what: String,
    system: Option<System>,
    side: Side,
}

/// Whose failure it is when a system fails.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    /// The run fails.
    Ours,
    /// It is out of the race.
    Theirs,
}

impl Racer {
    fn start(spec: Spec, settings: &Settings, side: Side) -> Result<Self> {
        let system = System::start(spec, settings.ranks, START_LIMIT)?;
        Ok(Self {
            name: system.name().into(),
            what: system.what().into(),
            system: Some(system),
            side,
        })
    }

    fn entrant(&self) -> Entrant {
        Entrant { name: self.name.clone(), what: self.what.clone() }
    }

    fn ask(&mut self, line: &str, limit: Duration) -> Result<Vec<Reply>> {
        self.system.as_mut().context("it broke earlier in this run")?.ask(line, limit)
    }

    fn finish(self) {
        if let Some(system) = self.system {
            system.finish();
        }
    }
}

/// Starts us and the peers. A peer that is missing or does not come up is noted, unless it was
/// asked for by name.
fn start(
    settings: &Settings,
    worker: &Path,
    progress: &Progress,
    notes: &mut Vec<String>,
) -> Result<Vec<Racer>> {
    let mut racers = Vec::new();
    if settings.subject == Subject::Ours {
        progress.say("starting allhands");
        racers.push(Racer::start(ours(settings, worker)?, settings, Side::Ours)?);
    }
    for peer in &settings.peers {
        progress.say(&format!("starting {}", peer.name()));
        let started = match peer.find(settings.ranks, settings.transport, &target_folder())? {
            Ok(spec) => Racer::start(spec, settings, Side::Theirs),
            Err(missing) => Err(anyhow::anyhow!("{missing}")),
        };
        match (started, settings.absence) {
            (Ok(racer), _) => racers.push(racer),
            (Err(why), Absence::Fatal) => return Err(why),
            (Err(why), Absence::Noted) => {
                progress.say(&format!("left out: {why:#}"));
                notes.push(format!("{why:#}"));
            }
        }
    }
    if racers.is_empty() {
        bail!("nobody to measure: {}", notes.join("; "));
    }
    Ok(racers)
}

/// Our own processes.
fn ours(settings: &Settings, worker: &Path) -> Result<Spec> {
    let port = peers::free_port()?;
    let mut processes = Vec::new();
    match settings.transport {
        Transport::Local => {
            let mut command = Command::new(worker);
            command.args(["local", &settings.ranks.to_string()]);
            processes.push(command);
        }
        Transport::Auto | Transport::Shm | Transport::Arena | Transport::Tcp => {
            for rank in 0..settings.ranks {
                let mut command = Command::new(worker);
                command.arg("group");
                peers::rank_environment(&mut command, rank, settings.ranks, port);
                let transport = if settings.transport.is_tcp() { "tcp" } else { "auto" };
                command.env("ALLHANDS_TRANSPORT", transport);
                if matches!(settings.transport, Transport::Shm | Transport::Arena) {
                    command.env(SHARE_VARIABLE, "1");
                }
                if settings.transport == Transport::Arena {
                    command.env(ARENA_VARIABLE, "1");
                }
                if let Some(core) = settings.bind.core(rank, settings.ranks, machine::cores()) {
                    command.env(CORE_VARIABLE, core.to_string());
                }
                processes.push(command);
            }
        }
    }
    Ok(Spec { name: OURS.into(), processes })
}

fn measure_limits(settings: &Settings, worker: &Path, progress: &Progress) -> Result<Vec<Limit>> {
    progress.say("measuring the machine's limits");
    let world = settings.ranks.max(2);
    let processes = (0..world)
        .map(|rank| {
            let mut command = Command::new(worker);
            command.args(["limits", &rank.to_string()]);
            command
        })
        .collect();
    let spec = Spec { name: "limits".into(), processes };
    let mut system = System::start(spec, world, START_LIMIT)?;
    let limits = limits::measure(&mut system, settings.ranks, settings.rounds, effort(settings))?;
    system.finish();
    Ok(limits)
}

fn effort(settings: &Settings) -> Effort {
    match settings.keep {
        Keep::Scratch => Effort::Smoke,
        Keep::Record | Keep::Folder(_) => Effort::Full,
    }
}

/// Starts the lower bound of shared memory, if a cell has one.
fn start_bound(settings: &Settings, progress: &Progress) -> Result<Option<Bound>> {
    let (transport, ranks) = (settings.transport, settings.ranks);
    if !settings.cells.iter().any(|cell| bound::covers(cell, transport, ranks)) {
        return Ok(None);
    }
    progress.say("building the bound of shared memory (release)");
    let path = program::build_bound()?;
    Bound::start(&path, ranks, settings.rounds, effort(settings)).map(Some)
}

/// Why a cell does not fit into memory with all systems holding their buffers; `None` if it does.
fn too_large(cell: &Cell, ranks: u32, systems: usize) -> Option<String> {
    let need = cell.memory(ranks).saturating_mul(systems as u64);
    let have = machine::memory_available()?;
    (need as f64 > have as f64 * MEMORY_SHARE).then(|| {
        format!("{} MiB of buffers for {systems} systems, {} MiB free", need >> 20, have >> 20)
    })
}

/// What a racer has gathered on one cell.
struct Lap {
    wrong: u64,
    iterations: u64,
    pass_ns: u64,
    loops_us: Vec<f64>,
    singles: stats::Times,
    after_barrier: Vec<stats::Times>,
}

/// Measures one cell with every racer, in turns.
fn measure(settings: &Settings, cell: &Cell, racers: &mut [Racer]) -> Result<Vec<Measured>> {
    let mut laps: Vec<Result<Lap, String>> = Vec::new();
    for racer in racers.iter_mut() {
        let lap = guarded(racer, |racer| prepare(settings, cell, racer))?;
        laps.push(lap.unwrap_or_else(Err));
    }
    for round in 0..settings.rounds as usize {
        // Another one starts each round, so that nobody always runs on the same one's leavings.
        for turn in 0..racers.len() {
            let at = (turn + round) % racers.len();
            let (racer, slot) = (&mut racers[at], &mut laps[at]);
            if let Ok(lap) = slot {
                let done = guarded(racer, |racer| one_round(settings, cell, racer, lap))?;
                if let Err(why) = done {
                    *slot = Err(why);
                }
            }
        }
    }
    let mut results = Vec::new();
    for (racer, lap) in racers.iter_mut().zip(laps) {
        let lap = match lap {
            Ok(mut lap) => {
                let checked = guarded(racer, |racer| {
                    if cell.bytes(settings.ranks) <= VERIFY_AGAIN {
                        lap.wrong += wrong(&racer.ask("verify", PATIENCE)?)?;
                    }
                    racer.ask("drop", PATIENCE).map(drop)
                })?;
                checked.map(|()| lap)
            }
            Err(why) => Err(why),
        };
        let outcome = match lap {
            Ok(lap) => Outcome::Timed(lap.times().context("a cell without a single round")?),
            Err(why) => Outcome::Absent(why),
        };
        results.push(Measured {
            system: racer.name.clone(),
            cell: cell.clone(),
            bytes: cell.bytes(settings.ranks),
            outcome,
        });
    }
    Ok(results)
}

/// Runs `job`. A peer that fails is out of the race and says why; when we fail, the run fails.
fn guarded<T>(
    racer: &mut Racer,
    job: impl FnOnce(&mut Racer) -> Result<T>,
) -> Result<Result<T, String>> {
    match job(racer) {
        Ok(value) => Ok(Ok(value)),
        Err(err) if racer.side == Side::Ours => Err(err),
        Err(err) => {
            racer.system = None;
            Ok(Err(format!("{err:#}")))
        }
    }
}

/// Sets the cell up, verifies a result, and finds how many operations fill the budget.
fn prepare(settings: &Settings, cell: &Cell, racer: &mut Racer) -> Result<Result<Lap, String>> {
    for reply in racer.ask(&cell.command(), PATIENCE)? {
        match reply {
            Reply::Ready => {}
            Reply::Unsupported(why) => {
                racer.ask("drop", PATIENCE)?;
                return Ok(Err(why));
            }
            other => bail!("{} answered {other:?} to a cell", racer.name),
        }
    }
    let wrong = wrong(&racer.ask("verify", PATIENCE)?)?;
    let budget = settings.budget.as_nanos() as u64;
    let mut pass_ns = slowest(&racer.ask("loop 0 1", PATIENCE)?)?;
    if pass_ns < budget {
        let trial = (budget / 4 / pass_ns).clamp(1, MAX_ITERATIONS);
        pass_ns = slowest(&racer.ask(&format!("loop 1 {trial}"), PATIENCE)?)? / trial;
    }
    let pass_ns = pass_ns.max(1);
    Ok(Ok(Lap {
        wrong,
        iterations: (budget / pass_ns).clamp(1, MAX_ITERATIONS),
        pass_ns,
        loops_us: Vec::new(),
        singles: stats::Times::default(),
        after_barrier: vec![stats::Times::default(); settings.ranks as usize],
    }))
}

/// One turn of one racer: the loop, then single operations where they are short enough.
fn one_round(settings: &Settings, cell: &Cell, racer: &mut Racer, lap: &mut Lap) -> Result<()> {
    let budget = settings.budget.as_nanos() as u64;
    let warm = if lap.iterations > 1 { (lap.iterations / 10).max(1) } else { 0 };
    let expected = Duration::from_nanos(lap.pass_ns.saturating_mul(lap.iterations + warm));
    let patience = PATIENCE + 20 * expected;
    let replies = racer.ask(&format!("loop {warm} {}", lap.iterations), patience)?;
    let operations = lap.iterations * cell.messages();
    let ns = slowest(&replies)?;
    lap.loops_us.push(ns as f64 / operations as f64 / 1e3);
    if lap.pass_ns > budget {
        // A loop of one: it is its own sample.
        lap.singles.add(ns / operations, 1);
        return Ok(());
    }
    let count = (budget / u64::from(SINGLE_PART) / lap.pass_ns).clamp(2, MAX_SAMPLES);
    for (_, samples) in ranked(&racer.ask(&format!("each {count}"), patience)?)? {
        for (ns, n) in samples {
            lap.singles.add(ns / cell.messages(), n);
        }
    }
    for (rank, samples) in ranked(&racer.ask(&format!("latency {count}"), patience)?)? {
        let times = lap.after_barrier.get_mut(rank).context("more answers than ranks")?;
        for (ns, n) in samples {
            times.add(ns / cell.messages(), n);
        }
    }
    Ok(())
}

impl Lap {
    fn times(self) -> Option<Times> {
        let latency = self.after_barrier.iter().filter_map(|t| t.quantile_us(0.5));
        Some(Times {
            time_us: Rounds::of(self.loops_us)?,
            iterations: self.iterations,
            p50_us: self.singles.quantile_us(0.50),
            p99_us: self.singles.quantile_us(0.99),
            latency_us: latency.max_by(f64::total_cmp),
            modelled_us: None,
            wrong: self.wrong,
        })
    }
}

fn wrong(replies: &[Reply]) -> Result<u64> {
    replies.iter().try_fold(0, |sum, reply| match reply {
        Reply::Wrong(n) => Ok(sum + n),
        other => bail!("a rank answered {other:?} to verify"),
    })
}

fn slowest(replies: &[Reply]) -> Result<u64> {
    replies.iter().try_fold(1, |most, reply| match reply {
        Reply::Elapsed(ns) => Ok(most.max(*ns)),
        other => bail!("a rank answered {other:?} to a loop"),
    })
}

type Samples = Vec<(u64, u64)>;

fn ranked(replies: &[Reply]) -> Result<Vec<(usize, Samples)>> {
    replies
        .iter()
        .enumerate()
        .map(|(rank, reply)| match reply {
            Reply::Samples(samples) => Ok((rank, samples.clone())),
            other => bail!("rank {rank} answered {other:?} instead of samples"),
        })
        .collect()
}

/// Cargo's folder for build outputs.
fn target_folder() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| machine::workspace().join("target"), Into::into)
}

/// A bar on a terminal, a line for each operation elsewhere; always on standard error.
struct Progress {
    bar: ProgressBar,
    shown: std::cell::RefCell<String>,
}

impl Progress {
    fn new(cells: u64) -> Self {
        let bar = ProgressBar::new(cells);
        let style =
            ProgressStyle::with_template("{elapsed:>4} [{bar:30}] {pos}/{len} {msg} ({eta})");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self { bar, shown: String::new().into() }
    }

    fn say(&self, text: &str) {
        if io::stderr().is_terminal() {
            self.bar.println(text);
        } else {
            // Nobody reads it if standard error is closed.
            let _ = writeln!(io::stderr(), "{text}");
        }
    }

    fn cell(&self, text: &str) {
        self.bar.set_message(text.to_owned());
        self.bar.inc(1);
        let operation = text.split(' ').next().unwrap_or_default();
        if *self.shown.borrow() != operation {
            self.shown.replace(operation.to_owned());
            if !io::stderr().is_terminal() {
                self.say(&format!("measuring {operation}"));
            }
        }
    }

    fn end(&self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_reduced_to_the_slowest_rank() {
        assert_eq!(slowest(&[Reply::Elapsed(3), Reply::Elapsed(9)]).unwrap(), 9);
        assert_eq!(wrong(&[Reply::Wrong(1), Reply::Wrong(2)]).unwrap(), 3);
        assert!(slowest(&[Reply::Ready]).is_err());
        assert!(wrong(&[Reply::Elapsed(1)]).is_err());
        assert!(ranked(&[Reply::Ready]).is_err());
    }

    #[test]
    fn latency_is_the_slowest_ranks_median() {
        let mut after_barrier = vec![stats::Times::default(); 2];
        after_barrier[0].add(1_000, 3);
        after_barrier[1].add(5_000, 3);
        let lap = Lap {
            wrong: 0,
            iterations: 1,
            pass_ns: 1,
            loops_us: vec![2.0],
            singles: stats::Times::default(),
            after_barrier,
        };
        let times = lap.times().unwrap();
        assert!((times.latency_us.unwrap() - 5.0).abs() < 0.01);
        assert_eq!((times.p50_us, times.time_us.median), (None, 2.0));
    }

    #[test]
    fn an_impossible_cell_is_left_out() {
        use super::super::cells::{Dtype, Kind, Operation, Reduction};
        let kind = Kind { dtype: Dtype::F64, reduction: Reduction::Sum, root: 0 };
        let small = Cell::sized(Operation::AllReduce, kind, 4, 1024);
        let huge = Cell::sized(Operation::AllReduce, kind, 4, 1 << 44);
        assert_eq!(too_large(&small, 4, 3), None);
        if machine::memory_available().is_some() {
            assert!(too_large(&huge, 4, 3).unwrap().contains("3 systems"));
        }
    }
}
