//! Trouble: one cause, on every rank, soon, with the memory back.

use std::time::Duration;

use allhands_engine::{Config, Refusal};
use allhands_plan::{Algorithm, Counts, Own, Rank, Shape};
use allhands_tensor::{DType, ReduceOp};
use allhands_wire::{Cause, Peer, Report};

use crate::case::{Case, joined};
use crate::collectives::{Memory, check, plan_all};
use crate::point::message;
use crate::rng::{Rng, seeds};
use crate::world::{Call, Weather, World, tiny};

/// What one rank believes an operation is.
#[derive(Clone)]
struct Belief(Shape, Algorithm, DType, ReduceOp);

impl Belief {
    fn of(shape: Shape) -> Self {
        Self(shape, Algorithm::Direct, DType::F32, ReduceOp::Sum)
    }

    fn case(&self, rng: &mut Rng, world: u32) -> Case {
        Case::new(rng, std::slice::from_ref(&self.0), self.1, world, self.2, self.3)
    }
}

/// Links at whose speed control messages are not late.
fn brisk(here: &mut World) {
    let grain = here.weather.grain;
    here.weather = Weather { grain, capacity: 1 << 18, ..Weather::CALM };
}

/// Plans calls in which one rank believes otherwise, and a last call that must hear of it. `beliefs`: what
/// the others call, then what the faulty rank calls, in their orders.
fn disagree(
    seed: u64,
    faulty: usize,
    right: &[Belief],
    wrong: &[Belief],
) -> (World, Vec<Vec<Case>>) {
    let mut rng = Rng::new(seed);
    let config = if seed.is_multiple_of(2) { tiny() } else { Config::DEFAULT };
    let mut here = World::new(3, config, seed);
    brisk(&mut here);
    let keys = here.group(1, &[0, 1, 2]);
    let last = Belief::of(Shape::AllReduce { len: 7 });
    let mut cases = Vec::new();
    for (rank, &key) in keys.iter().enumerate() {
        let beliefs = if rank == faulty { wrong } else { right };
        let own: Vec<Case> =
            beliefs.iter().chain([&last]).map(|belief| belief.case(&mut rng, 3)).collect();
        for (at, case) in own.iter().enumerate() {
            let submission = case.submission(&mut rng, rank, here.now());
            let place = here.plan(rank, 0, Call::Collective(key, Box::new(submission)));
            if at > 0 {
                // As a program that waits for each call would do.
                here.calls[rank][place].after.push(place - 1);
            }
        }
        cases.push(own);
    }
    (here, cases)
}

/// Every rank must have ended with the same report; returns it.
fn one_cause(here: &mut World, name: &str) -> Report {
    let mut agreed: Option<Report> = None;
    for rank in 0..here.size() {
        if here.dead[rank] {
            continue;
        }
        let mut heard = None;
        for planned in &mut here.calls[rank] {
            let report = match (&planned.outcome, &planned.refused) {
                (Some(finished), _) => match &finished.result {
                    Ok(()) => continue,
                    Err(failure) => *failure.report,
                },
                (None, Some(refused)) => match &refused.reason {
                    Refusal::Failed(report) => **report,
                    other => panic!("{name}: rank {rank} is refused: {other}"),
                },
                (None, None) => panic!("{name}: a call of rank {rank} has not ended"),
            };
            assert!(
                heard.is_none_or(|heard| heard == report),
                "{name}: rank {rank} hears two stories"
            );
            heard = Some(report);
        }
        // Its calls may all have ended before: then the next one would tell.
        let kept = here.engines[rank].failure(here.keys[rank]).map(|report| *report);
        assert!(heard.is_none() || heard == kept, "{name}: rank {rank} keeps another story");
        let report = kept.unwrap_or_else(|| panic!("{name}: rank {rank} never hears of it"));
        assert!(
            agreed.is_none_or(|agreed| agreed == report),
            "{name}: rank {rank} says {report}, others {}",
            agreed.map(|report| report.to_string()).unwrap_or_default()
        );
        agreed = Some(report);
    }
    agreed.unwrap_or_else(|| panic!("{name}: nobody is left"))
}

fn mismatches() -> Vec<(&'static str, Vec<Belief>, Vec<Belief>)> {
    let root = |root: u32| Rank(root);
    let (direct, two_shot) = (Algorithm::Direct, Algorithm::TwoShot);
    let (sum, max) = (ReduceOp::Sum, ReduceOp::Max);
    let reduce = |len| Shape::AllReduce { len };
    let broadcast = |len, from| Shape::Broadcast { len, root: root(from) };
    let one = |shape: Shape| vec![Belief::of(shape)];
    let with = |algorithm, dtype, op| vec![Belief(reduce(100), algorithm, dtype, op)];
    let uneven = |counts: [u64; 3]| Counts::PerRank(counts.to_vec().into());
    let gather = |counts| one(Shape::Gather { counts: uneven(counts), root: root(1) });
    let all_gather = |counts| one(Shape::AllGather { counts: uneven(counts), own: Own::Input });
    vec![
        ("operation", one(reduce(100)), one(broadcast(100, 0))),
        ("operation", one(broadcast(100, 0)), one(reduce(100))),
        (
            "operation",
            vec![Belief(Shape::Barrier, Algorithm::Dissemination, DType::U8, sum)],
            one(broadcast(5, 1)),
        ),
        ("dtype", with(direct, DType::F32, sum), with(direct, DType::I32, sum)),
        ("size", with(direct, DType::F32, sum), with(direct, DType::F64, sum)),
        ("reduction", with(direct, DType::F32, sum), with(direct, DType::F32, max)),
        ("algorithm", with(direct, DType::F32, sum), with(two_shot, DType::F32, sum)),
        ("count", one(reduce(100)), one(reduce(101))),
        ("count", one(reduce(101)), one(reduce(100))),
        ("long count", one(reduce(30_000)), one(reduce(40_000))),
        ("broadcast count", one(broadcast(100, 1)), one(broadcast(60, 1))),
        ("root", one(broadcast(100, 0)), one(broadcast(100, 1))),
        ("root", one(broadcast(100, 1)), one(broadcast(100, 2))),
        ("long root", one(broadcast(40_000, 2)), one(broadcast(40_000, 0))),
        (
            "reduce root",
            one(Shape::Reduce { len: 50, root: root(0) }),
            one(Shape::Reduce { len: 50, root: root(2) }),
        ),
        (
            "scatter root",
            one(Shape::Scatter { counts: Counts::Equal(9), root: root(0) }),
            one(Shape::Scatter { counts: Counts::Equal(9), root: root(1) }),
        ),
        (
            "order",
            [one(reduce(100)), one(broadcast(100, 1))].concat(),
            [one(broadcast(100, 1)), one(reduce(100))].concat(),
        ),
        (
            "order",
            [one(broadcast(10, 0)), one(broadcast(20, 1))].concat(),
            [one(broadcast(20, 1)), one(broadcast(10, 0))].concat(),
        ),
        // Fingerprints are equal: only the messages have other lengths. Whatever rank is wrong, it is
        // wrong about what it sends or gets itself.
        ("uneven counts", gather([4, 5, 6]), gather([5, 6, 7])),
        ("uneven counts", all_gather([4, 5, 6]), all_gather([5, 6, 7])),
        ("uneven counts", all_gather([0, 5, 6000]), all_gather([9, 0, 7000])),
        ("uneven counts", gather([900, 0, 600]), gather([0, 900, 0])),
    ]
}

#[test]
fn every_disagreement_is_told_on_every_rank_with_both_sides() {
    let mut seed = 0;
    for (what, right, wrong) in seeds(0, 1).flat_map(|_| mismatches()) {
        for faulty in 0..3 {
            seed += 1;
            let name = format!("{what}, rank {faulty} is wrong, seed {seed}");
            let (mut here, cases) = disagree(seed, faulty, &right, &wrong);
            here.run_to_failure(Duration::from_secs(5));
            let report = one_cause(&mut here, &name);
            assert_eq!(report.cause, Cause::Mismatch, "{name}: {report}");
            assert!(here.elapsed < Duration::from_millis(500), "{name}: took {:?}", here.elapsed);
            let [Some(one), Some(two)] = report.testimonies else { panic!("{name}: {report}") };
            let sides = [one, two];
            assert!(
                sides.iter().any(|side| side.peer == Peer(faulty as u32)),
                "{name}: the faulty rank is not among {sides:?}"
            );
            for side in sides {
                let rank = side.peer.index();
                let real = cases[rank][report.seq as usize].descriptor(rank);
                assert_eq!(side.descriptor, real, "{name}: testimony of rank {rank}");
            }
            give_back(&mut here, &cases, &name);
        }
    }
}

/// Two ranks wait for each other's bytes; the credit that each gives tells the other.
#[test]
fn credit_says_what_it_is_for() {
    let root = |rank| [Shape::Broadcast { len: 100_000, root: Rank(rank) }];
    let probe_after = Duration::from_secs(3600);
    let mut here = World::new(2, Config { probe_after, ..Config::DEFAULT }, 1);
    brisk(&mut here);
    let keys = here.group(1, &[0, 1]);
    let mut rng = Rng::new(1);
    for (rank, &key) in keys.iter().enumerate() {
        let shape = root(1 - rank as u32);
        let case = Case::new(&mut rng, &shape, Algorithm::Direct, 2, DType::U8, ReduceOp::Sum);
        let submission = case.submission(&mut rng, rank, here.now());
        here.plan(rank, 0, Call::Collective(key, Box::new(submission)));
    }
    here.run_to_failure(Duration::from_secs(2));
    let report = one_cause(&mut here, "credit");
    assert_eq!(report.cause, Cause::Mismatch, "{report}");
    assert!(here.elapsed < Duration::from_millis(100), "took {:?}", here.elapsed);
}

/// All memory is back, whatever happened, and the inputs are as they were.
fn give_back(here: &mut World, cases: &[Vec<Case>], name: &str) {
    for (rank, cases) in cases.iter().enumerate() {
        for (case, planned) in cases.iter().zip(&mut here.calls[rank]) {
            let (input, data) = match (planned.outcome.take(), planned.refused.take()) {
                (Some(finished), _) => (finished.input, finished.data),
                (None, Some(refused)) => (refused.input, refused.data),
                (None, None) => panic!("{name}: rank {rank} keeps the memory"),
            };
            assert!(joined(input) == case.inputs[rank], "{name}: the input was changed");
            assert_eq!(joined(data).len(), case.data[rank].len(), "{name}");
        }
        assert_eq!(here.engines[rank].pending(), 0, "{name}");
        assert_eq!(here.engines[rank].footprint().held, 0, "{name}");
    }
}

fn all_reduces(seed: u64, world: usize, calls: usize, len: u64) -> (World, Vec<Case>) {
    let mut rng = Rng::new(seed);
    let config = if seed.is_multiple_of(2) { tiny() } else { Config::DEFAULT };
    let mut here = World::new(world, config, seed);
    brisk(&mut here);
    let algorithms = [Algorithm::Direct, Algorithm::Ring, Algorithm::TwoShot];
    let cases: Vec<Case> = (0..calls)
        .map(|call| {
            let shape = [Shape::AllReduce { len }];
            let algorithm = algorithms[call % algorithms.len()];
            Case::new(&mut rng, &shape, algorithm, world as u32, DType::F32, ReduceOp::Sum)
        })
        .collect();
    let members = here.all();
    plan_all(&mut here, 1, &members, &cases, Memory::Private);
    (here, cases)
}

/// Nothing is left of the failed group, and it takes no more calls.
fn refuses(here: &mut World, case: &Case, cause: Cause) {
    let members = here.all();
    for &member in &members {
        let rank = member as usize;
        if here.dead[rank] {
            continue;
        }
        let key = here.keys[rank];
        let again = case.submission(&mut Rng::new(1), rank, here.now());
        let refused = here.engines[rank].submit(key, again).unwrap_err();
        assert!(matches!(&refused.reason, Refusal::Failed(report) if report.cause == cause));
        assert_eq!(joined(refused.data), case.data[rank]);
        let next = message((rank + 1) % members.len(), 0, DType::U8, vec![3; 4], here);
        let refused = here.engines[rank].submit_recv(key, next).unwrap_err();
        assert!(matches!(&refused.reason, Refusal::Failed(report) if report.cause == cause));
        assert_eq!(joined(refused.data), [3; 4]);
        assert_eq!(here.engines[rank].failure(key).map(|report| report.cause), Some(cause));
    }
}

#[test]
fn a_timeout_names_who_is_missing_and_where() {
    for seed in seeds(0, 6) {
        let calls = 1 + (seed as usize % 3);
        let (mut here, cases) = all_reduces(seed, 4, calls, 600);
        // Rank 2 makes all calls but the last.
        here.drop_last_call(2);
        let base = here.base;
        for calls in &mut here.calls {
            for planned in calls {
                if let Call::Collective(_, submission) = &mut planned.call {
                    submission.deadline = Some(base + Duration::from_millis(300));
                }
            }
        }
        here.run_until(Duration::from_secs(3));
        let rank_2 = here.calls[2].iter().all(|planned| {
            planned.outcome.as_ref().is_some_and(|finished| finished.result.is_ok())
        });
        assert!(rank_2, "rank 2 ended its own calls, seed {seed}");
        here.dead[2] = true;
        let report = one_cause(&mut here, &format!("timeout, seed {seed}"));
        assert_eq!(report.cause, Cause::Timeout, "{report}");
        assert_eq!(report.culprits.listed(), [Peer(2)], "{report}");
        assert_eq!(report.seq as usize, calls - 1);
        let where_it_is = match calls {
            1 => "rank 2 has not called any operation".to_owned(),
            n => format!("rank 2 was last heard in operation {}", n - 2),
        };
        assert_eq!(report.text.as_str(), where_it_is);
        assert!(report.elapsed_ms >= 290, "{report}");
        refuses(&mut here, &cases[0], Cause::Timeout);
    }
}

#[test]
fn a_death_ends_everything_with_its_name() {
    for seed in seeds(0, 12) {
        let (mut here, cases) = all_reduces(seed, 4, 3, 3000);
        let victim = here.rng.below(4);
        for _ in 0..here.rng.below(400) {
            here.step();
        }
        here.kill(victim);
        let before = here.elapsed;
        here.run_to_failure(Duration::from_secs(2));
        let report = one_cause(&mut here, &format!("death, seed {seed}"));
        assert_eq!(report.cause, Cause::PeerDied, "{report}");
        assert_eq!(report.culprits.listed(), [Peer(victim as u32)], "{report}");
        let took = here.elapsed - before;
        assert!(took < Duration::from_millis(100), "took {took:?} after {before:?}, seed {seed}");
        refuses(&mut here, &cases[0], Cause::PeerDied);
    }
}

#[test]
fn a_goodbye_in_the_middle_of_an_operation_ends_it() {
    let (mut here, cases) = all_reduces(3, 3, 1, 3000);
    here.hold(1);
    here.run_ready();
    here.leave(1);
    here.run_to_failure(Duration::from_secs(2));
    let report = one_cause(&mut here, "goodbye");
    assert_eq!(report.cause, Cause::ConnLost, "{report}");
    assert!(report.text.as_str().contains("left the group while"), "{report}");
    refuses(&mut here, &cases[0], Cause::ConnLost);
}

#[test]
fn an_abort_is_heard_everywhere_in_its_words() {
    for seed in seeds(0, 8) {
        let (mut here, cases) = all_reduces(seed, 3, 4, 5000);
        for _ in 0..here.rng.below(300) {
            here.step();
        }
        let who = here.rng.below(3);
        let key = here.keys[who];
        here.engines[who].abort(key, Cause::UserAbort, "loss is not a number");
        here.run_to_failure(Duration::from_secs(2));
        let report = one_cause(&mut here, &format!("abort, seed {seed}"));
        assert_eq!(report.cause, Cause::UserAbort);
        assert_eq!(report.culprits.listed(), [Peer(who as u32)]);
        assert_eq!(report.text.as_str(), "loss is not a number");
        refuses(&mut here, &cases[0], Cause::UserAbort);
    }
}

#[test]
fn silence_is_told_as_silence() {
    let (mut here, _) = all_reduces(2, 3, 1, 100);
    here.dead[2] = true;
    here.run_ready();
    here.engines[0].handle_silence(Peer(2), "nothing heard for 10 s");
    here.run_to_failure(Duration::from_secs(2));
    let report = one_cause(&mut here, "silence");
    assert_eq!((report.cause, report.culprits.listed()), (Cause::Silent, [Peer(2)].as_slice()));
}

#[test]
fn bytes_that_make_no_sense_break_the_group_and_name_the_sender() {
    for seed in seeds(0, 6) {
        let (mut here, cases) = all_reduces(seed, 3, 2, 4000);
        for _ in 0..here.rng.below(200) {
            here.step();
        }
        let mut noise = vec![0; 200];
        here.rng.fill(&mut noise);
        // Whatever frame is half read ends with noise; then no header fits.
        here.pipes[1][0].extend(noise.repeat(400));
        here.run_to_failure(Duration::from_secs(2));
        let report = one_cause(&mut here, &format!("noise, seed {seed}"));
        assert_eq!(report.cause, Cause::Protocol, "{report}");
        assert_eq!(report.culprits.listed(), [Peer(1)], "{report}");
        refuses(&mut here, &cases[0], Cause::Protocol);
        // A group made later with a peer whose stream is lost says so at once.
        let late = here.group(2, &[0, 1]);
        let rng = &mut Rng::new(1);
        let shape = [Shape::Barrier];
        let case = Case::new(rng, &shape, Algorithm::Dissemination, 2, DType::U8, ReduceOp::Sum);
        let submission = case.submission(rng, 0, here.now());
        let refused = here.engines[0].submit(late[0], submission).unwrap_err();
        assert!(matches!(refused.reason, Refusal::Lost { rank: Rank(1) }), "{}", refused.reason);
    }
}

/// A group that fails in the middle of its frames takes nothing from the others on the same connections.
#[test]
fn a_failed_group_leaves_the_connections_to_the_others() {
    for seed in seeds(0, 24) {
        let mut rng = Rng::new(seed);
        let mut here =
            World::new(3, Config { probe_after: Duration::from_secs(9), ..tiny() }, seed);
        here.weather.control_delay = Duration::from_micros(300);
        if seed % 2 == 1 {
            // The time is over while much is still under way.
            here.weather.tick = Duration::from_micros(1 + rng.below(3000) as u64);
            here.weather.capacity = 256 + rng.below(512);
        }
        let new = |rng: &mut Rng, channel: u32| {
            let shape = [Shape::AllReduce { len: 40 + rng.size(2000) as u64 }];
            let algorithm = *rng.pick(&[Algorithm::Direct, Algorithm::Ring]);
            Case::new(rng, &shape, algorithm, 3, DType::F32, ReduceOp::Sum).on(channel)
        };
        let doomed: Vec<Case> = (0..30).map(|at| new(&mut rng, at % 4)).collect();
        plan_all(&mut here, 1, &[0, 1, 2], &doomed, Memory::Private);
        let keys = here.keys.clone();
        // Rank 2 never calls: pools fill with what it will never ask for.
        here.hold(2);
        for tag in 0..20 {
            let call = Call::Send(keys[0], message(1, 50 + tag, DType::U8, vec![1; 150], &here));
            here.plan(0, 9, call);
        }
        for _ in 0..here.rng.below(3000) {
            here.step();
        }
        here.clear_calls(2);
        let who = here.rng.below(3);
        here.engines[who].abort(keys[who], Cause::UserAbort, "enough");
        if rng.chance(50) {
            here.run_until(Duration::from_secs(1));
        }
        let before: Vec<usize> = here.calls.iter().map(Vec::len).collect();
        here.release(2);
        let fine: Vec<Case> = (0..12).map(|at| new(&mut rng, at % 3)).collect();
        let places = plan_all(&mut here, 2, &[0, 1, 2], &fine, Memory::Private);
        here.run_until(Duration::from_secs(60));
        assert!(here.finished(), "the second group starves, seed {seed}");
        for (rank, before) in before.iter().enumerate() {
            for planned in &here.calls[rank][..*before] {
                let ended = planned.outcome.as_ref().map(|finished| finished.result.is_ok());
                assert!(ended.is_some() || planned.refused.is_some(), "seed {seed}");
            }
        }
        for engine in &here.engines {
            let left = engine.footprint();
            assert_eq!((left.point_pool, left.point_window), (0, 0), "seed {seed}: {left:?}");
        }
        check(&mut here, &fine, &places);
    }
}
