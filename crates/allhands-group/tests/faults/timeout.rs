//! Ranks that do not come, or come late.

use std::time::{Duration, Instant};

use allhands_group::{Error, OperationError, ProcessGroup, Rank, ReduceOp, Tensor};

use crate::ranks::pause;
use crate::stage::{again, config, of_operation, processes, ranks, threads};

/// How long the operations may take.
const SHORT: Duration = Duration::from_millis(300);

/// Ten times what is promised beyond that.
const PROMISE: Duration = Duration::from_millis(500);

const WORLD: u32 = 3;

#[derive(Clone, Copy, Debug)]
enum Case {
    /// Rank 1 skips its second operation.
    Skipped,
    /// Rank 2 comes when it is too late.
    Late,
    /// As skipped, and nobody waits for the work: the service thread must notice.
    Unattended,
    /// A barrier without ranks 1 and 2.
    Barrier,
    /// A message that rank 2 never sends.
    Unsent,
    /// A message that rank 1 never asks for.
    Unasked,
}

const CASES: [Case; 6] =
    [Case::Skipped, Case::Late, Case::Unattended, Case::Barrier, Case::Unsent, Case::Unasked];

/// Checks when an operation ended and whom it names.
fn check(
    case: Case,
    group: &ProcessGroup,
    began: Instant,
    result: Result<(), Error>,
    whom: &[u32],
) {
    let took = began.elapsed();
    let Err(error) = result else { panic!("{case:?} on {}: nobody is missed", group.rank()) };
    let OperationError::Timeout { missing, detail, .. } = of_operation(&error) else {
        panic!("{case:?} on {}: {error}", group.rank());
    };
    assert_eq!(*missing, ranks(whom), "{case:?} on {}: {error}", group.rank());
    assert!(!detail.is_empty(), "{case:?}: {error}");
    assert!(took >= SHORT, "{case:?} on {}: {took:?} is early", group.rank());
    assert!(took < SHORT + PROMISE, "{case:?} on {}: {took:?} is late", group.rank());
}

/// A broken group says the same at once to every later call.
fn broken(case: Case, group: &ProcessGroup, whom: &[u32]) {
    let called = Instant::now();
    let error = group.barrier().expect_err("the group is broken");
    assert!(called.elapsed() < Duration::from_secs(1), "{case:?}: a broken group answers at once");
    let operation = of_operation(&error);
    assert!(matches!(operation, OperationError::Timeout { .. }), "{case:?}: {error}");
    assert_eq!(error.ranks(), ranks(whom), "{case:?} on {}: {error}", group.rank());
}

impl Case {
    fn missing(self) -> &'static [u32] {
        match self {
            Self::Skipped | Self::Unattended | Self::Unasked => &[1],
            Self::Late | Self::Unsent => &[2],
            Self::Barrier => &[1, 2],
        }
    }

    fn play(self, whole: &ProcessGroup) {
        let group = whole.with_timeout(SHORT);
        let mut data = [1.0f32; 10];
        whole.all_reduce(&mut data, ReduceOp::Sum).unwrap();
        whole.barrier().unwrap();
        let rank = group.rank().0;
        let whom = self.missing();
        let acts = match self {
            Self::Unsent | Self::Unasked | Self::Barrier => rank == 0,
            _ => !whom.contains(&rank),
        };
        if !acts {
            // Long enough for the others to give up; this rank learns of it without a call of its own.
            pause(SHORT + PROMISE + Duration::from_millis(100));
            return broken(self, whole, whom);
        }
        let began = Instant::now();
        let ended = match self {
            Self::Skipped | Self::Late => group.all_reduce(&mut data, ReduceOp::Sum),
            Self::Unattended => {
                let work = group.all_reduce_async(Tensor::from_slice(&data), ReduceOp::Sum);
                while !work.is_completed() && began.elapsed() < 2 * (SHORT + PROMISE) {
                    pause(Duration::from_millis(1));
                }
                assert!(work.is_completed());
                let failed = work.wait().unwrap_err();
                assert_eq!(failed.buffers.numel(), 10);
                Err(failed.error)
            }
            Self::Barrier => group.barrier(),
            Self::Unsent => group.recv(&mut data, Rank(2), 9),
            Self::Unasked => group.send(&vec![0u8; 9 << 20], Rank(1), 9),
        };
        check(self, &group, began, ended, whom);
        broken(self, whole, whom);
    }
}

#[test]
fn missing_ranks_are_named_in_time_between_threads() {
    for case in CASES {
        threads(WORLD, &config(), |group| case.play(&group));
    }
}

#[test]
fn missing_ranks_are_named_in_time_over_tcp() {
    let name = "timeout::missing_ranks_are_named_in_time_over_tcp";
    processes(name, WORLD, config(), |group, _| {
        for (epoch, case) in CASES.into_iter().enumerate() {
            case.play(&again(&group, epoch as u32 + 1, config()));
        }
        String::new()
    });
}

#[test]
fn a_rank_that_comes_in_time_is_no_error() {
    threads(WORLD, &config(), |group| {
        let group = group.with_timeout(Duration::from_secs(20));
        for late in 0..WORLD {
            if group.rank() == Rank(late) {
                pause(Duration::from_millis(200));
            }
            let mut data = [1.0f32; 10];
            group.all_reduce(&mut data, ReduceOp::Sum).unwrap();
            assert_eq!(data, [3.0; 10]);
        }
    });
}
