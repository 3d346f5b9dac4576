//! Rings of runs and of single operations, against a list that forgets nothing.

use allhands_engine::{Config, GroupSpec, Prepared};
use allhands_plan::{Algorithm, Plan, Shape};
use allhands_record::{Clock, Entry, State};
use allhands_wire::Peer;

use super::*;

fn who() -> Arc<Who> {
    let config = RecordConfig::default();
    let dump = Dump::new(Peer(0), 1, &config);
    Arc::new(Who { group: "test".to_owned(), rank: Rank(0), members: vec![Peer(0)], dump })
}

/// A call that is told from others by its identity, which is also its length.
fn call(identity: u64) -> FlatCall {
    let shape = Shape::Broadcast { len: identity, root: Rank(0) };
    let plan = Plan::build(&shape, Algorithm::Direct, 1, Rank(0)).unwrap();
    let descriptor =
        Descriptor { op: Operation::Broadcast.code(), count: identity, ..Descriptor::default() };
    FlatCall {
        plan: Arc::new(Prepared::new(plan)),
        kernel: None,
        element_size: 1,
        descriptor,
        fingerprint: descriptor.fingerprint(),
        identity,
    }
}

/// One group that records so many operations.
struct Stage {
    engine: Engine,
    records: Records,
    group: GroupKey,
    who: Arc<Who>,
}

impl Stage {
    fn new(entries: usize) -> Self {
        let mut engine = Engine::new(Peer(0), 1, Config::DEFAULT, Instant::now());
        let spec = GroupSpec { id: 1, epoch: 0, members: vec![Peer(0)] };
        let group = engine.add_group(spec).unwrap();
        let (mut records, who) = (Records::new(entries), who());
        records.add(who.clone(), group);
        Self { engine, records, group, who }
    }

    fn entries(&mut self) -> Vec<Entry> {
        self.records.take(self.group, &self.engine).expand(&self.who).entries
    }
}

const LIMIT: Duration = Duration::from_secs(9);

#[test]
fn whatever_was_called_the_last_operations_are_there_one_by_one() {
    for capacity in [1, 2, 3, 7, 64] {
        for pattern in [&[1][..], &[1, 2], &[1, 1, 2, 2, 2, 3], &[4, 4, 4, 4, 4, 4, 4, 4, 5]] {
            let mut stage = Stage::new(capacity);
            for (seq, &identity) in pattern.iter().cycle().take(150).enumerate() {
                let begun = Instant::now();
                let (call, seq) = (call(identity), seq as u64);
                if seq % 31 == 30 {
                    stage.records.waited(stage.group, &call, seq, LIMIT, begun);
                } else {
                    stage.records.ran(stage.group, &call, seq, LIMIT);
                }
                // A look in between changes nothing.
                if seq % 13 == 0 {
                    stage.entries();
                }
            }
            let entries = stage.entries();
            assert_eq!(entries.len(), capacity.min(150), "{pattern:?}");
            let first = 150 - entries.len();
            for (at, entry) in entries.iter().enumerate() {
                let seq = first + at;
                let told = (entry.record_id, entry.collective_seq_id, entry.state);
                assert_eq!(told, (seq as u64, seq as u64, State::Completed), "{pattern:?}");
                let len = pattern[seq % pattern.len()];
                assert_eq!(entry.output_sizes, [[len]], "{seq} of {pattern:?}");
                assert_eq!(entry.duration_ms.is_some(), seq % 31 == 30, "{seq} of {pattern:?}");
            }
            let ended = entries.iter().map(|entry| entry.time_discovered_completed_ns.unwrap());
            assert!(ended.is_sorted(), "{pattern:?}");
        }
    }
}

#[test]
fn a_run_reads_the_clock_once_in_a_while_and_says_which_times_are_estimates() {
    let mut stage = Stage::new(1000);
    let one = call(8);
    for seq in 0..200 {
        stage.records.ran(stage.group, &one, seq, LIMIT);
    }
    assert_eq!(stage.records.groups[0].slots.len(), 200_usize.div_ceil(TIMED_EVERY as usize));
    let entries = stage.entries();
    for entry in &entries {
        let read = entry.record_id % TIMED_EVERY == 0;
        let clock = if read { Clock::Read } else { Clock::Estimated };
        assert_eq!(entry.allhands.clock, clock, "{}", entry.record_id);
    }
    // Estimates are spread evenly between the readings.
    let time = |at: usize| entries[at].time_discovered_completed_ns.unwrap();
    let (from, to) = (time(0), time(64));
    for at in 1..64 {
        let expected = from + (to - from) * at as u64 / 64;
        assert!(time(at).abs_diff(expected) <= 2, "{at}");
    }
    // Another call goes on with the count.
    stage.records.ran(stage.group, &call(9), 200, LIMIT * 2);
    let last = stage.entries().pop().unwrap();
    assert_eq!((last.timeout_ms, last.collective_seq_id), (18_000, 200));
    assert_eq!(last.allhands.clock, Clock::Estimated);
}
