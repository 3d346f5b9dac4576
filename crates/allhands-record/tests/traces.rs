//! Traces of several ranks: whose clocks are moved by how much, and what a trace says.
#![allow(missing_docs, reason = "test code")]

mod common;

use allhands_record::{Alignment, Clock, Details, Entry, FlightRecord, State, align, merge};
use common::{entry, record};
use serde_json::Value;

/// Nanoseconds that news take from one rank to another.
const LATENCY: u64 = 30_000;

/// Records of ranks that meet in barriers. Rank `r` comes `late[k][r]` to meeting `k`, and its clock is `wrong[r]` ahead.
fn meetings(late: &[[u64; 3]], wrong: [i64; 3]) -> Vec<FlightRecord> {
    let mut records: Vec<_> = (0..3).map(|rank| record(rank, 3)).collect();
    for (seq, late) in late.iter().enumerate() {
        let begins = 1_000_000_000 + seq as u64 * 10_000_000;
        let last = late.iter().max().unwrap();
        let ends = begins + last + LATENCY;
        for (rank, record) in records.iter_mut().enumerate() {
            let clock = |time: u64| time.saturating_add_signed(wrong[rank]);
            let begun = clock(begins + late[rank]);
            record.entries.push(entry(seq as u64, "barrier", begun, clock(ends)));
        }
    }
    records
}

/// Every rank is the last once, so that the bounds are tight from both sides.
const LATE: [[u64; 3]; 3] = [[900_000, 0, 4_000], [0, 700_000, 0], [5_000, 0, 800_000]];

#[test]
fn clocks_that_the_records_prove_wrong_are_moved_back() {
    for wrong in [[0, 5_000_000, -80_000_000], [0, -1_000_000, 400_000], [2_000_000, 0, 0]] {
        let records = meetings(&LATE, wrong);
        let aligned = align(&records);
        for (rank, found) in aligned.iter().enumerate() {
            let expected = wrong[0] - wrong[rank];
            let error = (found.offset_ns - expected).unsigned_abs();
            assert!(error <= LATENCY, "rank {rank}, {wrong:?}: {found:?}");
            if let Some((low, high)) = found.bounds_ns {
                assert!(low <= expected && expected <= high, "{wrong:?}: {found:?}");
                assert_eq!((high - low) as u64, 2 * LATENCY, "{wrong:?}: {found:?}");
            }
        }
        // With the clocks aligned, no rank ends before all have begun.
        let time = |rank: usize, time: u64| time.saturating_add_signed(aligned[rank].offset_ns);
        for seq in 0..LATE.len() {
            let at = |rank: usize| records[rank].entries[seq].measured().unwrap();
            let begun = (0..3).map(|rank| time(rank, at(rank).0)).max().unwrap();
            let ended = (0..3).map(|rank| time(rank, at(rank).1)).min().unwrap();
            assert!(begun <= ended, "{wrong:?}, meeting {seq}");
        }
    }
}

#[test]
fn clocks_that_may_be_right_stay() {
    let records = meetings(&LATE, [0, 20_000, -20_000]);
    assert!(align(&records).iter().all(|found| found.offset_ns == 0), "within the latency");
    let alone = vec![record(4, 9)];
    assert_eq!(align(&alone), [Alignment { rank: 4, offset_ns: 0, bounds_ns: None }]);
    assert_eq!(align(&[]), []);
    // Rooted operations, empty ones and times that were not measured prove nothing.
    let mut records = meetings(&LATE, [0, 50_000_000, 0]);
    for record in &mut records {
        record.entries[0].profiling_name = "c10d:broadcast".to_owned();
        record.entries[1].profiling_name = "c10d:all_reduce".to_owned();
        record.entries[1].allhands.input_elements = 0;
        record.entries[2].duration_ms = None;
    }
    let found = align(&records);
    assert!(found.iter().all(|found| found.bounds_ns.is_none() && found.offset_ns == 0));
}

fn slices<'a>(trace: &'a Value, name: &str) -> Vec<&'a Value> {
    let events = trace["traceEvents"].as_array().unwrap();
    events.iter().filter(|event| event["ph"] == "X" && event["name"] == name).collect()
}

#[test]
fn a_trace_has_the_names_of_kineto_and_a_process_for_each_rank() {
    let mut records = meetings(&LATE[..1], [0, 5_000_000_000, 0]);
    for (record, ahead) in records.iter_mut().zip([0, 5_000_000_000, 0]) {
        let (begun, ended) = (3_000_000_000 + ahead, 3_000_400_000 + ahead);
        record.entries.push(entry(1, "all_reduce", begun, ended));
    }
    let trace: Value = serde_json::from_str(&merge(&records, &align(&records))).unwrap();
    assert_eq!(trace["distributedInfo"]["world_size"], 3);
    assert_eq!(trace["distributedInfo"]["backend"], "allhands");
    let all_reduces = slices(&trace, "allhands:all_reduce");
    assert_eq!(all_reduces.len(), 3);
    assert_eq!(all_reduces[0]["dur"], 400.0);
    assert_eq!(all_reduces[0]["args"]["reduction"], "sum");
    let comms = slices(&trace, "record_param_comms");
    assert_eq!(comms.len(), 6);
    let found = comms.iter().find(|event| event["args"]["Collective name"] == "allreduce").unwrap();
    for (name, value) in [
        ("In msg nelems", Value::from(8)),
        ("Out msg nelems", Value::from(8)),
        ("dtype", Value::from("Float")),
        ("Group size", Value::from(3)),
        ("Process Group Name", Value::from("world")),
        ("Process Group Description", Value::from("default_pg")),
        ("Process Group Ranks", Value::from("[0, 1, 2]")),
        ("Is asynchronized op", Value::from(false)),
    ] {
        assert_eq!(found["args"][name], value, "{name}");
    }
    // The barriers end together although a clock was 5 s ahead.
    let ends = slices(&trace, "allhands:barrier").into_iter();
    let ends: Vec<f64> =
        ends.map(|e| e["ts"].as_f64().unwrap() + e["dur"].as_f64().unwrap()).collect();
    let spread = ends.iter().fold(0.0_f64, |spread, end| spread.max((end - ends[0]).abs()));
    assert!(spread <= LATENCY as f64 / 1e3, "{ends:?}");
    let pids: Vec<_> =
        slices(&trace, "allhands:barrier").iter().map(|e| e["pid"].clone()).collect();
    assert_eq!(pids, [0, 1, 2]);
}

#[test]
fn operations_that_overlap_lie_in_lanes_and_open_ones_reach_to_the_end() {
    let mut one = record(0, 1);
    one.entries.push(entry(0, "all_gather", 1_000_000, 5_000_000));
    one.entries.push(entry(1, "reduce", 2_000_000, 3_000_000));
    let peer =
        Details { peer: Some(2), tag: Some(9), clock: Clock::Estimated, ..Details::default() };
    one.entries.push(Entry {
        state: State::Started,
        is_p2p: true,
        time_discovered_completed_ns: None,
        allhands: peer,
        ..entry(2, "send 0->2", 5_000_000, 5_000_000)
    });
    let trace: Value = serde_json::from_str(&one.to_chrome_trace()).unwrap();
    let lane = |name: &str| slices(&trace, name)[0]["tid"].as_u64().unwrap();
    assert_eq!((lane("allhands:all_gather"), lane("allhands:reduce")), (0, 1));
    assert_eq!(lane("allhands:send"), 0, "a lane is used again");
    let send = slices(&trace, "allhands:send")[0];
    assert_eq!(send["dur"], f64::from(2_000_000_000 - 5_000_000) / 1e3);
    assert_eq!(send["args"]["state"], "started");
    assert_eq!(send["args"]["clock"], "estimated");
    let comms = slices(&trace, "record_param_comms");
    assert_eq!(comms[2]["args"]["Dst Rank"], 2);
    assert_eq!(comms[2]["args"]["Collective name"], "send");
}
