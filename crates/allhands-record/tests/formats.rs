//! Both formats, held against what PyTorch's analyser reads, and read back.
#![allow(missing_docs, reason = "test code")]

mod common;

use std::collections::BTreeMap;

use allhands_record::{
    CallMode, Clock, Details, Entry, FlightRecord, Frame, GroupConfig, RECORD_BYTES_MAX,
    RecordError, State,
};
use common::{entry, record};
use proptest::prelude::*;
use serde_pickle::{HashableValue, Value};

/// One operation that ended and one that did not.
fn two() -> FlightRecord {
    let mut record = record(1, 2);
    record.entries.push(entry(0, "all_reduce", 1_000_000_000, 1_000_500_000));
    record.entries.push(Entry {
        state: State::Started,
        time_discovered_completed_ns: None,
        duration_ms: None,
        retired: false,
        ..entry(1, "broadcast", 1_001_000_000, 1_001_000_000)
    });
    record.origin.failure = Some("timeout".to_owned());
    record
}

/// The text that a record has had since the format was defined. Tools parse it: it changes only with
/// [`allhands_record::VERSION`].
const GOLDEN: &str = r#"{"version":"2.10","pg_config":{"world":{"name":"world","desc":"default_pg","ranks":"[0, 1]"}},"pg_status":{"0":{"last_enqueued_collective":-1,"last_started_collective":-1,"last_completed_collective":-1}},"comm_lib_version":"allhands VERSION","entries":[{"record_id":0,"pg_id":0,"process_group":["world","default_pg"],"collective_seq_id":0,"p2p_seq_id":0,"op_id":0,"profiling_name":"c10d:all_reduce","time_created_ns":1000000000,"input_sizes":[[8]],"input_dtypes":["Float"],"output_sizes":[[8]],"output_dtypes":["Float"],"state":"completed","time_discovered_started_ns":1000000000,"time_discovered_completed_ns":1000500000,"duration_ms":0.5,"retired":true,"timeout_ms":1800000,"is_p2p":false,"frames":[],"allhands":{"channel":0,"reduction":"sum","input_elements":8,"output_elements":8,"mode":"blocking","clock":"read","failed":false}},{"record_id":1,"pg_id":0,"process_group":["world","default_pg"],"collective_seq_id":1,"p2p_seq_id":0,"op_id":1,"profiling_name":"c10d:broadcast","time_created_ns":1001000000,"input_sizes":[[8]],"input_dtypes":["Float"],"output_sizes":[[8]],"output_dtypes":["Float"],"state":"started","time_discovered_started_ns":1001000000,"time_discovered_completed_ns":null,"retired":false,"timeout_ms":1800000,"is_p2p":false,"frames":[],"allhands":{"channel":0,"reduction":"sum","input_elements":8,"output_elements":8,"mode":"blocking","clock":"read","failed":false}}],"allhands":{"group":"world","rank":1,"world_size":2,"taken_ns":2000000000,"failure":"timeout"}}"#;

#[test]
fn json_is_what_it_was() {
    let golden = GOLDEN.replace("VERSION", env!("CARGO_PKG_VERSION"));
    assert_eq!(two().to_json().unwrap(), golden);
    assert_eq!(FlightRecord::from_bytes(golden.as_bytes()).unwrap(), two());
}

fn dict(value: &Value) -> &BTreeMap<HashableValue, Value> {
    match value {
        Value::Dict(dict) => dict,
        other => panic!("not a dictionary: {other:?}"),
    }
}

fn at<'a>(value: &'a Value, key: &str) -> &'a Value {
    let key = HashableValue::String(key.to_owned());
    dict(value).get(&key).unwrap_or_else(|| panic!("no {key:?}"))
}

/// The pickle, looked at as Python sees it: the keys and types that the analyser uses.
#[test]
fn pickles_have_the_keys_and_types_of_pytorch() {
    let pickle = two().to_pickle().unwrap();
    assert_eq!(pickle[..2], [0x80, 2], "protocol 2");
    let value: Value = serde_pickle::value_from_slice(&pickle, Default::default()).unwrap();
    let text = |text: &str| Value::String(text.to_owned());
    assert_eq!(*at(&value, "version"), text("2.10"));
    let group = at(at(&value, "pg_config"), "world");
    assert_eq!(*at(group, "ranks"), text("[0, 1]"));
    assert_eq!(*at(group, "desc"), text("default_pg"));
    let Value::List(entries) = at(&value, "entries") else { panic!("entries are no list") };
    let [first, second] = entries.as_slice() else { panic!("not two entries") };
    for (key, expected) in [
        ("record_id", Value::I64(0)),
        ("collective_seq_id", Value::I64(0)),
        ("p2p_seq_id", Value::I64(0)),
        ("profiling_name", text("c10d:all_reduce")),
        ("process_group", Value::Tuple(vec![text("world"), text("default_pg")])),
        ("input_sizes", Value::List(vec![Value::List(vec![Value::I64(8)])])),
        ("output_dtypes", Value::List(vec![text("Float")])),
        ("state", text("completed")),
        ("time_created_ns", Value::I64(1_000_000_000)),
        ("time_discovered_completed_ns", Value::I64(1_000_500_000)),
        ("duration_ms", Value::F64(0.5)),
        ("is_p2p", Value::Bool(false)),
        ("frames", Value::List(Vec::new())),
    ] {
        assert_eq!(*at(first, key), expected, "{key}");
    }
    assert_eq!(*at(second, "time_discovered_completed_ns"), Value::None);
    assert_eq!(*at(second, "state"), text("started"));
}

#[test]
fn files_are_named_for_the_analyser_and_hold_the_record() {
    let folder = tempfile::tempdir().unwrap();
    let mut record = two();
    record.origin.group = "jobs/7: world".to_owned();
    let inside = folder.path().join("records");
    let path = record.write_to(&inside).unwrap();
    assert_eq!(path, inside.join("jobs_7__world_rank_1"));
    assert_eq!(FlightRecord::read(&path).unwrap(), record);
    record.entries.pop();
    assert_eq!(record.write_to(&inside).unwrap(), path, "a later record replaces it");
    assert_eq!(FlightRecord::read(&path).unwrap(), record);
    let files = std::fs::read_dir(&inside).unwrap().count();
    assert_eq!(files, 1, "no draft is left");
}

#[test]
fn what_is_no_record_is_refused_with_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("noise");
    let read = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        FlightRecord::read(&path).unwrap_err().to_string()
    };
    assert!(read(b"hello").contains("noise: neither JSON nor a pickle"));
    assert!(read(b"{}").contains("not a flight record in JSON: missing field"));
    assert!(read(b"\x80\x02}.").contains("not a flight record in a pickle"));
    assert!(read(b"").contains("neither"));
    // Calls `os.system`: a reader that makes objects would run it.
    let evil = b"\x80\x02cos\nsystem\nU\x04true\x85R.";
    assert!(read(evil).contains("not a flight record in a pickle"));
    let missing = FlightRecord::read(&folder.path().join("missing")).unwrap_err();
    assert!(matches!(missing, RecordError::File { .. }), "{missing}");
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(RECORD_BYTES_MAX + 1).unwrap();
    let long = FlightRecord::read(&path).unwrap_err();
    assert!(matches!(long, RecordError::TooLong { .. }), "{long}");
    // A folder cannot be made where a file is.
    let refused = two().write_to(&path).unwrap_err();
    assert!(matches!(refused, RecordError::File { .. }), "{refused}");
}

#[test]
fn a_group_counts_its_ranks() {
    for ranks in [vec![], vec![7], vec![0, 12, 345]] {
        assert_eq!(GroupConfig::new("g", "d", &ranks).size(), ranks.len());
    }
}

fn entries() -> impl Strategy<Value = Entry> {
    let states = prop_oneof![Just(State::Scheduled), Just(State::Started), Just(State::Completed)];
    // Python's numbers of a pickle are signed.
    let number = || 0..=i64::MAX as u64;
    let numbers = (number(), number(), number(), proptest::option::of(number()));
    let words = ("\\PC*", "\\PC*", proptest::option::of("[a-z_]*"));
    (states, numbers, words, any::<bool>(), any::<Option<u32>>()).prop_map(
        |(state, (seq, created, timeout, ended), (name, label, algorithm), flag, peer)| Entry {
            state,
            time_created_ns: created,
            timeout_ms: timeout,
            time_discovered_completed_ns: ended,
            duration_ms: flag.then_some(0.25),
            is_p2p: flag,
            frames: vec![Frame { name: name.clone(), filename: label.clone(), line: seq }],
            allhands: Details {
                algorithm,
                label,
                peer,
                mode: if flag { CallMode::Async } else { CallMode::Blocking },
                clock: if flag { Clock::Estimated } else { Clock::Read },
                ..Details::default()
            },
            ..entry(seq, &name, 0, 0)
        },
    )
}

proptest! {
    #[test]
    fn both_formats_read_back_what_was_written(entries in proptest::collection::vec(entries(), 0..4)) {
        let mut record = record(3, 5);
        record.entries = entries;
        let json = record.to_json().unwrap();
        prop_assert_eq!(&FlightRecord::from_bytes(json.as_bytes()).unwrap(), &record);
        let pickle = record.to_pickle().unwrap();
        prop_assert_eq!(&FlightRecord::from_bytes(&pickle).unwrap(), &record);
    }

    #[test]
    fn no_bytes_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0..3) {
        match kind {
            0 => bytes.insert(0, 0x80),
            1 => bytes.insert(0, b'{'),
            _ => {}
        }
        // Whatever comes of it is an error or a record.
        let _ = FlightRecord::from_bytes(&bytes);
    }

    #[test]
    fn no_broken_record_panics(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>()) {
        let mut pickle = two().to_pickle().unwrap();
        let at = at.index(pickle.len());
        pickle[at] = byte;
        let _ = FlightRecord::from_bytes(&pickle);
        pickle.truncate(cut.index(pickle.len()));
        let _ = FlightRecord::from_bytes(&pickle);
    }
}
