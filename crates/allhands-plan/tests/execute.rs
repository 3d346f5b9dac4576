//! Runs plans on numbers, without buffering and in a shuffled order, and compares with what each
//! collective means. Independent of the checker: nothing here knows what an algorithm intends.

use std::collections::HashMap;
use std::sync::Arc;

use allhands_plan::{
    Algorithm, Buffer, Counts, Finish, Local, Op, Own, Part, Plan, Rank, Shape, Span, Step,
};

/// A small deterministic generator: the seed in a failure message reproduces the order.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % n
    }
}

/// An element: undefined until written.
type Cell = Option<i64>;

struct Process {
    plan: Plan,
    buffers: [Vec<Cell>; 3],
    lanes: Vec<Progress>,
}

#[derive(Default, Clone)]
struct Progress {
    done: usize,
    arrived: Vec<Option<Vec<Cell>>>,
}

fn at(span: Span) -> std::ops::Range<usize> {
    span.offset as usize..span.end() as usize
}

impl Process {
    fn new(plan: Plan, input: Vec<i64>, data: Vec<Cell>) -> Self {
        assert_eq!(plan.input_len(), input.len() as u64);
        assert_eq!(plan.data_len(), data.len() as u64);
        let scratch = vec![None; plan.scratch_len() as usize];
        let lanes = vec![Progress::default(); plan.lanes().len()];
        Self { plan, buffers: [input.into_iter().map(Some).collect(), data, scratch], lanes }
    }

    fn step(&self, lane: usize) -> Option<Step> {
        let step = *self.plan.steps(&self.plan.lanes()[lane]).get(self.lanes[lane].done)?;
        let met = |lane: u32, steps: u32| self.lanes[lane as usize].done >= steps as usize;
        step.waits.iter().flatten().all(|wait| met(wait.lane, wait.steps)).then_some(step)
    }

    fn finished(&self) -> bool {
        (0..self.lanes.len())
            .all(|l| self.lanes[l].done == self.plan.steps(&self.plan.lanes()[l]).len())
    }

    fn parts(&self, op: &Op) -> &[Part] {
        match op {
            Op::Send { parts } | Op::Recv { parts } | Op::RecvReduce { parts, .. } => {
                self.plan.parts(parts)
            }
            Op::Copy { .. } | Op::Reduce { .. } => &[],
        }
    }

    fn read(&self, span: Span) -> Vec<Cell> {
        self.buffers[span.buffer as usize][at(span)].to_vec()
    }

    fn write(&mut self, span: Span, values: &[Cell]) {
        assert_ne!(span.buffer, Buffer::Input, "the input was written");
        self.buffers[span.buffer as usize][at(span)].copy_from_slice(values);
    }

    fn next(&mut self, lane: usize) {
        self.lanes[lane].done += 1;
        self.lanes[lane].arrived.clear();
    }

    fn combine(&mut self, mut operands: Vec<Vec<Cell>>, local: Option<Local>, dst: Span) {
        if let Some(local) = local {
            let own = self.read(local.span);
            operands.insert(local.at as usize, own);
        }
        let sum: Vec<Cell> = (0..dst.len as usize)
            .map(|i| operands.iter().map(|o| o[i]).try_fold(0, |sum, x| Some(sum + x?)))
            .collect();
        assert!(sum.iter().all(Option::is_some), "an undefined element was reduced");
        self.write(dst, &sum);
    }
}

/// Runs the plans to the end; panics if they cannot.
fn run(processes: &mut [Process], seed: u64) {
    let mut dice = Dice(seed);
    loop {
        // Everything that could happen now.
        let mut sends = HashMap::new();
        let mut local = Vec::new();
        let mut receives = Vec::new();
        for (rank, process) in processes.iter().enumerate() {
            for lane in 0..process.lanes.len() {
                let Some(step) = process.step(lane) else { continue };
                let arrived = &process.lanes[lane].arrived;
                let open = |k: usize| arrived.get(k).is_none_or(Option::is_none);
                let parts = process.parts(&step.op);
                if (0..parts.len()).all(|k| !open(k)) {
                    local.push((rank, lane, step));
                    continue;
                }
                for (k, part) in parts.iter().enumerate().filter(|(k, _)| open(*k)) {
                    if matches!(step.op, Op::Send { .. }) {
                        let key = (rank as u32, part.peer.0, part.slot);
                        assert_eq!(
                            sends.insert(key, (lane, k, part.span)),
                            None,
                            "slot used twice"
                        );
                    } else {
                        receives.push(((part.peer.0, rank as u32, part.slot), lane, k, part.span));
                    }
                }
            }
        }
        receives.retain(|(key, ..)| sends.contains_key(key));
        if local.is_empty() && receives.is_empty() {
            assert!(processes.iter().all(Process::finished), "deadlock, seed {seed}");
            return;
        }
        // A step without open parts ends now; else one message travels.
        let choice = dice.below(local.len() + receives.len());
        if let Some(&(rank, lane, step)) = local.get(choice) {
            let process = &mut processes[rank];
            let messages =
                process.lanes[lane].arrived.iter().flatten().cloned().collect::<Vec<_>>();
            match step.op {
                Op::Send { .. } => {}
                Op::Recv { parts } => {
                    for (part, message) in process.plan.parts(&parts).to_vec().iter().zip(&messages)
                    {
                        process.write(part.span, message);
                    }
                }
                Op::RecvReduce { local, dst, finish: Finish::Keep | Finish::Last, .. } => {
                    process.combine(messages, local, dst);
                }
                Op::Reduce { sources, local, dst, .. } => {
                    let operands =
                        process.plan.sources(&sources).iter().map(|s| process.read(*s)).collect();
                    process.combine(operands, local, dst);
                }
                Op::Copy { src, dst } => {
                    let values = process.read(src);
                    process.write(dst, &values);
                }
            }
            process.next(lane);
            continue;
        }
        let (key, lane, k, span) = receives[choice - local.len()];
        let (from_lane, from_k, from_span) = sends[&key];
        assert_eq!(span.len, from_span.len, "message {key:?} has two lengths");
        let message = processes[key.0 as usize].read(from_span);
        assert!(message.iter().all(Option::is_some), "an undefined element was sent: {key:?}");
        for (rank, lane, k, message) in
            [(key.0, from_lane, from_k, Vec::new()), (key.1, lane, k, message)]
        {
            let process = &mut processes[rank as usize];
            let parts = process.step(lane).map_or(0, |step| process.parts(&step.op).len());
            let arrived = &mut process.lanes[lane].arrived;
            arrived.resize(parts, None);
            arrived[k] = Some(message);
        }
    }
}

/// Element `i` of what `from` has for `to`.
fn value(from: u32, to: u32, i: u64) -> i64 {
    i64::from(from) * 1_000_003 + i64::from(to) * 10_007 + i as i64 + 1
}

fn block(from: u32, to: u32, len: u64) -> impl Iterator<Item = i64> {
    (0..len).map(move |i| value(from, to, i))
}

fn check(
    algorithm: Algorithm,
    world: u32,
    shape: impl Fn(u32) -> Shape,
    input: impl Fn(u32) -> Vec<i64>,
    data: impl Fn(u32) -> Vec<Cell>,
    expected: impl Fn(u32) -> Option<Vec<i64>>,
) {
    let seed = u64::from(world) * 31 + u64::from(algorithm.id());
    let mut processes: Vec<Process> = (0..world)
        .map(|rank| {
            let plan = Plan::build(&shape(rank), algorithm, world, Rank(rank)).unwrap();
            Process::new(plan, input(rank), data(rank))
        })
        .collect();
    run(&mut processes, seed);
    for rank in 0..world {
        let Some(expected) = expected(rank) else { continue };
        let got: Vec<i64> =
            processes[rank as usize].buffers[1].iter().map(|x| x.unwrap_or(-1)).collect();
        assert_eq!(got, expected, "{algorithm}, {:?}, world {world}, rank {rank}", shape(rank));
    }
}

const TREES: [Algorithm; 4] =
    [Algorithm::Direct, Algorithm::Binomial, Algorithm::ScatterAllGather, Algorithm::Chain];

fn lens(world: u32) -> [u64; 5] {
    let world = u64::from(world);
    [0, 1, world.saturating_sub(1), world + 1, 3 * world + 2]
}

fn roots(world: u32) -> impl Iterator<Item = u32> {
    [0, 1, world / 2, world - 1].into_iter().filter(move |root| *root < world)
}

#[test]
fn broadcast_gives_the_roots_elements() {
    for world in 1..=18 {
        for (len, root, algorithm) in lens(world)
            .into_iter()
            .flat_map(|len| roots(world).flat_map(move |root| TREES.map(|a| (len, root, a))))
        {
            let whole: Vec<i64> = block(root, 0, len).collect();
            check(
                algorithm,
                world,
                |_| Shape::Broadcast { len, root: Rank(root) },
                |_| Vec::new(),
                |rank| {
                    let mine = rank == root;
                    whole.iter().map(|x| mine.then_some(*x)).collect()
                },
                |_| Some(whole.clone()),
            );
        }
    }
}

#[test]
fn reduce_gives_the_root_the_sum() {
    for world in 1..=18 {
        for (len, root, algorithm) in lens(world)
            .into_iter()
            .flat_map(|len| roots(world).flat_map(move |root| TREES.map(|a| (len, root, a))))
        {
            check(
                algorithm,
                world,
                |_| Shape::Reduce { len, root: Rank(root) },
                |_| Vec::new(),
                |rank| block(rank, 0, len).map(Some).collect(),
                |rank| {
                    (rank == root).then(|| {
                        (0..len).map(|i| (0..world).map(|r| value(r, 0, i)).sum()).collect()
                    })
                },
            );
        }
    }
}

#[test]
fn long_chains_flow_in_segments() {
    let len = 150_000;
    for (world, algorithm) in [(2, Algorithm::Chain), (3, Algorithm::Chain)] {
        let whole: Vec<i64> = block(1, 0, len).collect();
        check(
            algorithm,
            world,
            |_| Shape::Broadcast { len, root: Rank(1) },
            |_| Vec::new(),
            |rank| {
                let mine = rank == 1;
                whole.iter().map(|x| mine.then_some(*x)).collect()
            },
            |_| Some(whole.clone()),
        );
    }
}

/// Equal counts, and counts per rank with empty blocks.
fn counts(world: u32) -> Vec<Counts> {
    let uneven: Arc<[u64]> = (0..u64::from(world)).map(|r| (r * 7) % 5).collect();
    let empty: Arc<[u64]> = (0..world).map(|_| 0).collect();
    vec![Counts::Equal(0), Counts::Equal(3), Counts::PerRank(uneven), Counts::PerRank(empty)]
}

#[test]
fn gather_and_scatter_move_every_block() {
    for world in 1..=18 {
        for counts in counts(world) {
            for root in roots(world) {
                for algorithm in [Algorithm::Direct, Algorithm::Binomial] {
                    let all: Vec<i64> =
                        (0..world).flat_map(|r| block(r, 0, counts.of(Rank(r)))).collect();
                    let own = |rank: u32| block(rank, 0, counts.of(Rank(rank))).collect::<Vec<_>>();
                    let on_root = |rank: u32| if rank == root { all.clone() } else { Vec::new() };
                    check(
                        algorithm,
                        world,
                        |_| Shape::Gather { counts: counts.clone(), root: Rank(root) },
                        own,
                        |rank| vec![None; on_root(rank).len()],
                        |rank| Some(on_root(rank)),
                    );
                    check(
                        algorithm,
                        world,
                        |_| Shape::Scatter { counts: counts.clone(), root: Rank(root) },
                        on_root,
                        |rank| vec![None; own(rank).len()],
                        |rank| Some(own(rank)),
                    );
                }
            }
        }
    }
}

#[test]
fn all_to_all_turns_rows_into_columns() {
    type Length = fn(u32, u32) -> u64;
    let lengths: [(Length, bool); 4] = [
        (|_, _| 0, true),
        (|_, _| 2, true),
        (|from, to| u64::from((from * 5 + to * 3) % 4), false),
        (|_, _| 0, false),
    ];
    for world in 1..=18 {
        for (len, equal) in lengths {
            let counts = |lens: Vec<u64>| {
                if equal { Counts::Equal(lens[0]) } else { Counts::PerRank(lens.into()) }
            };
            let shape = |rank: u32| Shape::AllToAll {
                send: counts((0..world).map(|to| len(rank, to)).collect()),
                recv: counts((0..world).map(|from| len(from, rank)).collect()),
            };
            let algorithms = [Algorithm::Direct, Algorithm::Pairwise, Algorithm::Bruck];
            for algorithm in algorithms.into_iter().filter(|a| a.supports(&shape(0), world)) {
                let expected = |rank| -> Vec<i64> {
                    (0..world).flat_map(|from| block(from, rank, len(from, rank))).collect()
                };
                check(
                    algorithm,
                    world,
                    shape,
                    |rank| (0..world).flat_map(|to| block(rank, to, len(rank, to))).collect(),
                    |rank| vec![None; expected(rank).len()],
                    |rank| Some(expected(rank)),
                );
            }
            assert_eq!(Algorithm::Bruck.supports(&shape(0), world), equal);
        }
    }
}

#[test]
fn barrier_hears_of_every_rank() {
    for world in 1..=70_u32 {
        for algorithm in [Algorithm::Dissemination, Algorithm::KAry] {
            let plans = Plan::build_all(&Shape::Barrier, algorithm, world).unwrap();
            // Rounds, with what each rank knows of: news travels with every message.
            let mut known: Vec<Vec<bool>> =
                (0..world).map(|r| (0..world).map(|q| q == r).collect()).collect();
            let rounds = plans[0].lanes().len().saturating_sub(1);
            for round in 0..rounds {
                let before = known.clone();
                for (rank, plan) in plans.iter().enumerate() {
                    for step in plan.steps(&plan.lanes()[1 + round]) {
                        let Op::Recv { parts } = step.op else { panic!("not a receive") };
                        for part in plan.parts(&parts) {
                            for (mine, theirs) in
                                known[rank].iter_mut().zip(&before[part.peer.index()])
                            {
                                *mine |= theirs;
                            }
                        }
                    }
                }
            }
            assert!(known.iter().flatten().all(|&k| k), "{algorithm}, world {world}");
            let mut processes: Vec<Process> =
                plans.into_iter().map(|p| Process::new(p, Vec::new(), Vec::new())).collect();
            if world <= 20 {
                run(&mut processes, u64::from(world));
            }
        }
    }
}

#[test]
fn all_gather_and_reductions_of_every_algorithm() {
    for world in 1..=12 {
        for algorithm in Algorithm::ALL {
            for counts in counts(world) {
                let all: Vec<i64> =
                    (0..world).flat_map(|r| block(r, 0, counts.of(Rank(r)))).collect();
                let shape = Shape::AllGather { counts: counts.clone(), own: Own::Input };
                if algorithm.supports(&shape, world) {
                    check(
                        algorithm,
                        world,
                        |_| shape.clone(),
                        |rank| block(rank, 0, counts.of(Rank(rank))).collect(),
                        |_| vec![None; all.len()],
                        |_| Some(all.clone()),
                    );
                }
                let shape = Shape::ReduceScatter { counts: counts.clone() };
                if algorithm.supports(&shape, world) {
                    check(
                        algorithm,
                        world,
                        |_| shape.clone(),
                        |rank| block(rank, 0, counts.total(world)).collect(),
                        |rank| vec![None; counts.of(Rank(rank)) as usize],
                        |rank| {
                            let from = counts.offset(Rank(rank));
                            let sum = |i| (0..world).map(|r| value(r, 0, i)).sum();
                            Some((from..from + counts.of(Rank(rank))).map(sum).collect())
                        },
                    );
                }
            }
            for len in lens(world) {
                let shape = Shape::AllReduce { len };
                if algorithm.supports(&shape, world) {
                    check(
                        algorithm,
                        world,
                        |_| shape.clone(),
                        |_| Vec::new(),
                        |rank| block(rank, 0, len).map(Some).collect(),
                        |_| {
                            let sum = |i| (0..world).map(|r| value(r, 0, i)).sum();
                            Some((0..len).map(sum).collect())
                        },
                    );
                }
            }
        }
    }
}
