//! A blocking call that was made before allocates nothing, over TCP and in shared memory.
//!
//! Calls that take lists of buffers (gather, scatter and their like) make lists of them, and are left out.
#![allow(missing_docs, reason = "test code")]

#[path = "common/ranks.rs"]
mod ranks;

use std::time::Duration;

use allhands_group::env::{Launch, ProcessEnvironment};
use allhands_group::{Config, ProcessGroup, Rank, ReduceOp, Transport};
use ranks::{Ranks, free_port, worker};

/// Far more than the test needs; a rank that hangs is killed then.
const LIMIT: Duration = Duration::from_secs(120);

/// Calls after which lists have grown, and memory that is used again is there.
const WARM_UP: usize = 500;

/// Runs of calls that are watched. A sign of life, a question about a rank that is late, or a rank that is late in a way
/// that none was before costs memory, but not for each call: most runs are without.
const RUNS: usize = 9;

/// Calls of a run, each with a barrier behind it.
const CALLS: usize = 50;

const VERBS: [&str; 8] = [
    "all_reduce",
    "broadcast",
    "reduce",
    "all_gather_into",
    "reduce_scatter_into",
    "all_to_all_single",
    "barrier",
    "send and recv",
];

/// The buffers of the calls: one block of each rank.
struct Buffers {
    block: Vec<f32>,
    blocks: Vec<f32>,
    more: Vec<f32>,
}

fn call(group: &ProcessGroup, verb: &str, buffers: &mut Buffers) {
    let Buffers { block, blocks, more } = buffers;
    let (me, world) = (group.rank().0, group.world_size());
    let root = Rank(world - 1);
    match verb {
        "all_reduce" => group.all_reduce(&mut block[..], ReduceOp::Max).unwrap(),
        "broadcast" => group.broadcast(&mut block[..], root).unwrap(),
        "reduce" => group.reduce(&mut block[..], ReduceOp::Max, root).unwrap(),
        "all_gather_into" => group.all_gather_into(&block[..], &mut blocks[..]).unwrap(),
        "reduce_scatter_into" => {
            group.reduce_scatter_into(&blocks[..], &mut block[..], ReduceOp::Max).unwrap();
        }
        "all_to_all_single" => group.all_to_all_single(&blocks[..], &mut more[..]).unwrap(),
        "barrier" => group.barrier().unwrap(),
        _ => {
            // Around the ring; one begins, so that nobody waits for all others.
            let (next, last) = (Rank((me + 1) % world), Rank((me + world - 1) % world));
            if me == 0 {
                group.send(&block[..], next, 3).unwrap();
                group.recv(&mut more[..block.len()], last, 3).unwrap();
            } else {
                group.recv(&mut more[..block.len()], last, 3).unwrap();
                group.send(&block[..], next, 3).unwrap();
            }
        }
    }
}

fn watch(group: &ProcessGroup) {
    let world = group.world_size() as usize;
    for bytes in [4, 64 << 10] {
        let len = bytes / 4;
        let buffers = || Buffers {
            block: vec![1.0; len],
            blocks: vec![1.0; len * world],
            more: vec![1.0; len * world],
        };
        for verb in VERBS {
            let mut buffers = buffers();
            // No rank is more than a call ahead, so what comes early is bounded by what the warm-up saw.
            let mut round = |calls: usize| {
                for _ in 0..calls {
                    call(group, verb, &mut buffers);
                    group.barrier().unwrap();
                }
            };
            round(WARM_UP);
            let mut made = [(); RUNS].map(|()| {
                let cost = allocation_counter::measure(|| round(CALLS));
                cost.count_total
            });
            made.sort_unstable();
            let rank = group.rank();
            assert_eq!(made[RUNS / 2], 0, "{verb} of {bytes} bytes, {rank} of {world}: {made:?}");
        }
    }
}

fn on_ranks(name: &str, transport: Transport) {
    if worker().is_some() {
        let launch = Launch::from_variables(&ProcessEnvironment).unwrap();
        let config = Config { transport, ..Config::default() };
        let group = ProcessGroup::from_launch(&launch, config).unwrap();
        assert_eq!(group.shares_memory(), transport != Transport::Tcp);
        watch(&group);
        return;
    }
    for world in [2, 3, 4] {
        let folder = tempfile::tempdir().unwrap();
        let ended = Ranks::start(name, world, free_port(), folder.path(), &[]).join(LIMIT);
        assert!(ended.iter().all(|&well| well), "world {world}: ranks ended well: {ended:?}");
    }
}

#[test]
fn repeated_calls_over_tcp_allocate_nothing() {
    on_ranks("repeated_calls_over_tcp_allocate_nothing", Transport::Tcp);
}

#[cfg(target_os = "linux")]
#[test]
fn repeated_calls_in_shared_memory_allocate_nothing() {
    on_ranks("repeated_calls_in_shared_memory_allocate_nothing", Transport::Auto);
}
