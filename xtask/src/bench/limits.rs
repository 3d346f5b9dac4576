//! What the machine can do at best: memory copies and raw sockets, measured in the same run.
//!
//! The measurements are those of a plain C program: processes pinned to different cores, buffers
//! that are never the same memory, calls of 1 MiB. Rates count payload once (a copy of n bytes
//! counts n); a ping-pong is half a round trip.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::launch::System;
use super::protocol::Reply;
use super::stats::Rounds;

const MIB: u64 = 1 << 20;
/// How long one measurement may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// One limit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Limit {
    /// What was measured.
    pub name: String,
    /// Bytes of the buffer walked over, or of the message.
    pub bytes: u64,
    /// Processes that did it at once.
    pub processes: u32,
    /// What the numbers are.
    pub unit: Unit,
    /// The numbers.
    pub rounds: Rounds,
}

/// The unit of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Unit {
    /// 1e9 bytes of payload a second, each process.
    GBps,
    /// Microseconds.
    #[serde(rename = "us")]
    Microseconds,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.unit {
            Unit::GBps => "GB/s",
            Unit::Microseconds => "us",
        };
        write!(
            f,
            "{} {} x{}: {:.2} {unit} ({:.2}..{:.2})",
            self.name,
            super::sizes::short(self.bytes),
            self.processes,
            self.rounds.median,
            self.rounds.min,
            self.rounds.max
        )
    }
}

/// How much each measurement moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// Enough for figures that can be quoted.
    Full,
    /// Enough to see that it works.
    Smoke,
}

/// How a stream between two processes is driven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// One way, blocking calls.
    OneWay,
    /// Both ways at once, a thread for each.
    Threads,
    /// Both ways at once, one thread, waiting in poll.
    Poll,
    /// Both ways at once, one thread, never waiting.
    Spin,
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::OneWay, Self::Threads, Self::Poll, Self::Spin];

    /// The word in commands.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::OneWay => "one-way",
            Self::Threads => "threads",
            Self::Poll => "poll",
            Self::Spin => "spin",
        }
    }

    fn limit(self) -> &'static str {
        match self {
            Self::OneWay => "tcp_oneway_blocking",
            Self::Threads => "tcp_bidir_per_direction_2threads",
            Self::Poll => "tcp_bidir_per_direction_nonblock_poll",
            Self::Spin => "tcp_bidir_per_direction_nonblock_spin",
        }
    }
}

/// One kind of measurement.
#[derive(Clone, Copy, Debug)]
enum Probe {
    Memcpy { bytes: u64, processes: u32 },
    PingPong { bytes: u64 },
    Stream { mode: Mode, span: u64, processes: u32 },
}

impl Probe {
    /// Those that matter to a run of `world` ranks.
    fn all(world: u32) -> Vec<Self> {
        let mut all = Vec::new();
        for bytes in [256 << 10, 64 * MIB] {
            all.extend([1, 2].map(|processes| Self::Memcpy { bytes, processes }));
        }
        all.push(Self::PingPong { bytes: 4 });
        for span in [MIB, 64 * MIB] {
            for mode in Mode::ALL {
                all.push(Self::Stream { mode, span, processes: 2 });
            }
        }
        let even = world & !1;
        if even > 2 {
            all.push(Self::Stream { mode: Mode::Poll, span: 64 * MIB, processes: even });
        }
        all
    }

    fn describe(self) -> (&'static str, u64, u32, Unit) {
        match self {
            Self::Memcpy { bytes, processes } => ("memcpy", bytes, processes, Unit::GBps),
            Self::PingPong { bytes } => ("tcp_pingpong_spin", bytes, 2, Unit::Microseconds),
            Self::Stream { mode, span, processes } => (mode.limit(), span, processes, Unit::GBps),
        }
    }

    /// The command for each process, and what its elapsed nanoseconds are divided into.
    fn commands(self, effort: Effort) -> (Vec<(u32, String)>, f64) {
        let total = match effort {
            Effort::Full => 512 * MIB,
            Effort::Smoke => 64 * MIB,
        };
        match self {
            Self::Memcpy { bytes, processes } => {
                let iterations = (total / bytes).clamp(1, 20_000);
                let line = match processes {
                    1 => format!("memcpy {bytes} {iterations} alone"),
                    _ => format!("memcpy {bytes} {iterations} paired"),
                };
                let lines = (0..processes).map(|rank| (rank, line.clone())).collect();
                (lines, (iterations * bytes) as f64)
            }
            Self::PingPong { bytes } => {
                let iterations = match effort {
                    Effort::Full => 10_000_u64,
                    Effort::Smoke => 1000,
                };
                let line = format!("pingpong {bytes} {iterations}");
                (vec![(0, line.clone()), (1, line)], (2 * iterations) as f64)
            }
            Self::Stream { mode, span, processes } => {
                let total = (2 * total / u64::from(processes)).max(span);
                let line = format!("stream {} {span} {total}", mode.word());
                ((0..processes).map(|rank| (rank, line.clone())).collect(), total as f64)
            }
        }
    }
}

/// Measures every limit `rounds` times, taking turns. `system` has at least two ranks of the
/// program `bench-rank limits`.
///
/// # Errors
/// A process died or did not answer in time.
pub fn measure(system: &mut System, world: u32, rounds: u32, effort: Effort) -> Result<Vec<Limit>> {
    let probes = Probe::all(world);
    let ranks = world.max(2) & !1;
    for _ in &probes {
        pair_up(system, ranks)?;
    }
    let mut values = vec![Vec::new(); probes.len()];
    for _ in 0..rounds {
        for (at, (probe, values)) in probes.iter().zip(&mut values).enumerate() {
            let own: Vec<_> = (0..ranks).map(|rank| (rank, format!("use {at}"))).collect();
            system.ask_each(&own, PATIENCE)?;
            let (lines, payload) = probe.commands(effort);
            let mut slowest = 0;
            for reply in system.ask_each(&lines, PATIENCE)? {
                let Reply::Elapsed(ns) = reply else { bail!("limits answered {reply:?}") };
                slowest = slowest.max(ns);
            }
            let ns = slowest.max(1) as f64;
            values.push(match probe.describe().3 {
                Unit::GBps => payload / ns,
                Unit::Microseconds => ns / payload / 1e3,
            });
        }
    }
    let limits = probes.iter().zip(values).filter_map(|(probe, values)| {
        let (name, bytes, processes, unit) = probe.describe();
        Some(Limit { name: name.into(), bytes, processes, unit, rounds: Rounds::of(values)? })
    });
    Ok(limits.collect())
}

/// Connects ranks 2k and 2k+1 once more.
fn pair_up(system: &mut System, ranks: u32) -> Result<()> {
    for even in (0..ranks).step_by(2) {
        let port = match system.ask_each(&[(even, "listen".into())], PATIENCE)?.first() {
            Some(Reply::Port(port)) => *port,
            other => bail!("limits answered {other:?} instead of a port"),
        };
        let lines = [(even + 1, format!("connect {port}")), (even, "accept".into())];
        system.ask_each(&lines, PATIENCE).context("cannot connect two processes")?;
    }
    Ok(())
}

/// The rate per process, in GB/s, that raw sockets reach with `world` ranks over large buffers
/// when both directions are busy; `None` when it was not measured.
#[must_use]
pub fn raw_rate(limits: &[Limit], world: u32) -> Option<f64> {
    limits
        .iter()
        .filter(|l| l.name.starts_with("tcp_bidir") && l.bytes == 64 * MIB)
        .filter(|l| l.processes == world & !1)
        .map(|l| l.rounds.median)
        .max_by(f64::total_cmp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn larger_worlds_get_a_limit_of_their_own() {
        let of = |world| Probe::all(world).iter().map(|p| p.describe().2).max().unwrap();
        assert_eq!((of(1), of(2), of(4), of(5)), (2, 2, 4, 4));
    }

    #[test]
    fn every_process_moves_the_same() {
        let stream = Probe::Stream { mode: Mode::Poll, span: MIB, processes: 4 };
        let (lines, payload) = stream.commands(Effort::Full);
        assert_eq!(lines.len(), 4);
        assert_eq!(payload, (256 * MIB) as f64);
        assert!(lines.iter().all(|(_, line)| *line == format!("stream poll {MIB} {}", 256 * MIB)));
    }

    #[test]
    fn the_raw_rate_is_the_best_variant_of_the_right_world() {
        let limit = |name: &str, processes, rate| Limit {
            name: name.into(),
            bytes: 64 * MIB,
            processes,
            unit: Unit::GBps,
            rounds: Rounds::of(vec![rate]).unwrap(),
        };
        let limits = [
            limit("tcp_oneway_blocking", 2, 3.5),
            limit("tcp_bidir_per_direction_nonblock_poll", 2, 1.9),
            limit("tcp_bidir_per_direction_nonblock_spin", 2, 2.0),
            limit("tcp_bidir_per_direction_nonblock_poll", 4, 1.1),
        ];
        assert_eq!(raw_rate(&limits, 2), Some(2.0));
        assert_eq!(raw_rate(&limits, 4), Some(1.1));
        assert_eq!(raw_rate(&limits, 8), None);
        assert_eq!(limits[0].to_string(), "tcp_oneway_blocking 64M x2: 3.50 GB/s (3.50..3.50)");
    }
}
