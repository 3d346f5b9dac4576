//! Records as a Chrome trace, with the names that Kineto gives collectives, for Perfetto and for tools that read Kineto's.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::align::Alignment;
use crate::entry::{CallMode, Clock, Entry, State};
use crate::record::FlightRecord;

/// The trace of one rank on its own clock.
#[must_use]
pub fn to_chrome_trace(record: &FlightRecord) -> String {
    merge(std::slice::from_ref(record), &[])
}

impl FlightRecord {
    /// The record as a Chrome trace: see [`merge`].
    #[must_use]
    pub fn to_chrome_trace(&self) -> String {
        to_chrome_trace(self)
    }
}

/// The trace of several ranks as JSON: a process for each rank, and for each operation a slice with its name around one
/// called `record_param_comms`, whose arguments are Kineto's. Operations that overlap lie in lanes, which are threads.
///
/// `alignments` says what to add to which rank's times, see [`align`](crate::align()); ranks that it does not name keep theirs.
/// An operation that has not ended reaches to the moment at which the record was taken. One whose clock was not read is
/// a slice without length.
#[must_use]
pub fn merge(records: &[FlightRecord], alignments: &[Alignment]) -> String {
    let shift = |record: &FlightRecord| {
        let of_rank = alignments.iter().find(|aligned| aligned.rank == record.origin.rank);
        of_rank.map_or(0, |aligned| aligned.offset_ns)
    };
    let moved = |record: &FlightRecord, time: u64| time.saturating_add_signed(shift(record));
    let begin = records
        .iter()
        .flat_map(|record| record.entries.iter().map(|entry| moved(record, entry.time_created_ns)))
        .min()
        .unwrap_or_default();
    let mut events = Vec::new();
    for record in records {
        let rank = record.origin.rank;
        events.push(named("process_name", rank, 0, &format!("rank {rank}")));
        let mut lanes: Vec<u64> = Vec::new();
        for entry in &record.entries {
            let (from, to) = span(record, entry);
            let (from, to) = (moved(record, from), moved(record, to));
            let lane = match lanes.iter().position(|free| *free <= from) {
                Some(lane) => lane,
                None => {
                    lanes.push(0);
                    events.push(named("thread_name", rank, lanes.len() - 1, "operations"));
                    lanes.len() - 1
                }
            };
            lanes[lane] = to.max(from + 1);
            let slice = |name: &str, category: &str, args: Value| {
                json!({
                    "ph": "X", "name": name, "cat": category, "pid": rank, "tid": lane,
                    "ts": micros(from.saturating_sub(begin)), "dur": micros(to.saturating_sub(from)),
                    "args": args,
                })
            };
            let operation = format!("allhands:{}", entry.operation());
            events.push(slice(&operation, "user_annotation", details(entry)));
            events.push(slice("record_param_comms", "cpu_op", comms(record, entry)));
        }
    }
    let origin = records.first().map(|record| &record.origin);
    json!({
        "schemaVersion": 1,
        "displayTimeUnit": "ns",
        "baseTimeNanoseconds": begin,
        "distributedInfo": {
            "backend": "allhands",
            "rank": origin.map_or(0, |origin| origin.rank),
            "world_size": origin.map_or(0, |origin| origin.world_size),
        },
        "traceEvents": events,
    })
    .to_string()
}

/// Kineto counts microseconds.
fn micros(ns: u64) -> f64 {
    ns as f64 / 1e3
}

fn named(what: &str, rank: u32, lane: usize, name: &str) -> Value {
    json!({ "ph": "M", "name": what, "pid": rank, "tid": lane, "args": { "name": name } })
}

/// From when to when an operation ran.
fn span(record: &FlightRecord, entry: &Entry) -> (u64, u64) {
    let from = entry.time_created_ns;
    let to = match entry.state {
        State::Completed => entry.time_discovered_completed_ns.unwrap_or(from),
        _ => entry.time_discovered_completed_ns.unwrap_or(record.origin.taken_ns),
    };
    (from, to.max(from))
}

/// What Kineto has no name for.
fn details(entry: &Entry) -> Value {
    let mut args = Map::new();
    let own = &entry.allhands;
    let mut put = |name: &str, value: Value| args.insert(name.to_owned(), value);
    put("state", json!(entry.state));
    put("channel", json!(own.channel));
    if own.clock == Clock::Estimated {
        put("clock", json!(own.clock));
    }
    if own.failed {
        put("failed", json!(true));
    }
    if !own.label.is_empty() {
        put("label", json!(own.label));
    }
    let named = [("algorithm", &own.algorithm), ("reduction", &own.reduction)];
    for (name, value) in named.into_iter().filter_map(|(n, v)| Some((n, v.as_ref()?))) {
        put(name, json!(value));
    }
    let numbers = [("root", own.root), ("peer", own.peer), ("tag", own.tag)];
    for (name, value) in numbers.into_iter().filter_map(|(n, v)| Some((n, v?))) {
        put(name, json!(value));
    }
    Value::Object(args)
}

/// An operation's arguments under Kineto's names.
fn comms(record: &FlightRecord, entry: &Entry) -> Value {
    let group = record.pg_config.get(&entry.process_group.0);
    let dtype = entry.output_dtypes.first().or(entry.input_dtypes.first());
    let mut args = json!({
        "Collective name": collective(entry.operation()),
        "In msg nelems": entry.allhands.input_elements,
        "Out msg nelems": entry.allhands.output_elements,
        "dtype": dtype.map_or("Byte", String::as_str),
        "Group size": group.map_or(0, |group| group.size()),
        "Process Group Name": entry.process_group.0,
        "Process Group Description": entry.process_group.1,
        "Process Group Ranks": group.map_or("[]", |group| group.ranks.as_str()),
        "Is asynchronized op": entry.allhands.mode == CallMode::Async,
        "Rank": record.origin.rank,
        "Seq": entry.collective_seq_id,
    });
    if let (true, Some(peer), Value::Object(args)) = (entry.is_p2p, entry.allhands.peer, &mut args)
    {
        let side = if entry.operation() == "send" { "Dst Rank" } else { "Src Rank" };
        args.insert(side.to_owned(), json!(peer));
    }
    args
}

/// Kineto's name of a collective.
fn collective(operation: &str) -> &str {
    let names = BTreeMap::from([
        ("all_reduce", "allreduce"),
        ("all_gather", "allgather"),
        ("all_gather_v", "allgather"),
        ("reduce_scatter_v", "reduce_scatter"),
    ]);
    names.get(operation).copied().unwrap_or(operation)
}
