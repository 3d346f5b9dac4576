//! A rank dies between or within the steps of a sparse all-reduce.

use std::path::Path;
use std::time::{Duration, Instant};

use allhands_group::{ProcessGroup, ReduceOp, SparseTensor, Tensor};

use crate::ranks::{Ranks, find, free_port, leave, pause, worker};
use crate::stage::{Dice, LIMIT, config, join, kind, ranks};

/// Ten times what is promised for the slowest survivor.
const PROMISE: Duration = Duration::from_millis(2500);

const WORLD: u32 = 3;

/// Elements of a row.
const ROW: usize = 64;

fn gradient(rank: u32, rows: usize) -> SparseTensor {
    let keys = (0..rows).map(|at| (at * 7 + rank as usize) as i64 * 3).collect();
    let indices = Tensor::from_vec(keys).with_shape(&[1, rows]).unwrap();
    let values = Tensor::from_vec(vec![1.0f32; rows * ROW]).with_shape(&[rows, ROW]).unwrap();
    SparseTensor::new(indices, values, &[1_000_000, ROW]).unwrap()
}

fn reduce(
    group: &ProcessGroup,
    manner: &str,
    mine: &SparseTensor,
) -> Result<(), allhands_group::Error> {
    match manner {
        "blocking" => group.all_reduce_sparse(mine, ReduceOp::Sum).map(drop),
        _ => {
            let work = group.all_reduce_sparse_async(mine.duplicate(), ReduceOp::Sum);
            let failed = work.wait().err();
            failed.map_or(Ok(()), |failed| {
                assert_eq!(failed.buffers.rows(), mine.rows(), "the tensor comes back");
                Err(failed.error)
            })
        }
    }
}

fn survive(folder: &Path, rows: usize, manner: &str) {
    let group = join(config());
    let rank = group.rank().0;
    let mine = gradient(rank, rows);
    let error = loop {
        if let Err(error) = reduce(&group, manner, &mine) {
            break error;
        }
        if !folder.join(format!("ready-{rank}")).exists() {
            leave(folder, &format!("ready-{rank}"), "");
        }
    };
    leave(folder, &format!("error-{rank}"), &error.to_string());
    assert_eq!(kind(&error), "peer failed", "{error}");
    assert!(error.to_string().starts_with("all_reduce_sparse"), "{error}");
    let victim: u32 = find(folder, "victim", LIMIT).parse().unwrap();
    assert_eq!(error.ranks(), ranks(&[victim]), "{error}");
    let called = Instant::now();
    let again = reduce(&group, manner, &mine).unwrap_err();
    assert_eq!((kind(&again), again.ranks()), ("peer failed", ranks(&[victim])), "{again}");
    assert!(called.elapsed() < Duration::from_secs(1), "a broken group answers at once");
}

#[test]
fn survivors_of_a_sparse_sum_name_a_killed_rank() {
    if let Some(folder) = worker() {
        let rows = std::env::var("ROWS").unwrap().parse().unwrap();
        return survive(&folder, rows, &std::env::var("MANNER").unwrap());
    }
    let mut dice = Dice::new(11);
    let turns = ["tcp", "auto"].into_iter().flat_map(|transport| {
        [(transport, "blocking", 30), (transport, "blocking", 20_000), (transport, "async", 3000)]
    });
    for (turn, (transport, manner, rows)) in turns.enumerate() {
        let folder = tempfile::tempdir().unwrap();
        let name = "sparse::survivors_of_a_sparse_sum_name_a_killed_rank";
        let rows_text = rows.to_string();
        let more = [("ROWS", &*rows_text), ("MANNER", manner), ("ALLHANDS_TRANSPORT", transport)];
        let mut ranks = Ranks::start(name, WORLD, free_port(), folder.path(), &more);
        for rank in 0..WORLD {
            find(folder.path(), &format!("ready-{rank}"), LIMIT);
        }
        pause(Duration::from_micros(dice.below(30_000)));
        let victim = turn as u32 % WORLD;
        leave(folder.path(), "victim", &victim.to_string());
        ranks.kill(victim as usize);
        let killed = Instant::now();
        for rank in (0..WORLD).filter(|&rank| rank != victim) {
            find(folder.path(), &format!("error-{rank}"), LIMIT);
        }
        let took = killed.elapsed();
        eprintln!("{rows} rows, {transport}, {manner}: the last survivor knew after {took:.1?}");
        assert!(took < PROMISE, "the last survivor knew after {took:?}");
        let mut ended = ranks.join(LIMIT);
        ended.remove(victim as usize);
        assert!(ended.iter().all(|&well| well), "survivors ended well: {ended:?}");
    }
}
