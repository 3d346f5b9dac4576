//! Breaks plans at random and demands that the checker notices.
//!
//! A mutant that the checker accepts must be equivalent: it is run on numbers many times, in random
//! orders and with random buffering, and every run must give what the shape asks for. So this is a test
//! of the checker, and of the rule that one symbolic run stands for all.

#![allow(clippy::print_stderr, reason = "the counts are the point")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::check;
use super::execute::{Dice, execute};
use crate::algorithm::Algorithm;
use crate::all_reduce;
use crate::locality::Locality;
use crate::plan::{Buffer, Finish, Lane, Op, Order, Plan, Rank, Slice, Span, Step};
use crate::shape::{Counts, Own, Shape};

/// Mutants that are drawn.
const DRAWS: u32 = 30_000;
/// Executions of each mutant that the checker accepts.
const EXECUTIONS: u32 = 16;
/// Of the mutants that the checker kills, one in this many is executed too.
const SAMPLE: u32 = 16;
/// The draw of mutants; any number will do.
const SEED: u64 = 0x00A1_1BA2;
/// A slow machine draws fewer mutants than [`DRAWS`], but never fewer than a tenth.
const PATIENCE: Duration = Duration::from_secs(12);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    DropStep,
    DuplicateStep,
    SwapSteps,
    MoveStep,
    SwapLanes,
    Reaim,
    ChangeSlot,
    DropPart,
    SwapParts,
    SwapSpans,
    ShiftSpan,
    ResizeSpan,
    ChangeBuffer,
    ShrinkMessage,
    ForgetWait,
    WeakenWait,
    StrengthenWait,
    FlipFinish,
    MoveLocal,
    DropLocal,
    ShrinkScratch,
    ClaimOrder,
}

const KINDS: [Kind; 22] = [
    Kind::DropStep,
    Kind::DuplicateStep,
    Kind::SwapSteps,
    Kind::MoveStep,
    Kind::SwapLanes,
    Kind::Reaim,
    Kind::ChangeSlot,
    Kind::DropPart,
    Kind::SwapParts,
    Kind::SwapSpans,
    Kind::ShiftSpan,
    Kind::ResizeSpan,
    Kind::ChangeBuffer,
    Kind::ShrinkMessage,
    Kind::ForgetWait,
    Kind::WeakenWait,
    Kind::StrengthenWait,
    Kind::FlipFinish,
    Kind::MoveLocal,
    Kind::DropLocal,
    Kind::ShrinkScratch,
    Kind::ClaimOrder,
];

/// The plan as loose steps, and back.
fn loosen(plan: &Plan) -> Vec<Vec<Step>> {
    plan.lanes().iter().map(|lane| plan.steps(lane).to_vec()).collect()
}

fn tighten(plan: &mut Plan, lanes: &[Vec<Step>]) {
    plan.steps = lanes.concat();
    plan.lanes.clear();
    let mut start = 0;
    for lane in lanes {
        let len = lane.len() as u32;
        plan.lanes.push(Lane { steps: Slice { start, len } });
        start += len;
    }
}

fn parts(op: &mut Op) -> Option<&mut Slice> {
    match op {
        Op::Send { parts } | Op::Recv { parts } | Op::RecvReduce { parts, .. } => Some(parts),
        Op::Copy { .. } | Op::Reduce { .. } => None,
    }
}

/// Changes one of the step's spans. The parts of a reduction follow its destination.
fn change_span(plan: &mut Plan, op: &mut Op, salt: u64, change: impl Fn(&mut Span)) -> bool {
    match op {
        Op::Send { parts } | Op::Recv { parts } => {
            if parts.len == 0 {
                return false;
            }
            let part = parts.range().start + (salt % u64::from(parts.len)) as usize;
            change(&mut plan.parts[part].span);
        }
        Op::Copy { src, dst } => change(if salt.is_multiple_of(2) { src } else { dst }),
        Op::RecvReduce { local: Some(local), .. } | Op::Reduce { local: Some(local), .. }
            if salt.is_multiple_of(3) =>
        {
            change(&mut local.span);
        }
        Op::RecvReduce { parts, dst, .. } => {
            change(dst);
            for part in &mut plan.parts[parts.range()] {
                part.span = *dst;
            }
        }
        Op::Reduce { sources, .. } if salt % 3 == 1 && sources.len > 0 => {
            let source = sources.range().start + (salt % u64::from(sources.len)) as usize;
            change(&mut plan.sources[source]);
        }
        Op::Reduce { dst, .. } => change(dst),
    }
    true
}

/// Applies a mutation to one plan; `false` if it does not apply there.
fn mutate(plan: &mut Plan, kind: Kind, salt: u64) -> bool {
    let mut lanes = loosen(plan);
    if lanes.is_empty() {
        return false;
    }
    let lane = (salt >> 8) as usize % lanes.len();
    if lanes[lane].is_empty() {
        return false;
    }
    let step = (salt >> 16) as usize % lanes[lane].len();
    let pick = salt >> 32;
    let choose = |n: u32| (pick % u64::from(n)) as usize;
    let (count, steps) = (lanes.len(), lanes[lane].len());
    let this = &mut lanes[lane][step];
    match kind {
        Kind::DropStep => drop(lanes[lane].remove(step)),
        Kind::DuplicateStep => {
            let copy = *this;
            lanes[lane].insert(step + 1, copy);
        }
        Kind::SwapSteps if step + 1 < steps => lanes[lane].swap(step, step + 1),
        Kind::MoveStep if count > 1 => {
            let moved = lanes[lane].remove(step);
            let other = (lane + 1 + choose(count as u32 - 1)) % count;
            let at = (pick >> 8) as usize % (lanes[other].len() + 1);
            lanes[other].insert(at, moved);
        }
        Kind::SwapLanes if count > 1 => {
            let other = (lane + 1 + choose(count as u32 - 1)) % count;
            lanes.swap(lane, other);
        }
        Kind::Reaim | Kind::ChangeSlot | Kind::DropPart | Kind::SwapParts | Kind::SwapSpans => {
            let Some(slice) = parts(&mut this.op) else { return false };
            if slice.len == 0 {
                return false;
            }
            let part = slice.range().start + choose(slice.len);
            let next = slice.range().start + (choose(slice.len) + 1) % slice.len as usize;
            match kind {
                Kind::Reaim => {
                    let by = 1 + (pick >> 8) as u32 % plan.world.max(2);
                    let peer = &mut plan.parts[part].peer;
                    *peer = Rank((peer.0 + by) % plan.world);
                }
                Kind::ChangeSlot => plan.parts[part].slot ^= 1 << (pick % 2),
                Kind::DropPart => {
                    let first = (pick >> 8).is_multiple_of(2);
                    *slice = Slice { start: slice.start + u32::from(first), len: slice.len - 1 };
                }
                Kind::SwapParts => plan.parts.swap(part, next),
                _ => {
                    let span = plan.parts[part].span;
                    plan.parts[part].span = plan.parts[next].span;
                    plan.parts[next].span = span;
                }
            }
        }
        Kind::ShiftSpan => {
            let down = (pick >> 8).is_multiple_of(2);
            let shift = |span: &mut Span| match (down, span.offset) {
                (true, 1..) => span.offset -= 1,
                _ => span.offset += 1,
            };
            return change_span(plan, &mut this.op, pick, shift) && retighten(plan, &lanes);
        }
        Kind::ResizeSpan => {
            let down = (pick >> 8).is_multiple_of(2);
            let resize = |span: &mut Span| match (down, span.len) {
                (true, 1..) => span.len -= 1,
                _ => span.len += 1,
            };
            return change_span(plan, &mut this.op, pick, resize) && retighten(plan, &lanes);
        }
        Kind::ChangeBuffer => {
            let by = 1 + (pick >> 8) as usize % 2;
            let change = |span: &mut Span| {
                let all = [Buffer::Input, Buffer::Data, Buffer::Scratch];
                span.buffer = all[(span.buffer as usize + by) % 3];
            };
            return change_span(plan, &mut this.op, pick, change) && retighten(plan, &lanes);
        }
        Kind::ForgetWait | Kind::WeakenWait | Kind::StrengthenWait => {
            let set = this.waits.iter().flatten().count() as u32;
            if set == 0 {
                return false;
            }
            let Some(slot) = this.waits.iter_mut().filter(|w| w.is_some()).nth(choose(set)) else {
                return false;
            };
            if let (Some(wait), Kind::StrengthenWait) = (slot.as_mut(), kind) {
                wait.steps += 1;
            } else if let (Some(wait), Kind::WeakenWait) = (slot.as_mut(), kind)
                && wait.steps > 1
            {
                wait.steps -= 1;
            } else {
                *slot = None;
            }
        }
        Kind::FlipFinish => match &mut this.op {
            Op::RecvReduce { finish, .. } | Op::Reduce { finish, .. } => {
                *finish = if *finish == Finish::Last { Finish::Keep } else { Finish::Last };
            }
            _ => return false,
        },
        Kind::MoveLocal | Kind::DropLocal => match &mut this.op {
            Op::RecvReduce { parts: Slice { len, .. }, local, .. }
            | Op::Reduce { sources: Slice { len, .. }, local, .. } => {
                let Some(old) = local else { return false };
                if kind == Kind::DropLocal {
                    *local = None;
                } else {
                    old.at = (old.at + 1 + choose(*len) as u32) % (*len + 1);
                }
            }
            _ => return false,
        },
        Kind::ShrinkScratch if plan.scratch_len > 0 => plan.scratch_len -= 1,
        _ => return false,
    }
    retighten(plan, &lanes)
}

fn retighten(plan: &mut Plan, lanes: &[Vec<Step>]) -> bool {
    tighten(plan, lanes);
    true
}

/// Makes a message one element shorter on both sides.
fn shrink_message(plans: &mut [Plan], salt: u64) -> bool {
    let rank = (salt >> 8) as usize % plans.len();
    let steps = plans[rank].steps.clone();
    let sends: Vec<Slice> = steps
        .iter()
        .filter_map(|s| if let Op::Send { parts } = s.op { Some(parts) } else { None })
        .filter(|parts| parts.len > 0)
        .collect();
    if sends.is_empty() {
        return false;
    }
    let slice = sends[(salt >> 16) as usize % sends.len()];
    let number = slice.range().start + (salt >> 32) as usize % slice.len as usize;
    let part = plans[rank].parts[number];
    if part.span.len == 0 {
        return false;
    }
    let from_start = u64::from((salt >> 48).is_multiple_of(2));
    let shrink = |span: &mut Span| {
        span.offset += from_start;
        span.len -= 1;
    };
    shrink(&mut plans[rank].parts[number].span);
    let me = Rank(rank as u32);
    let peer = &mut plans[part.peer.index()];
    for step in &mut peer.steps {
        let (Op::Recv { parts } | Op::RecvReduce { parts, .. }) = &mut step.op else { continue };
        let parts = parts.range();
        let found =
            parts.clone().find(|p| peer.parts[*p].peer == me && peer.parts[*p].slot == part.slot);
        let Some(found) = found else { continue };
        shrink(&mut peer.parts[found].span);
        if let Op::RecvReduce { local, dst, .. } = &mut step.op {
            shrink(dst);
            if let Some(local) = local {
                shrink(&mut local.span);
            }
            for p in parts {
                peer.parts[p].span = *dst;
            }
        }
    }
    true
}

/// Draws a mutant of `plans`; `None` if the mutation does not apply or changes nothing.
fn draw(plans: &[Plan], kind: Kind, dice: &mut Dice) -> Option<Vec<Plan>> {
    let mut mutant = plans.to_vec();
    let salt = dice.next();
    let applied = match kind {
        Kind::ShrinkMessage => shrink_message(&mut mutant, salt),
        Kind::ClaimOrder => {
            let half = salt.is_multiple_of(2);
            for plan in &mut mutant {
                let order = if half { &mut plan.half_order } else { &mut plan.exact_order };
                *order = Order::Canonical;
            }
            true
        }
        // An author's mistake is made on every rank: consistent mutants are harder to notice.
        _ if salt.is_multiple_of(3) => {
            let rank = dice.below(mutant.len());
            mutate(&mut mutant[rank], kind, salt)
        }
        _ => mutant.iter_mut().filter_map(|p| mutate(p, kind, salt).then_some(())).count() > 0,
    };
    (applied && mutant != plans).then_some(mutant)
}

fn shapes(world: u32) -> Vec<Shape> {
    let p = u64::from(world);
    let root = Rank(world / 2);
    let len = 2 * p + 1;
    let uneven = Counts::PerRank((0..p).map(|i| (i * 5 + 2) % 4).collect());
    vec![
        Shape::AllReduce { len },
        Shape::Broadcast { len, root },
        Shape::Reduce { len, root },
        Shape::AllGather { counts: Counts::Equal(2), own: Own::Input },
        Shape::AllGather { counts: uneven.clone(), own: Own::InPlace },
        Shape::Gather { counts: uneven.clone(), root },
        Shape::Scatter { counts: uneven.clone(), root },
        Shape::ReduceScatter { counts: Counts::Equal(2) },
        Shape::ReduceScatter { counts: uneven },
        Shape::AllToAll { send: Counts::Equal(2), recv: Counts::Equal(2) },
        Shape::Barrier,
    ]
}

/// Plans that tell hosts apart, in one chunk and in three.
fn hierarchical(world: u32) -> impl Iterator<Item = Vec<Plan>> {
    let placements = [
        Locality::new((0..world).map(|rank| rank % 2)),
        Locality::new((0..world).map(|rank| rank.min(2))),
        Locality::new((0..world).map(|rank| rank * 2 / world)),
        Locality::apart(world),
    ];
    let some = |locality: &Locality| locality.hosts() > 1;
    placements.into_iter().filter(some).flat_map(move |locality| {
        [1, u64::from(world) + 1, 6 * u64::from(world) + 1].map(|len| {
            let shape = Shape::AllReduce { len };
            let ranks = (0..world).map(Rank);
            ranks.map(|rank| all_reduce::build_on(&shape, len, &locality, rank, 2)).collect()
        })
    })
}

#[derive(Default)]
struct Tally {
    killed: u32,
    equivalent: u32,
    /// Killed mutants that were executed, and those of them that an execution showed to be broken.
    sampled: u32,
    broken: u32,
}

#[test]
fn every_mutant_is_killed_or_equivalent() {
    let mut originals = Vec::new();
    for world in 2..=8 {
        for shape in shapes(world) {
            for algorithm in Algorithm::ALL {
                if let Ok(plans) = Plan::build_all(&shape, algorithm, world) {
                    originals.push(plans);
                }
            }
        }
        originals.extend(hierarchical(world));
    }
    let mut dice = Dice(SEED);
    let mut tally: BTreeMap<Kind, Tally> = BTreeMap::new();
    let began = Instant::now();
    let mut drawn = 0;
    while drawn < DRAWS && (drawn < DRAWS / 10 || began.elapsed() < PATIENCE) {
        let original = &originals[dice.below(originals.len())];
        let kind = KINDS[dice.below(KINDS.len())];
        let Some(mutant) = draw(original, kind, &mut dice) else { continue };
        drawn += 1;
        let tally = tally.entry(kind).or_default();
        if check(&mutant).is_err() {
            if tally.killed.is_multiple_of(SAMPLE) {
                tally.sampled += 1;
                let broken = (0..EXECUTIONS).any(|_| execute(&mutant, &mut dice).is_err());
                tally.broken += u32::from(broken);
            }
            tally.killed += 1;
            continue;
        }
        for run in 0..EXECUTIONS {
            if let Err(why) = execute(&mutant, &mut dice) {
                let plan = &original[0];
                panic!(
                    "mutant {drawn} of seed {SEED:#x} ({kind:?} in {:?} by {} among {}) was \
                     accepted, but run {run} says: {why}",
                    plan.shape(),
                    plan.algorithm(),
                    plan.world(),
                );
            }
        }
        tally.equivalent += 1;
    }
    let (mut killed, mut equivalent, mut sampled, mut broken) = (0, 0, 0, 0);
    for (kind, tally) in &tally {
        let Tally { killed: k, equivalent: e, sampled: s, broken: b } = tally;
        eprintln!("{kind:?}: {k} killed ({b} of {s} seen to break), {e} equivalent");
        killed += k;
        equivalent += e;
        sampled += s;
        broken += b;
    }
    eprintln!("{drawn} mutants: {killed} killed, {equivalent} equivalent; {:?}", began.elapsed());
    for kind in KINDS {
        assert!(tally.get(&kind).is_some_and(|t| t.killed > 0), "{kind:?} never killed a plan");
    }
    // The second opinion must be able to disagree.
    assert!(
        2 * broken > sampled,
        "executions showed {broken} of {sampled} killed mutants to break"
    );
}

#[test]
fn originals_give_what_is_asked_in_every_order() {
    let mut dice = Dice(SEED);
    for world in 1..=9 {
        for shape in shapes(world) {
            for algorithm in Algorithm::ALL {
                let Ok(plans) = Plan::build_all(&shape, algorithm, world) else { continue };
                for _ in 0..4 {
                    let seed = dice.0;
                    execute(&plans, &mut dice).unwrap_or_else(|why| {
                        panic!("{shape:?} by {algorithm} among {world}, seed {seed:#x}: {why}")
                    });
                }
            }
        }
        for plans in hierarchical(world) {
            for _ in 0..4 {
                let seed = dice.0;
                execute(&plans, &mut dice).unwrap_or_else(|why| {
                    panic!("hierarchical among {world}, seed {seed:#x}: {why}")
                });
            }
        }
    }
}
