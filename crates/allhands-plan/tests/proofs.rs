//! Every algorithm, proved for worlds of 1 to 64 ranks and awkward lengths.

#![allow(clippy::print_stderr, reason = "tests report what they covered")]

use std::sync::Arc;
use std::time::Instant;

use allhands_plan::{Algorithm, Counts, Locality, Op, Own, Plan, Proof, Rank, Shape, check};

const WORLDS: std::ops::RangeInclusive<u32> = 1..=64;

/// Large enough that every algorithm cuts it wherever it cuts.
const LARGE: u64 = (1 << 31) + 11;

#[derive(Default)]
struct Tally {
    cases: u32,
    steps: u64,
    messages: u64,
}

impl Tally {
    /// Proves a shape by every algorithm that does it.
    fn prove(&mut self, shape: &Shape, world: u32) {
        for algorithm in Algorithm::ALL {
            if algorithm.supports(shape, world) {
                let proof = prove(shape, algorithm, world);
                self.cases += 1;
                self.steps += proof.steps;
                self.messages += proof.messages;
            }
        }
    }

    fn report(&self, what: &str, began: Instant) {
        let Self { cases, steps, messages } = self;
        let took = began.elapsed();
        eprintln!("{what}: {cases} cases, {steps} steps, {messages} messages in {took:.1?}");
        assert!(*cases > 0, "no algorithm does {what}");
    }
}

fn prove(shape: &Shape, algorithm: Algorithm, world: u32) -> Proof {
    let told = || format!("{} by {algorithm} among {world}: {shape:?}", shape.name());
    let plans = Plan::build_all(shape, algorithm, world)
        .unwrap_or_else(|error| panic!("{}: {error}", told()));
    check(&plans).unwrap_or_else(|defect| panic!("{}: {defect}", told()))
}

fn lens(world: u32) -> Vec<u64> {
    let p = u64::from(world);
    let mut lens = vec![0, 1, p - 1, p, p + 1, 97, LARGE];
    lens.sort_unstable();
    lens.dedup();
    lens
}

fn roots(world: u32) -> Vec<Rank> {
    let mut roots: Vec<u32> = match world {
        1..=9 => (0..world).collect(),
        10..=32 => vec![0, 1, world / 2, world - 1],
        _ => vec![0, world / 2 + 1],
    };
    roots.dedup();
    roots.into_iter().map(Rank).collect()
}

/// Equal counts, then uneven ones: rising, with gaps, everything with one rank, pseudo-random.
fn counts(world: u32) -> Vec<Counts> {
    let per_rank = |count: &dyn Fn(u64) -> u64| {
        Counts::PerRank((0..u64::from(world)).map(count).collect::<Arc<[u64]>>())
    };
    let mut all: Vec<Counts> = [0, 1, 97, LARGE / 64].map(Counts::Equal).into();
    all.push(per_rank(&|i| i));
    all.push(per_rank(&|i| if i % 3 == 1 { 0 } else { i * 1000 }));
    all.push(per_rank(&|i| if i == u64::from(world) / 2 { 12_345 } else { 0 }));
    all.push(per_rank(&|i| (i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 44));
    all
}

#[test]
fn all_reduce() {
    let (mut tally, began) = (Tally::default(), Instant::now());
    for world in WORLDS {
        for len in lens(world) {
            tally.prove(&Shape::AllReduce { len }, world);
        }
    }
    tally.report("all_reduce", began);
}

#[test]
fn broadcast_and_reduce() {
    let (mut tally, began) = (Tally::default(), Instant::now());
    for world in WORLDS {
        for root in roots(world) {
            // A chain has very many segments at the largest length.
            for len in lens(world).into_iter().map(|len| len.min(1 << 21)) {
                tally.prove(&Shape::Broadcast { len, root }, world);
                tally.prove(&Shape::Reduce { len, root }, world);
            }
        }
    }
    tally.report("broadcast and reduce", began);
}

#[test]
fn all_gather() {
    let (mut tally, began) = (Tally::default(), Instant::now());
    for world in WORLDS {
        for counts in counts(world) {
            for own in [Own::Input, Own::InPlace] {
                // In place nothing is copied, and nothing else differs.
                if own == Own::InPlace && world > 20 {
                    continue;
                }
                tally.prove(&Shape::AllGather { counts: counts.clone(), own }, world);
            }
        }
    }
    tally.report("all_gather", began);
}

#[test]
fn reduce_scatter() {
    let (mut tally, began) = (Tally::default(), Instant::now());
    for world in WORLDS {
        for counts in counts(world) {
            tally.prove(&Shape::ReduceScatter { counts }, world);
        }
    }
    tally.report("reduce_scatter", began);
}

#[test]
fn gather_and_scatter() {
    let (mut tally, began) = (Tally::default(), Instant::now());
    for world in WORLDS {
        for counts in counts(world) {
            for root in roots(world) {
                tally.prove(&Shape::Gather { counts: counts.clone(), root }, world);
                tally.prove(&Shape::Scatter { counts: counts.clone(), root }, world);
            }
        }
    }
    tally.report("gather and scatter", began);
}

#[test]
fn all_to_all_with_equal_counts() {
    let (mut tally, began) = (Tally::default(), Instant::now());
    for world in WORLDS {
        for count in [0, 1, 97, LARGE / 64].map(Counts::Equal) {
            tally.prove(&Shape::AllToAll { send: count.clone(), recv: count }, world);
        }
    }
    tally.report("all_to_all", began);
}

#[test]
fn all_to_all_with_counts_per_rank() {
    let (mut tally, began) = (Tally::default(), Instant::now());
    let patterns: [fn(u64, u64) -> u64; 3] = [
        |from, to| from * 7 + to,
        |from, to| if (from + to) % 3 == 0 { 0 } else { (from ^ to) * 100 },
        |from, to| if from == 0 && to > 0 { 4096 } else { 0 },
    ];
    for world in WORLDS {
        for count in patterns {
            let all = || 0..u64::from(world);
            let shape = |rank: u64| Shape::AllToAll {
                send: Counts::PerRank(all().map(|to| count(rank, to)).collect()),
                recv: Counts::PerRank(all().map(|from| count(from, rank)).collect()),
            };
            for algorithm in Algorithm::ALL {
                if !algorithm.supports(&shape(0), world) {
                    continue;
                }
                let plans: Vec<Plan> = (0..world)
                    .map(|rank| Plan::build(&shape(rank.into()), algorithm, world, Rank(rank)))
                    .collect::<Result<_, _>>()
                    .unwrap_or_else(|error| panic!("{algorithm} among {world}: {error}"));
                let proof = check(&plans)
                    .unwrap_or_else(|defect| panic!("{algorithm} among {world}: {defect}"));
                tally.cases += 1;
                tally.steps += proof.steps;
                tally.messages += proof.messages;
            }
        }
    }
    tally.report("all_to_all with counts per rank", began);
}

#[test]
fn barrier() {
    let (mut tally, began) = (Tally::default(), Instant::now());
    for world in WORLDS {
        tally.prove(&Shape::Barrier, world);
    }
    tally.report("barrier", began);
}

/// The factor of α that the documentation promises.
#[test]
fn rounds_are_as_documented() {
    use Algorithm as A;
    for world in 2..=33_u32 {
        let (floor, ceil) = (world.ilog2(), u32::BITS - (world - 1).leading_zeros());
        let fold = if world.is_power_of_two() { 0 } else { 2 };
        let counts = Counts::Equal(10);
        let large = Counts::Equal(1 << 20);
        let gather = |counts: &Counts| Shape::AllGather { counts: counts.clone(), own: Own::Input };
        let scatter = |counts: &Counts| Shape::ReduceScatter { counts: counts.clone() };
        let reduce = Shape::AllReduce { len: 1000 };
        let cases = [
            (&reduce, A::Direct, 1),
            (&reduce, A::TwoShot, 2),
            (&reduce, A::RecursiveDoubling, floor + fold),
            (&reduce, A::HalvingDoubling, 2 * floor + fold),
            (&reduce, A::Ring, 2 * (world - 1)),
            (&reduce, A::Circulant, 2 * ceil),
            (&gather(&counts), A::Direct, 1),
            (&gather(&counts), A::Ring, world - 1),
            (&gather(&counts), A::Circulant, ceil),
            (&gather(&counts), A::Recursive, floor + fold),
            (&gather(&counts), A::Pat, ceil),
            (&scatter(&counts), A::Direct, 1),
            (&scatter(&counts), A::Ring, world - 1),
            (&scatter(&counts), A::Circulant, ceil),
            // One tree at a time; every rank passes on one block in each step.
            (&scatter(&large), A::Pat, world - 1),
        ];
        for (shape, algorithm, rounds) in cases {
            let proof = prove(shape, algorithm, world);
            assert_eq!(proof.rounds, rounds, "{} by {algorithm} among {world}", shape.name());
        }
        let detour = u32::from(world > 2);
        let proof = prove(&scatter(&counts), A::Recursive, world);
        assert!(
            proof.rounds <= floor + fold / 2 + detour,
            "recursive reduce_scatter among {world} takes {} rounds",
            proof.rounds
        );
    }
}

/// Circulant moves exactly `2(P−1)/P n` elements, for every P.
#[test]
fn circulant_is_optimal_in_volume() {
    for world in 1..=64_u32 {
        let p = u64::from(world);
        let proof = prove(&Shape::AllReduce { len: 10 * p }, Algorithm::Circulant, world);
        assert_eq!(proof.elements, p * 2 * (p - 1) * 10, "among {world}");
    }
}

/// Members of a tree are counted in words of 64; the algorithms have no limit there.
#[test]
fn log_step_plans_of_larger_worlds() {
    use Algorithm as A;
    let (mut tally, began) = (Tally::default(), Instant::now());
    for world in [65, 128, 129, 300] {
        let counts = Counts::Equal(3);
        let cases = [
            (Shape::AllReduce { len: 1000 }, A::RecursiveDoubling),
            (Shape::AllReduce { len: 1000 }, A::HalvingDoubling),
            (Shape::AllReduce { len: 1000 }, A::Circulant),
            (Shape::AllGather { counts: counts.clone(), own: Own::Input }, A::Recursive),
            (Shape::ReduceScatter { counts }, A::Recursive),
            (Shape::Broadcast { len: 1000, root: Rank(1) }, A::Binomial),
            (Shape::Reduce { len: 1000, root: Rank(1) }, A::Binomial),
            (Shape::Barrier, A::Dissemination),
        ];
        for (shape, algorithm) in cases {
            let proof = prove(&shape, algorithm, world);
            tally.cases += 1;
            tally.steps += proof.steps;
            tally.messages += proof.messages;
        }
    }
    tally.report("larger worlds", began);
}

/// Placements of `world` ranks: all that are contiguous or dealt out in turn, uneven ones, and drawn ones.
fn placements(world: u32) -> Vec<Locality> {
    let mut all: Vec<Locality> = Vec::new();
    for hosts in 2..=world.min(9) {
        all.push(Locality::new((0..world).map(|rank| rank * hosts / world)));
        all.push(Locality::new((0..world).map(|rank| rank % hosts)));
        // One rank alone on each host but the last.
        all.push(Locality::new((0..world).map(|rank| rank.min(hosts - 1))));
        let drawn = |rank: u32| {
            let bits = u64::from(rank + 1) * u64::from(world * hosts + 1);
            (bits.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) % u64::from(hosts)
        };
        all.push(Locality::new((0..world).map(drawn)));
    }
    all.retain(|locality| locality.hosts() > 1);
    all
}

#[test]
fn hierarchical_all_reduce() {
    let (mut tally, began) = (Tally::default(), Instant::now());
    let algorithm = Algorithm::Hierarchical;
    for world in 2..=33 {
        for locality in placements(world) {
            let p = u64::from(world);
            // The last two are cut into some chunks and into as many as there may be.
            let lens = match world {
                ..=12 => vec![0, 1, p - 1, p, 97, 5 * 16 * 1024 * p + 7, LARGE],
                _ => vec![1, 97, 3 * 16 * 1024 * p + 7],
            };
            for len in lens {
                let shape = Shape::AllReduce { len };
                let plans = Plan::build_all_on(&shape, algorithm, &locality)
                    .unwrap_or_else(|error| panic!("{locality:?}: {error}"));
                let proof = check(&plans)
                    .unwrap_or_else(|defect| panic!("{len} elements on {locality:?}: {defect}"));
                tally.cases += 1;
                tally.steps += proof.steps;
                tally.messages += proof.messages;
                crossing_is_least(&plans, &locality, len);
            }
        }
    }
    tally.report("hierarchical all_reduce", began);
}

/// What each host sends to others is `2(H−1)/H n`, but for the rounding of each cell's blocks.
fn crossing_is_least(plans: &[Plan], locality: &Locality, len: u64) {
    let hosts = u64::from(locality.hosts());
    for host in 0..locality.hosts() {
        let mut sent = 0;
        let mut cells = 0;
        for rank in locality.members(host) {
            let plan = &plans[rank.index()];
            for step in plan.lanes().iter().flat_map(|lane| plan.steps(lane)) {
                let Op::Send { parts } = step.op else { continue };
                let crossing = |part: &&allhands_plan::Part| locality.host(part.peer) != Some(host);
                cells += plan.parts(&parts).iter().filter(crossing).count() as u64;
                sent += plan.parts(&parts).iter().filter(crossing).map(|p| p.span.len).sum::<u64>();
            }
        }
        let least = 2 * (hosts - 1) * len / hosts;
        assert!(sent.abs_diff(least) <= cells * hosts, "host {host} sends {sent}, not {least}");
    }
}
