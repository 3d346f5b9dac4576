//! `cargo xtask trace`: flight records of many ranks as one Chrome trace, on one clock.
//!
//! Clocks of hosts differ. The records bound by how much: no rank ends a barrier, an all-reduce, an all-gather or a
//! reduce-scatter before every rank has begun it. A clock that these bounds allow stays as it is, as those of one host
//! do; one that they prove wrong is moved.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use allhands_record::{Alignment, FlightRecord, align, merge};
use anyhow::{Context as _, Result, bail, ensure};

/// Merge the flight records of ranks into one Chrome trace, on one clock.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Flight records, pickles or JSON, one of each rank, or folders of them.
    #[arg(required = true)]
    records: Vec<PathBuf>,
    /// Where the trace goes; Perfetto and chrome://tracing open it.
    #[arg(long, default_value = "trace.json")]
    out: PathBuf,
}

/// Merges, and says which clocks were moved by how much.
///
/// # Errors
/// A file is no record, two are of one rank, or the trace cannot be written.
pub fn main(args: &Args) -> Result<()> {
    let mut records = Vec::new();
    for path in &args.records {
        read(path, &mut records)?;
    }
    records.sort_by_key(|record| record.origin.rank);
    for pair in records.windows(2) {
        let rank = pair[0].origin.rank;
        if rank == pair[1].origin.rank {
            bail!("two records are of rank {rank}; pass those of one group");
        }
    }
    let aligned = align(&records);
    std::fs::write(&args.out, merge(&records, &aligned))
        .with_context(|| format!("cannot write {}", args.out.display()))?;
    let out = &mut std::io::stdout();
    for (record, aligned) in records.iter().zip(&aligned) {
        writeln!(out, "{}", line(record, aligned))?;
    }
    writeln!(out, "wrote {}", args.out.display())?;
    Ok(())
}

/// Reads a record, or all of a folder.
fn read(path: &Path, records: &mut Vec<FlightRecord>) -> Result<()> {
    if !path.is_dir() {
        records.push(FlightRecord::read(path)?);
        return Ok(());
    }
    let list = || std::fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect();
    let listed: std::io::Result<Vec<PathBuf>> = list();
    let mut files = listed.with_context(|| format!("cannot list {}", path.display()))?;
    files.retain(|file| file.is_file());
    ensure!(!files.is_empty(), "{} holds no records", path.display());
    for file in files {
        records.push(FlightRecord::read(&file)?);
    }
    Ok(())
}

/// What became of one rank's clock.
fn line(record: &FlightRecord, aligned: &Alignment) -> String {
    let ms = |ns: i64| ns as f64 / 1e6;
    let clock = match aligned.bounds_ns {
        None => "clock as it is".to_owned(),
        Some((low, high)) => {
            let (moved, low, high) = (ms(aligned.offset_ns), ms(low), ms(high));
            format!("clock moved by {moved:.3} ms (between {low:.3} and {high:.3})")
        }
    };
    let failure = record.origin.failure.as_ref();
    let failure = failure.map_or(String::new(), |why| format!("; the group failed: {why}"));
    let operations = record.entries.len();
    format!("rank {}: {operations} operations, {clock}{failure}", aligned.rank)
}

#[cfg(test)]
mod tests {
    use allhands_record::{Details, Entry, GroupConfig, Origin, State, WORLD_DESCRIPTION};
    use serde_json::Value;

    use super::*;

    /// A rank whose clock is `ahead`, that was in two barriers with others.
    fn record(rank: u32, ahead: u64) -> FlightRecord {
        let origin = Origin {
            group: "world".to_owned(),
            rank,
            world_size: 2,
            taken_ns: 9_000_000,
            failure: None,
        };
        let mut record = FlightRecord::new(origin);
        let config = GroupConfig::new("world", WORLD_DESCRIPTION, &[0, 1]);
        record.pg_config.insert("world".to_owned(), config);
        for seq in 0..2 {
            let begun = 1_000_000 * (seq + 1) + ahead;
            let ended = begun + 50_000;
            record.entries.push(Entry {
                record_id: seq,
                pg_id: 0,
                process_group: ("world".to_owned(), WORLD_DESCRIPTION.to_owned()),
                collective_seq_id: seq,
                p2p_seq_id: 0,
                op_id: seq,
                profiling_name: "c10d:barrier".to_owned(),
                time_created_ns: begun,
                input_sizes: vec![vec![0]],
                input_dtypes: Vec::new(),
                output_sizes: vec![vec![0]],
                output_dtypes: Vec::new(),
                state: State::Completed,
                time_discovered_started_ns: Some(begun),
                time_discovered_completed_ns: Some(ended),
                duration_ms: Some(0.05),
                retired: true,
                timeout_ms: 1000,
                is_p2p: false,
                frames: Vec::new(),
                allhands: Details::default(),
            });
        }
        record
    }

    #[test]
    fn records_of_a_folder_become_one_trace_on_one_clock() {
        let folder = tempfile::tempdir().unwrap();
        let records = folder.path().join("records");
        for (rank, ahead) in [(1, 700_000_000), (0, 0)] {
            record(rank, ahead).write_to(&records).unwrap();
        }
        let out = folder.path().join("trace.json");
        main(&Args { records: vec![records.clone()], out: out.clone() }).unwrap();
        let trace: Value = serde_json::from_slice(&std::fs::read(&out).unwrap()).unwrap();
        let begins = |rank: u64| -> Vec<f64> {
            let events = trace["traceEvents"].as_array().unwrap().iter();
            let own = events.filter(|e| e["name"] == "allhands:barrier" && e["pid"] == rank);
            own.map(|event| event["ts"].as_f64().unwrap()).collect()
        };
        assert_eq!((begins(0), begins(1)), (vec![0.0, 1000.0], vec![0.0, 1000.0]));
        // The same rank twice, and what is no record.
        let again = vec![records.clone(), records.join("world_rank_1")];
        let error = main(&Args { records: again, out: out.clone() }).unwrap_err().to_string();
        assert!(error.contains("two records are of rank 1"), "{error}");
        let error = main(&Args { records: vec![out.clone()], out }).unwrap_err().to_string();
        assert!(error.contains("trace.json: not a flight record"), "{error}");
    }

    #[test]
    fn a_line_says_what_became_of_a_clock() {
        let aligned =
            Alignment { rank: 1, offset_ns: -700_000_000, bounds_ns: Some((-700_050_000, 0)) };
        assert_eq!(
            line(&record(1, 0), &aligned),
            "rank 1: 2 operations, clock moved by -700.000 ms (between -700.050 and 0.000)"
        );
    }
}
