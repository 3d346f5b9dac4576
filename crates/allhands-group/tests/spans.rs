//! What `tracing` hears of operations.
#![allow(missing_docs, reason = "test code")]

use std::io::Write;
use std::sync::{Arc, Mutex};

use allhands_group::{CallOptions, DType, ProcessGroup, Rank, ReduceOp, Tensor};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::FmtSpan;

/// Everything that is written, from any thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What is told of `work` at a level.
fn heard(level: LevelFilter, work: impl FnOnce()) -> Vec<String> {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_ansi(false)
        .without_time()
        .with_span_events(FmtSpan::NEW | FmtSpan::CLOSE)
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::with_default(subscriber, work);
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    text.lines().filter(|line| line.contains("allhands::operation")).map(str::to_owned).collect()
}

fn operations() {
    let groups = ProcessGroup::local(2).unwrap();
    let [first, second] = &groups[..] else { unreachable!("a world of two") };
    let mut options = CallOptions::default().on_channel(4);
    options.label = "step 7".to_owned();
    let theirs = second.with_options(options.clone());
    let answer = theirs.all_reduce_async(Tensor::zeros(DType::BF16, &[3]), ReduceOp::Max);
    let mut data = Tensor::zeros(DType::BF16, &[3]);
    first.with_options(options).all_reduce(&mut data, ReduceOp::Max).unwrap();
    answer.wait().unwrap();
    let sent = second.send_async(Tensor::zeros(DType::F64, &[2]), Rank(0), 9);
    first.recv(&mut [0.0f64; 2], Rank(1), 9).unwrap();
    sent.wait().unwrap();
    first.abort("enough");
    first.barrier().unwrap_err();
}

#[test]
fn operations_are_spans_that_say_what_they_are() {
    let lines = heard(LevelFilter::TRACE, operations);
    let find = |parts: &[&str]| {
        let found = lines.iter().any(|line| parts.iter().all(|part| line.contains(part)));
        assert!(found, "{parts:?} in {lines:#?}");
    };
    let call = [
        "collective{operation=\"all_reduce\" group=\"world\"",
        "world_size=2",
        "channel=4",
        "dtype=bf16",
        "elements=3",
        "bytes=6",
        "reduction=\"max\"",
        "algorithm=\"direct\"",
        "label=\"step 7\"",
    ];
    for rank in ["rank=0", "rank=1"] {
        find(&[&call[..], &[rank, "new"]].concat());
        find(&[&call[..], &[rank, "sequence=0", "completed"]].concat());
        find(&[&call[..], &[rank, "sequence=0", "close"]].concat());
    }
    find(&[
        "message{operation=\"send\"",
        "rank=1 peer=0 tag=9",
        "dtype=f64",
        "bytes=16",
        "completed",
    ]);
    find(&["message{operation=\"recv\"", "rank=0 peer=1 tag=9", "sequence=0", "completed"]);
    find(&["operation=\"barrier\"", "failed", "rank 0 aborted the group: enough"]);
}

#[test]
fn nothing_is_told_above_the_level() {
    assert_eq!(heard(LevelFilter::INFO, operations), Vec::<String>::new());
}
