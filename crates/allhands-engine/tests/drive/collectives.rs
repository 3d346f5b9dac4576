//! Every collective by every algorithm, against what it means.

use std::collections::BTreeSet;
use std::time::Duration;

use allhands_engine::Config;
use allhands_plan::{Algorithm, Rank, Shape};
use allhands_tensor::{DType, ReduceOp};

use crate::case::{Case, DTYPES, FLOAT_OPS, INTEGER_OPS, every_shape, joined, lend};
use crate::rng::{Rng, seeds};
use crate::world::{Call, World, tiny};

/// Whether buffers lie where peers can read them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    Private,
    Shared,
}

/// Where a case's calls stand in the lists of the engines: (engine, place), by rank.
pub type Places = Vec<(usize, usize)>;

/// Plans `cases` on every member of a new group.
pub fn plan_all(
    world: &mut World,
    group: u32,
    members: &[u32],
    cases: &[Case],
    memory: Memory,
) -> Vec<Places> {
    let keys = world.group(group, members);
    let mut places = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        let mut own = Vec::new();
        for (rank, &member) in members.iter().enumerate() {
            let now = world.now();
            let mut submission = case.submission(&mut world.rng, rank, now);
            if memory == Memory::Shared {
                let segment = (u64::from(group) << 48) + (number * members.len() + rank) as u64;
                submission.loan = Some(lend(segment, 1, case.inputs[rank].len()));
            }
            let call = Call::Collective(keys[rank], Box::new(submission));
            let order = (u64::from(group) << 32) + u64::from(case.channel);
            own.push((member as usize, world.plan(member as usize, order, call)));
        }
        places.push(own);
    }
    places
}

/// Makes some calls wait until others of their rank have ended; only later ones wait for earlier ones.
pub fn entangle(world: &mut World, percent: usize) {
    for rank in 0..world.size() {
        for place in 1..world.calls[rank].len() {
            if world.rng.chance(percent) {
                let before = world.rng.below(place);
                world.calls[rank][place].after.push(before);
            }
        }
    }
}

pub fn check(world: &mut World, cases: &[Case], places: &[Places]) {
    let seed = world.seed;
    for (case, places) in cases.iter().zip(places) {
        for (rank, &(engine, place)) in places.iter().enumerate() {
            let planned = &mut world.calls[engine][place];
            let name = format!("{} on rank {rank}, seed {seed}", case.name());
            let finished =
                planned.outcome.take().unwrap_or_else(|| panic!("{name}: {:?}", planned.refused));
            assert!(finished.result.is_ok(), "{name}: {:?}", finished.result);
            assert!(joined(finished.input) == case.inputs[rank], "{name}: the input was changed");
            let data = joined(finished.data);
            if let Some(expected) = &case.expect[rank] {
                let wrong = data.iter().zip(expected).position(|(a, b)| a != b);
                assert!(data == *expected, "{name}: wrong from byte {wrong:?} of {}", data.len());
            }
        }
    }
    for (rank, engine) in world.engines.iter().enumerate() {
        let left = engine.footprint();
        assert_eq!((left.pool, left.held), (0, 0), "rank {rank}, seed {seed}: {left:?}");
        assert_eq!(engine.pending(), 0);
    }
}

pub fn draw(rng: &mut Rng, turn: usize) -> (DType, ReduceOp) {
    let dtype = DTYPES[turn % DTYPES.len()];
    let op = if dtype.is_float() { *rng.pick(&FLOAT_OPS) } else { *rng.pick(&INTEGER_OPS) };
    (dtype, op)
}

fn lengths(world: u32) -> [u64; 8] {
    let world = u64::from(world);
    [0, 1, world.saturating_sub(1), world, world + 1, 31, 257, 2003]
}

/// Draws a configuration: mostly one that is always short of credit. Nothing here may need time to pass.
pub fn config(rng: &mut Rng) -> Config {
    let config = match rng.below(3) {
        0 => Config::DEFAULT,
        1 => tiny(),
        _ => Config {
            frame_payload: 64 * rng.size(256),
            eager_window: 2048 + rng.size(1 << 16),
            eager_per_operation: rng.size(1 << 13),
            loan_min: rng.size(4096),
            ..Config::DEFAULT
        },
    };
    Config { probe_after: Duration::from_secs(3600), ..config }
}

/// Every collective by every algorithm, at all lengths at once. `keep`: percentage of the long ones, which
/// on many ranks mostly repeat what short ones show.
fn batch(world: u32, seed: u64, memory: Memory, keep: usize) -> BTreeSet<&'static str> {
    let mut rng = Rng::new(seed);
    let mut here = World::new(world as usize, config(&mut rng), seed);
    if memory == Memory::Shared {
        here.lend_everywhere();
    }
    let mut cases = Vec::new();
    let mut seen = BTreeSet::new();
    let mut turn = rng.below(DTYPES.len());
    for len in lengths(world) {
        for (shapes, algorithm) in every_shape(&mut rng, world, len) {
            if len > 30 && !rng.chance(keep) {
                continue;
            }
            let (dtype, op) = draw(&mut rng, turn);
            turn += 1;
            let channel = rng.below(6) as u32;
            let case = Case::new(&mut rng, &shapes, algorithm, world, dtype, op).on(channel);
            seen.insert(dtype.name());
            seen.extend(case.reduction.map(ReduceOp::name));
            cases.push(case);
        }
    }
    let members = here.all();
    let places = plan_all(&mut here, 1, &members, &cases, memory);
    entangle(&mut here, 10);
    here.run();
    check(&mut here, &cases, &places);
    assert!(memory == Memory::Private || here.loans > 0, "nothing was lent, seed {seed}");
    seen
}

#[test]
fn every_collective_by_every_algorithm_in_small_worlds() {
    let mut seen = BTreeSet::new();
    for world in 1..=5 {
        seen.extend(batch(world, u64::from(world), Memory::Private, 100));
    }
    // Which dtypes and operations were drawn depends on the seeds; that none is missing does not.
    let names = FLOAT_OPS.iter().chain(&INTEGER_OPS).map(|op| op.name());
    for name in names.chain(DTYPES.iter().map(|dtype| dtype.name())) {
        assert!(seen.contains(name), "{name} was never drawn");
    }
}

#[test]
fn every_collective_by_every_algorithm_in_larger_worlds() {
    for round in seeds(0, 1) {
        for world in 2..=9 {
            // The first round leaves to the test above what it has done.
            if world > 5 || round > 0 {
                batch(world, u64::from(world) + 100 * round, Memory::Private, 8);
            }
        }
    }
}

#[test]
fn every_collective_by_every_algorithm_among_sixteen() {
    batch(16, 16, Memory::Private, 3);
}

#[test]
fn loans_stand_for_bytes_everywhere() {
    for round in seeds(0, 1) {
        for (world, keep) in [(2, 60), (3, 30), (4, 30), (7, 5), (8, 5)] {
            batch(world, 50 + u64::from(world) + 100 * round, Memory::Shared, keep);
        }
    }
}

/// Where all messages are short loans and nothing comes back, their return is all the credit there is.
#[test]
fn a_returned_loan_opens_the_window() {
    for seed in seeds(600, 4) {
        let mut rng = Rng::new(seed);
        let config = Config { probe_after: Duration::from_secs(3600), ..tiny() };
        let mut here = World::new(2, config, seed);
        here.lend_everywhere();
        let shape = [Shape::Broadcast { len: 100, root: Rank(0) }];
        let cases: Vec<Case> = (0..40)
            .map(|_| Case::new(&mut rng, &shape, Algorithm::Direct, 2, DType::U8, ReduceOp::Sum))
            .collect();
        let places = plan_all(&mut here, 1, &[0, 1], &cases, Memory::Shared);
        here.hold(0);
        here.run_ready();
        here.release(0);
        here.run();
        assert_eq!(here.loans, 40);
        check(&mut here, &cases, &places);
    }
}

/// Messages of many large frames, which links put straight where they belong.
#[test]
fn long_messages_land_in_place() {
    let mut direct = 0;
    for seed in seeds(500, 6) {
        let mut rng = Rng::new(seed);
        let world = 2 + rng.below(3) as u32;
        let frame_payload = 4096 * (1 + rng.below(4));
        let probe_after = Duration::from_secs(3600);
        let config = Config { frame_payload, probe_after, ..Config::DEFAULT };
        let mut here = World::new(world as usize, config, seed);
        here.weather.grain = here.weather.grain.max(300);
        here.weather.capacity = here.weather.capacity.max(9000);
        let len = 30_000;
        let cases: Vec<Case> = (0..10)
            .map(|turn| {
                let (shapes, algorithm) =
                    rng.pick(&every_shape(&mut rng.clone(), world, len / 4)).clone();
                let (dtype, op) = draw(&mut rng, turn);
                Case::new(&mut rng, &shapes, algorithm, world, dtype, op).on(turn as u32 % 3)
            })
            .collect();
        let members = here.all();
        let places = plan_all(&mut here, 1, &members, &cases, Memory::Private);
        here.run();
        check(&mut here, &cases, &places);
        direct += here.direct;
    }
    assert!(direct > 0, "nothing was read in place");
}

/// Groups of one mesh share connections and windows, and each rank uses them in its own order.
#[test]
fn groups_share_a_mesh_without_starving_each_other() {
    for seed in seeds(200, 12) {
        let mut rng = Rng::new(seed);
        let mut here =
            World::new(4, Config { probe_after: Duration::from_secs(9), ..tiny() }, seed);
        let groups: [&[u32]; 5] = [&[0, 1, 2, 3], &[2, 0], &[3, 1, 0], &[0, 1], &[1, 2, 3]];
        let mut all = Vec::new();
        for (id, members) in (7..).zip(groups) {
            let world = members.len() as u32;
            let cases: Vec<Case> = (0..20)
                .map(|turn| {
                    let len = rng.size(700) as u64;
                    let shapes = every_shape(&mut rng, world, len);
                    let (shapes, algorithm) = rng.pick(&shapes).clone();
                    let (dtype, op) = draw(&mut rng, turn);
                    let channel = rng.below(4) as u32;
                    Case::new(&mut rng, &shapes, algorithm, world, dtype, op).on(channel)
                })
                .collect();
            let places = plan_all(&mut here, id, members, &cases, Memory::Private);
            all.push((cases, places));
        }
        // Calls wait for calls of groups before theirs, so no two ranks wait for each other.
        entangle(&mut here, 25);
        here.run();
        for (cases, places) in &all {
            check(&mut here, cases, places);
        }
    }
}

/// One rank floods another with small operations that it will call only after something else has come,
/// perhaps in another group.
#[test]
fn early_frames_never_keep_credit_from_what_is_asked_for() {
    for seed in seeds(300, 40) {
        let mut rng = Rng::new(seed);
        let config = Config { probe_after: Duration::from_secs(9), ..tiny() };
        let mut here = World::new(2, config, seed);
        let mut cases: Vec<Case> = (0..60_u32)
            .map(|_| {
                let shape = [Shape::Broadcast { len: rng.below(150) as u64, root: Rank(0) }];
                let algorithm = Algorithm::Direct;
                let case = Case::new(&mut rng, &shape, algorithm, 2, DType::U8, ReduceOp::Sum);
                case.on(rng.below(5) as u32)
            })
            .collect();
        let wanted = cases.split_off(59);
        let flood = plan_all(&mut here, 1, &[0, 1], &cases, Memory::Private);
        let asked = plan_all(&mut here, 2, &[0, 1], &wanted, Memory::Private);
        // The receiver wants the last first; the sender calls in any order, or the last one last.
        for own in &flood {
            here.calls[1][own[1].1].after.push(asked[0][1].1);
        }
        if seed % 2 == 0 {
            here.hold_order(0, (2 << 32) + u64::from(wanted[0].channel));
            here.run_ready();
            here.release_orders();
        }
        here.run();
        check(&mut here, &cases, &flood);
        check(&mut here, &wanted, &asked);
    }
}

/// A rank that has sent its last words and left is no loss to those who come later.
#[test]
fn last_words_count_after_a_goodbye() {
    for seed in seeds(400, 10) {
        let mut rng = Rng::new(seed);
        let mut here = World::new(3, tiny(), seed);
        let broadcast = Shape::Broadcast { len: 100, root: Rank(0) };
        let reduce = Shape::AllReduce { len: 100 };
        let new = |rng: &mut Rng, shape: Shape| {
            Case::new(rng, &[shape], Algorithm::Direct, 3, DType::U8, ReduceOp::Sum)
        };
        let mut cases = vec![new(&mut rng, broadcast.clone())];
        if rng.chance(50) {
            let shape = Shape::Broadcast { len: 60, root: Rank(0) };
            cases.push(new(&mut rng, shape));
        }
        let places = plan_all(&mut here, 1, &[0, 1, 2], &cases, Memory::Private);
        let late: Vec<(usize, usize)> = places.iter().map(|own| own[2]).collect();
        here.hold(2);
        here.run_ready();
        assert!(places.iter().all(|own| here.calls[0][own[0].1].outcome.is_some()));
        here.leave(0);
        here.run_ready();
        assert!(late.iter().all(|&(rank, place)| here.calls[rank][place].outcome.is_none()));
        here.release(2);
        here.run();
        check(&mut here, &cases, &places);
        // What needs the rank that has left is refused, and gives the buffers back.
        let after = [new(&mut rng, reduce)];
        let mut submission = after[0].submission(&mut rng, 1, here.now());
        submission.channel = 5;
        let key = here.keys[1];
        let refused = here.engines[1].submit(key, submission).unwrap_err();
        assert!(refused.reason.to_string().contains("rank 0 has left"), "{}", refused.reason);
        assert_eq!(joined(refused.data), after[0].data[1]);
    }
}
