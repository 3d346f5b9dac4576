//! Operations over borrowed memory inside a scope: right results, checks, errors, panics.
#![allow(missing_docs, reason = "test code")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use allhands_group::{
    Config, DType, Error, Invalid, OperationError, ProcessGroup, Rank, ReduceOp, Tensor, TensorMut,
};

const WORLD: u32 = 3;

fn ranks(act: impl Fn(&ProcessGroup) + Sync) {
    let config = Config { timeout: Duration::from_secs(30), ..Config::default() };
    let groups = ProcessGroup::local_with(WORLD, &config).unwrap();
    std::thread::scope(|scope| {
        for group in &groups {
            let act = &act;
            scope.spawn(move || act(group));
        }
    });
}

#[test]
fn every_verb_works_on_borrowed_memory_all_at_once() {
    ranks(|group| {
        let me = group.rank().0;
        let mine = me as f32;
        let world = WORLD as usize;
        let (next, before) = (Rank((me + 1) % WORLD), Rank((me + WORLD - 1) % WORLD));
        let mut summed = vec![mine; 50_000];
        let mut told = [mine; 4];
        let mut reduced = [i64::from(me) + 1; 5];
        let block = [me as u16; 3];
        let mut gathered = vec![0u16; 3 * world];
        let parts: Vec<i32> = (0..2 * WORLD as i32).collect();
        let mut own = [0i32; 2];
        let letters: Vec<u8> = (0..WORLD as u8).map(|to| 10 * me as u8 + to).collect();
        let mut post = vec![0u8; world];
        let word = [f64::from(me); 7];
        let mut heard = [0f64; 7];
        let mut tensor = Tensor::from_slice(&[mine + 1.0; 6]);
        let answer = group
            .scope(|scope| {
                assert_eq!(scope.group().rank(), group.rank());
                scope.all_reduce(&mut summed, ReduceOp::Sum);
                scope.broadcast(&mut told, Rank(2));
                scope.reduce(&mut reduced, ReduceOp::Product, Rank(1));
                scope.all_gather_into(&block, &mut gathered);
                scope.reduce_scatter_into(&parts, &mut own, ReduceOp::Sum);
                scope.all_to_all_single(&letters, &mut post);
                scope.send(&word, next, 4);
                scope.recv(&mut heard, before, 4);
                scope.all_reduce(&mut tensor, ReduceOp::PremulSum(0.5));
                scope.barrier();
                42
            })
            .unwrap();
        assert_eq!(answer, 42);
        assert!(summed.iter().all(|&x| x == 3.0));
        assert_eq!(told, [2.0; 4]);
        if me == 1 {
            assert_eq!(reduced, [6; 5]);
        }
        assert_eq!(gathered, [0, 0, 0, 1, 1, 1, 2, 2, 2]);
        assert_eq!(own, [2 * me as i32 * 3, (2 * me as i32 + 1) * 3]);
        assert_eq!(post, (0..WORLD as u8).map(|from| 10 * from + me as u8).collect::<Vec<_>>());
        assert_eq!(heard, [f64::from(before.0); 7]);
        assert_eq!(tensor.as_slice::<f32>().unwrap(), [3.0; 6]);
    });
}

#[test]
fn memory_is_the_callers_again_when_the_scope_ends() {
    ranks(|group| {
        let mut data = vec![0u32; 10_000];
        for round in 1..50 {
            data.fill(round);
            group.scope(|scope| scope.all_reduce(&mut data, ReduceOp::Sum)).unwrap();
            assert!(data.iter().all(|&x| x == round * WORLD));
        }
        // Parts of one buffer, each in an operation of its own.
        data.fill(1);
        let scoped = group.scope(|scope| {
            for part in data.chunks_mut(999) {
                scope.all_reduce(part, ReduceOp::Sum);
            }
        });
        scoped.unwrap();
        assert!(data.iter().all(|&x| x == WORLD));
    });
}

fn invalid<T: std::fmt::Debug>(result: Result<T, Error>) -> Invalid {
    match result.unwrap_err() {
        Error::Operation(OperationError::Invalid { reason, .. }) => reason,
        other => panic!("{other}"),
    }
}

#[test]
fn calls_that_make_no_sense_are_the_scopes_error_and_the_rest_goes_on() {
    ranks(|group| {
        let (mut good, mut short, mut long) = ([1.0f32; 8], [0.0f32; 2], [0.0f32; 9]);
        let reason = invalid(group.scope(|scope| {
            scope.broadcast(&mut short, Rank(WORLD));
            scope.all_gather_into(&[1.0f32; 2], &mut long);
            scope.all_reduce(&mut good, ReduceOp::Sum);
        }));
        assert!(
            matches!(reason, Invalid::Rank { what: "root", rank: Rank(WORLD), .. }),
            "{reason}"
        );
        assert_eq!(good, [3.0; 8]);

        let mut counts = [0i64; 3];
        let reason = invalid(group.scope(|scope| {
            scope.reduce_scatter_into(&[1.0f32; 9], &mut counts, ReduceOp::Sum);
        }));
        assert!(matches!(reason, Invalid::Dtype { found: DType::F32, .. }), "{reason}");
        let reason = invalid(group.scope(|scope| scope.all_to_all_single(&good, &mut long)));
        assert!(matches!(reason, Invalid::Indivisible { elements: 8, .. }), "{reason}");
        let reason = invalid(group.scope(|scope| scope.send(&good, Rank(7), 0)));
        assert!(matches!(reason, Invalid::Rank { what: "destination", .. }), "{reason}");
        let reason = invalid(group.scope(|scope| scope.recv(&mut short, Rank(7), 0)));
        assert!(matches!(reason, Invalid::Rank { what: "source", .. }), "{reason}");
        let reason = invalid(group.scope(|scope| scope.all_reduce(&mut long, ReduceOp::BitOr)));
        assert!(matches!(reason, Invalid::Reduction(_)), "{reason}");
        let columns = TensorMut::strided(&mut good, &[2, 2], &[4, 2]).unwrap();
        let reason = invalid(group.scope(|scope| scope.all_reduce(columns, ReduceOp::Sum)));
        assert!(matches!(reason, Invalid::Strided { buffer: "data" }), "{reason}");
        group.barrier().unwrap();
    });
}

#[test]
fn a_panic_breaks_the_group_and_frees_the_memory() {
    ranks(|group| {
        let group = group.with_timeout(Duration::from_secs(600));
        let begun = Instant::now();
        let mut data = [1.0f32; 1000];
        if group.rank() == Rank(2) {
            let unwound = catch_unwind(AssertUnwindSafe(|| {
                group.scope(|scope| {
                    // Nobody else calls it.
                    scope.recv(&mut data, Rank(0), 7);
                    panic!("out of the scope");
                })
            }));
            let payload = unwound.map(drop).unwrap_err();
            assert_eq!(*payload.downcast::<&str>().unwrap(), "out of the scope");
            data.fill(2.0);
        }
        let error = group.all_reduce(&mut data, ReduceOp::Sum).unwrap_err();
        assert!(matches!(error, Error::Operation(OperationError::HookPanicked { .. })), "{error}");
        assert_eq!(error.ranks(), [Rank(2)]);
        assert!(begun.elapsed() < Duration::from_secs(60), "the timeout was waited for");
    });
}

#[test]
fn the_error_of_an_operation_is_the_scopes() {
    ranks(|group| {
        let group = group.with_timeout(Duration::from_millis(200));
        let mut data = [1.0f32; 10];
        if group.rank() == Rank(1) {
            let long = Duration::from_secs(20);
            // Its own call comes too late, and is told why.
            std::thread::park_timeout(Duration::from_millis(600));
            let error = group.with_timeout(long).barrier().unwrap_err();
            assert_eq!(error.ranks(), [Rank(1)], "{error}");
            return;
        }
        let error = group.scope(|scope| scope.all_reduce(&mut data, ReduceOp::Sum)).unwrap_err();
        assert_eq!(error.ranks(), [Rank(1)], "{error}");
        let timeout =
            |error: &Error| matches!(error, Error::Operation(OperationError::Timeout { .. }));
        assert!(timeout(&error), "{error}");
    });
}
