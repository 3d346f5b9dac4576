//! Every collective by every algorithm, against what it means.

use std::collections::BTreeSet;

use allhands_engine::Config;
use allhands_tensor::{DType, ReduceOp};

use crate::case::{Case, DTYPES, FLOAT_OPS, INTEGER_OPS, every_shape, joined, lend};
use crate::rng::Rng;
use crate::world::{Call, World, tiny};

/// Plans `cases` on every rank; returns each case's places in the ranks' lists.
pub fn plan_all(world: &mut World, group: u32, cases: &[Case], lent: bool) -> Vec<Vec<usize>> {
    let keys = world.group_of_all(group);
    let mut places = vec![Vec::new(); cases.len()];
    for (number, case) in cases.iter().enumerate() {
        for rank in 0..world.size() {
            let now = world.now();
            let mut submission = case.submission(&mut world.rng, rank, now);
            if lent {
                let segment = (u64::from(group) << 48) + (number * world.size() + rank) as u64;
                submission.loan = Some(lend(segment, 1, case.inputs[rank].len()));
            }
            let call = Call::Collective(keys[rank], Box::new(submission));
            let order = (u64::from(group) << 32) + u64::from(case.channel);
            places[number].push(world.plan(rank, order, call));
        }
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

pub fn check(world: &mut World, cases: &[Case], places: &[Vec<usize>]) {
    let seed = world.seed;
    for (case, places) in cases.iter().zip(places) {
        for (rank, &place) in places.iter().enumerate() {
            let planned = &mut world.calls[rank][place];
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
}

fn draw(rng: &mut Rng, turn: usize) -> (DType, ReduceOp) {
    let dtype = DTYPES[turn % DTYPES.len()];
    let op = if dtype.is_float() { *rng.pick(&FLOAT_OPS) } else { *rng.pick(&INTEGER_OPS) };
    (dtype, op)
}

fn lengths(world: u32) -> [u64; 8] {
    let world = u64::from(world);
    [0, 1, world.saturating_sub(1), world, world + 1, 31, 257, 2003]
}

/// Draws a configuration: mostly one that is always short of credit.
fn config(rng: &mut Rng) -> Config {
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
    // What is here tested needs no passing of time.
    Config { probe_after: std::time::Duration::from_secs(3600), ..config }
}

fn batch(world: u32, seed: u64, lent: bool) -> BTreeSet<(&'static str, &'static str)> {
    let mut rng = Rng::new(seed);
    let mut here = World::new(world as usize, config(&mut rng), seed);
    if lent {
        here.lend_everywhere();
    }
    let mut cases = Vec::new();
    let mut seen = BTreeSet::new();
    let mut turn = rng.below(DTYPES.len());
    for len in lengths(world) {
        for (shapes, algorithm) in every_shape(&mut rng, world, len) {
            // Long lists on many ranks would only repeat what short ones show.
            if len > 300 && world > 4 && rng.chance(70) {
                continue;
            }
            let (dtype, op) = draw(&mut rng, turn);
            turn += 1;
            let channel = rng.below(6) as u32;
            let case = Case::new(&mut rng, &shapes, algorithm, world, dtype, op).on(channel);
            seen.insert((shapes[0].name(), algorithm.name()));
            seen.insert((dtype.name(), case.reduction.map_or("moved", ReduceOp::name)));
            cases.push(case);
        }
    }
    let places = plan_all(&mut here, 1, &cases, lent);
    entangle(&mut here, 10);
    let begun = std::time::Instant::now();
    here.run();
    if std::env::var_os("SHOW").is_some() {
        eprintln!(
            "world {world} cases {} events {} {:?} {:?}",
            cases.len(),
            here.events,
            begun.elapsed(),
            here.weather
        );
    }
    check(&mut here, &cases, &places);
    assert!(!lent || world == 1 || here.loans > 0, "nothing was lent, seed {seed}");
    seen
}

#[test]
fn every_collective_by_every_algorithm_in_small_worlds() {
    let mut seen = BTreeSet::new();
    for world in 1..=5 {
        if std::env::var_os("SHOW").is_some() {
            eprintln!("world {world}");
        }
        seen.extend(batch(world, u64::from(world), false));
    }
    // Which dtypes and operations were drawn depends on the seeds; that none is missing does not.
    for op in FLOAT_OPS.iter().chain(&INTEGER_OPS) {
        assert!(seen.iter().any(|(_, name)| *name == op.name()), "{op} was never drawn");
    }
    for dtype in DTYPES {
        assert!(seen.iter().any(|(name, _)| *name == dtype.name()), "{dtype} was never drawn");
    }
}
