//! Ranks call different things under one number.

use std::time::{Duration, Instant};

use allhands_group::{
    DType, Error, Operation, OperationError, ProcessGroup, Rank, ReduceOp, Side, Tensor,
};

use crate::stage::{again, config, of_operation, processes, threads};

/// Ten times what is promised.
const PROMISE: Duration = Duration::from_secs(10);

const WORLD: u32 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Operation,
    Dtype,
    Count,
    Reduction,
    Root,
    Order,
}

const KINDS: [Kind; 6] =
    [Kind::Operation, Kind::Dtype, Kind::Count, Kind::Reduction, Kind::Root, Kind::Order];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    Blocking,
    Async,
}

#[derive(Clone, Copy, Debug)]
struct Case {
    kind: Kind,
    faulty: u32,
    style: Style,
    len: usize,
}

fn cases() -> impl Iterator<Item = Case> {
    KINDS.into_iter().flat_map(|kind| {
        (0..WORLD).flat_map(move |faulty| {
            // Short enough to go at once, and long enough to wait for credit.
            [(Style::Blocking, 100), (Style::Async, 100), (Style::Async, 300_000)]
                .map(|(style, len)| Case { kind, faulty, style, len })
        })
    })
}

/// What a call must be told as.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Call {
    operation: Operation,
    dtype: DType,
    count: usize,
    reduction: Option<ReduceOp>,
    root: Option<u32>,
}

impl Call {
    fn all_reduce(count: usize) -> Self {
        let (operation, dtype) = (Operation::AllReduce, DType::F32);
        Self { operation, dtype, count, reduction: Some(ReduceOp::Sum), root: None }
    }

    fn broadcast(count: usize, root: u32) -> Self {
        let (operation, dtype) = (Operation::Broadcast, DType::F32);
        Self { operation, dtype, count, reduction: None, root: Some(root) }
    }

    fn run(self, group: &ProcessGroup, style: Style) -> Result<(), Error> {
        let mut tensor = Tensor::zeros(self.dtype, &[self.count]);
        let root = self.root.map(Rank);
        match (style, self.reduction) {
            (Style::Blocking, Some(op)) => group.all_reduce(&mut tensor, op),
            (Style::Blocking, None) => group.broadcast(&mut tensor, root.unwrap()),
            (Style::Async, op) => {
                let work = match op {
                    Some(op) => group.all_reduce_async(tensor, op),
                    None => group.broadcast_async(tensor, root.unwrap()),
                };
                match work.wait() {
                    Ok(_) => Ok(()),
                    Err(failed) => {
                        let back = &failed.buffers;
                        assert_eq!((back.dtype(), back.numel()), (self.dtype, self.count));
                        Err(failed.error)
                    }
                }
            }
        }
    }

    fn is(&self, side: &Side) -> bool {
        let call = &side.call;
        call.operation == Some(self.operation)
            && call.dtype == Some(self.dtype)
            && call.count == self.count as u64
            && call.reduction == self.reduction.map(|op| op.name())
            && call.root == self.root.map(Rank)
    }
}

impl Case {
    /// The right calls, and what the faulty rank calls instead.
    fn calls(&self) -> [Vec<Call>; 2] {
        let (reduce, broadcast) = (Call::all_reduce(self.len), Call::broadcast(self.len, 0));
        match self.kind {
            Kind::Operation => [vec![reduce], vec![broadcast]],
            Kind::Dtype => [vec![reduce], vec![Call { dtype: DType::I32, ..reduce }]],
            Kind::Count => [vec![reduce], vec![Call { count: self.len + 1, ..reduce }]],
            Kind::Reduction => {
                [vec![reduce], vec![Call { reduction: Some(ReduceOp::Max), ..reduce }]]
            }
            Kind::Root => [vec![broadcast], vec![Call::broadcast(self.len, 1)]],
            Kind::Order => [vec![reduce, broadcast], vec![broadcast, reduce]],
        }
    }

    /// Plays this rank's part. Returns the sides that its error tells.
    fn play(&self, group: &ProcessGroup) -> String {
        let called = Instant::now();
        let calls = self.calls();
        let mine = &calls[usize::from(group.rank() == Rank(self.faulty))];
        let mut ended = mine.iter().map(|call| call.run(group, self.style));
        // A rank that only sends may be told in its next call.
        let error = match ended.find_map(Result::err) {
            Some(error) => error,
            None => match group.barrier() {
                Err(error) => error,
                Ok(()) => panic!("{self:?} on {}: not told", group.rank()),
            },
        };
        let took = called.elapsed();
        assert!(took < PROMISE, "{self:?} on {}: told after {took:?}", group.rank());
        let OperationError::Mismatch { sides, .. } = of_operation(&error) else {
            panic!("{self:?} on {}: {error}", group.rank());
        };
        let [a, b] = &sides[..] else { panic!("{self:?}: not two sides: {error}") };
        let (faulty, right) = if a.rank == Rank(self.faulty) { (a, b) } else { (b, a) };
        assert_eq!(faulty.rank, Rank(self.faulty), "{self:?}: {error}");
        assert_ne!(right.rank, faulty.rank, "{self:?}: {error}");
        assert!(calls[1][0].is(faulty) && calls[0][0].is(right), "{self:?}: {error}");
        let text = error.to_string();
        assert!(text.contains("make every rank issue the same operations"), "{text}");
        let later = Instant::now();
        let next = group.barrier().expect_err("a broken group runs nothing");
        assert!(later.elapsed() < Duration::from_secs(1), "a broken group answers at once");
        assert!(matches!(of_operation(&next), OperationError::Mismatch { .. }), "{next}");
        format!("{sides:?}")
    }
}

#[test]
fn every_rank_is_told_both_sides_between_threads() {
    for case in cases() {
        let said = threads(WORLD, &config(), |group| case.play(&group));
        assert!(said.iter().all(|one| *one == said[0]), "{case:?}: {said:#?}");
    }
}

#[test]
fn every_rank_is_told_both_sides_over_tcp() {
    let name = "mismatch::every_rank_is_told_both_sides_over_tcp";
    let said = processes(name, WORLD, config(), |group, _| {
        let play =
            |(epoch, case): (usize, Case)| case.play(&again(&group, epoch as u32 + 1, config()));
        cases().enumerate().map(play).collect::<Vec<_>>().join("\n")
    });
    let Some(said) = said else { return };
    for (at, case) in cases().enumerate() {
        let of_case: Vec<_> = said.iter().map(|one| one.lines().nth(at).unwrap()).collect();
        assert!(of_case.iter().all(|one| *one == of_case[0]), "{case:?}: {of_case:#?}");
    }
}

#[test]
fn messages_of_another_kind_are_a_mismatch_on_both_sides() {
    for (dtype, len) in [(DType::I32, 100), (DType::F32, 99), (DType::F32, 100_000)] {
        threads(2, &config(), |group| {
            let error = if group.rank() == Rank(0) {
                let tensor = Tensor::zeros(DType::F32, &[100]);
                let sent = group.send_async(tensor, Rank(1), 5).wait();
                match sent {
                    Ok(_) => group.barrier().expect_err("the sender is told"),
                    Err(failed) => failed.error,
                }
            } else {
                let tensor = Tensor::zeros(dtype, &[len]);
                let failed = group.recv_async(tensor, Rank(0), 5).wait().unwrap_err();
                assert_eq!(failed.buffers.numel(), len);
                failed.error
            };
            let operation = of_operation(&error);
            assert!(matches!(operation, OperationError::Mismatch { .. }), "{error}");
        });
    }
}
