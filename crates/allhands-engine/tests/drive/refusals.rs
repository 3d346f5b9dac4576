//! Calls and groups that are not taken, with the reason and the memory.

use std::sync::Arc;
use std::time::Instant;

use allhands_engine::{
    Config, Engine, GroupKey, GroupSpec, POINT_CHANNEL, Prepared, Refusal, Space, Storage,
    Submission,
};
use allhands_plan::{Algorithm, Plan, Rank, Shape};
use allhands_tensor::lend::lend_scope;
use allhands_tensor::{DType, Kernel, ReduceOp};
use allhands_wire::Peer;

use crate::case::{Case, joined};
use crate::rng::Rng;

fn pair() -> (Engine, GroupKey, Case) {
    let mut engine = Engine::new(Peer(0), 2, Config::DEFAULT, Instant::now());
    let members = vec![Peer(0), Peer(1)];
    let group = engine.add_group(GroupSpec { id: 1, epoch: 0, members }).unwrap();
    let shape = [Shape::AllReduce { len: 6 }];
    let rng = &mut Rng::new(0);
    let case = Case::new(rng, &shape, Algorithm::Direct, 2, DType::F32, ReduceOp::Sum);
    (engine, group, case)
}

#[test]
fn calls_that_do_not_fit_their_plan_are_refused() {
    let plan = |world, rank| {
        let shape = Shape::AllReduce { len: 6 };
        let plan = Plan::build(&shape, Algorithm::Direct, world, Rank(rank)).unwrap();
        Arc::new(Prepared::new(plan))
    };
    let bytes = |len| Space::single(Storage::Bytes(vec![0; len]));
    type Spoil = Box<dyn Fn(Submission) -> Submission>;
    let spoiled: Vec<(Spoil, &str)> = vec![
        (Box::new(move |s| Submission { plan: plan(2, 1), ..s }), "not one of rank 0"),
        (Box::new(move |s| Submission { plan: plan(3, 0), ..s }), "in a world of 2"),
        (Box::new(|s| Submission { channel: POINT_CHANNEL, ..s }), "reserved"),
        (Box::new(move |s| Submission { data: bytes(20), ..s }), "data has 20 bytes"),
        (Box::new(move |s| Submission { input: bytes(4), ..s }), "input has 4 bytes"),
        (Box::new(|s| Submission { kernel: None, ..s }), "no reduction kernel"),
        (
            Box::new(|s| {
                let kernel = Kernel::new(DType::F64, ReduceOp::Sum).ok();
                Submission { kernel, ..s }
            }),
            "elements of 4 bytes",
        ),
        (
            Box::new(|s| {
                let pieces = [10, 14].map(|len| Storage::Bytes(vec![0; len]));
                Submission { data: Space::list(pieces), ..s }
            }),
            "ends inside an element",
        ),
    ];
    let (mut engine, group, case) = pair();
    for (spoil, words) in spoiled {
        let submission = spoil(case.submission(&mut Rng::new(0), 0, Instant::now()));
        let lens = (submission.input.len(), submission.data.len());
        let refused = engine.submit(group, submission).unwrap_err();
        let reason = refused.reason.to_string();
        assert!(reason.contains(words), "{reason}");
        assert_eq!((joined(refused.input).len(), joined(refused.data).len()), lens);
    }
    assert_eq!((engine.pending(), engine.next_seq(group, 0)), (0, 0));
}

#[test]
fn memory_lent_for_reading_takes_no_result() {
    let (mut engine, group, case) = pair();
    let bytes = [1; 24];
    lend_scope(|scope| {
        let submission = case.submission(&mut Rng::new(0), 0, Instant::now());
        let data = Space::single(Storage::Lent(scope.lend(&bytes)));
        let refused = engine.submit(group, Submission { data, ..submission }).unwrap_err();
        assert!(matches!(refused.reason, Refusal::ReadOnly), "{}", refused.reason);
    });
}

#[test]
fn a_group_has_a_bounded_number_of_channels() {
    let (mut engine, group, case) = pair();
    let mut calls = 0;
    let refused = loop {
        let submission = case.submission(&mut Rng::new(0), 0, Instant::now());
        match engine.submit(group, Submission { channel: calls, ..submission }) {
            Ok(_) => calls += 1,
            Err(refused) => break refused,
        }
    };
    assert!(matches!(refused.reason, Refusal::TooManyChannels { limit: 4096 }));
    assert_eq!(calls, 4096);
}

#[test]
fn groups_that_make_no_sense_are_refused() {
    let mut engine = Engine::new(Peer(0), 3, Config::DEFAULT, Instant::now());
    let mut add = |id, members: &[u32]| {
        let members = members.iter().copied().map(Peer).collect();
        engine.add_group(GroupSpec { id, epoch: 0, members }).map_err(|refusal| refusal.to_string())
    };
    assert!(add(1, &[0, 2]).is_ok());
    for (id, members, words) in [
        (1, [0, 1], "exists in epoch 0"),
        (2, [1, 2], "not a member"),
        (2, [0, 0], "listed twice"),
        (2, [0, 3], "not in the mesh of 3"),
    ] {
        let refusal = add(id, &members).unwrap_err();
        assert!(refusal.contains(words), "{refusal}");
    }
    assert!(add(2, &[0, 1]).is_ok());
}
