//! What a run leaves behind: a JSON record with everything, a CSV with one line a result.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::cells::Cell;
use super::limits::Limit;
use super::machine::Machine;
use super::stats::Rounds;

/// Version of the record's layout.
pub const VERSION: u32 = 1;

/// Everything a run found out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// [`VERSION`] when it was written.
    pub version: u32,
    /// Where and with what.
    pub machine: Machine,
    /// How.
    pub protocol: Protocol,
    /// Who; the first one is compared with the others.
    pub systems: Vec<Entrant>,
    /// What the machine can do at best.
    pub limits: Vec<Limit>,
    /// One entry for every cell and system.
    pub results: Vec<Measured>,
    /// What was left out, and why.
    pub notes: Vec<String>,
}

/// How it was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Protocol {
    /// Number of ranks.
    pub ranks: u32,
    /// How bytes travelled.
    pub transport: String,
    /// Rounds in which the systems took turns.
    pub rounds: u32,
    /// How long a loop was meant to last, in milliseconds.
    pub budget_ms: u64,
    /// Whether our ranks were bound to cores.
    #[serde(default)]
    pub bound: bool,
    /// The rule in words.
    pub rule: String,
}

/// A system that took part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entrant {
    /// Its name in the table.
    pub name: String,
    /// Its own words about itself.
    pub what: String,
}

/// One system on one cell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// The system's name.
    pub system: String,
    /// What was run.
    pub cell: Cell,
    /// Bytes of the cell.
    pub bytes: u64,
    /// The times, or why there are none.
    pub outcome: Outcome,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Times and verdict.
    Timed(Times),
    /// The system cannot do it, or it broke; why.
    Absent(String),
}

/// Times of one system on one cell, in microseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Times {
    /// A back-to-back loop's time over its operations, the slowest rank's, a value per round.
    pub time_us: Rounds,
    /// Operations in each loop.
    pub iterations: u64,
    /// Median over single operations, each timed by itself, all ranks and rounds.
    pub p50_us: Option<f64>,
    /// 99th percentile of the same.
    pub p99_us: Option<f64>,
    /// Median of an operation right after a barrier, the slowest rank's.
    pub latency_us: Option<f64>,
    /// What the cost model predicts.
    pub modelled_us: Option<f64>,
    /// Elements that differed from the naive oracle.
    pub wrong: u64,
}

impl Measured {
    /// Its times, if it has any.
    #[must_use]
    pub fn times(&self) -> Option<&Times> {
        match &self.outcome {
            Outcome::Timed(times) => Some(times),
            Outcome::Absent(_) => None,
        }
    }

    /// Bytes over time in GB/s (1e9 bytes), as nccl-tests defines it.
    #[must_use]
    pub fn algorithm_bandwidth(&self) -> Option<f64> {
        let us = self.times()?.time_us.median;
        (us > 0.0).then(|| self.bytes as f64 / us / 1e3)
    }

    /// Algorithm bandwidth times the operation's factor: what the links carry.
    #[must_use]
    pub fn bus_bandwidth(&self, ranks: u32) -> Option<f64> {
        Some(self.algorithm_bandwidth()? * self.cell.operation.bus_factor(ranks))
    }
}

impl Record {
    /// The systems' results on one cell, in the order of [`Self::systems`].
    pub fn of_cell<'a>(&'a self, cell: &'a Cell) -> impl Iterator<Item = &'a Measured> {
        self.results.iter().filter(move |result| result.cell == *cell)
    }

    /// The cells, in the order in which they were measured.
    #[must_use]
    pub fn cells(&self) -> Vec<&Cell> {
        let mut cells: Vec<&Cell> = Vec::new();
        for result in &self.results {
            if !cells.contains(&&result.cell) {
                cells.push(&result.cell);
            }
        }
        cells
    }

    /// Wrong elements of all results of `system`.
    #[must_use]
    pub fn wrong(&self, system: &str) -> u64 {
        self.results
            .iter()
            .filter(|r| r.system == system)
            .filter_map(|r| r.times().map(|t| t.wrong))
            .sum()
    }

    /// Writes `<stem>.json`, `<stem>.csv` and, where there is a sweep to draw, `<stem>.svg` and `<stem>.png` into `folder`,
    /// which is created.
    ///
    /// # Errors
    /// The folder cannot be written to.
    pub fn write(&self, folder: &Path, stem: &str) -> Result<Vec<PathBuf>> {
        fs::create_dir_all(folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        let mut files = vec![("json", self.json()?.into()), ("csv", self.csv().into_bytes())];
        if let Some(picture) = super::plot::svg(self) {
            let pixels = super::plot::png(&picture)?;
            files.extend([("svg", picture.into_bytes()), ("png", pixels)]);
        }
        let write = |(ending, bytes): (_, Vec<u8>)| {
            let path = folder.join(format!("{stem}.{ending}"));
            fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
            Ok(path)
        };
        files.into_iter().map(write).collect()
    }

    /// The file name without its ending: date, world, transport and commit.
    #[must_use]
    pub fn stem(&self) -> String {
        let when: String = self.machine.date.chars().filter(char::is_ascii_alphanumeric).collect();
        let commit = self.machine.commit.get(..7).unwrap_or("nocommit");
        format!("{when}-{}x{}-{commit}", self.protocol.transport, self.protocol.ranks)
    }

    /// The whole record.
    ///
    /// # Errors
    /// None in practice: every field can be written.
    pub fn json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// One line for every cell and system.
    #[must_use]
    pub fn csv(&self) -> String {
        let mut text = String::from(
            "commit,date,transport,ranks,system,op,dtype,redop,root,model,tensors,bytes,time_us,min_us,max_us,algbw_gbps,busbw_gbps,p50_us,p99_us,latency_us,modelled_us,wrong,note\n",
        );
        let number = |value: Option<f64>| value.map_or(String::new(), |v| format!("{v:.3}"));
        for result in &self.results {
            let Measured { cell, .. } = result;
            let times = result.times();
            let note = match &result.outcome {
                Outcome::Timed(_) => String::new(),
                Outcome::Absent(why) => why.replace([',', '\n', '"'], ";"),
            };
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{note}",
                self.machine.commit,
                self.machine.date,
                self.protocol.transport,
                self.protocol.ranks,
                result.system,
                cell.operation.name(),
                cell.dtype.name(),
                if cell.operation.reduces() { cell.reduction.name() } else { "" },
                if cell.operation.rooted() { cell.root.to_string() } else { String::new() },
                cell.model.as_deref().unwrap_or(""),
                cell.counts.len(),
                result.bytes,
                number(times.map(|t| t.time_us.median)),
                number(times.map(|t| t.time_us.min)),
                number(times.map(|t| t.time_us.max)),
                number(result.algorithm_bandwidth()),
                number(result.bus_bandwidth(self.protocol.ranks)),
                number(times.and_then(|t| t.p50_us)),
                number(times.and_then(|t| t.p99_us)),
                number(times.and_then(|t| t.latency_us)),
                number(times.and_then(|t| t.modelled_us)),
                times.map_or(String::new(), |t| t.wrong.to_string()),
            );
        }
        text
    }
}

/// A small record for the tests of this module and of the table.
#[cfg(test)]
pub(crate) fn sample() -> Record {
    use super::cells::{Dtype, Kind, Operation, Reduction};
    use super::models::Model;

    let kind = Kind { dtype: Dtype::F32, reduction: Reduction::Sum, root: 0 };
    let timed = |us: f64, wrong: u64| {
        Outcome::Timed(Times {
            time_us: Rounds::of(vec![us * 1.1, us, us * 0.95]).unwrap(),
            iterations: 100,
            p50_us: Some(us * 0.9),
            p99_us: Some(us * 3.0),
            latency_us: Some(us * 1.5),
            modelled_us: (us < 100.0).then_some(us * 0.8),
            wrong,
        })
    };
    let mut results = Vec::new();
    let mut put = |cell: &Cell, ours: Outcome, gloo: Outcome| {
        for (system, outcome) in [("allhands", ours), ("torch-gloo", gloo)] {
            results.push(Measured {
                system: system.into(),
                cell: cell.clone(),
                bytes: cell.bytes(4),
                outcome,
            });
        }
    };
    put(&Cell::sized(Operation::AllReduce, kind, 4, 4), timed(20.0, 0), timed(1059.0, 0));
    put(
        &Cell::sized(Operation::AllReduce, kind, 4, 64 << 20),
        timed(100_000.0, 0),
        timed(123_800.0, 2),
    );
    put(
        &Cell::of_model(Operation::Gather, kind, 4, Model::ResNet50),
        timed(50_000.0, 0),
        Outcome::Absent("it broke, twice".into()),
    );
    put(&Cell::sized(Operation::Barrier, kind, 4, 4), timed(30.0, 0), timed(1975.0, 0));
    Record {
        version: VERSION,
        machine: Machine {
            cpu: "Some(R) CPU".into(),
            cores: 2,
            kernel: "linux 6.1".into(),
            rustc: "rustc 1.95.0".into(),
            mtu: 65536,
            congestion_control: "bbr".into(),
            commit: "0123456789abcdef".into(),
            modified: false,
            date: "2026-11-21T09:00:00Z".into(),
        },
        protocol: Protocol {
            ranks: 4,
            transport: "tcp".into(),
            rounds: 3,
            budget_ms: 30,
            bound: false,
            rule: "back to back".into(),
        },
        systems: vec![
            Entrant { name: "allhands".into(), what: "allhands 0.1.0".into() },
            Entrant { name: "torch-gloo".into(), what: "torch 2.15 gloo".into() },
        ],
        limits: vec![Limit {
            name: "tcp_bidir_per_direction_nonblock_poll".into(),
            bytes: 64 << 20,
            processes: 4,
            unit: super::limits::Unit::GBps,
            rounds: Rounds::of(vec![1.2, 1.25, 1.3]).unwrap(),
        }],
        results,
        notes: vec!["mpich: not on the path".into()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let record = sample();
        let paths = record.write(&folder.path().join("deep/er"), &record.stem()).unwrap();
        assert!(paths[0].ends_with("20261121T090000Z-tcpx4-0123456.json"), "{paths:?}");
        let text = fs::read_to_string(&paths[0]).unwrap();
        assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record);
    }

    #[test]
    fn every_csv_line_has_every_column() {
        let record = sample();
        let csv = record.csv();
        let columns = csv.lines().next().unwrap().split(',').count();
        assert_eq!(csv.lines().count(), 1 + record.results.len());
        for line in csv.lines() {
            assert_eq!(line.split(',').count(), columns, "{line}");
        }
        assert!(csv.contains(",it broke; twice\n"));
    }

    #[test]
    fn bandwidths_follow_nccl_tests() {
        let record = sample();
        let large = &record.results[2];
        let algbw = large.algorithm_bandwidth().unwrap();
        assert!((algbw - f64::from(64 << 20) / 100_000.0 / 1e3).abs() < 1e-9);
        assert!((large.bus_bandwidth(4).unwrap() - algbw * 1.5).abs() < 1e-9);
        assert_eq!(record.wrong("allhands"), 0);
        assert_eq!(record.wrong("torch-gloo"), 2);
        assert_eq!(record.cells().len(), 4);
    }
}
