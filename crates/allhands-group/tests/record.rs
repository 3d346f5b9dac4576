//! The flight record: what it says of each operation, how long it remembers, and that PyTorch's analyser reads it.
//!
//! The analyser needs a Python with torch: `ALLHANDS_PYTHON` names it, else `python3`. Without one its test prints `SKIP`,
//! or fails if `ALLHANDS_REQUIRE_TORCH=1`.
#![allow(missing_docs, clippy::print_stderr, reason = "test code")]

#[path = "common/ranks.rs"]
mod ranks;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use allhands_group::env::{Launch, ProcessEnvironment};
use allhands_group::record::{CallMode, Clock, Entry, FlightRecord, State};
use allhands_group::{
    CallOptions, Config, DType, Error, OperationError, ProcessGroup, Rank, RecordConfig, ReduceOp,
    SparseTensor, Tensor, Transport,
};
use ranks::{Ranks, free_port, pause, worker};

/// Far more than any of these tests needs; a rank that hangs is killed then.
const LIMIT: Duration = Duration::from_secs(90);

fn config(record: RecordConfig) -> Config {
    Config { timeout: LIMIT, rendezvous_timeout: LIMIT, record, ..Config::default() }
}

/// Runs `act` on `world` ranks, each a thread.
fn threads<R: Send>(
    world: u32,
    config: &Config,
    act: impl Fn(&ProcessGroup) -> R + Sync,
) -> Vec<R> {
    let groups = ProcessGroup::local_with(world, config).unwrap();
    std::thread::scope(|scope| {
        let ranks: Vec<_> = groups.iter().map(|group| scope.spawn(|| act(group))).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

fn join(transport: Transport) -> ProcessGroup {
    let launch = Launch::from_variables(&ProcessEnvironment).unwrap();
    let config = Config { transport, ..config(RecordConfig::default()) };
    ProcessGroup::from_launch(&launch, config).unwrap()
}

/// Name, sizes and element types.
type Facts<'a> = (&'a str, &'a [Vec<u64>], &'a [Vec<u64>], &'a [String]);

/// What the analyser reads of an entry.
fn facts(entry: &Entry) -> Facts<'_> {
    let Entry { profiling_name, input_sizes, output_sizes, input_dtypes, .. } = entry;
    assert_eq!(*input_dtypes, entry.output_dtypes);
    (profiling_name, input_sizes, output_sizes, input_dtypes)
}

#[test]
fn every_operation_is_recorded_as_torch_names_it() {
    const WORLD: u32 = 3;
    let records = threads(WORLD, &config(RecordConfig::default()), |group| {
        let me = group.rank();
        let root = Rank(1);
        let at_root = |len: usize| if me == root { len } else { 0 };
        let mut three = [1.0f32; 3];
        let mut nine = [1i64; 9];
        group.all_reduce(&mut three, ReduceOp::Max).unwrap();
        group.broadcast(&mut three, root).unwrap();
        group.reduce(&mut nine, ReduceOp::Sum, root).unwrap();
        group.all_gather_into(&[1i64; 3], &mut nine).unwrap();
        let mut lists = [vec![0u8; 2], vec![0; 5], vec![0; 1]];
        let mine = vec![7u8; lists[me.index()].len()];
        group.all_gather_v(&mine[..], lists.iter_mut().map(|list| &mut list[..])).unwrap();
        group.reduce_scatter_into(&[1i64; 9], &mut nine[..3], ReduceOp::Sum).unwrap();
        group.all_to_all_single(&[1i64; 9], &mut nine).unwrap();
        let mut gathered = vec![vec![0.0f32; 3]; at_root(3)];
        group.gather(&three, gathered.iter_mut().map(|one| &mut one[..]), root).unwrap();
        let scattered = vec![vec![0.0f32; 3]; at_root(3)];
        group.scatter(scattered.iter().map(|one| &one[..]), &mut three, root).unwrap();
        group.barrier().unwrap();
        group.flight_record()
    });
    let f = ["Float".to_owned()];
    let i = ["Long".to_owned()];
    let u = ["Byte".to_owned()];
    for (rank, record) in records.iter().enumerate() {
        let at_root = |len: u64| vec![if rank == 1 { len } else { 0 }];
        let expected: [(_, _, _, &[String]); 10] = [
            ("c10d:all_reduce", vec![3], vec![3], &f),
            ("c10d:broadcast", vec![3], vec![3], &f),
            ("c10d:reduce", vec![9], vec![9], &i),
            ("c10d:all_gather", vec![3], vec![9], &i),
            ("c10d:all_gather_v", vec![], vec![8], &u),
            ("c10d:reduce_scatter", vec![9], vec![3], &i),
            ("c10d:all_to_all", vec![9], vec![9], &i),
            ("c10d:gather", vec![3], at_root(9), &f),
            ("c10d:scatter", at_root(9), vec![3], &f),
            ("c10d:barrier", vec![0], vec![0], &[]),
        ];
        assert_eq!(record.entries.len(), expected.len());
        for (at, (entry, (name, input, output, dtypes))) in
            record.entries.iter().zip(expected).enumerate()
        {
            assert_eq!(facts(entry), (name, &[input][..], &[output][..], dtypes), "{entry:#?}");
            let at = at as u64;
            assert_eq!((entry.record_id, entry.op_id, entry.collective_seq_id), (at, at, at));
            assert_eq!(entry.process_group, ("world".to_owned(), "default_pg".to_owned()));
            assert_eq!((entry.state, entry.is_p2p, entry.retired), (State::Completed, false, true));
            assert_eq!(entry.timeout_ms, LIMIT.as_millis() as u64);
            assert_eq!(entry.allhands.mode, CallMode::Blocking);
            let (begun, ended) = entry.measured().unwrap();
            assert!(begun <= ended && ended <= record.origin.taken_ns, "{entry:#?}");
        }
        assert_eq!(record.entries[0].allhands.reduction.as_deref(), Some("max"));
        assert_eq!(record.entries[1].allhands.root, Some(1));
        assert_eq!(record.entries[4].allhands.input_elements, [2, 5, 1][rank]);
        assert_eq!(record.pg_config["world"].ranks, "[0, 1, 2]");
        let status = record.pg_status["0"];
        assert_eq!((status.last_enqueued_collective, status.last_completed_collective), (9, 9));
        assert_eq!((record.origin.rank, record.origin.world_size), (rank as u32, WORLD));
        assert_eq!(record.origin.failure, None);
        // Both formats read back what they were made of.
        assert_eq!(FlightRecord::from_bytes(&record.to_pickle().unwrap()).unwrap(), *record);
        assert_eq!(
            FlightRecord::from_bytes(record.to_json().unwrap().as_bytes()).unwrap(),
            *record
        );
    }
}

#[test]
fn messages_and_channels_are_groups_of_their_own() {
    let records = threads(3, &config(RecordConfig::default()), |group| {
        match group.rank() {
            Rank(0) => group.recv(&mut [0.0f32; 4], Rank(2), 5).unwrap(),
            Rank(2) => group.send(&[1.0f32; 4], Rank(0), 5).unwrap(),
            _ => {}
        }
        let mut options = CallOptions::default().on_channel(7);
        options.label = "metrics".to_owned();
        group.with_options(options).barrier().unwrap();
        group.flight_record()
    });
    let name = "world/2->0".to_owned();
    for (rank, side, (input, output)) in [(0, "recv 0<-1", (0, 4)), (2, "send 1->0", (4, 0))] {
        let entry = &records[rank].entries[0];
        let size = [vec![4]];
        let float = ["Float".to_owned()];
        assert_eq!(facts(entry), (&format!("c10d:{side}")[..], &size[..], &size[..], &float[..]));
        assert!(entry.is_p2p && entry.state == State::Completed, "{entry:#?}");
        assert_eq!((entry.collective_seq_id, entry.p2p_seq_id), (0, 0));
        assert_eq!(entry.process_group.0, name);
        assert_eq!(records[rank].pg_config[&name].ranks, "[0, 2]");
        let own = &entry.allhands;
        assert_eq!((own.tag, own.peer), (Some(5), Some(2 - rank as u32)));
        assert_eq!((own.input_elements, own.output_elements), (input, output));
    }
    assert_eq!(records[1].entries.len(), 1);
    for record in &records {
        let entry = record.entries.last().unwrap();
        assert_eq!(entry.process_group.0, "world/channel-7");
        assert_eq!((entry.collective_seq_id, entry.allhands.channel), (0, 7));
        assert_eq!(entry.allhands.label, "metrics");
    }
}

/// A sparse tensor of which each rank has another number of rows.
fn uneven(rank: usize) -> SparseTensor {
    let rows: Vec<i64> = (0..=rank as i64).collect();
    let indices = Tensor::from_vec(rows).with_shape(&[1, rank + 1]).unwrap();
    SparseTensor::new(indices, Tensor::from_slice(&vec![1.0f32; rank + 1]), &[10]).unwrap()
}

#[test]
fn steps_of_a_sparse_sum_have_a_name_that_the_analyser_knows_and_no_sizes() {
    let records = threads(3, &config(RecordConfig::default()), |group| {
        group.all_reduce_sparse(&uneven(group.rank().index()), ReduceOp::Sum).unwrap();
        group.flight_record()
    });
    for record in &records {
        assert!(!record.entries.is_empty());
        for entry in &record.entries {
            assert_eq!(entry.profiling_name, "c10d:all_reduce", "{entry:#?}");
            assert_eq!(
                (&entry.input_sizes[..], &entry.output_sizes[..]),
                (&[vec![]][..], &[vec![]][..])
            );
        }
        assert_eq!(record.entries.len(), records[0].entries.len());
    }
}

#[test]
fn short_messages_have_their_numbers_and_times() {
    const MESSAGES: u64 = 100;
    let records = threads(2, &config(RecordConfig::default()), |group| {
        let before = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
        let mut one = [1u8];
        for tag in 0..MESSAGES as u32 {
            match group.rank() {
                Rank(0) => group.send(&one, Rank(1), tag).unwrap(),
                _ => group.recv(&mut one, Rank(0), tag).unwrap(),
            }
        }
        (before, group.flight_record())
    });
    for (before, record) in &records {
        let numbers: Vec<u64> = record.entries.iter().map(|entry| entry.p2p_seq_id).collect();
        assert_eq!(numbers, (0..MESSAGES).collect::<Vec<_>>());
        let tags = record.entries.iter().map(|entry| entry.allhands.tag.unwrap());
        assert!(tags.eq(0..MESSAGES as u32));
        let ended = record.entries.iter().map(|entry| entry.time_discovered_completed_ns.unwrap());
        assert!(ended.clone().is_sorted() && ended.max().unwrap() <= record.origin.taken_ns);
        let first = record.entries[0].time_discovered_completed_ns.unwrap();
        assert!(*before <= first && record.entries[0].allhands.clock == Clock::Read);
    }
}

#[test]
fn a_record_keeps_the_last_operations_and_none_if_it_is_off() {
    let bound = |entries| config(RecordConfig { entries, ..RecordConfig::default() });
    for (entries, calls) in [(5, 12_u64), (5, 5), (5, 3), (1, 2), (0, 3)] {
        let records = threads(2, &bound(entries), |group| {
            for _ in 0..calls {
                group.barrier().unwrap();
            }
            group.flight_record()
        });
        for record in records {
            let ids: Vec<u64> = record.entries.iter().map(|entry| entry.record_id).collect();
            let last: Vec<u64> = (calls.saturating_sub(entries as u64)..calls).collect();
            assert_eq!(ids, last, "{entries} entries, {calls} calls");
        }
    }
}

#[test]
fn operations_in_flight_are_told_while_others_wait_in_them() {
    let groups = ProcessGroup::local_with(2, &config(RecordConfig::default())).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| groups[0].barrier().unwrap());
        let work = groups[0]
            .on_channel(3)
            .all_reduce_async(Tensor::zeros(DType::F32, &[2]), ReduceOp::Sum);
        let deadline = Instant::now() + LIMIT;
        let record = loop {
            let record = groups[0].flight_record();
            if record.entries.len() == 2 {
                break record;
            }
            assert!(Instant::now() < deadline, "both operations begin");
            pause(Duration::from_millis(1));
        };
        for entry in &record.entries {
            assert_eq!((entry.state, entry.retired), (State::Started, false), "{entry:#?}");
            assert_eq!((entry.time_discovered_completed_ns, entry.duration_ms), (None, None));
        }
        let of_channel = |channel| record.entries.iter().find(|e| e.allhands.channel == channel);
        assert_eq!(of_channel(0).unwrap().allhands.mode, CallMode::Blocking);
        assert_eq!(of_channel(3).unwrap().allhands.mode, CallMode::Async);
        let status = record.pg_status[&of_channel(0).unwrap().pg_id.to_string()];
        assert_eq!((status.last_started_collective, status.last_completed_collective), (0, -1));
        assert!((work.sequence(), work.duration()) == (Some(0), None) && !work.is_success());
        let three = groups[1].on_channel(3);
        three.all_reduce(&mut [0.0f32; 2], ReduceOp::Sum).unwrap();
        assert!(work.wait_timeout(LIMIT));
        assert!(work.is_success() && work.duration() < Some(LIMIT) && work.error().is_none());
        groups[1].barrier().unwrap();
    });
    let ended = groups[0].flight_record();
    assert!(ended.entries.iter().all(|entry| entry.state == State::Completed), "{ended:#?}");
}

#[test]
fn a_work_tells_number_source_time_and_error() {
    let groups = ProcessGroup::local_with(2, &config(RecordConfig::default())).unwrap();
    let received = groups[0].recv_async(Tensor::zeros(DType::F32, &[1]), Rank(1), 0);
    assert_eq!((received.source(), received.is_success()), (Some(Rank(1)), false));
    let sent = groups[1].send_async(Tensor::zeros(DType::F32, &[1]), Rank(0), 0);
    assert!(sent.wait_timeout(LIMIT) && received.wait_timeout(LIMIT));
    assert_eq!((sent.source(), sent.sequence(), received.sequence()), (None, Some(0), Some(0)));
    // A message that has come before it is asked for ends at once, and has a number all the same.
    let sent = groups[1].send_async(Tensor::zeros(DType::F32, &[1]), Rank(0), 0);
    assert!(sent.wait_timeout(LIMIT));
    groups[0].on_channel(2).barrier_async().wait_timeout(Duration::from_millis(50));
    let received = groups[0].recv_async(Tensor::zeros(DType::F32, &[1]), Rank(1), 0);
    assert!(received.wait_timeout(LIMIT));
    assert_eq!((sent.sequence(), received.sequence()), (Some(1), Some(1)));
    let refused = groups[0].broadcast_async(Tensor::zeros(DType::F32, &[1]), Rank(9));
    assert!(refused.is_completed() && !refused.is_success());
    assert_eq!((refused.sequence(), refused.duration()), (None, None));
    let error = refused.error().unwrap().to_string();
    assert!(error.contains("root 9"), "{error}");
    assert_eq!(refused.wait().unwrap_err().to_string(), error);
    let broken = groups[0].barrier_async();
    groups[1].abort("the loss is not a number");
    assert!(broken.wait_timeout(LIMIT) && !broken.is_success());
    let error = broken.error().unwrap();
    assert!(matches!(error, Error::Operation(OperationError::Aborted { .. })), "{error}");
    assert!(broken.duration().is_some());
    let record = groups[0].flight_record();
    let entry = record.entries.last().unwrap();
    assert_eq!((entry.state, entry.allhands.failed, entry.retired), (State::Started, true, true));
    let failure = record.origin.failure.unwrap();
    assert!(failure.contains("abort") && failure.contains("not a number"), "{failure}");
}

/// Calls of a kind that a run is made of.
const RUN: u64 = 300;

/// Runs of equal calls, and calls in turns: numbers have no gaps, and times go forward.
fn runs(transport: Transport) {
    let group = join(transport);
    let mut data = [0.5f32; 4];
    for _ in 0..RUN {
        group.all_reduce(&mut data, ReduceOp::Max).unwrap();
    }
    for _ in 0..RUN {
        group.all_reduce(&mut data[..1], ReduceOp::Max).unwrap();
        group.barrier().unwrap();
    }
    let patient = group.with_timeout(LIMIT * 2);
    patient.all_reduce(&mut data[..3], ReduceOp::Max).unwrap();
    let record = group.flight_record();
    let entries = &record.entries;
    assert_eq!(entries.len() as u64, 3 * RUN + 1);
    for (at, entry) in entries.iter().enumerate() {
        let name = if at < RUN as usize || at % 2 == 0 { "all_reduce" } else { "barrier" };
        assert_eq!(entry.operation(), name, "{at}");
        assert_eq!((entry.record_id, entry.collective_seq_id), (at as u64, at as u64));
        let len = match at as u64 {
            at if at < RUN => 4,
            at if at == 3 * RUN => 3,
            _ => u64::from(name != "barrier"),
        };
        assert_eq!(entry.input_sizes, [[len]], "{at}");
        assert_eq!(entry.state, State::Completed, "{at}");
    }
    let times: Vec<u64> =
        entries.iter().map(|entry| entry.time_discovered_completed_ns.unwrap()).collect();
    assert!(times.is_sorted(), "{times:?}");
    assert!(times[0] > 0 && *times.last().unwrap() <= record.origin.taken_ns);
    let estimated = entries.iter().filter(|e| e.allhands.clock == Clock::Estimated).count();
    let read = entries.len() - estimated;
    // At least each 64th call reads the clock, and each that went through the engine.
    assert!(read * 65 >= entries.len(), "{read} of {} have read the clock", entries.len());
    assert!(group.shares_memory() || estimated == 0, "{estimated} estimated over TCP");
    let timeouts: Vec<u64> = entries.iter().rev().take(2).map(|entry| entry.timeout_ms).collect();
    let limit = LIMIT.as_millis() as u64;
    assert_eq!(timeouts, [2 * limit, limit]);
}

fn on_processes(name: &str, world: u32, more: &[(&str, &str)], act: impl Fn()) {
    if worker().is_some() {
        return act();
    }
    let folder = tempfile::tempdir().unwrap();
    let ended = Ranks::start(name, world, free_port(), folder.path(), more).join(LIMIT);
    assert!(ended.iter().all(|&well| well), "ranks ended well: {ended:?}");
}

#[test]
fn runs_of_calls_are_recorded_one_by_one_in_shared_memory() {
    let name = "runs_of_calls_are_recorded_one_by_one_in_shared_memory";
    on_processes(name, 2, &[], || runs(Transport::Auto));
}

#[test]
fn runs_of_calls_are_recorded_one_by_one_over_tcp() {
    let name = "runs_of_calls_are_recorded_one_by_one_over_tcp";
    on_processes(name, 2, &[], || runs(Transport::Tcp));
}

/// Good calls, and then one for which rank 1 calls something else.
fn disagree(transport: Transport) {
    let group = join(transport);
    let mut data = [1.0f32; 6];
    for _ in 0..3 {
        group.all_reduce(&mut data, ReduceOp::Max).unwrap();
        group.barrier().unwrap();
    }
    let len = if group.rank() == Rank(1) { 5 } else { 6 };
    let called = group.all_reduce(&mut data[..len], ReduceOp::Max);
    let error = called.and_then(|()| group.barrier()).unwrap_err();
    assert!(matches!(error, Error::Operation(OperationError::Mismatch { .. })), "{error}");
}

/// Records of a job in which rank 1 calls something else, in a folder of their own.
fn records_of_a_mismatch(name: &str, transport: Transport) -> Option<tempfile::TempDir> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap().to_owned();
    on_processes(name, 3, &[("ALLHANDS_RECORD_DIR", &path)], || disagree(transport));
    worker().is_none().then_some(folder)
}

fn read(folder: &Path, rank: u32) -> FlightRecord {
    FlightRecord::read(&folder.join(format!("world_rank_{rank}"))).unwrap()
}

fn every_rank_has_written(folder: &Path) {
    for rank in 0..3 {
        let record = read(folder, rank);
        assert_eq!(record.origin.rank, rank);
        let failure = record.origin.failure.as_ref().unwrap();
        assert!(failure.contains("mismatched operations"), "{failure}");
        let ends = record.entries.iter().find(|entry| entry.collective_seq_id == 6).unwrap();
        assert_eq!(ends.input_sizes, [[if rank == 1 { 5 } else { 6 }]], "rank {rank}");
        let well = record.entries.iter().filter(|entry| entry.collective_seq_id < 6);
        assert!(well.clone().all(|entry| entry.state == State::Completed), "rank {rank}");
        assert_eq!(well.count(), 6, "rank {rank}");
    }
    let files = std::fs::read_dir(folder).unwrap().count();
    assert_eq!(files, 3, "nothing else is in the folder");
}

#[test]
fn every_rank_writes_its_record_when_ranks_disagree_in_shared_memory() {
    let name = "every_rank_writes_its_record_when_ranks_disagree_in_shared_memory";
    let Some(folder) = records_of_a_mismatch(name, Transport::Auto) else { return };
    every_rank_has_written(folder.path());
}

#[test]
fn every_rank_writes_its_record_when_ranks_disagree_over_tcp() {
    let name = "every_rank_writes_its_record_when_ranks_disagree_over_tcp";
    let Some(folder) = records_of_a_mismatch(name, Transport::Tcp) else { return };
    every_rank_has_written(folder.path());
}

#[test]
fn a_rank_that_waits_for_nothing_writes_its_record_too() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("made on demand");
    let config = config(RecordConfig { folder: Some(dir.clone()), ..RecordConfig::default() });
    let groups = ProcessGroup::local_with(2, &config).unwrap();
    groups[0].abort("enough");
    let deadline = Instant::now() + LIMIT;
    for rank in 0..2 {
        let path = dir.join(format!("world_rank_{rank}"));
        while !path.exists() {
            assert!(Instant::now() < deadline, "rank {rank} writes its record");
            pause(Duration::from_millis(2));
        }
        let record = read(&dir, rank);
        assert!(record.entries.is_empty());
        assert!(record.origin.failure.unwrap().contains("enough"));
    }
}

#[test]
fn a_folder_that_cannot_be_written_hides_no_error() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let folder = Some(file.path().to_owned());
    let config = config(RecordConfig { folder, ..RecordConfig::default() });
    let errors = threads(2, &config, |group| {
        if group.rank() == Rank(0) {
            group.abort("enough");
        }
        group.barrier().unwrap_err().to_string()
    });
    assert!(errors.iter().all(|error| error.contains("enough")), "{errors:?}");
}

/// A Python with torch, or `None` after having said so.
fn python() -> Option<String> {
    let python = std::env::var("ALLHANDS_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let check = "import torch.distributed.flight_recorder.fr_trace";
    let output = Command::new(&python).args(["-c", check]).output();
    if output.is_ok_and(|output| output.status.success()) {
        return Some(python);
    }
    let why = format!("{python} has no torch with a flight recorder's analyser");
    assert!(std::env::var("ALLHANDS_REQUIRE_TORCH").as_deref() != Ok("1"), "{why}");
    eprintln!("SKIP {why}");
    None
}

/// What `torchfrtrace` says of the records in a folder.
fn analyse(python: &str, folder: &Path, more: &[&str]) -> String {
    let output = Command::new(python)
        .args(["-m", "torch.distributed.flight_recorder.fr_trace"])
        .arg(folder)
        .args(more)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    said
}

#[test]
fn torchfrtrace_names_the_rank_that_called_something_else() {
    let name = "torchfrtrace_names_the_rank_that_called_something_else";
    if worker().is_some() {
        return disagree(Transport::Auto);
    }
    let Some(python) = python() else { return };
    let Some(folder) = records_of_a_mismatch(name, Transport::Auto) else { return };
    let said = analyse(&python, folder.path(), &[]);
    assert!(said.contains("Collective sequence number: 6 has errors"), "{said}");
    assert!(said.contains("SIZE_OR_SYNTAX_MISMATCH"), "{said}");
    // It takes the record that it reads first for the right one: the others of another opinion are the culprits.
    let blamed: Vec<bool> =
        (0..3).map(|rank| said.contains(&format!("Culprit rank {rank};"))).collect();
    let first_was_wrong = vec![true, false, true];
    assert!(blamed == [false, true, false] || blamed == first_was_wrong, "{said}");
    let odd = if blamed == first_was_wrong { "input sizes: [[5]]" } else { "input sizes: [[6]]" };
    assert!(said.contains(odd), "{said}");
    assert!(!said.contains("unrecognized"), "{said}");
}

#[test]
fn torchfrtrace_finds_nothing_wrong_with_a_good_job() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().unwrap();
    let paths = threads(3, &config(RecordConfig::default()), |group| {
        let me = group.rank().index();
        let mut nine = [1.0f32; 9];
        for _ in 0..2 {
            group.all_reduce(&mut nine, ReduceOp::Sum).unwrap();
            group.all_gather_into(&[1.0f32; 3], &mut nine).unwrap();
            group.reduce_scatter_into(&[1.0f32; 9], &mut nine[..3], ReduceOp::Sum).unwrap();
            let mut lists = [vec![0u8; 2], vec![0; 5], vec![0; 1]];
            let mine = vec![7u8; lists[me].len()];
            group.all_gather_v(&mine[..], lists.iter_mut().map(|list| &mut list[..])).unwrap();
            group.all_to_all_single(&[1.0f32; 9], &mut nine).unwrap();
            let gathered = if me == 0 { 3 } else { 0 };
            let mut gathered = vec![vec![0.0f32; 3]; gathered];
            let outputs = gathered.iter_mut().map(|one| &mut one[..]);
            group.gather(&nine[..3], outputs, Rank(0)).unwrap();
            group.broadcast(&mut nine, Rank(2)).unwrap();
            match group.rank() {
                Rank(0) => group.send(&nine, Rank(2), 1).unwrap(),
                Rank(2) => group.recv(&mut nine, Rank(0), 1).unwrap(),
                _ => {}
            }
            group.all_reduce_sparse(&uneven(me), ReduceOp::Sum).unwrap();
            group.on_channel(1).barrier().unwrap();
            group.barrier().unwrap();
        }
        group.flight_record().write_to(folder.path()).unwrap()
    });
    assert_eq!(paths[2], folder.path().join("world_rank_2"));
    let said = analyse(&python, folder.path(), &["--prefix", "world_rank_", "-v"]);
    for trouble in
        ["has errors", "Not all ranks joining", "Error type", "pass_check=False", "unrecognized"]
    {
        assert!(!said.contains(trouble), "{trouble}: {said}");
    }
    for paired in ["c10d:all_gather_v", "c10d:all_to_all", "c10d:send 0->1", "channel-1"] {
        assert!(said.contains(paired), "{paired}: {said}");
    }
}
