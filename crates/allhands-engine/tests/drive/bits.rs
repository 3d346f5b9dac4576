//! Promises about numbers: the same bits on every rank, in every order of arrival, through every canonical
//! plan.

use allhands_engine::{Config, Finished};
use allhands_plan::{Algorithm, Order, Plan, Rank, Shape};
use allhands_tensor::{DType, ReduceOp};

use crate::case::{Case, elements, joined};
use crate::collectives::{Memory, plan_all};
use crate::fold;
use crate::rng::{Rng, seeds};
use crate::world::World;

/// An all-reduce with given operands whose results are looked at by the caller.
fn all_reduce(
    rng: &mut Rng,
    algorithm: Algorithm,
    dtype: DType,
    op: ReduceOp,
    operands: &[Vec<u8>],
) -> Case {
    let len = (operands[0].len() / dtype.size()) as u64;
    let shape = [Shape::AllReduce { len }];
    let mut case = Case::new(rng, &shape, algorithm, operands.len() as u32, dtype, op);
    case.data = operands.to_vec();
    case
}

fn algorithms(world: u32, len: u64) -> Vec<Plan> {
    let shape = Shape::AllReduce { len };
    Algorithm::ALL
        .into_iter()
        .filter(|algorithm| algorithm.supports(&shape, world))
        .map(|algorithm| Plan::build(&shape, algorithm, world, Rank(0)).unwrap())
        .collect()
}

/// Runs all cases at once, however they come; returns each one's results by rank.
fn results(seed: u64, cases: &[Case]) -> Vec<Vec<Vec<u8>>> {
    let mut rng = Rng::new(seed);
    let config = Config {
        frame_payload: 64 * rng.size(32),
        eager_window: 2048 + rng.size(1 << 16),
        eager_per_operation: rng.size(1 << 12),
        probe_after: std::time::Duration::from_secs(3600),
        ..Config::DEFAULT
    };
    let mut here = World::new(cases[0].shapes.len(), config, seed);
    let all = here.all();
    let places = plan_all(&mut here, 1, &all, cases, Memory::Private);
    here.run();
    places
        .into_iter()
        .map(|own| {
            let take = |(rank, place): (usize, usize)| -> Finished {
                here.calls[rank][place].outcome.take().unwrap()
            };
            own.into_iter().map(take).map(|finished| joined(finished.data)).collect()
        })
        .collect()
}

const WAYS: [(u32, u64); 3] = [(2, 300), (4, 600), (8, 100)];

#[test]
fn canonical_plans_agree_to_the_bit_in_a_thousand_orders_of_arrival() {
    let len = 19;
    for (world, ways) in WAYS {
        let mut rng = Rng::new(u64::from(world));
        let mut cases = Vec::new();
        let mut expected = Vec::new();
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let operands: Vec<Vec<u8>> = (0..world)
                .map(|_| elements(&mut rng, dtype, Some(ReduceOp::Sum), len, false))
                .collect();
            let result = fold::reduce(dtype, ReduceOp::Sum, &operands);
            let mut canonical = 0;
            for plan in algorithms(world, len) {
                let order =
                    if dtype == DType::F32 { plan.exact_order() } else { plan.half_order() };
                if order == Order::Canonical {
                    canonical += 1;
                    let algorithm = plan.algorithm();
                    let op = ReduceOp::Sum;
                    let channel = cases.len() as u32;
                    let case = all_reduce(&mut rng, algorithm, dtype, op, &operands);
                    cases.push(case.on(channel));
                    expected.push(result.clone());
                }
            }
            // One-shot and two-shot always; doubling and halving for what is exact.
            let least = if dtype == DType::F32 { 4 } else { 2 };
            assert!(canonical >= least, "{canonical} canonical plans for {dtype} among {world}");
        }
        for seed in seeds(1000, ways) {
            for ((case, ranks), expected) in cases.iter().zip(results(seed, &cases)).zip(&expected)
            {
                for (rank, data) in ranks.iter().enumerate() {
                    assert!(data == expected, "{} on rank {rank}, seed {seed}", case.name());
                }
            }
        }
    }
}

/// Whatever the order of a plan, it is one: all ranks get the same bits, every time.
#[test]
fn every_plan_gives_one_result_everywhere_and_every_time() {
    for world in [3, 5, 6, 7] {
        let len = 29;
        let mut rng = Rng::new(u64::from(world));
        let mut cases = Vec::new();
        for dtype in [DType::F32, DType::F16, DType::F64] {
            for plan in algorithms(world, len) {
                let operands: Vec<Vec<u8>> = (0..world)
                    .map(|_| elements(&mut rng, dtype, Some(ReduceOp::Avg), len, false))
                    .collect();
                let channel = cases.len() as u32;
                let op = ReduceOp::Avg;
                let case = all_reduce(&mut rng, plan.algorithm(), dtype, op, &operands);
                cases.push(case.on(channel));
            }
        }
        let mut first: Option<Vec<Vec<Vec<u8>>>> = None;
        for seed in seeds(0, 12) {
            let now = results(seed, &cases);
            for (case, ranks) in cases.iter().zip(&now) {
                let same = ranks.iter().all(|data| *data == ranks[0]);
                assert!(same, "ranks differ: {}, seed {seed}", case.name());
            }
            match &first {
                Some(first) => {
                    assert!(*first == now, "runs differ in a world of {world}, seed {seed}");
                }
                None => first = Some(now),
            }
        }
    }
}
