//! Many operations leave nothing behind.

use allhands_group::{ProcessGroup, ReduceOp};
use std::io::Write as _;

use crate::stage::{config, processes};

const WARM_UP: u32 = 2000;
const OPERATIONS: u32 = 20_000;

/// Kilobytes by which a process may grow.
const GROWTH_KB: u64 = 1024;

/// What a process holds: kilobytes of memory, descriptors, threads.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Holding {
    memory_kb: u64,
    descriptors: usize,
    threads: usize,
}

impl Holding {
    fn now() -> Self {
        let count = |folder| std::fs::read_dir(folder).unwrap().count();
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
        Self {
            memory_kb: line.split_whitespace().nth(1).unwrap().parse().unwrap(),
            descriptors: count("/proc/self/fd"),
            threads: count("/proc/self/task"),
        }
    }
}

fn work(group: &ProcessGroup, operations: u32) {
    for round in 0..operations {
        let mut data = [round as f32; 16];
        group.all_reduce(&mut data, ReduceOp::Sum).unwrap();
        assert_eq!(data, [2.0 * round as f32; 16]);
    }
}

#[test]
fn many_operations_leave_nothing_behind() {
    if cfg!(not(target_os = "linux")) {
        writeln!(std::io::stderr(), "SKIP soak: figures of a process are read from /proc")
            .expect("standard error is open");
        return;
    }
    let name = "soak::many_operations_leave_nothing_behind";
    let said = processes(name, 2, config(), |group, _| {
        work(&group, WARM_UP);
        let before = Holding::now();
        work(&group, OPERATIONS);
        let after = Holding::now();
        assert!(after.descriptors <= before.descriptors, "{before:?} {after:?}");
        assert_eq!(after.threads, before.threads, "{before:?} {after:?}");
        let grown = after.memory_kb.saturating_sub(before.memory_kb);
        assert!(grown <= GROWTH_KB, "{before:?} {after:?}");
        format!("{before:?} -> {after:?}")
    });
    for (rank, one) in said.into_iter().flatten().enumerate() {
        eprintln!("rank {rank}, {OPERATIONS} operations: {one}");
    }
}

#[test]
fn groups_that_come_and_go_leave_nothing_behind() {
    if cfg!(not(target_os = "linux")) {
        writeln!(std::io::stderr(), "SKIP soak: figures of a process are read from /proc")
            .expect("standard error is open");
        return;
    }
    let name = "soak::groups_that_come_and_go_leave_nothing_behind";
    processes(name, 2, config(), |group, _| {
        let cycle = |epoch| {
            let other = crate::stage::again(&group, epoch, config());
            work(&other, 10);
        };
        (1..20).for_each(cycle);
        let before = Holding::now();
        (20..80).for_each(cycle);
        let after = Holding::now();
        assert!(after.descriptors <= before.descriptors, "{before:?} {after:?}");
        assert_eq!(after.threads, before.threads, "{before:?} {after:?}");
        let grown = after.memory_kb.saturating_sub(before.memory_kb);
        assert!(grown <= 4 * GROWTH_KB, "{before:?} {after:?}");
        String::new()
    });
}
