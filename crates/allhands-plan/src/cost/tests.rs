use std::sync::Arc;

use super::*;
use crate::shape::Own;

/// Largest relative difference from a closed formula: blocks that differ by one element.
const CLOSE: f64 = 0.02;

fn seconds(shape: &Shape, algorithm: Algorithm, world: u32, network: &Network) -> f64 {
    modelled_time(shape, algorithm, world, 1, network).unwrap()
}

#[track_caller]
fn assert_close(modelled: f64, formula: f64, what: &str) {
    let ratio = modelled / formula;
    assert!((ratio - 1.0).abs() < CLOSE, "{what}: modelled {modelled:e} s, formula {formula:e} s");
}

/// The closed formulas of the textbooks, in α, β and γ.
struct Formula {
    alpha: f64,
    beta: f64,
    gamma: f64,
    n: f64,
    p: f64,
    rounds: f64,
    whole_rounds: f64,
}

impl Formula {
    fn new(network: &Network, world: u32, bytes: u64) -> Self {
        Self {
            alpha: network.alpha,
            beta: network.beta,
            gamma: network.gamma,
            n: bytes as f64,
            p: f64::from(world),
            rounds: f64::from(world.next_power_of_two().ilog2()),
            whole_rounds: f64::from(world.ilog2()),
        }
    }

    /// (P−1)/P · n
    fn most(&self) -> f64 {
        (self.p - 1.0) / self.p * self.n
    }

    fn reduce_scatter(&self, steps: f64) -> f64 {
        steps * self.alpha + self.most() * (self.beta + self.gamma)
    }

    fn all_gather(&self, steps: f64) -> f64 {
        steps * self.alpha + self.most() * self.beta
    }

    fn doubling(&self) -> f64 {
        let round = self.alpha + self.n * (self.beta + self.gamma);
        let fold = if self.rounds == self.whole_rounds {
            0.0
        } else {
            2.0 * (self.alpha + self.n * self.beta) + self.n * self.gamma
        };
        self.whole_rounds * round + fold
    }
}

const WORLDS: [u32; 8] = [2, 3, 4, 6, 8, 16, 33, 64];
const SIZES: [u64; 4] = [64, 64 << 10, 1 << 20, 25 << 20];

#[test]
fn all_reduce_costs_what_the_formulas_say() {
    let network = Network::ten_gigabit();
    for world in WORLDS {
        for len in SIZES {
            let shape = Shape::AllReduce { len };
            let f = Formula::new(&network, world, len);
            let what = |algorithm| format!("{algorithm}, {len} bytes, {world} ranks");

            let algorithm = Algorithm::RecursiveDoubling;
            let doubling = seconds(&shape, algorithm, world, &network);
            if world.is_power_of_two() {
                assert_close(doubling, f.doubling(), &what(algorithm));
            } else {
                // The formula lets all ranks wait for the folding; in fact only some do.
                let unfolded = f.whole_rounds * (f.alpha + f.n * (f.beta + f.gamma));
                assert!(doubling > unfolded, "{}", what(algorithm));
                assert!(doubling < f.doubling() * (1.0 + CLOSE), "{}", what(algorithm));
            }
            let steps = f.p - 1.0;
            let algorithm = Algorithm::Ring;
            let formula = f.reduce_scatter(steps) + f.all_gather(steps);
            assert_close(seconds(&shape, algorithm, world, &network), formula, &what(algorithm));
            let algorithm = Algorithm::Circulant;
            let formula = f.reduce_scatter(f.rounds) + f.all_gather(f.rounds);
            assert_close(seconds(&shape, algorithm, world, &network), formula, &what(algorithm));
            if world.is_power_of_two() {
                let algorithm = Algorithm::HalvingDoubling;
                assert_close(
                    seconds(&shape, algorithm, world, &network),
                    formula,
                    &what(algorithm),
                );
            }
            let algorithm = Algorithm::TwoShot;
            let formula = f.reduce_scatter(1.0) + f.all_gather(1.0);
            assert_close(seconds(&shape, algorithm, world, &network), formula, &what(algorithm));
            let algorithm = Algorithm::Direct;
            let formula = f.alpha + (f.p - 1.0) * f.n * (f.beta + f.gamma);
            assert_close(seconds(&shape, algorithm, world, &network), formula, &what(algorithm));
        }
    }
}

#[test]
fn trees_and_exchanges_cost_what_the_formulas_say() {
    let network = Network::hundred_gigabit();
    let root = Rank(0);
    for world in WORLDS {
        for n in [64, 64 << 10, 1 << 20] {
            let f = Formula::new(&network, world, n);
            let close = |shape: &Shape, algorithm, formula| {
                let what = format!("{} {algorithm}, {n} bytes, {world} ranks", shape.name());
                assert_close(seconds(shape, algorithm, world, &network), formula, &what);
            };
            let broadcast = Shape::Broadcast { len: n, root };
            let reduce = Shape::Reduce { len: n, root };
            close(&broadcast, Algorithm::Direct, f.alpha + (f.p - 1.0) * f.n * f.beta);
            if world.is_power_of_two() {
                // The root's port is busy in every round, so rounds follow each other without a gap
                // in transfer, and only the deepest leaf waits for all latencies.
                close(&broadcast, Algorithm::Binomial, f.rounds * (f.alpha + f.n * f.beta));
                close(
                    &reduce,
                    Algorithm::Binomial,
                    f.rounds * (f.alpha + f.n * (f.beta + f.gamma)),
                );
            }
            close(&reduce, Algorithm::Direct, f.alpha + (f.p - 1.0) * f.n * (f.beta + f.gamma));
            let segments = n.div_ceil(crate::rounds::SEGMENT).max(1) as f64;
            close(
                &broadcast,
                Algorithm::Chain,
                (f.p - 1.0) * (f.alpha + f.n / segments * f.beta)
                    + (segments - 1.0) * f.n / segments * f.beta,
            );
            let counts = Counts::Equal(n / u64::from(world));
            let gathered = Formula::new(&network, world, n / u64::from(world) * u64::from(world));
            let scatter = Shape::Scatter { counts: counts.clone(), root };
            let gather = Shape::Gather { counts: counts.clone(), root };
            close(&scatter, Algorithm::Direct, gathered.all_gather(1.0));
            close(&gather, Algorithm::Direct, gathered.all_gather(1.0));
            if world.is_power_of_two() {
                close(&scatter, Algorithm::Binomial, gathered.all_gather(f.rounds));
            }
            let exchange = Shape::AllToAll { send: counts.clone(), recv: counts };
            close(&exchange, Algorithm::Direct, gathered.all_gather(1.0));
        }
        let f = Formula::new(&network, world, 0);
        let barrier = seconds(&Shape::Barrier, Algorithm::Dissemination, world, &network);
        assert_close(barrier, f.rounds * f.alpha, "dissemination");
    }
}

#[test]
fn known_model_results_are_reproduced() {
    // Microseconds, three figures, from an independent model in closed form.
    let cases = [
        (Network::ten_gigabit(), 8, 1 << 10, Algorithm::RecursiveDoubling, 93.0),
        (Network::ten_gigabit(), 8, 1 << 10, Algorithm::Ring, 422.0),
        (Network::ten_gigabit(), 8, 64 << 10, Algorithm::RecursiveDoubling, 264.0),
        (Network::ten_gigabit(), 8, 64 << 10, Algorithm::Circulant, 278.0),
        (Network::ten_gigabit(), 8, 25 << 20, Algorithm::Circulant, 39_556.0),
        (Network::ten_gigabit(), 8, 25 << 20, Algorithm::Ring, 39_796.0),
        (Network::ten_gigabit(), 33, 1 << 20, Algorithm::Circulant, 2_106.0),
        (Network::ten_gigabit(), 33, 1 << 20, Algorithm::Ring, 3_666.0),
        (Network::hundred_gigabit(), 64, 64 << 10, Algorithm::RecursiveDoubling, 209.0),
        (Network::hundred_gigabit(), 64, 25 << 20, Algorithm::HalvingDoubling, 6_751.0),
        (Network::hundred_gigabit(), 64, 25 << 20, Algorithm::Ring, 9_601.0),
        (Network::cluster(), 1024, 1 << 20, Algorithm::HalvingDoubling, 327.0),
        (Network::cluster(), 1024, 1 << 20, Algorithm::Ring, 10_457.0),
        (Network::cluster(), 1024, 1 << 30, Algorithm::HalvingDoubling, 232_517.0),
        (Network::cluster(), 16_384, 1 << 20, Algorithm::Ring, 164_057.0),
        (Network::cluster(), 16_384, 1 << 30, Algorithm::Ring, 396_460.0),
    ];
    for (network, world, len, algorithm, microseconds) in cases {
        let modelled = seconds(&Shape::AllReduce { len }, algorithm, world, &network);
        assert_close(
            modelled * 1e6,
            microseconds,
            &format!("{algorithm} {len} bytes, {world} ranks"),
        );
    }
}

/// Bytes from which circulant beats recursive doubling.
fn crossover(network: &Network, world: u32) -> u64 {
    let wins = |len| {
        let shape = Shape::AllReduce { len };
        seconds(&shape, Algorithm::Circulant, world, network)
            < seconds(&shape, Algorithm::RecursiveDoubling, world, network)
    };
    let (mut below, mut above) = (1, 1 << 24);
    while above - below > 256 {
        let middle = (below + above) / 2;
        if wins(middle) { above = middle } else { below = middle }
    }
    above
}

#[test]
fn crossovers_lie_where_the_formulas_put_them() {
    let cases = [
        (Network::ten_gigabit(), [(4, 125e3), (8, 78e3), (16, 62e3), (64, 50e3)]),
        (Network::hundred_gigabit(), [(4, 440e3), (8, 325e3), (16, 270e3), (64, 230e3)]),
    ];
    for (network, worlds) in cases {
        for (world, bytes) in worlds {
            let found = crossover(&network, world) as f64;
            assert!(
                (found / bytes - 1.0).abs() < 0.08,
                "{world} ranks: {found} bytes, not {bytes}"
            );
        }
    }
}

#[test]
fn one_rank_stands_for_all_where_all_do_the_same() {
    let network = Network { overhead: 1e-6, ..Network::cluster() }.overlapped();
    let each = |world: u32| {
        let counts = Counts::Equal(5);
        [
            Shape::AllReduce { len: u64::from(world) * 1000 },
            Shape::AllGather { counts: Counts::Equal(1000), own: Own::Input },
            Shape::ReduceScatter { counts: Counts::Equal(1000) },
            Shape::AllToAll { send: counts.clone(), recv: counts },
            Shape::Barrier,
        ]
    };
    let mut compared = 0;
    for world in [2, 5, 8, 12, 16] {
        for shape in each(world) {
            for algorithm in Algorithm::ALL.into_iter().filter(|a| a.supports(&shape, world)) {
                let Some(symmetry) = Symmetry::of(&shape, algorithm, world) else { continue };
                // Its messages are cut where the ring closes, elsewhere on each rank.
                if algorithm == Algorithm::Circulant {
                    continue;
                }
                let mut program = Program::default();
                program.add(&Plan::build(&shape, algorithm, world, Rank(0)).unwrap(), 4);
                let mirrored = Simulation::mirrored(&program, &network, world, symmetry).run();
                let all = modelled_time(&shape, algorithm, world, 4, &network).unwrap();
                assert!(
                    (mirrored / all - 1.0).abs() < 1e-6,
                    "{} {algorithm}, {world} ranks: one {mirrored:e} s, all {all:e} s",
                    shape.name()
                );
                compared += 1;
            }
        }
    }
    assert!(compared > 40, "only {compared} cases compared");
}

#[test]
fn a_taper_slows_what_leaves_the_switch() {
    let flat = Network::cluster().overlapped();
    let tapered = flat.tapered(8, 4.0);
    let shape = Shape::AllReduce { len: 8 << 20 };
    let slowdown = |algorithm| {
        seconds(&shape, algorithm, 64, &tapered) / seconds(&shape, algorithm, 64, &flat)
    };
    // One rank in eight sends to another switch in each step of a ring.
    assert_close(slowdown(Algorithm::Ring), 1.0, "ring");
    // Seven eighths of two-shot's bytes cross at a quarter of the rate.
    let two_shot = slowdown(Algorithm::TwoShot);
    assert!((3.0..4.0).contains(&two_shot), "two-shot {two_shot}");
    // Near first: an eighth of the bytes crosses.
    let halving = slowdown(Algorithm::HalvingDoubling);
    assert!((1.1..1.5).contains(&halving), "halving-doubling {halving}");
    assert!(slowdown(Algorithm::Circulant) > 1.5 * halving);
}

#[test]
fn overlap_hides_the_reduction() {
    let after = Network::cluster();
    let during = after.overlapped();
    let f = Formula::new(&after, 16, 64 << 20);
    let shape = Shape::AllReduce { len: 64 << 20 };
    let hidden = seconds(&shape, Algorithm::HalvingDoubling, 16, &after)
        - seconds(&shape, Algorithm::HalvingDoubling, 16, &during);
    assert_close(hidden, f.most() * f.gamma, "hidden");
}

#[test]
fn what_cannot_be_modelled_is_refused() {
    let counts = Counts::PerRank(Arc::from([1, 2]));
    let shape = Shape::AllToAll { send: counts.clone(), recv: counts };
    let refused = model(&shape, Algorithm::Direct, 2, 4, &Network::cluster());
    assert!(matches!(refused, Err(PlanError::Unsupported { .. })));
    let shape = Shape::Broadcast { len: 1 << 30, root: Rank(0) };
    let refused = model(&shape, Algorithm::Chain, 16_384, 4, &Network::cluster());
    assert!(matches!(refused, Err(PlanError::TooManyMessages { .. })), "{refused:?}");
}

#[test]
fn hosts_share_their_links() {
    let network = Network::flat(50e-6, 125e6).between_hosts(1e-6, 5e9);
    for (hosts, each) in [(2, 2), (2, 4), (3, 2), (4, 8)] {
        let world = hosts * each;
        let locality = Locality::new((0..world).map(|rank| rank / each));
        let len = 25 << 20;
        let shape = Shape::AllReduce { len };
        let of = |algorithm| model_on(&shape, algorithm, &locality, 1, &network).unwrap().seconds;
        // What a host has to send, at the rate of its link.
        let h = f64::from(hosts);
        let least = 2.0 * (h - 1.0) / h * len as f64 * network.beta;
        let hierarchical = of(Algorithm::Hierarchical);
        let ratio = hierarchical / least;
        assert!((1.0..1.1).contains(&ratio), "{hosts} hosts of {each}: {ratio} times the least");
        // Every rank sends 2(P−1)/P n, of which a part (P−m)/(P−1) leaves the host, by one link.
        let (p, m) = (f64::from(world), f64::from(each));
        let crossing = 2.0 * m * (p - m) / p * len as f64 * network.beta;
        let two_shot = of(Algorithm::TwoShot) / crossing;
        assert!((1.0..1.1).contains(&two_shot), "{hosts} hosts of {each}: two-shot {two_shot}");
    }
}

#[test]
fn ranks_on_hosts_of_their_own_are_as_on_full_bisection() {
    let flat = Network { overhead: 1e-6, ..Network::ten_gigabit() };
    let placed = flat.between_hosts(1e-6, 50e9);
    for world in [2, 5, 8] {
        let apart = Locality::apart(world);
        for len in [64, 1 << 20] {
            let shape = Shape::AllReduce { len };
            for algorithm in [Algorithm::Ring, Algorithm::TwoShot, Algorithm::HalvingDoubling] {
                let on_hosts = model_on(&shape, algorithm, &apart, 1, &placed).unwrap().seconds;
                let on_flat = seconds(&shape, algorithm, world, &flat);
                assert!((on_hosts / on_flat - 1.0).abs() < 1e-9, "{algorithm}, {world} ranks");
            }
        }
    }
}
