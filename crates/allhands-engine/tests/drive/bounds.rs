//! What an engine holds does not grow with what it has done.

use std::time::Duration;

use allhands_engine::{Config, Footprint};
use allhands_plan::Rank;
use allhands_tensor::DType;

use crate::case::{Case, every_shape, lend};
use crate::collectives::draw;
use crate::point::message;
use crate::rng::Rng;
use crate::world::{Call, Weather, World, tiny};

/// A round of everything; returns what each rank holds afterwards.
fn round(here: &mut World, cases: &[Case], segment: &mut u64) -> Vec<Footprint> {
    let keys = here.keys.clone();
    for case in cases {
        for (rank, &key) in keys.iter().enumerate() {
            let now = here.now();
            let mut submission = case.submission(&mut here.rng, rank, now);
            *segment += 1;
            submission.loan = Some(lend(*segment, 1, case.inputs[rank].len()));
            let call = Call::Collective(key, Box::new(submission));
            here.plan(rank, case.channel.into(), call);
        }
    }
    for turn in 0..12_usize {
        let (from, to) = (turn % here.size(), (turn + 1) % here.size());
        let bytes = vec![5; turn * 200];
        let call = Call::Send(keys[from], message(to, 1, DType::U8, bytes.clone(), here));
        here.plan(from, 90, call);
        let call = Call::Recv(keys[to], message(from, 1, DType::U8, bytes, here));
        here.plan(to, 91, call);
    }
    here.run();
    here.forget_calls();
    here.engines.iter().map(|engine| engine.footprint()).collect()
}

#[test]
fn steady_traffic_grows_nothing() {
    for (config, loans) in [(tiny(), true), (tiny(), false), (Config::DEFAULT, false)] {
        let mut rng = Rng::new(3);
        let config = Config { probe_after: Duration::from_secs(3600), ..config };
        let mut here = World::new(4, config, 3);
        here.weather = Weather { grain: 200, slow: 30, capacity: 4096, ..Weather::CALM };
        if loans {
            here.lend_everywhere();
        }
        let mut cases = Vec::new();
        for (turn, (shapes, algorithm)) in every_shape(&mut rng, 4, 150).into_iter().enumerate() {
            let (dtype, op) = draw(&mut rng, turn);
            let channel = turn as u32 % 5;
            cases.push(Case::new(&mut rng, &shapes, algorithm, 4, dtype, op).on(channel));
        }
        here.group(1, &[0, 1, 2, 3]);
        let mut segment = 0;
        // Histories fill in the first rounds, and queues see the depths that timing gives them.
        let mut before = Vec::new();
        for _ in 0..8 {
            before = round(&mut here, &cases, &mut segment);
        }
        let mut after = Vec::new();
        for _ in 0..12 {
            after = round(&mut here, &cases, &mut segment);
        }
        // Hundreds of operations more; one entry left behind by each would show.
        for (before, after) in before.iter().zip(&after) {
            assert!(after.room <= before.room + before.room / 5, "from {before:?} to {after:?}");
            assert!(after.entries <= before.entries + 8, "from {before:?} to {after:?}");
            let longest = 4 * 150 * 8;
            assert!(after.scratch <= 4 * 4 * longest, "from {before:?} to {after:?}");
            assert_eq!((after.held, after.pool, after.point_pool), (0, 0, 0));
        }
    }
}

/// A broadcast over a tree in which one rank is slow to call: what waits for it is bounded, and so is what
/// its parent sends.
#[test]
fn a_late_rank_is_sent_no_more_than_its_pool_holds() {
    use allhands_plan::{Algorithm, Shape};
    use allhands_tensor::ReduceOp;
    let mut rng = Rng::new(8);
    let mut here = World::new(2, tiny(), 8);
    let keys = here.group(1, &[0, 1]);
    let shape = [Shape::Broadcast { len: 5000, root: Rank(0) }];
    let case = Case::new(&mut rng, &shape, Algorithm::Direct, 2, DType::U8, ReduceOp::Sum);
    for _ in 0..100 {
        for (rank, &key) in keys.iter().enumerate() {
            let submission = case.submission(&mut rng, rank, here.now());
            here.plan(rank, 0, Call::Collective(key, Box::new(submission)));
        }
    }
    here.hold(1);
    here.run_ready();
    here.check_bounds();
    let (sender, late) = (here.engines[0].footprint(), here.engines[1].footprint());
    assert!(late.pool > 1000, "nothing came early: {late:?}");
    assert_eq!(sender.window, late.pool, "both sides count alike");
    here.release(1);
    here.run();
}
