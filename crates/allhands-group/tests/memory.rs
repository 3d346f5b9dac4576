//! Collectives in memory that ranks share: on tensors that peers read in place, on others, and on both.
#![cfg(target_os = "linux")]
#![allow(missing_docs, clippy::print_stderr, reason = "test code")]

#[path = "common/ranks.rs"]
mod ranks;

use std::collections::VecDeque;
use std::process::Command;
use std::sync::Arc;
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use allhands_group::store::HashStore;
use allhands_group::{Config, DType, Error, ProcessGroup, Rank, ReduceOp, Tensor, Transport, Work};
use ranks::{Ranks, find, free_port, leave, worker};

/// Far more than any of these tests needs; a rank that hangs is killed then.
const LIMIT: Duration = Duration::from_secs(60);

/// Elements of a block: nothing, below what is lent, one tile, and several that end in the middle of one.
const LENS: [usize; 5] = [0, 5, 3_000, 65_536, 700_001];

fn join() -> ProcessGroup {
    ProcessGroup::from_env().unwrap()
}

/// What a rank contributes as its element `at` in round `round`.
fn given(round: usize, rank: usize, at: usize) -> i32 {
    let mixed = (rank * 7_919 + at * 31 + round * 1_000_003) as u32;
    mixed.wrapping_mul(2_654_435_761) as i32
}

/// Who lends in a round.
fn lends(round: usize, rank: usize) -> bool {
    match round % 4 {
        0 => true,
        1 => rank.is_multiple_of(2),
        2 => rank == 0,
        _ => false,
    }
}

struct Bench<'a> {
    group: &'a ProcessGroup,
    round: usize,
}

impl Bench<'_> {
    fn tensor(&self, len: usize, of: impl Fn(usize) -> i32) -> Tensor {
        let mut tensor = if lends(self.round, self.group.rank().index()) {
            self.group.alloc(DType::I32, &[len]).unwrap()
        } else {
            Tensor::zeros(DType::I32, &[len])
        };
        let words = tensor.as_mut_slice::<i32>().unwrap();
        assert!(words.iter().all(|word| *word == 0), "memory that is given out is cleared");
        words.iter_mut().enumerate().for_each(|(at, word)| *word = of(at));
        tensor
    }

    fn check(&self, what: &str, tensor: &Tensor, of: impl Fn(usize) -> i32) {
        let words = tensor.as_slice::<i32>().unwrap();
        let wrong = words.iter().enumerate().find(|&(at, &word)| word != of(at));
        let rank = self.group.rank();
        assert!(wrong.is_none(), "{what}, round {}, {rank}: {wrong:?}", self.round);
    }

    fn run(&self, len: usize) {
        let (group, round) = (self.group, self.round);
        let (me, world) = (group.rank().index(), group.world_size() as usize);
        let root = round % world;
        let sum =
            |at: usize| (0..world).fold(0_i32, |sum, r| sum.wrapping_add(given(round, r, at)));

        let mut data = self.tensor(len, |at| given(round, me, at));
        group.all_reduce(&mut data, ReduceOp::Sum).unwrap();
        self.check("all_reduce", &data, sum);

        let data = self.tensor(len, |at| given(round, me, at));
        let data = group.all_reduce_async(data, ReduceOp::Sum).wait().unwrap();
        self.check("all_reduce, asynchronous", &data, sum);

        let mut data = self.tensor(len, |at| given(round, me, at));
        group.broadcast(&mut data, Rank(root as u32)).unwrap();
        self.check("broadcast", &data, |at| given(round, root, at));

        let mut data = self.tensor(len, |at| given(round, me, at));
        group.reduce(&mut data, ReduceOp::Sum, Rank(root as u32)).unwrap();
        if me == root {
            self.check("reduce", &data, sum);
        }

        let input = self.tensor(len, |at| given(round, me, at));
        let mut all = self.tensor(len * world, |_| -1);
        group.all_gather_into(&input, &mut all).unwrap();
        self.check("all_gather", &all, |at| given(round, at / len, at % len));
        self.check("all_gather, input", &input, |at| given(round, me, at));

        let input = self.tensor(len * world, |at| given(round, me, at));
        let mut block = self.tensor(len, |_| -1);
        group.reduce_scatter_into(&input, &mut block, ReduceOp::Sum).unwrap();
        self.check("reduce_scatter", &block, |at| sum(me * len + at));

        let mut output = self.tensor(len * world, |_| -1);
        group.all_to_all_single(&input, &mut output).unwrap();
        self.check("all_to_all", &output, |at| given(round, at / len, me * len + at % len));

        // Several in flight, on tensors that are given back in another order.
        let works: Vec<_> = (0..3)
            .map(|step| self.tensor(len, |at| given(round + step, me, at)))
            .map(|data| group.all_reduce_async(data, ReduceOp::Max))
            .collect();
        for (step, work) in works.into_iter().enumerate().rev() {
            let data = work.wait().unwrap();
            let max = |at: usize| (0..world).map(|r| given(round + step, r, at)).max().unwrap();
            self.check("all_reduce of the maximum", &data, max);
        }
    }
}

#[test]
fn collectives_on_lent_copied_and_mixed_buffers_agree_with_naive_results() {
    let name = "collectives_on_lent_copied_and_mixed_buffers_agree_with_naive_results";
    if worker().is_some() {
        let group = join();
        assert!(group.shares_memory(), "the log says why");
        for round in 0..8 {
            for len in LENS {
                Bench { group: &group, round }.run(len);
            }
        }
        return;
    }
    for world in [2, 3, 5] {
        let folder = tempfile::tempdir().unwrap();
        let ended = Ranks::start(name, world, free_port(), folder.path(), &[]).join(LIMIT);
        assert!(ended.iter().all(|&well| well), "world {world}: ranks ended well: {ended:?}");
    }
}

#[test]
fn tensors_of_a_group_outlive_it() {
    let name = "tensors_of_a_group_outlive_it";
    if worker().is_some() {
        let group = join();
        let mut kept = group.alloc(DType::F64, &[1000]).unwrap();
        kept.as_mut_slice::<f64>().unwrap().fill(group.rank().0.into());
        group.all_reduce(&mut kept, ReduceOp::Sum).unwrap();
        drop(group);
        assert!(kept.as_slice::<f64>().unwrap().iter().all(|&x| x == 1.0));
        kept.as_mut_slice::<f64>().unwrap().fill(2.0);
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let ended = Ranks::start(name, 2, free_port(), folder.path(), &[]).join(LIMIT);
    assert_eq!(ended, [true, true]);
}

#[test]
fn a_group_over_tcp_shares_nothing_and_allocates_from_the_heap() {
    let name = "a_group_over_tcp_shares_nothing_and_allocates_from_the_heap";
    if worker().is_some() {
        let launch =
            allhands_group::env::Launch::from_variables(&allhands_group::env::ProcessEnvironment);
        let config = Config { transport: Transport::Tcp, ..Config::default() };
        let group = ProcessGroup::from_launch(&launch.unwrap(), config).unwrap();
        assert!(!group.shares_memory());
        Bench { group: &group, round: 0 }.run(3_000);
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let ended = Ranks::start(name, 3, free_port(), folder.path(), &[]).join(LIMIT);
    assert_eq!(ended, [true, true, true]);
}

/// A rank that cannot have shared memory, here because it may not make files of that size, is no reason for a group not
/// to come up: all use the network.
#[test]
fn a_rank_without_shared_memory_brings_the_group_to_the_network() {
    let name = "a_rank_without_shared_memory_brings_the_group_to_the_network";
    if let Some(folder) = worker() {
        let group = join();
        let shares = group.shares_memory();
        Bench { group: &group, round: 0 }.run(3_000);
        leave(&folder, &format!("shares-{}", group.rank().0), &shares.to_string());
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let port = free_port().to_string();
    let ranks = Ranks::start_some(name, &[0, 1, 2], folder.path(), |rank, command| {
        if rank == 1 {
            // The signal about a file that is too long would end the process; ignored, it is an error.
            let limited = Command::new("sh");
            let plain = std::mem::replace(command, limited);
            command.arg("-c").arg("trap '' XFSZ; ulimit -f 64; exec \"$0\" \"$@\"");
            command.arg(plain.get_program()).args(plain.get_args());
            command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
        }
        command.env("RANK", rank.to_string()).env("WORLD_SIZE", "3");
        command.env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", &port);
    });
    assert_eq!(ranks.join(LIMIT), [true, true, true]);
    for rank in 0..3 {
        assert_eq!(find(folder.path(), &format!("shares-{rank}"), LIMIT), "false");
    }
}

/// Ranks of one process, each a thread with its own mappings.
fn threads(config: &Config, act: impl Fn(ProcessGroup) + Sync) {
    let store: Arc<HashStore> = Arc::default();
    std::thread::scope(|scope| {
        for rank in [0, 1] {
            let (store, act) = (store.clone(), &act);
            scope.spawn(move || {
                let group = ProcessGroup::connect(store, Rank(rank), 2, config).unwrap();
                assert!(group.shares_memory(), "the log says why");
                act(group);
            });
        }
    });
}

/// A wait that ends by its own limit leaves operations that have ended behind; a collective that comes then is not one of
/// them.
#[test]
fn a_collective_after_a_wait_in_vain_has_its_own_outcome() {
    const ROUNDS: usize = 100;
    const MESSAGES: usize = 8_000;
    const LEN: usize = 128 << 10;
    threads(&Config::default(), |group| {
        if group.rank() == Rank(1) {
            std::thread::scope(|scope| {
                let sender = group.clone();
                scope.spawn(move || {
                    let bytes = vec![1_u8; LEN];
                    for _ in 0..MESSAGES {
                        sender.send(&bytes, Rank(0), 1).unwrap();
                    }
                });
                for _ in 0..ROUNDS {
                    ranks::pause(Duration::from_micros(2500));
                    let mut sum = [1_i32];
                    group.all_reduce(&mut sum, ReduceOp::Sum).unwrap();
                    assert_eq!(sum, [2]);
                }
            });
            // What the other side waits for in vain.
            group.send(&[1_u8], Rank(0), 9).unwrap();
            return;
        }
        let receive = |len, tag| group.recv_async(Tensor::zeros(DType::U8, &[len]), Rank(1), tag);
        let never = receive(1, 9);
        let mut flight = VecDeque::new();
        let mut left = MESSAGES;
        for round in 0..ROUNDS {
            while flight.len() < 16 && left > 0 {
                left -= 1;
                flight.push_back(receive(LEN, 1));
            }
            never.wait_timeout(Duration::from_micros(50));
            let mut sum = [1_i32];
            group.all_reduce(&mut sum, ReduceOp::Sum).unwrap();
            assert_eq!(sum, [2], "round {round}");
            while flight.front().is_some_and(Work::is_completed) {
                flight.pop_front().unwrap().wait().unwrap();
            }
        }
        while left > 0 || !flight.is_empty() {
            if left > 0 {
                left -= 1;
                flight.push_back(receive(LEN, 1));
            }
            if let Some(work) = flight.pop_front() {
                assert!(work.wait_timeout(LIMIT), "a receive hangs");
                work.wait().unwrap();
            }
        }
        never.wait().unwrap();
    });
}

/// Wakes nobody, and takes its time.
struct Slow;

impl Wake for Slow {
    fn wake(self: Arc<Self>) {
        ranks::pause(Duration::from_secs(2));
    }
}

/// A rank whose operation has failed gets its tensor back and writes to it. A peer that hears of the failure late does not
/// take that for what was lent.
#[test]
fn what_is_written_after_a_failure_is_not_taken_for_what_was_lent() {
    threads(&Config::default(), |group| {
        let mut data = group.alloc(DType::I32, &[100_000]).unwrap();
        if group.rank() == Rank(0) {
            ranks::pause(Duration::from_millis(300));
            group.barrier().unwrap();
            ranks::pause(Duration::from_millis(300));
            let hasty = group.with_timeout(Duration::from_millis(100));
            hasty.broadcast(&mut data, Rank(0)).unwrap_err();
            data.as_mut_slice::<i32>().unwrap().fill(777);
            ranks::pause(Duration::from_secs(3));
        } else {
            // The service thread is busy with a waker while the other rank fails.
            let mut barrier = Box::pin(group.barrier_async().into_future());
            let waker = Waker::from(Arc::new(Slow));
            assert!(barrier.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            ranks::pause(Duration::from_millis(1200));
            let error = group.broadcast(&mut data, Rank(0)).unwrap_err();
            assert!(matches!(error, Error::Operation(_)), "{error}");
        }
    });
}

#[test]
fn factors_of_both_zeros_are_told_apart() {
    threads(&Config::default(), |group| {
        for factor in [0.0, -0.0, 0.0] {
            let mut data = [5.0_f32];
            group.all_reduce(&mut data, ReduceOp::PremulSum(factor)).unwrap();
            assert_eq!(data[0].to_bits(), (5.0 * factor as f32 + 5.0 * factor as f32).to_bits());
        }
    });
}
