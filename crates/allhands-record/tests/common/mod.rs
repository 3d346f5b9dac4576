//! Records for tests.
#![allow(dead_code, reason = "not every test program uses all of it")]

use allhands_record::{
    CallMode, Clock, Details, Entry, FlightRecord, GroupConfig, GroupStatus, Origin, State,
    WORLD_DESCRIPTION,
};

/// A record of `rank` without operations, taken late.
pub(crate) fn record(rank: u32, world: u32) -> FlightRecord {
    let origin = Origin {
        group: "world".to_owned(),
        rank,
        world_size: world,
        taken_ns: 2_000_000_000,
        failure: None,
    };
    let ranks: Vec<u32> = (0..world).collect();
    let mut record = FlightRecord::new(origin);
    let world = GroupConfig::new("world", WORLD_DESCRIPTION, &ranks);
    record.pg_config.insert("world".to_owned(), world);
    record.pg_status.insert("0".to_owned(), GroupStatus::default());
    record
}

/// An operation on 8 f32 that ended well.
pub(crate) fn entry(seq: u64, operation: &str, begun: u64, ended: u64) -> Entry {
    Entry {
        record_id: seq,
        pg_id: 0,
        process_group: ("world".to_owned(), WORLD_DESCRIPTION.to_owned()),
        collective_seq_id: seq,
        p2p_seq_id: 0,
        op_id: seq,
        profiling_name: format!("c10d:{operation}"),
        time_created_ns: begun,
        input_sizes: vec![vec![8]],
        input_dtypes: vec!["Float".to_owned()],
        output_sizes: vec![vec![8]],
        output_dtypes: vec!["Float".to_owned()],
        state: State::Completed,
        time_discovered_started_ns: Some(begun),
        time_discovered_completed_ns: Some(ended),
        duration_ms: Some((ended - begun) as f64 / 1e6),
        retired: true,
        timeout_ms: 1_800_000,
        is_p2p: false,
        frames: Vec::new(),
        allhands: Details {
            reduction: Some("sum".to_owned()),
            input_elements: 8,
            output_elements: 8,
            mode: CallMode::Blocking,
            clock: Clock::Read,
            ..Details::default()
        },
    }
}
