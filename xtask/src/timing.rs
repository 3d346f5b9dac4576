//! Times cells on running systems: for commands that need a figure and no record.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::bench::cells::Cell;
use crate::bench::launch::System;
use crate::bench::protocol::Reply;
use crate::bench::stats::Rounds;

/// Ranks come up, and answer, long before.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// How long a timed loop takes about.
const LOOP: Duration = Duration::from_millis(60);

/// Most passes of a loop.
const PASSES_MAX: u64 = 2_000;

/// Sets `cell` up and verifies it; the passes of a loop of reasonable length. `None` if the system does not do
/// such cells.
///
/// # Errors
/// A result is wrong, or the system fails.
pub(crate) fn set_up(system: &mut System, cell: &Cell) -> Result<Option<u64>> {
    for reply in system.ask(&cell.command(), PATIENCE)? {
        match reply {
            Reply::Ready => {}
            Reply::Unsupported(_) => return Ok(None),
            other => anyhow::bail!("{}: expected a cell, got {other:?}", system.name()),
        }
    }
    for reply in system.ask("verify", PATIENCE)? {
        ensure!(reply == Reply::Wrong(0), "{}: {}: {reply:?}", system.name(), cell.command());
    }
    let pass = seconds(system, 2)?;
    Ok(Some(((LOOP.as_secs_f64() / pass) as u64).clamp(1, PASSES_MAX)))
}

/// Seconds of a pass in a loop of `passes`, by the slowest rank.
///
/// # Errors
/// The system fails.
pub(crate) fn seconds(system: &mut System, passes: u64) -> Result<f64> {
    let mut slowest = 0;
    for reply in system.ask(&format!("loop 1 {passes}"), PATIENCE)? {
        let Reply::Elapsed(ns) = reply else {
            anyhow::bail!("{}: expected a time, got {reply:?}", system.name());
        };
        slowest = slowest.max(ns);
    }
    Ok((slowest as f64 / passes as f64 * 1e-9).max(1e-9))
}

/// A system and how many passes a loop of it has.
pub(crate) struct Racer<'a> {
    pub(crate) system: &'a mut System,
    pub(crate) passes: u64,
}

/// Seconds of a pass by each racer, measured in turns.
///
/// # Errors
/// A system fails, or no round was asked for.
pub(crate) fn race(racers: &mut [Racer<'_>], rounds: u32) -> Result<Vec<Rounds>> {
    let mut all = vec![Vec::new(); racers.len()];
    for round in 0..rounds as usize {
        // Another one starts each round, so that nobody always runs on the same one's leavings.
        for turn in 0..racers.len() {
            let at = (turn + round) % racers.len();
            let Racer { system, passes } = &mut racers[at];
            all[at].push(seconds(system, *passes)?);
        }
    }
    all.into_iter().map(|times| Rounds::of(times).context("no round was measured")).collect()
}
