//! Sparse all-reduce between threads: against a naive oracle, by every method, and everything it refuses.
#![allow(missing_docs, clippy::print_stderr, reason = "test code")]

#[path = "common/ranks.rs"]
mod ranks;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use allhands_group::{
    Algorithm, Config, DType, Determinism, Error, Invalid, OperationError, ProcessGroup, Rank,
    ReduceOp, SparseTensor, Tensor, TensorRef,
};

use crate::ranks::{Ranks, free_port, worker};

/// Numbers that follow from a seed.
struct Rng(u64);

impl Rng {
    fn below(&mut self, n: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }
}

fn config() -> Config {
    Config { timeout: Duration::from_secs(60), ..Config::default() }
}

/// Runs `work` on every rank of a world of threads; gives what they return, in order.
fn threads<T: Send>(
    world: u32,
    config: &Config,
    work: impl Fn(&ProcessGroup) -> T + Sync,
) -> Vec<T> {
    let groups = ProcessGroup::local_with(world, config).unwrap();
    std::thread::scope(|scope| {
        let work = &work;
        let ranks: Vec<_> =
            groups.into_iter().map(|group| scope.spawn(move || work(&group))).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

fn table(rows: &[i64], values: Vec<f32>, shape: &[usize]) -> SparseTensor {
    let indices = Tensor::from_slice(rows).with_shape(&[1, rows.len()]).unwrap();
    let mut value_shape = shape.to_vec();
    value_shape[0] = rows.len();
    let values = Tensor::from_vec(values).with_shape(&value_shape).unwrap();
    SparseTensor::new(indices, values, shape).unwrap()
}

/// What a rank contributes: small whole numbers, so that every order of additions is exact.
fn contribution(seed: u64, rank: u32, shape: &[usize], pattern: Pattern) -> SparseTensor {
    let mut rng = Rng(seed * 1000 + if pattern == Pattern::Same { 0 } else { u64::from(rank) });
    let positions = shape[0];
    let rows: Vec<i64> = match pattern {
        Pattern::Empty => Vec::new(),
        Pattern::OneEmpty if rank == 1 => Vec::new(),
        Pattern::Apart => {
            let begin = positions * rank as usize / 8;
            (begin..begin + 20).map(|row| row as i64).collect()
        }
        Pattern::Full => (0..positions).rev().map(|row| row as i64).collect(),
        _ => {
            let most = if pattern == Pattern::Many { 3 * positions } else { positions / 3 };
            let rows = if pattern == Pattern::Same { 50 } else { 1 + rng.below(most) };
            (0..rows).map(|_| rng.below(positions) as i64).collect()
        }
    };
    let row: usize = shape[1..].iter().product();
    let mut rng = Rng(seed * 77 + u64::from(rank));
    let values = (0..rows.len() * row).map(|_| rng.below(9) as f32 - 4.0).collect();
    table(&rows, values, shape)
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Pattern {
    Random,
    Many,
    Same,
    Apart,
    Full,
    OneEmpty,
    Empty,
}

/// The sum of all ranks' tensors, by position.
fn naive(tensors: &[SparseTensor]) -> BTreeMap<i64, Vec<f32>> {
    let mut sums: BTreeMap<i64, Vec<f32>> = BTreeMap::new();
    for tensor in tensors {
        let row = tensor.layout().row_len();
        let values = tensor.values().to_vec::<f32>().unwrap();
        for (at, key) in tensor.indices().to_vec::<i64>().unwrap().into_iter().enumerate() {
            let sum = sums.entry(key).or_insert_with(|| vec![0.0; row]);
            sum.iter_mut().zip(&values[at * row..][..row]).for_each(|(sum, value)| *sum += value);
        }
    }
    sums
}

fn by_position(tensor: &SparseTensor) -> BTreeMap<i64, Vec<f32>> {
    assert!(tensor.is_coalesced());
    naive(std::slice::from_ref(tensor))
}

fn bits(tensor: &SparseTensor) -> (Vec<i64>, Vec<u8>) {
    let values = tensor.values();
    (tensor.indices().to_vec().unwrap(), values.as_bytes().unwrap().to_vec())
}

#[test]
fn sums_are_those_of_a_naive_oracle_and_equal_on_all_ranks() {
    use Pattern::{Apart, Empty, Full, Many, OneEmpty, Random, Same};
    for world in [1, 2, 3, 4, 5, 8] {
        for (seed, pattern) in (0..).zip([Random, Random, Many, Same, Apart, Full, OneEmpty, Empty])
        {
            for shape in [&[400, 3][..], &[3000], &[160, 2, 2]] {
                let told = format!("world {world}, seed {seed}, {pattern:?}, {shape:?}");
                let tensors: Vec<_> =
                    (0..world).map(|rank| contribution(seed, rank, shape, pattern)).collect();
                let expected = naive(&tensors);
                let found = threads(world, &config(), |group| {
                    let mine = &tensors[group.rank().index()];
                    let sum = group.all_reduce_sparse(mine, ReduceOp::Sum).unwrap();
                    let mut again = contribution(seed, 9, shape, Random);
                    group.all_reduce_sparse_into(mine, &mut again, ReduceOp::Sum).unwrap();
                    let other = group.all_reduce_sparse_async(mine.duplicate(), ReduceOp::Sum);
                    let other = other.wait().unwrap();
                    assert_eq!((bits(&again), bits(&other)), (bits(&sum), bits(&sum)), "{told}");
                    sum
                });
                for sum in &found {
                    assert_eq!(bits(sum), bits(&found[0]), "{told}");
                    assert_eq!(sum.shape(), shape);
                }
                assert_eq!(by_position(&found[0]), expected, "{told}");
            }
        }
    }
}

/// Values of which every order of additions gives other bits, and so many rows that every method has its turn.
#[test]
fn methods_give_the_same_bits_where_the_order_is_canonical() {
    let canonical = Config { determinism: Determinism::Canonical, ..config() };
    for dtype in [DType::F32, DType::BF16] {
        for world in [2, 3, 5, 8] {
            // The same rows in tables of different heights: dense for the lowest, by owners or to everybody else.
            let sums = [600_usize, 1 << 16, 1 << 33].map(|positions| {
                threads(world, &canonical, |group| {
                    let mut rng = Rng(u64::from(group.rank().0) + 5);
                    let rows: Vec<i64> = (0..900).map(|_| rng.below(600) as i64).collect();
                    let values: Vec<f32> =
                        (0..900 * 40).map(|_| rng.below(1 << 20) as f32 / 3.0).collect();
                    let indices = Tensor::from_slice(&rows).with_shape(&[1, 900]).unwrap();
                    let values = match dtype {
                        DType::F32 => Tensor::from_vec(values),
                        _ => Tensor::from_vec(
                            values
                                .into_iter()
                                .map(allhands_tensor::bf16::from_f32)
                                .collect::<Vec<_>>(),
                        ),
                    };
                    let values = values.with_shape(&[900, 40]).unwrap();
                    let tensor = SparseTensor::new(indices, values, &[positions, 40]).unwrap();
                    bits(&group.all_reduce_sparse(&tensor, ReduceOp::Sum).unwrap())
                })
            });
            for other in &sums[1..] {
                assert!(*other == sums[0], "{dtype} among {world}");
            }
            assert!(sums[0].iter().all(|rank| *rank == sums[0][0]), "{dtype} among {world}");
        }
    }
}

#[test]
fn long_rows_and_many_parts_arrive_whole() {
    for world in [2, 3] {
        let (rows, columns) = (3000_usize, 700);
        let found = threads(world, &config(), |group| {
            let rank = group.rank().0 as usize;
            let keys: Vec<i64> =
                (0..rows / (rank + 1)).map(|at| (at * (rank + 2)) as i64).collect();
            let values: Vec<f32> = keys
                .iter()
                .flat_map(|&key| (0..columns).map(move |c| (key as usize % 97 + c) as f32))
                .collect();
            let tensor = table(&keys, values, &[20_000, columns]);
            let sum = group.all_reduce_sparse(&tensor, ReduceOp::Sum).unwrap();
            let indices = sum.indices().to_vec::<i64>().unwrap();
            let values = sum.values().to_vec::<f32>().unwrap();
            for (at, &key) in indices.iter().enumerate() {
                let owners = (0..world as usize)
                    .filter(|&r| {
                        (key as usize).is_multiple_of(r + 2)
                            && (key as usize / (r + 2)) < rows / (r + 1)
                    })
                    .count();
                assert!(owners > 0);
                for c in [0, 1, columns - 1] {
                    let expected = (owners * (key as usize % 97 + c)) as f32;
                    assert_eq!(values[at * columns + c], expected, "row {key}, column {c}");
                }
            }
            indices.len()
        });
        assert!(found.iter().all(|&len| len == found[0] && len > rows));
    }
}

#[test]
fn rows_without_elements_and_tables_without_positions_are_fine() {
    for shape in [&[10, 0][..], &[0, 3]] {
        let rows: &[i64] = if shape[0] > 0 { &[3, 1, 3] } else { &[] };
        let sums = threads(3, &config(), |group| {
            let tensor = table(rows, Vec::new(), shape);
            let sum = group.all_reduce_sparse(&tensor, ReduceOp::Sum).unwrap();
            sum.indices().to_vec::<i64>().unwrap()
        });
        let expected: &[i64] = if shape[0] > 0 { &[1, 3] } else { &[] };
        assert!(sums.iter().all(|sum| sum == expected));
    }
}

#[test]
fn agreed_indices_reduce_values_only() {
    let agreed = [1_i64, 4, 6, 9];
    for world in [1, 2, 3] {
        let sums = threads(world, &config(), |group| {
            let rank = i64::from(group.rank().0);
            // Row 4 twice, and one that depends on the rank.
            let tensor = table(&[4, agreed[rank as usize], 4], vec![1.0, 10.0, 2.0], &[10]);
            let indices = || TensorRef::shaped(&agreed, &[1, 4]).unwrap();
            let before = group.all_reduce_sparse_at(&tensor, indices(), ReduceOp::Sum).unwrap();
            let nothing = SparseTensor::empty(DType::F32, &[10], 1).unwrap();
            let zeros = group.all_reduce_sparse_at(&nothing, indices(), ReduceOp::Sum).unwrap();
            assert_eq!(zeros.values().to_vec::<f32>().unwrap(), [0.0; 4]);
            assert_eq!(before.indices().to_vec::<i64>().unwrap(), agreed);
            let other = tensor.duplicate();
            let later = group.all_reduce_sparse_at_async(other, indices(), ReduceOp::Sum);
            assert_eq!(later.operation().name(), "all_reduce_sparse_at");
            assert_eq!(bits(&later.wait().unwrap()), bits(&before));
            before.values().to_vec::<f32>().unwrap()
        });
        let each = |row: i64| {
            let twice = if row == 4 { 3.0 * world as f32 } else { 0.0 };
            let own = agreed[..world as usize].contains(&row);
            twice + if own { 10.0 } else { 0.0 }
        };
        let expected: Vec<f32> = agreed.iter().map(|&row| each(row)).collect();
        assert!(sums.iter().all(|sum| *sum == expected), "{sums:?}, not {expected:?}");
    }
}

fn reason(error: Error) -> Invalid {
    match error {
        Error::Operation(OperationError::Invalid { reason, .. }) => reason,
        other => panic!("{other}"),
    }
}

#[test]
fn ranks_that_disagree_all_hear_of_it_and_the_group_goes_on() {
    let f32s = |shape: &[usize]| SparseTensor::empty(DType::F32, shape, 1).unwrap();
    type Case = (&'static str, fn(u32) -> SparseTensor);
    let cases: [Case; 4] = [
        ("f32 [5, 2] with 1 sparse dimension", |rank| {
            SparseTensor::empty(DType::F32, &[4 + rank as usize % 2, 2], 1).unwrap()
        }),
        ("f32 [4, 3] with 1 sparse dimension", |rank| {
            SparseTensor::empty(DType::F32, &[4, 2 + rank as usize % 2], 1).unwrap()
        }),
        ("f64 [4, 2] with 1 sparse dimension", |rank| {
            let dtype = if rank % 2 == 0 { DType::F32 } else { DType::F64 };
            SparseTensor::empty(dtype, &[4, 2], 1).unwrap()
        }),
        ("f32 [4, 2] with 2 sparse dimensions", |rank| {
            SparseTensor::empty(DType::F32, &[4, 2], 1 + rank as usize % 2).unwrap()
        }),
    ];
    threads(3, &config(), |group| {
        for (told, tensor) in &cases {
            let mine = tensor(group.rank().0);
            let error = group.all_reduce_sparse(&mine, ReduceOp::Sum).unwrap_err();
            let text = error.to_string();
            assert!(text.contains("ranks 0, 2 have") && text.contains("rank 1 has"), "{text}");
            assert!(text.contains(told) && text.starts_with("all_reduce_sparse on rank"), "{text}");
            let Invalid::SparseTensors { sides } = reason(error) else { panic!("{text}") };
            assert_eq!(sides[0].ranks, [Rank(0), Rank(2)]);
            let failed = group.all_reduce_sparse_async(mine, ReduceOp::Sum).wait().unwrap_err();
            assert_eq!(failed.buffers.rows(), 0);
            assert!(matches!(reason(failed.error), Invalid::SparseTensors { .. }));
        }
        // Positions that were not agreed on after all.
        let indices = [0_i64, 1 + i64::from(group.rank() == Rank(1))];
        let indices = TensorRef::shaped(&indices, &[1, 2]).unwrap();
        let error = group.all_reduce_sparse_at(&f32s(&[4, 2]), indices, ReduceOp::Sum).unwrap_err();
        assert!(error.to_string().contains("at 2 agreed positions"), "{error}");
        let sum = group.all_reduce_sparse(&f32s(&[4, 2]), ReduceOp::Sum).unwrap();
        assert_eq!(sum.rows(), 0);
        group.barrier().unwrap();
    });
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_is_sent() {
    threads(2, &config(), |group| {
        let tensor = table(&[3], vec![1.0], &[5]);
        for op in [
            ReduceOp::Product,
            ReduceOp::Min,
            ReduceOp::Max,
            ReduceOp::BitAnd,
            ReduceOp::BitOr,
            ReduceOp::BitXor,
            ReduceOp::Avg,
            ReduceOp::PremulSum(0.5),
        ] {
            let error = group.all_reduce_sparse(&tensor, op).unwrap_err();
            assert!(error.to_string().contains("can only be summed"), "{error}");
            assert!(matches!(reason(error), Invalid::SparseReduction { op: told } if told == op));
            let failed = group.all_reduce_sparse_async(tensor.duplicate(), op).wait().unwrap_err();
            assert_eq!(failed.buffers.rows(), 1);
        }
        let by = group.with_options(group.options().clone().by(Algorithm::Ring));
        let error = by.all_reduce_sparse(&tensor, ReduceOp::Sum).unwrap_err();
        assert!(matches!(reason(error), Invalid::SparseAlgorithm));
        for channel in [allhands_group::CHANNELS, u32::MAX] {
            let high = group.on_channel(channel);
            let error = high.all_reduce_sparse(&tensor, ReduceOp::Sum).unwrap_err();
            assert!(matches!(reason(error), Invalid::ReservedChannel { .. }));
            // Their numbers belong to the later steps of sparse calls.
            let error = high.all_reduce(&mut [1.0_f32], ReduceOp::Sum).unwrap_err();
            assert!(matches!(reason(error), Invalid::ReservedChannel { .. }));
        }
        let at = |indices: &[i64], shape: &[usize]| {
            let indices = TensorRef::shaped(indices, shape).unwrap();
            reason(group.all_reduce_sparse_at(&tensor, indices, ReduceOp::Sum).unwrap_err())
        };
        assert!(matches!(at(&[3, 1], &[1, 2]), Invalid::SparseFalling));
        let falling = TensorRef::shaped(&[3_i64, 1], &[1, 2]).unwrap();
        let work = group.all_reduce_sparse_at_async(tensor.duplicate(), falling, ReduceOp::Sum);
        assert!(matches!(reason(work.wait().unwrap_err().error), Invalid::SparseFalling));
        assert!(matches!(at(&[3, 3], &[1, 2]), Invalid::SparseFalling));
        assert!(matches!(at(&[1, 4], &[1, 2]), Invalid::SparseStranger { key: 3 }));
        assert!(matches!(at(&[3, 5], &[1, 2]), Invalid::Sparse(_)));
        assert!(matches!(at(&[3, 4], &[2, 1]), Invalid::Sparse(_)));
        assert!(matches!(at(&[3], &[1]), Invalid::Sparse(_)));
        group.barrier().unwrap();
    });
}

#[test]
fn different_calls_are_told_apart() {
    let texts = threads(2, &config(), |group| {
        let tensor = table(&[3], vec![1.0], &[5]);
        match group.rank() {
            Rank(0) => group.all_reduce_sparse(&tensor, ReduceOp::Sum).unwrap_err().to_string(),
            _ => group.all_reduce(&mut [1.0f32; 5], ReduceOp::Sum).unwrap_err().to_string(),
        }
    });
    for text in texts {
        assert!(text.contains("rank 0 calls all_reduce_sparse(sum) in shape [5]"), "{text}");
        assert!(text.contains("rank 1 calls all_reduce(sum) of 5 f32"), "{text}");
    }
}

/// Ranks that do not wait, mixed with ranks that do, between other calls on the same channel and on others.
#[test]
fn asynchronous_calls_keep_their_order_among_others() {
    for seed in 0..8 {
        let world = 2 + seed as u32 % 3;
        let shape = [300, 4];
        let calls = 6;
        let of = |call: u64, rank| contribution(seed * 100 + call, rank, &shape, Pattern::Random);
        threads(world, &config(), |group| {
            let mut rng = Rng(seed * 10 + u64::from(group.rank().0));
            let mut works = Vec::new();
            let mut sums = Vec::new();
            for call in 0..calls {
                let mine = of(call, group.rank().0);
                let on = group.on_channel((call % 2) as u32 * 7);
                if rng.below(3) > 0 {
                    works.push((call, on.all_reduce_sparse_async(mine, ReduceOp::Sum)));
                } else {
                    sums.push((call, on.all_reduce_sparse(&mine, ReduceOp::Sum).unwrap()));
                }
                let mut number = [1_i64 << call];
                group.all_reduce(&mut number, ReduceOp::Sum).unwrap();
                assert_eq!(number, [i64::from(world) << call]);
            }
            works.reverse();
            sums.extend(works.into_iter().map(|(call, work)| (call, work.wait().unwrap())));
            for (call, sum) in sums {
                let all: Vec<_> = (0..world).map(|rank| of(call, rank)).collect();
                assert_eq!(by_position(&sum), naive(&all), "seed {seed}, call {call}");
            }
        });
    }
}

#[test]
fn a_work_is_a_future_that_says_when_it_is_done() {
    threads(2, &config(), |group| {
        let tensor = table(&[3, 4], vec![1.0, 2.0], &[5]);
        let mut work = group.all_reduce_sparse_async(tensor, ReduceOp::Sum);
        assert_eq!(work.operation().name(), "all_reduce_sparse");
        let sum = block_on(&mut work).unwrap();
        assert_eq!(sum.values().to_vec::<f32>().unwrap(), [2.0, 4.0]);
        let dropped = table(&[1], vec![1.0], &[5]);
        drop(group.all_reduce_sparse_async(dropped, ReduceOp::Sum));
        let last = group.all_reduce_sparse_async(table(&[0], vec![1.0], &[5]), ReduceOp::Sum);
        assert!(last.wait_timeout(Duration::from_secs(60)) && last.is_completed());
        assert_eq!(last.wait().unwrap().rows(), 1);
    });
}

/// Polls on this thread, and parks it in between.
fn block_on<F: Future + Unpin>(mut future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = std::sync::Arc::new(Unpark(std::thread::current())).into();
    let mut context = std::task::Context::from_waker(&waker);
    loop {
        match std::pin::Pin::new(&mut future).poll(&mut context) {
            std::task::Poll::Ready(output) => return output,
            std::task::Poll::Pending => std::thread::park_timeout(Duration::from_secs(60)),
        }
    }
}

#[test]
fn a_rank_that_does_not_come_is_missed_within_the_call_s_limit() {
    let limit = Duration::from_millis(200);
    let short = Config { timeout: limit, ..Config::default() };
    let told = AtomicU32::new(0);
    let begun = std::time::Instant::now();
    threads(3, &short, |group| {
        if group.rank() == Rank(2) {
            // Alive, but busy with something else.
            while told.load(Ordering::Acquire) < 2 && begun.elapsed() < Duration::from_secs(30) {
                std::thread::yield_now();
            }
            return;
        }
        let tensor = table(&[3], vec![1.0], &[5]);
        let error = match group.rank() {
            Rank(0) => group.all_reduce_sparse(&tensor, ReduceOp::Sum).unwrap_err(),
            _ => group.all_reduce_sparse_async(tensor, ReduceOp::Sum).wait().unwrap_err().error,
        };
        told.fetch_add(1, Ordering::Release);
        let text = error.to_string();
        assert!(text.contains("all_reduce_sparse(sum) in shape [5] on rank"), "{text}");
        assert!(
            text.contains("timed out waiting for rank 2") && text.contains("of 200ms"),
            "{text}"
        );
    });
}

/// Rows of two ranks or more, and how they lie: several stages, equal and unequal, and tails.
fn large(seed: u64, rank: u32) -> SparseTensor {
    let mut rng = Rng(seed * 31 + u64::from(rank) + 1);
    let columns = [64, 100, 3][seed as usize % 3];
    let rows = match seed % 4 {
        // About as many on each rank.
        0 => 9000 + rng.below(100),
        // Far more on one.
        1 if rank == 0 => 20_000,
        1 => 50,
        2 => 5000,
        _ => 700 * rank as usize,
    };
    let positions = 200_000;
    let keys: Vec<i64> = match seed % 4 {
        // Each in a range of its own.
        2 => (0..rows).map(|at| (rank as usize * 20_000 + at * 3) as i64).collect(),
        _ => (0..rows).map(|_| rng.below(positions) as i64).collect(),
    };
    let values = (0..rows * columns).map(|_| rng.below(9) as f32 - 4.0).collect();
    table(&keys, values, &[positions, columns])
}

#[test]
fn large_sums_between_processes_are_right_over_tcp_and_in_shared_memory() {
    if worker().is_some() {
        let group = ProcessGroup::from_env().unwrap();
        let asked = std::env::var("ALLHANDS_TRANSPORT").unwrap();
        assert_eq!(group.shares_memory(), asked == "auto" && cfg!(target_os = "linux"));
        let mut sum = SparseTensor::empty(DType::F32, &[1], 1).unwrap();
        for seed in 0..12 {
            let all: Vec<_> = (0..group.world_size()).map(|rank| large(seed, rank)).collect();
            let mine = &all[group.rank().index()];
            group.all_reduce_sparse_into(mine, &mut sum, ReduceOp::Sum).unwrap();
            assert!(by_position(&sum) == naive(&all), "seed {seed}");
            let work = group.all_reduce_sparse_async(mine.duplicate(), ReduceOp::Sum);
            assert!(bits(&work.wait().unwrap()) == bits(&sum), "seed {seed}, asynchronously");
            // Without duplicates, and in order.
            let sorted = mine.duplicate().coalesce().unwrap();
            let again = group.all_reduce_sparse(&sorted, ReduceOp::Sum).unwrap();
            assert!(bits(&again) == bits(&sum), "seed {seed}, coalesced");
        }
        return;
    }
    let name = "large_sums_between_processes_are_right_over_tcp_and_in_shared_memory";
    for world in [2, 3] {
        for transport in ["tcp", "auto"] {
            let folder = tempfile::tempdir().unwrap();
            let more = [("ALLHANDS_TRANSPORT", transport)];
            let ranks = Ranks::start(name, world, free_port(), folder.path(), &more);
            let ended = ranks.join(Duration::from_secs(120));
            assert!(ended.iter().all(|&well| well), "{transport}, world {world}: {ended:?}");
        }
    }
}
